"""What the tests of the pure part of admission draw from, and the rooms they tell it."""

from hypothesis import strategies as st

from memsafe_transcribe._admission.claims import Claim
from memsafe_transcribe._memory.pressure import MemoryRoom, Term

LANES = {"a": 1, "b": 2}  # and their limits, until a test changes them

sizes = st.integers(0, 100)
residents = st.one_of(st.just(0), st.integers(0, 30), st.integers(0, 150))
slots = st.sampled_from([True, True, True, False])
lanes = st.sampled_from([None, None, "a", "b"])
priorities = st.sampled_from([0, 0, 0, 0, -1, 1, 2])
int64s = st.integers(-(2**63), 2**63 - 1)
words = st.integers(0, 2**63 - 1)
digests = st.integers(1, 2**64 - 1)


def room(new_work_bytes: int, admitted_work_bytes: int | None = None) -> MemoryRoom:
    """Room for new work, and for admitted work; the same, if not given."""
    admitted = new_work_bytes if admitted_work_bytes is None else admitted_work_bytes
    return MemoryRoom(new_work_bytes, admitted, 1000, Term("limit", "told", "told", 1000, 0, 0))


def new_claim(need_bytes: int, *, slot: bool = True, lane: str | None = None, priority: int = 0) -> Claim:
    """A claim as the controller makes it."""
    claim = Claim(need_bytes)
    claim.takes_slot, claim.lane, claim.priority = slot, lane, priority
    return claim
