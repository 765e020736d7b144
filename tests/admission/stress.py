"""Many processes that reserve, touch what they reserved, and are killed at random; the kernel's own peak audits them.

    python -m tests.admission.stress --processes 8 --reservations 20000 --kills 200 --limit-mib 256

It prints one line of JSON with all counts, and ends with 1 if any promise was broken. It takes root, for groups with
memory limits (cgroup v1 or v2).

Everything runs in a group of its own with the limit, the program that forks the workers too, so that what the processes
themselves need is in the group's readings, and in its peak. What a worker reserves it maps anonymously and has the
kernel fill every page of; it says so by `mark_used`, most of the time; it unmaps, and only then releases.

The bound: the peak stays below the target of new work (threshold_percent of the limit) plus a tolerance for what no
reservation covers: the memory that one worker adds by being there (measured in the run), since when one is killed
others may be let into its place before its successor is as large; and 2 MiB for what the kernel charges in advance, the
stocks of each processor.
"""

import argparse
import dataclasses
import json
import mmap
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import anyio

import memsafe_transcribe as mt

from ..support.groups import Groups, nested_groups

MiB = mt.MiB
TASKS = 4  # in each worker
SLOTS = 12
LARGEST_BYTES = 12 * MiB
LONGEST_WAIT_SECONDS = 10.0  # nobody may wait longer: at 20 000 in a minute, hundreds of turns
KERNEL_BYTES = 2 * MiB
GIVE_UP_SECONDS = 540.0

