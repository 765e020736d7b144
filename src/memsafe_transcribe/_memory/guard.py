"""MemoryGuard: how much memory the container has, how much is used, and whether a step still fits."""

import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import anyio

from .. import _settings
from .._errors import MemoryPressureError
from .._units import format_size
from . import pressure
from .cleanup import cleanup
from .judging import Judge, MemorySnapshot
from .pressure import MemoryRoom, Term, Thresholds
from .reader import shared_reader
from .watching import Listeners, watching

POLL_SECONDS = 0.05
_THRESHOLD_PERCENT, _CEILING_PERCENT = 60.0, 90.0


class MemoryGuard:
    """Answers from the container's own figures, read afresh at each question.

    With `async with guard:` it also watches in the background and calls whoever asked by `on_level`.

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
        self,
        *,
        threshold_percent: float = _THRESHOLD_PERCENT,
        ceiling_percent: float = _CEILING_PERCENT,
        limit_bytes: int | None = None,
    ) -> None:
        self._thresholds = Thresholds(threshold_percent, ceiling_percent)
        source = "limit_bytes"
        if limit_bytes is None:
            source = "MEMSAFE_LIMIT"
            limit_bytes = _settings.size_bytes(source)
        if limit_bytes is not None and not isinstance(limit_bytes, int):
            raise TypeError(f"limit_bytes must be a whole number of bytes, such as 512 * MiB; got {limit_bytes!r}")
        if limit_bytes is not None and limit_bytes <= 0:
            raise ValueError(f"limit_bytes must be more than 0 bytes, got {limit_bytes}")
        reader = shared_reader()
        tree = None if limit_bytes is None else reader.tree_gauge(limit_bytes, source)
        self._judge = Judge(reader, tree, self._thresholds)
        self._listeners = Listeners()
        self._watch: AsyncExitStack | None = None

    @property
    def threshold_percent(self) -> float:
        """The part of the limit under which new work is let in."""
        return self._thresholds.threshold_percent

    @property
    def ceiling_percent(self) -> float:
        """The part of the limit up to which admitted work may go on."""
        return self._thresholds.ceiling_percent

    def snapshot(self) -> MemorySnapshot:
        """Read all limits and uses now."""
        return self._judge.look().snapshot

    def room(self, *, exact: bool = True) -> MemoryRoom:
        """How many more bytes may be taken now, before anything that is promised to others is taken off.

        Args:
            exact: leave out clean file cache. Without it this is quicker and never says more than there is.
        """
        return self._judge.room(exact=exact)

    def check(
        self, need_bytes: int = 0, *, admitted: bool = False, threshold_percent: float | None = None
    ) -> MemorySnapshot:
        """Ask whether `need_bytes` more would still fit. Reserves nothing.

        Use is read afresh; in the snapshot that comes back, limits, the share of clean file cache and the resident
        size may be 100 ms old. What is refused is refused by statistics read afresh.

        Args:
            need_bytes: what the next step will allocate.
            admitted: judge by the ceiling instead of the threshold: for work that already holds a reservation.
            threshold_percent: judge by this threshold instead of the guard's own.

        Raises:
            MemoryPressureError: it would pass; the message names limit, use, need and the setting.
            OSError: memory cannot be read, as when no descriptors are left.
        """
        if need_bytes < 0:
            raise ValueError(f"need_bytes must not be negative, got {need_bytes}")
        answer = self._judge.ask(need_bytes, threshold_percent, admitted=admitted)
        if isinstance(answer, Term):
            raise self._refusal(answer, need_bytes, threshold_percent, admitted=admitted)
        return answer

    def _refusal(
        self, term: Term, need_bytes: int, threshold_percent: float | None, *, admitted: bool
    ) -> MemoryPressureError:
        thresholds = self._thresholds
        if threshold_percent is not None:
            thresholds = Thresholds(threshold_percent, thresholds.ceiling_percent)
        bound = pressure.bounds(term, thresholds)
        upto, setting = (
            (bound.ceiling_bytes, f"ceiling_percent={thresholds.ceiling_percent:g}")
            if admitted
            else (bound.target_bytes, f"threshold_percent={thresholds.threshold_percent:g}")
        )
        if not admitted and term.kind == "host" and upto > term.limit_bytes * thresholds.threshold_percent / 100:
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
        self,
        need_bytes: int = 0,
        *,
        timeout_seconds: float | None = None,
        admitted: bool = False,
        threshold_percent: float | None = None,
    ) -> MemorySnapshot:
        """Wait until `check` passes; it is asked again every 50 ms.

        Raises:
            MemoryPressureError: it still would not after `timeout_seconds`.

        Cancellation: nothing is held, nothing is left.
        """
        give_up = time.monotonic() + (float("inf") if timeout_seconds is None else timeout_seconds)
        while True:
            try:
                return self.check(need_bytes, admitted=admitted, threshold_percent=threshold_percent)
            except MemoryPressureError:
                if time.monotonic() >= give_up:
                    raise
            await anyio.sleep(POLL_SECONDS)

    def cleanup(self) -> int:
        """Collect garbage and give free memory back to the system; return how many bytes that really were.

        It stops every thread for as long as a full garbage collection takes.
        """
        return cleanup()

    def on_level(self, callback: Callable[[MemorySnapshot], object]) -> Callable[[], None]:
        """Call `callback` at each change of the level, up or down, while this guard is watching.

        It is called in the event loop of `async with guard`, so it must not block; what it raises is logged. To it,
        the level is OK before the first call.

        Returns:
            A function that takes the callback off again.
        """
        return self._listeners.add(callback)

    async def __aenter__(self) -> Self:
        """Begin to watch; often while memory fills, else once a second.

        Raises:
            RuntimeError: this guard is being watched already.
        """
        if self._watch is not None:
            raise RuntimeError("this guard is watching already: one `async with` for each guard")
        self._watch = AsyncExitStack()
        try:
            await self._watch.enter_async_context(watching(self._judge.look, self._thresholds, self._listeners))
        except BaseException:
            self._watch = None
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._watch is not None
        watch = self._watch
        try:
            await watch.__aexit__(kind, error, traceback)
        finally:
            self._watch = None


_default: MemoryGuard | None = None
_default_lock = threading.Lock()


def default_guard() -> MemoryGuard:
    """The guard of this process, made at the first call and used wherever none is given.

    The environment variable MEMSAFE_THRESHOLD_PERCENT sets its threshold.

    Raises:
        ValueError: for a variable that cannot be used.
    """
    global _default
    with _default_lock:
        if _default is None:
            percent = _settings.percent("MEMSAFE_THRESHOLD_PERCENT", most=_CEILING_PERCENT)
            _default = MemoryGuard(threshold_percent=percent or _THRESHOLD_PERCENT)
        return _default


def replace_default_guard(guard: MemoryGuard) -> None:
    """Have this guard used wherever none is given."""
    global _default
    with _default_lock:
        _default = guard
