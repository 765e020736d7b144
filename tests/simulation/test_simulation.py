"""The admission, and batches with their store, under schedules that a seed decides; and that these find what is wrong.

`python -m tests.simulation KIND SEED` shows one schedule. A seed that failed is tried first the next time (pytest's
cache keeps it), and stands in FOUND once the defect is mended.
"""

import os
import random
import re
import subprocess
import sys
from itertools import chain

import pytest

from . import sessions
from .breaks import BREAKS, MOST_SEEDS, Break
from .sessions import Kind

IS_LONG = os.environ.get("MEMSAFE_TEST_PROFILE") == "long"
COUNTS: dict[Kind, int] = (
    {"queue": 93_000, "members": 3_000, "batch": 4_000} if IS_LONG else {"queue": 200, "members": 40, "batch": 60}
)
# Every schedule that once found a defect, and what that was. A seed means another schedule once its generator is
# changed: so each defect has a test of its own besides.
FOUND: tuple[tuple[Kind, int, str], ...] = (
    ("members", 4, "processes that waited together looked at the ledger every 3 ms for as long as they waited"),
    ("batch", 414, "a source that was cancelled just when it was done counted as one at which a process had died"),
)


@pytest.mark.parametrize("kind", COUNTS)
def test_whatever_happens_in_whatever_order(kind: Kind, request: pytest.FixtureRequest) -> None:
    """Slots, lanes, promises and turns; nothing asked twice, nothing lost, nobody left waiting, nothing left over.

    In CI always the same schedules; elsewhere others each time.
    """
    cache = request.config.cache
    name = f"simulation/{kind}"
    kept: list[int] = [] if cache is None else cache.get(name, [])
    first = 0 if os.environ.get("CI") else random.randrange(10**9)
    try:
        sessions.run_all(kind, chain(kept, range(first, first + COUNTS[kind])))
    except BaseException:
        if cache is not None:
            cache.set(name, [seed for failed, seed in sessions.tally.failed if failed == kind])
        raise
    if cache is not None:
        cache.set(name, [])


@pytest.mark.parametrize(("kind", "seed", "what"), FOUND)
def test_what_was_found_once(kind: Kind, seed: int, what: str) -> None:
    """It is mended."""
    sessions.run_all(kind, [seed])


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: broken.what)
def test_it_would_be_found(broken: Break) -> None:
    """Each line that is broken on purpose is found by one of the first schedules; by which, is known."""
    with broken.done():
        assert sessions.find(broken.kind, chain([broken.seed], range(MOST_SEEDS))) is not None


@pytest.mark.parametrize("kind", COUNTS)
def test_a_seed_is_the_same_schedule_in_every_process(kind: Kind) -> None:
    """Else what was found could not be looked at. It does not depend on how sets are walked through, nor on names."""

    def shown(seed: int, hash_seed: str) -> str:
        arguments = [sys.executable, "-W", "error", "-m", "tests.simulation", kind, str(seed)]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        said = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True, timeout=120)
        return re.sub(r"/\S*/source ", "", said.stdout)

    assert shown(3, "1") == shown(3, "2")
