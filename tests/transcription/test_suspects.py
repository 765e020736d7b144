"""An engine that hears nothing where there is something: its answer stands, and the transcript says so."""

import json
import logging
import re
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._audio.chunker import Span
from memsafe_transcribe._audio.chunks import Cut

from ..conftest import Run
from ..support.media import SPEECH, tone_samples, write_wav

REASON = r"engine '.*' gave no text, though \d+\.\d s of this are 10 dB and more above its noise floor"


class Deaf:
    """Hears nothing where it is told to, and counts how often it is asked."""

    capabilities = mt.Capabilities(max_chunk_seconds=300)

    def __init__(self, answer: Callable[[mt.AudioChunk], Any] = lambda chunk: "") -> None:
        self.asked: list[int] = []
        self._answer = answer

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> Any:
        self.asked.append(chunk.index)
        return self._answer(chunk)


def beeps(seconds: int) -> bytes:
    """A tone for half of each second, over silence."""
    return (tone_samples(0.5) + bytes(16_000)) * seconds


def transcribe(run: Run, engine: Any, source: Path, chunk_seconds: float) -> mt.Transcript:
    transcript: mt.Transcript = run(mt.ChunkedTranscriber(engine, chunk_seconds=chunk_seconds).transcribe, source)
    return transcript


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    "nothing",
    [
        "",
        " \n",
        mt.ChunkResult(words=(mt.Word(" ", 0, 1),), segments=(mt.Segment("", 0, 1),)),
    ],
    ids=["empty", "blank", "blank words and segments"],
)
def test_no_text_for_speech_is_suspect(run: Run, nothing: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Each chunk of it, in order; one warning; complete, and nothing asked or paid for twice."""
    engine = Deaf(lambda chunk: nothing)
    transcript = transcribe(run, engine, SPEECH, 10)
    assert (transcript.status, transcript.text, transcript.gaps) == ("complete", "", ())
    assert engine.asked == [0, 1, 2, 3]
    assert transcript.suspects[0].start_seconds == 0
    assert transcript.suspects[-1].end_seconds == pytest.approx(transcript.duration_seconds, abs=1)
    for left, right in zip(transcript.suspects[:-1], transcript.suspects[1:], strict=True):
        assert left.end_seconds == pytest.approx(right.start_seconds, abs=0.5)
    for suspect in transcript.suspects:
        assert re.fullmatch(REASON, suspect.reason)
    (warning,) = warnings_of(caplog)
    assert warning.startswith("from 0.0 to ")
    assert transcript.suspects[0].reason in warning


def test_only_the_chunk_without_text_is_suspect(run: Run) -> None:
    """The others have theirs; a stream says the same as the whole, in its JSON as well."""
    engine = Deaf(lambda chunk: "" if chunk.index == 2 else "words")

    async def main() -> tuple[tuple[mt.Gap, ...], Any]:
        async with mt.ChunkedTranscriber(engine, chunk_seconds=10).stream(SPEECH) as stream:
            text = "".join([piece async for piece in mt.format_segments(stream, "json")])
        return stream.suspects, json.loads(text)

    suspects, document = run(main)
    transcript = transcribe(run, engine, SPEECH, 10)
    (suspect,) = transcript.suspects
    assert suspects == transcript.suspects
    assert document["suspects"] == transcript.to_dict()["suspects"]
    assert document["suspects"][0]["reason"] == suspect.reason
    assert 12 < suspect.start_seconds < suspect.end_seconds < 29
    assert transcript.text == "words words words"


@pytest.mark.parametrize(
    ("what", "samples"),
    [
        ("a steady tone", tone_samples(20)),
        ("silence with a cough", tone_samples(0.5) + bytes(4 * 32_000) + tone_samples(0.5)),
        ("all silence", bytes(20 * 32_000)),
    ],
)
def test_what_is_not_clearly_voiced_is_not_suspect(
    run: Run, tmp_path: Path, what: str, samples: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """An engine is right to hear nothing there."""
    transcript = transcribe(run, Deaf(), write_wav(tmp_path / "sound.wav", samples), 60)
    assert (transcript.suspects, transcript.text, warnings_of(caplog)) == ((), "", []), what


@pytest.mark.parametrize(("seconds", "is_suspect"), [(5, False), (7, True)])
def test_three_seconds_of_clear_sound_are_suspect(run: Run, tmp_path: Path, seconds: int, is_suspect: bool) -> None:
    """Two and a half are not, over however long a time."""
    source = write_wav(tmp_path / "beeps.wav", beeps(seconds) + bytes(4 * 32_000) + tone_samples(0.2))
    assert bool(transcribe(run, Deaf(), source, 60).suspects) == is_suspect


def test_what_the_neighbours_answer_for_does_not_count() -> None:
    """Of four seconds of overlap and five of the core, those of the core; however much silence was taken off it."""
    loud, quiet = [1e-2] * 200, [1e-5] * 200
    levels = array("f", loud + quiet + loud * 2 + quiet + [1e-2] * 100 + loud)
    overlapping = Cut(Span(2 * 16_000, 11 * 16_000 - 80, 0, 13 * 16_000 - 80), b"", levels)
    assert overlapping.clear_seconds == pytest.approx(5.0, abs=0.01)
    trimmed = Cut(Span(0, 40 * 16_000, 2 * 16_000, 15 * 16_000), b"", levels)
    assert trimmed.clear_seconds == pytest.approx(9.0, abs=0.01)


def test_of_a_chunk_that_is_cut_in_two_each_half_is_judged(run: Run) -> None:
    """One has text, the other is suspect: its span alone."""

    def answer(chunk: mt.AudioChunk) -> str:
        if chunk.duration_seconds > 20:
            raise mt.ChunkTooLargeError("too much")
        return "" if chunk.start_seconds > 0 else "words"

    transcript = transcribe(run, Deaf(answer), SPEECH, 60)
    (suspect,) = transcript.suspects
    assert 10 < suspect.start_seconds < 21
    assert suspect.end_seconds == pytest.approx(transcript.duration_seconds, abs=1)


def test_each_job_warns_once(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Also by one transcriber."""
    engine = Deaf()

    async def main() -> None:
        transcriber = mt.ChunkedTranscriber(engine, chunk_seconds=10)
        for _ in range(2):
            await transcriber.transcribe(SPEECH)

    run(main)
    assert len(warnings_of(caplog)) == 2
