"""`on_job`: each job is told of once, when it has ended, whatever ended it."""

import logging
from pathlib import Path

import anyio
import pytest

import memsafe_transcribe as mt

from ..conftest import Run
from ..store.engines import Teller
from ..support.media import tone_samples, write_wav


@pytest.fixture
def tone(tmp_path: Path) -> Path:
    """Three seconds of it."""
    return write_wav(tmp_path / "tone.wav", tone_samples(3.0))


def test_a_job_is_told_of_when_it_has_ended(run: Run, tone: Path, tmp_path: Path) -> None:
    """What it did; from the store, too; and of a batch each."""
    told: list[mt.JobReport] = []
    engine = Teller()
    transcriber = mt.ChunkedTranscriber(
        engine, chunk_seconds=1.0, store=mt.JobStore(tmp_path / "jobs.sqlite"), on_job=told.append
    )

    async def main() -> None:
        for _ in range(2):
            await transcriber.transcribe(tone)
        async with mt.BatchTranscriber(transcriber).run([tone]) as outcomes:
            async for outcome in outcomes:
                assert outcome.error is None

    run(main)
    assert len(told) == 3
    for report in told:
        assert (report.engine, report.status, report.duration_seconds) == ("Teller", "complete", 3.0)
        assert (report.chunks, report.error_type) == (len(engine.asked), None)
        assert report.took_seconds > 0


def test_so_is_one_that_fails_or_is_stopped(run: Run, tone: Path, tmp_path: Path) -> None:
    """Before it begins, by its engine, by a reader that leaves, and by cancellation."""
    told: list[mt.JobReport] = []

    async def main() -> None:
        transcriber = mt.ChunkedTranscriber(Teller(fails_at={1}), chunk_seconds=1.0, on_job=told.append)
        with pytest.raises(FileNotFoundError):
            await transcriber.transcribe(tmp_path / "missing")
        with pytest.raises(mt.TranscriberFailedError):
            await transcriber.transcribe(tone)
        async with transcriber.stream(tone) as segments:
            await anext(segments)
        with anyio.CancelScope() as scope:
            async with transcriber.stream(tone):
                scope.cancel()
                await anyio.sleep_forever()

    run(main)
    assert [(report.status, report.error_type) for report in told] == [
        ("failed", "FileNotFoundError"),
        ("failed", "TranscriberFailedError"),
        ("stopped", None),
        ("stopped", None),
    ]
    assert [report.chunks > 0 for report in told] == [False, True, True, False]


def test_a_callback_that_fails_harms_no_job(run: Run, tone: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged."""

    def fail(report: mt.JobReport) -> None:
        raise KeyError(report.engine)

    transcript = run(mt.ChunkedTranscriber(Teller(), on_job=fail).transcribe, tone)
    assert transcript.status == "complete"
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("memsafe_transcribe", logging.ERROR)
    assert record.message == "a callback on_job failed"
