"""Cleanup: what is old and nobody's goes, at its age; what a live process is at work on stays, however old."""

import io
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._store.jobs import ChunkPlan, StoredChunk
from memsafe_transcribe._store.locks import Lock

from ..conftest import Run
from ..support.media import tone_samples, write_wav
from .engines import Teller
from .other_program import other_program

HOUR, DAY = 3600.0, 86_400.0
URL = "https://example.com/a"


class Clock:
    """The Unix clock of this process, which can be moved."""

    def __init__(self) -> None:
        self.ahead_seconds = 0.0
        self._time = time.time

    def __call__(self) -> float:
        return self._time() + self.ahead_seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """One that tells the time until it is moved."""
    clock = Clock()
    monkeypatch.setattr(time, "time", clock)
    return clock


@pytest.fixture
def store(tmp_path: Path) -> mt.JobStore:
    """An empty one."""
    return mt.JobStore(tmp_path / "jobs.sqlite", busy_timeout_seconds=0.05)


@pytest.fixture
def tones(tmp_path: Path) -> list[Path]:
    """Four sources."""
    return [write_wav(tmp_path / f"{number}.wav", tone_samples(2 + number / 10)) for number in range(4)]


def transcriber(engine: Any, store: mt.JobStore) -> mt.ChunkedTranscriber:
    return mt.ChunkedTranscriber(engine, store=store, chunk_seconds=1.0, isolation="thread")


async def finish(store: mt.JobStore, sources: list[Path], name: str = "default", **options: Any) -> int:
    """Run a batch to its end; how many chunks that asked for."""
    engine = Teller()
    async with mt.BatchTranscriber(transcriber(engine, store)).run(sources, name=name, **options) as outcomes:
        assert [outcome.error async for outcome in outcomes] == [None] * len(sources)
    return len(engine.asked)


async def leave(store: mt.JobStore, sources: list[Path], name: str = "default") -> None:
    """Run a batch until its second chunk, and leave it."""
    with anyio.CancelScope() as scope:

        def hang(number: int, chunk: mt.AudioChunk) -> Any:
            if number == 0:
                return None
            scope.cancel()
            return anyio.sleep_forever()

        engine = Teller(before=hang)
        batch = mt.BatchTranscriber(transcriber(engine, store), max_batch_size=1)
        async with batch.run(sources, name=name) as outcomes:
            async for _ in outcomes:
                pass
    assert scope.cancelled_caught


async def hear(store: mt.JobStore, source: Path, **options: Any) -> int:
    """Transcribe it by itself; how many chunks that asked for."""
    engine = Teller(**options)
    await transcriber(engine, store).transcribe(source)
    return len(engine.asked)


def removed(cleanup: mt.Cleanup) -> tuple[int, int, int]:
    return cleanup.batches, cleanup.jobs, cleanup.failed_urls


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


# -- ages


