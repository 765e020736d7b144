"""What a stream makes of its chunks where the order of things is the test's to say."""

from array import array
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass

import anyio
import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._audio.chunker import Span
from memsafe_transcribe._audio.chunks import Cut
from memsafe_transcribe._audio.encoding import wav
from memsafe_transcribe._tasks import background
from memsafe_transcribe._transcription.asking import Asker, OnError
from memsafe_transcribe._transcription.recording import NotRecorded
from memsafe_transcribe._transcription.registry import EngineLike, resolve
from memsafe_transcribe._transcription.replaying import Replay
from memsafe_transcribe._transcription.stream import SegmentStream, gathered
from memsafe_transcribe.testing import FakeEngine

from ..conftest import Run

_CHUNK_SAMPLES = 10 * 16_000


@dataclass(frozen=True)
class _Info:
    duration_seconds: float | None = None


class _Audio:
    """Audio of so many chunks, each of ten seconds of sound, whose header tells no length.

    Attributes:
        is_waited_for: set when what comes behind the first `at_once` chunks is asked for.
        may_go_on: until then that is not given.
    """

    gaps: tuple[mt.Gap, ...] = ()
    info = _Info()

    def __init__(self, chunks: int, at_once: int) -> None:
        self.is_waited_for = anyio.Event()
        self.may_go_on = anyio.Event()
        self._chunks = chunks
        self._at_once = at_once
        self._given = 0

    async def read(self) -> Cut | None:
        if self._given == self._at_once:
            self.is_waited_for.set()
            await self.may_go_on.wait()
        if self._given == self._chunks:
            return None
        start = self._given * _CHUNK_SAMPLES
        self._given += 1
        span = Span(start, start + _CHUNK_SAMPLES, start, start + _CHUNK_SAMPLES)
        return Cut(span, wav([bytes(2 * _CHUNK_SAMPLES)], 16_000), array("f", [0.1] * (_CHUNK_SAMPLES // 160)))


class _Job(Replay):
    """One that lets four chunks be done at once, and tells nobody."""

    concurrency = 4

    def __init__(self) -> None:
        super().__init__(0.0, lambda progress: None)


class _Recorder(NotRecorded):
    """Notes what is called all of the audio."""

    def __init__(self) -> None:
        self.finished: list[int] = []

    async def finish(self, total_samples: int, gaps: Iterable[mt.Gap]) -> None:
        self.finished.append(total_samples)


def _stream(
    engine: EngineLike, audio: _Audio, tasks: anyio.abc.TaskGroup, recorder: _Recorder, on_error: OnError = "raise"
) -> SegmentStream:
    job = _Job()
    asker = Asker(resolve(engine, None), mt.ChunkContext(), on_error, job.may_call, recorder, lambda: None)
    return SegmentStream(asker, audio, audio, job, recorder, tasks, None)


async def _told_of_the_end(stream: SegmentStream) -> None:
    with anyio.fail_after(10), pytest.raises(RuntimeError, match=r"the block of stream\(\) has ended"):
        await anext(stream)


@pytest.mark.parametrize("chunks", [1, 3])
def test_what_ends_while_its_block_ends_is_not_kept_as_finished(run: Run, chunks: int) -> None:
    """Another task waits for the audio's next chunk, and there is none: but what was in work was dropped before."""
    engine, recorder = FakeEngine(), _Recorder()
    engine.hold()

    async def main() -> None:
        audio = _Audio(chunks, chunks)
        async with anyio.create_task_group() as readers:
            async with background() as tasks:
                stream = _stream(engine, audio, tasks, recorder)
                readers.start_soon(_told_of_the_end, stream)
                await audio.is_waited_for.wait()
                await engine.wait_for_calls(chunks)
                stream.close()
            audio.may_go_on.set()

    run(main)
    assert recorder.finished == []


def test_a_chunk_that_comes_while_its_block_ends_is_not_waited_for(run: Run) -> None:
    """Nobody would work on it any more."""

    async def main() -> None:
        audio = _Audio(2, 1)
        async with anyio.create_task_group() as readers:
            async with background() as tasks:
                stream = _stream(FakeEngine(), audio, tasks, _Recorder())
                readers.start_soon(_told_of_the_end, stream)
                await audio.is_waited_for.wait()
                stream.close()
            audio.may_go_on.set()

    run(main)


@pytest.mark.parametrize("failing", ["first half", "second half"])
def test_where_a_job_stops_all_that_was_read_is_in_the_gap(run: Run, failing: str) -> None:
    """Also what no header tells of: the rest of a chunk that was cut in two, and the chunks behind it."""

    async def engine(chunk: mt.AudioChunk) -> str:
        if chunk.index == 0 and chunk.duration_seconds > 9:
            raise mt.ChunkTooLargeError("too much")
        if chunk.index == 0 and failing == ("second half" if chunk.start_seconds else "first half"):
            raise ValueError("not this")
        return "heard"

    async def main() -> mt.Transcript:
        audio = _Audio(3, 3)
        audio.may_go_on.set()
        async with background() as tasks:
            with closing(_stream(engine, audio, tasks, _Recorder(), "stop")) as stream:
                return await gathered(stream)

    (gap,) = run(main).gaps
    assert (gap.start_seconds > 0, gap.end_seconds) == (failing == "second half", 30.0)