# What workers share: one row each of these, then one cell per task: 1 while it holds a slot.
DOOMED, DONE, LONGEST_WAIT, WRONG, MOST, FIRST = range(6)  # doomed: it is being killed; the wait in microseconds
WIDTH = FIRST + TASKS


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the command line says."""

    processes: int
    reservations: int
    kills: int
    limit_mib: int
    seed: int


class Board:
    """The shared memory in which workers note what they do."""

    def __init__(self, processes: int) -> None:
        self._cells = memoryview(mmap.mmap(-1, processes * WIDTH * 8)).cast("q")
        self._processes = processes

    def get(self, row: int, column: int) -> int:
        return self._cells[row * WIDTH + column]

    def put(self, row: int, column: int, value: int) -> None:
        self._cells[row * WIDTH + column] = value

    def highest(self, row: int, column: int, value: int) -> None:
        self.put(row, column, max(value, self.get(row, column)))

    def over_rows(self, column: int, together: Callable[[list[int]], int]) -> int:
        return together([self.get(row, column) for row in range(self._processes)])

    @property
    def done(self) -> int:
        return self.over_rows(DONE, sum)

    def slots(self) -> int:
        """Slots held by workers that are not being killed."""
        rows = [row for row in range(self._processes) if not self.get(row, DOOMED)]
        return sum(self.get(row, FIRST + task) for row in rows for task in range(TASKS))


class Worker:
    """What runs in one forked process."""

    def __init__(self, settings: Settings, board: Board, row: int, incarnation: int) -> None:
        self._settings = settings
        self._board = board
        self._row = row
        self._random = random.Random(f"{settings.seed}/{row}/{incarnation}")
        self._admission = mt.AdmissionController(guard=mt.MemoryGuard(), max_concurrent=SLOTS)

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            for task in range(TASKS):
                tasks.start_soon(self._work, task)

    async def _work(self, task: int) -> None:
        while self._board.done < self._settings.reservations:
            await self._one(task)

    async def _one(self, task: int) -> None:
        board, row = self._board, self._row
        need_bytes = int(self._random.random() ** 3 * LARGEST_BYTES) + mmap.PAGESIZE
        asked = time.monotonic()
        async with self._admission.reserve(need_bytes) as held:
            board.highest(row, LONGEST_WAIT, int((time.monotonic() - asked) * 1e6))
            board.put(row, FIRST + task, 1)
            self._audit()
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE  # the kernel writes to every page
            with mmap.mmap(-1, need_bytes, flags=flags):
                if self._random.random() < 0.7:
                    held.mark_used(need_bytes)
                await anyio.sleep(self._random.random() * 0.002)
                self._audit()
            board.put(row, FIRST + task, 0)
        board.put(row, DONE, board.get(row, DONE) + 1)

    def _audit(self) -> None:
        slots = self._board.slots()
        self._board.highest(self._row, MOST, slots)
        if slots > SLOTS:
            self._board.put(self._row, WRONG, self._board.get(self._row, WRONG) + 1)


def inside(settings: Settings) -> dict[str, int | float]:
    """Fork the workers, kill some, replace them; what came of it."""
    board = Board(settings.processes)
    choice = random.Random(settings.seed)
    rows: dict[int, int] = {}
    kills = died = 0
    started = time.monotonic()

    def spawn(row: int) -> None:
        for cell in (DOOMED, *range(FIRST, WIDTH)):
            board.put(row, cell, 0)
        pid = os.fork()
        if pid:
            rows[pid] = row
            return
        code = 1
        try:
            anyio.run(Worker(settings, board, row, kills).run)
            code = 0
        finally:
            os._exit(code)

    for row in range(settings.processes):
        spawn(row)
    while rows:
        if time.monotonic() - started > GIVE_UP_SECONDS:
            for pid in rows:
                os.kill(pid, signal.SIGKILL)
        done = board.done
        if kills < settings.kills and done >= (kills + 1) * settings.reservations // (settings.kills + 1):
            pid = choice.choice(sorted(rows))
            row = rows.pop(pid)
            board.put(row, DOOMED, 1)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            kills += 1
            spawn(row)
            continue
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            rows.pop(pid)
            died += status != 0
        else:
            time.sleep(choice.random() * 0.002)
    admission = mt.AdmissionController(max_concurrent=SLOTS)
    deadline = time.monotonic() + 1.0
    while (seen := admission.statistics()).others_reserved_bytes + seen.others_active and time.monotonic() < deadline:
        time.sleep(0.001)
    return {
        "done": board.done,
        "kills": kills,
        "died": died,
        "seconds": round(time.monotonic() - started, 2),
        "most_slots": board.over_rows(MOST, max),
        "audits_failed": board.over_rows(WRONG, sum),
        "longest_wait_seconds": board.over_rows(LONGEST_WAIT, max) / 1e6,
        "worker_bytes": _idle_worker_bytes(),
        "left_slots": seen.others_active,
        "left_bytes": seen.others_reserved_bytes,
    }


def _idle_worker_bytes() -> int:
    """What a worker adds by being there: the memory that is its own after a fork and one reservation of nothing."""
    ours, its = os.pipe()
    if os.fork() == 0:
        try:
            admission = mt.AdmissionController(guard=mt.MemoryGuard(), max_concurrent=SLOTS)

            async def main() -> None:
                for _ in range(100):
                    async with admission.reserve(0, timeout_seconds=5):
                        pass

            anyio.run(main)
            clean = Path("/proc/self/smaps_rollup").read_text()
            private = [line.split()[1] for line in clean.splitlines() if line.startswith("Private_Dirty")]
            os.write(its, str(int(private[0]) * 1024).encode())
        finally:
            os._exit(0)
    os.close(its)
    with os.fdopen(ours) as pipe:
        found = int(pipe.read() or 0)
    os.wait()
    return found


def _oom_kills(folder: Path) -> int:
    for name in ("memory.oom_control", "memory.events"):
        if (folder / name).exists():
            fields = dict(line.split() for line in (folder / name).read_text().splitlines())
            return int(fields.get("oom_kill", 0))
    return 0


def _cache_bytes(folder: Path) -> int:
    fields = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return int(fields.get("total_cache", fields.get("file", 0)))


def audited(settings: Settings) -> dict[str, int | float | bool]:
    """Run it in a group of its own; all counts, and whether every promise was kept."""
    limit = settings.limit_mib * MiB
    with tempfile.TemporaryDirectory(prefix="memsafe-stress-") as folder:
        with nested_groups(outer_bytes=limit, inner_bytes=limit) as groups:
            result = Path(folder) / "result.json"
            ledgers = Path(folder) / "ledgers"
            ledgers.mkdir()
            _run(groups, settings, result, ledgers)
            found: dict[str, int | float | bool] = json.loads(result.read_text())
            peak = int(groups.peak_file.read_text())
            oom = max(map(_oom_kills, (groups.outer, groups.inner)))
            cache = _cache_bytes(groups.outer)
            ledgers_left = len(list(ledgers.iterdir()))
    target = int(limit * mt.MemoryGuard().threshold_percent / 100)
    tolerance = int(found["worker_bytes"]) + KERNEL_BYTES
    found |= {
        "limit_bytes": limit,
        "target_bytes": target,
        "tolerance_bytes": tolerance,
        "peak_bytes": peak,
        "cache_bytes": cache,
        "oom_kills": oom,
        "ledgers_left": ledgers_left,
    }
    found["kept"] = (
        found["done"] >= settings.reservations
        and found["kills"] == settings.kills
        and not any(found[name] for name in ("died", "audits_failed", "left_slots", "left_bytes", "oom_kills"))
        and not ledgers_left
        and found["longest_wait_seconds"] < LONGEST_WAIT_SECONDS
        and peak < target + tolerance
    )
    return {**dataclasses.asdict(settings), **found}


def _run(groups: Groups, settings: Settings, result: Path, ledgers: Path) -> None:
    os.environ["MEMSAFE_LEDGER_DIR"] = str(ledgers)
    options = [f"--{name.replace('_', '-')}={value}" for name, value in dataclasses.asdict(settings).items()]
    groups.run([sys.executable, "-m", __spec__.name, f"--inside={result}", *options])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--reservations", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--limit-mib", type=int, default=256)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = vars(parser.parse_args())
    result = options.pop("inside")
    settings = Settings(**options)
    if result:
        Path(result).write_text(json.dumps(inside(settings)))
        return 0
    found = audited(settings)
    sys.stdout.write(json.dumps(found) + "\n")
    return 0 if found["kept"] else 1


if __name__ == "__main__":
    sys.exit(main())
