"""The Nth I/O operation of a batch fails, for every N: full disk, broken disk, no descriptors; or is its last one."""

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import pytest

from ..support.batch_child import Nursery, Order, Result, asked, nursery, read_trace
from ..support.media import tone_samples, write_wav
from ..support.server import Server
from ..torture.tally import tally
from .watching import chunk_of, chunks_in

LONG = os.environ.get("MEMSAFE_TEST_PROFILE") == "long"
_POINTS = 2  # of each kind, in the short form
_MOST_POINTS = 5000
_SHIM = Path(__file__).parents[1] / "support" / "faults.c"
_WRITES, _READS, _OPENS, _LOCKS, _DESCRIPTORS = 1, 2, 4, 8, 16  # as there
_KILL, _ALL = 0, _WRITES | _READS | _OPENS | _LOCKS
FAULTS = [
    pytest.param(errno.ENOSPC, _WRITES, False, id="full disk, once"),
    pytest.param(errno.ENOSPC, _WRITES, True, id="full disk"),
    pytest.param(errno.EIO, _ALL, False, id="broken disk, once"),
    pytest.param(errno.EIO, _ALL & ~_LOCKS, True, id="broken disk"),  # without locks, SQLite waits for ten seconds
    pytest.param(errno.EMFILE, _DESCRIPTORS, False, id="no descriptors, once"),
    pytest.param(errno.EMFILE, _DESCRIPTORS, True, id="no descriptors"),
    pytest.param(_KILL, _ALL, False, id="killed"),
]


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is preloaded, compiled."""
    library = tmp_path_factory.mktemp("shim") / "faults.so"
    command = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(library), str(_SHIM), "-ldl"]
    subprocess.run(command, check=True)
    return library


@dataclass(frozen=True)
class Place:
    """Where batches run.

    Attributes:
        folder: in which operations can fail: it has the store and the spool.
        begun: a store of a batch that was killed on its way.
        expected: the transcripts.
        chunks: all of them.
    """

    nursery: Nursery
    order: Order
    folder: Path
    begun: Path
    expected: dict[str, str | None]
    chunks: set[str]

    @property
    def store(self) -> Path:
        return self.folder / "jobs.sqlite"

    def make_store(self, *, is_begun: bool) -> None:
        """None, or one with which a batch goes on."""
        for path in self.folder.glob("jobs.sqlite*"):
            path.unlink()
        if is_begun:
            for path in self.begun.iterdir():
                shutil.copy(path, self.folder / path.name)

    def stored(self) -> set[str]:
        """The chunks in the store. Read from a copy: the next batch is to find the file as it was left."""
        copy = self.folder.parent / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for path in self.folder.glob("jobs.sqlite*"):
            if not path.name.endswith(("-shm", "-locks")):
                shutil.copy(path, copy / path.name)
        with closing(sqlite3.connect(copy / self.store.name)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            if not connection.execute("SELECT * FROM sqlite_master WHERE name = 'chunks'").fetchall():
                return set()
            overlaps = connection.execute(
                "SELECT * FROM chunks a JOIN chunks b ON a.job_id = b.job_id AND a.core_start < b.core_start"
                " AND b.core_start < a.core_end"
            ).fetchall()
            names = [chunk_of(result) for (result,) in connection.execute("SELECT result FROM chunks")]
        assert overlaps == []
        assert len(names) == len(set(names)), "a chunk is stored twice"
        return set(names)


@pytest.fixture(scope="module")
def place(shim: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Two short sources, one of them a URL."""
    base = tmp_path_factory.mktemp("faults")
    folder, spool_dir, begun = base / "watched", base / "watched" / "spool", base / "begun"
    spool_dir.mkdir(parents=True)
    begun.mkdir()
    path = write_wav(base / "path.wav", tone_samples(2.5, 400))
    body = write_wav(base / "url.wav", tone_samples(2.5, 500)).read_bytes()
    environment = {"LD_PRELOAD": str(shim), "FAULT_FOLDER": str(folder), "MEMSAFE_LEDGER_DIR": str(base)}
    with Server() as server, nursery(environment) as started:
        server.routes["/url.wav"] = lambda exchange: exchange.answer(body)
        sources = [str(path), server.url("/url.wav")]
        order = Order(
            sources=sources,
            trace=str(base / "trace"),
            result=str(base / "result"),
            spool_dir=str(spool_dir),
            isolation="thread",
        )
        whole = started.run(order)
        assert whole is not None
        chunks = set(asked(read_trace(order.trace)))
        order = replace(order, store=str(folder / "jobs.sqlite"))
        place = Place(started, order, folder, begun, whole.transcripts(), chunks)
        assert len(chunks) > 4 and None not in place.expected.values()
        assert started.run(replace(order, kill_at=("engine", 4))) is None
        for left in folder.glob("jobs.sqlite*"):
            shutil.copy(left, begun / left.name)
        assert 1 <= len(place.stored()) < len(chunks)
        yield place


