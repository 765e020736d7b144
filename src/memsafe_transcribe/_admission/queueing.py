"""Pure: when it is worth coming back, for those who are sent away from the queue."""

from math import ceil

from .claims import Others
from .ledger import Ledger

_LONGEST_RETRY_SECONDS = 600
_NEWEST_WEIGHT = 0.1


def averaged(known_seconds: float, held_seconds: float) -> float:
    """How long a slot is held: a running average with one more, or that one where none was known (0)."""
    return known_seconds + (held_seconds - known_seconds) * _NEWEST_WEIGHT if known_seconds else held_seconds


def retry_after_seconds(ledger: Ledger, others: Others, now_seconds: float) -> int:
    """About when the queue of now will have passed, in the whole container: from one second to ten minutes.

    As many at a time are served as hold a slot now, since memory may let in fewer than max_concurrent. Until the first
    of them gives back, a hold is taken to be as long as theirs have lasted.
    """
    served = ledger.slots_taken + others.slots_taken or ledger.max_concurrent
    granted = tuple(ledger.granted)  # at once: other threads come and go meanwhile
    lasted = [now_seconds - claim.granted_at for claim in granted if claim.takes_slot]
    known = [seconds for seconds in (ledger.hold_seconds, others.hold_seconds) if seconds]
    hold_seconds = max(_mean(lasted), _mean(known))
    return queue_seconds(ledger.waiting + others.waiting, served, hold_seconds)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def queue_seconds(waiting: int, served: int, hold_seconds: float) -> int:
    """When the last of a queue is served (Little's law): from one second to ten minutes."""
    return max(1, min(_LONGEST_RETRY_SECONDS, ceil((waiting + 1) * hold_seconds / served)))
