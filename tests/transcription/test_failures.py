"""What an engine's errors are to its job: asked again, cut in two, marked, or the end."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._memory.pressure import Term

from ..conftest import Run
from ..plugin.speech_clock import SpeechClock
from ..support.media import tone_samples, write_wav
from ..support.memory import tell

WORDS = [f"word{number}" for number in range(100)]


class Failing(SpeechClock):
    """Says the words of each chunk, but first raises what it is told to."""

    def __init__(
        self, fail: Callable[[mt.AudioChunk, mt.ChunkContext], Exception | None], concurrency: int = 1
    ) -> None:
        self.capabilities = replace(SpeechClock.capabilities, concurrency=concurrency)
        self.attempts: list[tuple[int, int]] = []
        self._fail = fail

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        self.attempts.append((chunk.index, context.attempt))
        if (error := self._fail(chunk, context)) is not None:
            raise error
        return await super().transcribe(chunk, context)


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: low)


@pytest.fixture
def tone(tmp_path: Path) -> Path:
    """Forty seconds without a pause: a hundred words."""
    return write_wav(tmp_path / "tone.wav", tone_samples(40.0))


def transcribe(run: Run, engine: Any, source: Path, on_error: Any = "raise", **arguments: Any) -> mt.Transcript:
    """Cut into chunks of about four seconds; whatever happens, nothing stays reserved."""

    async def main() -> mt.Transcript:
        admission = mt.AdmissionController(scope="process")
        transcriber = mt.ChunkedTranscriber(engine, admission=admission, chunk_seconds=4, on_error=on_error)
        try:
            transcript: mt.Transcript = await transcriber.transcribe(source, **arguments)
        finally:
            assert (admission.statistics().active, admission.statistics().reserved_bytes) == (0, 0)
        return transcript

    result: mt.Transcript = run(main)
    return result


def in_chunk(index: int, error: Exception) -> Callable[[mt.AudioChunk, mt.ChunkContext], Exception | None]:
    """Fail there and nowhere else."""
    return lambda chunk, context: error if chunk.index == index else None


@pytest.mark.parametrize("concurrency", [1, 3])
def test_raise_ends_the_job_when_all_before_is_out(run: Run, tone: Path, concurrency: int) -> None:
    """The error names engine, chunk and time, and has the engine's own as its cause; nothing heard is held back."""
    words: list[str] = []
    engine = Failing(in_chunk(4, KeyError("no such voice")), concurrency)

    async def main() -> None:
        admission = mt.AdmissionController(scope="process")
        async with mt.ChunkedTranscriber(engine, admission=admission, chunk_seconds=4).stream(tone) as stream:
            with pytest.raises(
                mt.TranscriberFailedError, match=r"engine '.*Failing' failed on chunk 4 \(from"
            ) as caught:
                async for segment in stream:
                    words.extend(word.text for word in segment.words)
            assert isinstance(caught.value.__cause__, KeyError)
            assert (caught.value.chunk_index, caught.value.retryable) == (4, False)
            assert 7 < caught.value.start_seconds < 16
            assert [segment async for segment in stream] == []

    run(main)
    assert words == WORDS[: len(words)]
    assert 20 <= len(words) <= 40
    assert (4, 2) not in engine.attempts


@pytest.mark.parametrize("concurrency", [1, 3])
def test_mark_goes_on_and_lists_the_gap(run: Run, tone: Path, concurrency: int) -> None:
    """Every word that lies outside the gap is there, at its time."""
    transcript = transcribe(run, Failing(in_chunk(4, KeyError("no")), concurrency), tone, "mark")
    (gap,) = transcript.gaps
    assert (transcript.status, transcript.duration_seconds) == ("partial", 40.0)
    assert "failed on chunk 4" in gap.reason
    assert "KeyError" in gap.reason
    assert 2.5 < gap.end_seconds - gap.start_seconds <= 5
    lost = {word for word in WORDS if word not in {each.text for each in transcript.words}}
    inside = {word for n, word in enumerate(WORDS) if gap.start_seconds <= n * 0.4 + 0.2 < gap.end_seconds}
    assert lost <= inside
    assert len(inside) - len(lost) <= 6  # the neighbours heard two seconds of it
    assert all(word.start_seconds == pytest.approx(int(word.text[4:]) * 0.4) for word in transcript.words)


