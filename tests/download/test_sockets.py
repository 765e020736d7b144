"""TCP connections by themselves, against real sockets: what comes in, what breaks, and that closing is at once."""

import contextlib
import errno
import socket
import ssl
import struct
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSStream

from memsafe_transcribe._download.sockets import TcpStream, dial

from ..conftest import Run, open_descriptors
from .test_tls import certificate

__all__ = ["certificate"]  # a fixture, which is found by its name

LARGE = bytes(range(256)) * 80_000  # 20 MB: more than all buffers on the way take
_PART_BYTES = 1 << 20
_WAIT_SECONDS = 30.0


def has_ipv6() -> bool:
    """Whether this machine has ::1."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


HERE = {socket.AF_INET: "127.0.0.1"} | ({socket.AF_INET6: "::1"} if has_ipv6() else {})


@contextmanager
def listening(family: int = socket.AF_INET, backlog: int = 5) -> Iterator[socket.socket]:
    """A port of this machine."""
    with socket.socket(family) as listener:
        listener.bind((HERE[socket.AddressFamily(family)], 0))
        listener.listen(backlog)
        listener.settimeout(_WAIT_SECONDS)
        yield listener


@asynccontextmanager
async def connected(family: int = socket.AF_INET) -> AsyncIterator[tuple[TcpStream, socket.socket]]:
    """A stream, and the other side of it, which blocks."""
    with listening(family) as listener:
        stream = await dial(family, listener.getsockname())
        with listener.accept()[0] as other:
            other.settimeout(_WAIT_SECONDS)
            async with stream:
                yield stream, other


def received(other: socket.socket, size: int) -> bytes:
    """So many bytes, or what there is until the end."""
    data = bytearray()
    while len(data) < size and (part := other.recv(_PART_BYTES)):
        data += part
    return bytes(data)


async def all_of(stream: Any) -> bytes:
    """What comes in until its end."""
    data = bytearray()
    with contextlib.suppress(anyio.EndOfStream):
        while True:
            data += await stream.receive(_PART_BYTES)
    return bytes(data)


def raw_socket(stream: TcpStream) -> socket.socket:
    return stream.extra(SocketAttribute.raw_socket)


def reset(other: socket.socket) -> None:
    """Close so that the kernel sends a reset."""
    other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    other.close()


@pytest.mark.parametrize("family", HERE, ids=lambda family: family.name)
def test_bytes_go_both_ways_and_end(run: Run, family: int) -> None:
    """What is sent with one call arrives whole, however little the kernel takes at a time; then comes the end."""

    async def main() -> None:
        async with connected(family) as (stream, other):
            assert raw_socket(stream).getpeername() == other.getsockname()
            echoed: list[bytes] = []

            def echo() -> None:
                echoed.append(received(other, len(LARGE) + 1))  # to the end
                other.sendall(echoed[0])
                other.shutdown(socket.SHUT_WR)

            async def send() -> None:
                await stream.send(LARGE)
                await stream.send(b"")
                await stream.send_eof()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.to_thread.run_sync, echo)
                tasks.start_soon(send)
                assert await all_of(stream) == LARGE
            assert echoed == [LARGE]
            for _ in range(2):
                with pytest.raises(anyio.EndOfStream):
                    await stream.receive()

    run(main)


def test_no_more_than_was_asked_for_comes_at_once(run: Run) -> None:
    """What lies ready comes in one piece, else."""

    async def main() -> None:
        async with connected() as (stream, other):
            other.sendall(bytes(100))
            await anyio.wait_readable(raw_socket(stream))
            assert len(await stream.receive(10)) == 10
            assert len(await stream.receive()) == 90

    run(main)


@pytest.mark.parametrize("when", ["before", "while it waits"])
def test_a_reset_breaks_what_is_received(run: Run, when: str) -> None:
    """Also while it is waited for; the error says what the system said."""

    async def main() -> None:
        async with connected() as (stream, other), anyio.create_task_group() as tasks:
            if when == "before":
                reset(other)

            async def receive() -> None:
                with pytest.raises(anyio.BrokenResourceError, match="reset"):
                    await stream.receive()

            tasks.start_soon(receive)
            await anyio.wait_all_tasks_blocked()
            if when != "before":
                reset(other)

    run(main)


@pytest.mark.parametrize("when", ["before", "while it waits"])
def test_a_reset_breaks_what_is_sent(run: Run, when: str) -> None:
    """In the middle of it, too."""

    async def main() -> None:
        async with connected() as (stream, other), anyio.create_task_group() as tasks:
            if when == "before":
                reset(other)

            async def send() -> None:
                with pytest.raises(anyio.BrokenResourceError):
                    await stream.send(LARGE)

            tasks.start_soon(send)
            await anyio.wait_all_tasks_blocked()
            if when != "before":
                reset(other)

    run(main)


# -- connecting


@pytest.mark.parametrize("family", HERE, ids=lambda family: family.name)
def test_a_refused_connection_leaves_nothing(run: Run, family: int) -> None:
    """Neither where it is refused later, nor where the system says no at once."""

    async def main() -> None:
        with socket.socket(family) as taken:  # nobody listens, and no one else can
            taken.bind((HERE[socket.AddressFamily(family)], 0))
            before = open_descriptors()
            with pytest.raises(ConnectionRefusedError) as caught:
                await dial(family, taken.getsockname())
            assert caught.value.errno == errno.ECONNREFUSED
            with pytest.raises(OSError, match=r"\[Errno"):
                await dial(family, ("255.255.255.255", 9) if family == socket.AF_INET else ("ff02::1", 9, 0, 0))
            with pytest.raises(TypeError):
                await dial(family, (1, 2))
            assert open_descriptors() == before

    run(main)


def test_a_family_that_there_is_not(run: Run) -> None:
    """The system has none of it."""

    async def main() -> None:
        with pytest.raises(OSError, match=r"\[Errno"):
            await dial(-5, ("127.0.0.1", 9))

    run(main)


def test_cancelled_while_connecting(run: Run) -> None:
    """The other side's queue is full: nothing answers. The descriptor is gone when the cancelled call returns."""

    async def main() -> None:
        with listening(backlog=0) as listener, socket.create_connection(listener.getsockname()):
            before = open_descriptors()

            async def connect() -> None:
                await dial(socket.AF_INET, listener.getsockname())
                pytest.fail("it was let in")

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(connect)
                await anyio.wait_all_tasks_blocked()
                assert len(open_descriptors()) == len(before) + 1
                tasks.cancel_scope.cancel()
            assert open_descriptors() == before

    run(main)


