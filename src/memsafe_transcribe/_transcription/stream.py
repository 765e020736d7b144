"""SegmentStream: one job as an iterator that keeps as many chunks in work as it may, and gives them out in order."""

import logging
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

import anyio

from .._audio.chunker import Span
from .._audio.chunks import Cut
from .._audio.words import SAMPLE_RATE_HZ, DecodeGap
from .._errors import StoreError, TranscriberFailedError
from .._tasks import Starter
from .asking import Asker
from .recording import Recorder
from .records import Answer
from .scripts import writable
from .stitching import ChunkSpan, Stitcher
from .transcript import Gap, Segment, Status, Transcript, whole_status

_LOG = logging.getLogger("memsafe_transcribe")


class Job(Protocol):
    """What a stream asks of the job that it belongs to."""

    concurrency: int

    def try_begin(self) -> bool:
        """Take leave to work on one more chunk; False while there is none beside those that are in work."""

    def end(self) -> None:
        """Give it back."""

    async def may_call(self, deadline: float) -> None:
        """Before a chunk is begun: wait while memory is at the ceiling. Raises when there is no time left for it."""

    def tell(self, done_seconds: float, held_bytes: int) -> None:
        """Say how far the stream is, and what it holds in memory itself."""


class Info(Protocol):
    """What a header says."""

    @property
    def duration_seconds(self) -> float | None:
        """How long the audio is, if it says so."""


class Audio(Protocol):
    """What a stream asks of the decoder beside its samples."""

    @property
    def info(self) -> Info:
        """Of the header."""

    @property
    def gaps(self) -> Sequence[DecodeGap | Gap]:
        """What is damaged; complete at the end."""


class Cuts(Protocol):
    """Where the chunks come from."""

    async def read(self) -> Cut | None:
        """The next one; None at the end."""


@dataclass(eq=False, slots=True)
class _Work:
    """One chunk, from when it is cut until its segments are out."""

    cut: Cut
    answers: list[Answer] = field(default_factory=list)
    error: Exception | None = None
    done: anyio.Event = field(default_factory=anyio.Event)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)


