"""The server's own descriptors must be gone before `run` counts: its threads hang up a moment after the client."""

import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pytest

from ..conftest import Run
from ..support.server import Server

T = TypeVar("T")
_WAIT_SECONDS = 30.0


class CountedServer(Server):
    """Knows how many connections it holds open."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self._open: set[int] = set()
        self._changed = threading.Condition()
        accept, close = self._tcp.get_request, self._tcp.close_request

        def counted_accept() -> tuple[socket.socket, Any]:
            with self._changed:
                connection, address = accept()
                self._open.add(id(connection))
                return connection, address

        def counted_close(connection: Any) -> None:
            with self._changed:
                close(connection)
                self._open.discard(id(connection))
                self._changed.notify_all()

        self._tcp.get_request = counted_accept  # type: ignore[method-assign]
        self._tcp.close_request = counted_close  # type: ignore[method-assign, assignment]

    def wait_until_idle(self) -> None:
        """Block until every connection is closed on this side too."""
        with self._changed:
            assert self._changed.wait_for(lambda: not self._open, _WAIT_SECONDS), "the client has not hung up"


@pytest.fixture
def server() -> Iterator[Server]:
    """A server on loopback that does what each test tells it to."""
    with CountedServer() as server:
        yield server


@pytest.fixture
def run(run: Run, request: pytest.FixtureRequest) -> Run:
    """As everywhere, with the server idle at the end."""
    server = request.getfixturevalue("server") if "server" in request.fixturenames else None

    def run_until_idle(function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        async def main() -> T:
            try:
                return await function(*arguments)
            finally:
                if server is not None:
                    with anyio.CancelScope(shield=True):
                        await anyio.to_thread.run_sync(server.wait_until_idle)

        return run(main)  # type: ignore[no-any-return]

    return run_until_idle


@contextmanager
def tmpfs(folder: Path, options: str) -> Iterator[Path]:
    """A file system in memory, for one test alone. It can only be unmounted when nothing in it is open."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True) if os.geteuid() == 0 else None
    if mounted is None or mounted.returncode != 0:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up(f"needs root to mount a tmpfs: {mounted.stderr if mounted else 'not root'}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
