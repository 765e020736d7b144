"""What must not be left when something has ended, however it ended: the one list for all of the torture."""

import os
import sqlite3
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import memsafe_transcribe as mt

from ..conftest import open_descriptors
from ..support.server import Server
from .sites import is_ours

_SETTLE_SECONDS = 10.0
_KEPT = ("/proc/", "/sys/fs/cgroup/")  # what is read again and again
_MEMBERS = 2  # of the ledger, in this process
_POOLED = ("AnyIO worker thread", "Trio thread", "Thread-")  # kept idle by the loops' pools; the server's own


@dataclass(frozen=True)
class Before:
    """What there was.

    Attributes:
        descriptors: with what each leads to.
        threads, children: likewise.
    """

    descriptors: dict[int, str]
    threads: frozenset[threading.Thread]
    children: frozenset[int]


def when_quiet(servers: Iterable[Server]) -> Before:
    """What there is, when the last run is over for the servers, too; what they were asked in it is not kept."""
    for server in servers:
        server.wait_until_quiet()
        server.requests.clear()
    return Before(open_descriptors(), frozenset(threading.enumerate()), children())


def children() -> frozenset[int]:
    """The processes that this one has started, and not awaited."""
    found: set[int] = set()
    for tid in os.listdir("/proc/self/task"):
        with suppress(OSError):  # the thread has ended
            found.update(map(int, Path(f"/proc/self/task/{tid}/children").read_text().split()))
    return frozenset(found)


def left_of(before: Before, servers: Iterable[Server], folders: list[Path]) -> list[str]:
    """Descriptors, threads, children and files that were not there before, after some time for threads to end."""
    for server in servers:
        server.wait_until_idle()
    give_up_at = time.monotonic() + _SETTLE_SECONDS
    while found := list(_left(before, folders)):
        if time.monotonic() > give_up_at:
            break
        time.sleep(0.001)
    return found


def _left(before: Before, folders: list[Path]) -> Iterator[str]:
    after, there_were = open_descriptors(), Counter(before.descriptors.values())
    for leads_to, number in Counter(after.values()).items():
        if number > _most(leads_to, there_were[leads_to]):
            yield f"{number} descriptors to {leads_to}, of which there were {there_were[leads_to]}"
    for leads_to in there_were - Counter(after.values()):
        if not leads_to.endswith("/ledger") and not leads_to.startswith(_KEPT):
            yield f"a descriptor to {leads_to} was closed"
    frames = sys._current_frames()  # noqa: SLF001
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        if thread not in before.threads and not thread.name.startswith(_POOLED):
            yield f"thread {thread.name}"
        elif thread is not threading.current_thread() and is_ours(frame) and thread not in before.threads:
            yield f"thread {thread.name} in {traceback.format_stack(frame)[-1]}"
    yield from (f"child {pid}" for pid in children() - before.children)
    for folder in folders:
        yield from (f"file {path.relative_to(folder.parent)}" for path in folder.rglob("*"))


def _most(leads_to: str, there_were: int) -> int:
    """How often this may be open afterwards. What the process keeps, it gives up when that cannot be read, and opens
    again: so there may be one more.
    """
    if leads_to.endswith("/ledger"):
        return max(there_were, _MEMBERS)
    return there_were + leads_to.startswith(_KEPT)


def held(admission: mt.AdmissionController, observer: mt.AdmissionController) -> list[str]:
    """Reservations, in this process and in the ledger on disk that another member of it sees."""
    found, seen = admission.statistics(), observer.statistics()
    figures = {
        "active": found.active,
        "waiting": found.waiting,
        "reserved_bytes": found.reserved_bytes,
        "orphaned": found.orphaned,
        "others_active": seen.others_active,
        "others_reserved_bytes": seen.others_reserved_bytes,
    }
    return [f"reservation: {name}={value}" for name, value in figures.items() if value]


@contextmanager
def unraisable() -> Iterator[list[str]]:
    """What only the garbage collector says: a coroutine that was not awaited, a file that was dropped."""
    found: list[str] = []
    hook, sys.unraisablehook = sys.unraisablehook, lambda what: found.append(f"{what.err_msg}: {what.exc_value!r}")
    try:
        yield found
    finally:
        sys.unraisablehook = hook


@dataclass(frozen=True)
class Rows:
    """What a store has.

    Attributes:
        chunks: the words of each chunk.
        states: how many of the sources are in each.
        wrong: what cannot be.
    """

    chunks: set[str] = field(default_factory=set)
    states: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def rows_of(store: Path) -> Rows:
    """Read from the file as it is; it is closed, so that its WAL is in it."""
    if not store.exists():
        return Rows()
    with closing(sqlite3.connect(store)) as connection:
        wrong = [f"rows: {row}" for row in connection.execute("PRAGMA integrity_check") if row != ("ok",)]
        if not connection.execute("SELECT * FROM sqlite_master WHERE name = 'chunks'").fetchall():
            return Rows(wrong=wrong)
        overlapping = connection.execute(
            "SELECT * FROM chunks a JOIN chunks b ON a.job_id = b.job_id AND a.core_start < b.core_start"
            " AND b.core_start < a.core_end"
        ).fetchall()
        results = [str(result) for (result,) in connection.execute("SELECT result FROM chunks")]
        states = dict(connection.execute("SELECT state, count(*) FROM sources GROUP BY state").fetchall())
        orphans = connection.execute("SELECT * FROM chunks WHERE job_id NOT IN (SELECT id FROM jobs)").fetchall()
    wrong += [f"rows: overlapping {row}" for row in overlapping] + [f"rows: of no job {row}" for row in orphans]
    if len(results) != len(set(results)):
        wrong.append("rows: a chunk is stored twice")
    return Rows(set(results), states, wrong)
