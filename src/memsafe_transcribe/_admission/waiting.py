"""Waking whoever waits: a task, from whatever thread or event loop its turn comes, or a thread."""

import sys
import threading
from typing import Protocol


class Waiter(Protocol):
    """One claim's way to be told that something has changed for it."""

    def wake(self) -> bool:
        """Tell it; safe from any thread. Whether there is still somebody to be told."""


class ThreadWaiter:
    """Wakes the thread that made it."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def wait(self, seconds: float | None) -> None:
        """Sleep until woken, or for `seconds`."""
        if self._event.wait(seconds):
            self._event.clear()

    def wake(self) -> bool:
        """Wake it."""
        self._event.set()
        return True


def is_on_event_loop() -> bool:
    """Whether the calling code runs on the thread of an event loop, in a task or in a callback."""
    asyncio, trio = sys.modules.get("asyncio"), sys.modules.get("trio")
    if asyncio is not None and asyncio._get_running_loop() is not None:  # noqa: SLF001
        return True
    return trio is not None and bool(trio.lowlevel.in_trio_run())
