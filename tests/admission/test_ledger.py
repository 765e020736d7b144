"""The pure ledger, against its written rules, for any order of events."""

import gc
import weakref
from itertools import count

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from memsafe_transcribe._admission.claims import NOBODY, Claim, ClaimState, Head, Others
from memsafe_transcribe._admission.ledger import MAX_PASSES, PRIORITY_SECONDS, Ledger

from ..support.steps import CountedMachine
from . import books
from .books import Books, Entry
from .strategies import LANES, lanes, new_claim, priorities, residents, room, sizes, slots

TICK = 1 / 1024  # between any two arrivals, so that no two ever have the same turn


class LedgerMachine(CountedMachine):
    """Keeps its own books, simply, and compares them with the ledger's after every step."""

    entries: Bundle[Entry] = Bundle("entries")

    @initialize(concurrent=st.integers(1, 4), room=st.integers(40, 250), more=st.integers(0, 80), later=st.booleans())
    def begin(self, concurrent: int, room: int, more: int, later: bool) -> None:
        self.ledger = Ledger(concurrent)
        self.books = Books(concurrent, room, room + more)
        for name, limit in LANES.items():
            self.ledger.set_lane(name, limit)
        self.now = 1000.0
        self.ever_granted: list[Claim] = []
        self.more_come_at_the_end = later

    # -- taking

    @rule(
        target=entries,
        asked=st.lists(
            st.tuples(sizes, slots, lanes, priorities, st.sampled_from(["wait", "wait", "try, or wait", "try"])),
            min_size=1,
            max_size=5,
        ),
    )
    def arrive(self, asked: list[tuple[int, bool, str | None, int, str]]) -> MultipleResults[Entry]:
        """On the spot a claim is granted exactly if nobody waits who could go, and it gets a slot and memory."""
        return multiple(*(self.reserve(*each) for each in asked))

    def reserve(self, need: int, slot: bool, lane: str | None, priority: int, manner: str) -> Entry:
        claim = new_claim(need, slot=slot, lane=lane, priority=priority)
        entry = Entry(claim, need, slot, lane, priority)
        self.books.entries.append(entry)
        if manner.startswith("try"):
            expected = not self.books.candidates() and self.books.is_open(entry) and self.books.fits(need)
            before = self.books.worst
            assert self.ledger.take(claim, self.books.room) is expected
            if expected:
                self.note_grant(entry, before)
        if entry.stage == "new" and manner.endswith("wait"):
            self.now += TICK
            self.ledger.enqueue(claim, self.now)
            entry.stage, entry.came = "waiting", self.now
        return entry

    @rule(turns=st.lists(st.sampled_from([True, True, True, False]), min_size=1, max_size=4))
    def grant(self, turns: list[bool]) -> None:
        """Granted is whose turn it is and no other, exactly if there is one."""
        for may_pass in turns:
            self.grant_next(may_pass)

    def grant_next(self, may_pass: bool) -> Entry | None:
        assert self.ledger.has_candidate() == bool(self.books.candidates())
        expected, before = self.books.next(may_pass=may_pass), self.books.worst
        granted = self.ledger.grant_next(self.books.room, may_pass=may_pass)
        assert granted is (expected.claim if expected else None)
        if expected:
            self.note_who_was_passed(expected)
            self.note_grant(expected, before)
        return expected

    def note_who_was_passed(self, granted: Entry) -> None:
        """Only for want of memory, and no oftener than is said; or by a higher priority, that is, of late."""
        for entry in self.books.candidates():
            ahead_seconds = PRIORITY_SECONDS * (entry.priority - granted.priority) - (entry.came - granted.came)
            if entry is granted or ahead_seconds < 0:
                continue
            assert not self.books.fits(entry.need)
            entry.passed += 1
            assert entry.passed <= MAX_PASSES

    def note_grant(self, entry: Entry, worst_before: int) -> None:
        """Each is granted once, within all limits; past the target only where no slot was taken."""
        assert entry.claim not in self.ever_granted
        self.ever_granted.append(entry.claim)
        bound = self.books.ceiling if self.books.slots_taken == 0 else self.books.target
        assert worst_before + entry.need <= bound
        entry.stage = "held"
        assert self.books.slots_taken <= self.books.slots
        assert not entry.slot or entry.lane is None or self.books.lane_taken(entry.lane) <= self.books.lanes[entry.lane]

    # -- holding

    @rule(target=entries, parent=entries, need=sizes)
    def carve(self, parent: Entry, need: int) -> MultipleResults[Entry]:
        """A part is had exactly if its parent is held and has that much left."""
        return multiple(*self.carve_out(parent, need))

    @precondition(lambda self: any(entry.alive for entry in self.books.entries))
    @rule(target=entries, which=st.integers(0, 99), need=sizes, touched=residents)
    def carve_and_use(self, which: int, need: int, touched: int) -> MultipleResults[Entry]:
        """Out of something that is held, and out of parts of it, with some of it resident at once."""
        alive = [entry for entry in self.books.entries if entry.alive]
        parts = self.carve_out(alive[which % len(alive)], need)
        for part in parts:
            self.use(part, touched, touched)
        return multiple(*parts)

    def carve_out(self, parent: Entry, need: int) -> list[Entry]:
        part = self.ledger.carve(parent.claim, need)
        assert (part is not None) == (parent.alive and parent.carved + need <= parent.need)
        if part is None:
            return []
        entry = Entry(part, need, parent=parent, stage="held")
        parent.parts.append(entry)
        self.books.entries.append(entry)
        return [entry]

    @rule(entry=entries, more=sizes)
    def grow(self, entry: Entry, more: int) -> None:
        """A part takes from its parent; another may take all that is under the ceiling."""
        if not entry.alive:
            expected = False
        elif entry.parent is not None:
            expected = entry.parent.carved + more <= entry.parent.need
        else:
            expected = self.books.memory + self.books.unused + more <= self.books.ceiling
        assert self.ledger.grow(entry.claim, more, self.books.room) is expected
        if expected:
            entry.need += more
            assert entry.parent is not None or self.books.worst <= self.books.ceiling

    @rule(entry=entries, fewer=sizes)
    def shrink(self, entry: Entry, fewer: int) -> None:
        """All can be given back but what is carved out; and of what is released, anything."""
        expected = not entry.alive or fewer <= entry.need - entry.carved
        assert self.ledger.shrink(entry.claim, fewer) is expected
        if expected and entry.alive:
            entry.need -= fewer

    @rule(entry=entries, touched=residents, known=residents)
    def use(self, entry: Entry, touched: int, known: int) -> None:
        """Holders touch what they like, more than they were promised too, and tell of no more than that."""
        if entry.stage == "held":
            entry.touched = touched
        known = min(known, entry.touched)
        self.ledger.mark_used(entry.claim, known)
        if entry.alive:
            entry.marked = known
            assert entry.claim.peak_bytes >= entry.used

    @rule(target=entries, entry=consumes(entries), again=st.booleans())
    def close(self, entry: Entry, again: bool) -> MultipleResults[Entry]:
        """It is given back, or leaves the queue; once more does nothing, nor does closing a part after its parent."""
        self.end(entry, again=again)
        return multiple() if again else multiple(entry)  # which may be used, and closed, later on

    def end(self, entry: Entry, *, again: bool) -> None:
        self.ledger.close(entry.claim)
        if again:
            self.ledger.close(entry.claim)
        self.books.close(entry)

    @precondition(lambda self: self.books.waiting)
    @rule()
    def give_up_when_granted(self) -> None:
        """One that is cancelled after it was handed its grant, and before it noticed, leaves nothing either."""
        if entry := self.grant_next(may_pass=True):
            self.end(entry, again=False)

    # -- the rest of the world

    @rule(name=st.sampled_from([*LANES]), limit=st.integers(1, 4))
    def set_lane(self, name: str, limit: int) -> None:
        self.ledger.set_lane(name, limit)
        self.books.lanes[name] = limit

    @rule(foreign=residents)
    def others_use(self, foreign: int) -> None:
        self.books.foreign = foreign

    @rule(seconds=st.integers(1, 40))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @invariant()
    def the_books_agree(self) -> None:
        ledger, books = self.ledger, self.books
        head = books.head()
        assert ledger.head() is (head.claim if head else None)
        assert ledger.waiting == len(books.waiting)
        assert ledger.granted == {entry.claim for entry in books.holders}
        assert ledger.slots_taken == books.slots_taken
        assert ledger.reserved_bytes == books.reserved
        assert ledger.unused_bytes == books.unused
        assert {name: lane.taken for name, lane in ledger.lanes.items()} == {n: books.lane_taken(n) for n in LANES}

    @invariant()
    def each_claim_agrees(self) -> None:
        for entry in self.books.entries:
            claim = entry.claim
            assert claim.state.value == {"new": "waiting", "held": "granted"}.get(entry.stage, entry.stage)
            assert claim.is_held == entry.alive
            assert claim.passes == entry.passed
            if entry.alive:
                assert claim.need_bytes == entry.need
                assert claim.left_bytes == entry.need - entry.carved >= 0
                assert claim.used_bytes == entry.used
                assert claim.root.state is ClaimState.GRANTED
                assert claim.root.parent is None

    def teardown(self) -> None:
        """Wherever it ended: if holders keep releasing, all that fit alone get in; and in the end nothing is left."""
        if not hasattr(self, "ledger"):
            return
        self.books.foreign = 0
        for entry in self.books.entries:
            if entry.parent is not None or (entry.stage == "waiting" and entry.need > self.books.ceiling):
                self.end(entry, again=False)
        hoped = self.books.waiting
        # Each has before it what is held, what came earlier, and MAX_PASSES that pass it; a step of priority is worth
        # ten of those who come meanwhile, one a second.
        limit = (MAX_PASSES + 2) * (len(hoped) + 1) + len(self.books.holders) + 3 * int(PRIORITY_SECONDS)
        for _ in range(limit):
            while self.grant_next(may_pass=True):
                pass
            if not any(entry.stage == "waiting" for entry in hoped):
                break
            self.now += 1
            if self.more_come_at_the_end:
                self.reserve(1, slot=True, lane=None, priority=0, manner="wait")
            oldest = min(self.books.holders, key=lambda entry: self.ever_granted.index(entry.claim))
            self.end(oldest, again=False)
        assert not any(entry.stage == "waiting" for entry in hoped)
        for entry in self.books.entries:
            self.end(entry, again=True)
        self.the_books_agree()
        assert (self.ledger.waiting, self.ledger.unused_bytes, self.ledger.granted) == (0, 0, set())


