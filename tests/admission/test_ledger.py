"""The pure ledger, against its written rules, for any order of events."""

from hypothesis import settings, strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
)

from memsafe_transcribe._admission.ledger import Claim, ClaimState, Ledger
from memsafe_transcribe._memory.pressure import MemoryRoom, Term

sizes = st.integers(0, 100)


def room(new_work_bytes: int, admitted_work_bytes: int | None = None) -> MemoryRoom:
    admitted = new_work_bytes if admitted_work_bytes is None else admitted_work_bytes
    return MemoryRoom(new_work_bytes, admitted, 1000, Term("limit", "", "", 1000, 0, 0))


class LedgerMachine(RuleBasedStateMachine):
    """Keeps its own books, simply, and compares them with the ledger's after every step."""

    claims: Bundle[Claim] = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(3)
        self.queue: list[Claim] = []
        self.held: list[Claim] = []
        self.ever_granted: list[Claim] = []

    def unused(self) -> int:
        return sum(max(0, claim.need_bytes - claim.used_bytes) for claim in self.held)

    def slots(self) -> int:
        return len([claim for claim in self.held if claim.takes_slot])

    @rule(target=claims, need_bytes=sizes, takes_slot=st.sampled_from([True, True, False]))
    def enqueue(self, need_bytes: int, takes_slot: bool) -> Claim:
        claim = self.ledger.enqueue(need_bytes, takes_slot=takes_slot)
        assert (claim.need_bytes, claim.takes_slot, claim.state) == (need_bytes, takes_slot, ClaimState.WAITING)
        self.queue.append(claim)
        return claim

    @rule(new=st.integers(-50, 300), more=st.integers(0, 100))
    def grant(self, new: int, more: int) -> None:
        """Granted is the head and no other, exactly if a slot is free and its bytes fit by the documented rule."""
        granted = self.ledger.grant_head(room(new, new + more))
        if not self.queue:
            assert granted is None
            return
        head = self.queue[0]
        slot_is_free = not head.takes_slot or self.slots() < 3
        upto = new if self.slots() else new + more
        fits = self.unused() + head.need_bytes <= upto
        assert granted is (head if slot_is_free and fits else None)
        if granted is not None:
            assert granted.state is ClaimState.GRANTED
            assert granted not in self.ever_granted
            self.ever_granted.append(granted)
            self.held.append(self.queue.pop(0))

    @precondition(lambda self: self.queue)
    @rule()
    def progress(self) -> None:
        """With nothing held, a head that just fits under the ceiling is let in, however far over the target."""
        for claim in self.held:
            self.ledger.close(claim)
        self.held = []
        assert self.ledger.grant_head(room(-1000, self.queue[0].need_bytes)) is self.queue[0]
        self.ever_granted.append(self.queue[0])
        self.held.append(self.queue.pop(0))

    @rule(claim=claims, used_bytes=st.integers(0, 150))
    def use(self, claim: Claim, used_bytes: int) -> None:
        claim.used_bytes = used_bytes

    @rule(target=claims, claim=consumes(claims), again=st.booleans())
    def close(self, claim: Claim, again: bool) -> Claim | MultipleResults[Claim]:
        """Closing gives back what was held or leaves the queue; once more it does nothing."""
        self.ledger.close(claim)
        if again:
            self.ledger.close(claim)
        self.held = [each for each in self.held if each is not claim]
        self.queue = [each for each in self.queue if each is not claim]
        return multiple() if again else claim  # a closed claim may be used, and closed, later on

    @invariant()
    def the_books_agree(self) -> None:
        assert list(self.ledger.waiting) == self.queue
        assert self.ledger.granted == set(self.held)
        assert self.ledger.slots_taken == self.slots() <= 3
        assert self.ledger.reserved_bytes == sum(claim.need_bytes for claim in self.held)
        assert self.ledger.unused_bytes == self.unused() >= 0
        assert all(claim.state is ClaimState.WAITING for claim in self.queue)
        assert all(claim.state is ClaimState.GRANTED for claim in self.held)


LedgerMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLedger = LedgerMachine.TestCase


def test_nothing_passes_the_head() -> None:
    """A small claim behind a large one waits, though it would fit: so the large one is not starved."""
    ledger = Ledger(3)
    large, small = ledger.enqueue(80, takes_slot=True), ledger.enqueue(1, takes_slot=True)
    assert ledger.grant_head(room(50)) is None
    assert small.state is ClaimState.WAITING
    assert ledger.grant_head(room(80)) is large
    assert ledger.grant_head(room(80)) is None
    assert ledger.grant_head(room(81)) is small


def test_only_one_job_may_pass_the_target() -> None:
    """The first one is let in up to the ceiling, the second up to the target only; without a slot held, it is again."""
    ledger = Ledger(3)
    first, second = ledger.enqueue(10, takes_slot=True), ledger.enqueue(10, takes_slot=True)
    assert ledger.grant_head(room(0, 9)) is None
    assert ledger.grant_head(room(0, 10)) is first
    assert ledger.grant_head(room(19, 100)) is None
    ledger.close(first)
    assert ledger.grant_head(room(0, 10)) is second


def test_memory_without_a_slot_is_charged_but_runs_nothing() -> None:
    """A resident model takes no slot, its bytes count, and progress is judged as if nothing ran."""
    ledger = Ledger(1)
    model, job = ledger.enqueue(40, takes_slot=False), ledger.enqueue(50, takes_slot=True)
    assert ledger.grant_head(room(100)) is model
    assert (ledger.slots_taken, ledger.unused_bytes) == (0, 40)
    assert ledger.grant_head(room(0, 89)) is None
    assert ledger.grant_head(room(0, 90)) is job
    small, next_job = ledger.enqueue(1, takes_slot=False), ledger.enqueue(1, takes_slot=True)
    assert ledger.grant_head(room(100)) is small
    assert ledger.grant_head(room(100)) is None  # the only slot is taken
    ledger.close(job)
    assert ledger.grant_head(room(100)) is next_job


def test_memory_in_use_is_not_counted_twice() -> None:
    """What a holder is known to use is in the readings; using more than was promised gives nobody room."""
    ledger = Ledger(3)
    holder, other = ledger.enqueue(60, takes_slot=True), ledger.enqueue(40, takes_slot=True)
    assert ledger.grant_head(room(100)) is holder
    assert ledger.grant_head(room(99)) is None
    holder.used_bytes = 60
    assert ledger.grant_head(room(39)) is None
    holder.used_bytes = 90
    assert ledger.unused_bytes == 0
    assert ledger.grant_head(room(39)) is None
    assert ledger.grant_head(room(40)) is other
