"""Each scenario is cancelled at each of its steps, by each means there is, again while it cleans up, and while others
break down.
"""

import random

import pytest

from .place import Place
from .scenarios import SCENARIOS
from .stepping import Act, Steps, by_all_tasks, by_killing_children, by_scope, by_task
from .torture import MOST_POINTS, Bench, bench_of, on_each

_LATER = (1, 1, 2, 2, 3, 4, 6, 9, 15)  # by so many steps a second cancellation comes after the first

on_asyncio = pytest.mark.parametrize("name", SCENARIOS)


def everywhere(bench: Bench, what: str, act: Act, *, few: int, may_fail: bool = False) -> None:
    """Do this at the first step, at the second, and so on, until a run gets by without."""
    for point in bench.steps_to_try(few):
        ran = bench.cancelled(what, {point: act}, may_fail=may_fail)
        if not ran.steps.fired:
            break
        where = (what, point, ran.steps.count)
        assert may_fail or ran.error is None, where
        assert act is not by_task or not ran.is_finished, ("the cancellation was lost", where)
    assert point < MOST_POINTS - 1


def everywhere_and_later(bench: Bench, what: str, first: Act, second: Act) -> None:
    """Do this at each step, and something else a few steps later."""
    chance = random.Random(what)
    for point in bench.steps_to_try(1):
        if not bench.cancelled(what, {point: first, point + chance.choice(_LATER): second}).steps.fired:
            break


@on_each
def test_cancelled_by_a_scope(place: Place, name: str, backend: str) -> None:
    """As anyio and trio do it."""
    everywhere(bench_of(place, name, backend), "cancelled by a scope", by_scope, few=2)


@on_asyncio
def test_cancelled_by_asyncio_itself(place: Place, name: str) -> None:
    """By `Task.cancel()`, from which no scope shields, of this task or of all."""
    bench = bench_of(place, name, "asyncio")
    everywhere(bench, "cancelled by its task", by_task, few=1)
    everywhere(bench, "cancelled with all tasks", by_all_tasks, few=1)


@on_asyncio
def test_cancelled_twice(place: Place, name: str) -> None:
    """Once more while it cleans up. On trio, and by scopes, once is as often as one likes: it is cancelled at each of
    the awaits that follow.
    """
    bench = bench_of(place, name, "asyncio")
    everywhere_and_later(bench, "cancelled by its task, twice", by_task, by_task)
    everywhere_and_later(bench, "cancelled by a scope, then with all tasks", by_scope, by_all_tasks)


@on_each
def test_cancelled_while_others_break_down(place: Place, name: str, backend: str) -> None:
    """Engine and server fail at the very moment; the engine answers its own cancellation with an error, too."""

    def and_trouble(cancel: Act) -> Act:
        def act(steps: Steps) -> None:
            place.is_in_trouble = True
            cancel(steps)

        return act

    bench = bench_of(place, name, backend)
    everywhere(bench, "cancelled by a scope, in trouble", and_trouble(by_scope), few=1, may_fail=True)
    if backend == "asyncio":
        everywhere(bench, "cancelled by its task, in trouble", and_trouble(by_task), few=1, may_fail=True)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("name", [name for name, case in SCENARIOS.items() if case.isolation == "process"])
def test_its_children_are_killed(place: Place, name: str, backend: str) -> None:
    """The decoders, at each step; then it is cancelled while it finds that out."""
    bench = bench_of(place, name, backend)
    everywhere(bench, "children killed", by_killing_children, few=2, may_fail=True)
    then = ("by a scope", by_scope) if backend == "trio" else ("with all tasks", by_all_tasks)
    everywhere_and_later(bench, f"children killed, then cancelled {then[0]}", by_killing_children, then[1])