def test_stop_returns_what_there_is(run: Run, tone: Path) -> None:
    """The gap reaches to the end, as far as the header tells it; no chunk behind it is asked for."""
    engine = Failing(in_chunk(4, KeyError("no")))
    transcript = transcribe(run, engine, tone, "stop")
    (gap,) = transcript.gaps
    assert (transcript.status, gap.end_seconds) == ("partial", 40.0)
    assert [word.text for word in transcript.words] == WORDS[: len(transcript.words)]
    assert gap.start_seconds < len(transcript.words) * 0.4 < gap.start_seconds + 2.5
    assert engine.attempts[-1] == (4, 1)


def test_all_chunks_may_fail(run: Run, tone: Path) -> None:
    """Nothing but a gap: not silent, and no error."""
    transcript = transcribe(run, Failing(lambda chunk, context: KeyError("no")), tone, "mark")
    assert (transcript.status, transcript.text) == ("partial", "")
    assert transcript.gaps[0].start_seconds == 0
    assert transcript.gaps[-1].end_seconds == 40.0


@pytest.mark.parametrize(
    "error", [mt.TranscriberUnavailableError("busy"), ConnectionResetError("reset"), TimeoutError("late")]
)
def test_what_may_pass_is_asked_again(run: Run, tone: Path, error: Exception) -> None:
    """The engine is told which attempt it is; nobody notices anything else."""
    engine = Failing(lambda chunk, context: error if chunk.index == 2 and context.attempt < 4 else None)
    transcript = transcribe(run, engine, tone)
    assert [word.text for word in transcript.words] == WORDS
    assert transcript.status == "complete"
    assert [attempt for index, attempt in engine.attempts if index == 2] == [1, 2, 3, 4]


def test_what_does_not_pass_is_given_up(run: Run, tone: Path) -> None:
    """After five attempts; the error says so, and that another day may be better."""
    engine = Failing(in_chunk(1, mt.TranscriberUnavailableError("busy")))
    with pytest.raises(mt.TranscriberFailedError, match=r"busy \(after 5 attempts\)") as caught:
        transcribe(run, engine, tone)
    assert caught.value.retryable
    assert [attempt for index, attempt in engine.attempts if index == 1] == [1, 2, 3, 4, 5]


