"""Several pure ledgers over one table: what the processes of a container do, without processes and without a file."""

from dataclasses import dataclass, field

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

from memsafe_transcribe._admission import table
from memsafe_transcribe._admission.claims import Claim, ClaimState, Head, Others
from memsafe_transcribe._admission.ledger import MAX_PASSES, UNTAKEN_SECONDS, Ledger
from memsafe_transcribe._memory.pressure import MemoryRoom

from ..support.steps import CountedMachine
from .strategies import LANES, lanes, new_claim, priorities, residents, room, sizes, slots

SECOND = 1_000_000_000
NAMES = {table.lane_digest(name): name for name in LANES}


@dataclass(eq=False)
class Member:
    """One process: its ledger, and what it remembers of the table from turn to turn."""

    seat: int
    pid: int
    ledger: Ledger
    submitted: Claim | None = None
    passes: tuple[int, ...] = ()
    polled_ns: int = 0
    is_alive: bool = True
    queue: list[Claim] = field(default_factory=list)
    held: dict[Claim, int] = field(default_factory=dict)  # and what of it is resident


class Common:
    """The file, and who writes what of it when: as `SharedLedger` does, whose locks and descriptors are left out."""

    def __init__(self, max_concurrent: int) -> None:
        self.data = bytearray(table.FILE_BYTES)
        self.write(0, table.pack_header(max_concurrent, 0))

    def write(self, at: int, part: bytes) -> None:
        self.data[at : at + len(part)] = part

    def read(self, seat: int | None, now_ns: int) -> table.Table:
        """As many records as are in use."""
        in_use = table.record_at(table.seats_in_use(bytes(self.data)))
        return table.read(bytes(self.data[:in_use]), seat, NAMES, now_ns)

    def sit(self, member: Member) -> None:
        self.write(table.record_at(member.seat), table.pack_front(member.pid, 0).ljust(table.RECORD_BYTES, b"\0"))
        seats = max(table.seats_in_use(bytes(self.data)), member.seat + 1)
        self.write(0, table.pack_header(table.max_concurrent(bytes(self.data)), seats))

    def clear(self, seat: int) -> None:
        self.write(table.record_at(seat), bytes(table.RECORD_BYTES))

    def begin(self, member: Member, now_ns: int) -> Others:
        seen = self.read(member.seat, now_ns)
        member.passes = tuple(head.passes for head in seen.others.heads)
        if member.submitted is not None and member.submitted.state is ClaimState.WAITING:
            member.submitted.passes = max(member.submitted.passes, seen.own_passes)
        return seen.others

    def writes(self, member: Member, others: Others, now_ns: int) -> list[tuple[int, bytes]]:
        """What a commit writes, in this order."""
        ledger = member.ledger
        changed = [
            (table.passes_at(head.member), table.pack_passes(head.passes))
            for head, before in zip(others.heads, member.passes, strict=True)
            if head.passes != before
        ]
        head = ledger.head(others) if ledger.waiting else None
        member.submitted = head
        packed = table.NO_HEAD
        if head is not None:
            lane = table.lane_digest(head.lane) if head.lane else 0
            packed = table.pack_head(head, lane, ledger.lanes[head.lane].limit if head.lane else 0)
        record = table.pack_front(member.pid, now_ns) + held_of(member) + packed
        return [*changed, (table.record_at(member.seat), record)]

    def publish(self, member: Member) -> None:
        head = b"" if member.ledger.waiting else table.NO_HEAD
        self.write(table.held_at(member.seat), held_of(member) + head)


def held_of(member: Member) -> bytes:
    ledger = member.ledger
    lanes = {table.lane_digest(name): lane.taken for name, lane in ledger.lanes.items() if lane.taken}
    return table.pack_held(ledger.slots_taken, ledger.reserved_bytes, ledger.unused_bytes, ledger.waiting, 0.0, lanes)


