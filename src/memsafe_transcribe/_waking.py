"""Waking a task, from whatever thread or event loop."""

from typing import Any

import anyio
from anyio.lowlevel import EventLoopToken, current_token


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


def _here() -> EventLoopToken | None:
    try:
        return current_token()
    except anyio.NoEventLoopError:
        return None
