"""MemoryGuard: how much memory the container has, how much is used, and whether a step still fits."""

import os
import threading
import time
from dataclasses import dataclass

import anyio

from .._errors import MemoryPressureError
from .._units import format_size, parse_size
from . import pressure, reading
from .pressure import MemoryLevel, MemoryRoom, Reading, Term, Thresholds

POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class MemorySnapshot:
    """One look at memory.

    Attributes:
        limit_bytes: the limit with the least headroom, over the cgroup hierarchy, the host and `limit_bytes`.
        used_bytes: what counts against it: without clean file cache, with tmpfs.
        headroom_bytes: limit_bytes - used_bytes.
        percent: used_bytes in percent of limit_bytes.
        level: the worst level over all limits.
        source: the file or setting that the limit was read from.
        binding: which limit it is: a level of the cgroup hierarchy, the host, or the application's own.
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


class MemoryGuard:
    """Answers from the container's own figures, read afresh at each question.

    Args:
        threshold_percent: new work is let in while use stays under this part of the limit.
        ceiling_percent: work that already holds a reservation may go on up to here.
        limit_bytes: a limit of the application's own, measured against the anonymous and shared memory of this
            process and its descendants. It comes on top of what the system says. Without it, the environment
            variable MEMSAFE_LIMIT ("512MiB") is asked.

    Raises:
        ValueError: for percentages out of order, or a limit that is not a positive size.
    """

    def __init__(
        self, *, threshold_percent: float = 60.0, ceiling_percent: float = 90.0, limit_bytes: int | None = None
    ) -> None:
        self._thresholds = Thresholds(threshold_percent, ceiling_percent)
        self._limit_source = "limit_bytes"
        if limit_bytes is None and (text := os.environ.get("MEMSAFE_LIMIT")):
            self._limit_source = "MEMSAFE_LIMIT"
            try:
                limit_bytes = parse_size(text)
            except ValueError as error:
                raise ValueError(f"MEMSAFE_LIMIT: {error}") from None
        if limit_bytes is not None and not isinstance(limit_bytes, int):
            raise TypeError(f"limit_bytes must be a whole number of bytes, such as 512 * MiB; got {limit_bytes!r}")
        if limit_bytes is not None and limit_bytes <= 0:
            raise ValueError(f"{self._limit_source} must be more than 0 bytes, got {limit_bytes}")
        self._limit_bytes = limit_bytes

    def _read(self) -> Reading:
        return reading.read(self._limit_bytes, self._limit_source)

    def snapshot(self) -> MemorySnapshot:
        """Read limit and use now."""
        return self._snapshot(self._read())

    def _snapshot(self, now: Reading) -> MemorySnapshot:
        term = pressure.binding_term(now.terms)
        return MemorySnapshot(
            limit_bytes=term.limit_bytes,
            used_bytes=term.used_bytes,
            headroom_bytes=term.headroom_bytes,
            percent=100 * term.used_bytes / max(1, term.limit_bytes),
            level=pressure.level(now.terms, self._thresholds),
            source=term.source,
            binding=term.binding,
            working_set_bytes=term.working_set_bytes,
            process_rss_bytes=now.process_rss_bytes,
        )

    def room(self) -> MemoryRoom:
        """How many more bytes may be taken now, before anything that is promised to others is taken off."""
        return pressure.room(self._read().terms, self._thresholds)

    def check(self, need_bytes: int = 0, *, admitted: bool = False) -> MemorySnapshot:
        """Ask whether `need_bytes` more would still fit. Reserves nothing.

        Args:
            need_bytes: what the next step will allocate.
            admitted: judge by the ceiling instead of the threshold: for work that already holds a reservation.

        Raises:
            MemoryPressureError: it would pass; the message names limit, use, need and the setting.
        """
        if need_bytes < 0:
            raise ValueError(f"need_bytes must not be negative, got {need_bytes}")
        now = self._read()
        term = pressure.refusing_term(now.terms, self._thresholds, need_bytes, admitted=admitted)
        if term is not None:
            raise self._refusal(term, need_bytes, admitted=admitted)
        return self._snapshot(now)

    def _refusal(self, term: Term, need_bytes: int, *, admitted: bool) -> MemoryPressureError:
        bound = pressure.bounds(term, self._thresholds)
        upto, setting = (
            (bound.ceiling_bytes, f"ceiling_percent={self._thresholds.ceiling_percent:g}")
            if admitted
            else (bound.target_bytes, f"threshold_percent={self._thresholds.threshold_percent:g}")
        )
        if not admitted and term.kind == "host" and upto > term.limit_bytes * self._thresholds.threshold_percent / 100:
            setting = "a host must keep max(512 MiB, 10 % of RAM) available"
        return MemoryPressureError(
            f"{format_size(need_bytes)} more would not fit: {format_size(term.used_bytes)} of "
            f"{format_size(term.limit_bytes)} are used by {term.binding}, which may be filled up to "
            f"{format_size(upto)} ({setting}); raise the limit ({term.source}), or run less at once",
            need_bytes=need_bytes,
            used_bytes=term.used_bytes,
            limit_bytes=term.limit_bytes,
            binding=term.binding,
        )

    async def wait_until_ok(
        self, need_bytes: int = 0, *, timeout_seconds: float | None = None, admitted: bool = False
    ) -> MemorySnapshot:
        """Wait until `check` passes; it is asked again every 50 ms.

        Raises:
            MemoryPressureError: it still would not after `timeout_seconds`.

        Cancellation: nothing is held, nothing is left.
        """
        give_up = time.monotonic() + (float("inf") if timeout_seconds is None else timeout_seconds)
        while True:
            try:
                return self.check(need_bytes, admitted=admitted)
            except MemoryPressureError:
                if time.monotonic() >= give_up:
                    raise
            await anyio.sleep(POLL_SECONDS)


_default: MemoryGuard | None = None
_default_lock = threading.Lock()


def default_guard() -> MemoryGuard:
    """The guard of this process, made at the first call and used wherever none is given."""
    global _default
    with _default_lock:
        if _default is None:
            _default = MemoryGuard()
        return _default
