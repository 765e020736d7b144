"""The layout of the container's ledger in its file."""

import struct
from collections.abc import Mapping

import pytest
from hypothesis import example, given, strategies as st

from memsafe_transcribe._admission import table
from memsafe_transcribe._admission.claims import Head
from memsafe_transcribe._admission.ledger import Ledger
from memsafe_transcribe._admission.table import Member

from .strategies import digests, int64s, new_claim, words

NOW = 10 * table.STALE_NS

lanes_held = st.dictionaries(digests, words, max_size=table.MAX_LANES)
orders = st.floats(allow_nan=False)
pids = st.integers(1, 2**31)


def head_at(seat: int) -> int:
    """Where a head stands: behind what is held."""
    return table.held_at(seat) + len(table.pack_held(0, 0, 0, 0, 0.0, {}))


def file(max_concurrent: int, *records: bytes) -> bytes:
    """A ledger with these records on its first seats."""
    rows = [record.ljust(table.RECORD_BYTES, b"\0") for record in records]
    return table.pack_header(max_concurrent, len(rows)).ljust(table.RECORD_BYTES, b"\0") + b"".join(rows)


def record(
    pid: int = 1,
    polled_ns: int = NOW,
    held: tuple[int, int, int] = (0, 0, 0),
    lanes: Mapping[int, int] | None = None,
    head: bytes = table.NO_HEAD,
    queue: tuple[int, float] = (0, 0.0),
) -> bytes:
    """What a member writes of itself in one turn."""
    return table.pack_front(pid, polled_ns) + table.pack_held(*held, *queue, lanes or {}) + head


def a_head(need_bytes: int = 10, *, order: float = 1.0, passes: int = 0, lane: int = 0, limit: int = 0) -> bytes:
    claim = new_claim(need_bytes)
    claim.order_seconds, claim.passes = order, passes
    return table.pack_head(claim, lane, limit)


@given(words, pids, st.integers(1, 2**63 - 1), words, words, lanes_held)
def test_what_is_held_is_read_as_it_was_written(
    concurrent: int, pid: int, slots: int, reserved: int, unused: int, lanes: dict[int, int]
) -> None:
    """Any figures come back; lanes by their names where they are known, by number where not."""
    known = dict(list(zip(lanes, "abcdefgh", strict=False))[::2])
    seen = table.read(file(concurrent, record(pid, NOW, (slots, reserved, unused), lanes)), None, known, NOW)
    assert seen.max_concurrent == concurrent
    assert seen.members == (Member(0, pid, slots, reserved),)
    others = seen.others
    assert (others.slots_taken, others.reserved_bytes, others.unused_bytes) == (slots, reserved, unused)
    assert others.lanes_taken == {known.get(digest, f"#{digest:x}"): taken for digest, taken in lanes.items()}
    assert (others.heads, others.seat) == ((), -1)


