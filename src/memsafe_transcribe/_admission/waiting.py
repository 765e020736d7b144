"""Waking whoever waits: a task, from whatever thread or event loop its turn comes, or a thread."""

import sys
import threading
from typing import Any, Protocol

import anyio
from anyio.lowlevel import EventLoopToken, current_token


class Waiter(Protocol):
    """One claim's way to be told that something has changed for it."""

    def wake(self) -> bool:
        """Tell it; safe from any thread. Whether there is still somebody to be told."""


class TaskWaiter:
    """Wakes the task that made it."""

    def __init__(self) -> None:
        self._token = current_token()
        self._event = anyio.Event()

    async def wait(self, seconds: float | None) -> None:
        """Sleep until woken, or for `seconds`."""
        with anyio.move_on_after(seconds):
            await self._event.wait()
            self._event = anyio.Event()

    def wake(self) -> bool:
        """Wake it, through its own loop if that is another one. False if that loop has ended without its task."""
        if _here() == self._token:
            self._event.set()
            return True
        loop: Any = self._token.native_token
        call = loop.call_soon_threadsafe if hasattr(loop, "call_soon_threadsafe") else loop.run_sync_soon
        try:
            call(self._set)
        except RuntimeError:
            return False
        return True

    def _set(self) -> None:
        self._event.set()


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


def _here() -> EventLoopToken | None:
    try:
        return current_token()
    except anyio.NoEventLoopError:
        return None