def test_an_engine_is_left_alone_for_as_long_as_it_asks(run: Run, tone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly, and without any luck in it."""
    pauses: list[float] = []
    sleep = anyio.sleep

    async def note(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(anyio, "sleep", note)
    busy = mt.TranscriberUnavailableError("busy", retry_after_seconds=7.5)
    engine = Failing(lambda chunk, context: busy if (chunk.index, context.attempt) == (1, 1) else None)
    assert transcribe(run, engine, tone).status == "complete"
    assert pauses == [7.5]


@pytest.mark.parametrize("deadline_seconds", [20.0, None])
def test_an_engine_that_asks_for_more_time_than_there_is_is_given_up_at_once(
    run: Run, tone: Path, deadline_seconds: float | None
) -> None:
    """With both figures; without a deadline nobody waits for longer than five minutes."""
    engine = Failing(in_chunk(1, mt.TranscriberUnavailableError("busy", retry_after_seconds=3600)))
    left = "19|20" if deadline_seconds else "300"
    with pytest.raises(mt.TranscriberFailedError, match=rf"asks for 3600 s; ({left}) s can be waited"):
        transcribe(run, engine, tone, deadline_seconds=deadline_seconds)
    assert engine.attempts[-1] == (1, 1)


@pytest.mark.parametrize("wait", ["7", float("nan"), float("inf"), pytest.param(10**400, id="beyond all floats")])
@pytest.mark.parametrize("is_set_later", [False, True])
def test_a_wait_that_is_no_number_is_the_engines_failure(run: Run, tone: Path, wait: Any, is_set_later: bool) -> None:
    """As a header's text is. It names engine and argument, whether the error was made with it or got it later."""

    def busy(chunk: mt.AudioChunk, context: mt.ChunkContext) -> Exception:
        if not is_set_later:
            return mt.TranscriberUnavailableError("busy", retry_after_seconds=wait)
        error = mt.TranscriberUnavailableError("busy")
        error.retry_after_seconds = wait
        return error

    with pytest.raises(
        mt.TranscriberFailedError, match=r"engine '.*Failing' failed .*retry_after_seconds must be a .*number"
    ):
        transcribe(run, Failing(busy), tone)
    transcript = transcribe(run, Failing(busy), tone, "mark")
    assert (transcript.status, transcript.text) == ("partial", "")


def test_a_wait_until_a_time_that_has_passed_is_none(run: Run, tone: Path) -> None:
    """A date in a header may be over by the time that it is read: the chunk is asked for again at once."""
    busy = mt.TranscriberUnavailableError("busy", retry_after_seconds=-1.0)
    later = mt.TranscriberUnavailableError("busy")
    later.retry_after_seconds = -1.0
    assert (busy.retry_after_seconds, mt.TranscriberUnavailableError("busy").retry_after_seconds) == (0.0, None)
    answers: list[Exception | None] = [None, later, busy]
    engine = Failing(lambda chunk, context: answers.pop() if chunk.index == 1 else None)
    assert transcribe(run, engine, tone).status == "complete"
    assert [attempt for index, attempt in engine.attempts if index == 1] == [1, 2, 3]


def test_no_pause_is_longer_than_what_is_left(run: Run, tone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job ends while there is time to say why, and not by its deadline; pauses double until then."""
    pauses: list[float] = []

    async def note(seconds: float, sleep: Callable[[float], Any] = anyio.sleep) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    monkeypatch.setattr(anyio, "sleep", note)
    engine = Failing(in_chunk(0, mt.TranscriberUnavailableError("busy")))
    with pytest.raises(mt.TranscriberFailedError, match=r"busy \(at attempt 4, with [4-7]\.\d s left\)") as caught:
        transcribe(run, engine, tone, deadline_seconds=7.9)
    assert caught.value.retryable
    assert pauses == [1.0, 2.0, 4.0]


def test_an_engine_is_not_asked_again_at_the_ceiling(run: Run, tone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory ran out while it failed at the last chunk: the job fails at the deadline, and all before is out."""
    limit = Term("limit", "cgroup v2 /full", "memory.max", 1024 * mt.MiB, 0, 0)
    memory = tell(monkeypatch, limit)
    words: list[str] = []

    def fail(chunk: mt.AudioChunk, context: mt.ChunkContext) -> Exception | None:
        if chunk.start_seconds + chunk.duration_seconds < 40:
            return None
        memory.say(replace(limit, used_bytes=1000 * mt.MiB))
        return mt.TranscriberUnavailableError("busy")

    engine = Failing(fail, concurrency=2)

    async def main() -> None:
        admission = mt.AdmissionController(guard=mt.MemoryGuard(), scope="process")
        transcriber = mt.ChunkedTranscriber(engine, admission=admission, chunk_seconds=4)
        with anyio.fail_after(3):
            async with transcriber.stream(tone) as stream:
                with pytest.raises(mt.MemoryPressureError, match=r"used by cgroup v2 /full"):
                    async for segment in stream:
                        words.extend(word.text for word in segment.words)
                assert [segment async for segment in stream] == []
        assert (admission.statistics().active, admission.statistics().reserved_bytes) == (0, 0)

    run(main)
    assert words == WORDS[: len(words)]
    assert 80 < len(words) < 100
    assert {attempt for _, attempt in engine.attempts} == {1}


@pytest.mark.parametrize("on_error", ["raise", "mark", "stop"])
def test_a_used_up_quota_ends_every_job(run: Run, tone: Path, on_error: str) -> None:
    """It is not asked again, nor for the chunks that follow: each would be refused like it."""
    engine = Failing(lambda chunk, context: mt.TranscriberQuotaError("1500 a day") if chunk.index >= 3 else None)
    if on_error == "raise":
        with pytest.raises(mt.TranscriberFailedError, match="1500 a day") as caught:
            transcribe(run, engine, tone, on_error)
        assert isinstance(caught.value.__cause__, mt.TranscriberQuotaError)
        assert caught.value.retryable
    else:
        transcript = transcribe(run, engine, tone, on_error)
        assert (transcript.status, len(transcript.gaps), transcript.gaps[0].end_seconds) == ("partial", 1, 40.0)
        assert [word.text for word in transcript.words] == WORDS[: len(transcript.words)]
    assert engine.attempts == [(0, 1), (1, 1), (2, 1), (3, 1)]


@pytest.mark.parametrize("error", [mt.ChunkTooLargeError("MAX_TOKENS"), MemoryError()])
@pytest.mark.parametrize("most_seconds", [5.0, 4.0, 3.0])
def test_what_is_too_large_is_cut_in_two(run: Run, tone: Path, error: Exception, most_seconds: float) -> None:
    """Until it is small enough; every word is there once, at its time."""
    engine = Failing(lambda chunk, context: error if chunk.duration_seconds > most_seconds else None)
    transcript = transcribe(run, engine, tone)
    assert [word.text for word in transcript.words] == WORDS
    assert [word.start_seconds for word in transcript.words] == pytest.approx([number * 0.4 for number in range(100)])
    assert transcript.status == "complete"


def test_what_is_too_large_however_small_is_a_failure(run: Run, tone: Path) -> None:
    """Not an endless halving: parts of less than two seconds are not cut."""
    engine = Failing(in_chunk(1, mt.ChunkTooLargeError("no room")))
    with pytest.raises(mt.TranscriberFailedError, match="no room"):
        transcribe(run, engine, tone)
    marked = transcribe(run, Failing(in_chunk(1, mt.ChunkTooLargeError("no room"))), tone, "mark")
    assert [gap.end_seconds for gap in marked.gaps[:-1]] == [gap.start_seconds for gap in marked.gaps[1:]]
    assert engine.attempts == [(0, 1), (1, 1), (1, 1), (1, 1)]


def test_a_part_that_fails_leaves_the_other(run: Run, tone: Path) -> None:
    """Only its half of the chunk is a gap."""

    answers: list[Exception | None] = [KeyError("second"), None, mt.ChunkTooLargeError("no")]
    engine = Failing(lambda chunk, context: answers.pop() if chunk.index == 2 else None)
    transcript = transcribe(run, engine, tone, "mark")
    (gap,) = transcript.gaps
    assert "second" in gap.reason
    assert gap.end_seconds - gap.start_seconds < 3


def test_system_exit_in_an_engine_is_its_failure(run: Run, tone: Path) -> None:
    """Not the end of the host."""

    def engine(chunk: mt.AudioChunk) -> str:
        raise SystemExit(3)

    with pytest.raises(mt.TranscriberFailedError, match="SystemExit: 3"):
        transcribe(run, engine, tone)


@pytest.mark.parametrize(
    "arguments",
    [
        {"text": None},
        {"language": 3},
        {"words": ("one",)},
        {"words": (mt.Word("one", "0", 1.0),)},  # type: ignore[arg-type]
        {"words": (mt.Word(None, 0.0, 1.0),)},  # type: ignore[arg-type]
        {"segments": (mt.Word("one", 0.0, 1.0),)},
        {"segments": (mt.Segment("one", 0.0, 1.0, words=("one",)),)},  # type: ignore[arg-type]
    ],
)
def test_a_result_of_wrong_types_is_the_engines_failure(run: Run, tone: Path, arguments: dict[str, Any]) -> None:
    """Named where it is made, not deep in the stitching."""
    with pytest.raises(mt.TranscriberFailedError, match=r"TypeError: .*, got "):
        transcribe(run, lambda chunk: mt.ChunkResult(**arguments), tone)


def test_a_failure_behind_a_broken_file_does_not_hide_it(run: Run, tmp_path: Path) -> None:
    """What ends the decoding comes out when all chunks before it have."""
    path = write_wav(tmp_path / "long.wav", tone_samples(40.0))
    seen: list[str] = []

    async def main() -> None:
        transcriber = mt.ChunkedTranscriber(
            SpeechClock(), admission=mt.AdmissionController(scope="process"), chunk_seconds=4, max_audio_seconds=45
        )
        async with transcriber.stream(path) as stream:
            with pytest.raises(mt.DecoderCrashedError, match="SIGKILL"):
                async for segment in stream:
                    if not seen:
                        (decoder,) = psutil.Process().children()
                        decoder.kill()
                    seen.append(segment.text)

    run(main)
    assert seen


def test_on_error_is_one_of_three() -> None:
    """Said at once."""
    with pytest.raises(ValueError, match="on_error must be"):
        mt.ChunkedTranscriber(SpeechClock(), on_error="ignore")  # type: ignore[arg-type]
