"""AdmissionController: who comes next. Order, bounded bypass, priorities, lanes, a full queue, and not waiting."""

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import TaskGroup

import memsafe_transcribe as mt
from memsafe_transcribe._admission import keeper, refusals
from memsafe_transcribe._admission.ledger import MAX_PASSES, PRIORITY_SECONDS
from memsafe_transcribe._admission.table import MAX_LANES

from ..conftest import Run
from .room import NOTHING, ToldGuard, Worker, are_in, holds, in_time, settle, start, told


class Clock:
    """Stands in for the module `time` of the keeper, and goes on only when it is told to."""

    def __init__(self) -> None:
        self.now_seconds = 1000.0

    def monotonic(self) -> float:
        return self.now_seconds


async def order_of_ending(workers: list[Worker], first: mt.Reservation) -> list[int]:
    """Give back what holds them up, and let each one leave as soon as it is in: in which order that was."""
    order: list[int] = []
    first.release()
    while len(order) < len(workers):
        await settle()
        for number, worker in enumerate(workers):
            if worker.is_in.is_set() and number not in order:
                order.append(number)
                await worker.end()
    return order


# -- order of arrival


def test_order_of_arrival(run: Run) -> None:
    """With one slot, tasks go through in the order in which they came."""
    admission = told(max_concurrent=1)

    async def test(tasks: TaskGroup) -> None:
        hold = admission.reserve_nowait(1)
        workers = await start(tasks, admission, *range(6))
        assert holds(admission) == (1, 6, 1)
        assert await order_of_ending(workers, hold) == [0, 1, 2, 3, 4, 5]

    in_time(run, test)
    assert holds(admission) == NOTHING


def test_a_large_one_is_passed_a_few_times_and_then_saved_up_for(run: Run) -> None:
    """Smaller ones that fit go by MAX_PASSES times; the next one waits, though it would fit, until the large one is in.

    Every one that passes takes its turn and leaves again, so without a bound the large one could wait for ever.
    """
    admission = told(100, max_concurrent=8)

    async def test(tasks: TaskGroup) -> None:
        hold = admission.reserve_nowait(60)
        (large,) = await start(tasks, admission, 80)
        for _ in range(MAX_PASSES):
            (small,) = await start(tasks, admission, 10)
            assert small.is_in.is_set()
            await small.end()
        (next_small,) = await start(tasks, admission, 10)
        assert are_in(large, next_small) == [False, False]
        assert holds(admission) == (1, 2, 60)
        hold.release()
        await large.is_in.wait()
        await next_small.is_in.wait()
        assert holds(admission) == (2, 0, 90)
        await large.end()
        await next_small.end()

    in_time(run, test)
    assert holds(admission) == NOTHING


def test_nobody_is_passed_for_want_of_a_slot(run: Run) -> None:
    """A slot goes to the first one, however little those behind it need: bypass is for memory only."""
    admission = told(100, max_concurrent=1)

    async def test(tasks: TaskGroup) -> None:
        hold = admission.reserve_nowait(1)
        first, second = await start(tasks, admission, 90, 1)
        hold.release()
        await first.is_in.wait()
        await settle()
        assert not second.is_in.is_set()
        await first.end()
        await second.is_in.wait()
        await second.end()

    in_time(run, test)


# -- priorities


def test_higher_priority_goes_first(run: Run) -> None:
    """Among those that came within ten seconds; equal ones keep their order, and negative ones come last."""
    admission = told(max_concurrent=1)

    async def test(tasks: TaskGroup) -> None:
        hold = admission.reserve_nowait(1)
        workers = []
        for priority in (-1, 0, 0, 1, 2, 1):
            workers += await start(tasks, admission, 1, priority=priority)
        assert await order_of_ending(workers, hold) == [4, 3, 5, 1, 2, 0]

    in_time(run, test)


@pytest.mark.parametrize(("waited_seconds", "order"), [(-0.1, [1, 0]), (0.1, [0, 1])])
def test_waiting_makes_up_for_priority(
    run: Run, monkeypatch: pytest.MonkeyPatch, waited_seconds: float, order: list[int]
) -> None:
    """A step of priority is worth ten seconds of waiting, not a moment less or more; so nobody starves."""
    assert PRIORITY_SECONDS == 10
    clock = Clock()
    monkeypatch.setattr(keeper, "time", clock)
    admission = told(max_concurrent=1)

    async def test(tasks: TaskGroup) -> None:
        hold = admission.reserve_nowait(1)
        workers = await start(tasks, admission, 1)
        clock.now_seconds += 3 * PRIORITY_SECONDS + waited_seconds
        workers += await start(tasks, admission, 1, priority=3)
        assert await order_of_ending(workers, hold) == order

    in_time(run, test)


# -- a full queue