class MembersMachine(CountedMachine):
    """Keeps lists of what each member holds and waits for, and judges each grant by them."""

    members: Bundle[Member] = Bundle("members")

    @initialize(
        target=members,
        count=st.integers(1, 4),
        concurrent=st.integers(1, 4),
        target_bytes=st.integers(40, 250),
        more=st.integers(0, 80),
    )
    def begin(self, count: int, concurrent: int, target_bytes: int, more: int) -> MultipleResults[Member]:
        self.concurrent, self.target_bytes, self.ceiling_bytes = concurrent, target_bytes, target_bytes + more
        self.common = Common(concurrent)
        self.now_ns = 1000 * SECOND
        self.foreign = self.droppable = 0
        self.next_pid = 100
        self.everybody: list[Member] = []
        self.unseen: list[Member] = []  # dead, and their records are still there
        self.granted: list[Claim] = []
        self.passed: dict[Claim, int] = {}
        self.seen_to_fit: dict[tuple[Member, Claim], int] = {}  # by whom, and when first
        return multiple(*(self.sit_down({*LANES}) for _ in range(count)))

    # -- what is true, whatever the table says

    @property
    def living(self) -> list[Member]:
        return [member for member in self.everybody if member.is_alive]

    @property
    def memory(self) -> int:
        return self.foreign + sum(sum(member.held.values()) for member in self.living)

    @property
    def room(self) -> MemoryRoom:
        return room(self.target_bytes - self.memory, self.ceiling_bytes - self.memory)

    @property
    def lower_bound(self) -> MemoryRoom:
        used = self.memory + self.droppable
        return room(self.target_bytes - used, self.ceiling_bytes - used)

    @property
    def all_held(self) -> list[Claim]:
        return [claim for member in self.living for claim in member.held]

    @property
    def unused(self) -> int:
        return sum(max(0, claim.need_bytes - claim.own_used_bytes) for claim in self.all_held)

    def slots_taken(self, lane: str | None = None) -> int:
        return sum(claim.takes_slot and lane in (None, claim.lane) for claim in self.all_held)

    def is_polling(self, member: Member) -> bool:
        return member.is_alive and self.now_ns - member.polled_ns < SECOND

    # -- coming and going

    @precondition(lambda self: len(self.living) < 4)
    @rule(target=members, known=st.sets(st.sampled_from([*LANES])))
    def join(self, known: set[str]) -> Member:
        """It takes the first seat that no living member has, once the dead are cleared away."""
        self.see_the_dead()
        return self.sit_down(known)

    def sit_down(self, known: set[str]) -> Member:
        seat = min({*range(5)} - {member.seat for member in self.living})
        member = Member(seat, self.next_pid, Ledger(self.concurrent))
        self.next_pid += 1
        for name in known:
            member.ledger.set_lane(name, LANES[name])
        self.everybody.append(member)
        self.common.sit(member)
        return member

    @precondition(lambda self: len(self.living) > 1)
    @rule(member=consumes(members), written=st.none() | st.integers(0, 30), need=sizes)
    def die(self, member: Member, written: int | None, need: int) -> None:
        """At any moment: also in the middle of writing what it took, after so many numbers."""
        if written is not None:
            others = self.common.begin(member, self.now_ns)
            if not member.ledger.waiting:
                member.ledger.take(new_claim(need), self.room, others)
            else:
                member.ledger.grant_next(self.room, others, now_seconds=self.now_ns / SECOND)
            numbers = [
                (at + each, part[each : each + 8])
                for at, part in self.common.writes(member, others, self.now_ns)
                for each in range(0, len(part), 8)
            ]
            for at, number in numbers[:written]:
                self.common.write(at, number)
        member.is_alive = False
        self.unseen.append(member)

    @precondition(lambda self: self.unseen)
    @rule()
    def see_the_dead(self) -> None:
        """Somebody looks for seats without a lease."""
        for member in self.unseen:
            self.common.clear(member.seat)
        self.unseen.clear()

    # -- taking

    @rule(
        asked=st.lists(
            st.tuples(members, sizes, slots, lanes, priorities, st.sampled_from([False, False, False, True])),
            min_size=1,
            max_size=4,
        )
    )
    def arrive(self, asked: list[tuple[Member, int, bool, str | None, int, bool]]) -> None:
        """As `reserve` does: on the spot, else in the queue. Where the file is locked just now, the queue it is."""
        for each in asked:
            self.reserve(*each)

    def reserve(self, member: Member, need: int, slot: bool, lane: str | None, priority: int, is_busy: bool) -> None:
        claim = new_claim(need, slot=slot, lane=lane if lane in member.ledger.lanes else None, priority=priority)
        if not is_busy and not member.ledger.waiting:
            others = self.common.begin(member, self.now_ns)
            self.check_view(member, others)
            before = self.rivals(member, others)
            if member.ledger.take(claim, self.room, others):
                assert not before
                self.note_grant(member, claim)
            self.commit(member, others)
        if claim.state is ClaimState.WAITING:
            member.ledger.enqueue(claim, self.now_ns / SECOND)
            member.queue.append(claim)
            if not is_busy:
                self.turn(member, None)

    @rule(member=members, meanwhile=st.none() | members)
    def turn(self, member: Member, meanwhile: Member | None) -> None:
        """It grants itself what fits, one by one; others give back meanwhile, which takes no lock."""
        while True:
            others = self.common.begin(member, self.now_ns)
            self.check_view(member, others)
            if meanwhile is not None and meanwhile is not member and meanwhile.held:
                self.give_back(meanwhile, next(iter(meanwhile.held)))
            rivals, room = self.rivals(member, others), self.room
            fitting = [claim for claim in rivals if self.would_fit(claim, member, others)]
            claim = member.ledger.grant_next(self.lower_bound, others, may_pass=False)
            if claim is None:
                claim = member.ledger.grant_next(room, others, now_seconds=self.now_ns / SECOND)
            for each in fitting:
                self.seen_to_fit.setdefault((member, each), self.now_ns)
            if claim is not None:
                self.check_turn(member, claim, rivals, fitting)
                member.queue.remove(claim)
                self.note_grant(member, claim)
            self.commit(member, others)
            if claim is None:
                return

    def commit(self, member: Member, others: Others) -> None:
        for at, part in self.common.writes(member, others, self.now_ns):
            self.common.write(at, part)
        member.polled_ns = self.now_ns

    def check_view(self, member: Member, others: Others) -> None:
        """Of the living it sees all that they hold, and the heads of those that poll."""
        if self.unseen:
            return
        rest = [each for each in self.living if each is not member]
        held = [claim for each in rest for claim in each.held]
        assert others.slots_taken == sum(claim.takes_slot for claim in held)
        assert others.reserved_bytes == sum(claim.need_bytes for claim in held)
        assert others.unused_bytes == sum(max(0, claim.need_bytes - claim.own_used_bytes) for claim in held)
        for name in LANES:
            assert others.lanes_taken.get(name, 0) == sum(claim.takes_slot and claim.lane == name for claim in held)
        seen = {head.member: head for head in others.heads}
        for each in rest:
            claim = each.submitted
            if claim is None or claim.state is not ClaimState.WAITING:
                continue
            assert (each.seat in seen) == self.is_polling(each)
            if each.seat in seen:
                limit = LANES[claim.lane] if claim.lane else 0
                expected = (claim.need_bytes, claim.takes_slot, claim.order_seconds, claim.lane, limit)
                assert figures(seen[each.seat]) == expected
                assert seen[each.seat].passes >= claim.passes

    def rivals(self, member: Member, others: Others) -> list[Claim]:
        """Its own that wait, and the heads of others that poll: those that only memory keeps out."""
        waiting = [*member.queue]
        for each in self.living:
            head = each.submitted
            if each is not member and self.is_polling(each) and head is not None and head in each.queue:
                waiting.append(head)
        taken = member.ledger.slots_taken + others.slots_taken
        return [
            claim
            for claim in waiting
            if not claim.takes_slot
            or (
                taken < self.concurrent
                and (claim.lane is None or lane_taken(member, others, claim.lane) < LANES[claim.lane])
            )
        ]

    def would_fit(self, claim: Claim, member: Member, others: Others) -> bool:
        after = self.memory + member.ledger.unused_bytes + others.unused_bytes + claim.need_bytes
        is_first = member.ledger.slots_taken + others.slots_taken == 0
        return after <= self.target_bytes or (is_first and after <= self.ceiling_bytes)

    def check_turn(self, member: Member, granted: Claim, rivals: list[Claim], fitting: list[Claim]) -> None:
        """First come, first served, whoever's it is; what did not fit is passed, and that no oftener than is said.

        But one of another member that has let its turns go by for a second is no obstacle.
        """
        for claim in rivals:
            if claim is not granted and claim.order_seconds < granted.order_seconds:
                if claim in fitting:
                    assert claim not in member.queue
                    assert self.now_ns - self.seen_to_fit[member, claim] >= UNTAKEN_SECONDS * SECOND
                    continue
                self.passed[claim] = self.passed.get(claim, 0) + 1
                assert self.passed[claim] <= MAX_PASSES

    def note_grant(self, member: Member, claim: Claim) -> None:
        """Each is granted once; over all that live no limit is passed."""
        assert claim not in self.granted
        after = self.memory + self.unused + claim.need_bytes
        assert after <= (self.target_bytes if self.slots_taken() else self.ceiling_bytes)
        self.granted.append(claim)
        member.held[claim] = 0
        assert self.slots_taken() <= self.concurrent
        assert not claim.takes_slot or claim.lane is None or self.slots_taken(claim.lane) <= LANES[claim.lane]

    # -- holding

    def give_back(self, member: Member, claim: Claim) -> None:
        member.ledger.close(claim)
        del member.held[claim]
        self.common.publish(member)

    @precondition(lambda self: self.all_held)
    @rule(which=st.integers(0, 99), is_busy=st.booleans())
    def release(self, which: int, is_busy: bool) -> None:
        """What is held is given back, and handed on at once unless the file is locked just now."""
        member, claim = self.holding(which)
        self.give_back(member, claim)
        if member.queue and not is_busy:
            self.turn(member, None)

    @precondition(lambda self: any(member.queue for member in self.living))
    @rule(which=st.integers(0, 99), is_busy=st.booleans())
    def give_up(self, which: int, is_busy: bool) -> None:
        """One that waits is cancelled; if the file is locked just now, others see it until its member's next turn."""
        queued = [(member, claim) for member in self.living for claim in member.queue]
        member, claim = queued[which % len(queued)]
        member.queue.remove(claim)
        member.ledger.close(claim)
        self.common.publish(member)
        if member.queue and not is_busy:
            self.turn(member, None)

    @precondition(lambda self: self.all_held)
    @rule(which=st.integers(0, 99), touched=residents, known=residents)
    def use(self, which: int, touched: int, known: int) -> None:
        """A holder touches memory, and tells of no more than that."""
        member, claim = self.holding(which)
        member.held[claim] = touched
        before = member.ledger.unused_bytes
        member.ledger.mark_used(claim, min(touched, known))
        if member.ledger.unused_bytes < before:
            self.common.publish(member)
        elif member.ledger.unused_bytes > before:
            self.commit(member, self.common.begin(member, self.now_ns))

    @precondition(lambda self: self.all_held)
    @rule(which=st.integers(0, 99), more=sizes)
    def grow(self, which: int, more: int) -> None:
        """Never past the ceiling, with all that anybody was promised."""
        member, claim = self.holding(which)
        others = self.common.begin(member, self.now_ns)
        if member.ledger.grow(claim, more, self.room, others):
            assert self.memory + self.unused <= self.ceiling_bytes
        self.commit(member, others)

    def holding(self, which: int) -> tuple[Member, Claim]:
        held = [(member, claim) for member in self.living for claim in member.held]
        return held[which % len(held)]

    # -- the rest of the world

    @rule(milliseconds=st.sampled_from([1, 20, 50, 50, 500, 999, 1000, 3000]))
    def wait(self, milliseconds: int) -> None:
        """Who takes no turn for a second has stopped polling."""
        self.now_ns += milliseconds * 1_000_000

    @rule(foreign=residents, droppable=residents)
    def others_use(self, foreign: int, droppable: int) -> None:
        """Other programs use memory; a cheap reading takes some for used that could be dropped."""
        self.foreign, self.droppable = foreign, droppable

    @invariant()
    def the_table_holds_no_more_than_the_members(self) -> None:
        if not self.unseen:
            others = self.common.read(None, self.now_ns).others
            assert others.slots_taken == self.slots_taken() <= self.concurrent
            assert others.reserved_bytes == sum(claim.need_bytes for claim in self.all_held)
            assert others.unused_bytes == self.unused

    def teardown(self) -> None:
        """Wherever it ended: if all poll and holders release, whatever fits alone gets in, and nothing is left."""
        if not hasattr(self, "common"):
            return
        self.see_the_dead()
        self.foreign = 0
        for member in self.living:
            for claim in [claim for claim in member.queue if claim.need_bytes > self.ceiling_bytes]:
                member.queue.remove(claim)
                member.ledger.close(claim)
        hoped = [claim for member in self.living for claim in member.queue]
        # In each round everybody has a turn, and the oldest holder releases. In the first, some may still see heads
        # that have given up.
        for _ in range((MAX_PASSES + 2) * (len(hoped) + 1) + len(self.all_held)):
            for member in self.living:
                self.turn(member, None)
            if not any(claim.state is ClaimState.WAITING for claim in hoped):
                break
            self.now_ns += SECOND // 20
            if self.all_held:
                oldest = min(self.all_held, key=self.granted.index)
                self.give_back(next(member for member in self.living if oldest in member.held), oldest)
        assert all(claim.state is not ClaimState.WAITING for claim in hoped)
        for member in self.living:
            for claim in [*member.held]:
                self.give_back(member, claim)
        others = self.common.read(None, self.now_ns).others
        assert (others.slots_taken, others.reserved_bytes, others.unused_bytes, others.heads) == (0, 0, 0, ())