TestLedger = LedgerMachine.TestCase


# -- each rule by hand


def waiting(ledger: Ledger, *claims: Claim, at: float = 0.0) -> None:
    """Put these in the queue, a second apart."""
    for seconds, claim in enumerate(claims):
        ledger.enqueue(claim, at + seconds)


def all_granted(ledger: Ledger, new_work_bytes: int, others: Others = NOBODY) -> list[Claim]:
    """All that there is room for, in the order of their grants."""
    return list(iter(lambda: ledger.grant_next(room(new_work_bytes), others), None))


def test_the_constants_are_those_of_the_books() -> None:
    """The model has figures of its own, so that a change of the ledger's is noticed."""
    assert (PRIORITY_SECONDS, MAX_PASSES) == (books.PRIORITY_SECONDS, books.MAX_PASSES)


def test_in_order_of_arrival() -> None:
    """Equals are granted as they came, also where a slot comes free late."""
    ledger = Ledger(2)
    claims = [new_claim(10) for _ in range(4)]
    waiting(ledger, *claims)
    assert all_granted(ledger, 1000) == claims[:2]
    ledger.close(claims[0])
    assert all_granted(ledger, 1000) == claims[2:3]
    ledger.close(claims[1])
    ledger.close(claims[2])
    assert all_granted(ledger, 1000) == claims[3:]


