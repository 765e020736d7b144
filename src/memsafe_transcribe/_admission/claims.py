"""Pure values: claims on memory and slots, and what is known of other members of the container's ledger."""

from collections.abc import Callable, Mapping
from contextvars import Token
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class ClaimState(Enum):
    WAITING = "waiting"
    GRANTED = "granted"
    CLOSED = "closed"


WAITING, GRANTED, CLOSED = ClaimState


class Claim:
    """Bytes, and perhaps a slot, that somebody asks for or holds; or a part carved out of such a claim."""

    # Most claims never have anything else: what stands here costs nothing to make.
    state = WAITING
    takes_slot = True
    lane: str | None = None
    priority = 0
    parent: "Claim | None" = None
    order_seconds: float = 0.0  # when it came, less what its priority is worth
    is_queued = False
    serial = 0  # tells it from all others of its queue, also from those that came in the same moment
    passes = 0  # how often a later one was let in before it
    carved_bytes = 0
    own_used_bytes = 0
    used_bytes = 0  # its own and that of its parts
    peak_bytes = 0  # the most of it, ever
    # For whoever keeps the ledger:
    enqueued_at: float = 0.0
    granted_at: float = 0.0
    kind: str | None = None
    asked_bytes = 0
    is_leaving = False  # closed in the middle of a turn, to be taken back at the next one
    token: Token[Any] | None = None  # of the context that it was entered in,
    handle: Callable[[], Any] | None = None  # and by which handle

    def __init__(self, need_bytes: int) -> None:
        self.need_bytes = need_bytes

    @property
    def left_bytes(self) -> int:
        """What can still be carved out of it."""
        return self.need_bytes - self.carved_bytes

    @property
    def unused_bytes(self) -> int:
        """Promised, but not known to be in use yet."""
        return max(0, self.need_bytes - self.used_bytes)

    @property
    def root(self) -> "Claim":
        """The claim that this was carved out of in the end; itself, if it was not."""
        claim = self
        while claim.parent is not None:
            claim = claim.parent
        return claim

    @property
    def is_held(self) -> bool:
        """Granted, and so is everything that it was carved out of."""
        claim: Claim | None = self
        while claim is not None:
            if claim.state is not GRANTED:
                return False
            claim = claim.parent
        return True


@dataclass(slots=True)
class Head:
    """The first waiting claim of another member of the container's ledger."""

    member: int
    need_bytes: int
    takes_slot: bool
    order_seconds: float
    passes: int
    lane: str | None = None
    lane_limit: int = 0
    serial: int = 0
    # When that member last looked whether it is its turn. That it did is no change for others, who look the less often,
    # the longer nothing changes.
    polled_seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Others:
    """What all other members hold together, their heads, and what there is to know of their queues."""

    slots_taken: int = 0
    reserved_bytes: int = 0
    unused_bytes: int = 0
    lanes_taken: Mapping[str, int] = field(default_factory=dict)
    heads: tuple[Head, ...] = ()
    seat: int = -1  # from where they are seen
    waiting: int = 0
    hold_seconds: float = 0.0  # how long a slot is held, over those that know; 0 if none does


NOBODY = Others()
