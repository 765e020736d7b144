"""The background watch of a guard: look, tell who wants to know, and sleep for as long as memory allows."""

import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio

from .._tasks import background
from .judging import Look, MemorySnapshot
from .pressure import MAX_POLL_SECONDS, MemoryLevel, Thresholds, poll_seconds

_LOG = logging.getLogger("memsafe_transcribe")
_Callback = Callable[[MemorySnapshot], object]


class Listeners:
    """Who is told of each change of the level."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: dict[object, _Callback] = {}
        self._told = MemoryLevel.OK

    def add(self, callback: _Callback) -> Callable[[], None]:
        """Add one, and return the function that removes it."""
        key = object()  # the same callback may be added twice
        with self._lock:
            self._callbacks[key] = callback

        def remove() -> None:
            with self._lock:
                self._callbacks.pop(key, None)

        return remove

    def tell(self, snapshot: MemorySnapshot) -> None:
        """Call them all if the level is another one than at the last call."""
        if snapshot.level is self._told:
            return
        self._told = snapshot.level
        with self._lock:
            callbacks = list(self._callbacks.values())
        for callback in callbacks:
            try:
                callback(snapshot)
            except Exception:
                _LOG.exception("a callback of MemoryGuard.on_level failed at level %s", snapshot.level.name)


@asynccontextmanager
async def watching(look: Callable[[], Look], thresholds: Thresholds, listeners: Listeners) -> AsyncIterator[None]:
    """Watch while the body runs.

    Cancellation: the watcher has ended when this has, however the body ends.
    """
    async with background() as tasks:
        tasks.start_soon(_watch, look, thresholds, listeners)
        yield


async def _watch(look: Callable[[], Look], thresholds: Thresholds, listeners: Listeners) -> None:
    last: Look | None = None
    is_blind = False
    while True:
        seconds = MAX_POLL_SECONDS
        try:
            now = look()
        except OSError:
            if not is_blind:
                _LOG.warning("memory cannot be read; it is tried again every second", exc_info=True)
            is_blind = True
        else:
            is_blind = False
            listeners.tell(now.snapshot)
            past = last or now
            seconds = poll_seconds(past.terms, now.terms, now.seconds - past.seconds, thresholds)
            last = now
        await anyio.sleep(seconds)
