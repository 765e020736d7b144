"""Bodies that a host hands over part by part, such as a request's: they come in once, and cannot be asked for again."""

# ruff: noqa: SLF001 - an upload has downloads dropped as one of their own

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from math import inf
from urllib.parse import quote

import anyio

from .._errors import DownloadProtocolError, DownloadTimeoutError, MemoryPressureError
from .._units import format_size
from .admitting import Guard
from .files import DownloadedFile, suggested_filename
from .holding import Held, InMemory
from .incoming import BLOCK_BYTES, Incoming
from .pace import Pace, Patience

Part = bytes | bytearray | memoryview


class Upload:
    """One body, from the first of its parts to the file.

    Args:
        parts: what it is made of. What they come from is closed by `closing`.
        name: what messages, logs and the file call it.
        patience: how long its sender may be silent, and how slow it may be.
        deadline_seconds: for all of it, once it has its slot.

    Raises:
        TypeError: `parts` cannot be iterated asynchronously.

    Attributes:
        name: as messages may have it, on one line.
    """

    def __init__(self, parts: AsyncIterable[Part], name: str, patience: Patience, deadline_seconds: float) -> None:
        self.name = "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in name)
        self._parts = aiter(parts)
        self._suggested_filename = suggested_filename(quote(name, safe="", errors="replace"))
        self._patience = patience
        self._deadline_seconds = deadline_seconds
        self._broke_off: Exception | None = None

    @asynccontextmanager
    async def closing(self) -> AsyncIterator[None]:
        """`async with` this: at its end, whatever ends it, the parts are closed, if they can be."""
        try:
            yield
        finally:
            aclose = getattr(self._parts, "aclose", None)
            if aclose is not None:
                await aclose()

    async def fill(self, incoming: Incoming, guard: Guard, on_progress: Callable[[int, None], None]) -> DownloadedFile:
        """Take all parts in.

        Raises:
            DownloadTooLargeError, SpoolError: as `Incoming.receive` does.
            DownloadTimeoutError: its sender was silent or too slow, or the deadline passed.
            DownloadProtocolError: it is empty.
            MemoryPressureError: memory was at the ceiling until the deadline.
            TypeError: a part is not bytes-like.
            Exception: what the parts raise, the very object.
        """
        give_up_at = anyio.current_time() + self._deadline_seconds
        patience = None if self._deadline_seconds == inf else self._deadline_seconds
        await guard.wait_until_ok(admitted=True, timeout_seconds=patience)
        # One scope for all, whose deadline moves: one around each part would open and end within those that the
        # iterator, being a generator, may keep open from one part to the next.
        with anyio.CancelScope(deadline=give_up_at) as scope:
            await incoming.receive(self._coming(scope), lambda size_bytes: on_progress(size_bytes, None))
        if self._broke_off is not None:
            raise self._broke_off
        if scope.cancelled_caught:
            raise self._timed_out(is_silent=scope.deadline < give_up_at)
        if incoming.size_bytes == 0:
            raise DownloadProtocolError(f"{self.name}: the upload is empty", url=self.name)
        return DownloadedFile(
            incoming.file,
            size_bytes=incoming.size_bytes,
            content_type=None,
            sha256=incoming.sha256,
            final_url=self.name,
            suggested_filename=self._suggested_filename,
        )

    async def _coming(self, scope: anyio.CancelScope) -> AsyncGenerator[bytes]:
        """All parts, in pieces; each is waited for no longer than the sender may be silent."""
        pace = Pace(self.name, self._patience)
        pace.head_is_in()
        while (part := await self._next_part(scope, pace)) is not None:
            for piece in _pieces(part):
                yield piece

    async def _next_part(self, scope: anyio.CancelScope, pace: Pace) -> Part | None:
        """The next one that is not empty; None at the end. Empty ones break no silence."""
        asked_at = anyio.current_time()
        give_up_at, scope.deadline = scope.deadline, min(scope.deadline, asked_at + self._patience.read_seconds)
        while True:
            try:
                part = await anext(self._parts)
            except StopAsyncIteration:
                break
            except Exception as error:
                self._broke_off = error  # past the task group around this, which might rebuild it
                break
            size_bytes = _size_bytes(self.name, part)
            if size_bytes:
                scope.deadline = give_up_at
                pace.note(size_bytes, anyio.current_time() - asked_at)
                return part
            await anyio.lowlevel.checkpoint()  # there may be no end of them, all at hand
        scope.deadline = give_up_at
        return None

    def _timed_out(self, *, is_silent: bool) -> DownloadTimeoutError:
        if is_silent:
            seconds = self._patience.read_seconds
            return DownloadTimeoutError(
                f"{self.name}: nothing came in for {seconds:g} s (read_timeout_seconds)", url=self.name, retryable=True
            )
        return DownloadTimeoutError(
            f"{self.name}: not all there within {self._deadline_seconds:g} s (deadline_seconds)",
            url=self.name,
            deadline_seconds=self._deadline_seconds,
        )


def _size_bytes(name: str, part: Part) -> int:
    try:
        return memoryview(part).nbytes
    except TypeError:
        raise TypeError(f"{name}: its parts must be bytes-like, got {type(part).__name__}") from None


def _pieces(part: Part) -> Iterator[bytes]:
    """A part that can be written later: what is large in pieces, and what its owner may change as a copy."""
    if isinstance(part, bytes) and len(part) <= BLOCK_BYTES:
        yield part
        return
    with memoryview(part).cast("B") as view:
        for start in range(0, len(view), BLOCK_BYTES):
            yield bytes(view[start : start + BLOCK_BYTES])


class KeptInMemory(InMemory):
    """An upload whose file is memory. It has newer downloads dropped, and is never dropped itself.

    Args:
        held: what is reserved for it.
        others: the downloads of one downloader that are under way, the newest last.
        is_gone: nobody waits for that.
        name: what messages call it.
        guard: who has the figures of a refusal.
    """

    def __init__(self, held: Held, others: list[InMemory], is_gone: anyio.Event, *, name: str, guard: Guard) -> None:
        super().__init__(held, others, is_gone)
        self._older = tuple(others)
        self._name = name
        self._guard = guard

    async def cover(self, size_bytes: int, *, used_bytes: int) -> None:
        """Have the file's length reserved before it is written.

        Raises:
            MemoryPressureError: there is no room, and nobody newer to make some.
        """
        self._held.mark_used(used_bytes)
        while not self._has_grown_to(size_bytes):
            here = [each for each in self._others if each._loop == self._loop]
            newer = [each for each in here if each not in self._older]
            if not newer:
                raise self._refusal(size_bytes)
            await self._take_the_room_of(newer[-1], size_bytes)

    def _refusal(self, size_bytes: int) -> MemoryPressureError:
        look = self._guard.snapshot()
        need_bytes = size_bytes - self._held.need_bytes
        return MemoryPressureError(
            f"{self._name}: no room for {format_size(need_bytes)} more of it, after "
            f"{format_size(self._held.need_bytes)}: its spool is memory, of which {format_size(look.used_bytes)} of "
            f"{format_size(look.limit_bytes)} are used ({look.binding}), and the rest is promised or kept free. Run "
            "less at once, or let spool_dir name a disk",
            need_bytes=need_bytes,
            used_bytes=look.used_bytes,
            limit_bytes=look.limit_bytes,
            binding=look.binding,
        )
