"""A batch is killed at whatever instruction and begun again: nothing is lost, nothing is paid for twice."""

import os
import random
import shutil
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import pytest

import memsafe_transcribe as mt

from ..support.batch_child import Nursery, Order, asked, nursery, open_phases, read_trace
from ..support.media import encode, tone_samples, write_long_mp3, write_wav
from ..support.needs import tmpfs
from ..support.server import Server
from ..torture.tally import tally
from .watching import WATCHED, chunk_of

LONG = os.environ.get("MEMSAFE_TEST_PROFILE") == "long"
KILLS = 300 if LONG else 8
PHASES = {"download": 5, "decode": 30, "engine": 30, "commit": 60}  # by how many of its lines a kill may be away
_FILES = 20
_ENGINE_SECONDS = 0.03
_MOST_KILLS = 30  # in a row; far more than a source may die of
_MOST_CALLS = 3  # the slots of the default admission


@dataclass(frozen=True)
class Place:
    """Where batches run.

    Attributes:
        sources: half of them URLs.
        spool_dir: of 64 MiB of memory, and of nobody else.
    """

    nursery: Nursery
    sources: list[str]
    folder: Path
    spool_dir: Path

    def order(self, store: Path | None) -> Order:
        return Order(
            sources=self.sources,
            trace=str(self.folder / "trace"),
            result=str(self.folder / "result"),
            spool_dir=str(self.spool_dir),
            store=None if store is None else str(store),
            engine_seconds=_ENGINE_SECONDS,
        )


def write_sources(folder: Path, server: Server) -> list[str]:
    """Short files of several chunks each, all different; every other one to be had from the server only."""
    sources = []
    for index in range(_FILES):
        tone = tone_samples(2.1 + index % 4 / 2, 8000 // (8 + index))
        if index == 0:
            path = write_long_mp3(folder / "speech.mp3", 3.0)
        elif index % 5 == 0:
            path = encode(folder / f"{index}.flac", "flac", tone)
        else:
            path = write_wav(folder / f"{index}.wav", tone + bytes(16_000) + tone[:24_000])
        if index % 2:
            body = path.read_bytes()
            server.routes[f"/{index}"] = lambda exchange, body=body: exchange.answer(body)  # type: ignore[misc]
            sources.append(server.url(f"/{index}"))
        else:
            sources.append(str(path))
    return sources


@pytest.fixture
def place(server: Server, tmp_path: Path) -> Iterator[Place]:
    folder = tmp_path / "files"
    folder.mkdir()
    with tmpfs(tmp_path / "spool", "size=64m") as spool_dir, nursery() as started:
        yield Place(started, write_sources(folder, server), tmp_path, spool_dir)


async def make_watched_store(path: Path) -> None:
    """A new store that notes whatever happens to its chunks."""
    async with mt.JobStore(path):
        pass
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(WATCHED)


def happened(store: Path, folder: Path) -> Counter[tuple[str, str]]:
    """What happened to which chunk so far. Read from a copy: the next batch finds the file as the kill left it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for suffix in ("", "-wal"):
        if (path := Path(f"{store}{suffix}")).exists():
            shutil.copy(path, folder / path.name)
    with closing(sqlite3.connect(folder / store.name)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = connection.execute("SELECT what, result FROM happened").fetchall()
    return Counter((what, chunk_of(result)) for what, result in rows)


def moments(seed: int, run_seconds: float) -> Iterator[tuple[tuple[str, int] | None, float]]:
    """When to kill: at a line of the trace, each phase in turn; and in between after some time."""
    chance = random.Random(seed)
    while True:
        for phase, most in PHASES.items():
            yield (phase, chance.randint(1, most)), 10 * run_seconds
            yield None, chance.uniform(0, run_seconds)


def test_killed_and_begun_again_until_it_is_done(place: Place) -> None:
    """Every transcript is that of a run that nobody killed and that had no store. Each chunk is stored once, and never
    asked for again; what is asked for again was in flight at a kill. Neither a file in the spool nor a child is left.

    300 kills in the long form; few, but in each phase, otherwise.
    """
    seed = int(os.environ.get("MEMSAFE_TEST_SEED") or random.randrange(1 << 32))
    sys.stdout.write(f"seed: {seed}\n")
    started = time.monotonic()
    whole = place.nursery.run(replace(place.order(None), isolation="thread"))
    run_seconds = time.monotonic() - started
    assert whole is not None and not whole.raised.error
    expected = whole.transcripts()
    all_chunks = asked(read_trace(place.order(None).trace))
    assert None not in expected.values() and len(expected) == _FILES
    assert len(all_chunks) == len(set(all_chunks)) > 3 * _FILES

    when, phases, kills, rounds, lost_calls = moments(seed, run_seconds), Counter[str](), 0, 0, 0
    space = os.statvfs(place.spool_dir)
    while kills < KILLS:
        store = place.folder / f"{rounds}.sqlite"
        anyio.run(make_watched_store, store)
        rounds, stored, result, kills_before = rounds + 1, Counter[tuple[str, str]](), None, kills
        while result is None:
            kill_at, seconds = next(when) if kills < min(KILLS, kills_before + _MOST_KILLS) else (None, None)
            order = replace(place.order(store), kill_at=kill_at)
            with place.nursery.child(order) as child:
                if seconds is not None and not child.ends_within(seconds):
                    child.kill()
                result = child.result()
            where = f"seed {seed}, kill {kills}, round {rounds}, {kill_at or seconds}"
            assert place.nursery.orphans() == [], where
            after = os.statvfs(place.spool_dir)
            assert (after.f_bfree, after.f_ffree) == (space.f_bfree, space.f_ffree), where
            trace = read_trace(order.trace)
            calls, before = asked(trace), stored
            stored = happened(store, place.folder / "copy")
            assert len(calls) == len(set(calls)), where
            assert not {("stored", call) for call in calls} & before.keys(), where
            assert set(stored.values()) <= {1} and {what for what, _ in stored} <= {"stored"}, where
            lost = {("stored", call) for call in calls} - stored.keys()
            if result is None:
                kills += 1
                phases.update(open_phases(trace).keys() or {"elsewhere"})
                lost_calls += len(lost)
                assert len(lost) <= min(_MOST_CALLS, len(calls)), where
            else:
                assert not lost, where
                assert not result.raised.error and not result.left, (where, result)
                assert result.transcripts() == expected, where
                assert {chunk for _, chunk in stored} == set(all_chunks), where
    sys.stdout.write(
        f"kills: {kills} in {rounds} rounds; in work then: {dict(phases)}; calls that were lost: {lost_calls}\n"
    )
    tally.points["killed", "batch of twenty sources", "asyncio"] += kills
    assert list(place.spool_dir.iterdir()) == []
    assert set(PHASES) <= phases.keys(), phases
