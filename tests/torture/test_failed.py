"""In each scenario, the Nth thing that is asked of the system is refused, for every N: once, and from then on."""

import pytest

from .faults import Faults
from .place import Place
from .torture import EVERY, LONG, Bench, bench_of, on_each

_TRIES = 5


def everywhere(bench: Bench, what: str, *, few: int, is_forever: bool = False, is_refused: bool = False) -> None:
    """Refuse the first call, the second one, and so on, until a run makes no more.

    No two runs ask in quite the same order: a place that was passed by is then gone for by itself.
    """
    passed_by = set(bench.reached)
    for point in bench.calls_to_try(few):
        faults = Faults(point, is_forever=is_forever, is_refused=is_refused)
        bench.failed(what, faults)
        passed_by -= faults.sites
        if not faults.names:
            break
    for site in sorted(passed_by) if LONG and EVERY == 1 else ():
        for _ in range(_TRIES):
            faults = Faults(1, at=site, is_forever=is_forever, is_refused=is_refused)
            bench.failed(what, faults)
            if faults.names:
                break


@on_each
@pytest.mark.parametrize("is_forever", [False, True], ids=["once", "for ever"])
def test_a_fault_at_every_call(place: Place, name: str, backend: str, is_forever: bool) -> None:
    """Full disk, broken disk, no descriptors: by what each call may say."""
    what = "refused for ever" if is_forever else "refused once"
    everywhere(bench_of(place, name, backend), what, few=1, is_forever=is_forever)


@on_each
def test_what_is_not_permitted(place: Place, name: str, backend: str) -> None:
    """Every call may say so, once; then the library often has another way."""
    everywhere(bench_of(place, name, backend), "not permitted once", few=1, is_refused=True)