def test_nobody_overtakes_on_the_spot() -> None:
    """While anybody waits for memory, here or in another member, a newcomer gets nothing on the spot."""
    ledger, newcomer = Ledger(2), new_claim(1)
    large = new_claim(100)
    waiting(ledger, large)
    assert not ledger.take(newcomer, room(50))
    ledger.close(large)
    head = Head(1, 100, takes_slot=True, order_seconds=0.0, passes=0)
    assert not ledger.take(newcomer, room(50), Others(heads=(head,)))
    assert ledger.take(newcomer, room(50))
    assert newcomer.state is ClaimState.GRANTED


def test_who_waits_for_a_slot_is_not_overtaken_by_one_that_needs_none() -> None:
    """A newcomer is let in on the spot where those who wait, here or in another member, wait for a slot or a lane."""
    ledger = Ledger(2)
    ledger.set_lane("a", 1)
    for lane in "a", None, None:
        waiting(ledger, new_claim(1, lane=lane))
    waiting(ledger, new_claim(1, lane="a"))
    head = Head(1, 1, takes_slot=True, order_seconds=0.0, passes=0, lane="a", lane_limit=1)
    assert ledger.grant_next(room(100)) is not None
    assert not ledger.take(new_claim(1), room(100))  # somebody waits who could go
    assert ledger.grant_next(room(100)) is not None
    assert not ledger.take(new_claim(1), room(100))  # no slot is free
    assert ledger.take(new_claim(1, slot=False), room(100), Others(heads=(head,)))
    alone = Ledger(2)
    assert alone.take(new_claim(1), room(100), Others(lanes_taken={"a": 1}, heads=(head,)))


