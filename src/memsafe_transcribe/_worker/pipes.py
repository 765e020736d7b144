"""The host's side of the two pipes to a worker, on asyncio and trio."""

import os
from collections import deque
from contextlib import ExitStack
from typing import IO

import anyio

from .frames import FrameReader, header

READ_BYTES = 1 << 17


class Pipes:
    """Frames to a worker, and from it.

    Args:
        stdin: what the worker reads, open for writing here, not blocking.
        stdout: what it writes, likewise.
    """

    def __init__(self, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self._stdin, self._stdout = stdin, stdout
        self._reader = FrameReader()
        self._frames: deque[tuple[bytes, bytes]] = deque()

    async def send(self, kind: bytes, payload: bytes) -> None:
        """Write one frame, waiting while the pipe is full.

        Raises:
            BrokenPipeError: the worker is dead.

        Cancellation: a part of the frame may have been sent; the worker is of no use afterwards.
        """
        for part in (header(kind, len(payload)), payload):
            await self.write(part)

    async def write(self, data: bytes) -> None:
        """Write bytes that are no frame: for a worker that reads its stdin as a file. Errors as those of `send`."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._stdin.fileno(), view) :]
            except BlockingIOError:
                await anyio.wait_writable(self._stdin)

    def close_stdin(self) -> None:
        """Say that no more will be written."""
        self._stdin.close()

    async def receive(self) -> tuple[bytes, bytes] | None:
        """The next frame as (kind, payload); None once the worker has closed its end.

        Raises:
            FrameError: the worker sends something else.
        """
        while not self._frames:
            data = await read_some(self._stdout)
            if not data:
                return None
            self._frames.extend(self._reader.feed(data))
        return self._frames.popleft()


def open_pipe(opened: ExitStack) -> tuple[IO[bytes], IO[bytes]]:
    """Both ends of a new pipe, for reading and for writing; closed with `opened`."""
    left = [*os.pipe()]
    try:
        reader = opened.enter_context(os.fdopen(left[0], "rb", buffering=0))
        del left[0]
        writer = opened.enter_context(os.fdopen(left[0], "wb", buffering=0))
        del left[0]
    finally:
        for fd in left:
            os.close(fd)
    return reader, writer


async def read_some(pipe: IO[bytes]) -> bytes:
    """What has come in, or b"" once the other end is closed."""
    while True:
        try:
            return os.read(pipe.fileno(), READ_BYTES)
        except BlockingIOError:
            await anyio.wait_readable(pipe)