def figures(head: Head) -> tuple[int, bool, float, str | None, int]:
    return head.need_bytes, head.takes_slot, head.order_seconds, head.lane, head.lane_limit


def lane_taken(member: Member, others: Others, lane: str) -> int:
    own = member.ledger.lanes[lane].taken if lane in member.ledger.lanes else 0
    return own + others.lanes_taken.get(lane, 0)


TestMembers = MembersMachine.TestCase


# -- by hand


def two_members() -> tuple[Common, Member, Member]:
    """On the seats 0 and 1, with three slots between them."""
    common = Common(3)
    members = [Member(seat, 100 + seat, Ledger(3)) for seat in range(2)]
    for member in members:
        common.sit(member)
    return common, members[0], members[1]


def waits(member: Member, claim: Claim, at_seconds: float) -> Claim:
    member.ledger.enqueue(claim, at_seconds)
    return claim


def grants(common: Common, member: Member, new_work_bytes: int, at_seconds: float) -> list[Claim]:
    """What this member grants itself in its turn."""
    granted: list[Claim] = []
    while True:
        others = common.begin(member, int(at_seconds * SECOND))
        claim = member.ledger.grant_next(room(new_work_bytes), others, now_seconds=at_seconds)
        for at, part in common.writes(member, others, int(at_seconds * SECOND)):
            common.write(at, part)
        if claim is None:
            return granted
        granted.append(claim)


