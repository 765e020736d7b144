"""The pure rules of memory pressure, for any limits and uses."""

from dataclasses import replace
from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import example, given, strategies as st

from memsafe_transcribe._memory import pressure
from memsafe_transcribe._memory.pressure import (
    DWELL_SECONDS,
    MARGIN_PERCENT,
    MAX_POLL_SECONDS,
    MIN_POLL_SECONDS,
    Events,
    LevelState,
    MemoryLevel,
    MemoryRoom,
    Term,
    Thresholds,
)

MiB, GiB = 2**20, 2**30

sizes = st.integers(0, 64 * GiB)
thresholds = st.tuples(st.floats(1, 100), st.floats(1, 100)).map(lambda pair: Thresholds(min(pair), max(pair)))


def term(limit_bytes: int, used_bytes: int, kind: Literal["limit", "host"] = "limit", binding: str = "") -> Term:
    return Term(kind, binding or kind, "file", limit_bytes, used_bytes, used_bytes)


terms = st.lists(
    st.builds(term, sizes.filter(bool), sizes, st.sampled_from(["limit", "host"])), min_size=1, max_size=4
).map(tuple)


@given(threshold=st.integers(1, 100), ceiling=st.integers(1, 100), units=st.integers(1, 10**6), data=st.data())
def test_levels_begin_where_documented(threshold: int, ceiling: int, units: int, data: st.DataObject) -> None:
    """ELEVATED at 5/6 of the threshold, HIGH at the threshold, CRITICAL at the ceiling: on the byte."""
    threshold, ceiling = sorted((threshold, ceiling))
    limit = units * 600  # so that every border is a whole number
    target, top = limit * threshold // 100, limit * ceiling // 100
    borders = [target * 5 // 6, target, top]
    used = data.draw(st.one_of(st.integers(0, limit), *(st.integers(b - 1, b) for b in borders)))
    expected = (
        MemoryLevel.CRITICAL
        if used >= top
        else MemoryLevel.HIGH
        if used >= target
        else MemoryLevel.ELEVATED
        if used * 6 >= target * 5
        else MemoryLevel.OK
    )
    assert pressure.level((term(limit, used),), Thresholds(threshold, ceiling)) == expected


def test_levels_of_a_container() -> None:
    """The default percentages on 600 MiB, by hand."""
    levels = [
        pressure.level((term(600 * MiB, used),), Thresholds(60, 90))
        for used in (300 * MiB - 1, 300 * MiB, 360 * MiB - 1, 360 * MiB, 540 * MiB - 1, 540 * MiB)
    ]
    assert levels == [
        MemoryLevel.OK,
        MemoryLevel.ELEVATED,
        MemoryLevel.ELEVATED,
        MemoryLevel.HIGH,
        MemoryLevel.HIGH,
        MemoryLevel.CRITICAL,
    ]


@given(terms, thresholds)
def test_the_worst_level_counts(terms: tuple[Term, ...], thresholds: Thresholds) -> None:
    """The level over several limits is the worst of theirs, in whatever order they come."""
    worst = max(pressure.level((each,), thresholds) for each in terms)
    assert pressure.level(terms, thresholds) == pressure.level(terms[::-1], thresholds) == worst


@given(total=st.integers(4 * GiB + 1, 1024 * GiB), need=st.integers(0, 64 * GiB), data=st.data())
def test_a_big_host_keeps_some_memory_available(total: int, need: int, data: st.DataObject) -> None:
    """Above 4 GiB, work is let in while available - need >= max(512 MiB, 10 % of RAM), however full the host is."""
    keep = max(512 * MiB, total // 10)
    available = data.draw(st.one_of(st.integers(0, total), st.integers(keep + need - 1, keep + need)))
    host = term(total, total - available, "host")
    refusing = pressure.refusing_term((host,), Thresholds(1, 100), need, admitted=False)
    assert (refusing is None) == (available - need >= keep)


def test_a_host_just_above_4_gib_keeps_512_mib() -> None:
    """A tenth of it would be less."""
    assert pressure.bounds(term(9 * GiB // 2, 0, "host"), Thresholds(1, 100)).target_bytes == 4 * GiB


@given(used=sizes, total=st.integers(1, 4 * GiB), thresholds=thresholds)
@example(used=0, total=4 * GiB, thresholds=Thresholds(60, 90))
def test_a_small_host_is_like_a_limit(used: int, total: int, thresholds: Thresholds) -> None:
    """Up to 4 GiB of RAM the host's rule is that of any limit."""
    assert pressure.bounds(term(total, used, "host"), thresholds) == pressure.bounds(term(total, used), thresholds)


@given(terms, thresholds)
def test_nothing_is_let_in_past_the_ceiling(terms: tuple[Term, ...], thresholds: Thresholds) -> None:
    """The target is never above the ceiling, nor the ceiling above the limit, on hosts neither."""
    for each in terms:
        bound = pressure.bounds(each, thresholds)
        assert 0 <= bound.ceiling_bytes <= each.limit_bytes
        assert bound.target_bytes <= bound.ceiling_bytes


@given(terms, thresholds, st.booleans(), st.data())
def test_room_and_refusal_agree(
    terms: tuple[Term, ...], thresholds: Thresholds, admitted: bool, data: st.DataObject
) -> None:
    """A need is refused exactly if it is more than the room, on the byte; and then by a limit that it passes."""
    room = pressure.room(terms, thresholds)
    left = room.admitted_work_bytes if admitted else room.new_work_bytes
    need = data.draw(st.one_of(sizes, st.integers(max(0, left - 1), max(0, left + 1))))
    refusing = pressure.refusing_term(terms, thresholds, need, admitted=admitted)
    assert (refusing is None) == (need <= left)
    if refusing is not None:
        assert refusing in terms
        assert pressure.refusing_term((refusing,), thresholds, need, admitted=admitted) is refusing


@given(terms, thresholds)
def test_the_largest_need_fits_when_nothing_is_used(terms: tuple[Term, ...], thresholds: Thresholds) -> None:
    """What could ever fit is what admitted work could take if nobody used anything: no more, no less."""
    room = pressure.room(terms, thresholds)
    largest = room.largest_need_bytes
    empty = tuple(replace(each, used_bytes=0) for each in terms)
    assert pressure.bounds(room.largest_need_limit, thresholds).ceiling_bytes == largest
    assert pressure.refusing_term(empty, thresholds, largest, admitted=True) is None
    assert pressure.refusing_term(empty, thresholds, largest + 1, admitted=True) is not None
    assert pressure.refusing_term(empty, thresholds, room.largest_new_work_bytes, admitted=False) is None
    assert pressure.refusing_term(empty, thresholds, room.largest_new_work_bytes + 1, admitted=False) is not None


@given(terms)
def test_the_least_headroom_binds(terms: tuple[Term, ...]) -> None:
    """No limit has less headroom than the one that binds."""
    assert pressure.binding_term(terms).headroom_bytes == min(each.limit_bytes - each.used_bytes for each in terms)


@pytest.mark.parametrize(
    ("threshold", "ceiling"), [(0, 90), (-1, 90), (91, 90), (60, 100.5), (float("nan"), 90), (60, float("nan"))]
)
def test_percentages_out_of_order(threshold: float, ceiling: float) -> None:
    """Bad percentages are refused, and both are named."""
    with pytest.raises(ValueError, match=r"threshold_percent=.*ceiling_percent="):
        Thresholds(threshold, ceiling)


DEFAULT = Thresholds(60, 90)
LIMIT = 600 * MiB  # ELEVATED from 300 MiB, HIGH from 360, CRITICAL from 540; the margin is 30
looks = st.lists(st.tuples(st.integers(0, 620), st.floats(0, 3)), min_size=1, max_size=40)


def after(state: LevelState, used_mib: int, now: float, event: MemoryLevel = MemoryLevel.OK) -> LevelState:
    return pressure.next_level(state, (term(LIMIT, used_mib * MiB),), DEFAULT, now, event)


@given(looks)
def test_the_level_rises_at_once_and_is_never_below_what_is_used(looks: list[tuple[int, float]]) -> None:
    """Whatever was before: use that calls for a level has it at the same look."""
    state, now = LevelState(), 0.0
    for used, seconds in looks:
        now += seconds
        state = after(state, used, now)
        assert state.level >= pressure.level((term(LIMIT, used * MiB),), DEFAULT)


@given(looks, st.sampled_from(MemoryLevel))
def test_the_level_falls_only_after_margin_and_dwell(looks: list[tuple[int, float]], event: MemoryLevel) -> None:
    """For each level that is left, every look of the last two seconds and more found use a margin below its start."""
    state, now = after(LevelState(), 0, 0.0, event), 0.0
    seen = [(0.0, 0)]
    for used, seconds in looks:
        now += seconds
        seen.append((now, used))
        before, state = state, after(state, used, now)
        if state.level < before.level:
            start = (0, 300, 360, 540)[state.level + 1] - LIMIT * MARGIN_PERCENT // 100 // MiB
            calm_since = next((then for then, use in reversed(seen) if use >= start), 0.0)
            assert now - calm_since >= DWELL_SECONDS


@given(looks)
def test_a_level_that_is_steady_has_one_cause(looks: list[tuple[int, float]]) -> None:
    """No flapping: a level that fell cannot rise and fall again within a dwell."""
    state, now, falls = after(LevelState(), 0, 0.0, MemoryLevel.CRITICAL), 0.0, []
    for used, seconds in looks:
        now += seconds
        before, state = state, after(state, used, now)
        if state.level < before.level:
            falls.append(now)
    assert all(later - earlier >= DWELL_SECONDS for earlier, later in pairwise(falls))


def test_falling_by_hand() -> None:
    """CRITICAL at 540 MiB; below 510 for two seconds, but not below 330, it becomes HIGH, then step by step OK."""
    state = after(LevelState(), 540, 0.0)
    assert state.level is MemoryLevel.CRITICAL
    for used, now, expected in (
        (520, 1.0, MemoryLevel.CRITICAL),  # within the margin
        (509, 2.0, MemoryLevel.CRITICAL),  # calm from here on
        (511, 3.0, MemoryLevel.CRITICAL),  # not calm
        (200, 4.0, MemoryLevel.CRITICAL),  # calm from here on
        (350, 5.0, MemoryLevel.CRITICAL),  # calm, but no further down than HIGH
        (200, 5.99, MemoryLevel.CRITICAL),
        (200, 6.0, MemoryLevel.HIGH),
        (200, 7.0, MemoryLevel.HIGH),
        (200, 9.0, MemoryLevel.OK),
    ):
        state = after(state, used, now)
        assert state.level is expected, now


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ([(509, 1.0), (510, 2.0), (509, 3.0), (509, 4.75)], MemoryLevel.CRITICAL),  # 510 is within the margin
        ([(509, 1.0), (510, 2.0), (509, 3.0), (509, 5.0)], MemoryLevel.HIGH),
        ([(350, 1.0), (200, 3.0)], MemoryLevel.HIGH),
        ([(200, 1.0), (200, 3.0)], MemoryLevel.OK),
    ],
)
def test_every_look_since_use_is_calm_counts(looks: list[tuple[int, float]], expected: MemoryLevel) -> None:
    """One that is not calm begins the dwell anew; the first one, too, says how far down the level may go."""
    state = after(LevelState(), 540, 0.0)
    for used, now in looks:
        state = after(state, used, now)
    assert state.level is expected


def test_an_event_is_a_reason_to_rise_and_then_passes() -> None:
    """The level of an event holds for a dwell; another event begins the dwell anew."""
    state = after(LevelState(), 10, 0.0, MemoryLevel.CRITICAL)
    assert state.level is MemoryLevel.CRITICAL
    state = after(state, 10, 1.0)
    state = after(state, 10, 2.0, MemoryLevel.HIGH)  # no lower than HIGH from here
    state = after(state, 10, 3.0)
    assert state.level is MemoryLevel.HIGH
    state = after(state, 10, 4.0)
    assert after(state, 10, 6.0).level is MemoryLevel.OK


def events(oom: int = 0, at_max: int = 0, at_high: int = 0, clean_mib: int = 0) -> dict[str, Events]:
    return {"group": Events(oom, at_max, at_high, clean_mib * MiB, LIMIT)}


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (events(), MemoryLevel.OK),
        (events(at_high=1), MemoryLevel.HIGH),
        (events(at_max=1), MemoryLevel.CRITICAL),
        (events(oom=1), MemoryLevel.CRITICAL),
        (events(at_high=1, at_max=1, clean_mib=29), MemoryLevel.CRITICAL),
        (events(at_high=9, at_max=9, clean_mib=30), MemoryLevel.OK),  # there is cache to drop: everyday life
        ({"group": Events(0, 1, 0, 30 * MiB - 1, LIMIT)}, MemoryLevel.CRITICAL),
        (events(oom=1, clean_mib=300), MemoryLevel.CRITICAL),
        ({}, MemoryLevel.OK),
    ],
)
def test_events_of_the_kernel(now: dict[str, Events], expected: MemoryLevel) -> None:
    """What was counted since the last look raises the level, unless it only means that file cache filled the group."""
    assert pressure.event_level(events(), now) == expected
    assert pressure.event_level(now, now) == MemoryLevel.OK  # nothing new
    assert pressure.event_level({}, now) == MemoryLevel.OK  # what was before the first look is no news