def test_a_full_queue_sheds(run: Run) -> None:
    """More than `max_waiting` are refused at once, with a time after which to retry; nobody else is touched."""
    admission = told(max_concurrent=1, max_waiting=2)

    async def test(tasks: TaskGroup) -> None:
        hold = admission.reserve_nowait(1)
        workers = await start(tasks, admission, 1, 1)
        with pytest.raises(mt.AdmissionRejectedError, match=r"2 wait already \(max_waiting\); retry in about 1 s") as e:
            async with admission.reserve(7):
                pytest.fail("let in")
        assert (e.value.need_bytes, e.value.waiting, e.value.retry_after_seconds) == (7, 2, 1)
        assert holds(admission) == (1, 2, 1)
        assert await order_of_ending(workers, hold) == [0, 1]
        async with admission.reserve(7):
            pass

    in_time(run, test)
    assert admission.statistics().rejected == 1


def test_nobody_may_wait(run: Run) -> None:
    """With `max_waiting=0` it is let in or refused, never queued."""
    admission = told(max_concurrent=1, max_waiting=0)

    async def test(tasks: TaskGroup) -> None:
        async with admission.reserve(1):
            pass
        hold = admission.reserve_nowait(1)
        with pytest.raises(mt.AdmissionRejectedError):
            async with admission.reserve(1):
                pytest.fail("let in")
        hold.release()
        async with admission.reserve(1):
            pass

    in_time(run, test)
    assert holds(admission) == NOTHING


@pytest.mark.parametrize(
    ("hold_seconds", "retry_seconds"), [(0, 1), (30, 45), (40_000, 600)], ids=["short", "longer", "longest"]
)
def test_when_to_retry(run: Run, monkeypatch: pytest.MonkeyPatch, hold_seconds: float, retry_seconds: float) -> None:
    """About the time in which the queue of now will have passed, by how long slots were held: 1 s to 10 minutes.

    Three that wait or come share two slots, for holds of 30 s: 45 s.
    """
    clock = Clock()
    monkeypatch.setattr(keeper, "time", clock)
    monkeypatch.setattr(refusals, "time", clock)
    admission = told(max_concurrent=2)

    async def test(tasks: TaskGroup) -> None:
        holding = [admission.reserve_nowait(1), admission.reserve_nowait(1)]
        clock.now_seconds += hold_seconds
        holding.pop().release()
        holding.append(admission.reserve_nowait(1))
        workers = await start(tasks, admission, 1, 1)
        with pytest.raises(mt.AdmissionRejectedError) as caught:
            admission.reserve_nowait(1)
        assert caught.value.retry_after_seconds == retry_seconds
        tasks.cancel_scope.cancel()
        assert len(workers) == 2
        for hold in holding:
            hold.release()

    in_time(run, test)


# -- not waiting


def test_nowait_takes_what_is_free_and_no_more(run: Run) -> None:
    """By `with`, or until `release()`; refused with figures and what is in the way, and then nothing is left of it."""
    admission = told(100, max_concurrent=2)
    with admission.reserve_nowait(60) as first:
        assert (first.need_bytes, holds(admission)) == (60, (1, 0, 60))
        with pytest.raises(mt.AdmissionRejectedError) as caught:
            admission.reserve_nowait(41)
        assert (caught.value.need_bytes, caught.value.waiting, caught.value.retry_after_seconds) == (41, 0, 1)
        second = admission.reserve_nowait(40)
        with pytest.raises(mt.AdmissionRejectedError, match=r"2 of 2 slots \(max_concurrent\) are taken, 0 waiting"):
            admission.reserve_nowait(0)
        second.release()
        second.release()
        assert holds(admission) == (1, 0, 60)
    assert holds(admission) == NOTHING
    with pytest.raises(mt.ReservationTooLargeError):
        admission.reserve_nowait(10**9 + 1)
    assert (admission.statistics().granted, admission.statistics().rejected) == (2, 3)


def test_nowait_never_jumps_the_queue(run: Run) -> None:
    """While somebody waits, it is refused, even where it would fit and the one that waits would not."""
    admission = told(100, max_concurrent=8)

    async def test(tasks: TaskGroup) -> None:
        hold = admission.reserve_nowait(60)
        (large,) = await start(tasks, admission, 80)
        with pytest.raises(mt.AdmissionRejectedError, match="1 waiting") as caught:
            admission.reserve_nowait(1)
        assert caught.value.waiting == 1
        hold.release()
        await large.is_in.wait()
        admission.reserve_nowait(1).release()
        await large.end()

    in_time(run, test)


# -- lanes


def test_a_lane_is_a_limit_under_the_global_one(run: Run) -> None:
    """No more of its work than it allows; and no more in all than slots, whatever the lanes would allow."""
    admission = told(max_concurrent=3)
    admission.lane("scheduler", max_concurrent=2)
    admission.lane("wide", max_concurrent=50)

    async def test(tasks: TaskGroup) -> None:
        scheduled = await start(tasks, admission, 1, 1, 1, lane="scheduler")
        assert are_in(*scheduled) == [True, True, False]
        wide = await start(tasks, admission, 1, 1, lane="wide")
        assert are_in(*wide) == [True, False]
        await scheduled[0].end()  # a slot, and one in the lane: it goes to the one that came first
        await settle()
        assert (are_in(*scheduled), are_in(*wide)) == ([True, True, True], [True, False])
        await wide[0].end()
        await settle()
        assert wide[1].is_in.is_set()
        for worker in (*scheduled[1:], wide[1]):
            await worker.end()

    in_time(run, test)
    assert holds(admission) == NOTHING


