"""How long to pause before another attempt: one rule for downloads, chunks and the sources of batches."""

import random

_MAX_SECONDS = 30.0
_MAX_DOUBLINGS = 16  # far beyond the maximum, and no number is too large for a float


def backoff_seconds(attempts: int, first_seconds: float) -> float:
    """A random time up to a bound that doubles with each attempt, and is 30 s at most (full jitter).

    "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

    Args:
        attempts: how many there were; the bound after the first is `first_seconds`.
        first_seconds: see there.
    """
    bound_seconds = min(_MAX_SECONDS, first_seconds * 2 ** min(_MAX_DOUBLINGS, max(0, attempts - 1)))
    return random.uniform(0, bound_seconds)  # noqa: S311 - it spreads load, and hides nothing
