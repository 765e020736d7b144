"""Several chunks of one file at once: in order, within the slots, and never ahead of the reader."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import anyio
import psutil
import pytest

import memsafe_transcribe as mt

from ..conftest import Run
from ..plugin.speech_clock import SpeechClock
from ..support.media import tone_samples, write_wav


class Held(SpeechClock):
    """Says nothing about a chunk before it is let go; counts who is inside."""

    capabilities = mt.Capabilities(max_chunk_seconds=300, timestamps="word", concurrency=4)

    def __init__(self) -> None:
        self.doors: dict[int, anyio.Event] = {}
        self.inside: set[int] = set()
        self.most_inside = 0
        self.changed = anyio.Event()

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        self.doors[chunk.index] = anyio.Event()
        self.inside.add(chunk.index)
        self.most_inside = max(self.most_inside, len(self.inside))
        self._tell()
        try:
            await self.doors[chunk.index].wait()
        finally:
            self.inside.remove(chunk.index)
            self._tell()
        return await super().transcribe(chunk, context)

    def _tell(self) -> None:
        changed, self.changed = self.changed, anyio.Event()
        changed.set()

    async def until(self, inside: set[int]) -> None:
        """Wait until just these chunks are inside."""
        while self.inside != inside:
            await self.changed.wait()


class Counting(SpeechClock):
    """Answers after some turns of the loop, the first not before `together` are inside; counts who is, over all."""

    capabilities = mt.Capabilities(max_chunk_seconds=300, timestamps="word", concurrency=4)

    def __init__(self, together: int = 1) -> None:
        self.inside = self.most_inside = 0
        self._together = together
        self._all_are_inside = anyio.Event()

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        if self.inside == self._together:
            self._all_are_inside.set()
        await self._all_are_inside.wait()
        for _ in range(7 - chunk.index % 7):  # later ones are often sooner done
            await anyio.lowlevel.checkpoint()
        self.inside -= 1
        return await super().transcribe(chunk, context)


@pytest.fixture
def tone(tmp_path: Path) -> Path:
    """Forty seconds without a pause: a hundred words."""
    return write_wav(tmp_path / "tone.wav", tone_samples(40.0))


WORDS = [f"word{number}" for number in range(100)]


@pytest.mark.parametrize("concurrency", [1, 2, 3, 4, 9])
def test_segments_come_in_order_whatever_the_order_of_the_answers(run: Run, tone: Path, concurrency: int) -> None:
    """As many at once as the engine takes and slots are free; every word once, at its time."""
    engine = Counting(together=min(4, concurrency))
    engine.capabilities = mt.Capabilities(max_chunk_seconds=300, timestamps="word", concurrency=concurrency)

    async def main() -> mt.Transcript:
        admission = mt.AdmissionController(scope="process", max_concurrent=4)
        transcript = await mt.ChunkedTranscriber(engine, admission=admission, chunk_seconds=2).transcribe(tone)
        statistics = admission.statistics()
        assert (statistics.active, statistics.reserved_bytes, statistics.waiting) == (0, 0, 0)
        assert statistics.peak_active == min(4, concurrency)
        return transcript

    transcript = run(main)
    assert [word.text for word in transcript.words] == WORDS
    assert [word.start_seconds for word in transcript.words] == pytest.approx([number * 0.4 for number in range(100)])
    assert engine.most_inside == min(4, concurrency)


def test_no_chunk_is_begun_before_the_reader_wants_it(run: Run, tone: Path) -> None:
    """A reader that does not read has as many chunks in work as may be, and no more."""
    engine = Held()

    async def main() -> None:
        admission = mt.AdmissionController(scope="process", max_concurrent=3)
        async with mt.ChunkedTranscriber(engine, admission=admission, chunk_seconds=2).stream(tone) as stream:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.__anext__)
                await engine.until({0, 1, 2})
                for index in (2, 1):
                    engine.doors[index].set()
                await engine.until({0})
                engine.doors[0].set()
            await anyio.wait_all_tasks_blocked()
            assert engine.inside == set()
            assert set(engine.doors) == {0, 1, 2}

    run(main)


def test_slots_of_chunks_that_are_done_are_others(run: Run, tone: Path) -> None:
    """Chunk 0 keeps the job's own slot; what 1 and 2 had goes to those who wait."""
    engine = Held()

    async def main() -> None:
        admission = mt.AdmissionController(scope="process", max_concurrent=3)
        async with mt.ChunkedTranscriber(engine, admission=admission, chunk_seconds=2).stream(tone) as stream:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.__anext__)
                await engine.until({0, 1, 2})
                assert admission.statistics().active == 3
                engine.doors[1].set()
                await engine.until({0, 2})
                async with admission.reserve(0), anyio.create_task_group() as others:
                    others.start_soon(_reserve, admission, 0)
                    while not admission.statistics().waiting:
                        await anyio.lowlevel.checkpoint()
                    engine.doors[2].set()
                engine.doors[0].set()

    run(main)


