"""AdmissionController: slots, order and cancellation, in one event loop (between threads: test_threads.py).

The one thing that is made up here is what the guard says the room is; everything else is real.
"""

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import TaskGroup

import memsafe_transcribe as mt

from ..conftest import Run
from .room import ToldGuard, Worker, in_time, settle, start


def test_never_more_at_once_than_slots(run: Run) -> None:
    """Of 12 tasks 3 run at a time, always 3 while there are that many, and all get their turn."""
    admission = mt.AdmissionController(guard=ToldGuard(10**6), max_concurrent=3)
    running: list[int] = []
    counts: list[int] = []

    async def task(number: int) -> None:
        async with admission.reserve(1):
            running.append(number)
            await settle()
            counts.append(len(running))
            running.remove(number)

    async def test(tasks: TaskGroup) -> None:
        for number in range(12):
            tasks.start_soon(task, number)

    in_time(run, test)
    assert len(counts) == 12
    assert max(counts) == 3
    statistics = admission.statistics()
    assert (statistics.granted, statistics.peak_active, statistics.peak_reserved_bytes) == (12, 3, 3)
    assert (statistics.active, statistics.waiting, statistics.reserved_bytes, statistics.rejected) == (0, 0, 0, 0)


def test_first_in_first_out(run: Run) -> None:
    """Whoever came first is let in first, also where one that came later would fit at once."""
    guard = ToldGuard(100)
    admission = mt.AdmissionController(guard=guard, max_concurrent=8)

    async def test(tasks: TaskGroup) -> None:
        holder, large, small = await start(tasks, admission, 60, 80, 10)
        assert [worker.is_in.is_set() for worker in (holder, large, small)] == [True, False, False]
        holder.leave.set()
        await large.is_in.wait()
        await settle()
        assert small.is_in.is_set()
        large.leave.set()
        small.leave.set()

    in_time(run, test)


def test_order_of_arrival_with_one_slot(run: Run) -> None:
    """With one slot, tasks go through in the order in which they came."""
    admission = mt.AdmissionController(guard=ToldGuard(100), max_concurrent=1)
    order: list[int] = []

    async def task(number: int) -> None:
        async with admission.reserve(1):
            order.append(number)
            await anyio.lowlevel.checkpoint()

    async def test(tasks: TaskGroup) -> None:
        (holder,) = await start(tasks, admission, 1)
        for number in range(6):
            tasks.start_soon(task, number)
            await settle()
        holder.leave.set()

    in_time(run, test)
    assert order == list(range(6))


def test_a_cancelled_head_lets_the_next_one_through(run: Run) -> None:
    """The place of a head that gives up is given up at once: the next one that fits is let in."""
    admission = mt.AdmissionController(guard=ToldGuard(100), max_concurrent=8)

    async def test(tasks: TaskGroup) -> None:
        holder, large, small = await start(tasks, admission, 60, 80, 10)
        large.scope.cancel()
        await small.is_in.wait()
        await large.done.wait()
        assert not large.is_in.is_set()
        assert admission.statistics().waiting == 0
        holder.leave.set()
        small.leave.set()

    in_time(run, test)
    assert admission.statistics().reserved_bytes == 0


def test_cancelled_after_the_grant_but_before_waking(run: Run) -> None:
    """A grant that its task does not live to see is given back, and the next one gets it."""
    admission = mt.AdmissionController(guard=ToldGuard(100), max_concurrent=1)

    async def test(tasks: TaskGroup) -> None:
        _, second = await start_behind_a_hold(tasks)
        await second.is_in.wait()
        second.leave.set()

    async def start_behind_a_hold(tasks: TaskGroup) -> list[Worker]:
        async with admission.reserve(1):
            first, second = await start(tasks, admission, 1, 1)
        # No checkpoint since the release: the first one is granted, and has not run.
        statistics = admission.statistics()
        assert (statistics.active, statistics.waiting, statistics.granted) == (1, 1, 2)
        assert not first.is_in.is_set()
        first.scope.cancel()
        return [first, second]

    in_time(run, test)
    statistics = admission.statistics()
    assert (statistics.active, statistics.waiting, statistics.reserved_bytes, statistics.granted) == (0, 0, 0, 3)


def test_nothing_begins_in_a_cancelled_scope(run: Run) -> None:
    """A task that is cancelled already is not let in, though there would be room."""
    admission = mt.AdmissionController(guard=ToldGuard(100))

    async def test(tasks: TaskGroup) -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            async with admission.reserve(1):
                pytest.fail("let in")
        assert scope.cancelled_caught

    in_time(run, test)
    assert admission.statistics().active == 0


def test_a_block_that_raises_gives_everything_back(run: Run) -> None:
    """An error, like a cancellation, inside the block ends the reservation."""
    admission = mt.AdmissionController(guard=ToldGuard(100))

    async def test(tasks: TaskGroup) -> None:
        with pytest.raises(ZeroDivisionError):
            async with admission.reserve(60):
                raise ZeroDivisionError
        (worker,) = await start(tasks, admission, 100)
        assert worker.is_in.is_set()
        worker.scope.cancel()

    in_time(run, test)
    statistics = admission.statistics()
    assert (statistics.active, statistics.reserved_bytes) == (0, 0)


def test_statistics(run: Run) -> None:
    """One look: who runs, who waits, what is promised, what is left, and the counts so far."""
    admission = mt.AdmissionController(guard=ToldGuard(100), max_concurrent=2)

    async def test(tasks: TaskGroup) -> None:
        async with admission.reserve(5, slot=False):
            first, second, third = await start(tasks, admission, 30, 20, 10)
            assert admission.statistics() == mt.AdmissionStatistics(
                active=2,
                waiting=1,
                reserved_bytes=55,
                budget_bytes=45,
                granted=3,
                rejected=0,
                peak_active=2,
                peak_reserved_bytes=55,
            )
            for worker in (first, second, third):
                worker.leave.set()
                await worker.done.wait()
        statistics = admission.statistics()
        assert (statistics.active, statistics.granted, statistics.budget_bytes) == (0, 4, 100)
        assert (statistics.peak_active, statistics.peak_reserved_bytes) == (2, 55)

    in_time(run, test)


def test_bad_arguments(run: Run) -> None:
    """No slots, negative needs and negative uses are mistakes."""
    with pytest.raises(ValueError, match="max_concurrent"):
        mt.AdmissionController(max_concurrent=0)

    async def test(tasks: TaskGroup) -> None:
        with pytest.raises(ValueError, match="need_bytes"):
            async with mt.AdmissionController().reserve(-1):
                pass
        async with mt.AdmissionController(guard=ToldGuard(1)).reserve(1) as reservation:
            with pytest.raises(ValueError, match="used_bytes"):
                reservation.mark_used(-1)

    in_time(run, test)


def test_one_controller_for_the_process() -> None:
    """The default controller is made once, on the default guard."""
    assert mt.default_admission() is mt.default_admission()
    assert mt.default_admission().guard is mt.default_guard()
