"""One job, from its source to its segments: the order in which it takes what it needs, and gives it back."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, closing, nullcontext
from dataclasses import dataclass, replace

from .._admission.controller import AdmissionController
from .._admission.reservation import Reservation
from .._audio.chunker import Chunker
from .._audio.chunks import ChunkReader
from .._audio.decoder import Decoder, Isolation, common_bytes, data_limit_bytes, open_decoder
from .._download.downloader import SafeDownloader
from .._store.jobs import ChunkPlan, Job as StoredJob
from .._store.store import JobStore, inside
from .._tasks import background
from .._timeline.timeline import JobLine, Timeline
from .asking import Asker, OnError
from .identity import Identity, identity_of
from .job import RunningJob
from .opening import SharedEngine
from .planning import Sizes, fitted
from .progress import OnProgress, Progress
from .protocol import ChunkContext
from .recording import NotRecorded, Recorded, Recorder
from .records import job_key
from .registry import Engine
from .replaying import Replay, StoredAudio
from .reporting import OnJob, reported
from .sources import Media, Source, label_of, opened
from .stream import SegmentStream

_LOG = logging.getLogger("memsafe_transcribe")

OnJobKey = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Settings:
    """What all jobs of a transcriber have in common.

    Attributes:
        wanted: the sizes of a job where there is enough memory.
        longest_samples: the most that the engine hears at once.
        chunk_seconds: as the caller gave it.
        max_audio_seconds, on_error, isolation, queue_timeout_seconds, on_job, timeline: as `ChunkedTranscriber` has
            them.
        store: where results are kept; None if they cannot be, or are not to be.
    """

    wanted: Sizes
    longest_samples: int
    chunk_seconds: float | None
    max_audio_seconds: float
    on_error: OnError
    isolation: Isolation
    queue_timeout_seconds: float | None
    store: JobStore | None
    on_job: OnJob | None
    timeline: Timeline | None


@dataclass(frozen=True, slots=True)
class _Kept:
    """A job that a store keeps, what its source is known by, and who is to be told when its transcription begins."""

    job: StoredJob
    identity: Identity
    begin: OnJobKey


async def _untold(job_key: bytes) -> None:
    """For whom that is nothing."""


class Runner:
    """Runs the jobs of one transcriber."""

    def __init__(
        self,
        engine: Engine,
        shared: SharedEngine,
        admission: AdmissionController,
        downloader: SafeDownloader,
        settings: Settings,
    ) -> None:
        self.engine = engine
        self.admission = admission
        self.downloader = downloader
        self.settings = settings
        self._shared = shared

    @property
    def likely_bytes(self) -> int:
        """What a job takes where nothing is known of its source."""
        return common_bytes(None, data_limit_bytes(None)) + self.settings.wanted.host_bytes

    def check_language(self, language: str | None) -> None:
        """Raises:
        ValueError: the engine does not know it.
        """
        known = self.engine.capabilities.languages
        if language is not None and known is not None and language not in known:
            raise ValueError(f"engine {self.engine.name!r} knows the languages {', '.join(known)}; got {language!r}")

    def opened_engine(self) -> AbstractAsyncContextManager[None]:
        """`async with` this around several jobs: the engine stays open."""
        return self._shared.opened()

    @asynccontextmanager
    async def stream(
        self,
        source: Source,
        context: ChunkContext,
        report: OnProgress,
        *,
        reservation: Reservation | None = None,
        on_job_key: OnJobKey | None = None,
        ask_anyway: bool = False,
    ) -> AsyncIterator[SegmentStream]:
        """`ChunkedTranscriber.stream`, and what batches ask besides.

        Args:
            source, context, report, reservation: see there.
            on_job_key: told under which key the store has it, when its transcription begins.
            ask_anyway: download also what failed before.
        """
        held = reservation or self.admission.current_reservation()
        line = JobLine(self.settings.timeline, label_of(source))
        with reported(self.settings.on_job, line, self.engine.name) as told:
            report = told.telling(report)
            async with self._job(source, context, report, held, on_job_key or _untold, ask_anyway) as segments:
                yield told.opened(segments)

    @asynccontextmanager
    async def _job(
        self,
        source: Source,
        context: ChunkContext,
        report: OnProgress,
        held: Reservation | None,
        on_job_key: OnJobKey,
        ask_anyway: bool,
    ) -> AsyncIterator[SegmentStream]:
        async with (
            self._shared.opened(),
            self._opened_store(),
            opened(
                source,
                self.downloader,
                held=held,
                queue_timeout_seconds=self.settings.queue_timeout_seconds,
                report=report,
                ask_anyway=ask_anyway,
            ) as media,
        ):
            report(Progress("waiting"))
            store, cache_key = self.settings.store, self.engine.capabilities.cache_key
            if store is None or cache_key is None:
                async with self._transcribing(media, context, report, held, None) as segments:
                    yield segments
                return
            identity = await identity_of(media)
            key = job_key(identity.sha256, cache_key, context.language, context.prompt, self.settings.chunk_seconds)
            async with inside(store).jobs.working_on(key, may_wait=held is None) as job:
                kept = _Kept(job, identity, on_job_key)
                if job.state.is_finished:
                    await kept.begin(key)
                    async with self._replaying(job, context, report) as segments:
                        yield segments
                    return
                async with self._transcribing(media, context, report, held, kept) as segments:
                    yield segments

    @asynccontextmanager
    async def replay(
        self, key: bytes, context: ChunkContext, report: OnProgress
    ) -> AsyncIterator[SegmentStream | None]:
        """`async with` this: the job of this key from the store, without its source; None if it is not finished."""
        assert self.settings.store is not None
        async with self._opened_store(), inside(self.settings.store).jobs.finished(key) as job:
            if job is None:
                yield None
                return
            async with self._replaying(job, context, report) as segments:
                yield segments

    @asynccontextmanager
    async def _replaying(
        self, job: StoredJob, context: ChunkContext, report: OnProgress
    ) -> AsyncIterator[SegmentStream]:
        audio = StoredAudio(job)
        replay = Replay(audio.info.duration_seconds, report)
        async with background() as tasks:
            asker = Asker(self.engine, context, self.settings.on_error, replay.may_call, audio, self._shared.mark_used)
            with closing(SegmentStream(asker, audio, audio, replay, audio, tasks, context.language)) as segments:
                yield segments

    @asynccontextmanager
    async def _transcribing(
        self,
        media: Media,
        context: ChunkContext,
        report: OnProgress,
        held: Reservation | None,
        kept: "_Kept | None",
    ) -> AsyncIterator[SegmentStream]:
        settings = self.settings
        frozen = None if kept is None else await self._frozen_plan(kept.job)
        plan = frozen or ChunkPlan(settings.wanted.chunk_samples, settings.longest_samples)
        limit_bytes = data_limit_bytes(media.fd)
        decoder_bytes = common_bytes(media.fd, limit_bytes)
        sizes = fitted(
            replace(settings.wanted, chunk_samples=plan.wanted_samples),
            decoder_bytes,
            self.free_bytes(held),
            is_frozen=frozen is not None,
        )
        plan = replace(plan, wanted_samples=sizes.chunk_samples)
        recorder: Recorder = NotRecorded() if kept is None else Recorded(kept.job, plan, kept.identity)
        async with AsyncExitStack() as opened_here:
            reserving = self.admission.reserve(
                decoder_bytes + sizes.host_bytes, timeout_seconds=settings.queue_timeout_seconds, reservation=held
            )
            reserved = await opened_here.enter_async_context(reserving)
            if kept is not None:
                await kept.begin(kept.job.key)
            decoder = await opened_here.enter_async_context(self.decoding(media, limit_bytes))
            job = RunningJob(self.admission, reserved, decoder, decoder_bytes, sizes, report)
            with closing(job):
                async with background() as tasks:
                    asker = Asker(
                        self.engine, context, settings.on_error, job.may_call, recorder, self._shared.mark_used
                    )
                    cuts = ChunkReader(decoder, Chunker(plan.wanted_samples, plan.longest_samples))
                    with closing(
                        SegmentStream(asker, decoder, cuts, job, recorder, tasks, context.language)
                    ) as segments:
                        yield segments

    async def _frozen_plan(self, job: StoredJob) -> ChunkPlan | None:
        """The plan that a resumed job has to follow; None for a new one."""
        plan = job.state.plan
        if plan is not None and plan.longest_samples > self.settings.longest_samples:
            _LOG.warning("engine %r takes less at once than when this job was begun: it begins anew", self.engine.name)
            await job.forget()
        return job.state.plan

    def decoding(self, media: Media, limit_bytes: int) -> AbstractAsyncContextManager[Decoder]:
        """The decoder of a source."""
        return open_decoder(
            media.fd,
            media.name,
            feed=media.feed,
            max_audio_seconds=self.settings.max_audio_seconds,
            data_limit_bytes=limit_bytes,
            isolation=self.settings.isolation,
        )

    def free_bytes(self, held: Reservation | None) -> int:
        """What a job may be planned with: what is free now, or what it can wait for.

        That is its share of what will be free when those that run now have ended: one that has to queue is not to make
        many short chunks of all of a long file because memory was short when it came.
        """
        if held is not None:
            return held.left_bytes
        now = self.admission.statistics()
        if not now.active + now.others_active:
            return now.budget_bytes
        share_bytes = self.admission.guard.room().largest_new_work_bytes // now.max_concurrent
        return max(
            now.budget_bytes, min(share_bytes, now.budget_bytes + now.reserved_bytes + now.others_reserved_bytes)
        )

    def _opened_store(self) -> AbstractAsyncContextManager[None]:
        store = self.settings.store
        return nullcontext() if store is None else inside(store).database.opened()