async def _reserve(admission: mt.AdmissionController, need_bytes: int) -> None:
    async with admission.reserve(need_bytes):
        pass


def test_while_others_wait_a_job_has_one_chunk_in_work(run: Run, tone: Path) -> None:
    """Further slots are free, but somebody waits for memory: what it waits for does not become less."""
    engine = Counting()

    async def main() -> None:
        guard = mt.MemoryGuard(limit_bytes=16 * 1024 * mt.MiB)
        admission = mt.AdmissionController(guard=guard, scope="process", max_concurrent=3)
        most = admission.reserve_nowait(8 * 1024 * mt.MiB, slot=False)
        async with anyio.create_task_group() as tasks:
            async with mt.ChunkedTranscriber(engine, admission=admission, chunk_seconds=2).stream(tone) as stream:
                tasks.start_soon(_reserve, admission, 2 * 1024 * mt.MiB)
                while not admission.statistics().waiting:
                    await anyio.lowlevel.checkpoint()
                assert [segment async for segment in stream]
            tasks.cancel_scope.cancel()
        most.release()
        assert engine.most_inside == 1

    run(main)


def test_many_jobs_of_many_chunks_never_run_more_than_the_limit(run: Run, tone: Path) -> None:
    """The audit's case: batch(5) x chunks(4) and three slots; every job gets all its words."""
    engine = Counting()

    async def main() -> None:
        admission = mt.AdmissionController(scope="process")
        texts = []

        async def job() -> None:
            transcriber = mt.ChunkedTranscriber(engine, admission=admission, chunk_seconds=2)
            texts.append((await transcriber.transcribe(tone)).text)

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(job)
        assert texts == [" ".join(WORDS)] * 5
        assert engine.most_inside <= 3
        assert (admission.statistics().peak_active, admission.statistics().active) == (3, 0)

    run(main)


def test_cancelling_stops_every_chunk(run: Run, tone: Path) -> None:
    """Nobody is inside, and nothing is held, when the job has ended."""
    engine = Held()

    async def main() -> None:
        admission = mt.AdmissionController(scope="process")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(mt.ChunkedTranscriber(engine, admission=admission, chunk_seconds=2).transcribe, tone)
            await engine.until({0, 1, 2})
            tasks.cancel_scope.cancel()
        assert engine.inside == set()
        assert (admission.statistics().active, admission.statistics().reserved_bytes) == (0, 0)
        assert psutil.Process().children() == []

    run(main)


def test_a_reader_that_gives_up_a_segment_goes_on_later(run: Run, tone: Path) -> None:
    """`anext` under a timeout: what was in work stays in work."""
    engine = Held()

    async def main() -> None:
        transcriber = mt.ChunkedTranscriber(engine, admission=mt.AdmissionController(scope="process"), chunk_seconds=10)
        async with transcriber.stream(tone) as stream:
            for _ in range(5):
                with anyio.move_on_after(0):
                    await anext(stream)
            with anyio.move_on_after(0.2):
                await anext(stream)
            words = []
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_open_all_doors, engine)
                async for segment in stream:
                    words += [word.text for word in segment.words]
                tasks.cancel_scope.cancel()
            assert words == WORDS

    run(main)


async def _open_all_doors(engine: Held) -> None:
    while True:
        changed = engine.changed
        for door in engine.doors.values():
            door.set()
        await changed.wait()


def _threads_engine(engine: SpeechClock, may_end: threading.Event, begun: Callable[[], None]) -> object:
    class Blocking:
        capabilities = mt.Capabilities(max_chunk_seconds=300, timestamps="word", concurrency=3, is_thread_safe=True)

        def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
            begun()
            assert may_end.wait(30)
            return asyncio.run(engine.transcribe(chunk, context))

    return Blocking()


