"""Pure rules: from limits and uses to levels, to how much more may be used, and to when to look again."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, NamedTuple, Protocol

from .._units import GiB, MiB

MARGIN_PERCENT = 5  # of the limit: how far below a level's start use must fall before the level does
DWELL_SECONDS = 2.0  # and for how long
SCARCE_CACHE_PERCENT = 5  # of the limit: with more clean cache than that, touching the limit is everyday life
MIN_POLL_SECONDS, MAX_POLL_SECONDS = 0.02, 1.0

Kind = Literal["limit", "host"]


class Limited(Protocol):
    """What the rules need to know of a limit: its size, and whether it is a machine's RAM."""

    @property
    def kind(self) -> Kind: ...
    @property
    def limit_bytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Term:
    """One limit, and what counts against it.

    Attributes:
        kind: "limit" for a cgroup, an rlimit or an explicit limit, "host" for a machine's RAM.
        binding: what it limits, for people: `cgroup v2 /kubepods/pod1`, `host`, `limit_bytes`.
        source: where the limit was read.
        limit_bytes: the limit.
        used_bytes: used memory that cannot simply be dropped: clean file cache is left out, tmpfs is not.
        working_set_bytes: usage without inactive file cache, as Kubernetes counts it.
    """

    kind: Kind
    binding: str
    source: str
    limit_bytes: int
    used_bytes: int
    working_set_bytes: int

    @property
    def headroom_bytes(self) -> int:
        return self.limit_bytes - self.used_bytes


