"""AdmissionController: slots, bytes, cancellation at every step, and its statistics, in one event loop.

The one thing that is made up here is what the guard says the room is; everything else is real.
"""

import asyncio
import pickle
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any, Literal, cast

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import TaskGroup

import memsafe_transcribe as mt
from memsafe_transcribe._admission import acquiring

from ..conftest import Run
from .room import NOTHING, ToldGuard, are_in, holds, in_time, settle, start, told

_STEPS = 14  # scheduling steps within which each scenario below is over


def test_never_more_at_once_than_slots(run: Run) -> None:
    """Of 12 tasks 3 run at a time, always 3 while there are that many, and all get their turn."""
    admission = told(max_concurrent=3)
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
    assert (*holds(admission), statistics.rejected) == (0, 0, 0, 0)


def test_held_until_the_end_of_the_block_without_as(run: Run) -> None:
    """`async with` keeps the handle, also where the block gives it no name, and also for a part."""
    admission = told(100)

    async def test(tasks: TaskGroup) -> None:
        async with admission.reserve(60):
            await settle()
            assert holds(admission) == (1, 0, 60)
            held = admission.current_reservation()
            assert held is not None
            async with admission.reserve(40, reservation=held):
                del held
                await settle()
                now = admission.current_reservation()
                assert now is not None
                assert now.need_bytes == 40
        assert holds(admission) == NOTHING

    in_time(run, test)
    assert admission.statistics().orphaned == 0


def test_a_block_that_raises_gives_everything_back(run: Run) -> None:
    """An error, like a cancellation, inside the block ends the reservation."""
    admission = told(100)

    async def test(tasks: TaskGroup) -> None:
        with pytest.raises(ZeroDivisionError):
            async with admission.reserve(60):
                raise ZeroDivisionError
        (worker,) = await start(tasks, admission, 100)
        assert worker.is_in.is_set()
        worker.scope.cancel()

    in_time(run, test)
    assert holds(admission) == NOTHING


# -- cancellation


class Scenario:
    """A victim is cancelled at one scheduling step; what it waits for is given back at another; one waits behind it.

    Args:
        means: how to cancel: by the task's scope, or by asyncio's own `Task.cancel()`.
        times: how often, at steps that follow each other.
        release_at: the step at which the slot comes free; None if it is free from the beginning.
        cancel_at: the step of the first cancellation.
        cancel_first: if both are at the same step, which of them comes first.
    """

    def __init__(
        self, means: Literal["scope", "task"], times: int, release_at: int | None, cancel_at: int, cancel_first: bool
    ) -> None:
        self._means = means
        self._cancel_steps = range(cancel_at, cancel_at + times)
        self._release_at = release_at
        self._cancel_first = cancel_first
        self._scope = anyio.CancelScope()
        self._task: asyncio.Task[None] | None = None
        self._admission = told(100, max_concurrent=1)
        self._began = self._is_in = self.is_over = False
        self.cancelled_while: list[str] = []

    async def play(self) -> None:
        admission = self._admission
        hold = admission.reserve_nowait(1) if self._release_at is not None else None
        next_is_in = anyio.Event()

        async def wait_behind() -> None:
            async with admission.reserve(100):
                next_is_in.set()

        async with anyio.create_task_group() as tasks:
            if self._means == "task":
                self._task = asyncio.create_task(self._victim())
            else:
                tasks.start_soon(self._in_scope)
            tasks.start_soon(wait_behind)
            for step in range(_STEPS):
                if self._cancel_first:
                    self._cancel(step)
                if step == self._release_at and hold is not None:
                    hold.release()
                if not self._cancel_first:
                    self._cancel(step)
                await anyio.lowlevel.checkpoint()
            await next_is_in.wait()
            if self._task is not None:
                await asyncio.wait([self._task])
        assert holds(admission) == NOTHING
        assert (admission.statistics().rejected, admission.statistics().orphaned) == (0, 0)
        assert self.is_over != bool(self.cancelled_while), "the cancellation was lost, or hit nothing"

    def _cancel(self, step: int) -> None:
        if step not in self._cancel_steps or self.is_over:
            return
        if self._means == "task":
            assert self._task is not None
            if self._task.done():
                return
            self._task.cancel()
        else:
            self._scope.cancel()
        self.cancelled_while.append(self._state())

    def _state(self) -> str:
        if not self._began:
            return "before it begins"
        if self._is_in:
            return "holding"
        return "granted" if self._admission.statistics().granted == 1 + (self._release_at is not None) else "waiting"

    async def _in_scope(self) -> None:
        with self._scope:
            await self._victim()

    async def _victim(self) -> None:
        self._began = True
        async with self._admission.reserve(100):
            self._is_in = True
            for _ in range(3):
                await anyio.lowlevel.checkpoint()
        self.is_over = True


