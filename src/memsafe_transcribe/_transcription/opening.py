"""An engine that several jobs share: opened with the first, charged for as long as it is open, closed with the last."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio

from .._admission.controller import AdmissionController
from .._admission.reservation import Reservation
from .registry import Engine

_CLOSE_SECONDS = 10.0


class SharedEngine:
    """One engine, and what it holds while it has users.

    Args:
        engine: which.
        admission: where its resident memory is charged, without a slot.
        queue_timeout_seconds: how long to wait for that memory; None for as long as it takes.
    """

    def __init__(self, engine: Engine, admission: AdmissionController, queue_timeout_seconds: float | None) -> None:
        self._engine = engine
        self._admission = admission
        self._queue_timeout_seconds = queue_timeout_seconds
        self._users = 0
        self._lock = anyio.Lock()
        self._hold = AsyncExitStack()
        self._reservation: Reservation | None = None
        self._closing: anyio.Event | None = None  # while it does; set when it has

    @property
    def missing_bytes(self) -> int:
        """What opening it would add: nothing while it is open."""
        return 0 if self._users else self._engine.capabilities.resident_bytes

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """`async with` this to use it."""
        await self.enter()
        try:
            yield
        finally:
            await self.leave()

    async def enter(self) -> None:
        """Charge for its memory when its first user comes: not before it has closed, if it does so just now."""
        need_bytes = self._engine.capabilities.resident_bytes
        async with self._lock:
            if self._closing is not None:
                await self._closing.wait()
            if self._users == 0 and need_bytes:
                self._reservation = await self._hold.enter_async_context(
                    self._admission.reserve(need_bytes, timeout_seconds=self._queue_timeout_seconds, slot=False)
                )
            self._users += 1

    def mark_used(self) -> None:
        """Say that its memory is resident: after the first answer, for it may load its model only then."""
        if self._reservation is not None:
            self._reservation.mark_used(self._engine.capabilities.resident_bytes)

    async def leave(self) -> None:
        """Close it and stop charging for it when its last user leaves.

        All that must happen happens before the first await: no shield holds against asyncio's own Task.cancel().
        """
        self._users -= 1
        if self._users == 0:
            hold, self._hold, self._reservation = self._hold, AsyncExitStack(), None
            closing = self._closing = anyio.Event()
            try:
                async with hold:  # given back even if the engine's closing fails or is cancelled
                    with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
                        await self._engine.aclose()
            finally:
                self._closing = None
                closing.set()
