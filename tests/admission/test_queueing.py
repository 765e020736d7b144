"""When it is worth coming back."""

import pytest
from hypothesis import given, strategies as st

from memsafe_transcribe._admission.claims import NOBODY, Others
from memsafe_transcribe._admission.ledger import Ledger
from memsafe_transcribe._admission.queueing import averaged, queue_seconds, retry_after_seconds

from .strategies import new_claim, room

_held_seconds = st.floats(0, 1e6)


@given(st.integers(0, 10_000), st.integers(1, 100), _held_seconds)
def test_a_retry_is_neither_at_once_nor_never(waiting: int, concurrent: int, hold: float) -> None:
    """Between a second and ten minutes, in whole seconds as the header wants them, whatever was measured."""
    assert queue_seconds(waiting, concurrent, hold) in range(1, 601)


@given(st.integers(0, 10_000), st.integers(1, 100), _held_seconds)
def test_a_retry_is_later_the_longer_the_queue(waiting: int, concurrent: int, hold: float) -> None:
    """More who wait or longer work put it off; more slots bring it nearer."""
    seconds = queue_seconds(waiting, concurrent, hold)
    assert queue_seconds(waiting + 1, concurrent, hold) >= seconds
    assert queue_seconds(waiting, concurrent, hold * 2) >= seconds
    assert queue_seconds(waiting, concurrent + 1, hold) <= seconds


def test_a_retry_follows_littles_law() -> None:
    """Eleven jobs of six seconds on three slots take 22 seconds."""
    assert queue_seconds(10, 3, 6.0) == 22
    assert queue_seconds(10, 3, 6.1) == 23
    assert queue_seconds(0, 3, 0.0) == 1
    assert queue_seconds(1000, 1, 60.0) == 600


def test_a_retry_counts_the_whole_container() -> None:
    """Who waits and holds elsewhere counts, and how long holds take there; the mean of here and there."""
    ledger = Ledger(8)
    assert retry_after_seconds(ledger, NOBODY, 0.0) == 1
    ledger.hold_seconds = averaged(averaged(0.0, 4.0), 14.0)
    assert ledger.hold_seconds == pytest.approx(5.0)
    assert ledger.take(new_claim(1), room(100))
    others = Others(slots_taken=1, waiting=3, hold_seconds=9.0)
    assert retry_after_seconds(ledger, others, 0.0) == 14  # (3 + 1) x 7 s, two at a time
    ledger.enqueue(new_claim(1), 0.0)
    ledger.enqueue(new_claim(1), 0.0)
    assert retry_after_seconds(ledger, others, 0.0) == 21


def test_while_nothing_is_known_a_retry_may_come_at_once() -> None:
    """Nobody holds a slot, and nobody has given one back."""
    assert retry_after_seconds(Ledger(1), Others(waiting=9), 0.0) == 1


def test_a_hold_that_has_not_ended_yet_counts_as_long_as_it_lasted() -> None:
    """Before the first has given back nobody knows better; what holds no slot is nobody's turn."""
    ledger = Ledger(8)
    for slot, granted_at in ((True, 90.0), (True, 70.0), (False, 0.0)):
        claim = new_claim(1, slot=slot)
        assert ledger.take(claim, room(100))
        claim.granted_at = granted_at
    assert retry_after_seconds(ledger, NOBODY, 100.0) == 10
    ledger.hold_seconds = 40.0
    assert retry_after_seconds(ledger, NOBODY, 100.0) == 20
    assert retry_after_seconds(ledger, NOBODY, 1000.0) == 460
