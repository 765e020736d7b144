"""The pause before another attempt."""

import random

import pytest

from memsafe_transcribe._backoff import backoff_seconds


def test_the_bound_doubles_up_to_half_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many attempts there were: no number becomes too large."""
    monkeypatch.setattr(random, "uniform", lambda low, high: high - low)
    bounds = [backoff_seconds(attempts, 0.5) for attempts in (0, 1, 2, 3, 6, 7, 100_000)]
    assert bounds == [0.5, 0.5, 1.0, 2.0, 16.0, 30.0, 30.0]
