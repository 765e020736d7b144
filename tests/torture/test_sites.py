"""The generated lists of sites, held against what was hit. By its name it runs after the rest of the folder."""

import os

import pytest

from .sites import await_sites, io_sites
from .tally import ELSEWHERE, tally
from .torture import LONG

only_after_all = pytest.mark.skipif(
    not LONG or "PYTEST_XDIST_WORKER" in os.environ, reason="counts what the long form has done in this process"
)


def test_no_reason_is_given_for_what_is_not_there() -> None:
    """Each file, or folder, that is left out has sites."""
    sites = await_sites() | io_sites()
    assert not [where for where in ELSEWHERE if not any(site.file.startswith(where) for site in sites)]


@only_after_all
def test_every_await_at_which_a_task_waits_was_cancelled_at() -> None:
    """Of the whole pipeline. Those at which nobody ever waited are in the report."""
    assert not {str(site) for site in tally.waited - tally.cancelled.keys()}


@only_after_all
def test_every_call_that_is_made_was_refused() -> None:
    """Likewise. Those that were never made are in the report."""
    assert not {str(site) for site in tally.reached - tally.failed.keys()}


@only_after_all
def test_there_were_points_enough() -> None:
    """As many as the page says."""
    assert tally.points.total() >= 5000