def test_a_full_lane_does_not_hold_up_others(run: Run) -> None:
    """Work of another lane, or of none, goes by one that waits for its lane; as often as it likes."""
    admission = told(max_concurrent=3)
    admission.lane("scheduler", max_concurrent=1)
    admission.lane("batch", max_concurrent=1)

    async def test(tasks: TaskGroup) -> None:
        first, second = await start(tasks, admission, 1, 1, lane="scheduler")
        for _ in range(2 * MAX_PASSES):
            (other,) = await start(tasks, admission, 1)
            (batch,) = await start(tasks, admission, 1, lane="batch")
            assert are_in(first, second, other, batch) == [True, False, True, True]
            await other.end()
            await batch.end()
        await first.end()
        await second.is_in.wait()
        await second.end()

    in_time(run, test)


def test_a_lane_is_declared_anew(run: Run) -> None:
    """A wider lane lets in who waits, at once; a narrower one keeps who is in, and lets nobody else in."""
    admission = told(max_concurrent=4)
    admission.lane("scheduler", max_concurrent=1)

    async def test(tasks: TaskGroup) -> None:
        workers = await start(tasks, admission, 1, 1, 1, 1, lane="scheduler")
        assert are_in(*workers) == [True, False, False, False]
        admission.lane("scheduler", max_concurrent=3)
        await settle()
        assert are_in(*workers) == [True, True, True, False]
        admission.lane("scheduler", max_concurrent=1)
        await workers[0].end()
        await workers[1].end()
        await settle()
        assert are_in(*workers) == [True, True, True, False]
        await workers[2].end()
        await workers[3].is_in.wait()
        await workers[3].end()

    in_time(run, test)


def test_there_are_not_too_many_lanes() -> None:
    """One above the most is refused; one that is declared may still change."""
    admission = told()
    for number in range(MAX_LANES):
        admission.lane(f"lane {number}", max_concurrent=1)
    with pytest.raises(ValueError, match=f"at most {MAX_LANES} lanes"):
        admission.lane("another", max_concurrent=1)
    admission.lane("lane 0", max_concurrent=2)
    admission.reserve_nowait(1, lane="lane 0").release()
    with pytest.raises(ValueError, match="not declared"):
        admission.reserve_nowait(1, lane="another")


def test_memory_without_a_slot_needs_none(run: Run) -> None:
    """A loaded model is let in while all slots are taken, is charged, and goes by those that wait for a slot."""
    guard = ToldGuard(100)
    admission = mt.AdmissionController(guard=guard, max_concurrent=1, scope="process")

    async def test(tasks: TaskGroup) -> None:
        hold = admission.reserve_nowait(10)
        (waiting,) = await start(tasks, admission, 10)
        (model,) = await start(tasks, admission, 50, slot=False)
        assert are_in(waiting, model) == [False, True]
        assert (holds(admission), admission.statistics().budget_bytes) == ((1, 1, 60), 40)
        hold.release()
        await waiting.end()
        await model.end()

    in_time(run, test)
    assert holds(admission) == NOTHING


def test_the_queue_in_the_long_run(run: Run) -> None:
    """A thousand tasks of all sizes, lanes and priorities, some of which give up: all others get their turn."""
    admission = told(100, max_concurrent=4)
    admission.lane("narrow", max_concurrent=1)
    most: list[tuple[int, int, int]] = []
    inside: list[tuple[int, bool]] = []
    finished: list[int] = []

    async def task(number: int) -> None:
        need, narrow, is_patient = number * 37 % 100, number % 3 == 0, number % 5 > 0
        with anyio.CancelScope() as scope:
            if not is_patient:
                impatient.append(scope)
            async with admission.reserve(need, priority=number % 4, lane="narrow" if narrow else None):
                inside.append((need, narrow))
                most.append((len(inside), sum(need for need, _ in inside), sum(narrow for _, narrow in inside)))
                try:
                    await anyio.lowlevel.checkpoint()
                finally:
                    inside.remove((need, narrow))
            finished.append(number)

    impatient: list[anyio.CancelScope] = []

    async def test(tasks: TaskGroup) -> None:
        for number in range(1000):
            tasks.start_soon(task, number)
            if number % 7 == 0:
                await anyio.lowlevel.checkpoint()
                if impatient:
                    impatient.pop(0).cancel()

    in_time(run, test)
    assert len(finished) >= 800
    assert {number for number in range(1000) if number % 5} <= set(finished)
    assert [max(column) for column in zip(*most, strict=True)] == [4, max(need for _, need, _ in most), 1]
    assert max(need for _, need, _ in most) <= 100
    assert holds(admission) == NOTHING
