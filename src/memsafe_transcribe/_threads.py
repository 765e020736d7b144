"""Functions that cannot be interrupted, run in threads that are always waited for."""

import threading
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread

T = TypeVar("T")


async def run_to_its_end(function: Callable[[], T], limiter: anyio.CapacityLimiter | None = None) -> T:
    """Run a function in a worker thread, and do not return before it has ended, however often this task is cancelled.

    anyio waits for its threads when a scope is cancelled; asyncio's own `Task.cancel()` breaks through that. What the
    function uses would then be given back under its hands.

    Args:
        function: what to run. It is not begun if this task is cancelled before.
        limiter: whose threads it counts as; anyio's own by default.
    """
    ended = anyio.Event()
    lock = threading.Lock()
    started = abandoned = False

    def call() -> T:
        nonlocal started
        with lock:
            if abandoned:
                raise RuntimeError("cancelled before it began")
            started = True
        try:
            return function()
        finally:
            anyio.from_thread.run_sync(ended.set)

    try:
        return await anyio.to_thread.run_sync(call, limiter=limiter)
    finally:
        with lock:
            abandoned = not started
        while started and not ended.is_set():
            try:
                with anyio.CancelScope(shield=True):
                    await ended.wait()
            except anyio.get_cancelled_exc_class():
                continue  # the first one goes on from here when the thread has ended
