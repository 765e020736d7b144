"""What a download holds while it runs, and who says when. This room knows neither guard nor admission controller."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

import anyio

from .._units import MiB
from . import spool
from .holding import Held, InMemory
from .writeback import Haste

_NEED_BYTES = 6 * MiB  # the blocks on their way to the disk, and what HTTP holds


class Guard(Protocol):
    """What a downloader needs of a memory guard."""

    def snapshot(self) -> Any:
        """A look whose `level` is 0 while there is plenty, with `used_bytes`, `limit_bytes` and `binding`."""

    async def wait_until_ok(
        self, need_bytes: int = 0, *, timeout_seconds: float | None = None, admitted: bool = False
    ) -> Any:
        """Wait until so much more fits."""


class Admission(Protocol):
    """What a downloader needs of an admission controller."""

    @property
    def guard(self) -> Guard:
        """Its memory guard."""

    def reserve(
        self, need_bytes: int, *, timeout_seconds: float | None = None, slot: bool = True, reservation: Any = None
    ) -> AbstractAsyncContextManager[Any]:
        """Hold a slot and bytes, or a part of `reservation`."""

    def current_reservation(self) -> Any:
        """What the running task holds already."""


class Admitting:
    """Lets the downloads of one downloader in.

    Args:
        guard: by default that of `admission`.
        admission: by default the process-wide one, looked up when it is first needed.

    Attributes:
        in_memory: the downloads under way whose files are memory, the newest last.
    """

    def __init__(self, guard: Guard | None, admission: Admission | None) -> None:
        self._guard = guard
        self._admission = admission
        self.in_memory: list[InMemory] = []

    @property
    def admission(self) -> Admission:
        """Where downloads queue."""
        if self._admission is None:
            from memsafe_transcribe import default_admission  # the room below may not know the one above

            self._admission = default_admission()
        return self._admission

    @property
    def guard(self) -> Guard:
        """Who says how much memory there is."""
        return self._guard or self.admission.guard

    def haste(self) -> Haste:
        """What to do about pages that wait for the disk."""
        seen = self.guard.snapshot()
        if seen.level > 0:
            return Haste.WAIT
        return Haste.NONE if seen.binding == "host" else Haste.SEND

    def slot(self, held: Any, timeout_seconds: float | None) -> AbstractAsyncContextManager[Any]:
        """A slot, and the bytes that any download needs; of `held`, if there is such a reservation."""
        return self.admission.reserve(_NEED_BYTES, timeout_seconds=timeout_seconds, reservation=held)

    async def room_in_memory(
        self,
        spool_dir: Path,
        need_bytes: int,
        timeout_seconds: float | None,
        opened: AsyncExitStack,
        kind: Callable[[Held, list[InMemory], anyio.Event], InMemory] = InMemory,
    ) -> InMemory | None:
        """Where the spool is memory, what holds it: without a slot, until `opened` ends."""
        if not spool.is_memory(spool_dir):
            return None
        is_gone = anyio.Event()
        opened.callback(is_gone.set)  # the last of all
        held = await opened.enter_async_context(
            self.admission.reserve(need_bytes, timeout_seconds=timeout_seconds, slot=False)
        )
        return kind(held, self.in_memory, is_gone)