def test_a_step_of_priority_is_ten_seconds() -> None:
    """A higher priority goes before what came less than ten seconds before it, and after what came earlier."""
    ledger = Ledger(3)
    old, new, high = new_claim(1), new_claim(2), new_claim(3, priority=1)
    ledger.enqueue(old, 100.0)
    ledger.enqueue(new, 101.0)
    ledger.enqueue(high, 110.5)
    assert all_granted(ledger, 1000) == [old, high, new]


def test_priorities_age() -> None:
    """However many of a higher priority come, they hold a lower one up for ten seconds and no longer."""
    ledger, low = Ledger(1), new_claim(0)
    ledger.enqueue(low, 0.0)
    for second in count():
        high = new_claim(0, priority=1)
        ledger.enqueue(high, second + 0.5)
        [granted] = all_granted(ledger, 1000)
        ledger.close(granted)
        if granted is low:
            break
    assert second == 10


def test_a_large_one_is_passed_a_few_times_only() -> None:
    """What does not fit is passed MAX_PASSES times; then nobody is let in before it, however small."""
    ledger, large = Ledger(100), new_claim(90)
    small = [new_claim(1) for _ in range(2 * MAX_PASSES)]
    waiting(ledger, large, *small)
    assert all_granted(ledger, 89) == small[:MAX_PASSES]
    assert large.passes == MAX_PASSES
    assert ledger.grant_next(room(97)) is None
    assert ledger.grant_next(room(98)) is large  # 8 are promised, and 90
    assert ledger.grant_next(room(98)) is None
    assert ledger.grant_next(room(99)) is small[MAX_PASSES]


def test_only_so_many_are_looked_at() -> None:
    """A decision costs the same however many wait: one that fits behind sixteen that do not has to wait."""
    for large, granted in (books.LOOKAHEAD - 1, True), (books.LOOKAHEAD, False):
        ledger, small = Ledger(3), new_claim(1)
        waiting(ledger, *(new_claim(100) for _ in range(large)), small)
        assert ledger.grant_next(room(50)) is (small if granted else None)


def test_where_the_room_is_a_lower_bound_nobody_is_passed() -> None:
    """With may_pass=False the first one is granted or none, and none is counted as passed."""
    ledger, large, small = Ledger(3), new_claim(90), new_claim(1)
    waiting(ledger, large, small)
    assert ledger.grant_next(room(50), may_pass=False) is None
    assert large.passes == 0
    assert ledger.grant_next(room(90), may_pass=False) is large


def test_a_full_lane_is_no_obstacle_to_others() -> None:
    """Those in a full lane wait for it, and those behind them in other lanes are not counted as passing."""
    ledger = Ledger(5)
    ledger.set_lane("a", 1)
    ledger.set_lane("b", 1)
    first, second = new_claim(1, lane="a"), new_claim(1, lane="a")
    other, plain = new_claim(1, lane="b"), new_claim(1)
    waiting(ledger, first, second, other, plain)
    assert all_granted(ledger, 1000) == [first, other, plain]
    assert (second.passes, ledger.waiting) == (0, 1)
    assert not ledger.has_candidate()
    ledger.close(first)
    assert all_granted(ledger, 1000) == [second]


def test_the_most_that_was_ever_held_is_known() -> None:
    """Of slots and of bytes, each by itself."""
    ledger = Ledger(3)
    most = []
    for claim in (new_claim(0, slot=False), new_claim(0), new_claim(40, slot=False), new_claim(1)):
        assert ledger.take(claim, room(100))
        most.append((ledger.peak_slots_taken, ledger.peak_reserved_bytes))
        ledger.close(claim)
    assert most == [(0, 0), (1, 0), (1, 40), (1, 40)]


def test_a_lane_that_is_made_narrower_keeps_what_it_holds() -> None:
    """A new limit holds from the next grant on; a wider one opens the lane at once."""
    ledger = Ledger(5)
    ledger.set_lane("a", 2)
    claims = [new_claim(1, lane="a") for _ in range(5)]
    waiting(ledger, *claims)
    assert all_granted(ledger, 1000) == claims[:2]
    ledger.set_lane("a", 1)
    ledger.close(claims[0])
    assert all_granted(ledger, 1000) == []
    assert ledger.head() is claims[2]
    ledger.set_lane("a", 3)
    assert all_granted(ledger, 1000) == claims[2:4]