def check_errors(result: Result, where: str) -> None:
    """Each error is one that a caller can be prepared for."""
    for each in (*result.outcomes, result.raised):
        if each.error:
            assert {"MemsafeError", "OSError"} & set(each.error), (where, each)
            assert "Error" not in each.error, (where, each)  # sqlite3's base class is called so


def check_point(place: Place, fault: tuple[int, int, int, int], *, is_begun: bool) -> int:
    """A batch in which this goes wrong, and then one in which nothing does. How many operations the first had."""
    where = f"{fault}, {'begun' if is_begun else 'new'}"
    place.make_store(is_begun=is_begun)
    before = place.stored()
    result = place.nursery.run(replace(place.order, fault=fault))
    stored, calls = place.stored(), asked(read_trace(place.order.trace))
    assert place.nursery.orphans() == [], where
    assert len(calls) == len(set(calls)) and not before & set(calls), where
    assert before <= stored, where
    if result is None:
        assert fault[0] == _KILL, where
    else:
        assert fault[0] != _KILL or result.count < fault[1], where
        assert result.left == [], (where, result)
        check_errors(result, where)
        assert result.raised.error or len(result.outcomes) == len(place.expected), (where, result)
        for outcome in result.outcomes:
            if outcome.transcript is None:
                assert outcome.error, (where, outcome)
            else:
                assert outcome.transcript == place.expected[outcome.source], where
                assert not outcome.is_stored or chunks_in(outcome.transcript) <= stored, (where, outcome)
    assert list(Path(place.order.spool_dir).iterdir()) == [], where
    again = place.nursery.run(place.order)
    calls = asked(read_trace(place.order.trace))
    assert again is not None and not again.raised.error and not again.left, (where, result, again)
    assert again.transcripts() == place.expected, (where, result, again)
    assert len(calls) == len(set(calls)) and set(calls) == place.chunks - stored, (where, calls)
    assert place.stored() == place.chunks, where
    return _MOST_POINTS if result is None else result.count


def points(place: Place, error: int, kinds: int, *, is_begun: bool) -> Iterator[int]:
    """All, until a batch has no more operations than that; or some, evenly spread over those that it has."""
    if LONG:
        yield from count(1)
        return
    place.make_store(is_begun=is_begun)
    whole = place.nursery.run(replace(place.order, fault=(error, 0, 0, kinds)))
    assert whole is not None and whole.count > _POINTS
    sys.stdout.write(f"operations: {whole.count}\n")
    yield from range(1 + whole.count // (2 * _POINTS), whole.count + 1, whole.count // _POINTS)


@pytest.mark.parametrize("is_begun", [False, True], ids=["new", "begun"])
@pytest.mark.parametrize(("error", "kinds", "forever"), FAULTS)
def test_a_fault_at_every_operation(place: Place, error: int, kinds: int, forever: bool, is_begun: bool) -> None:
    """Never a lost or doubled chunk, never a leak, always a transcript or a clear error; then a batch goes on from what
    is stored. Files of the spool, the database, its WAL and its locks are among those that fail.

    Every operation in the long form, some otherwise.
    """
    tried = 0
    for point in points(place, error, kinds, is_begun=is_begun):
        if check_point(place, (error, point, forever, kinds), is_begun=is_begun) < point:
            break  # it has no more operations
        tried += 1
    sys.stdout.write(f"points: {tried}\n")  # `pytest -rP` shows it
    what = "refused below Python" if error != _KILL else "killed below Python"
    tally.points[what, "batch of two sources", "asyncio"] += tried
    assert tried >= _POINTS
