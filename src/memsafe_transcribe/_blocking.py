"""`blocking`: the same things for plain code and threads, by the one event loop that a process keeps for them."""

import os
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Generic, TypeVar, overload

from ._download.downloader import SafeDownloader
from ._download.files import DownloadedFile
from ._download.transfer import Probe
from ._errors import StoreError
from ._portal import portal
from ._store.cleaning import Cleanup
from ._store.store import JobStore
from ._transcription.batch import BatchTranscriber, Outcomes
from ._transcription.chunked import ChunkedTranscriber
from ._transcription.outcomes import BatchProgress, OnBatchProgress, Outcome
from ._transcription.planning import Plan
from ._transcription.progress import OnProgress
from ._transcription.sources import Source
from ._transcription.stream import SegmentStream
from ._transcription.transcript import Gap, Segment, Transcript

T = TypeVar("T")


class _Blocking(Generic[T]):
    """What stands for something asynchronous while its block runs."""

    def __init__(self, target: T) -> None:
        self._of = target
        self._pid = os.getpid()

    @property
    def _target(self) -> T:
        if self._pid != os.getpid():
            raise RuntimeError(
                f"{type(self).__name__} was entered before this process was forked: enter blocking() in the child"
            )
        return self._of


class BlockingTranscriber(_Blocking[ChunkedTranscriber]):
    """A `ChunkedTranscriber` for threads; any number of them may use it at once."""

    def transcribe(
        self,
        source: Source,
        *,
        language: str | None = None,
        prompt: str | None = None,
        deadline_seconds: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> Transcript:
        """As `ChunkedTranscriber.transcribe`; `on_progress` is called in the loop's thread. Ctrl-C cancels it."""
        return portal.call(
            partial(
                self._target.transcribe,
                source,
                language=language,
                prompt=prompt,
                deadline_seconds=deadline_seconds,
                on_progress=on_progress,
            )
        )

    @contextmanager
    def stream(
        self,
        source: Source,
        *,
        language: str | None = None,
        prompt: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> Iterator["BlockingStream"]:
        """As `ChunkedTranscriber.stream`: `with` this, then `for` over the segments."""
        streaming = self._target.stream(source, language=language, prompt=prompt, on_progress=on_progress)
        with portal.entered(streaming) as segments:
            yield BlockingStream(segments)

    def plan(self, source: Source) -> Plan:
        """As `ChunkedTranscriber.plan`."""
        return portal.call(partial(self._target.plan, source))


class BlockingStream:
    """A `SegmentStream` for one thread at a time; its attributes are those of that."""

    def __init__(self, segments: SegmentStream) -> None:
        self._segments = segments
        self._iterator = portal.iterate(segments)

    def __iter__(self) -> "BlockingStream":
        return self

    def __next__(self) -> Segment:
        return next(self._iterator)

    @property
    def language(self) -> str | None:
        return self._segments.language

    @property
    def duration_seconds(self) -> float:
        return self._segments.duration_seconds

    @property
    def gaps(self) -> tuple[Gap, ...]:
        return self._segments.gaps

    @property
    def suspects(self) -> tuple[Gap, ...]:
        return self._segments.suspects

    @property
    def is_silent(self) -> bool:
        return self._segments.is_silent

    @property
    def store_error(self) -> StoreError | None:
        return self._segments.store_error


class BlockingDownloader(_Blocking[SafeDownloader]):
    """A `SafeDownloader` for threads."""

    def probe(self, url: str, *, headers: Mapping[str, str] | None = None) -> Probe:
        """As `SafeDownloader.probe`."""
        return portal.call(partial(self._target.probe, url, headers=headers))

    def fetch(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        expected_sha256: str | None = None,
        deadline_seconds: float | None = 3600.0,
        queue_timeout_seconds: float | None = None,
        ask_anyway: bool = False,
        on_progress: Callable[[int, int | None], None] | None = None,
    ) -> AbstractContextManager[DownloadedFile]:
        """As `SafeDownloader.fetch`: `with` this. `save_as` of what it gives is `save` here."""
        return portal.entered(
            self._target.fetch(
                url,
                headers=headers,
                expected_sha256=expected_sha256,
                deadline_seconds=deadline_seconds,
                queue_timeout_seconds=queue_timeout_seconds,
                ask_anyway=ask_anyway,
                on_progress=on_progress,
            )
        )

    def save(self, file: DownloadedFile, path: str | os.PathLike[str]) -> None:
        """As `DownloadedFile.save_as`."""
        portal.call(partial(file.save_as, path))


class BlockingBatch(_Blocking[BatchTranscriber]):
    """A `BatchTranscriber` for threads."""

    @contextmanager
    def run(
        self,
        sources: Iterable[Source] | AsyncIterable[Source],
        *,
        name: str = "default",
        ordered: bool = False,
        retry_failed: bool = False,
        language: str | None = None,
        prompt: str | None = None,
        deadline_seconds: float | None = None,
        on_progress: OnBatchProgress | None = None,
    ) -> Iterator["BlockingOutcomes"]:
        """As `BatchTranscriber.run`: `with` this, then `for` over the outcomes. `sources` is iterated in the loop's
        thread.
        """
        running = self._target.run(
            sources,
            name=name,
            ordered=ordered,
            retry_failed=retry_failed,
            language=language,
            prompt=prompt,
            deadline_seconds=deadline_seconds,
            on_progress=on_progress,
        )
        with portal.entered(running) as outcomes:
            yield BlockingOutcomes(outcomes)


class BlockingOutcomes:
    """`Outcomes` for one thread at a time."""

    def __init__(self, outcomes: Outcomes) -> None:
        self._outcomes = outcomes
        self._iterator = portal.iterate(outcomes)

    def __iter__(self) -> "BlockingOutcomes":
        return self

    def __next__(self) -> Outcome:
        return next(self._iterator)

    @property
    def progress(self) -> BatchProgress:
        return portal.call(self._progress)

    async def _progress(self) -> BatchProgress:
        return self._outcomes.progress


class BlockingStore(_Blocking[JobStore]):
    """A `JobStore` for threads."""

    def cleanup(self, **ages: Any) -> Cleanup:
        """As `JobStore.cleanup`."""
        return portal.call(partial(self._target.cleanup, **ages))

    def cleaning(self, **settings: Any) -> AbstractContextManager[None]:
        """As `JobStore.cleaning`: `with` this around the life of the host."""
        return portal.entered(self._target.cleaning(**settings))


@overload
def blocking(target: ChunkedTranscriber) -> AbstractContextManager[BlockingTranscriber]: ...
@overload
def blocking(target: SafeDownloader) -> AbstractContextManager[BlockingDownloader]: ...
@overload
def blocking(target: BatchTranscriber) -> AbstractContextManager[BlockingBatch]: ...
@overload
def blocking(target: JobStore) -> AbstractContextManager[BlockingStore]: ...
def blocking(target: Any) -> AbstractContextManager[Any]:
    """`with` this: something asynchronous for plain code, from any number of threads.

    All of it runs in one event loop per process, in a thread of its own, which starts at its first use and ends with
    the process; so what is used here is to be used in no other loop. It works where a loop runs already, as in a
    notebook, which it blocks meanwhile. After a fork, enter it in the child.

    Args:
        target: a `ChunkedTranscriber` (whose engine is open until the block ends), a `SafeDownloader`, a
            `BatchTranscriber` or a `JobStore`.

    Raises:
        TypeError: it is none of these.

    Cancellation: KeyboardInterrupt, or whatever else is raised in the waiting thread, cancels what it waits for, and
    comes out when nothing is left of that.
    """
    if isinstance(target, ChunkedTranscriber):
        return _entered(target, BlockingTranscriber)
    if isinstance(target, JobStore):
        return _entered(target, BlockingStore)
    if isinstance(target, SafeDownloader):
        return _plain(BlockingDownloader(target))
    if isinstance(target, BatchTranscriber):
        return _plain(BlockingBatch(target))
    raise TypeError(
        "blocking() takes a ChunkedTranscriber, a SafeDownloader, a BatchTranscriber or a JobStore, got "
        f"{type(target).__name__}"
    )


@contextmanager
def _entered(target: Any, kind: Callable[[Any], T]) -> Iterator[T]:
    with portal.entered(target):
        yield kind(target)


@contextmanager
def _plain(target: T) -> Iterator[T]:
    yield target