async def cancelled_everywhere(means: Literal["scope", "task"], times: int) -> None:
    """Cancel at each step, with the release at each step; and see that this met every state that there is."""
    seen: set[str] = set()
    with anyio.fail_after(60):
        for release_at in (None, *range(_STEPS // 2)):
            for cancel_first in (False, True):
                for cancel_at in range(_STEPS):
                    scenario = Scenario(means, times, release_at, cancel_at, cancel_first)
                    await scenario.play()
                    seen.update(scenario.cancelled_while)
                assert scenario.is_over, "the last one comes too late to hit anything"
    assert seen == {"before it begins", "waiting", "granted", "holding"}


def test_cancelled_at_every_step(run: Run) -> None:
    """Before it begins, while it waits, after the hand-over and before it wakes, while it holds: nothing is left."""
    run(cancelled_everywhere, "scope", 1)


@pytest.mark.parametrize("run", ["asyncio"], indirect=True)
@pytest.mark.parametrize("times", [1, 2])
def test_cancelled_by_asyncio_itself_at_every_step(run: Run, times: int) -> None:
    """What `asyncio.timeout` and `asyncio.TaskGroup` do; once, and once more a step later."""
    run(cancelled_everywhere, "task", times)


def test_a_cancelled_head_lets_the_next_one_through(run: Run) -> None:
    """The place of a head that gives up is given up at once: the next one that fits is let in."""
    admission = told(100, max_concurrent=2)

    async def test(tasks: TaskGroup) -> None:
        holder, other, large, small = await start(tasks, admission, 60, 10, 80, 10)
        assert are_in(holder, other, large, small) == [True, True, False, False]
        large.scope.cancel()
        await large.done.wait()
        assert (holds(admission), small.is_in.is_set()) == ((2, 1, 70), False)
        await other.end()
        await small.is_in.wait()
        await holder.end()
        await small.end()

    in_time(run, test)
    assert holds(admission) == NOTHING


@pytest.mark.parametrize("held", [False, True])
def test_nothing_begins_in_a_cancelled_scope(run: Run, held: bool) -> None:
    """A task that is cancelled already is not let in, though there would be room: to enter is a checkpoint."""
    admission = told(100)

    async def test(tasks: TaskGroup) -> None:
        parent = admission.reserve_nowait(2) if held else None
        with anyio.CancelScope() as scope:
            scope.cancel()
            async with admission.reserve(1, reservation=parent):
                pytest.fail("let in")
        assert scope.cancelled_caught
        if parent is not None:
            assert parent.left_bytes == 2
            parent.release()

    in_time(run, test)
    assert holds(admission) == NOTHING


def test_a_timeout_and_a_grant_in_the_same_step(run: Run) -> None:
    """Whichever comes first decides; what was granted in the last moment is held, or given back, never both."""

    async def main() -> None:
        for release_at in range(12):
            admission = told(100, max_concurrent=1)
            hold = admission.reserve_nowait(1)
            outcome: list[str] = []
            begun = anyio.Event()

            async def victim(
                admission: mt.AdmissionController = admission,
                outcome: list[str] = outcome,
                begun: anyio.Event = begun,
            ) -> None:
                begun.set()
                try:
                    async with admission.reserve(1, timeout_seconds=0.001):
                        outcome.append(f"in {holds(admission)}")
                except mt.AdmissionTimeoutError:
                    outcome.append("timed out")

            with anyio.fail_after(30):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(victim)
                    await begun.wait()
                    with anyio.move_on_after(0.001 + (release_at - 6) / 20_000):
                        await anyio.sleep_forever()
                    hold.release()
            assert outcome in (["in (1, 0, 1)"], ["timed out"])
            assert holds(admission) == NOTHING

    run(main)


@pytest.mark.parametrize("others", [0, 1, 15])
def test_a_loop_of_short_reservations_lets_others_run(run: Run, others: int) -> None:
    """Every sixty-fourth entrance at the latest is a schedule point, whatever else is granted in between."""
    admission = told()
    ran_at: list[int] = []

    async def other() -> None:
        while True:
            ran_at.append(entered)
            await anyio.lowlevel.checkpoint()

    entered = 0

    async def test(tasks: TaskGroup) -> None:
        nonlocal entered
        tasks.start_soon(other)
        await settle()
        ran_at.clear()
        for entered in range(1, 401):  # noqa: B007
            async with admission.reserve(1):
                pass
            for _ in range(others):
                admission.reserve_nowait(1).release()
        tasks.cancel_scope.cancel()

    in_time(run, test)
    assert len(ran_at) >= 5  # of six schedule points; trio shuffles who runs first after one
    assert max(after - before for before, after in pairwise([0, *ran_at])) <= 128


# -- misuse


def test_with_instead_of_async_with(run: Run) -> None:
    """It would run the block without holding anything; so it says what to write."""
    admission = told(100)

    async def test(tasks: TaskGroup) -> None:
        forgotten: Any = admission.reserve(1)
        with pytest.raises((TypeError, RuntimeError), match="async with"):
            with forgotten:
                pytest.fail("let in")
        async with forgotten:
            assert holds(admission) == (1, 0, 1)
        assert holds(admission) == NOTHING

    in_time(run, test)


@pytest.mark.parametrize("slots", [1, 2])
def test_one_reserve_is_entered_once(run: Run, slots: int) -> None:
    """Entered again, at the same time, while waiting, or afterwards, it is refused; the first one is not disturbed."""
    admission = told(100, max_concurrent=slots)

    async def test(tasks: TaskGroup) -> None:
        once = admission.reserve(1)
        async with once:
            with pytest.raises(RuntimeError, match="once"):
                async with once:
                    pytest.fail("let in")
            assert holds(admission) == (1, 0, 1)
        with pytest.raises(RuntimeError, match="once"):
            async with once:
                pytest.fail("let in")
        assert holds(admission) == NOTHING

        waits = admission.reserve(1)
        is_in = anyio.Event()

        async def wait() -> None:
            async with waits:
                is_in.set()

        nowaits = [admission.reserve_nowait(1) for _ in range(slots)]
        tasks.start_soon(wait)
        await settle()
        with pytest.raises(RuntimeError, match="once"):
            async with waits:
                pytest.fail("let in")
        assert holds(admission) == (slots, 1, slots)
        for hold in nowaits:
            hold.release()
        await is_in.wait()

    in_time(run, test)
    assert holds(admission) == NOTHING


async def _enter(reserving: Any) -> None:
    async with reserving:
        pass


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda admission: mt.AdmissionController(max_concurrent=0), "max_concurrent must be at least 1, got 0"),
        (lambda admission: mt.AdmissionController(max_waiting=-1), "max_waiting must not be negative, got -1"),
        (lambda admission: mt.AdmissionController(scope=cast(Any, "host")), "scope must be .* got 'host'"),
        (lambda admission: admission.reserve(-1), "need_bytes must not be negative, got -1"),
        (lambda admission: admission.reserve_nowait(-1), "need_bytes must not be negative, got -1"),
        (lambda admission: admission.reserve_blocking(-1).__enter__(), "need_bytes must not be negative, got -1"),
        (lambda admission: admission.reserve(1, lane="fast"), r"lane 'fast' is not declared; call lane\('fast', "),
        (lambda admission: admission.reserve_nowait(1, lane="fast"), "lane 'fast' is not declared"),
        (lambda admission: admission.reserve_blocking(1, lane="fast").__enter__(), "lane 'fast' is not declared"),
        (lambda admission: admission.lane("fast", max_concurrent=0), "max_concurrent must be at least 1, got 0"),
        (lambda admission: admission.safe_batch_size(0, 1), "max_batch_size=0, bytes_per_item=1"),
        (lambda admission: admission.safe_batch_size(1, 0), "max_batch_size=1, bytes_per_item=0"),
    ],
)
def test_bad_arguments(what: Callable[[mt.AdmissionController], object], message: str) -> None:
    """They are ValueErrors at once, and leave nothing behind."""
    admission = told(100)
    with pytest.raises(ValueError, match=message):
        what(admission)
    assert holds(admission) == NOTHING