class MemoryLevel(IntEnum):
    """How full memory is: ELEVATED begins at 5/6 of the threshold, HIGH at the threshold, CRITICAL at the ceiling."""

    OK = 0
    ELEVATED = 1
    HIGH = 2
    CRITICAL = 3


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Percent of a limit up to which new work is let in, and up to which admitted work may grow."""

    threshold_percent: float
    ceiling_percent: float

    def __post_init__(self) -> None:
        if not 0 < self.threshold_percent <= self.ceiling_percent <= 100:
            raise ValueError(
                "0 < threshold_percent <= ceiling_percent <= 100 must hold, got "
                f"threshold_percent={self.threshold_percent}, ceiling_percent={self.ceiling_percent}"
            )


@dataclass(frozen=True, slots=True)
class Bounds:
    """Up to how many used bytes one limit lets new work in (target), and admitted work grow (ceiling)."""

    target_bytes: int
    ceiling_bytes: int

    @property
    def starts(self) -> tuple[int, int, int]:
        """The use from which a limit is ELEVATED, HIGH, CRITICAL."""
        return -(-self.target_bytes * 5 // 6), self.target_bytes, self.ceiling_bytes


class MemoryRoom(NamedTuple):
    """How many more bytes new work, and admitted work, may take now. Negative when already over."""

    new_work_bytes: int
    admitted_work_bytes: int
    largest_need_bytes: int  # what a job could take if nothing else used any memory
    largest_need_limit: Term  # the limit that allows no more
    largest_new_work_bytes: int = 0  # what new work could take if nothing else used any memory

    def part(self, parts: int) -> "MemoryRoom":
        """What each of so many has of it."""
        return MemoryRoom(
            self.new_work_bytes // parts,
            self.admitted_work_bytes // parts,
            self.largest_need_bytes // parts,
            self.largest_need_limit,
            self.largest_new_work_bytes // parts,
        )


@dataclass(frozen=True, slots=True)
class Events:
    """How often, since a cgroup was made, the kernel had to act at its limit; and what could be dropped there.

    Attributes:
        oom: reclaiming was not enough, or a process was killed for it.
        at_max: use reached the limit that kills, and memory was reclaimed.
        at_high: use reached the limit that throttles.
        clean_bytes: the clean file cache that was left when these were read.
        limit_bytes: the limit.
    """

    oom: int
    at_max: int
    at_high: int
    clean_bytes: int
    limit_bytes: int


@dataclass(frozen=True, slots=True)
class LevelState:
    """A level, and how long use has been calm enough for a lower one.

    Attributes:
        level: the level that holds.
        calm_since_seconds: since when use has been a margin below the start of `level`; None if it is not.
        calmed: the highest level that use, with the margin, was in since then: how far down it may go.
    """

    level: MemoryLevel = MemoryLevel.OK
    calm_since_seconds: float | None = None
    calmed: MemoryLevel = MemoryLevel.OK


def bounds(limit: Limited, thresholds: Thresholds) -> Bounds:
    """Where one limit puts the target and the ceiling.

    A host without a limit of its own and with more than 4 GiB of RAM is shared with much else and always fairly
    full: there, new work has to leave max(512 MiB, 10 % of RAM) available, instead of staying under the threshold.
    """
    ceiling = int(limit.limit_bytes * thresholds.ceiling_percent / 100)
    if limit.kind == "host" and limit.limit_bytes > 4 * GiB:
        target = limit.limit_bytes - max(512 * MiB, limit.limit_bytes // 10)
    else:
        target = int(limit.limit_bytes * thresholds.threshold_percent / 100)
    return Bounds(min(target, ceiling), ceiling)


def level(terms: tuple[Term, ...], thresholds: Thresholds, margin_percent: int = 0) -> MemoryLevel:
    """The worst level over all limits, if each had `margin_percent` of it more in use."""
    worst = 0
    for term in terms:
        used = term.used_bytes + term.limit_bytes * margin_percent // 100
        worst = max(worst, sum(used >= start for start in bounds(term, thresholds).starts))
    return MemoryLevel(worst)


def next_level(
    state: LevelState,
    terms: tuple[Term, ...],
    thresholds: Thresholds,
    now_seconds: float,
    event_level: MemoryLevel = MemoryLevel.OK,
) -> LevelState:
    """The level after one more look: up at once, down after a margin and a dwell.

    Args:
        state: what held until now.
        terms: what was read.
        thresholds: where the levels begin.
        now_seconds: a clock that does not go back.
        event_level: what the kernel's events since the last look make of it.
    """
    raw = max(level(terms, thresholds), event_level)
    if raw >= state.level:
        return LevelState(raw)
    calm = max(level(terms, thresholds, MARGIN_PERCENT), event_level)
    if calm >= state.level:
        return LevelState(state.level)
    if state.calm_since_seconds is None:
        return LevelState(state.level, now_seconds, calm)
    calmed = max(calm, state.calmed)
    if now_seconds - state.calm_since_seconds < DWELL_SECONDS:
        return LevelState(state.level, state.calm_since_seconds, calmed)
    return LevelState(calmed)


def event_level(before: Mapping[str, Events], after: Mapping[str, Events]) -> MemoryLevel:
    """The level that the kernel's events since the last look call for; by name of the limit that they happened at.

    A limit that is touched while there is file cache to drop is everyday life: the kernel lets the cache fill all
    that is free. Only where hardly any is left does it mean that memory is short.
    """
    worst = MemoryLevel.OK
    for name, now in after.items():
        past = before.get(name, now)
        is_scarce = now.clean_bytes * 100 < now.limit_bytes * SCARCE_CACHE_PERCENT
        if now.oom > past.oom or (now.at_max > past.at_max and is_scarce):
            return MemoryLevel.CRITICAL
        if now.at_high > past.at_high and is_scarce:
            worst = MemoryLevel.HIGH
    return worst


def poll_seconds(
    before: tuple[Term, ...], after: tuple[Term, ...], elapsed_seconds: float, thresholds: Thresholds
) -> float:
    """When to look again: after half the time in which memory, filling as it did, would reach the next level."""
    if elapsed_seconds <= 0:
        return MIN_POLL_SECONDS
    soonest = MAX_POLL_SECONDS
    used_before = {(term.binding, term.source): term.used_bytes for term in before}
    for term in after:
        filled = term.used_bytes - used_before.get((term.binding, term.source), term.used_bytes)
        for start in bounds(term, thresholds).starts:
            if filled > 0 and start > term.used_bytes:
                soonest = min(soonest, (start - term.used_bytes) * elapsed_seconds / filled / 2)
    return max(MIN_POLL_SECONDS, soonest)


def room(terms: tuple[Term, ...], thresholds: Thresholds) -> MemoryRoom:
    """The smallest room over all limits."""
    pairs = [(term, bounds(term, thresholds)) for term in terms]
    lowest, lowest_bound = min(pairs, key=lambda pair: pair[1].ceiling_bytes)
    return MemoryRoom(
        new_work_bytes=min(bound.target_bytes - term.used_bytes for term, bound in pairs),
        admitted_work_bytes=min(bound.ceiling_bytes - term.used_bytes for term, bound in pairs),
        largest_need_bytes=lowest_bound.ceiling_bytes,
        largest_need_limit=lowest,
        largest_new_work_bytes=min(bound.target_bytes for _, bound in pairs),
    )


def binding_term(terms: tuple[Term, ...]) -> Term:
    """The limit with the least headroom."""
    return min(terms, key=lambda term: term.headroom_bytes)


def refusing_term(terms: tuple[Term, ...], thresholds: Thresholds, need_bytes: int, *, admitted: bool) -> Term | None:
    """The limit that `need_bytes` more would pass by most; None if they fit."""

    def excess(term: Term) -> int:
        bound = bounds(term, thresholds)
        return term.used_bytes + need_bytes - (bound.ceiling_bytes if admitted else bound.target_bytes)

    worst = max(terms, key=excess)
    return worst if excess(worst) > 0 else None