@given(words, orders, words, words, st.booleans(), st.none() | digests, int64s, st.booleans())
def test_a_head_is_read_as_it_was_written(
    need_bytes: int, order: float, passes: int, serial: int, slot: bool, lane: int | None, limit: int, is_known: bool
) -> None:
    """Any figures come back, passes and the last poll too; with the lane's name, its number, or None."""
    claim = new_claim(need_bytes, slot=slot)
    claim.order_seconds, claim.passes, claim.serial = order, passes, serial
    data = file(3, record(polled_ns=NOW - table.STALE_NS // 2, head=table.pack_head(claim, lane or 0, limit)))
    [head] = table.read(data, None, {lane: "scheduler"} if is_known and lane else {}, NOW).others.heads
    name = None if lane is None else "scheduler" if is_known else f"#{lane:x}"
    assert head == Head(0, need_bytes, slot, order, passes, name, limit, serial)
    assert head.polled_seconds == 9.5


@given(st.lists(st.tuples(words, st.none() | st.integers(1, 10**9)), max_size=5))
def test_queues_are_added_up_and_holds_averaged(queues: list[tuple[int, int | None]]) -> None:
    """How many wait with all others, and how long a slot is held, over those who know."""
    rows = [record(queue=(waiting, 0.0 if hold is None else float(hold))) for waiting, hold in queues]
    own = record(queue=(99, 99.0))
    others = table.read(file(3, own, *rows), 0, {}, NOW).others
    holds = [hold for _, hold in queues if hold is not None]
    assert others.waiting == sum(waiting for waiting, _ in queues)
    assert others.hold_seconds == pytest.approx(sum(holds) / len(holds) if holds else 0.0)


@given(words, words)
def test_the_passes_can_be_written_alone(before: int, after: int) -> None:
    """Another member counts them up in place, and the head's own member reads them there."""
    data = bytearray(file(3, record(), record(head=a_head(passes=before))))
    at = table.passes_at(1)
    data[at : at + 8] = table.pack_passes(after)
    assert table.read(bytes(data), 0, {}, NOW).others.heads[0].passes == after
    assert table.read(bytes(data), 1, {}, NOW).own_passes == after


def test_a_member_that_has_given_no_slot_back_does_not_know_how_long_it_is_held() -> None:
    """And does not count in the mean of those that do."""
    new, old = (record(queue=(0, hold_seconds)) for hold_seconds in (Ledger(3).hold_seconds, 4.0))
    assert table.read(file(3, new, old), None, {}, NOW).others.hold_seconds == 4.0


def test_the_parts_of_a_record_stand_where_they_are_said_to() -> None:
    """Written one by one at their places they make the same record as written at once."""
    data = bytearray(file(3, b"", b""))
    for at, part in [
        (table.record_at(1), table.pack_front(7, 8)),
        (table.held_at(1), table.pack_held(1, 2, 3, 6, 7.0, {4: 5})),
        (head_at(1), a_head(passes=6)),
    ]:
        data[at : at + len(part)] = part
    assert data == file(3, b"", record(7, 8, (1, 2, 3), {4: 5}, a_head(passes=6), (6, 7.0)))
    assert table.passes_at(1) == head_at(1) + len(a_head()) - 8


def test_each_number_is_aligned_and_in_its_own_record() -> None:
    """No reader sees half a number, no record reaches into the next, and all seats are in the file."""
    for seat in range(table.SEATS):
        for at in table.record_at(seat), table.held_at(seat), head_at(seat), table.passes_at(seat):
            assert at % 8 == 0
            assert table.record_at(seat) <= at < table.record_at(seat + 1)
    assert table.record_at(0) >= len(table.pack_header(1, 1))
    assert table.record_at(table.SEATS) == table.FILE_BYTES
    assert len(record(head=a_head())) <= table.RECORD_BYTES
    held, full = (table.pack_held(1, 1, 1, 1, 1.0, lanes) for lanes in ({}, dict.fromkeys(range(1, 9), 1)))
    for part in table.pack_front(1, 1), held, a_head(), table.NO_HEAD, table.pack_passes(1):
        assert len(part) % 8 == 0
    assert len(held) == len(full)
    assert table.pack_front(1, 2) == struct.pack("<qq", 1, 2)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1000), st.integers(0, 1000)), max_size=6), st.data())
def test_others_are_added_up_without_oneself(held: list[tuple[int, int, int]], data: st.DataObject) -> None:
    """All that sit, but the one who looks; an empty seat between them holds nothing."""
    seat = data.draw(st.none() | st.integers(0, max(0, len(held) - 1)))
    gaps = data.draw(st.lists(st.booleans(), min_size=len(held), max_size=len(held)))
    lane = table.lane_digest("a")
    rows = [
        record(0 if gap else 10 + index, NOW, each, {lane: each[0]}, a_head(index))
        for index, (each, gap) in enumerate(zip(held, gaps, strict=True))
    ]
    seen = table.read(file(3, *rows), seat, {lane: "a"}, NOW)
    sitting = [index for index, gap in enumerate(gaps) if not gap and index != seat]
    assert [(member.seat, member.pid) for member in seen.members] == [(index, 10 + index) for index in sitting]
    others = seen.others
    assert others.slots_taken == sum(held[index][0] for index in sitting)
    assert others.reserved_bytes == sum(held[index][1] for index in sitting)
    assert others.unused_bytes == sum(held[index][2] for index in sitting)
    assert others.lanes_taken.get("a", 0) == others.slots_taken
    assert [(head.member, head.need_bytes) for head in others.heads] == [(index, index) for index in sitting]
    assert others.seat == (-1 if seat is None else seat)
    assert seen.own_passes == 0


