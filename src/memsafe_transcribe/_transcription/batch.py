"""BatchTranscriber: any number of sources, as many at once as memory has room for, and none stops the others."""

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Sized
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import anyio

from .._admission.controller import AdmissionController
from .._store.store import inside
from .._tasks import Starter, background
from .attempting import Attempting
from .chunked import ChunkedTranscriber, runner_of
from .outcomes import BatchProgress, OnBatchProgress, Outcome, RunningSource
from .progress import Progress
from .protocol import ChunkContext
from .sources import Source, name_of

_LOOK_SECONDS = 0.5  # how often it is looked whether memory came free that others had
_REMEMBERED_JOBS = 16


class BatchTranscriber:
    """Transcribes many sources.

    As many are in work as memory has room for now, by what the last ones turned out to need, from one to
    `max_batch_size`; each job queues in the transcriber's admission besides. With a store (of the transcriber), a run
    that was interrupted goes on where it was: a URL that is done is not even fetched again, and what was tried in vain
    too often is not tried for ever.

    Args:
        transcriber: how each is transcribed; enter it to keep the engine open between runs.
        max_batch_size: the most that are in work, or done and not yet taken, at once.
        max_attempts: a source that failed so often is given up; what will not pass, at once.

    Raises:
        ValueError: one of them is less than 1.
    """

    def __init__(self, transcriber: ChunkedTranscriber, *, max_batch_size: int = 5, max_attempts: int = 3) -> None:
        for name, value in (("max_batch_size", max_batch_size), ("max_attempts", max_attempts)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self._transcriber = transcriber
        self._max_batch_size = max_batch_size
        self._max_attempts = max_attempts

    @asynccontextmanager
    async def run(
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
    ) -> AsyncIterator["Outcomes"]:
        """`async with` this, then `async for` over the outcomes, as they come or in order. Leaving it stops the work.

        Args:
            sources: as `ChunkedTranscriber.transcribe` takes them; may be endless. The next one is asked for when there
                is room for it, on the event loop: what blocks belongs into an async iterable.
            name: of the batch, in the store. A run takes over what an unfinished one of the same name has; cleanup
                keeps a batch together.
            ordered: give the outcomes in the order of the sources; one that is slow holds those behind it up.
            retry_failed: try again what was given up in an earlier run.
            language, prompt: as for `transcribe`.
            deadline_seconds: for each attempt on a source.
            on_progress: called from the event loop with a `BatchProgress`.

        Raises:
            StoreError: the store cannot be used; from the block's beginning, or, when it breaks in between, from the
                iteration, after the outcomes of what was in work.
            TranscriberFailedError: from the iteration, likewise: the engine's quota is used up, and every other source
                would meet the same. A later run goes on.
            AdmissionError: what the engine keeps in memory found no room, or the process drains; from the beginning.
            Exception, SystemExit: what `sources` or `on_progress` raises, likewise.
            ValueError: the engine does not know the language.
            TypeError: `sources` is one source.

        Cancellation: nothing is left but what is in the store, from which another run goes on.

        Memory: that of the jobs that are in work, which the admission bounds, and their transcripts.
        """
        runner = runner_of(self._transcriber)
        runner.check_language(language)
        if isinstance(sources, str | bytes) or not isinstance(sources, Iterable | AsyncIterable):
            raise TypeError(f"sources must be an iterable of sources, sync or async, got {type(sources).__name__}")
        async with AsyncExitStack() as opened:
            batch = None
            if (store := runner.settings.store) is not None:
                await opened.enter_async_context(inside(store).database.opened())
                batch = await opened.enter_async_context(inside(store).batches.running(name))
            await opened.enter_async_context(runner.opened_engine())
            context = ChunkContext(language=language, prompt=prompt)
            attempting = Attempting(runner, context, batch, self._max_attempts, deadline_seconds, retry_failed)
            total = len(sources) if isinstance(sources, Sized) else None
            window = _Window(runner.admission, self._max_batch_size, runner.likely_bytes)
            async with background() as tasks:
                outcomes = Outcomes(attempting, window, tasks, ordered=ordered, total=total, report=on_progress)
                tasks.start_soon(outcomes._feed, sources)  # noqa: SLF001 - it is made here
                try:
                    yield outcomes
                finally:
                    if batch is not None:
                        batch.is_at_its_end = outcomes._is_complete  # noqa: SLF001
                    outcomes._close()  # noqa: SLF001


class _Window:
    """How many sources may be in work at once, by the memory that is free, and by what the last jobs needed.

    Args:
        admission: who knows what is free.
        max_batch_size: never more.
        likely_bytes: what a job needs as long as none has been seen.
    """

    def __init__(self, admission: AdmissionController, max_batch_size: int, likely_bytes: int) -> None:
        self._admission = admission
        self._max_batch_size = max_batch_size
        self._likely_bytes = likely_bytes
        self._seen_bytes: deque[int] = deque(maxlen=_REMEMBERED_JOBS)

    def saw(self, reserved_bytes: int) -> None:
        """A job has ended, and had reserved so much."""
        if reserved_bytes > 0:
            self._seen_bytes.append(reserved_bytes)

    def has_room(self, in_work: int, not_yet_reserved: int, not_yet_taken: int) -> bool:
        """Whether one more may be begun, with so many in work, some of which have reserved no memory yet."""
        if in_work + not_yet_taken >= self._max_batch_size:
            return False
        job_bytes = max(self._seen_bytes, default=self._likely_bytes)
        return in_work == 0 or self._admission.statistics().budget_bytes // job_bytes > not_yet_reserved


class Outcomes:
    """The outcomes of one run; iterate inside its block.

    Attributes:
        progress: how far it is now.
    """

    def __init__(
        self,
        attempting: Attempting,
        window: _Window,
        tasks: Starter,
        *,
        ordered: bool,
        total: int | None,
        report: OnBatchProgress | None,
    ) -> None:
        self._attempting = attempting
        self._window = window
        self._tasks = tasks
        self._ordered = ordered
        self._total = total
        self._report = report or (lambda progress: None)
        self._running: dict[int, RunningSource] = {}
        self._ready: dict[int, Outcome] = {}  # in the order in which they came
        self._begun = self._given = self._done = self._failed = 0
        self._is_fed = self._is_closed = False
        self._failure: BaseException | None = None
        self._is_stopped = False
        self._changed = anyio.Event()
        self._started = anyio.current_time()

    @property
    def progress(self) -> BatchProgress:
        elapsed_seconds = anyio.current_time() - self._started
        return BatchProgress(self._done, self._failed, self._total, tuple(self._running.values()), elapsed_seconds)

    @property
    def _is_complete(self) -> bool:
        """Whether all was given out, and nothing stopped it early."""
        return self._is_fed and not self._running and not self._ready and not self._is_stopped

    def __aiter__(self) -> "Outcomes":
        return self

    async def __anext__(self) -> Outcome:
        while True:
            if (outcome := self._next()) is not None:
                self._given += 1
                self._tell()
                return outcome
            if (self._is_fed or self._is_stopped) and not self._running:
                failure, self._failure = self._failure, None
                if failure is not None:
                    raise failure
                raise StopAsyncIteration
            if self._is_closed:
                raise RuntimeError("the block of run() has ended; iterate inside it")
            await self._changed.wait()

    def _close(self) -> None:
        """Called when the block ends: what is in work then comes to nothing."""
        self._is_closed = True
        self._changed.set()

    def _next(self) -> Outcome | None:
        index = self._given if self._ordered else next(iter(self._ready), -1)
        return self._ready.pop(index, None)

    def _tell(self) -> None:
        """Wake whoever waits for something to have changed."""
        self._changed.set()
        self._changed = anyio.Event()
        try:
            self._report(self.progress)
        except (Exception, SystemExit) as error:  # no source is to blame; the latter would end the event loop, too
            self._report = lambda progress: None
            self._stop(error)

    def _stop(self, failure: BaseException) -> None:
        """Begin no more; it is raised when what is in work is done."""
        if not self._is_stopped:
            self._is_stopped, self._failure = True, failure
            self._changed.set()
            self._changed = anyio.Event()

    async def _feed(self, sources: Iterable[Source] | AsyncIterable[Source]) -> None:
        try:
            async with aclosing(_given(sources)) as given:
                while await self._wait_for_room():
                    source = await anext(given)
                    if self._is_stopped:
                        break
                    self._running[self._begun] = RunningSource(self._begun, name_of(source), Progress("waiting"))
                    self._tasks.start_soon(self._work, self._begun, source)
                    self._begun += 1
        except StopAsyncIteration:
            pass
        except (Exception, SystemExit) as error:
            self._stop(error)
        self._is_fed = True
        self._tell()

    async def _wait_for_room(self) -> bool:
        """Wait until one more may be begun; False if none is to be any more."""
        while not self._is_stopped:
            not_yet_reserved = sum(not each.progress.reserved_bytes for each in self._running.values())
            if self._window.has_room(len(self._running), not_yet_reserved, len(self._ready)):
                return True
            with anyio.move_on_after(_LOOK_SECONDS):
                await self._changed.wait()
        return False

    async def _work(self, index: int, source: Source) -> None:
        most_bytes = 0

        def report(progress: Progress) -> None:
            nonlocal most_bytes
            most_bytes = max(most_bytes, progress.reserved_bytes)
            self._running[index] = RunningSource(index, name_of(source), progress)
            self._tell()

        outcome = await self._attempting.outcome_of(index, source, report, self._stop)
        self._window.saw(most_bytes)
        if outcome.error is None:
            self._done += 1
        else:
            self._failed += 1
        del self._running[index]
        self._ready[index] = outcome
        self._tell()


async def _given(sources: Iterable[Source] | AsyncIterable[Source]) -> AsyncGenerator[Source]:
    """One after the other; an async generator is closed when no more is wanted."""
    if isinstance(sources, AsyncIterable):
        async with AsyncExitStack() as at_the_end:
            if isinstance(sources, AsyncGenerator):
                at_the_end.push_async_callback(sources.aclose)
            async for source in sources:
                yield source
    else:
        for source in sources:
            yield source
