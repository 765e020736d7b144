"""One point after the other: a scenario in which something goes wrong, and then the list of what must not be left."""

import gc
import os
import random
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial

import anyio
import pytest

import memsafe_transcribe as mt

from .child import Nursery, Order
from .faults import Faults
from .left import held, left_of, rows_of, unraisable, when_quiet
from .place import Place
from .scenarios import SCENARIOS
from .sites import lines_passed
from .stepping import Act, Ran, by_all_tasks, run
from .tally import tally

_SECONDS, _LOOK_SECONDS = 30.0, 0.02
MOST_POINTS = 5000
_MANY = 1_000_000
LONG = os.environ.get("MEMSAFE_TEST_PROFILE") == "long"
EVERY = int(os.environ.get("MEMSAFE_TORTURE_EVERY") or 1)  # so many points one is tried: a part of the long form


on_each = pytest.mark.parametrize(
    ("name", "backend"), [(name, backend) for name in SCENARIOS for backend in ("asyncio", "trio")]
)


def _to_try(number: int, few: int, offset: int) -> Iterator[int]:
    """All points, for as long as something happens there; or a few of so many, evenly spread."""
    if LONG and number:
        yield from range(1 + offset % EVERY, MOST_POINTS, EVERY)
    else:
        yield from (1 + (offset + index * number // few) % number for index in range(min(few, number)))


def _alone(error: BaseException | None) -> Iterator[BaseException]:
    """What is in a group, or it is itself."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _alone(each)
    elif error is not None:
        yield error


def _forget_frames(error: BaseException | None) -> None:
    """Nothing is alive any more for the error's sake alone."""
    for each in _alone(error):
        traceback.clear_frames(each.__traceback__)
    if error is not None:
        gc.collect()


def _tell_the_ledger(admission: mt.AdmissionController) -> None:
    """What it could not write there, for that was refused, it writes in its next turn."""
    with suppress(mt.AdmissionError):
        admission.reserve_nowait(1).release()


class Bench:
    """One scenario on one backend, in which something goes wrong at one point after the other."""

    def __init__(self, place: Place, name: str, backend: str) -> None:
        self._name, self._case, self._backend, self._place = name, SCENARIOS[name], backend, place
        self._begun: dict[str, bytes] = {}
        chance = random.Random(name + backend)
        self._turn = iter(lambda: chance.randrange(_MANY), None)
        place.isolation = self._case.isolation
        if self._case.begin is not None:
            place.reset({})
            anyio.run(self._case.begin, place, backend=backend)
            self._begun = place.stored()
        with lines_passed(tally.passed):
            self._ran({}, Faults(), "nothing")  # what is imported and cached at its first use is there from now on
        faults = Faults()
        plain = self._ran({}, faults, "nothing")
        self.steps, self.calls = plain.steps.count, faults.count
        tally.waited |= plain.steps.waited
        self.reached = faults.reached
        tally.reached |= faults.reached
        self._told = [*place.told]

    def steps_to_try(self, few: int) -> Iterator[int]:
        """At which steps; in the short form, so few, and not always the same."""
        return _to_try(self.steps, few, next(self._turn))

    def calls_to_try(self, few: int) -> Iterator[int]:
        """Which calls, likewise."""
        return _to_try(self.calls, few, next(self._turn))

    def cancelled(self, what: str, acts: Mapping[int, Act], *, may_fail: bool = False) -> Ran:
        """A run in which these things are done at these steps; some of what it asks for may fail by that, too.

        Raises:
            AssertionError: something is left, or wrong.
        """
        ran = self._ran(acts, Faults(), what)
        if ran.steps.fired:
            where = f"{what} of {self._where}: {sorted(acts)} of {ran.steps.count}"
            told = self._place.told
            is_as_ever = told == self._told or (may_fail and {*told} <= {*self._told, "error"})
            assert is_as_ever or not ran.is_finished, (where, told)
            self._check_rows(where, is_once=len(acts) == 1)
            tally.points[what, self._name, self._backend] += 1
            tally.cancelled.update(ran.steps.sites)
        return ran

    def failed(self, what: str, faults: Faults) -> Ran:
        """A run in which the system refuses something. Raises as `cancelled` does."""
        ran = self._ran({}, faults, what)
        if faults.names:
            where = f"{what} of {self._where}: {faults.names} at {[str(site) for site in faults.sites]}"
            assert {*self._place.told} <= {*self._told, "error"}, (where, self._place.told)
            assert all(isinstance(error, mt.MemsafeError | OSError) for error in _alone(ran.error)), (where, ran.error)
            self._check_rows(where, is_once=False)
            tally.points[what, self._name, self._backend] += 1
            tally.failed.update(faults.sites)
        return ran

    def killed(self, nursery: Nursery, step: int) -> bool:
        """Whether a process that runs it came to this step, and killed itself there. Raises as `cancelled` does."""
        place = self._place
        before = when_quiet(place.servers)
        place.reset(self._begun)
        if not nursery.run(Order(self._name, self._backend, step, place.folders, place.url, place.tls_url)):
            return False
        where = f"killed: {self._where}, step {step}"
        assert nursery.orphans() == [], where
        found = left_of(before, place.servers, place.swept)
        assert not found, (where, found)
        found = self._held_for_long()
        assert not found, (where, found)
        self._check_rows(where, is_once=False)
        if not place.store.exists():
            self._ran({}, Faults(), f"once more after {where}", is_fresh=False)
        tally.points["killed", self._name, self._backend] += 1
        return True

    def _held(self) -> list[str]:
        return held(self._place.admission, self._place.observer)

    def _held_for_long(self) -> list[str]:
        """What still is after a while: who has died, or given its seat up, is found out four times a second at most."""
        give_up_at = time.monotonic() + _SECONDS
        while (found := self._held()) and time.monotonic() < give_up_at:
            time.sleep(_LOOK_SECONDS)
        return found

    @property
    def _where(self) -> str:
        return f"{self._name} on {self._backend}"

    def _check_rows(self, where: str, *, is_once: bool) -> None:
        """What is stored is whole; who goes on from there ends with the same, and asks for nothing that is stored."""
        rows = rows_of(self._place.store)
        assert not rows.wrong, (where, rows)
        # A second one of asyncio's own may break through the shield under which the source is put back.
        assert not (is_once and rows.states.get("working")), (where, rows)
        if not self._place.store.exists():
            return
        again = self._ran({}, Faults(), f"going on after {where}", is_fresh=False)
        assert self._place.told == self._told, (where, again.error)
        asked = {name for name in self._place.asked for chunk in rows.chunks if name in chunk}
        assert self._case.forgets or not asked, (where, asked)

    def _ran(self, acts: Mapping[int, Act], faults: Faults, what: str, *, is_fresh: bool = True) -> Ran:
        place = self._place
        before = when_quiet(place.servers)
        place.reset(self._begun if is_fresh else None)
        place.goes_on = not is_fresh
        with unraisable() as garbage:
            with faults.armed():
                ran = run(partial(self._case.run, place), self._backend, acts)
            _forget_frames(ran.error)
            if faults.names:
                _tell_the_ledger(place.admission)
            found = [*ran.left, *place.left, *(self._held_for_long() if faults.names else self._held())]
            may_remove = not {"os.unlink", "os.rmdir"} & set(faults.names)
            found += left_of(before, place.servers, place.swept if may_remove else [])
            if may_remove:
                found += [f"file beside what is published: {path.name}" for path in place.saved.glob(".*")]
            place.sweep()  # what it was not permitted to remove; and what is told of is not the next run's
            if by_all_tasks in acts.values():
                # What anyio was to begin, and did not, because its task was cancelled before, is awaited by nobody.
                gc.collect()
                garbage[:] = [each for each in garbage if "was never awaited" not in each]
        tally.waited_ever |= ran.steps.waited
        where = f"{what} of {self._where}: {sorted(acts)} of {ran.steps.count}, {faults.names}"
        where += f" at {[str(site) for site in faults.sites]}"
        if found or garbage:
            raise AssertionError(where, found, garbage, ran.error)
        if not acts and not faults.names:
            assert ran.is_finished, (where, ran.error)
        return ran


_benches: dict[tuple[Place, str, str], Bench] = {}


def bench_of(place: Place, name: str, backend: str) -> Bench:
    """The one for this scenario, which is run twice when it is made."""
    key = (place, name, backend)
    if key not in _benches:
        _benches[key] = Bench(place, name, backend)
    place.isolation = SCENARIOS[name].isolation
    return _benches[key]
