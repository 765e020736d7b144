"""TCP connections as anyio streams: dialled by address, read in large pieces, closed at once.

anyio's own streams hand over at most 64 KiB of a plain socket at a time on asyncio, and close a moment later: a
cancelled task would leave its connection to the event loop. Here closing is the system call.
"""

import errno
import os
import socket
from collections.abc import Mapping
from typing import Any

import anyio
from anyio.abc import ByteStream, SocketAttribute


class TcpStream(ByteStream):
    """One connected, non-blocking socket."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """What has come in, up to `max_bytes`; waits only if there is nothing.

        Raises:
            anyio.EndOfStream: the other side has closed.
            anyio.BrokenResourceError: the connection is gone.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        while True:
            try:
                data = self._socket.recv(max_bytes)
            except BlockingIOError:
                await anyio.wait_readable(self._socket)
            except OSError as error:
                raise _lost(error) from error
            else:
                break
        if not data:
            raise anyio.EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        """Send all of it."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        view = memoryview(item)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                await anyio.wait_writable(self._socket)
            except OSError as error:
                raise _lost(error) from error

    async def send_eof(self) -> None:
        """Say that no more will be sent."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise _lost(error) from error

    async def aclose(self) -> None:
        """Close the socket, before anything that could be cancelled."""
        self.close()

    def close(self) -> None:
        """Close the socket. Doing it twice does nothing."""
        if self._socket.fileno() >= 0:
            anyio.notify_closing(self._socket)
            self._socket.close()

    @property
    def extra_attributes(self) -> Mapping[Any, Any]:
        """What a TLS layer above may ask for."""
        return {SocketAttribute.raw_socket: lambda: self._socket}


async def dial(family: int, address: tuple[Any, ...]) -> TcpStream:
    """Connect to one address, as the resolver gave it; nothing is resolved again.

    Raises:
        OSError: it cannot be reached.

    Cancellation: the socket is closed.
    """
    connecting = socket.socket(family, socket.SOCK_STREAM)
    try:
        connecting.setblocking(False)
        connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = connecting.connect_ex(address)
        if code in (errno.EINPROGRESS, errno.EWOULDBLOCK):
            await anyio.wait_writable(connecting)
            code = connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
    except BaseException:
        connecting.close()
        raise
    return TcpStream(connecting)


def _lost(error: OSError) -> anyio.BrokenResourceError | anyio.ClosedResourceError:
    return anyio.ClosedResourceError() if error.errno == errno.EBADF else anyio.BrokenResourceError(error.strerror)
