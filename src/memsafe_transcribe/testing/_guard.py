"""A guard that is told what memory there is."""

from .._memory.gauges import Gauge
from .._memory.guard import MemoryGuard
from .._memory.judging import Judge
from .._memory.pressure import Kind, Term, Thresholds
from .._memory.reader import STALE_SECONDS, MemoryReader


class FakeGuard(MemoryGuard):
    """A `MemoryGuard` that sees one limit, and as much use of it as a test says; nothing of the machine.

    Args:
        limit_bytes: the limit.
        used_bytes: what is used of it.
        threshold_percent: as of `MemoryGuard`.
        ceiling_percent: as of `MemoryGuard`.

    Attributes:
        used_bytes: may be set at any time; the next question sees it.
    """

    def __init__(
        self,
        *,
        limit_bytes: int,
        used_bytes: int = 0,
        threshold_percent: float = 60.0,
        ceiling_percent: float = 90.0,
    ) -> None:
        super().__init__(threshold_percent=threshold_percent, ceiling_percent=ceiling_percent, limit_bytes=limit_bytes)
        self.used_bytes = used_bytes
        self._limit_bytes = limit_bytes
        self._judge = Judge(_Told(self), None, Thresholds(threshold_percent, ceiling_percent))

    @property
    def limit_bytes(self) -> int:
        """The limit."""
        return self._limit_bytes

    def cleanup(self) -> int:
        """Nothing is given back: what is used is what the test says."""
        return 0


class _Gauge:
    """The one limit of a `FakeGuard`."""

    kind: Kind = "limit"
    binding = "fake"
    source = "FakeGuard"
    is_live = True
    is_nested = False
    spare_bytes = 0

    def __init__(self, guard: FakeGuard) -> None:
        self._guard = guard
        self.limit_bytes = guard.limit_bytes

    def usage_bytes(self) -> int:
        return self._guard.used_bytes

    def settle(self, usage_bytes: int) -> None:
        """There is nothing to find out."""

    def working_set_bytes(self, usage_bytes: int) -> int:
        return usage_bytes

    def term(self, usage_bytes: int) -> Term:
        return Term(self.kind, self.binding, self.source, self.limit_bytes, usage_bytes, usage_bytes)


class _Told(MemoryReader):
    """A reader that reads nothing."""

    def __init__(self, guard: FakeGuard) -> None:
        super().__init__()
        self._told: tuple[Gauge, ...] = (_Gauge(guard),)

    def refresh(self, now_seconds: float) -> None:
        self.gauges = self._told
        self.stale_at_seconds = now_seconds + STALE_SECONDS
        self.refreshes += 1