def test_first_come_first_served_across_members() -> None:
    """A later claim waits for the earlier one of another member, until that has had its turn."""
    common, one, other = two_members()
    first, second = waits(one, new_claim(10), 1.0), waits(other, new_claim(10), 2.0)
    assert grants(common, one, 9, 3.0) == []
    assert grants(common, other, 100, 3.1) == []
    assert grants(common, one, 100, 3.2) == [first]
    assert grants(common, other, 19, 3.3) == []  # what was promised there counts here
    assert grants(common, other, 20, 3.4) == [second]


def test_a_head_that_polls_no_more_is_passed_and_keeps_its_place() -> None:
    """For a second others wait for it; then it counts as not there, until it polls again."""
    common, one, other = two_members()
    stopped = waits(one, new_claim(10), 1.0)
    assert grants(common, one, 9, 2.0) == []
    claims = [waits(other, new_claim(10), 1.5) for _ in range(2)]
    assert grants(common, other, 19, 2.99) == []
    assert grants(common, other, 19, 3.0) == claims[:1]
    assert grants(common, one, 19, 3.5) == []
    assert stopped.passes == 0
    assert grants(common, other, 20, 3.6) == []
    assert grants(common, one, 20, 3.7) == [stopped]


def test_one_that_polls_again_has_its_turn_though_it_was_seen_to_wait() -> None:
    """While it was stopped, others saw it fit and not go in: that is not held against it once it polls again."""
    common, one, other = two_members()
    stopped = waits(one, new_claim(10), 1.0)
    assert grants(common, one, 9, 2.1) == []
    later = waits(other, new_claim(10), 1.5)
    for tenths in range(20, 30):
        assert grants(common, other, 19, 0.1 + tenths / 10) == []
    assert grants(common, one, 9, 3.05) == []
    for tenths in range(30, 40):
        assert grants(common, other, 19, 0.1 + tenths / 10) == []
    assert grants(common, one, 19, 4.05) == [stopped]
    assert grants(common, other, 20, 4.1) == [later]


