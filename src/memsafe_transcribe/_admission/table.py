"""Pure: how the members of the container's ledger are laid out in its file.

A header, then one record for each seat. All numbers are 8 bytes, little-endian and aligned, so that a reader never sees
half of one. Only its own member writes a record, apart from `passes`; what is in the record of a member that died is
cleared by whoever sees that its lease is gone.

    header   magic | max_concurrent | seats in use, counted from the first
    record   pid | time of its last poll | held: slots, reserved, unused, waiting, how long a slot is held in ns
             (0 for unknown), 8 x (lane, taken)
             | head: waits for (0 nothing, 1 bytes, 2 bytes and a slot), order, need, lane, lane's limit, serial
             | passes
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

from .claims import Claim, Head, Others

MAGIC = b"memsafe2"
RECORD_BYTES = 256
SEATS = 255
FILE_BYTES = RECORD_BYTES * (SEATS + 1)
MAX_LANES = 8
NS_PER_SECOND = 1_000_000_000
STALE_NS = NS_PER_SECOND  # a head that has not polled for so long is passed, and keeps its place

_HEADER = struct.Struct("<8sqq")
_HELD = struct.Struct("<qqqqq" + "Qq" * MAX_LANES)
_HEAD = struct.Struct("<qdqQqq")
_WORD = struct.Struct("<q")
_FRONT = struct.Struct("<qq")
_HELD_AT = _FRONT.size
_HEAD_AT = _HELD_AT + _HELD.size
_PASSES_AT = _HEAD_AT + _HEAD.size
HEADER_BYTES = _HEADER.size
NO_HEAD = _WORD.pack(0)


@dataclass(frozen=True, slots=True)
class Member:
    """Who sits where: a process, or one of several controllers in one process."""

    seat: int
    pid: int
    slots_taken: int
    reserved_bytes: int


@dataclass(frozen=True, slots=True)
class Table:
    """What the file says, seen from one seat."""

    max_concurrent: int
    members: tuple[Member, ...]
    others: Others
    own_passes: int


def lane_digest(name: str) -> int:
    """A lane's name as a number; 0 is no lane."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little") or 1


def pack_header(max_concurrent: int, seats: int) -> bytes:
    return _HEADER.pack(MAGIC, max_concurrent, seats)


def seats_in_use(data: bytes) -> int:
    """How many records follow the header; -1 if this is no ledger."""
    if len(data) < HEADER_BYTES:
        return -1
    magic, _, seats = _HEADER.unpack_from(data)
    return seats if magic == MAGIC and 0 <= seats <= SEATS else -1


def max_concurrent(data: bytes) -> int:
    limit: int = _HEADER.unpack_from(data)[1]
    return limit


def pack_front(pid: int, polled_ns: int) -> bytes:
    return _FRONT.pack(pid, polled_ns)


def pack_held(
    slots_taken: int,
    reserved_bytes: int,
    unused_bytes: int,
    waiting: int,
    hold_seconds: float,
    lanes_taken: Mapping[int, int],
) -> bytes:
    """What a member holds; lanes by their digests."""
    pairs = [number for pair in lanes_taken.items() for number in pair]
    hold_ns = int(hold_seconds * NS_PER_SECOND)
    rest = [0] * (2 * MAX_LANES - len(pairs))
    return _HELD.pack(slots_taken, reserved_bytes, unused_bytes, waiting, hold_ns, *pairs, *rest)


def pack_head(head: Claim, lane: int, lane_limit: int) -> bytes:
    """A member's first waiting claim, with its passes."""
    waits = 2 if head.takes_slot else 1
    front = _HEAD.pack(waits, head.order_seconds, head.need_bytes, lane, lane_limit, head.serial)
    return front + _WORD.pack(head.passes)


def pack_passes(passes: int) -> bytes:
    return _WORD.pack(passes)


def record_at(seat: int) -> int:
    return RECORD_BYTES * (seat + 1)


def held_at(seat: int) -> int:
    return record_at(seat) + _HELD_AT


def passes_at(seat: int) -> int:
    return record_at(seat) + _PASSES_AT


def read(data: bytes, own_seat: int | None, lane_names: Mapping[int, str], now_ns: int) -> Table:
    """Add up what all members but the one on `own_seat` hold, and list their heads.

    Args:
        data: the file from its beginning, as far as seats are in use.
        own_seat: whose view it is.
        lane_names: of the lanes that this member knows; others get names that cannot be its own.
        now_ns: the clock that the polls were timed by.
    """
    members: list[Member] = []
    heads: list[Head] = []
    lanes_taken: dict[str, int] = {}
    holds_ns: list[int] = []
    slots = reserved = unused = waiting = own_passes = 0
    for seat in range(seats_in_use(data)):
        at = record_at(seat)
        pid, polled_ns = _FRONT.unpack_from(data, at)
        if pid == 0:
            continue
        if seat == own_seat:
            (own_passes,) = _WORD.unpack_from(data, at + _PASSES_AT)
            continue
        taken, its_reserved, its_unused, its_waiting, hold_ns, *lanes = _HELD.unpack_from(data, at + _HELD_AT)
        members.append(Member(seat, pid, taken, its_reserved))
        slots, reserved, unused = slots + taken, reserved + its_reserved, unused + its_unused
        waiting += its_waiting
        if hold_ns:
            holds_ns.append(hold_ns)
        if taken:
            for digest, count in zip(lanes[::2], lanes[1::2], strict=True):
                if digest:
                    name = lane_names.get(digest, f"#{digest:x}")
                    lanes_taken[name] = lanes_taken.get(name, 0) + count
        waits, order, need_bytes, lane, lane_limit, serial = _HEAD.unpack_from(data, at + _HEAD_AT)
        if waits and now_ns - polled_ns < STALE_NS:
            (passes,) = _WORD.unpack_from(data, at + _PASSES_AT)
            in_lane = lane_names.get(lane, f"#{lane:x}") if lane else None
            polled_seconds = polled_ns / NS_PER_SECOND
            heads.append(Head(seat, need_bytes, waits == 2, order, passes, in_lane, lane_limit, serial, polled_seconds))
    seen_from = -1 if own_seat is None else own_seat
    hold_seconds = sum(holds_ns) / len(holds_ns) / NS_PER_SECOND if holds_ns else 0.0
    others = Others(slots, reserved, unused, lanes_taken, tuple(heads), seen_from, waiting, hold_seconds)
    return Table(max_concurrent(data), tuple(members), others, own_passes)
