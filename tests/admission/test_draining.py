"""Draining: a process that is about to end lets nothing in, finishes what is in flight, and can be gone on with."""

from pathlib import Path

import anyio
import pytest

import memsafe_transcribe as mt

from ..conftest import Run
from ..store.engines import Teller
from ..support.media import tone_samples, write_wav


def test_nobody_is_let_in_and_whoever_waits_is_sent_away(run: Run) -> None:
    """At once, with the time after which another process may be there; what is held stays held."""

    async def main() -> None:
        admission = mt.AdmissionController(max_concurrent=1, scope="process")
        refused: list[mt.DrainingError] = []

        async def wait() -> None:
            try:
                async with admission.reserve(0):
                    pytest.fail("it was let in")
            except mt.DrainingError as error:
                refused.append(error)

        held = admission.reserve_nowait(1000)
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(wait)
            while admission.statistics().waiting < 3:  # the first of them looks again and again: never blocked
                await anyio.lowlevel.checkpoint()
            admission.drain()
            while len(refused) < 3:
                await anyio.lowlevel.checkpoint()
            assert (len(refused), admission.statistics().waiting, held.need_bytes) == (3, 0, 1000)
            with pytest.raises(mt.DrainingError, match="about to end"):
                admission.reserve_nowait(0)
            assert not await admission.wait_until_drained(timeout_seconds=0)
        held.release()
        assert await admission.wait_until_drained(timeout_seconds=10)
        assert refused[0].retry_after_seconds == 5.0

    run(main)


def test_a_job_ends_when_what_is_in_flight_is_stored(run: Run, tmp_path: Path) -> None:
    """No chunk is begun after that; another controller (another process) goes on, and pays for nothing twice."""
    path = write_wav(tmp_path / "tone.wav", tone_samples(10.0))
    store, engine = mt.JobStore(tmp_path / "jobs.sqlite"), Teller()

    async def drained() -> None:
        admission = mt.AdmissionController(scope="process")
        transcriber = mt.ChunkedTranscriber(engine, chunk_seconds=1.0, store=store, admission=admission)
        async with transcriber.stream(path) as segments:
            await anext(segments)
            asked = len(engine.asked)
            admission.drain()
            with pytest.raises(mt.DrainingError):
                async for _ in segments:
                    pass
            assert len(engine.asked) <= asked + 1

    async def resumed() -> mt.Transcript:
        return await mt.ChunkedTranscriber(engine, chunk_seconds=1.0, store=store).transcribe(path)

    run(drained)
    whole = run(resumed)
    assert len(engine.asked) == len(set(engine.asked)) > 8
    assert whole.status == "complete"


def test_a_batch_ends_and_goes_on_elsewhere(run: Run, tmp_path: Path) -> None:
    """Draining is held against no source: the next run does what this one left."""
    paths = [write_wav(tmp_path / f"{number}.wav", tone_samples(2.0 + number)) for number in range(4)]
    store, engine = mt.JobStore(tmp_path / "jobs.sqlite"), Teller()

    async def once(*, drain: bool) -> list[mt.Outcome]:
        admission = mt.AdmissionController(scope="process", max_concurrent=1)
        batch = mt.BatchTranscriber(mt.ChunkedTranscriber(engine, store=store, admission=admission), max_batch_size=1)
        found = []
        async with batch.run(paths) as outcomes:
            async for outcome in outcomes:
                found.append(outcome)
                if drain:
                    admission.drain()
        return found

    with pytest.raises(mt.DrainingError):
        run(lambda: once(drain=True))
    found = run(lambda: once(drain=False))
    assert [outcome.error for outcome in found] == [None] * 4
    assert len(engine.asked) == 4