def test_what_is_in_use_is_not_counted_twice() -> None:
    """Promised is taken off the room, used is in it already; using more than was promised gives nobody room."""
    ledger, holder, other = Ledger(3), new_claim(60), new_claim(40)
    waiting(ledger, holder, other)
    assert all_granted(ledger, 99) == [holder]
    ledger.mark_used(holder, 50)
    assert ledger.grant_next(room(49)) is None  # 10 are to come
    ledger.mark_used(holder, 90)
    assert (holder.unused_bytes, ledger.unused_bytes, holder.peak_bytes) == (0, 0, 90)
    ledger.mark_used(holder, 70)
    assert (holder.unused_bytes, ledger.unused_bytes, holder.peak_bytes) == (0, 0, 90)
    assert ledger.grant_next(room(39)) is None
    assert ledger.grant_next(room(40)) is other


def test_there_is_always_progress() -> None:
    """Where no slot is taken, one is let in up to the ceiling; the second has to stay under the target."""
    ledger, first, second = Ledger(3), new_claim(10), new_claim(10)
    waiting(ledger, first, second)
    assert ledger.grant_next(room(-5, 9)) is None
    assert ledger.grant_next(room(-5, 10)) is first
    assert ledger.grant_next(room(19, 100)) is None
    ledger.close(first)
    assert ledger.grant_next(room(-5, 10)) is second


def test_on_the_spot_as_in_the_queue() -> None:
    """Slots, lanes, the target and the ceiling hold for what is taken at once, and others' holdings count too."""
    ledger = Ledger(2)
    ledger.set_lane("a", 1)
    assert not ledger.take(new_claim(11), room(0, 10))
    assert not ledger.take(new_claim(10), room(0, 10), Others(unused_bytes=1))
    assert not ledger.take(new_claim(10), room(0, 10), Others(slots_taken=1))
    assert not ledger.take(new_claim(1, lane="a"), room(100), Others(1, 1, 1, {"a": 1}))
    assert ledger.take(new_claim(10, lane="a"), room(0, 10))
    assert not ledger.take(new_claim(5), room(14, 100))
    assert not ledger.take(new_claim(1, lane="a"), room(100))
    assert not ledger.take(new_claim(1), room(100), Others(slots_taken=1))
    assert ledger.take(new_claim(5), room(15))
    assert not ledger.take(new_claim(1), room(100))
    assert ledger.take(new_claim(1, slot=False), room(16))


def test_memory_without_a_slot_is_charged_but_runs_nothing() -> None:
    """A resident model takes no slot, nor its lane's; its bytes count, and progress is as if nothing ran."""
    ledger = Ledger(1)
    ledger.set_lane("a", 1)
    model, job = new_claim(40, slot=False, lane="a"), new_claim(50, lane="a")
    waiting(ledger, model, job)
    assert ledger.grant_next(room(40)) is model
    assert (ledger.slots_taken, ledger.unused_bytes, ledger.lanes["a"].taken) == (0, 40, 0)
    assert ledger.grant_next(room(0, 89)) is None
    assert ledger.grant_next(room(0, 90)) is job
    small, next_job = new_claim(1, slot=False), new_claim(1)
    waiting(ledger, next_job, small)
    assert all_granted(ledger, 1000) == [small]  # the only slot is taken
    ledger.close(job)
    assert all_granted(ledger, 1000) == [next_job]


def test_a_promise_can_be_given_back_whole_while_it_is_held() -> None:
    """All that is left of it, and not a byte more; its slot stays taken."""
    ledger, job = Ledger(1), new_claim(100)
    assert ledger.take(job, room(100))
    assert not ledger.shrink(job, 101)
    assert ledger.shrink(job, 100)
    assert (ledger.reserved_bytes, ledger.slots_taken, job.need_bytes) == (0, 1, 0)


def test_parts_come_out_of_their_parent() -> None:
    """Carving promises nothing new; a part gives back to its parent, and is void when that is closed."""
    ledger, job = Ledger(1), new_claim(100)
    assert ledger.carve(job, 10) is None  # not held yet
    assert ledger.take(job, room(100))
    part = ledger.carve(job, 70)
    assert part is not None and not part.takes_slot
    assert (ledger.reserved_bytes, ledger.unused_bytes, job.left_bytes) == (100, 100, 30)
    assert ledger.carve(job, 31) is None
    assert not ledger.grow(part, 31, room(1000))
    assert ledger.grow(part, 30, room(-1000))
    assert not ledger.shrink(job, 1)
    assert ledger.shrink(part, 60)
    inner = ledger.carve(part, 40)
    assert inner is not None and inner.root is job
    ledger.mark_used(inner, 25)
    assert (job.used_bytes, ledger.unused_bytes) == (25, 75)
    ledger.close(part)
    assert (job.used_bytes, ledger.unused_bytes, job.left_bytes) == (0, 100, 100)
    ledger.close(inner)
    assert (ledger.unused_bytes, job.left_bytes) == (100, 100)
    assert ledger.carve(part, 0) is None
    assert not ledger.grow(inner, 0, room(1000))
    ledger.close(job)
    assert (ledger.reserved_bytes, ledger.unused_bytes) == (0, 0)


