"""What files in memory take: a spool on tmpfs is memory, so it is reserved before it is written.

Each such download holds bytes, without a slot, from its beginning until its file closes, and asks for more in steps.
When a step is refused, the newest of those that are under way is dropped, so that the older ones get on: its file and
its bytes are given back, and it queues again for as much as it is known to need.
"""

# ruff: noqa: SLF001 - one download drops another of its own class

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import anyio
from anyio.lowlevel import EventLoopToken, current_token

from .._units import MiB

_STEP_BYTES = 8 * MiB


class Held(Protocol):
    """Bytes that are reserved."""

    @property
    def need_bytes(self) -> int: ...
    def try_grow(self, more_bytes: int) -> bool: ...
    def shrink(self, fewer_bytes: int) -> None: ...
    def mark_used(self, used_bytes: int) -> None: ...


class Dropped(Exception):  # noqa: N818 - no error: it queues again
    """This download was dropped in favour of older ones.

    Attributes:
        need_bytes: what it is known to need by now.
        is_served: set once the one that it was dropped for has had its turn; None if it gave way by itself.
    """

    def __init__(self, need_bytes: int, is_served: anyio.Event | None) -> None:
        super().__init__(need_bytes)
        self.need_bytes = need_bytes
        self.is_served = is_served


class InMemory:
    """One download whose file is memory.

    Args:
        held: what is reserved for it.
        others: those of one downloader that are under way, the newest last.
        is_gone: to be set once its file and its bytes are given back; is set here if it gets through.
    """

    def __init__(self, held: Held, others: "list[InMemory]", is_gone: anyio.Event) -> None:
        self._held = held
        self._others = others
        self._loop: EventLoopToken = current_token()
        self._scope = anyio.CancelScope()
        self._is_gone = is_gone
        self._is_served: anyio.Event | None = None
        self._need_bytes = held.need_bytes

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """`with` this: from here to the end of the block the download may be dropped.

        Raises:
            Dropped: it was.
        """
        self._others.append(self)
        try:
            with self._scope:
                yield
            if self._scope.cancelled_caught:
                raise Dropped(self._need_bytes, self._is_served)
            self._is_gone.set()  # out of reach: its file is its user's now
        finally:
            self._others.remove(self)

    def settle(self, size_bytes: int) -> None:
        """The file is whole: give back what was reserved beyond it."""
        self._held.shrink(self._held.need_bytes - size_bytes)
        self._held.mark_used(size_bytes)

    async def cover(self, size_bytes: int, *, used_bytes: int) -> None:
        """Have the file's length reserved before it is written.

        Args:
            size_bytes: how long it will be.
            used_bytes: how long it is.

        Raises:
            Dropped: there is no room, and nobody newer to make some.
        """
        self._held.mark_used(used_bytes)
        self._need_bytes = max(self._need_bytes, size_bytes)
        while not self._has_grown_to(size_bytes):
            newest = [each for each in self._others if each._loop == self._loop][-1]
            if newest is self:
                raise Dropped(self._need_bytes, None)
            await self._take_the_room_of(newest, size_bytes)

    async def _take_the_room_of(self, newest: "InMemory", size_bytes: int) -> None:
        """Have another one dropped, and grow by what it held, if that is enough."""
        newest._is_served = is_served = newest._is_served or anyio.Event()
        newest._scope.cancel()
        try:
            await newest._is_gone.wait()
            self._has_grown_to(size_bytes)  # before it can ask for them again
        finally:
            is_served.set()

    def _has_grown_to(self, size_bytes: int) -> bool:
        more_bytes = size_bytes - self._held.need_bytes
        return more_bytes <= 0 or self._held.try_grow(max(more_bytes, _STEP_BYTES)) or self._held.try_grow(more_bytes)