@given(used=st.integers(0, 700), filled=st.integers(-700, 700), elapsed=st.floats(0.001, 10))
def test_the_next_look_comes_in_time(used: int, filled: int, elapsed: float) -> None:
    """At the rate at which memory filled, the next level is not reached before half the time has passed twice."""
    seconds = pressure.poll_seconds((term(LIMIT, (used - filled) * MiB),), (term(LIMIT, used * MiB),), elapsed, DEFAULT)
    assert MIN_POLL_SECONDS <= seconds <= MAX_POLL_SECONDS
    ahead = [start - used for start in (300, 360, 540) if start > used]
    if filled > 0 and ahead:
        assert seconds == pytest.approx(min(MAX_POLL_SECONDS, max(MIN_POLL_SECONDS, ahead[0] / (filled / elapsed) / 2)))
    else:
        assert seconds == MAX_POLL_SECONDS


def test_without_a_rate_the_next_look_comes_soon_and_new_limits_have_none() -> None:
    """At the first look there is nothing to compare with; a limit that is new is not taken for filling."""
    now = (term(LIMIT, 100 * MiB),)
    assert pressure.poll_seconds(now, now, 0.0, DEFAULT) == MIN_POLL_SECONDS
    assert pressure.poll_seconds((), now, 1.0, DEFAULT) == MAX_POLL_SECONDS


def test_the_last_byte_before_a_level_counts_like_any_other() -> None:
    """Also where memory fills by one byte in a while."""
    start = 300 * MiB
    before, now = (term(LIMIT, start - 2),), (term(LIMIT, start - 1),)
    assert pressure.poll_seconds(before, now, 0.5, DEFAULT) == 0.25


def test_each_of_several_has_its_part_of_the_room() -> None:
    """Of all figures, rounded down; the limit stays what it is."""
    whole = MemoryRoom(101, 201, 301, term(LIMIT, 0), largest_new_work_bytes=401)
    assert whole.part(2) == MemoryRoom(50, 100, 150, term(LIMIT, 0), largest_new_work_bytes=200)


def test_the_fullest_limit_sets_the_pace() -> None:
    """Of several limits the one that is reached first decides."""
    before = (term(LIMIT, 0, binding="slow"), term(LIMIT, 0, binding="fast"))
    now = (term(LIMIT, 1 * MiB, binding="slow"), term(LIMIT, 250 * MiB, binding="fast"))
    assert pressure.poll_seconds(before, now, 1.0, DEFAULT) == pytest.approx(0.1)  # 50 MiB at 250 a second, halved