def test_growth_is_checked_against_the_ceiling() -> None:
    """What is held may grow past the target, by what nobody was promised."""
    ledger, job = Ledger(1), new_claim(100)
    assert ledger.take(job, room(100))
    assert not ledger.grow(job, 11, room(-100, 110))
    assert not ledger.grow(job, 10, room(-100, 110), Others(unused_bytes=1))
    assert ledger.grow(job, 10, room(-100, 110))
    assert (ledger.reserved_bytes, ledger.unused_bytes) == (110, 110)


def test_the_head_is_the_first_whose_lane_is_open() -> None:
    """Other members are shown one that can be granted, by what they hold too, if there is one."""
    ledger = Ledger(5)
    assert ledger.head() is None
    ledger.set_lane("a", 1)
    in_lane, plain = new_claim(1, lane="a"), new_claim(1)
    waiting(ledger, in_lane)
    assert ledger.head(Others(lanes_taken={"a": 1})) is in_lane
    waiting(ledger, plain, at=1.0)
    assert ledger.head() is in_lane
    assert ledger.head(Others(lanes_taken={"a": 1})) is plain


@pytest.mark.parametrize(("their_order", "expected"), [(-0.5, False), (0.5, True)])
def test_others_have_their_turns(their_order: float, expected: bool) -> None:
    """An earlier head of another member goes first if it fits; a later one does not matter."""
    ledger, own = Ledger(3), new_claim(10)
    waiting(ledger, own)
    head = Head(1, 10, takes_slot=True, order_seconds=their_order, passes=0)
    assert ledger.is_open(own, Others(heads=(head,)))
    assert (ledger.grant_next(room(100), Others(heads=(head,))) is own) == expected
    assert head.passes == 0


def test_a_head_of_another_member_is_passed_a_few_times_only() -> None:
    """What does not fit there is counted up here, and after MAX_PASSES saved up for here as well."""
    head = Head(1, 90, takes_slot=True, order_seconds=-1.0, passes=MAX_PASSES - 1)
    ledger, first, second = Ledger(3), new_claim(1), new_claim(1)
    waiting(ledger, first, second)
    assert ledger.grant_next(room(50), Others(heads=(head,)), may_pass=False) is None
    assert all_granted(ledger, 50, Others(heads=(head,))) == [first]
    assert head.passes == MAX_PASSES


def wait_for_others(ledger: Ledger, others: Others, *tenths: int, lower_bound: int | None = None) -> None:
    """Look at these tenths of seconds, as a keeper that polls: it is always somebody else's turn."""
    for tenth in tenths:
        if lower_bound is not None:
            assert ledger.grant_next(room(lower_bound), others, may_pass=False) is None
        assert looks(ledger, others, tenth / 10) is None


def looks(ledger: Ledger, others: Others, now_seconds: float, room_bytes: int = 100) -> Claim | None:
    """What is granted if the others have polled just before."""
    for head in others.heads:
        head.polled_seconds = now_seconds
    return ledger.grant_next(room(room_bytes), others, now_seconds=now_seconds)


def test_a_head_that_lets_its_turn_go_by_holds_others_up_for_a_second() -> None:
    """One that fits and is not taken is kept out by a limit of its own: after a second it is no obstacle any more."""
    head, ledger = Head(1, 10, takes_slot=True, order_seconds=-1.0, passes=0), Ledger(3)
    others, own = Others(heads=(head,)), new_claim(10)
    waiting(ledger, own)
    assert looks(ledger, others, 9.8, 9) is None  # it does not fit yet
    wait_for_others(ledger, others, *range(100, 110, 2))
    assert looks(ledger, others, 10.99) is None
    assert looks(ledger, others, 11.0) is own
    assert head.passes == 0


