"""What one guard makes of the shared reader: is there room, and how full is it?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import NamedTuple

from . import pressure
from .gauges import Gauge, TreeGauge
from .pressure import Events, LevelState, MemoryLevel, MemoryRoom, Term, Thresholds
from .reader import MemoryReader

_HUGE = 1 << 62
_tuple = tuple.__new__


@dataclass(frozen=True)
class MemorySnapshot:
    """One look at memory.

    Attributes:
        limit_bytes: the limit with the least headroom, over the cgroup hierarchy, rlimits, the host and `limit_bytes`.
        used_bytes: what counts against it: without clean file cache, with tmpfs.
        headroom_bytes: limit_bytes - used_bytes.
        percent: used_bytes in percent of limit_bytes.
        level: the worst level over all limits. It rises at once, and falls when use has been a margin (5 % of the
            limit) below its start for two seconds.
        source: the file or setting that the limit was read from.
        binding: which limit it is: a level of the cgroup hierarchy, an rlimit, the host, or the application's own.
        working_set_bytes: usage without inactive file cache, the figure Kubernetes shows.
        process_rss_bytes: the resident size of this process alone.
    """

    limit_bytes: int
    used_bytes: int
    headroom_bytes: int
    percent: float
    level: MemoryLevel
    source: str
    binding: str
    working_set_bytes: int
    process_rss_bytes: int


class Look(NamedTuple):
    """All that is known of memory at one time."""

    snapshot: MemorySnapshot
    terms: tuple[Term, ...]
    seconds: float


class _Line(NamedTuple):
    """One limit, with all that its use is compared to worked out."""

    usage_bytes: Callable[[], int]
    gauge: Gauge
    limit_bytes: int
    elevated_bytes: int
    high_bytes: int
    critical_bytes: int
    target_bytes: int  # high_bytes, unless the question brings a threshold of its own


class Judge:
    """Asks the reader, first for what is cheap, then, where that does not decide, for what is exact.

    Args:
        reader: the limits that hold for the process.
        tree: one more, of the application's own.
        thresholds: where the levels begin.
    """

    def __init__(self, reader: MemoryReader, tree: TreeGauge | None, thresholds: Thresholds) -> None:
        self._reader = reader
        self._tree = tree
        self._thresholds = thresholds
        # What follows is touched under the reader's lock only, and worked out anew after each of its refreshes.
        self._refreshes = -1
        self._lines: tuple[_Line, ...] = ()
        self._other_lines: dict[float, tuple[_Line, ...]] = {}
        self._terms: tuple[Term, ...] = ()
        self._live_bounds: list[tuple[Callable[[], int], int, int]] = []
        self._resting_room = (_HUGE, _HUGE)
        self._largest: tuple[int, Term, int]
        self._events: dict[str, Events] = {}
        self._state = LevelState()

    def look(self) -> Look:
        """Read everything afresh."""
        with self._reader.lock:
            now = monotonic()
            self._reader.refresh(now)
            usages = self._prepare(now)
            tightest = self._terms.index(pressure.binding_term(self._terms))
            return Look(self._snapshot(self._lines[tightest].gauge, usages[tightest]), self._terms, now)

    def ask(self, need_bytes: int, threshold_percent: float | None, *, admitted: bool) -> MemorySnapshot | Term:
        """Would `need_bytes` more fit? The limit that they would pass by most, if not.

        Raises:
            ValueError: the threshold is above the ceiling, or no percentage.
        """
        with self._reader.lock:
            now = self._keep_fresh()
            lines = self._lines if threshold_percent is None else self._lines_for(threshold_percent)
            usages = [line.usage_bytes() for line in lines]
            level, tightest, fits = _weigh(lines, usages, need_bytes, admitted)
            refusing = None
            if not fits:
                if not self._settle(lines, usages, need_bytes, admitted):
                    thresholds = self._asked(threshold_percent)
                    refusing = pressure.refusing_term(_terms(lines, usages), thresholds, need_bytes, admitted=admitted)
                level, tightest, _ = _weigh(lines, usages, need_bytes, admitted)
            if level != self._state.level or self._state.calm_since_seconds is not None:
                if level > self._state.level:  # by figures that are 100 ms old
                    for line, usage in zip(lines, usages, strict=True):
                        line.gauge.settle(usage)
                    _, tightest, _ = _weigh(lines, usages, need_bytes, admitted)
                self._state = pressure.next_level(self._state, _terms(lines, usages), self._thresholds, now)
            if refusing is not None:
                return refusing
            return self._snapshot(lines[tightest].gauge, usages[tightest])

    def room(self, *, exact: bool) -> MemoryRoom:
        """How many more bytes may be taken now. Without `exact`, nothing is deducted from use."""
        reader = self._reader
        with reader.lock:
            if monotonic() >= reader.stale_at_seconds or self._refreshes != reader.refreshes:
                self._keep_fresh()
            if exact:
                new_work, admitted_work = self._exact_room()
            else:
                new_work, admitted_work = self._resting_room
                for usage_bytes, high, critical in self._live_bounds:
                    usage = usage_bytes()
                    if high - usage < new_work:
                        new_work = high - usage
                    if critical - usage < admitted_work:
                        admitted_work = critical - usage
            # Not by its own __new__: that takes as long as reading half a level.
            largest, limit, largest_new_work = self._largest
            return _tuple(MemoryRoom, (new_work, admitted_work, largest, limit, largest_new_work))

    def _keep_fresh(self) -> float:
        now = monotonic()
        if now >= self._reader.stale_at_seconds:
            self._reader.refresh(now)
        if self._refreshes != self._reader.refreshes:
            self._prepare(now)
        return now

    def _prepare(self, now: float) -> list[int]:
        """Work out what follows from a refresh of the reader, and return the use of each limit."""
        gauges = self._reader.gauges
        if self._tree is not None:
            self._tree.refresh()
            gauges = (*gauges, self._tree)
        self._lines = tuple(_line(gauge, self._thresholds, self._thresholds) for gauge in gauges)
        self._other_lines = {}
        usages = [gauge.usage_bytes() for gauge in gauges]
        self._terms = _terms(self._lines, usages)
        largest = pressure.room(self._terms, self._thresholds)
        self._largest = largest.largest_need_bytes, largest.largest_need_limit, largest.largest_new_work_bytes
        self._live_bounds = [
            (line.usage_bytes, line.high_bytes, line.critical_bytes)
            for number, line in enumerate(self._lines)
            if line.gauge.is_live and not any(_binds_first(outer, line) for outer in self._lines[number + 1 :])
        ]
        resting = [
            (line.high_bytes - usage, line.critical_bytes - usage)
            for line, usage in zip(self._lines, usages, strict=True)
            if not line.gauge.is_live
        ]
        self._resting_room = (
            min((new_work for new_work, _ in resting), default=_HUGE),
            min((admitted_work for _, admitted_work in resting), default=_HUGE),
        )
        events = self._reader.events
        self._state = pressure.next_level(
            self._state, self._terms, self._thresholds, now, pressure.event_level(self._events, events)
        )
        self._events = events
        self._refreshes = self._reader.refreshes
        return usages

    def _lines_for(self, threshold_percent: float) -> tuple[_Line, ...]:
        lines = self._other_lines.get(threshold_percent)
        if lines is None:
            other = self._asked(threshold_percent)
            lines = tuple(_line(line.gauge, self._thresholds, other) for line in self._lines)
            self._other_lines[threshold_percent] = lines
        return lines

    def _asked(self, threshold_percent: float | None) -> Thresholds:
        """The thresholds to judge by, for a question that may bring one of its own."""
        own = self._thresholds
        return own if threshold_percent is None else Thresholds(threshold_percent, own.ceiling_percent)

    def _settle(self, lines: Sequence[_Line], usages: Sequence[int], need_bytes: int, admitted: bool) -> bool:
        """Read exactly the uses that seem too much; return whether the need fits after all."""
        cache_below, fits = 0, True
        for line, usage in zip(lines, usages, strict=True):
            gauge, upto = line.gauge, line.critical_bytes if admitted else line.target_bytes
            known_spare = cache_below if gauge.is_nested else 0
            if usage - known_spare + need_bytes <= upto:
                gauge.spare_bytes = max(gauge.spare_bytes, known_spare)
                continue
            gauge.settle(usage)
            if gauge.is_nested:
                cache_below = max(cache_below, gauge.spare_bytes)
            if max(0, usage - gauge.spare_bytes) + need_bytes > upto:
                fits = False
        return fits

    def _exact_room(self) -> tuple[int, int]:
        """The room by exact uses; they are read only where they can make a difference."""
        new_work, admitted_work = self._resting_room
        cache_below = 0
        # The groups come last, still the inner ones before the outer ones: their statistics are the dearest.
        for line in sorted(self._lines, key=lambda line: line.gauge.is_nested):
            if not line.gauge.is_live:
                continue
            gauge, usage = line.gauge, line.usage_bytes()
            used = usage - (cache_below if gauge.is_nested else 0)
            if line.high_bytes - used < new_work or line.critical_bytes - used < admitted_work:
                gauge.settle(usage)
                if gauge.is_nested:
                    cache_below = max(cache_below, gauge.spare_bytes)
                used = max(0, usage - gauge.spare_bytes)
            new_work = min(new_work, line.high_bytes - used)
            admitted_work = min(admitted_work, line.critical_bytes - used)
        return new_work, admitted_work

    def _snapshot(self, gauge: Gauge, usage_bytes: int) -> MemorySnapshot:
        limit, used = gauge.limit_bytes, max(0, usage_bytes - gauge.spare_bytes)
        # Not by its __init__: that of a frozen dataclass takes longer than reading a level's use.
        snapshot = object.__new__(MemorySnapshot)
        snapshot.__dict__.update(
            limit_bytes=limit,
            used_bytes=used,
            headroom_bytes=limit - used,
            percent=100 * used / max(1, limit),
            level=self._state.level,
            source=gauge.source,
            binding=gauge.binding,
            working_set_bytes=gauge.working_set_bytes(usage_bytes),
            process_rss_bytes=self._reader.process_rss_bytes,
        )
        return snapshot


def _binds_first(outer: _Line, inner: _Line) -> bool:
    """Whether `inner` can never be the first to refuse: all that it counts is counted by `outer`, with less room."""
    return (
        inner.gauge.is_nested
        and outer.gauge.is_nested
        and outer.high_bytes <= inner.high_bytes
        and outer.critical_bytes <= inner.critical_bytes
    )


def _line(gauge: Gauge, own: Thresholds, asked: Thresholds) -> _Line:
    starts = pressure.bounds(gauge, own).starts
    return _Line(gauge.usage_bytes, gauge, gauge.limit_bytes, *starts, pressure.bounds(gauge, asked).target_bytes)


def _terms(lines: Sequence[_Line], usages: Sequence[int]) -> tuple[Term, ...]:
    return tuple(line.gauge.term(usage) for line, usage in zip(lines, usages, strict=True))


def _weigh(lines: Sequence[_Line], usages: Sequence[int], need_bytes: int, admitted: bool) -> tuple[int, int, bool]:
    """The level and the index of the limit with the least headroom, by uses as far as they are known.

    And whether the need fits whatever is deducted from use, so that nothing more has to be read. This is
    `pressure.level`, `binding_term` and `refusing_term` in one loop, because every check runs it.
    """
    level, tightest, least, fits = 0, 0, _HUGE, True
    for index, (_, gauge, limit, elevated, high, critical, target) in enumerate(lines):
        usage = usages[index]
        if usage + need_bytes > (critical if admitted else target):
            fits = False
        used = usage - gauge.spare_bytes
        if used < 0:
            used = 0
        if used >= elevated:
            level = max(level, 3 if used >= critical else 2 if used >= high else 1)
        if limit - used < least:
            least, tightest = limit - used, index
    return level, tightest, fits