def test_bad_sizes_for_a_handle(run: Run) -> None:
    """No negative size for a part, for growing, shrinking or use."""
    admission = told(100)

    async def test(tasks: TaskGroup) -> None:
        async with admission.reserve(10) as held:
            calls: list[Callable[[int], object]] = [held.carve, held.try_grow, held.shrink, held.mark_used]
            for call in calls:
                with pytest.raises(ValueError, match="must not be negative, got -1"):
                    call(-1)
            with pytest.raises(ValueError, match="need_bytes must not be negative, got -1"):
                admission.reserve(-1, reservation=held)
            assert (held.need_bytes, held.left_bytes) == (10, 10)

    in_time(run, test)


# -- statistics


def test_statistics(run: Run) -> None:
    """One look: who runs, who waits, what is promised, what is left, and the counts so far."""
    admission = told(100, max_concurrent=2)

    async def test(tasks: TaskGroup) -> None:
        async with admission.reserve(5, slot=False):
            first, second, third = await start(tasks, admission, 30, 20, 10)
            with pytest.raises(mt.AdmissionRejectedError):
                admission.reserve_nowait(1)
            assert admission.statistics() == mt.AdmissionStatistics(
                active=2,
                waiting=1,
                reserved_bytes=55,
                budget_bytes=45,
                granted=3,
                rejected=1,
                orphaned=0,
                peak_active=2,
                peak_reserved_bytes=55,
                others_active=0,
                others_reserved_bytes=0,
                max_concurrent=2,
                scope="this process alone",
                retry_after_seconds=1,
            )
            for worker in (first, second, third):
                await worker.end()
        statistics = admission.statistics()
        assert (statistics.active, statistics.granted, statistics.budget_bytes) == (0, 4, 100)
        assert (statistics.peak_active, statistics.peak_reserved_bytes) == (2, 55)

    in_time(run, test)