def test_finished_work_goes_after_a_day_and_unfinished_work_after_a_week(
    run: Run, store: mt.JobStore, tones: list[Path], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Batches with their jobs, jobs by themselves, and failed URLs; the loss of what could be resumed is logged."""

    async def main() -> None:
        await finish(store, tones[:1], "done")
        await leave(store, tones[1:2], "left")
        await hear(store, tones[2])
        with pytest.raises(mt.TranscriberFailedError):
            await hear(store, tones[3], fails_at={1})
        await store.remember(URL, mt.FailedUrl("gone", 404, 1e12))
        clock.ahead_seconds = DAY - HOUR
        assert removed(await store.cleanup()) == (0, 0, 0)
        clock.ahead_seconds = DAY + HOUR
        assert removed(await store.cleanup()) == (1, 2, 0)
        clock.ahead_seconds = 7 * DAY - HOUR
        assert removed(await store.cleanup()) == (0, 0, 0)
        assert await store.find(URL) is not None
        assert warnings_of(caplog) == []
        clock.ahead_seconds = 7 * DAY + HOUR
        assert removed(await store.cleanup()) == (1, 2, 1)
        assert await store.find(URL) is None
        assert warnings_of(caplog) == [
            "batch 'left' was not finished, and is removed: 604800 s without activity",
            "2 unfinished jobs are removed: 604800 s without activity",
        ]
        assert removed(await store.cleanup()) == (0, 0, 0)

    run(main)


def test_ages_are_settings(run: Run, store: mt.JobStore, tones: list[Path], clock: Clock) -> None:
    """Each for itself; those that cannot be are refused at once."""

    async def main() -> None:
        await finish(store, tones[:1])
        await leave(store, tones[1:2], "left")
        await store.remember(URL, mt.FailedUrl("gone", 404, 1e12))
        clock.ahead_seconds = 2 * HOUR
        assert removed(await store.cleanup(finished_seconds=HOUR)) == (1, 1, 0)
        assert removed(await store.cleanup(failed_url_seconds=HOUR)) == (0, 0, 1)
        assert removed(await store.cleanup(unfinished_seconds=3 * HOUR)) == (0, 0, 0)
        assert removed(await store.cleanup(unfinished_seconds=HOUR)) == (1, 1, 0)
        for name in ("finished_seconds", "unfinished_seconds", "failed_url_seconds"):
            with pytest.raises(ValueError, match=name):
                await store.cleanup(**{name: float("nan")})  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="every_seconds"):
            async with store.cleaning(every_seconds=0):
                pass

    run(main)


def test_whatever_is_done_with_it_keeps_it(run: Run, store: mt.JobStore, tones: list[Path], clock: Clock) -> None:
    """A finished job that is given out again, and an unfinished batch that is gone on with: their age begins anew."""

    async def main() -> None:
        await hear(store, tones[0])
        await leave(store, tones[1:2], "left")
        clock.ahead_seconds = DAY - HOUR
        assert await hear(store, tones[0]) == 0
        clock.ahead_seconds = 6 * DAY
        async with mt.BatchTranscriber(transcriber(Teller(), store)).run([], name="left"):
            pass  # it is interrupted before it has done anything
        clock.ahead_seconds = 8 * DAY
        assert removed(await store.cleanup(finished_seconds=7.5 * DAY)) == (0, 0, 0)
        clock.ahead_seconds = 13 * DAY + HOUR
        assert removed(await store.cleanup()) == (1, 2, 0)

    run(main)


def test_a_source_that_a_later_batch_has_too_stays_with_it(
    run: Run, store: mt.JobStore, tones: list[Path], clock: Clock
) -> None:
    """The earlier batch goes, with what is its own; of the other's source nothing is asked for again."""

    async def main() -> None:
        await finish(store, tones[:2], "first")
        clock.ahead_seconds = DAY - HOUR
        assert await finish(store, tones[1:3], "second") > 0
        clock.ahead_seconds = DAY + HOUR
        assert removed(await store.cleanup()) == (1, 1, 0)
        assert await finish(store, tones[1:3], "second") == 0
        assert await finish(store, tones[:1], "third") > 0

    run(main)


def test_the_job_of_a_source_without_a_name_is_kept_with_its_batch(
    run: Run, store: mt.JobStore, tones: list[Path], clock: Clock
) -> None:
    """What came as bytes is known by its job alone: for as long as the batch can be gone on with."""

    async def main() -> None:
        sources: list[Any] = [io.BytesIO(tones[0].read_bytes()), tones[1]]
        batch = mt.BatchTranscriber(transcriber(Teller(), store), max_batch_size=1)
        async with batch.run(iter(sources), name="left") as outcomes:
            async for outcome in outcomes:
                assert outcome.error is None
                break
        clock.ahead_seconds = DAY + HOUR
        assert removed(await store.cleanup()) == (0, 0, 0)
        assert await hear(store, tones[0]) == 0
        clock.ahead_seconds = 8 * DAY + 2 * HOUR
        assert removed(await store.cleanup()) == (1, 1, 0)

    run(main)


# -- owners


def test_a_batch_that_runs_for_longer_than_its_age_is_not_touched(
    run: Run, store: mt.JobStore, tones: list[Path], clock: Clock
) -> None:
    """Neither it nor its jobs, done ones and the one in work; when it ends, its age begins."""

    async def main() -> None:
        def clean_up(number: int, chunk: mt.AudioChunk) -> Any:
            clock.ahead_seconds += 10 * DAY
            return clean()

        async def clean() -> None:
            assert removed(await store.cleanup()) == (0, 0, 0)

        engine = Teller(before=clean_up)
        batch = mt.BatchTranscriber(transcriber(engine, store), max_batch_size=1)
        async with batch.run(tones[:2]) as outcomes:
            assert [outcome.error async for outcome in outcomes] == [None] * 2
            clock.ahead_seconds += 10 * DAY
            assert removed(await store.cleanup()) == (0, 0, 0)
        assert await finish(store, tones[:2]) == 0
        clock.ahead_seconds += DAY + HOUR
        assert removed(await store.cleanup()) == (2, 2, 0)

    run(main)


def test_a_job_that_runs_for_longer_than_its_age_is_not_touched(
    run: Run, store: mt.JobStore, tones: list[Path], clock: Clock
) -> None:
    """One of no batch: in work, and while it is given out again."""

    async def main() -> None:
        async def clean(number: int = 0, chunk: mt.AudioChunk | None = None) -> None:
            clock.ahead_seconds += 10 * DAY
            assert removed(await store.cleanup()) == (0, 0, 0)

        assert await hear(store, tones[0], before=clean) > 1
        async with transcriber(Teller(), store).stream(tones[0]) as stream:
            await clean()
            assert [segment async for segment in stream]
        assert await hear(store, tones[0]) == 0

    run(main)


_AT_WORK = """
import sys, anyio, pathlib, memsafe_transcribe as mt
class Engine:
    capabilities = mt.Capabilities(cache_key="teller", max_chunk_seconds=60.0)
    async def transcribe(self, chunk, context):
        if chunk.index == 1:
            print("at work", flush=True)
            await anyio.sleep_forever()
        return "theirs"

async def main():
    transcriber = mt.ChunkedTranscriber(
        Engine(), chunk_seconds=1.0, store=mt.JobStore(sys.argv[1]), isolation="thread"
    )
    async with mt.BatchTranscriber(transcriber).run([pathlib.Path(sys.argv[2])], name="theirs") as outcomes:
        await anext(outcomes)
anyio.run(main)
"""


@contextmanager
def other_at_work(store: mt.JobStore, source: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that runs a batch, and has stored one chunk."""
    command = [sys.executable, "-c", _AT_WORK, str(store.path), str(source)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        yield process


def test_what_another_live_process_is_at_work_on_stays(
    run: Run, store: mt.JobStore, tones: list[Path], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """For as long as it lives: when it has been killed, its batch and its job are as old as they are."""

    async def main() -> None:
        with other_at_work(store, tones[0]) as other:
            clock.ahead_seconds = 30 * DAY
            assert removed(await store.cleanup()) == (0, 0, 0)
            other.kill()
        assert removed(await store.cleanup()) == (1, 1, 0)

    run(main)
    assert "batch 'theirs' was not finished, and is removed: 604800 s without activity" in warnings_of(caplog)


def test_a_locks_file_that_is_removed_just_then_is_not_locked(
    run: Run, store: mt.JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its opening and its locking: the lock is had on the one that has the name afterwards."""
    jobs, locks = store._inside.jobs, store.path.with_name(f"{store.path.name}-locks")  # noqa: SLF001
    try_set, removals = Lock.try_set, [1, 2]

    def remove_first(self: Lock, *, shared: bool) -> bool:
        if removals:
            removals.pop()
            locks.unlink()
        return try_set(self, shared=shared)

    async def main() -> None:
        async with store, jobs.working_on(b"k" * 32, may_wait=False):
            with pytest.raises(mt.StoreError, match="in work elsewhere"):
                async with jobs.working_on(b"k" * 32, may_wait=False):
                    pass

    monkeypatch.setattr(Lock, "try_set", remove_first)
    run(main)
    assert not removals


def test_two_that_cut_otherwise_leave_no_holes(run: Run, store: mt.JobStore) -> None:
    """The locks were removed, and one had less memory than the other: the second stores nothing."""
    jobs, locks = store._inside.jobs, store.path.with_name(f"{store.path.name}-locks")  # noqa: SLF001

    async def main() -> None:
        async with store, jobs.working_on(b"k" * 32, may_wait=False) as first:
            await first.keep(ChunkPlan(10, 20), StoredChunk(0, 10, 0, 10, b"a"))
            locks.unlink()
            async with jobs.working_on(b"k" * 32, may_wait=False) as second:
                with pytest.raises(mt.StoreError, match="cut otherwise") as caught:
                    await second.keep(ChunkPlan(5, 20), StoredChunk(0, 5, 0, 5, b"b"))
                assert caught.value.reason == "busy"
                with pytest.raises(mt.StoreError, match="cut otherwise"):
                    await second.finish(ChunkPlan(5, 20), 10, "[]")
            await first.keep(ChunkPlan(10, 20), StoredChunk(10, 20, 10, 20, b"c"))
            await first.finish(ChunkPlan(10, 20), 20, "[]")
            assert await first.find(0, 10, 0, 10) == b"a"

    run(main)


def test_a_removed_locks_file_is_made_anew(run: Run, store: mt.JobStore, tones: list[Path]) -> None:
    """Somebody clears temporary files meanwhile: two may do the same work; it is stored once, and nothing breaks."""
    locks = store.path.with_name(f"{store.path.name}-locks")
    first, second = Teller(), Teller()

    async def main() -> None:
        async def remove(number: int, chunk: mt.AudioChunk) -> None:
            if number == 1:
                locks.unlink()
                await transcriber(second, store).transcribe(tones[0])
                assert locks.exists()

        first._before = remove  # noqa: SLF001 - it needs the store
        await transcriber(first, store).transcribe(tones[0])
        assert second.asked == first.asked[1:]
        with other_program(store.path) as other:
            assert int(other.execute("SELECT count(*) FROM chunks")) == len(first.asked)
        assert await hear(store, tones[0]) == 0
        # The lock that is made anew excludes as the old one did.
        jobs = store._inside.jobs  # noqa: SLF001
        async with store, jobs.working_on(b"k" * 32, may_wait=False):
            locks_before = locks.stat().st_ino
            with pytest.raises(mt.StoreError, match="in work elsewhere"):
                async with jobs.working_on(b"k" * 32, may_wait=False):
                    pass
            assert locks.stat().st_ino == locks_before

    run(main)


# -- files


def test_what_dead_processes_left_in_the_spool_goes(run: Run, store: mt.JobStore, tmp_path: Path) -> None:
    """Where files have names; a spool that cannot be trusted is left alone, and no reason to fail."""
    folder = tmp_path / "spool" / f"memsafe-spool-{os.geteuid()}"
    folder.mkdir(parents=True, mode=0o700)
    (folder / f"spool-{0:016x}").write_bytes(b"left")

    async def main() -> None:
        assert (await store.cleanup(spool_dir=folder.parent)).spool_files == 1
        assert list(folder.parent.iterdir()) == []
        folder.write_bytes(b"no folder")
        assert (await store.cleanup(spool_dir=folder.parent)).spool_files == 0

    run(main)


def test_the_space_is_given_back(run: Run, store: mt.JobStore, tones: list[Path], clock: Clock) -> None:
    """The file gets smaller by what was removed, also while the store is in use."""

    class Wordy(Teller):
        async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
            return mt.ChunkResult(text="x" * 400_000)

    async def main() -> None:
        async with store:
            await transcriber(Wordy(), store).transcribe(tones[0])
            await store.cleanup()
            size_before = store.path.stat().st_size
            clock.ahead_seconds = 2 * DAY
            done = await store.cleanup()
            size_after = store.path.stat().st_size
            assert size_before > 1_000_000
            assert size_after < 200_000
            assert done.freed_bytes == pytest.approx(size_before - size_after, rel=0.2)

    run(main)


# -- in the background


class Listener(logging.Handler):
    """Tells when the library has logged something with these words."""

    def __init__(self, words: str) -> None:
        super().__init__(logging.INFO)
        self.times = 0
        self._words = words
        self._heard = anyio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if self._words in record.getMessage():
            self.times += 1
            self._heard.set()
            self._heard = anyio.Event()

    async def wait_for(self, times: int) -> None:
        with anyio.fail_after(20):
            while self.times < times:
                await self._heard.wait()


@contextmanager
def listening(words: str) -> Iterator[Listener]:
    logger, listener = logging.getLogger("memsafe_transcribe"), Listener(words)
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(listener)
    try:
        yield listener
    finally:
        logger.removeHandler(listener)
        logger.setLevel(before)


@pytest.mark.parametrize("harm", ["locked", "corrupt"])
def test_the_background_cleanup_survives_its_errors(
    run: Run, store: mt.JobStore, tones: list[Path], clock: Clock, harm: str
) -> None:
    """It logs them and tries again; once the file can be used again, what is old goes."""

    async def main() -> None:
        await finish(store, tones[:1])
        clock.ahead_seconds = 2 * DAY
        good = store.path.read_bytes()
        with other_program(store.path) as other, listening("cleanup failed") as failed, listening("Cleanup(") as done:
            if harm == "locked":
                other.execute("BEGIN IMMEDIATE")
            else:
                store.path.write_bytes(b"no database" * 1000)
            async with store.cleaning(every_seconds=0.01):
                await failed.wait_for(2)
                assert done.times == 0
                if harm == "locked":
                    other.execute("ROLLBACK")
                else:
                    store.path.write_bytes(good)
                await done.wait_for(2)
        assert await finish(store, tones[:1]) > 0

    run(main)


def test_it_cleans_at_once_and_then_at_intervals(run: Run, store: mt.JobStore, tones: list[Path], clock: Clock) -> None:
    """Not only after an hour; what the block raises comes out as it is, and ends it."""

    async def main() -> None:
        await finish(store, tones[:1])
        clock.ahead_seconds = 2 * DAY
        with listening("Cleanup(batches=1, jobs=1") as done, pytest.raises(LookupError, match="of the block"):
            async with store.cleaning():
                await done.wait_for(1)
                raise LookupError("of the block")

    run(main)


def test_a_cleanup_that_is_cancelled_can_be_had_again(
    run: Run, store: mt.JobStore, tones: list[Path], clock: Clock
) -> None:
    """It waits for another process's lock, and is given up; nothing is held, and nothing half removed."""
    patient = mt.JobStore(store.path, busy_timeout_seconds=30)

    async def main() -> None:
        await finish(store, tones[:2])
        clock.ahead_seconds = 2 * DAY
        with other_program(store.path) as other:
            other.execute("BEGIN IMMEDIATE")
            with anyio.fail_after(20):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(patient.cleanup)
                    await anyio.wait_all_tasks_blocked()
                    tasks.cancel_scope.cancel()
                    other.execute("ROLLBACK")
            before = int(other.execute("SELECT count(*) FROM batches"))
            done = await patient.cleanup()
        assert (done.batches, done.jobs) == (before, 2)

    run(main)
