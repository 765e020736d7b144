"""The files that several processes share, damaged: what reads them says so, and does no harm of its own."""

import gc
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import anyio

import memsafe_transcribe as mt
from memsafe_transcribe._store.jobs import ChunkPlan, StoredChunk
from memsafe_transcribe._store.store import inside
from memsafe_transcribe._transcription.records import packed, packed_gaps

from ..admission.room import ToldGuard
from ..support.targets import damaged, fuzz

URL = "https://example.com/a.mp3"
FAILED = mt.FailedUrl("gone", 404, 1e12)
PLAN, CHUNK = ChunkPlan(16_000, 32_000), StoredChunk(0, 16_000, 0, 16_000, packed(mt.ChunkResult(text="one"), None))


async def write(path: Path) -> None:
    """A bit of everything."""
    store = mt.JobStore(path)
    async with store:
        await store.remember(URL, FAILED)
        async with inside(store).jobs.working_on(bytes(32), may_wait=False) as job:
            await job.keep(PLAN, CHUNK)
            await job.finish(PLAN, 16_000, packed_gaps([mt.Gap(0.5, 0.6, "x")]))
        async with inside(store).batches.running("nightly") as batch:
            async with batch.source("source", again=False) as source:
                await source.failed(1, "it was not there", is_final=True)


async def read(path: Path) -> None:
    store = mt.JobStore(path, busy_timeout_seconds=0.1)
    async with store:
        await store.find(URL)
        async with inside(store).jobs.finished(bytes(32)) as found:
            if found is not None:
                await found.first_from(0)
        async with inside(store).batches.running("nightly") as batch:
            async with batch.source("source", again=False) as source:
                await source.interrupted(1)
        async with inside(store).jobs.working_on(bytes(32), may_wait=False) as job:
            await job.find(0, 16_000, 0, 16_000)
        await store.cleanup(finished_seconds=0, spool_dir=path.parent)
        await store.remember(URL, FAILED)


def test_store_file(tmp_path: Path) -> None:
    """It is read, or a `StoreError` comes; never another error."""
    path = tmp_path / "jobs.sqlite"
    anyio.run(write, path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    whole = path.read_bytes()

    def judge(data: bytes) -> None:
        for each in tmp_path.iterdir():
            each.unlink()
        path.write_bytes(data)
        with suppress(mt.StoreError):
            anyio.run(read, path)

    fuzz("store file", damaged(whole, whole[:4096], b"SQLite format 3\0"), judge)


def test_ledger_file(ledger_dir: Path) -> None:
    """Members that read it are let in, or refused, or go on without it; all the same they give back, and leave."""
    guard = ToldGuard(10**6)

    def join() -> mt.AdmissionController:
        return mt.AdmissionController(guard=guard, max_concurrent=3)

    def use(admission: mt.AdmissionController) -> None:
        with suppress(mt.AdmissionError):
            held = admission.reserve_nowait(5)
            held.mark_used(3)
            assert admission.statistics().active >= 1
            held.release()

    def the_file() -> Path:
        (folder,) = ledger_dir.iterdir()
        return folder / "ledger"

    def judge(data: bytes) -> None:
        first, second = join(), join()
        use(first)
        held = second.reserve_nowait(10)
        with the_file().open("r+b") as file:
            file.write(data)
            file.truncate(len(data))
        use(first)
        use(join())
        held.release()
        use(second)
        del first, second, held
        gc.collect()
        for left in ledger_dir.glob("*/ledger"):  # nobody takes away what is no ledger
            left.unlink()

    first, second = join(), join()
    with first.reserve_nowait(7), second.reserve_nowait(10):
        whole = the_file().read_bytes()
    del first, second
    gc.collect()
    fuzz("ledger file", damaged(whole, whole[:1024], b"memsafe2"), judge)