def test_budget_is_never_less_than_nothing() -> None:
    """With memory over its target there is nothing to give, not a negative amount."""
    assert told(-5).statistics().budget_bytes == 0


def test_safe_batch_size() -> None:
    """It follows the room that is free now, promises taken off, from 1 to the most that the caller wants."""
    guard = ToldGuard(100)
    admission = mt.AdmissionController(guard=guard, scope="process")
    assert [admission.safe_batch_size(most, 10) for most in (1, 9, 10, 11)] == [1, 9, 10, 10]
    with admission.reserve_nowait(55) as held:
        assert admission.safe_batch_size(50, 10) == 4
        guard.say(65)
        held.mark_used(35)
        assert admission.safe_batch_size(50, 10) == 4
    assert admission.safe_batch_size(50, 10) == 6
    guard.say(9)
    assert admission.safe_batch_size(50, 10) == 1
    guard.say(-1000)
    assert admission.safe_batch_size(50, 10) == 1


def test_one_controller_for_the_process() -> None:
    """The default controller is made once, on the default guard."""
    assert mt.default_admission() is mt.default_admission()
    assert mt.default_admission().guard is mt.default_guard()


# -- errors


async def _too_large(admission: mt.AdmissionController) -> None:
    async with admission.reserve(10**10):
        pass


async def _rejected(admission: mt.AdmissionController) -> None:
    admission.reserve_nowait(101)


async def _timed_out(admission: mt.AdmissionController) -> None:
    async with admission.reserve(101, timeout_seconds=0):
        pass


async def _nested(admission: mt.AdmissionController) -> None:
    async with admission.reserve(1) as held:
        held.carve(2)


@pytest.mark.parametrize(
    ("provoke", "figures"),
    [
        (
            _too_large,
            {"need_bytes": 10**10, "limit_bytes": 10**9, "ceiling_bytes": 10**9},
        ),
        (_rejected, {"need_bytes": 101, "waiting": 0, "retry_after_seconds": 1}),
        (_timed_out, {"need_bytes": 101, "timeout_seconds": 0}),
        (_nested, {"need_bytes": 2, "held_bytes": 1, "left_bytes": 1}),
    ],
)
def test_refusals_survive_pickling(
    run: Run, provoke: Callable[[mt.AdmissionController], Awaitable[None]], figures: dict[str, float]
) -> None:
    """Kind, message and figures come out of a pickle as they went in."""

    async def main() -> None:
        with pytest.raises(mt.AdmissionError) as caught:
            await provoke(told(100))
        copy = pickle.loads(pickle.dumps(caught.value))
        assert type(copy) is type(caught.value)
        assert str(copy) == str(caught.value)
        assert {name: getattr(copy, name) for name in figures} == figures

    run(main)


def test_the_constants_that_the_tests_rely_on() -> None:
    """Promised in the design: alone, a reservation waits for a minute."""
    assert acquiring.ALONE_SECONDS == 60
