"""A download is cancelled at every single await, one after the other, by each means there is: nothing is left.

It is one that goes through everything: HEAD, a redirect, a body that breaks off, its continuation by Range, and
`save_as`. The awaits are those of the task that downloads; what goes on in its threads meanwhile is held up by events
in `test_cancellation`.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

import memsafe_transcribe as mt

from ..admission.room import NOTHING, holds, told
from ..conftest import Run
from ..support.downloads import BODY, left_over, redirect_break_off_and_continue
from ..support.needs import tmpfs
from ..support.server import Server

ANY = mt.UrlPolicy(allow_private=True)
_WAIT_SECONDS = 30.0
_MOST_POINTS = 1000
_FEWEST_POINTS = 40  # six requests, two bodies, the queue, the threads; some need not wait now and then

Cancel = Callable[[anyio.CancelScope], object]


def by_scope(scope: anyio.CancelScope) -> None:
    """What anyio and trio do."""
    scope.cancel()


def by_task(_: anyio.CancelScope) -> None:
    """What asyncio does by itself, in `asyncio.timeout` and `TaskGroup` too: no scope shields from it."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


def by_all_tasks(_: anyio.CancelScope) -> None:
    """What asyncio does as its loop ends: the tasks that a download has started are cancelled along with it."""
    for task in asyncio.all_tasks():
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


@dataclass(frozen=True)
class Place:
    """Where downloads come from and go to."""

    server: Server
    spool_dir: Path
    saved_dir: Path

    @property
    def url(self) -> str:
        return self.server.url("/")

    def downloader(self, admission: mt.AdmissionController) -> mt.SafeDownloader:
        return mt.SafeDownloader(policy=ANY, admission=admission, spool_dir=self.spool_dir)

    def check_saved(self, *, is_whole: bool) -> None:
        """What was saved is all of it, or is not there, and nothing is beside it. It is removed."""
        saved = {path.name: path.read_bytes() for path in self.saved_dir.iterdir()}
        assert saved in ([{"file": BODY}] if is_whole else [{"file": BODY}, {}])
        for name in saved:
            (self.saved_dir / name).unlink()


