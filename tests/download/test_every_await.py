"""A download is cancelled at every single await, one after the other, by each means there is: nothing is left."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Generator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._download.downloader import _Spooled

from ..conftest import Run
from ..support.server import Exchange, Server

ANY = mt.UrlPolicy(allow_private=True)
HALF = bytes(range(256)) * 4096
_WAIT_SECONDS = 30.0
_MOST_STEPS = 1000

Cancel = Callable[[anyio.CancelScope], object]


def by_scope(scope: anyio.CancelScope) -> None:
    """What anyio and trio do."""
    scope.cancel()


def by_task(_: anyio.CancelScope) -> None:
    """What asyncio does by itself, in `asyncio.timeout` and `TaskGroup` too: no scope shields from it."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


class Stepped:
    """Awaits something, counts how often that waits, and cancels as it begins to wait for the given times."""

    def __init__(self, awaitable: Awaitable[None], cancel: Callable[[], object], at: range) -> None:
        self._awaitable = awaitable
        self._cancel = cancel
        self._at = at
        self.steps = 0

    def __await__(self) -> Generator[Any, Any, None]:
        inner: Any = self._awaitable.__await__()
        go_on: Callable[[], Any] = partial(next, inner)
        while True:
            try:
                waits_for = go_on()
            except StopIteration:
                return
            self.steps += 1
            if self.steps in self._at:
                self._cancel()
            try:
                go_on = partial(inner.send, (yield waits_for))
            except BaseException as error:
                go_on = partial(inner.throw, error)


def left_over(server: Server, spool_dir: Path) -> list[str]:
    """What this process still holds of a download: sockets that lead to the server, and files in the spool."""
    port = int(server.url("").rpartition(":")[2])
    connections = psutil.Process().net_connections("tcp4")
    files = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    return [
        *(str(each) for each in connections if each.raddr and each.raddr.port == port),
        *(file for file in files if file.startswith(f"{spool_dir}/")),
    ]


async def until_nothing_is_left(server: Server, spool_dir: Path) -> None:
    """Wait for threads that nobody waits for any more."""
    with anyio.fail_after(_WAIT_SECONDS):
        while left_over(server, spool_dir):
            await anyio.lowlevel.checkpoint()


def redirect_then_body(exchange: Exchange) -> None:
    """A redirect; then a body that is written in two pieces."""
    if exchange.path == "/":
        exchange.answer(status="302 Found", Location="/end")
        return
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * len(HALF)) + HALF)
    exchange.send(HALF)


async def cancelled_at(at: range, cancel: Cancel, server: Server, spool_dir: Path) -> tuple[int, bool]:
    """Download once, and cancel at these steps. How many steps it took, and whether it came to its end."""
    admission = mt.AdmissionController(max_concurrent=1, scope="process")
    downloader = mt.SafeDownloader(policy=ANY, admission=admission, spool_dir=spool_dir)
    finished = False

    async def download() -> None:
        nonlocal finished
        async with downloader.fetch(server.url("/")) as file:
            await anyio.lowlevel.checkpoint()
            assert file.size_bytes == 2 * len(HALF)
        finished = True

    with anyio.CancelScope() as scope:
        stepped = Stepped(download(), partial(cancel, scope), at)
        try:
            await stepped
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            if cancel is by_scope or not task.cancelling():
                raise
            while task.uncancel():
                pass
    await anyio.wait_all_tasks_blocked()
    if cancel is by_scope:
        assert left_over(server, spool_dir) == []
    else:
        await until_nothing_is_left(server, spool_dir)
    after = admission.statistics()
    assert (after.active, after.waiting, after.reserved_bytes) == (0, 0, 0), at
    return stepped.steps, finished


async def cancelled_everywhere(cancel: Cancel, times: int, server: Server, spool_dir: Path) -> None:
    """Cancel at the first await, at the second, and so on, until a download gets by without."""
    server.routes["/"] = server.routes["/end"] = redirect_then_body
    for step in range(1, _MOST_STEPS):
        steps, finished = await cancelled_at(range(step, step + times), cancel, server, spool_dir)
        assert finished == (steps < step), "the cancellation was lost"
        if finished:
            break
    assert finished
    assert step > 20


def test_cancelled_at_every_await(run: Run, server: Server, spool_dir: Path) -> None:
    """In the queue, the resolver, connecting, sending, reading, writing, closing, and in the block."""
    run(cancelled_everywhere, by_scope, 1, server, spool_dir)


@pytest.mark.parametrize("run", ["asyncio"], indirect=True)
@pytest.mark.parametrize("times", [1, 2])
def test_cancelled_by_asyncio_itself_at_every_await(run: Run, server: Server, spool_dir: Path, times: int) -> None:
    """Once; and once more while it cleans up."""
    run(cancelled_everywhere, by_task, times, server, spool_dir)


def test_a_thread_that_begins_too_late_writes_nothing(spool_dir: Path, tmp_path: Path) -> None:
    """The download was cancelled between handing over the write and its first line; other files are open by now."""
    with _Spooled(spool_dir, "http://h/", 10) as file:
        pass
    with ExitStack() as opened:
        others = [opened.enter_context((tmp_path / str(number)).open("wb")) for number in range(8)]
        file.write(bytearray(b"late"))
        assert [os.fstat(other.fileno()).st_size for other in others] == [0] * 8
