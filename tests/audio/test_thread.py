"""Decoding in a thread of this process: the same samples, and as little left behind."""

import asyncio
import threading
from pathlib import Path

import anyio
import psutil
import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._audio import decoding

from ..conftest import Run
from ..plugin.speech_clock import SpeechClock
from ..support.media import SPEECH, tone_samples, write_encoded, write_long_mp3, write_wav
from ..support.segments import pydub

NAMES = [("a.wav", "pcm_s16le"), ("a.flac", "flac"), ("a.ogg", "libopus"), ("a.m4a", "aac"), ("a.webm", "libopus")]


class Heard(SpeechClock):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.data: list[bytes] = []

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        self.data.append(chunk.data)
        return await super().transcribe(chunk, context)


def in_thread(engine: object = None, **arguments: float) -> mt.ChunkedTranscriber:
    """With an admission of its own."""
    admission = mt.AdmissionController(scope="process")
    return mt.ChunkedTranscriber(engine or SpeechClock(), admission=admission, isolation="thread", **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "codec"), NAMES)
def test_it_is_the_same_audio(run: Run, tmp_path: Path, name: str, codec: str) -> None:
    """To the last sample, and no process was started for it."""
    path = write_encoded(tmp_path / name, codec, 5.0)
    heard, expected = Heard(), Heard()

    async def main() -> None:
        async with in_thread(heard).stream(path) as stream:
            assert psutil.Process().children() == []
            assert [segment async for segment in stream]
        await mt.ChunkedTranscriber(expected, admission=mt.AdmissionController(scope="process")).transcribe(path)

    run(main)
    assert heard.data == expected.data
    assert len(heard.data[0]) > 100_000


def test_a_segment_in_memory_goes_through_it_too(run: Run) -> None:
    """By a pipe, as to a process."""
    segment = pydub.AudioSegment(data=tone_samples(7.0), sample_width=2, frame_rate=16_000, channels=1)
    engine = Heard()
    run(in_thread(engine).transcribe, segment)
    assert engine.data[0][44:] == tone_samples(7.0)


def test_a_plan_may_be_made_in_it(run: Run) -> None:
    """Reading the header, and no farther."""
    assert run(in_thread().plan, SPEECH).duration_seconds == pytest.approx(31.57, abs=0.1)


def test_what_is_no_audio_or_too_long_is_refused(run: Run, tmp_path: Path) -> None:
    """With the same errors."""
    (tmp_path / "a.mp3").write_text("ffconcat version 1.0\nfile other.wav\n")
    with pytest.raises(mt.UnsupportedMediaError, match="ffconcat playlist"):
        run(in_thread().transcribe, tmp_path / "a.mp3")
    path = write_wav(tmp_path / "a.wav", tone_samples(20.0))
    with pytest.raises(mt.AudioLimitError, match="max_audio_seconds=10"):
        run(in_thread(max_audio_seconds=10).transcribe, path)


@pytest.mark.parametrize("error", [MemoryError("no more"), RuntimeError("no more"), SystemExit("no more")])
def test_what_goes_wrong_in_it_is_an_error_of_the_job(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """With its name; the host goes on."""

    def decode(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(decoding, "decode", decode)
    with pytest.raises(mt.DecoderCrashedError, match=rf"the decoding thread failed: {type(error).__name__}: no more"):
        run(in_thread().transcribe, SPEECH)


def test_leaving_early_ends_the_thread(run: Run, tmp_path: Path) -> None:
    """It hangs in its full pipe, and is let go."""
    path = write_long_mp3(tmp_path / "long.mp3", 3600)

    async def main() -> None:
        before = threading.active_count()
        async with in_thread(chunk_seconds=5).stream(path) as stream:
            assert (await anext(stream)).text
            with pytest.raises(ValueError, match="the host's"):
                async with in_thread(chunk_seconds=5).stream(path) as other:
                    assert (await anext(other)).text
                    raise ValueError("the host's")
        assert threading.active_count() <= before + 2  # idle ones of the pool

    run(main)


def test_cancellation_ends_the_thread(run: Run, tmp_path: Path) -> None:
    """Also while nobody reads."""
    path = write_long_mp3(tmp_path / "long.mp3", 3600)

    async def main() -> None:
        thinking = anyio.Event()

        async def engine(chunk: mt.AudioChunk) -> str:
            thinking.set()
            await anyio.sleep_forever()
            return ""

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(in_thread(engine).transcribe, path)
            await thinking.wait()
            tasks.cancel_scope.cancel()

    run(main)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_native_cancellation_ends_the_thread(tmp_path: Path, times: int) -> None:
    """asyncio's own Task.cancel()."""
    path = write_long_mp3(tmp_path / "long.mp3", 3600)

    async def main() -> None:
        thinking = asyncio.Event()

        async def engine(chunk: mt.AudioChunk) -> str:
            thinking.set()
            await asyncio.sleep(3600)
            return ""

        task = asyncio.create_task(in_thread(engine).transcribe(path))
        await thinking.wait()
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task

    descriptors = psutil.Process().num_fds()
    asyncio.run(main())
    assert psutil.Process().num_fds() == descriptors


def test_isolation_is_one_of_two() -> None:
    """Said at once."""
    with pytest.raises(ValueError, match='isolation must be "process" or "thread"'):
        mt.ChunkedTranscriber(SpeechClock(), isolation="none")  # type: ignore[arg-type]
