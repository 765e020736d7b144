"""The pure rules of memory pressure, for any limits and uses."""

from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import example, given, strategies as st

from memsafe_transcribe._memory import pressure
from memsafe_transcribe._memory.pressure import MemoryLevel, Term, Thresholds

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
