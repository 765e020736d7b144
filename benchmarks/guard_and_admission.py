"""What a look at memory and a reservation cost, beside a peer in the same run.

    python -m benchmarks.guard_and_admission [--rounds N] [--crowds N ...]

Each line is the median over the rounds, in which ours and the peer take turns; the ratio is that of the pairs, with its
range. As root, where groups with memory limits can be made, all runs in a group of 256 MiB within one of 200 MiB, as a
container in a pod would; elsewhere there is no limit to be read but the host's, and it says so.
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import psutil
from tests.support.groups import GroupsUnavailableError, nested_groups

import memsafe_transcribe as mt

Timed = Callable[[], Awaitable[float]]

_CALLS = 2000


def sync_calls(function: Callable[[], Any]) -> Timed:
    """Time `function`: seconds per call."""

    async def timed() -> float:
        started = time.perf_counter()
        for _ in range(_CALLS):
            function()
        return (time.perf_counter() - started) / _CALLS

    return timed


def entered(make: Callable[[], Any]) -> Timed:
    """Time an `async with`: seconds per enter and leave."""

    async def timed() -> float:
        started = time.perf_counter()
        for _ in range(_CALLS):
            async with make():
                pass
        return (time.perf_counter() - started) / _CALLS

    return timed


def crowd(make: Callable[[], Any], jobs: int) -> Timed:
    """Time `jobs` tasks that all want in at once and do nothing there: seconds per job."""

    async def job() -> None:
        async with make():
            await anyio.lowlevel.checkpoint()

    async def timed() -> float:
        started = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for _ in range(jobs):
                tasks.start_soon(job)
        return (time.perf_counter() - started) / jobs

    return timed


async def compare(name: str, ours: Timed, peer_name: str, peer: Timed, rounds: int) -> None:
    """Run both in turns and print one line."""
    pairs = []
    for number in range(rounds):
        first, second = (ours, peer) if number % 2 else (peer, ours)
        one, two = await first(), await second()
        pairs.append((one, two) if number % 2 else (two, one))
    ratios = sorted(mine / other for mine, other in pairs)
    print(
        f"{name:50} {statistics.median(a for a, _ in pairs) * 1e6:8.2f} us   "
        f"{peer_name:28} {statistics.median(b for _, b in pairs) * 1e6:8.2f} us   "
        f"ratio {statistics.median(ratios):5.2f}  ({ratios[0]:.2f} to {ratios[-1]:.2f})",
        flush=True,
    )


@contextmanager
def clean_file_cache() -> Iterator[str]:
    """Fill this group with clean file cache, as much as it can hold."""
    with tempfile.NamedTemporaryFile() as file:
        for _ in range(300):
            file.write(bytes(1 << 20))
        file.flush()
        os.fsync(file.fileno())
        for _ in range(2):
            file.seek(0)
            while file.read(1 << 20):
                pass
        yield file.name


async def measure_guard(rounds: int) -> None:
    guard = mt.MemoryGuard()
    vm = sync_calls(psutil.virtual_memory)
    await compare("guard.check(1)", sync_calls(lambda: guard.check(1)), "psutil.virtual_memory()", vm, rounds)
    with clean_file_cache():
        name = "guard.check(1), the group full of clean cache"
        await compare(name, sync_calls(lambda: guard.check(1)), "psutil.virtual_memory()", vm, rounds)


async def measure_admission(backend: str, rounds: int) -> None:
    limiter = anyio.CapacityLimiter(3)
    process = mt.AdmissionController(scope="process")
    container = mt.AdmissionController(scope="container")
    name = f"reserve and release, process, {backend}"
    await compare(name, entered(lambda: process.reserve(1)), "CapacityLimiter", entered(lambda: limiter), rounds)
    name = f"reserve and release, container, {backend}"
    await compare(name, entered(lambda: container.reserve(1)), "CapacityLimiter", entered(lambda: limiter), rounds)
    if backend == "asyncio":
        semaphore = multiprocessing.Semaphore(3)

        def acquire_and_release() -> None:
            semaphore.acquire()
            semaphore.release()

        peer = sync_calls(acquire_and_release)
        name = "reserve and release, container (not crash-safe peer)"
        await compare(name, entered(lambda: container.reserve(1)), "multiprocessing.Semaphore", peer, rounds)


async def measure_crowds(rounds: int, crowds: Sequence[int]) -> None:
    for jobs in crowds:
        admission = mt.AdmissionController(scope="process", max_waiting=jobs)
        limiter, semaphore = anyio.CapacityLimiter(3), anyio.Semaphore(3)
        few = max(3, min(rounds, 100_000 // jobs))
        ours = crowd(lambda admission=admission: admission.reserve(1), jobs)  # type: ignore[misc]
        for peer_name, peer in (("CapacityLimiter", limiter), ("Semaphore", semaphore))[: 1 if jobs > 10_000 else 2]:
            await compare(
                f"{jobs} tasks through 3 slots, per job",
                ours,
                f"anyio.{peer_name}",
                crowd(lambda peer=peer: peer, jobs),  # type: ignore[misc]
                few,
            )
    few_jobs, many_jobs = min(100, crowds[-1]), min(10_000, crowds[-1])
    admission = mt.AdmissionController(scope="process")
    await compare(
        f"per job, {many_jobs} waiting",
        crowd(lambda: admission.reserve(1), many_jobs),
        f"the same, {few_jobs} waiting",
        hundredfold(crowd(lambda: admission.reserve(1), few_jobs)),
        max(3, rounds // 3),
    )


def hundredfold(timed: Timed) -> Timed:
    """The mean of a hundred: as long a time to measure as that of ten thousand tasks."""

    async def mean() -> float:
        return statistics.fmean([await timed() for _ in range(100)])

    return mean


def measure_lowered_limit(limit_file: Path, rounds: int) -> None:
    """From the moment that a limit is lowered to the first refusal."""
    guard = mt.MemoryGuard()
    delays = []
    for _ in range(rounds):
        before = limit_file.read_text()
        guard.check(1)
        limit_file.write_text(str(guard.snapshot().used_bytes + 8 * mt.MiB))
        lowered = time.perf_counter()
        try:
            while True:
                guard.check(1)
        except mt.MemoryPressureError:
            delays.append(time.perf_counter() - lowered)
        finally:
            limit_file.write_text(before)
        guard.snapshot()
    milliseconds = [delay * 1e3 for delay in delays]
    median = statistics.median(milliseconds)
    print(f"{'a lowered limit refuses after':50} {median:8.1f} ms   (at most {max(milliseconds):.1f} ms)")


def inside(limit_file: str, rounds: int) -> None:
    snapshot = mt.MemoryGuard().snapshot()
    print(f"limit {snapshot.limit_bytes // mt.MiB} MiB, bound by {snapshot.binding}")
    anyio.run(measure_guard, rounds)
    if limit_file:
        measure_lowered_limit(Path(limit_file), min(rounds, 9))
    for backend in ("asyncio", "trio"):
        anyio.run(measure_admission, backend, rounds, backend=backend)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--crowds", type=int, nargs="+", default=[100, 10_000, 100_000])
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside is not None:
        inside(options.inside, options.rounds)
        return
    command = [sys.executable, "-m", "benchmarks.guard_and_admission", "--rounds", str(options.rounds), "--inside"]
    try:
        with nested_groups(outer_bytes=200 * mt.MiB, inner_bytes=256 * mt.MiB) as groups:
            groups.run([*command, str(groups.limit_file)])
    except GroupsUnavailableError as error:
        print(f"no groups of our own: {error}; only the host's memory is read")
        inside("", options.rounds)
    anyio.run(measure_crowds, options.rounds, options.crowds)


if __name__ == "__main__":
    main()