class SegmentStream:
    """Segments in order of time, made as they are asked for: nothing is decoded beyond the chunks that are in work.

    Attributes:
        language: what the caller said, or else the engine; None before the first chunk.
        gaps: what is missing, and why; complete once the iteration has ended.
        suspects: where the engine heard nothing so far, though there is something; its answer stands.
        is_silent: whether there was nothing to send to the engine so far.

    Cancellation of `anext` loses nothing: the next call goes on.
    """

    def __init__(
        self,
        asker: Asker,
        audio: Audio,
        cuts: Cuts,
        job: Job,
        recorder: Recorder,
        tasks: Starter,
        language: str | None,
    ) -> None:
        self.language = language
        self.gaps: tuple[Gap, ...] = ()
        self.suspects: tuple[Gap, ...] = ()
        self.is_silent: bool = True
        self._asker = asker
        self._audio = audio
        self._cuts = cuts
        self._job = job
        self._recorder = recorder
        self._tasks = tasks
        self._stitcher = Stitcher()
        self._works: deque[_Work] = deque()  # in order of time
        self._ready: deque[Segment] = deque()
        self._next_index = self._total_samples = self._cut_samples = 0
        self._is_read = self._is_over = self._is_closed = False
        self._failure: Exception | None = None  # raised when all that was heard before it is out
        self._ended_by: TranscriberFailedError | None = None  # where that is a gap, and raises nothing
        self._iterating = anyio.ResourceGuard("iterating over")

    @property
    def duration_seconds(self) -> float:
        """The audio of the chunks that are done; of all once the iteration has ended."""
        return self._total_samples / SAMPLE_RATE_HZ

    @property
    def store_error(self) -> StoreError | None:
        """Why what was heard is not all stored; None if it is, or there is no store."""
        return self._recorder.error

    def __aiter__(self) -> "SegmentStream":
        return self

    async def __anext__(self) -> Segment:
        with self._iterating:
            while not self._ready:
                if self._is_closed:
                    raise RuntimeError("the block of stream() has ended; iterate inside it")
                if self._is_over:
                    self._raise_failure()
                    raise StopAsyncIteration
                await self._advance()
        return self._ready.popleft()

    def close(self) -> None:
        """Called when the block ends: there is nothing behind the stream any more."""
        self._is_closed = True
        self._drop_works()

    async def _advance(self) -> None:
        """One chunk nearer to the end."""
        self._job.tell(self.duration_seconds, sum(len(work.cut.wav) for work in self._works))
        if not (self._works and self._works[0].done.is_set()):
            try:
                await self._begin_works()
            except Exception as error:  # what is in work is not concerned
                self._failure, self._is_read = error, True
        if self._works:
            await self._works[0].done.wait()
        if self._is_closed:  # meanwhile, with what was in work: nothing that is left may pass for all there was
            return
        if self._works:
            self._take(self._works.popleft())
        else:
            self._ready.extend(self._stitcher.finish())
            damaged = [Gap(gap.start_seconds, gap.end_seconds, gap.reason) for gap in self._audio.gaps]
            if self._failure is None and not self.gaps:
                await self._recorder.finish(self._total_samples, damaged)
            self.gaps = tuple(sorted([*self.gaps, *damaged], key=lambda gap: gap.start_seconds))
            self._is_over = True

    async def _begin_works(self) -> None:
        """Cut chunks and have them worked on, as far as that goes now."""
        while not self._is_read and len(self._works) < self._job.concurrency and self._job.try_begin():
            is_begun = False
            try:
                is_begun = await self._begin_work()
            finally:
                if not is_begun:
                    self._job.end()

    async def _begin_work(self) -> bool:
        """Cut the next chunk: whether there is something to be heard in it."""
        deadline = anyio.current_effective_deadline()
        if not self._works:
            await self._job.may_call(deadline)
        cut = await self._cuts.read()
        if cut is None or self._is_closed:
            self._is_read = True
            return False
        work = _Work(cut)
        self._works.append(work)
        self._cut_samples = cut.span.core_end
        if cut.span.is_silent:
            work.done.set()
            return False
        self._tasks.start_soon(self._work, work, self._next_index, deadline)
        self._next_index += 1
        return True

    async def _work(self, work: _Work, index: int, deadline: float) -> None:
        try:
            with work.scope:
                work.answers = await self._asker.ask(index, work.cut, deadline)
        except Exception as error:
            work.error = error
        finally:
            self._job.end()
        work.done.set()  # not where the whole job is cancelled: who looks before being cancelled too finds no answer

    def _take(self, work: _Work) -> None:
        """What came of the chunk that is next in time."""
        span = work.cut.span
        self.is_silent &= span.is_silent
        if span.is_silent:
            self._ready.extend(self._stitcher.skip())
        for answer in work.answers:
            if isinstance(answer.result, TranscriberFailedError):
                self._miss(answer.span, answer.result)
            else:
                self._ready.extend(self._stitcher.push(_chunk_span(answer.span), answer.result))
                self.language = self.language or (answer.result.language and writable(answer.result.language))
                self._suspect(answer)
        if work.error is not None:
            self._fail(work.error)
        else:
            self._total_samples = span.core_end

    def _suspect(self, answer: Answer) -> None:
        if answer.suspicion is None:
            return
        span = _chunk_span(answer.span)
        start, end = max(span.start_seconds, span.core_start_seconds), min(span.end_seconds, span.core_end_seconds)
        if not self.suspects:
            _LOG.warning("from %.1f to %.1f s: %s; all such spans are in suspects", start, end, answer.suspicion)
        self.suspects = (*self.suspects, Gap(start, end, answer.suspicion))

    def _miss(self, span: Span, failure: TranscriberFailedError) -> None:
        """The engine failed on this chunk, or on this part of it."""
        self._ready.extend(self._stitcher.skip())
        ends_the_job = self._asker.ends_the_job(failure)
        if ends_the_job and self._asker.raises:
            self._fail(failure)
            return
        start, end = span.core_start / SAMPLE_RATE_HZ, span.core_end / SAMPLE_RATE_HZ
        if ends_the_job:
            self._ended_by = failure
            self._is_read = True
            self._drop_works()
            # All that is not asked for any more; farther than what was cut, there is only the header's word.
            end = max(self._cut_samples / SAMPLE_RATE_HZ, self._audio.info.duration_seconds or 0.0)
        self.gaps = (*self.gaps, Gap(start, end, writable(str(failure))))

    def _fail(self, error: Exception) -> None:
        self._failure = error
        self._is_read = True
        self._drop_works()

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _drop_works(self) -> None:
        for work in self._works:
            work.scope.cancel()
            work.done.set()  # for whoever waits for it in another task
        self._works.clear()


def _chunk_span(span: Span) -> ChunkSpan:
    core_start, core_end, start, end = (
        sample / SAMPLE_RATE_HZ for sample in (span.core_start, span.core_end, span.start, span.end)
    )
    return ChunkSpan(core_start, core_end, start, end)


def whole(stream: SegmentStream, segments: Iterable[Segment]) -> Transcript:
    """All of it, once the iteration has ended and given these segments."""
    return Transcript(
        tuple(segments),
        stream.language,
        stream.duration_seconds,
        stream.gaps,
        stream.is_silent,
        stream.suspects,
        stream.store_error,
    )


async def gathered(stream: SegmentStream) -> Transcript:
    """All of it."""
    return whole(stream, [segment async for segment in stream])


async def collected(
    streaming: AbstractAsyncContextManager[SegmentStream], deadline_seconds: float | None
) -> Transcript:
    """All of a stream that is about to be opened.

    Raises:
        TimeoutError: the deadline passed.
    """
    segments: list[Segment] = []
    with anyio.move_on_after(deadline_seconds) as scope:
        async with streaming as stream:
            async for segment in stream:
                segments.append(segment)  # noqa: PERF401 - what there is when the deadline passes is counted
        return whole(stream, segments)
    assert scope.cancelled_caught
    raise TimeoutError(f"deadline_seconds={deadline_seconds:g} passed with {len(segments)} segments done")


def standing(stream: SegmentStream) -> tuple[Status | None, int]:
    """The status of the whole, None before its end; and how many chunks had something to be heard so far."""
    status = whole_status(stream.gaps, is_silent=stream.is_silent) if stream._is_over else None  # noqa: SLF001
    return status, stream._next_index  # noqa: SLF001 - for reports alone
