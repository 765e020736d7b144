"""ChunkedTranscriber: any audio, cut into chunks, one transcript, in flat memory."""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from math import inf
from types import TracebackType
from typing import Any, get_args

from .._admission.controller import AdmissionController, default_admission
from .._admission.reservation import Reservation
from .._audio.chunker import chunk_samples
from .._audio.decoder import Isolation, common_bytes, data_limit_bytes, largest_limit_bytes, peak_bytes
from .._audio.words import SAMPLE_RATE_HZ
from .._download.downloader import SafeDownloader
from .._download.incoming import default_max_bytes
from .._download.spool import is_memory
from .._store.store import JobStore
from .._timeline.timeline import Timeline
from .._units import format_size
from .asking import OnError
from .opening import SharedEngine
from .planning import Plan, Sizes, fitted, planned
from .progress import OnProgress
from .protocol import ChunkContext
from .registry import EngineLike, resolve
from .reporting import OnJob
from .running import Runner, Settings
from .sources import Source, at_hand, is_url
from .stream import SegmentStream, collected
from .transcript import Transcript

_LOG = logging.getLogger("memsafe_transcribe")


class ChunkedTranscriber:
    """Turns a URL or a file into a transcript, whatever its length, in memory that is known before it starts.

    Args:
        engine: the name of an installed plugin, an object that satisfies `Transcriber`, or a function `chunk -> str`.
        engine_options: keyword arguments for a plugin that is given by name.
        admission: where jobs queue; the process-wide controller by default.
        downloader: how URLs are fetched; by default one with the default policy, in the same admission. The environment
            variable MEMSAFE_MAX_DOWNLOAD_BYTES sets its cap.
        store: where each chunk's result is kept before it is shown, so that the same audio with the same settings is
            never paid for twice, whatever interrupts it. Only for engines that give a `cache_key`.
        chunk_seconds: what the length of the chunks aims for; by default 60 s, or less if the engine takes less. They
            are made shorter where memory is short.
        max_audio_seconds: decode no more than this, whatever a header claims; a day by default.
        on_error: what a chunk that the engine failed on is to its job: "raise" its error; "mark" it as a gap and go on;
            or "stop" there, with what there is. What may pass is tried again before, what is too large is cut in two,
            and a used-up quota (`TranscriberQuotaError`) ends the job also where others are only marked.
        isolation: where files are decoded: in a "process" of their own, which the kernel confines and which can be
            ended; or in a "thread" of this one, for files that are trusted. That starts sooner, and loads PyAV here.
        queue_timeout_seconds: how long each wait of a job may be: for the memory of its engine, for the slot of its
            download, for the slot and the memory of its decoding; None for as long as it takes.
        on_job: called with a `JobReport` when a job has ended, however it did; for metrics and traces.
        timeline: the picture that its jobs are to be seen in.

    Raises:
        TranscriberNotFoundError: no such engine.
        TranscriberError: the engine cannot be used; the message says what it needs.
        ValueError, TypeError: for arguments that cannot work.

    It belongs to the event loop that it is first used in. As an async context manager it keeps the engine open, with
    its memory charged, until the block ends. Without, the engine is opened and closed by each call. Only an engine that
    was given by name is closed.
    """

    def __init__(
        self,
        engine: EngineLike,
        *,
        engine_options: Mapping[str, Any] | None = None,
        admission: AdmissionController | None = None,
        downloader: SafeDownloader | None = None,
        store: JobStore | None = None,
        chunk_seconds: float | None = None,
        max_audio_seconds: float = 86_400.0,
        on_error: OnError = "raise",
        isolation: Isolation = "process",
        queue_timeout_seconds: float | None = None,
        on_job: OnJob | None = None,
        timeline: Timeline | None = None,
    ) -> None:
        if not 0 < max_audio_seconds < inf:
            raise ValueError(f"max_audio_seconds must be more than 0 and finite, got {max_audio_seconds}")
        if on_error not in get_args(OnError):
            raise ValueError(f'on_error must be "raise", "mark" or "stop", got {on_error!r}')
        if isolation not in get_args(Isolation):
            raise ValueError(f'isolation must be "process" or "thread", got {isolation!r}')
        self._engine = resolve(engine, engine_options)
        capabilities = self._engine.capabilities
        self._wanted = Sizes(
            chunk_samples(chunk_seconds, capabilities.longest_chunk_seconds, SAMPLE_RATE_HZ),
            capabilities.concurrency,
            capabilities.memory_bytes,
        )
        self._admission = admission or default_admission()
        self._downloader = downloader or SafeDownloader(max_bytes=default_max_bytes(), admission=self._admission)
        self._queue_timeout_seconds = queue_timeout_seconds
        self._shared = SharedEngine(self._engine, self._admission, queue_timeout_seconds)
        settings = Settings(
            self._wanted,
            int(capabilities.longest_chunk_seconds * SAMPLE_RATE_HZ),
            chunk_seconds,
            max_audio_seconds,
            on_error,
            isolation,
            queue_timeout_seconds,
            self._usable(store),
            on_job,
            timeline,
        )
        self._runner = Runner(self._engine, self._shared, self._admission, self._downloader, settings)

    async def __aenter__(self) -> "ChunkedTranscriber":
        await self._shared.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._shared.leave()

    async def transcribe(
        self,
        source: Source,
        *,
        language: str | None = None,
        prompt: str | None = None,
        deadline_seconds: float | None = None,
        on_progress: OnProgress | None = None,
        reservation: Reservation | None = None,
    ) -> Transcript:
        """Transcribe the whole source.

        Args:
            source: an http(s) URL as a string; a file as a `pathlib.Path`, or open in binary mode; an async iterable of
                bytes, such as a request's body; or a `pydub.AudioSegment`. A string that is no URL is refused, so that
                a user's input can never name a local file.
            language: a code such as "en"; None to let the engine find out.
            prompt: words that help the engine, such as names.
            deadline_seconds: give up after this time.
            on_progress: called from the event loop with a `Progress`.
            reservation: run on this reservation's slot and bytes instead of queueing for others; by default on that
                which the running task holds from this admission, if it does. An engine is charged apart from it: enter
                the transcriber before, so that it is open.

        Raises:
            DownloadError, AudioDecodeError, TranscriberFailedError, AdmissionError, MemoryPressureError, OSError:
                each says what was wrong with what.
            TimeoutError: the deadline passed.
            ValueError: the engine does not know the language, or the string is no URL.

        Cancellation: download, decoding process and reservation are gone when this returns, and so is the text so far
        (`stream` gives it out as it comes). A plain, not async, function as engine cannot be interrupted: cancellation
        and deadline wait until it returns.

        Memory: that of `stream`, and about 200 bytes a word for the result.
        """
        streaming = self.stream(
            source, language=language, prompt=prompt, on_progress=on_progress, reservation=reservation
        )
        return await collected(streaming, deadline_seconds)

    @asynccontextmanager
    async def stream(
        self,
        source: Source,
        *,
        language: str | None = None,
        prompt: str | None = None,
        on_progress: OnProgress | None = None,
        reservation: Reservation | None = None,
    ) -> AsyncIterator[SegmentStream]:
        """Transcribe chunk by chunk: `async with` this, then `async for` over the segments.

        A URL is downloaded whole before the block begins. The slot and the memory are held until the block ends, also
        while its reader takes its time; leaving it early stops the work. Arguments, errors and cancellation are those
        of `transcribe`; for a deadline use `anyio.fail_after`.

        Memory: flat in the length of the audio.
        """
        self._runner.check_language(language)
        context = ChunkContext(language=language, prompt=prompt)
        report = on_progress or (lambda progress: None)
        async with self._runner.stream(source, context, report, reservation=reservation) as segments:
            yield segments

    async def plan(self, source: Source) -> Plan:
        """What `stream` would take for this source now, before anything is decoded: its header tells, or HEAD.

        Args:
            source: as for `transcribe`, but for what is spooled before: an async iterable, a pipe, a file in memory.

        Raises:
            TypeError: it is one of those.
            DownloadError, AudioDecodeError, AdmissionError, OSError: what `transcribe` would be refused for, as far as
                it is known yet.

        Memory: that of a decoding process for a moment, reserved without a slot.

        The peak is that of `stream`; `transcribe` adds about 200 bytes a word.
        """
        if isinstance(source, str) and is_url(source):
            return await self._plan_url(source)
        async with at_hand(source) as media:
            if media is None:
                raise TypeError(
                    f"a {type(source).__name__} would have to be read to its end to be planned for: give a URL, a "
                    "path, or a regular file that is open at its start"
                )
            limit_bytes = data_limit_bytes(media.fd)
            decoder_bytes = common_bytes(media.fd, limit_bytes)
            async with (
                self._admission.reserve(
                    decoder_bytes,
                    timeout_seconds=self._queue_timeout_seconds,
                    slot=False,
                    reservation=self._admission.current_reservation(),
                ),
                self._runner.decoding(media, limit_bytes) as decoder,
            ):
                info = decoder.info
        free_bytes, engine_bytes = self._runner.free_bytes(None), self._shared.missing_bytes
        sizes = fitted(self._wanted, decoder_bytes + engine_bytes, free_bytes)
        return planned(
            sizes,
            decoder_bytes,
            engine_bytes,
            info.duration_seconds if media.duration_seconds is None else media.duration_seconds,
            peak_bytes(limit_bytes),
            f"{info.codec} in {info.format}; {format_size(free_bytes)} are free for new work",
        )

    async def _plan_url(self, url: str) -> Plan:
        probe = await self._downloader.probe(url)
        file_bytes = self._downloader.max_bytes if probe.size_bytes is None else probe.size_bytes
        decoder_bytes, free_bytes = common_bytes(None, data_limit_bytes(None)), self._runner.free_bytes(None)
        engine_bytes = self._shared.missing_bytes
        sizes = fitted(self._wanted, decoder_bytes + engine_bytes, free_bytes)
        spooled_bytes = file_bytes if is_memory(self._downloader.spool_dir) else 0
        most_bytes = min(
            peak_bytes(largest_limit_bytes(file_bytes)) + spooled_bytes,
            self._admission.guard.room().largest_need_bytes - sizes.host_bytes,
        )
        size = "of unknown size" if probe.size_bytes is None else f"of {format_size(probe.size_bytes)}"
        return planned(
            sizes,
            decoder_bytes + spooled_bytes,
            engine_bytes,
            None,
            most_bytes,
            f"a download {size}, whose format is not known before; {format_size(free_bytes)} are free for new work",
        )

    def _usable(self, store: JobStore | None) -> JobStore | None:
        """The store, if what this engine answers may be kept."""
        if store is not None and self._engine.capabilities.cache_key is None:
            _LOG.warning(
                "engine %r has no cache_key: nothing that it answers is kept in %s", self._engine.name, store.path
            )
            return None
        return store


def runner_of(transcriber: ChunkedTranscriber) -> Runner:
    """What runs its jobs, for batches."""
    return transcriber._runner  # noqa: SLF001 - this is the way in
