"""Each scenario is killed at each of its steps: nothing is left but what the next one goes on from."""

from collections.abc import Iterator

import pytest

from .child import Nursery, nursery
from .place import Place
from .torture import LONG, bench_of, on_each

a_few = pytest.mark.parametrize(("name", "backend"), [("batch", "asyncio"), ("download", "trio"), ("fed", "asyncio")])


@pytest.fixture(scope="module")
def killing(place: Place) -> Iterator[Nursery]:  # it takes over the folders of `place`
    with nursery() as started:
        yield started


@(on_each if LONG else a_few)
def test_killed_at_every_step(place: Place, killing: Nursery, name: str, backend: str) -> None:
    """No child outlives it, no file lies in the spool, the ledger has nothing of it, and each stored row is whole."""
    bench = bench_of(place, name, backend)
    for point in bench.steps_to_try(1):
        if not bench.killed(killing, point):
            break