def test_a_lane_counts_over_all_members_known_or_not() -> None:
    """Two members' shares of one lane are added up; what a member without slots wrote of lanes is not looked at."""
    lane = table.lane_digest("a")
    rows = [record(held=(2, 0, 0), lanes={lane: 2}), record(held=(1, 0, 0), lanes={lane: 1, 5: 1})]
    rows.append(record(held=(0, 0, 0), lanes={lane: 1}))
    assert table.read(file(3, *rows), None, {lane: "a"}, NOW).others.lanes_taken == {"a": 3, "#5": 1}
    assert table.read(file(3, *rows), None, {}, NOW).others.lanes_taken == {f"#{lane:x}": 3, "#5": 1}


@pytest.mark.parametrize(
    ("age_ns", "is_seen"),
    [(-5, True), (0, True), (table.STALE_NS - 1, True), (table.STALE_NS, False), (NOW, False)],
)
def test_a_head_that_polls_no_more_is_left_out(age_ns: int, is_seen: bool) -> None:
    """What its member holds counts all the same, and its head is seen again once it polls."""
    data = file(3, record(1, NOW - age_ns, (1, 2, 3), head=a_head()))
    others = table.read(data, None, {}, NOW).others
    assert (others.slots_taken, others.reserved_bytes, others.unused_bytes) == (1, 2, 3)
    assert len(others.heads) == is_seen


def test_without_a_head_nobody_waits() -> None:
    """NO_HEAD alone, in place of a head's first number, takes the head off; the rest may stay."""
    data = bytearray(file(3, record(head=a_head())))
    at = head_at(0)
    assert len(table.read(bytes(data), None, {}, NOW).others.heads) == 1
    data[at : at + len(table.NO_HEAD)] = table.NO_HEAD
    assert table.read(bytes(data), None, {}, NOW).others.heads == ()


def test_a_file_of_zeros_is_no_ledger() -> None:
    """It has no magic; and a record of zeros is an empty seat."""
    assert table.seats_in_use(bytes(table.FILE_BYTES)) == -1
    assert table.read(bytes(table.FILE_BYTES), None, {}, NOW).members == ()
    assert table.read(file(3, b"", b""), None, {}, NOW).members == ()


@pytest.mark.parametrize("length", [0, 7, 8, 23])
def test_a_file_cut_short_is_no_ledger(length: int) -> None:
    """Somebody truncated it: that is said, not stumbled over."""
    assert table.seats_in_use(table.pack_header(3, 0)[:length]) == -1


@given(st.integers(0, table.SEATS), words)
@example(table.SEATS, 1)
def test_the_header_is_read_as_it_was_written(seats: int, concurrent: int) -> None:
    """Seats in use, and slots."""
    header = table.pack_header(concurrent, seats)
    assert table.seats_in_use(header) == seats
    assert table.max_concurrent(header) == concurrent


@pytest.mark.parametrize("seats", [-1, table.SEATS + 1, 2**63 - 1])
def test_a_header_with_impossible_seats_is_damaged(seats: int) -> None:
    """It is never followed beyond the file's end."""
    assert table.seats_in_use(table.pack_header(3, seats)) == -1


@given(st.integers(0, 7), st.integers(1, 255))
def test_a_header_with_another_magic_is_damaged(at: int, flip: int) -> None:
    """Any changed byte of it is noticed."""
    header = bytearray(table.pack_header(3, 0))
    header[at] ^= flip
    assert table.seats_in_use(bytes(header)) == -1


@given(st.text(), st.text())
def test_lanes_are_told_apart_by_their_digests(one: str, other: str) -> None:
    """The same name gives the same digest in every process, another name another, and none is 0, which is no lane."""
    assert 0 < table.lane_digest(one) < 2**64
    assert (table.lane_digest(one) == table.lane_digest(other)) == (one == other)
    assert table.lane_digest("scheduler") == int.from_bytes(bytes.fromhex("7740a6039d34f890"), "little")
