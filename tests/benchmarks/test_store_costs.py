"""What the benchmarks of batches showed that a store must not cost."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._store.jobs import ChunkPlan
from memsafe_transcribe._store.store import inside

from ..conftest import Run
from ..store.engines import Teller
from ..support.media import tone_samples, write_wav


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is executed on the connections that are made from now on."""
    seen: list[str] = []
    connect = sqlite3.connect

    def connected(*arguments: Any, **named: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **named)
        connection.set_trace_callback(seen.append)
        return connection

    monkeypatch.setattr(sqlite3, "connect", connected)
    return seen


def test_only_chunks_wait_for_the_disk(run: Run, tmp_path: Path, statements: list[str]) -> None:
    """They are paid for; whatever else a power cut takes, another run finds out again."""
    sources = [write_wav(tmp_path / f"{number}.wav", tone_samples(1.0 + number)) for number in range(3)]

    async def main() -> None:
        async with mt.JobStore(tmp_path / "jobs.sqlite") as store:
            del statements[:]
            batch = mt.BatchTranscriber(mt.ChunkedTranscriber(Teller(), store=store))
            async with batch.run(sources) as outcomes:
                assert [outcome.error async for outcome in outcomes] == [None] * 3

    run(main)
    durable = [number for number, line in enumerate(statements) if line == "PRAGMA synchronous=FULL"]
    transactions = ["".join(statements[number:]).partition("COMMIT")[0] for number in durable]
    assert len(transactions) == 3
    assert all("INSERT INTO chunks" in each for each in transactions)


def test_a_file_that_is_open_is_not_opened_again(run: Run, tmp_path: Path, statements: list[str]) -> None:
    """Each of the library's parts says that it uses it; only the first one costs something."""

    async def main() -> None:
        async with mt.JobStore(tmp_path / "jobs.sqlite") as store:
            del statements[:]
            async with inside(store).database.opened():
                pass
            assert statements == []

    run(main)


def test_cleanup_removes_many_jobs_at_once(run: Run, tmp_path: Path, statements: list[str]) -> None:
    """None that somebody is at work on. The file gets as small as it was."""

    async def main() -> None:
        async with mt.JobStore(tmp_path / "jobs.sqlite") as store:
            await store.cleanup(spool_dir=tmp_path)
            empty_bytes = store.path.stat().st_size
            jobs = inside(store).jobs
            for number in range(250):
                async with jobs.working_on(number.to_bytes(32), may_wait=False) as job:
                    await job.finish(ChunkPlan(1, 1), 1, "[]")
            async with jobs.working_on((77).to_bytes(32), may_wait=False):
                del statements[:]
                assert (await store.cleanup(finished_seconds=0, spool_dir=tmp_path)).jobs == 249
                assert sum(line.startswith("BEGIN") for line in statements) < 10
            assert (await store.cleanup(finished_seconds=0, spool_dir=tmp_path)).jobs == 1
            assert store.path.stat().st_size == empty_bytes

    run(main)
