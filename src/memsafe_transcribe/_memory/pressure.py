"""Pure rules: from limits and uses to levels, and to how much more may be used."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from .._units import GiB, MiB


@dataclass(frozen=True, slots=True)
class Term:
    """One limit, and what counts against it.

    Attributes:
        kind: "limit" for a cgroup or an explicit limit, "host" for a machine's RAM.
        binding: what it limits, for people: `cgroup v2 /kubepods/pod1`, `host`, `limit_bytes`.
        source: where the limit was read.
        limit_bytes: the limit.
        used_bytes: used memory that cannot simply be dropped: clean file cache is left out, tmpfs is not.
        working_set_bytes: usage without inactive file cache, as Kubernetes counts it.
    """

    kind: Literal["limit", "host"]
    binding: str
    source: str
    limit_bytes: int
    used_bytes: int
    working_set_bytes: int

    @property
    def headroom_bytes(self) -> int:
        return self.limit_bytes - self.used_bytes


@dataclass(frozen=True, slots=True)
class Reading:
    """Every limit that holds for this process now, and the resident size of the process itself."""

    terms: tuple[Term, ...]
    process_rss_bytes: int


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


@dataclass(frozen=True, slots=True)
class MemoryRoom:
    """How many more bytes new work, and admitted work, may take now. Negative when already over."""

    new_work_bytes: int
    admitted_work_bytes: int
    largest_need_bytes: int  # what a job could take if nothing else used any memory
    largest_need_limit: Term  # the limit that allows no more


def bounds(term: Term, thresholds: Thresholds) -> Bounds:
    """Where one limit puts the target and the ceiling.

    A host without a limit of its own and with more than 4 GiB of RAM is shared with much else and always fairly
    full: there, new work has to leave max(512 MiB, 10 % of RAM) available, instead of staying under the threshold.
    """
    ceiling = int(term.limit_bytes * thresholds.ceiling_percent / 100)
    if term.kind == "host" and term.limit_bytes > 4 * GiB:
        target = term.limit_bytes - max(512 * MiB, term.limit_bytes // 10)
    else:
        target = int(term.limit_bytes * thresholds.threshold_percent / 100)
    return Bounds(min(target, ceiling), ceiling)


def level(terms: tuple[Term, ...], thresholds: Thresholds) -> MemoryLevel:
    """The worst level over all limits."""
    worst = MemoryLevel.OK
    for term in terms:
        bound = bounds(term, thresholds)
        if term.used_bytes >= bound.ceiling_bytes:
            return MemoryLevel.CRITICAL
        if term.used_bytes >= bound.target_bytes:
            worst = max(worst, MemoryLevel.HIGH)
        elif term.used_bytes * 6 >= bound.target_bytes * 5:
            worst = max(worst, MemoryLevel.ELEVATED)
    return worst


def room(terms: tuple[Term, ...], thresholds: Thresholds) -> MemoryRoom:
    """The smallest room over all limits."""
    pairs = [(term, bounds(term, thresholds)) for term in terms]
    lowest, lowest_bound = min(pairs, key=lambda pair: pair[1].ceiling_bytes)
    return MemoryRoom(
        new_work_bytes=min(bound.target_bytes - term.used_bytes for term, bound in pairs),
        admitted_work_bytes=min(bound.ceiling_bytes - term.used_bytes for term, bound in pairs),
        largest_need_bytes=lowest_bound.ceiling_bytes,
        largest_need_limit=lowest,
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