def test_a_connection_that_takes_its_time_is_made(run: Run) -> None:
    """It is not delayed either: small pieces are sent as they come."""

    async def main() -> None:
        async with connected() as (stream, _):
            raw = raw_socket(stream)
            assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert not raw.getblocking()

    run(main)


# -- the end


@pytest.mark.parametrize("what", ["receive", "send"])
def test_cancelled_while_it_waits(run: Run, what: str) -> None:
    """It ends at once, and the stream can be used again; once closed, its descriptor is gone."""

    async def main() -> None:
        before = open_descriptors()
        async with connected() as (stream, other):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(*([stream.receive] if what == "receive" else [stream.send, LARGE]))
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
            if what == "receive":
                other.sendall(b"later")
                assert await stream.receive() == b"later"
            else:
                stream.close()
                assert LARGE.startswith(received(other, len(LARGE)))
        assert open_descriptors() == before

    run(main)


@pytest.mark.parametrize("what", ["receive", "send"])
def test_what_is_cancelled_already_does_nothing(run: Run, what: str) -> None:
    """Though it would not have to wait."""

    async def main() -> None:
        async with connected() as (stream, other):
            other.sendall(b"ready")
            await anyio.wait_readable(raw_socket(stream))
            with anyio.CancelScope() as scope:
                scope.cancel()
                await (stream.receive() if what == "receive" else stream.send(b"x"))
            assert scope.cancelled_caught
            assert await stream.receive() == b"ready"
            stream.close()
            assert other.recv(1) == b""

    run(main)


@pytest.mark.parametrize("how", ["close", "aclose", "aclose, cancelled"])
def test_closing_is_at_once_and_may_be_done_twice(run: Run, how: str) -> None:
    """The descriptor is gone when it returns, although the task is cancelled; the other side sees the end."""

    async def main() -> None:
        async with connected() as (stream, other):
            raw = raw_socket(stream)
            for _ in range(2):
                with anyio.CancelScope() as scope:
                    if how == "aclose, cancelled":
                        scope.cancel()
                    if how == "close":
                        stream.close()
                    else:
                        await stream.aclose()
                assert raw.fileno() == -1
            assert other.recv(1) == b""

    run(main)


@pytest.mark.parametrize("what", ["receive", "send"])
def test_closed_while_another_task_waits(run: Run, what: str) -> None:
    """That one is told so, at once."""

    async def main() -> None:
        async with connected() as (stream, _), anyio.create_task_group() as tasks:
            ended = anyio.Event()

            async def use() -> None:
                with pytest.raises(anyio.ClosedResourceError):
                    await (stream.receive() if what == "receive" else stream.send(LARGE))
                ended.set()

            tasks.start_soon(use)
            await anyio.wait_all_tasks_blocked()
            stream.close()
            with anyio.fail_after(_WAIT_SECONDS):
                await ended.wait()

    run(main)


@pytest.mark.parametrize("what", ["receive", "send"])
def test_used_after_it_was_closed(run: Run, what: str) -> None:
    """Although another file may have its number by now."""

    async def main() -> None:
        async with connected() as (stream, _):
            stream.close()
            with socket.socket():
                with pytest.raises(anyio.ClosedResourceError):
                    await (stream.receive() if what == "receive" else stream.send(b"x"))

    run(main)


# -- TLS over it


def test_tls_goes_over_it(run: Run, certificate: Path) -> None:
    """Both ways at once, in large pieces; closing the upper stream closes the lower one."""
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(certificate)
    trusting = ssl.create_default_context(cafile=certificate)

    def echo(listener: socket.socket) -> None:
        with listener.accept()[0] as plain:
            plain.settimeout(_WAIT_SECONDS)
            with served.wrap_socket(plain, server_side=True, suppress_ragged_eofs=True) as other:
                data = received(other, len(LARGE))
                other.sendall(data)

    async def main() -> None:
        with listening() as listener:
            thread = threading.Thread(target=echo, args=(listener,))
            thread.start()
            stream = await dial(socket.AF_INET, listener.getsockname())
            async with await TLSStream.wrap(
                stream, ssl_context=trusting, hostname="127.0.0.1", standard_compatible=False
            ) as tls:
                await tls.send(LARGE)
                data = bytearray()
                while len(data) < len(LARGE):
                    data += await tls.receive(_PART_BYTES)
                assert data == LARGE
            assert raw_socket(stream).fileno() == -1
            await anyio.to_thread.run_sync(thread.join)

    run(main)