def test_a_member_with_limits_of_its_own_holds_others_up_for_a_second() -> None:
    """Its head would fit by what others see, and is not taken: it polls, and they go on without it."""
    common, one, other = two_members()
    kept_out, claim = waits(one, new_claim(10), 1.0), waits(other, new_claim(10), 2.0)
    for tenths in range(20, 32):
        assert grants(common, one, 9, tenths / 10) == []
        assert grants(common, other, 100, tenths / 10 + 0.01) == ([claim] if tenths == 31 else [])
    assert grants(common, one, 20, 3.2) == [kept_out]


def test_two_that_came_at_once_do_not_wait_for_each_other() -> None:
    """Each would see the other's head before its own; the lower seat goes first."""
    common, one, other = two_members()
    first, second = waits(one, new_claim(10), 1.0), waits(other, new_claim(10), 1.0)
    assert grants(common, one, 9, 2.0) == grants(common, other, 9, 2.0) == []
    assert grants(common, other, 100, 2.1) == []
    assert grants(common, one, 100, 2.2) == [first]
    assert grants(common, other, 100, 2.3) == [second]


def test_passes_are_not_lost_when_another_claim_becomes_the_head() -> None:
    """How often others passed a claim is kept, also where its member shows them another one meanwhile."""
    common, one, other = two_members()
    large = waits(one, new_claim(90), 1.0)
    assert grants(common, one, 50, 2.0) == []
    small = waits(other, new_claim(1), 1.5)
    assert grants(common, other, 50, 2.1) == [small]
    urgent = waits(one, new_claim(60, priority=1), 2.2)
    assert grants(common, one, 50, 2.3) == []
    assert (one.submitted, urgent.passes, large.passes) == (urgent, 0, 1)


def test_what_the_dead_held_counts_until_somebody_sees_it() -> None:
    """Then it is free, and the seat too."""
    common, one, other = two_members()
    assert one.ledger.take(new_claim(60), room(100))
    common.publish(one)
    claim = waits(other, new_claim(41), 1.0)
    assert grants(common, other, 100, 2.0) == []
    common.clear(one.seat)
    assert grants(common, other, 100, 2.1) == [claim]