@pytest.fixture(params=["disk", "memory"])
def place(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> Iterator[Place]:
    """A spool on disk, or in memory, whose used space has to be afterwards what it was before."""
    saved_dir, spool_dir = tmp_path / "saved", tmp_path / "spool"
    saved_dir.mkdir()
    server.routes["/"] = server.routes["/end"] = redirect_break_off_and_continue
    if request.param == "disk":
        spool_dir.mkdir()
    with tmpfs(spool_dir, "size=64m") if request.param == "memory" else nullcontext():
        before = os.statvfs(spool_dir)
        yield Place(server, spool_dir, saved_dir)
        assert list(spool_dir.iterdir()) == []
        if request.param == "memory":
            after = os.statvfs(spool_dir)
            assert (after.f_bfree, after.f_ffree) == (before.f_bfree, before.f_ffree)


on_disk = pytest.mark.parametrize("place", ["disk"], indirect=True)
on_asyncio = pytest.mark.parametrize("run", ["asyncio"], indirect=True)


async def until_nothing_is_left(place: Place) -> None:
    """Wait for threads that nobody waits for any more."""
    with anyio.fail_after(_WAIT_SECONDS):
        while left_over(place.server, place.spool_dir):
            await anyio.lowlevel.checkpoint()


async def cancelled(awaitable: Awaitable[None], cancel: Cancel, at: range) -> int:
    """Await this, cancel it at these points, and swallow that. How many points there were."""
    with anyio.CancelScope() as scope:
        stepped = Stepped(awaitable, partial(cancel, scope), at)
        try:
            await stepped
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            if cancel is by_scope or not task.cancelling():
                raise
            while task.uncancel():
                pass
    return stepped.steps


async def everywhere(at_point: Callable[[int], Awaitable[tuple[int, bool]]], *, must_be_seen: bool = True) -> None:
    """Cancel at the first point, at the second, and so on, until a download gets by without.

    Where another task runs beside it, one that is cancelled at its last point may have ended before it sees that.
    """
    for point in range(1, _MOST_POINTS):
        points, is_finished = await at_point(point)
        if points < point:
            break
        assert not is_finished or not must_be_seen, f"the cancellation at point {point} of {points} was lost"
    assert is_finished
    sys.stdout.write(f"points of cancellation: {point - 1}\n")  # `pytest -rP` shows it
    assert _FEWEST_POINTS < point < _MOST_POINTS - 1


async def alone(cancel: Cancel, times: int, place: Place) -> None:
    """One download, cancelled everywhere, so many times in succession."""

    async def at_point(point: int) -> tuple[int, bool]:
        admission = told(10**9, max_concurrent=1)
        is_finished = False

        async def download() -> None:
            nonlocal is_finished
            async with place.downloader(admission).fetch(place.url) as file:
                await file.save_as(place.saved_dir / "file")
                await anyio.lowlevel.checkpoint()
            is_finished = True

        points = await cancelled(download(), cancel, range(point, point + times))
        if cancel is not by_scope:
            await until_nothing_is_left(place)
        assert left_over(place.server, place.spool_dir) == [], point
        assert holds(admission) == NOTHING, point
        place.check_saved(is_whole=is_finished)
        return points, is_finished

    await everywhere(at_point)


async def before_another(cancel: Cancel, place: Place) -> None:
    """The same while a second task waits for the first to find out about the URL."""

    async def at_point(point: int) -> tuple[int, bool]:
        admission = told(10**9, max_concurrent=2)
        downloader = place.downloader(admission)
        is_finished, second = False, b""

        async def download_first() -> None:
            nonlocal is_finished
            async with downloader.fetch(place.url) as file:
                await file.save_as(place.saved_dir / "file")
            is_finished = True

        async def download_second() -> None:
            nonlocal second
            async with downloader.fetch(place.url) as file:
                second = file.path.read_bytes()

        with anyio.fail_after(_WAIT_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(download_second)
                points = await cancelled(download_first(), cancel, range(point, point + 1))
        assert second == BODY, point
        now = admission.statistics()
        assert (now.granted, now.peak_active) == (2, 1) or point == 1, "the second did not wait"
        assert left_over(place.server, place.spool_dir) == [], point
        assert holds(admission) == NOTHING, point
        place.check_saved(is_whole=is_finished)
        return points, is_finished

    await everywhere(at_point, must_be_seen=False)


def test_cancelled_at_every_await(run: Run, place: Place) -> None:
    """In the queue, the resolver, connecting, sending, reading, writing, closing, the pause, in the block, in save."""
    run(alone, by_scope, 1, place)


@on_asyncio
@on_disk
@pytest.mark.parametrize("times", [1, 2])
def test_cancelled_by_asyncio_itself_at_every_await(run: Run, place: Place, times: int) -> None:
    """Once; and once more while it cleans up."""
    run(alone, by_task, times, place)


@on_asyncio
@on_disk
@pytest.mark.filterwarnings("ignore:coroutine 'BlockWriter.run' was never awaited")  # anyio's, of a task that never ran
def test_cancelled_with_all_its_tasks_at_every_await(run: Run, place: Place) -> None:
    """The one that writes has no more time than the one that reads, and may not even have begun."""
    run(alone, by_all_tasks, 1, place)


@on_asyncio
@on_disk
def test_the_next_in_line_goes_on_after_asyncios_own_cancellation(run: Run, place: Place) -> None:
    """The same by `Task.cancel()`."""
    run(before_another, by_task, place)


@on_disk
def test_the_next_in_line_goes_on_at_every_await(run: Run, place: Place) -> None:
    """A second task waits for the first to find out about the URL: it gets its file, wherever that is cancelled."""
    run(before_another, by_scope, place)
