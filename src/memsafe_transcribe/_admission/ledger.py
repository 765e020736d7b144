"""Pure state machine: who holds which bytes and slots, who waits, and who is next.

It knows no tasks, no memory and no other process: its caller brings the time, the room that is left at the moment of
each decision, and what the other members of the container's ledger hold and wait for.

    WAITING --grant--> GRANTED --close--> CLOSED
       `-------------close----------------^

Rules
  - In order of arrival; each step of priority counts like having arrived PRIORITY_SECONDS earlier. That never changes
    while a claim waits, so priorities age by themselves and nobody starves.
  - A claim that does not fit may be passed by later, smaller ones, MAX_PASSES times; then everything is saved up for
    it. One whose lane is full is no obstacle to other lanes, nor is one of another member that fits, polls, and lets
    its turn go by for UNTAKEN_SECONDS: a limit of that member's own keeps it out.
  - Promised bytes that their holder is not known to use yet are taken off the room; those in use are in the readings
    already, and are not counted twice.
  - When no slot is taken anywhere, one claim is let in that stays under the ceiling, so there is always progress.
  - Bytes for a child are carved out of its parent's: they never wait, and are promised once only.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from heapq import merge
from itertools import islice

from .._memory.pressure import MemoryRoom
from .claims import CLOSED, GRANTED, NOBODY, WAITING, Claim, Head, Others

PRIORITY_SECONDS = 10.0
MAX_PASSES = 8
UNTAKEN_SECONDS = 1.0
_GAP_SECONDS = 0.25  # several polls
_LOOKAHEAD = 16  # so that a decision costs the same however many wait
_SWEEP_AT = 64


@dataclass(slots=True)
class _Lane:
    limit: int
    taken: int = 0


class Ledger:
    """All claims of one controller."""

    def __init__(self, max_concurrent: int) -> None:
        self.max_concurrent = max_concurrent
        self.granted: set[Claim] = set()
        self.waiting = 0
        self.slots_taken = 0
        self.reserved_bytes = 0
        self.unused_bytes = 0
        self.peak_slots_taken = 0
        self.peak_reserved_bytes = 0
        self.hold_seconds = 0.0  # how long a slot is held, on average; 0 until one was given back
        self.lanes: dict[str, _Lane] = {}
        # Claims of one lane, priority and kind stand in order of arrival. Those that left the middle stay until swept.
        self._queues: dict[tuple[str | None, int, bool], deque[Claim]] = {}
        self._gone = 0
        self._arrivals = 0
        # Since when heads of others are seen to fit, and when they had polled last.
        self._untaken: dict[tuple[int, int, float], tuple[float, float]] = {}

    # -- lanes

    def set_lane(self, name: str, limit: int) -> None:
        """Declare a lane, or give it another limit: what holds a slot above it keeps it."""
        self.lanes.setdefault(name, _Lane(limit)).limit = limit

    def _lane_is_open(self, name: str | None, others: Others) -> bool:
        if name is None:
            return True
        lane = self.lanes[name]
        return lane.taken + others.lanes_taken.get(name, 0) < lane.limit

    # -- taking

    def enqueue(self, claim: Claim, now_seconds: float) -> None:
        """Put a new claim in the queue. `now_seconds` never goes back."""
        claim.order_seconds = now_seconds - claim.priority * PRIORITY_SECONDS
        claim.is_queued = True
        self._arrivals += 1
        claim.serial = self._arrivals
        self._queues.setdefault((claim.lane, claim.priority, claim.takes_slot), deque()).append(claim)
        self.waiting += 1

    def take(self, claim: Claim, room: MemoryRoom, others: Others = NOBODY) -> bool:
        """Grant a new claim on the spot if nobody waits who could go, and it fits; whether it was granted."""
        if (self.waiting or others.heads) and self._anybody_could_go(others):
            return False
        if not self.is_open(claim, others) or not self._fits(claim.need_bytes, room, others):
            return False
        self._grant(claim)
        return True

    def _anybody_could_go(self, others: Others) -> bool:
        return self.has_candidate(others) or any(self._head_is_open(head, others) for head in others.heads)

    def has_candidate(self, others: Others = NOBODY) -> bool:
        """Whether there is a waiting claim that only memory could keep out."""
        return self.waiting > 0 and any(self._open_queues(others))

    def grant_next(
        self, room: MemoryRoom, others: Others = NOBODY, *, may_pass: bool = True, now_seconds: float = 0.0
    ) -> Claim | None:
        """Grant the next claim whose turn it is; None if there is none.

        Args:
            room: what is left now.
            others: the other members. Their heads have their turns too, which they take themselves. The `passes` of
                those that were passed are counted up.
            may_pass: False to grant the first one only: for a room that is a lower bound.
            now_seconds: the time, on the clock that heads are polled by.
        """
        passed: list[Claim | Head] = []
        untaken = self._untaken
        if may_pass:  # else it may be looked at again at once, by the exact room
            self._untaken = {}
        for claim in islice(self._in_order(others), _LOOKAHEAD):
            if self._fits(claim.need_bytes, room, others):
                if isinstance(claim, Head):
                    if not may_pass:
                        return None
                    if self._lets_its_turn_go_by(claim, untaken, now_seconds):
                        continue
                    return None
                for each in passed:
                    each.passes += 1
                self.waiting -= 1
                self._gone += 1
                self._grant(claim)
                return claim
            if not may_pass or claim.passes >= MAX_PASSES:
                return None
            passed.append(claim)
        return None

    def _lets_its_turn_go_by(
        self, head: Head, untaken: Mapping[tuple[int, int, float], tuple[float, float]], now_seconds: float
    ) -> bool:
        """Whether this head has polled for UNTAKEN_SECONDS while it fitted: then something of its own keeps it out.

        Measured by its polls, not by our looks: one that was stopped, or could not be seen to fit for want of a slot,
        begins anew.
        """
        key = head.member, head.serial, head.order_seconds
        since, last_polled = untaken.get(key, (now_seconds, head.polled_seconds))
        if head.polled_seconds - last_polled > _GAP_SECONDS:
            since = now_seconds
        self._untaken[key] = since, head.polled_seconds
        return head.polled_seconds - since >= UNTAKEN_SECONDS

    def head(self, others: Others = NOBODY) -> Claim | None:
        """The first waiting claim whose lane is open; the first of all if there is none."""
        heads = [queue[0] for queue in self._living_queues()]
        open_heads = [head for head in heads if not head.takes_slot or self._lane_is_open(head.lane, others)]
        return min(open_heads or heads, key=_order, default=None)

    def _in_order(self, others: Others) -> Iterator[Claim | Head]:
        """Everybody who only waits for memory, in the order of their turns."""
        queues = [(claim for claim in queue if claim.state is WAITING) for queue in self._open_queues(others)]
        if not others.heads:
            return merge(*queues, key=_order)
        heads = sorted((head for head in others.heads if self._head_is_open(head, others)), key=_order)
        # Of two that came in the same moment that on the lower seat goes first, or two members could wait for each
        # other: where keys are equal, merge follows the order of its arguments.
        before = [head for head in heads if head.member < others.seat]
        after = [head for head in heads if head.member > others.seat]
        return merge(before, *queues, after, key=_order)

    def _open_queues(self, others: Others) -> Iterator[deque[Claim]]:
        has_slot = self.slots_taken + others.slots_taken < self.max_concurrent
        for queue in self._living_queues():
            if not queue[0].takes_slot or (has_slot and self._lane_is_open(queue[0].lane, others)):
                yield queue

    def _living_queues(self) -> Iterator[deque[Claim]]:
        """The queues that have a waiting claim in front; those left empty are dropped."""
        for key, queue in list(self._queues.items()):
            while queue and queue[0].state is not WAITING:
                queue.popleft()
                self._gone -= 1
            if queue:
                yield queue
            else:
                del self._queues[key]

    def is_open(self, claim: Claim, others: Others) -> bool:
        """Whether a slot is free for this claim, in its lane too, so that only memory could keep it out."""
        return not claim.takes_slot or (
            self.slots_taken + others.slots_taken < self.max_concurrent
            and (claim.lane is None or self._lane_is_open(claim.lane, others))
        )

    def _head_is_open(self, head: Head, others: Others) -> bool:
        if not head.takes_slot:
            return True
        if self.slots_taken + others.slots_taken >= self.max_concurrent:
            return False
        own = self.lanes[head.lane].taken if head.lane in self.lanes else 0
        return head.lane is None or own + others.lanes_taken.get(head.lane, 0) < head.lane_limit

    def _fits(self, need_bytes: int, room: MemoryRoom, others: Others) -> bool:
        total = self.unused_bytes + others.unused_bytes + need_bytes
        if total <= room.new_work_bytes:
            return True
        return self.slots_taken + others.slots_taken == 0 and total <= room.admitted_work_bytes

    def _grant(self, claim: Claim) -> None:
        claim.state = GRANTED
        self.granted.add(claim)
        self.unused_bytes += claim.need_bytes
        self.reserved_bytes += claim.need_bytes
        if self.reserved_bytes > self.peak_reserved_bytes:
            self.peak_reserved_bytes = self.reserved_bytes
        if claim.takes_slot:
            self.slots_taken += 1
            if self.slots_taken > self.peak_slots_taken:
                self.peak_slots_taken = self.slots_taken
            if claim.lane is not None:
                self.lanes[claim.lane].taken += 1

    # -- holding

    def carve(self, parent: Claim, need_bytes: int) -> Claim | None:
        """A part of what `parent` holds, without a slot of its own; None if it has not that much left."""
        if not parent.is_held or need_bytes > parent.left_bytes:
            return None
        part = Claim(need_bytes)
        part.takes_slot, part.parent, part.state = False, parent, GRANTED
        parent.carved_bytes += need_bytes
        return part

    def grow(self, claim: Claim, more_bytes: int, room: MemoryRoom, others: Others = NOBODY) -> bool:
        """Promise more to a held claim: a part's comes from its parent, another's from what is under the ceiling."""
        if not claim.is_held:
            return False
        if claim.parent is not None:
            if more_bytes > claim.parent.left_bytes:
                return False
            claim.parent.carved_bytes += more_bytes
        elif self.unused_bytes + others.unused_bytes + more_bytes > room.admitted_work_bytes:
            return False
        self._resize(claim, claim.need_bytes + more_bytes)
        return True

    def shrink(self, claim: Claim, fewer_bytes: int) -> bool:
        """Give part of a promise back; False if that much is carved out of it."""
        if not claim.is_held:
            return True
        if fewer_bytes > claim.left_bytes:
            return False
        if claim.parent is not None:
            claim.parent.carved_bytes -= fewer_bytes
        self._resize(claim, claim.need_bytes - fewer_bytes)
        return True

    def mark_used(self, claim: Claim, used_bytes: int) -> None:
        """Note how much of a promise is resident by now, apart from what its parts say of themselves."""
        if claim.is_held:
            more = used_bytes - claim.own_used_bytes
            claim.own_used_bytes = used_bytes
            self._add_used(claim, more)

    def close(self, claim: Claim) -> None:
        """Give back a held claim or part, or take a waiting one off the queue. Doing it twice does nothing."""
        state, claim.state = claim.state, CLOSED
        if state is GRANTED:
            if claim.parent is None:
                self._take_back(claim)
            elif claim.parent.is_held:
                claim.parent.carved_bytes -= claim.need_bytes
                self._add_used(claim.parent, -claim.used_bytes)
        elif state is WAITING:
            self.waiting -= claim.is_queued
            self._gone += claim.is_queued
            if self._gone > _SWEEP_AT and self._gone > self.waiting:
                self._sweep()

    def _take_back(self, claim: Claim) -> None:
        self.granted.remove(claim)
        self.reserved_bytes -= claim.need_bytes
        self.unused_bytes -= claim.unused_bytes if claim.used_bytes else claim.need_bytes
        if claim.takes_slot:
            self.slots_taken -= 1
            if claim.lane is not None:
                self.lanes[claim.lane].taken -= 1

    def _resize(self, claim: Claim, need_bytes: int) -> None:
        if claim.parent is None:
            self.reserved_bytes += need_bytes - claim.need_bytes
            self.peak_reserved_bytes = max(self.peak_reserved_bytes, self.reserved_bytes)
            self.unused_bytes -= claim.unused_bytes
        claim.need_bytes = need_bytes
        if claim.parent is None:
            self.unused_bytes += claim.unused_bytes

    def _add_used(self, claim: Claim, more_bytes: int) -> None:
        """Count use up to the root, whose promise is the one that the totals know."""
        each: Claim | None = claim
        while each is not None:
            before = each.unused_bytes
            each.used_bytes += more_bytes
            each.peak_bytes = max(each.peak_bytes, each.used_bytes)
            if each.parent is None:
                self.unused_bytes += each.unused_bytes - before
            each = each.parent

    def _sweep(self) -> None:
        for key, queue in self._queues.items():
            self._queues[key] = deque(claim for claim in queue if claim.state is WAITING)
        self._gone = 0


def _order(claim: Claim | Head) -> float:
    return claim.order_seconds
