"""A batch once more: what has changed since, and what must not be forgotten."""

from pathlib import Path

import memsafe_transcribe as mt

from ..conftest import Run
from ..support.media import tone_samples, write_wav
from .engines import Teller


async def outcomes_of(source: Path, engine: Teller, store: mt.JobStore) -> list[mt.Outcome]:
    transcriber = mt.ChunkedTranscriber(engine, chunk_seconds=1.0, store=store)
    async with mt.BatchTranscriber(transcriber).run([source]) as outcomes:
        return [outcome async for outcome in outcomes]


def test_a_file_that_was_written_to_is_transcribed_anew(run: Run, tmp_path: Path) -> None:
    """Its path does not tell what is in it: a batch that is run again gives the transcript of what is there now."""
    path, store = tmp_path / "file.wav", mt.JobStore(tmp_path / "jobs.sqlite")
    seconds = []
    for length in (3.0, 5.0, 5.0):
        if length not in seconds:
            write_wav(path, tone_samples(length))
        (outcome,) = run(outcomes_of, path, engine := Teller(), store)
        assert outcome.transcript is not None
        seconds.append(outcome.transcript.duration_seconds)
        asked = engine.asked
    assert seconds == [3.0, 5.0, 5.0]
    assert asked == [], "the third time, nothing was new"


def test_a_file_that_was_given_up_and_then_mended_is_tried_again(run: Run, tmp_path: Path) -> None:
    """It was given up for what was in it."""
    path, store = tmp_path / "file.wav", mt.JobStore(tmp_path / "jobs.sqlite")
    path.write_bytes(b"no audio")
    (first,) = run(outcomes_of, path, Teller(), store)
    (second,) = run(outcomes_of, path, Teller(), store)
    assert isinstance(first.error, mt.UnsupportedMediaError)
    assert isinstance(second.error, mt.DeadLetterError)
    write_wav(path, tone_samples(3.0))
    (third,) = run(outcomes_of, path, Teller(), store)
    assert third.error is None
