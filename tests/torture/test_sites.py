"""The generated lists of sites, held against what was hit. By its name it runs after the rest of the folder."""

from .tally import tally


def test_every_await_at_which_a_task_waits_was_cancelled_at() -> None:
    """Of the whole pipeline. Those at which nobody ever waited are in the report."""
    assert not {str(site) for site in tally.waited - tally.cancelled.keys()}


def test_every_call_that_is_made_was_refused() -> None:
    """Likewise. Those that were never made are in the report."""
    assert not {str(site) for site in tally.reached - tally.failed.keys()}


def test_there_were_points_enough() -> None:
    """As many as the page says."""
    assert tally.points.total() >= 5000
