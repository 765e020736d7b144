"""Pure state machine: who holds which bytes and slots, who waits, and who is next.

It knows no clock, no tasks and no memory: its caller brings the room that is left at the moment of each decision.

    WAITING --grant--> GRANTED --close--> CLOSED
       `-------------close----------------^

Rules
  - Strictly first in, first out: nothing passes the head of the queue.
  - Promised bytes that their holder is not known to use yet are taken off the room; those in use are in the readings
    already, and are not counted twice.
  - When no slot is taken, the head is let in as long as it stays under the ceiling, so there is always progress.
"""

from collections import deque
from enum import Enum

from .._memory.pressure import MemoryRoom


class ClaimState(Enum):
    WAITING = "waiting"
    GRANTED = "granted"
    CLOSED = "closed"


class Claim:
    """Bytes, and perhaps a slot, that somebody asks for or holds."""

    __slots__ = ("need_bytes", "state", "takes_slot", "used_bytes")

    def __init__(self, need_bytes: int, *, takes_slot: bool) -> None:
        self.need_bytes = need_bytes
        self.takes_slot = takes_slot
        self.used_bytes = 0
        self.state = ClaimState.WAITING

    @property
    def unused_bytes(self) -> int:
        return max(0, self.need_bytes - self.used_bytes)


class Ledger:
    """All claims under one common limit of slots."""

    def __init__(self, max_concurrent: int) -> None:
        self.max_concurrent = max_concurrent
        self.waiting: deque[Claim] = deque()
        self.granted: set[Claim] = set()

    @property
    def slots_taken(self) -> int:
        return sum(claim.takes_slot for claim in self.granted)

    @property
    def reserved_bytes(self) -> int:
        return sum(claim.need_bytes for claim in self.granted)

    @property
    def unused_bytes(self) -> int:
        """Promised, but not known to be in use yet."""
        return sum(claim.unused_bytes for claim in self.granted)

    def enqueue(self, need_bytes: int, *, takes_slot: bool) -> Claim:
        """Put a new claim at the end of the queue."""
        claim = Claim(need_bytes, takes_slot=takes_slot)
        self.waiting.append(claim)
        return claim

    def grant_head(self, room: MemoryRoom) -> Claim | None:
        """Grant the first waiting claim if a slot is free and its bytes fit; None if not, or if nobody waits."""
        if not self.waiting:
            return None
        head = self.waiting[0]
        taken = self.slots_taken
        if head.takes_slot and taken >= self.max_concurrent:
            return None
        total = self.unused_bytes + head.need_bytes
        if total > room.new_work_bytes and (taken > 0 or total > room.admitted_work_bytes):
            return None
        self.waiting.popleft()
        self.granted.add(head)
        head.state = ClaimState.GRANTED
        return head

    def close(self, claim: Claim) -> None:
        """Give back a granted claim, or take a waiting one off the queue. Doing it twice does nothing."""
        if claim.state is ClaimState.GRANTED:
            self.granted.remove(claim)
        elif claim.state is ClaimState.WAITING:
            self.waiting.remove(claim)
        claim.state = ClaimState.CLOSED
