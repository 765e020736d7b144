"""The audit's case: batch(5) x chunks(2) + scheduler(2) had 12 operations at once, for want of one who counts them all.

Rebuilt twice: as the backend had it, with a semaphore at each level, and on one AdmissionController.
"""

from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

import memsafe_transcribe as mt

from ..conftest import Run
from .room import NOTHING, holds, in_time, settle, told

JOBS = 20
CHUNKS = 6
SCHEDULED = 10


class Calls:
    """The engine: counts the calls that run at once, and keeps each one until all others have had their chance."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.finished: list[tuple[str, int]] = []

    async def __call__(self, job: str, chunk: int) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        await settle()
        self.running -= 1
        self.finished.append((job, chunk))

    def check_that_all_is_done(self) -> None:
        """Every chunk of every job, once."""
        jobs = [f"job {number}" for number in range(JOBS)] + [f"scheduled {number}" for number in range(SCHEDULED)]
        assert sorted(self.finished) == sorted((job, chunk) for job in jobs for chunk in range(CHUNKS))


Job = Callable[[str], Coroutine[Any, Any, None]]


async def all_jobs(tasks: TaskGroup, job: Job, scheduled: Job) -> None:
    """What comes in: scheduled jobs among those of batches."""
    for number in range(max(JOBS, SCHEDULED)):
        if number < JOBS:
            tasks.start_soon(job, f"job {number}")
        if number < SCHEDULED:
            tasks.start_soon(scheduled, f"scheduled {number}")


async def chunk_by_chunk(calls: Calls, name: str) -> None:
    """One call after the other, as the scheduler did it."""
    for chunk in range(CHUNKS):
        await calls(name, chunk)


def test_a_semaphore_at_each_level_runs_twelve_at_once(run: Run) -> None:
    """The control: 5 jobs of a batch with 2 chunks each, and 2 scheduled ones. The next test needs it."""
    calls = Calls()

    async def test(tasks: TaskGroup) -> None:
        batch, scheduler = anyio.Semaphore(5), anyio.Semaphore(2)

        async def job(name: str) -> None:
            async with batch:
                limit = anyio.Semaphore(2)

                async def one(chunk: int) -> None:
                    async with limit:
                        await calls(name, chunk)

                async with anyio.create_task_group() as chunks:
                    for chunk in range(CHUNKS):
                        chunks.start_soon(one, chunk)

        async def scheduled(name: str) -> None:
            async with scheduler:
                await chunk_by_chunk(calls, name)

        await all_jobs(tasks, job, scheduled)

    in_time(run, test)
    assert calls.most == 12
    calls.check_that_all_is_done()


def test_one_controller_never_runs_more_than_three(run: Run) -> None:
    """A job has its slot for its first chunk; further ones take theirs without waiting, and only while nobody waits.

    All finish, the scheduler has no more than its two, the slots are all in use while there is work for them, and a job
    that is alone takes extra ones.
    """
    admission = told(max_concurrent=3)
    admission.lane("scheduler", max_concurrent=2)
    calls = Calls()
    scheduled_at_once: list[int] = []
    extra_slots = 0

    def extra(others: ExitStack) -> bool:
        """Another slot for another chunk of the same job, if there is one to spare."""
        nonlocal extra_slots
        waiting = admission.statistics().waiting
        try:
            others.enter_context(admission.reserve_nowait(1))
        except mt.AdmissionRejectedError:
            return False
        assert waiting == 0
        extra_slots += 1
        return True

    async def job(name: str) -> None:
        async with admission.reserve(10):
            left = list(range(CHUNKS))
            while left:
                with ExitStack() as others:
                    now = [left.pop(0)]
                    if left and extra(others):
                        now.append(left.pop(0))
                    async with anyio.create_task_group() as chunks:
                        for chunk in now:
                            chunks.start_soon(calls, name, chunk)

    async def scheduled(name: str) -> None:
        async with admission.reserve(10, lane="scheduler"):
            inside.append(name)
            scheduled_at_once.append(len(inside))
            await chunk_by_chunk(calls, name)
            inside.remove(name)

    inside: list[str] = []

    async def test(tasks: TaskGroup) -> None:
        async with anyio.create_task_group() as crowd:
            await all_jobs(crowd, job, scheduled)
        calls.check_that_all_is_done()
        before = extra_slots
        await job("alone")
        assert extra_slots > before

    in_time(run, test)
    assert calls.most == 3
    assert max(scheduled_at_once) == 2
    statistics = admission.statistics()
    assert (statistics.peak_active, holds(admission)) == (3, NOTHING)
    assert statistics.granted == JOBS + SCHEDULED + 1 + extra_slots


def test_a_batch_that_reserves_for_itself_is_told_instead_of_hanging(run: Run) -> None:
    """The mistake that the case invites: a slot per batch, per job and per chunk, each waited for within the other.

    With three such batches at once nobody could ever go on; the ones that would wait are refused at once instead.
    """
    admission = told(max_concurrent=3)
    refused: list[int] = []

    async def batch() -> None:
        async with admission.reserve(1):
            await settle()  # until all batches hold their slots
            try:
                async with admission.reserve(1):  # a job's
                    await anyio.lowlevel.checkpoint()
            except mt.NestedReservationError as error:
                refused.append(error.need_bytes)

    async def test(tasks: TaskGroup) -> None:
        for _ in range(3):
            tasks.start_soon(batch)

    in_time(run, test)
    assert refused
    assert holds(admission) == NOTHING
