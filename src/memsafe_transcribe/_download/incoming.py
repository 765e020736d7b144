"""The body on its way onto disk: counted before it is written, hashed, and written while the next piece comes in."""

import hashlib
import os
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path

import anyio

from .. import _settings
from .._errors import DownloadError, DownloadTooLargeError
from .._units import MB, MiB, format_size
from . import spool, writeback
from .holding import InMemory
from .writing import BlockWriter

MAX_BYTES = 500 * MB
BLOCK_BYTES = 512 * 1024  # a thread for each 64 KiB would cost more than the network does
_TELL_BYTES = 1 * MiB
_MAX_PARTS = 256  # of a block: parts of a few bytes each are mostly objects
_WRITE_BACK_BYTES = 8 * MiB


def default_max_bytes() -> int:
    """The cap where the host gives neither one nor a downloader: MEMSAFE_MAX_DOWNLOAD_BYTES, or else 500 MB."""
    return _settings.size_bytes("MEMSAFE_MAX_DOWNLOAD_BYTES") or MAX_BYTES


class Incoming:
    """One file being filled.

    Args:
        spool_dir: where it is made.
        url: for messages.
        max_bytes: the cap.
        in_memory: what reserves its bytes, where the spool is memory.
        haste: asked now and then, from a thread: what to do about pages that wait for the disk.

    **Memory**: three blocks: one that fills, one that is handed over, one that is written.
    """

    def __init__(
        self,
        spool_dir: Path,
        url: str,
        max_bytes: int,
        in_memory: InMemory | None = None,
        haste: Callable[[], writeback.Haste] = lambda: writeback.Haste.NONE,
    ) -> None:
        self.size_bytes = 0  # what has come in; whatever a `receive` brought is on disk when it returns or raises
        self._spool_dir = spool_dir
        self._url = url
        self._max_bytes = max_bytes
        self._in_memory = in_memory
        self._haste = haste
        self._hash = hashlib.sha256()
        self._written_bytes = 0
        self._looked_at_bytes = 0
        self._sent_bytes = 0  # on its way to the disk
        self._lock = threading.Lock()
        self._is_writing = self._is_left = False
        self.file = spool.open_spool_file(spool_dir, url)

    @property
    def sha256(self) -> str:
        """Of what has been written, as 64 hexadecimal digits."""
        return self._hash.hexdigest()

    def close(self) -> None:
        """Close the file; it is gone then. While the thread of a `receive` elsewhere still writes, that thread does it:
        a descriptor that is closed under one may be another file by the time it writes.
        """
        with self._lock:
            self._is_left = True
            if not self._is_writing:
                self.file.close()

    def rewind(self) -> None:
        """Forget all that came in: the next body is the whole again."""
        with self._translating():
            os.ftruncate(self.file.fd, 0)
        self._hash = hashlib.sha256()
        self.size_bytes = self._written_bytes = self._looked_at_bytes = self._sent_bytes = 0

    async def cover(self, size_bytes: int) -> None:
        """Where the spool is memory, have a length reserved.

        Raises:
            Dropped: as `InMemory.cover` does.
        """
        if self._in_memory is not None:
            await self._in_memory.cover(size_bytes, used_bytes=self._written_bytes)

    async def receive(self, parts: AsyncGenerator[bytes], on_block: Callable[[int], None]) -> None:
        """Take in a body, or the rest of one.

        Args:
            parts: its bytes as they come.
            on_block: called with the bytes so far, after each MiB and at the end.

        Raises:
            DownloadTooLargeError: more came in than the cap; nothing above it is written.
            SpoolError: the disk said no.
            DownloadError: what `parts` raises, after what came before it is written.
        """
        writer = BlockWriter(self._write)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(writer.run)
                try:
                    async with aclosing(parts):
                        broke_off = await self._collect(parts, writer, on_block)
                    await writer.put(None)
                except BaseException:
                    writer.abandon()
                    raise
        except ExceptionGroup as group:
            raise group.exceptions[0] from group.exceptions[0].__cause__
        on_block(self.size_bytes)
        if broke_off is not None:
            raise broke_off

    async def _collect(
        self, parts: AsyncGenerator[bytes], writer: BlockWriter, on_block: Callable[[int], None]
    ) -> DownloadError | None:
        """Hand over block after block; what broke the body off, if something did."""
        block: list[bytes] = []
        block_bytes = told_bytes = 0
        broke_off = None
        try:
            async for part in parts:
                self._count(len(part))
                block.append(part)
                block_bytes += len(part)
                if block_bytes >= BLOCK_BYTES or len(block) >= _MAX_PARTS:
                    await self.cover(self.size_bytes)
                    await writer.put(block)
                    block, block_bytes = [], 0
                    if self.size_bytes - told_bytes >= _TELL_BYTES:
                        told_bytes = self.size_bytes
                        on_block(told_bytes)
        except DownloadTooLargeError:
            raise
        except DownloadError as error:  # what came before it is written all the same: the next attempt goes on there
            broke_off = error
        if block:
            await self.cover(self.size_bytes)
            await writer.put(block)
        return broke_off

    def _count(self, size_bytes: int) -> None:
        self.size_bytes += size_bytes
        if self.size_bytes > self._max_bytes:
            raise too_large(self._url, self.size_bytes, self._max_bytes, "sends")

    def _write(self, block: list[bytes]) -> None:
        """Write and hash; runs in a thread."""
        with self._lock:
            if self._is_left:
                return
            self._is_writing = True
        try:
            haste = self._haste() if self._is_time_to_look() else writeback.Haste.NONE
            with self._translating():
                for part in block:
                    self._append(part)
                if haste:
                    push = writeback.flush_behind if haste is writeback.Haste.WAIT else writeback.send
                    push(self.file.fd, self._sent_bytes, self._written_bytes)
                    self._sent_bytes = self._written_bytes
        finally:
            with self._lock:
                self._is_writing = False
                if self._is_left:
                    self.file.close()

    def _append(self, part: bytes) -> None:
        self._hash.update(part)
        view = memoryview(part)
        while view:
            written = os.pwrite(self.file.fd, view, self._written_bytes)
            self._written_bytes += written
            view = view[written:]

    def _is_time_to_look(self) -> bool:
        """Whether another stretch of the file may be waiting in memory for the disk."""
        if self._in_memory is not None or self._written_bytes - self._looked_at_bytes < _WRITE_BACK_BYTES:
            return False
        self._looked_at_bytes = self._written_bytes
        return True

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise spool.spool_error(self._spool_dir, self._url, error) from error


def too_large(url: str, size_bytes: int, max_bytes: int, verb: str) -> DownloadTooLargeError:
    """The refusal of a body above the cap."""
    return DownloadTooLargeError(
        f"{url} {verb} {format_size(size_bytes)}, at most {format_size(max_bytes)} are allowed (max_bytes)",
        url=url,
        size_bytes=size_bytes,
        max_bytes=max_bytes,
    )
