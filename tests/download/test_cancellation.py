"""A download that is cancelled, at whatever moment, leaves no file, no descriptor and no slot taken."""

import asyncio
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import psutil
import pytest

import memsafe_transcribe as mt

from ..conftest import Run
from ..support.server import Exchange, Server
from .test_cleanup import half_a_body

ANY = mt.UrlPolicy(allow_private=True)
_WAIT_SECONDS = 30.0


@contextmanager
def full_queue() -> Iterator[int]:
    """A port that lets nobody else in: who connects to it waits."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        with socket.create_connection(listener.getsockname()):
            yield listener.getsockname()[1]


async def connecting_to(port: int) -> None:
    """Wait until this process has asked for a connection to a port."""
    with anyio.fail_after(_WAIT_SECONDS):
        while not any(
            each.status == psutil.CONN_SYN_SENT and each.raddr.port == port
            for each in psutil.Process().net_connections("tcp4")
        ):
            await anyio.lowlevel.checkpoint()


def cancelled(run: Run, spool_dir: Path, url: str, when: Callable[[anyio.Event], Awaitable[None]]) -> None:
    """Start a download, cancel it at a moment (told: that a MiB is written), and see that its slot is free."""

    async def main() -> None:
        admission = mt.AdmissionController(max_concurrent=1, scope="process")
        downloader = mt.SafeDownloader(policy=ANY, admission=admission, spool_dir=spool_dir)
        written = anyio.Event()

        async def download() -> None:
            async with downloader.fetch(url, on_progress=lambda done, total: written.set()):
                pytest.fail("the file was handed out")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(download)
            await when(written)
            assert admission.statistics().active == 1
            tasks.cancel_scope.cancel()
        after = admission.statistics()
        assert (after.active, after.waiting, after.reserved_bytes) == (0, 0, 0)

    run(main)


def test_cancelled_while_the_body_streams(run: Run, server: Server, spool_dir: Path) -> None:
    """Some has been written; the rest never comes."""
    server.routes["/"] = half_a_body

    async def streaming(written: anyio.Event) -> None:
        await written.wait()
        await anyio.wait_all_tasks_blocked()

    cancelled(run, spool_dir, server.url("/"), streaming)


def test_cancelled_while_connecting(run: Run, spool_dir: Path) -> None:
    """The other side never accepts."""
    with full_queue() as port:
        cancelled(run, spool_dir, f"http://127.0.0.1:{port}/", lambda _: connecting_to(port))


def test_cancelled_while_waiting_for_the_answer(run: Run, server: Server, spool_dir: Path) -> None:
    """The request was sent, and no byte came back."""
    server.routes["/"] = Exchange.hold_until_closed

    async def asked(_: anyio.Event) -> None:
        await anyio.to_thread.run_sync(server.wait_for_requests, 1)

    cancelled(run, spool_dir, server.url("/"), asked)


def test_cancelled_while_waiting_for_a_slot(run: Run, server: Server, spool_dir: Path) -> None:
    """No request is sent, and the place in the queue is given up."""

    async def main() -> None:
        admission = mt.AdmissionController(max_concurrent=1, scope="process")
        downloader = mt.SafeDownloader(policy=ANY, admission=admission, spool_dir=spool_dir)

        async def download() -> None:
            async with downloader.fetch(server.url("/")):
                pytest.fail("the file was handed out")

        held = admission.reserve_nowait(1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(download)
            with anyio.fail_after(
                _WAIT_SECONDS
            ):  # it polls in step with `wait_all_tasks_blocked`, which may miss it long
                while admission.statistics().waiting == 0:
                    await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        assert (admission.statistics().active, admission.statistics().waiting) == (1, 0)
        held.release()
        assert admission.statistics().active == 0

    run(main)
    assert server.requests == []


class SlowDisk:
    """Holds up each write to a file of one folder until it is let go; tells whether the file was still open then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.writing, self.go_on, self.closed = threading.Event(), threading.Event(), threading.Event()
        self.was_open: list[bool] = []
        pwrite, close = os.pwrite, os.close

        def is_there(fd: int) -> bool:
            return os.path.realpath(f"/proc/self/fd/{fd}").startswith(f"{folder}/")

        def slow_pwrite(fd: int, data: bytes, offset: int) -> int:
            if is_there(fd):
                self.writing.set()
                assert self.go_on.wait(_WAIT_SECONDS)
                self.was_open.append(is_there(fd))
            return pwrite(fd, data, offset)

        def noted_close(fd: int) -> None:
            mine = is_there(fd)
            close(fd)
            if mine:
                self.closed.set()

        monkeypatch.setattr(os, "pwrite", slow_pwrite)
        monkeypatch.setattr(os, "close", noted_close)


def test_cancelled_while_writing(run: Run, server: Server, spool_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that writes is waited for: its descriptor is closed after it, not under it."""
    server.routes["/"] = half_a_body
    disk = SlowDisk(monkeypatch, spool_dir)

    async def main() -> None:
        async def download() -> None:
            async with mt.SafeDownloader(policy=ANY, spool_dir=spool_dir).fetch(server.url("/")):
                pytest.fail("the file was handed out")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(download)
            assert await anyio.to_thread.run_sync(disk.writing.wait, _WAIT_SECONDS)
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.wait_all_tasks_blocked()
            disk.go_on.set()

    run(main)
    assert disk.was_open
    assert all(disk.was_open)


def test_cancelled_by_asyncio_itself_while_writing(
    server: Server, spool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Task.cancel()` breaks through anyio's shields; still the thread that writes is waited for."""
    server.routes["/"] = half_a_body
    disk = SlowDisk(monkeypatch, spool_dir)

    async def main() -> None:
        async def download() -> None:
            async with mt.SafeDownloader(policy=ANY, spool_dir=spool_dir).fetch(server.url("/")):
                pytest.fail("the file was handed out")

        task = asyncio.create_task(download())
        assert await asyncio.to_thread(disk.writing.wait, _WAIT_SECONDS)
        disk.closed.clear()  # it was tried whether the file opens by its path
        for _ in range(2):
            task.cancel()
            for _ in range(20):  # more than it would take to end
                await anyio.lowlevel.checkpoint()
        assert (task.done(), disk.closed.is_set()) == (False, False)
        disk.go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert disk.closed.is_set()

    asyncio.run(main())
    assert disk.was_open
    assert all(disk.was_open)