def test_a_head_is_given_its_second_anew() -> None:
    """If it does not fit meanwhile, or another one becomes the head, the second begins again."""
    head, ledger = Head(1, 10, takes_slot=True, order_seconds=-1.0, passes=0), Ledger(3)
    others, own = Others(heads=(head,)), new_claim(50)
    waiting(ledger, own)
    wait_for_others(ledger, others, 100, 102)
    assert looks(ledger, others, 10.4, 9) is None
    wait_for_others(ledger, others, *range(106, 116, 2))
    another = Others(heads=(Head(1, 10, takes_slot=True, order_seconds=-0.5, passes=0),))
    wait_for_others(ledger, another, *range(116, 126, 2))
    assert looks(ledger, another, 12.6) is own


def test_a_head_is_given_its_second_anew_after_a_time_in_which_nobody_looked() -> None:
    """While all slots are taken nobody looks: that it was there before and after says nothing of the time between."""
    head, ledger = Head(1, 10, takes_slot=True, order_seconds=-1.0, passes=0), Ledger(3)
    others, own = Others(heads=(head,)), new_claim(10)
    waiting(ledger, own)
    wait_for_others(ledger, others, 100, 150, *range(152, 160, 2))
    assert looks(ledger, others, 16.0) is own


def test_a_head_that_polls_four_times_a_second_polls_all_the_time() -> None:
    """A quarter of a second between two of its polls is no gap yet."""
    head, ledger = Head(1, 10, takes_slot=True, order_seconds=-1.0, passes=0), Ledger(3)
    others, own = Others(heads=(head,)), new_claim(10)
    waiting(ledger, own)
    assert [looks(ledger, others, 10.0 + quarter / 4) for quarter in range(4)] == [None] * 4
    assert looks(ledger, others, 11.0) is own


def test_claims_that_came_in_the_same_moment_can_be_told_apart() -> None:
    """By their serial number, as other members see it."""
    ledger, claims = Ledger(3), [new_claim(10) for _ in range(5)]
    for claim in claims:
        ledger.enqueue(claim, 1.0)
    assert len({claim.serial for claim in claims}) == 5


def test_a_head_that_did_not_poll_is_given_its_second_anew() -> None:
    """One that was stopped for a while had no turn to let go by; it has one as soon as it polls again."""
    head, ledger = Head(1, 10, takes_slot=True, order_seconds=-1.0, passes=0, polled_seconds=9.9), Ledger(3)
    others, own = Others(heads=(head,)), new_claim(10)
    waiting(ledger, own)
    for tenth in range(100, 120, 2):
        assert ledger.grant_next(room(100), others, now_seconds=tenth / 10) is None
    wait_for_others(ledger, others, *range(120, 130, 2))
    assert looks(ledger, others, 13.0) is own


def test_a_head_that_came_in_the_same_moment_has_a_second_of_its_own() -> None:
    """Two claims of one member may have the same order: that the first let its turn go by says nothing of the other."""
    ledger, own = Ledger(3), new_claim(10)
    waiting(ledger, own)
    first, second = (
        Others(heads=(Head(1, 10, takes_slot=True, order_seconds=-1.0, passes=0, serial=serial),)) for serial in (1, 2)
    )
    wait_for_others(ledger, first, *range(100, 110, 2))
    wait_for_others(ledger, second, *range(110, 120, 2))
    assert looks(ledger, second, 12.0) is own


@pytest.mark.parametrize("lower_bound", [5, 100])
def test_a_head_is_given_its_second_by_the_exact_room_only(lower_bound: int) -> None:
    """A look at a lower bound before, whether it fits there or not, neither begins nor ends that second."""
    head, ledger = Head(1, 10, takes_slot=True, order_seconds=-1.0, passes=0), Ledger(3)
    others, own = Others(heads=(head,)), new_claim(10)
    waiting(ledger, own)
    wait_for_others(ledger, others, *range(100, 110, 2), lower_bound=lower_bound)
    assert looks(ledger, others, 11.0) is own


@pytest.mark.parametrize(
    ("head", "others"),
    [
        (Head(1, 10, True, -1.0, 0, "a", 1), Others(1, 0, 0, {"a": 1})),  # their lane is full by others
        (Head(1, 10, True, -1.0, 0, "b", 1), Others()),  # and by what is held here
        (Head(1, 10, True, -1.0, 0), Others(slots_taken=3)),  # no slot is free
        (Head(1, 10, True, -1.0, 0, "#1", 1), Others(1, 0, 0, {"#1": 1})),  # a lane that is not known here
    ],
)
def test_a_head_that_waits_for_a_slot_is_no_obstacle(head: Head, others: Others) -> None:
    """Only one that memory alone keeps out has its turn before others."""
    ledger, holder, own = Ledger(4), new_claim(1, lane="b"), new_claim(1, slot=False)
    ledger.set_lane("b", 5)
    assert ledger.take(holder, room(100))
    waiting(ledger, own)
    seen = Others(others.slots_taken, 0, 0, others.lanes_taken, (head,))
    assert ledger.grant_next(room(100), seen) is own
    assert head.passes == 0