def test_threads_of_all_chunks_are_waited_for(run: Run, tone: Path) -> None:
    """An engine that is not async runs in as many threads; each keeps its slot until it ends."""

    async def main() -> None:
        admission = mt.AdmissionController(scope="process")
        may_end, token = threading.Event(), anyio.lowlevel.current_token()
        begun, three = 0, anyio.Event()

        def begin() -> None:
            nonlocal begun
            begun += 1
            if begun == 3:
                three.set()

        engine = _threads_engine(SpeechClock(), may_end, lambda: anyio.from_thread.run_sync(begin, token=token))
        transcriber = mt.ChunkedTranscriber(engine, admission=admission, chunk_seconds=2)  # type: ignore[arg-type]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(transcriber.transcribe, tone)
            await three.wait()
            tasks.cancel_scope.cancel()
            assert admission.statistics().active == 3
            may_end.set()
        assert (admission.statistics().active, admission.statistics().reserved_bytes) == (0, 0)

    run(main)


def test_threads_are_in_turn_where_an_engine_is_not_safe(run: Run, tone: Path) -> None:
    """One at a time, over all jobs: a plain function is taken for one that is not."""
    inside = most = calls = 0
    lock = threading.Lock()

    def engine(chunk: mt.AudioChunk) -> str:
        nonlocal inside, most, calls
        with lock:
            inside, calls = inside + 1, calls + 1
            most = max(most, inside)
        with lock:
            inside -= 1
        return "text"

    async def main() -> None:
        transcriber = mt.ChunkedTranscriber(engine, admission=mt.AdmissionController(scope="process"), chunk_seconds=2)
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(transcriber.transcribe, tone)

    run(main)
    assert (most, calls >= 60) == (1, True)


def test_what_a_block_raises_comes_out_as_it_is(run: Run, tone: Path) -> None:
    """Not in an ExceptionGroup, though tasks run beside the block."""
    engine = Held()

    async def main() -> None:
        admission = mt.AdmissionController(scope="process")
        async with mt.ChunkedTranscriber(engine, admission=admission, chunk_seconds=2).stream(tone) as stream:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.__anext__)
                await engine.until({0, 1, 2})
                tasks.cancel_scope.cancel()
            raise KeyError("the host's own")

    with pytest.raises(KeyError, match="the host's own"):
        run(main)


async def _begun(stream: mt.SegmentStream, engine: Held, inside: set[int]) -> None:
    """These chunks are in work, and nobody waits for them any more."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anext, stream)
        await engine.until(inside)
        tasks.cancel_scope.cancel()


def test_a_chunk_that_was_cancelled_is_no_answer(run: Run, tone: Path) -> None:
    """Who cancels its own scope, and only then waits, is cancelled after the chunk's task is: it hears of no end."""
    engine = Held()

    async def main() -> None:
        transcriber = mt.ChunkedTranscriber(engine, chunk_seconds=300)
        with anyio.CancelScope() as scope:
            async with transcriber.stream(tone) as stream:
                await _begun(stream, engine, {0})
                scope.cancel()
                pytest.fail(f"it came to an end: {[segment async for segment in stream]}")
        assert scope.cancelled_caught

    run(main)


def test_who_waits_in_another_task_is_told_that_the_block_has_ended(run: Run, tone: Path) -> None:
    """It is not left to wait for a chunk that nobody works on."""
    engine = Held()

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            async with mt.ChunkedTranscriber(engine, chunk_seconds=10).stream(tone) as stream:
                tasks.start_soon(_told_of_the_end, stream)
                await engine.until({0, 1})

    run(main)


async def _told_of_the_end(stream: mt.SegmentStream) -> None:
    with pytest.raises(RuntimeError, match=r"the block of stream\(\) has ended"):
        await anext(stream)


def test_an_engine_that_cancels_itself_ends_the_job(tone: Path) -> None:
    """Some SDKs do, on asyncio: what was not heard is not taken for silence."""

    async def cancels_itself(chunk: mt.AudioChunk) -> str:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(mt.ChunkedTranscriber(cancels_itself).transcribe(tone))