@pytest.mark.parametrize(("lane", "limit"), [(None, 0), ("b", 2), ("#1", 1)])
def test_a_head_with_a_slot_to_have_is_waited_for(lane: str | None, limit: int) -> None:
    """Also where it needs none, or where its lane is known here by number only."""
    ledger, holder, own = Ledger(4), new_claim(1, lane="b"), new_claim(1)
    ledger.set_lane("b", 5)
    assert ledger.take(holder, room(100))
    waiting(ledger, own)
    for takes_slot in True, False:
        head = Head(1, 10, takes_slot, -1.0, 0, lane, limit)
        assert ledger.grant_next(room(100), Others(heads=(head,))) is None


@pytest.mark.parametrize(("seat", "expected"), [(0, True), (2, False)])
def test_of_two_that_came_at_once_one_goes_first(seat: int, expected: bool) -> None:
    """The one on the lower seat, so that two members never wait for each other."""
    ledger, own = Ledger(3), new_claim(10)
    waiting(ledger, own)
    head = Head(1, 10, takes_slot=True, order_seconds=0.0, passes=0)
    assert (ledger.grant_next(room(100), Others(heads=(head,), seat=seat)) is own) == expected


def test_what_others_hold_counts() -> None:
    """Their slots, their lanes and their unused promises, as if they were held here."""
    ledger, own = Ledger(3), new_claim(10, lane="a")
    ledger.set_lane("a", 2)
    waiting(ledger, own)
    assert not ledger.is_open(own, Others(slots_taken=3))
    assert not ledger.has_candidate(Others(slots_taken=3))
    assert ledger.grant_next(room(100), Others(slots_taken=3)) is None
    assert ledger.grant_next(room(100), Others(slots_taken=2, lanes_taken={"a": 2})) is None
    assert ledger.grant_next(room(0, 100), Others(slots_taken=1)) is None
    assert ledger.grant_next(room(19), Others(1, 10, 10)) is None
    assert ledger.grant_next(room(20), Others(1, 10, 10)) is own


def test_closed_claims_are_let_go() -> None:
    """Those that give up behind one that does not fit are not kept, whether it is the first of their queue or not."""
    ledger = Ledger(3)
    blocked = new_claim(100)
    waiting(ledger, blocked)
    gone: list[weakref.ref[Claim]] = []
    for second in range(200):
        claims = [new_claim(100), new_claim(100, priority=1)]
        waiting(ledger, *claims, at=10.0 + second)
        gone.extend(map(weakref.ref, claims))
        for claim in claims:
            ledger.close(claim)
    del claims, claim
    assert ledger.head() is blocked
    gc.collect()
    assert sum(ref() is not None for ref in gone) <= 65  # swept by the sixty-fifth at the latest
    assert ledger.waiting == 1


def test_a_sweep_takes_the_one_that_set_it_off() -> None:
    """The sixty-fifth that gives up goes with the others."""
    ledger = Ledger(3)
    waiting(ledger, new_claim(100))
    claims = [new_claim(100) for _ in range(65)]
    waiting(ledger, *claims, at=10.0)
    gone = [weakref.ref(claim) for claim in claims]
    while claims:
        ledger.close(claims.pop())
    gc.collect()
    assert not any(ref() for ref in gone)


def test_a_sweep_keeps_those_that_wait() -> None:
    """Whoever waits when the others' places are swept is granted in its turn all the same."""
    ledger = Ledger(300)
    claims = [new_claim(index % 2, priority=index % 3) for index in range(200)]
    waiting(ledger, *claims)
    for claim in claims[1:-1]:
        ledger.close(claim)
        assert ledger.waiting == sum(each.state is ClaimState.WAITING for each in claims)
    assert all_granted(ledger, 1000) == [claims[0], claims[-1]]


def test_one_that_never_waited_closes_quietly() -> None:
    """A claim that was refused on the spot, or was never tried, leaves nothing when it is closed."""
    ledger, claim = Ledger(1), new_claim(10)
    assert not ledger.take(claim, room(9))
    ledger.close(claim)
    assert (ledger.waiting, ledger.reserved_bytes, claim.state) == (0, 0, ClaimState.CLOSED)
    ledger.mark_used(claim, 5)
    assert (claim.used_bytes, ledger.unused_bytes) == (0, 0)
