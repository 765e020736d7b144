"""Downloads of all kinds, several at once, in any order of starting, saving, cancelling, raising and closing.

The machine's rules tell tasks on an event loop in another thread what to do, and then wait until all of them have
settled: each is in its block, or has ended, or waits for something that only another rule can bring. Then it counts
what is open in the process, and compares.
"""

import hashlib
import logging
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import ClassVar

import anyio
import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import settings, strategies as st
from hypothesis.stateful import invariant, rule

import memsafe_transcribe as mt

from ..admission.room import NOTHING, holds, told
from ..conftest import open_descriptors
from ..support.downloads import client_ports, open_in
from ..support.needs import tmpfs
from ..support.server import Exchange, Server
from ..support.steps import CountedMachine

SLOTS = 2
BODY_BYTES = 1_300_000  # more than two blocks, so that some is on disk while the rest is waited for
HALF_BYTES = 600_000
SLOT_BYTES = 6 * mt.MiB  # what a download reserves while it runs
STEP_BYTES = 8 * mt.MiB  # and what its file does at least, where that is memory
_WAIT_SECONDS = 10.0
_POLL_SECONDS = 0.001

PATHS = ["/whole/0", "/whole/1", "/led", "/continued/0", "/held/0", "/held/1", "/held/2", "/cut", "/missing", "/empty"]
ERRORS: dict[str, type[mt.DownloadError]] = {
    "/cut": mt.TruncatedDownloadError,
    "/missing": mt.HTTPStatusError,
    "/empty": mt.DownloadProtocolError,
}

_running: ContextVar["Job"] = ContextVar("running")


class OurError(Exception):
    """Raised in a block."""


@cache
def body(path: str) -> bytes:
    """What each path leads to, at last."""
    return hashlib.shake_128(path.encode()).digest(BODY_BYTES)


class Site:
    """The other side: what it holds back, by the port of the client that waits for it, and how to let it go on."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._held: dict[int, socket.socket] = {}
        self._lock = threading.Lock()
        for path in PATHS:
            server.routes[path] = getattr(self, path.split("/")[1])

    @property
    def held_ports(self) -> set[int]:
        with self._lock:
            return set(self._held)

    def let_go(self, which: int, *, is_whole: bool) -> None:
        """Let one that is held go on, or break off."""
        with self._lock:
            ports = list(self._held)
            ours = self._held.pop(ports[which % len(ports)])
        with ours:
            ours.send(b"+" if is_whole else b"-")

    def whole(self, exchange: Exchange) -> None:
        exchange.answer(body(exchange.path))

    def led(self, exchange: Exchange) -> None:
        exchange.answer(status="302 Found", Location="/whole/0")

    def missing(self, exchange: Exchange) -> None:
        exchange.answer(status="404 Not Found")

    def empty(self, exchange: Exchange) -> None:
        exchange.answer(b"")

    def cut(self, exchange: Exchange) -> None:
        """It breaks off each time, and says nothing by which it could be continued."""
        exchange.answer(body(exchange.path)[:HALF_BYTES], Content_Length=str(BODY_BYTES))

    def continued(self, exchange: Exchange) -> None:
        """It breaks off once."""
        whole, rest = body(exchange.path), f"bytes={HALF_BYTES}-"
        if exchange.headers.get("range") == rest:
            content_range = f"bytes {HALF_BYTES}-{BODY_BYTES - 1}/{BODY_BYTES}"
            exchange.answer(whole[HALF_BYTES:], "206 Partial Content", ETag='"a"', Content_Range=content_range)
        else:
            exchange.answer(whole[:HALF_BYTES], ETag='"a"', Content_Length=str(BODY_BYTES))

    def held(self, exchange: Exchange) -> None:
        """In the middle of it the server waits for an order; it ends, too, when the client hangs up."""
        self.continued(exchange)
        if exchange.is_head or "range" in exchange.headers:
            return
        try:
            port = exchange.connection.getpeername()[1]
        except OSError:  # the client has hung up
            return
        ours, its = socket.socketpair()
        with its:
            with self._lock:
                self._held[port] = ours
            readable, _, _ = select.select([its, exchange.connection], [], [], _WAIT_SECONDS)
            if its in readable:
                if its.recv(1) == b"+":
                    exchange.send(body(exchange.path)[HALF_BYTES:])
                return
            with self._lock:
                left = self._held.pop(port, None)
            if left is not None:
                left.close()


class Job:
    """One task that downloads, and does in the block what it is told."""

    def __init__(self, machine: "DownloadMachine", path: str, ask_anyway: bool) -> None:
        self.path = path
        self.ask_anyway = ask_anyway
        self.scope = anyio.CancelScope()
        self.orders: deque[Callable[[mt.DownloadedFile], Awaitable[None]] | None] = deque()
        self.has_started = False  # it waits for no other download of its URL
        self.has_answer = False  # some of its body has come, or will at once
        self.is_to_end = False
        self.has_ended = False
        self.file: mt.DownloadedFile | None = None  # while its block runs
        self.error: Exception | None = None
        self._machine = machine
        self._wake = anyio.Event()

    @property
    def is_pending(self) -> bool:
        return self.file is None and not self.has_ended

    def tell(self, order: Callable[[mt.DownloadedFile], Awaitable[None]] | None) -> None:
        """Have this done in the block; None: leave it. To be called on the loop."""
        self.orders.append(order)
        self._wake.set()

    async def run(self) -> None:
        _running.set(self)
        try:
            with self.scope:
                url = self._machine.site.server.url(self.path)
                async with self._machine.downloader.fetch(url, ask_anyway=self.ask_anyway) as self.file:
                    await self._obey(self.file)
        except (mt.DownloadError, OurError) as error:
            self.error = error
        finally:
            self.file, self.has_ended = None, True

    async def _obey(self, file: mt.DownloadedFile) -> None:
        while True:
            while not self.orders:
                self._wake = anyio.Event()
                await self._wake.wait()
            if (order := self.orders[0]) is None:
                return
            await order(file)
            self.orders.popleft()


class Watch(logging.Handler):
    """Notes how far each task's download has got."""

    def emit(self, record: logging.LogRecord) -> None:
        job, event = _running.get(None), getattr(record, "event", None)
        if job is not None:
            job.has_started |= event == "started"
            job.has_answer |= event == "answered"


_sites: list[Site] = []
_folders: dict[str, Path] = {}


@pytest.fixture(scope="module", autouse=True)
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One server for all, and a folder of each kind."""
    logger = logging.getLogger("memsafe_transcribe.download")
    watch, level = Watch(), logger.level
    folder = tmp_path_factory.mktemp("places")
    mt.MemoryGuard(limit_bytes=1).snapshot()  # opens what the process's one reader keeps open
    with Server() as server, tmpfs(folder / "memory", "size=256m"):
        (folder / "disk").mkdir()
        (folder / "saved").mkdir()
        _sites.append(Site(server))
        _folders.update({name: folder / name for name in ("memory", "disk", "saved")})
        logger.addHandler(watch)
        logger.setLevel(logging.INFO)
        yield
        logger.removeHandler(watch)
        logger.setLevel(level)
        _sites.clear()
        _folders.clear()


which_of = st.integers(0, 99)
names = st.sampled_from(["a", "b"])


class DownloadMachine(CountedMachine):
    """Tells jobs what to do, and looks what is open when nothing moves any more."""

    backend: ClassVar[str]
    spool: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.site = _sites[0]
        self.spool_dir = _folders[self.spool]
        self.saved_dir = _folders["saved"]
        self.before = open_descriptors()
        self.jobs: list[Job] = []
        self.failed_paths: set[str] = set()
        self.saved: dict[str, bytes] = {}
        self.opened = ExitStack()
        self.portal = self.opened.enter_context(start_blocking_portal(self.backend))
        self.admission = told(10**9, max_concurrent=SLOTS)
        self.downloader = mt.SafeDownloader(
            policy=mt.UrlPolicy(allow_private=True),
            admission=self.admission,
            spool_dir=self.spool_dir,
            max_attempts=2,
        )

    # -- what may happen; where a rule needs a download that there is not, it starts one

    @rule(asked=st.lists(st.tuples(st.sampled_from(PATHS), st.booleans()), min_size=1, max_size=4))
    def start(self, asked: list[tuple[str, bool]]) -> None:
        """Several at once, of the same URL too."""
        self.begin(asked)
        self.settle()

    @rule(
        asked=st.lists(st.tuples(st.sampled_from(PATHS), st.booleans()), min_size=1, max_size=3),
        turns=st.integers(0, 40),
    )
    def start_and_cancel(self, asked: list[tuple[str, bool]], turns: int) -> None:
        """After so many turns of the loop, wherever they are then."""
        started = self.begin(asked)

        async def cancel_soon() -> None:
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            self.cancel_now(started)

        self.portal.call(cancel_soon)
        self.settle()

    @rule(which=st.lists(which_of, min_size=1, max_size=3))
    def cancel(self, which: list[int]) -> None:
        """Those that wait for a slot, for another download, or for bytes."""
        pending = self.some_pending()
        self.portal.call(self.cancel_now, [pending[each % len(pending)] for each in which])
        self.settle()

    @rule(which=which_of, is_whole=st.booleans(), cancels=st.booleans())
    def let_go(self, which: int, is_whole: bool, cancels: bool) -> None:
        """The server goes on with one body, or breaks it off, so it is continued; all may be cancelled just then."""
        pending = self.some_pending()
        self.site.let_go(which, is_whole=is_whole)
        if cancels:
            self.portal.call(self.cancel_now, pending)
        self.settle()

    @rule(which=which_of, name=names)
    def save(self, which: int, name: str) -> None:
        """Under a new name, or in place of what is there."""
        if (job := self.in_block(which)) is None:
            return
        self.portal.call(self.save_now, job, name)
        self.settle()
        self.saved[name] = content(job)

    @rule(which=which_of, name=names, turns=st.integers(0, 5))
    def save_and_cancel(self, which: int, name: str, turns: int) -> None:
        """All of it, or what was there before."""
        if (job := self.in_block(which)) is None:
            return

        async def save_then_cancel() -> None:
            self.save_now(job, name)
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            self.cancel_now([job])

        self.portal.call(save_then_cancel)
        self.settle()
        path = self.saved_dir / name
        found = path.read_bytes() if path.exists() else None
        assert found in (content(job), self.saved.get(name))
        if found is not None:
            self.saved[name] = found

    @rule(which=st.lists(which_of, min_size=1, max_size=3), how=st.sampled_from(["close", "raise", "cancel"]))
    def end_blocks(self, which: list[int], how: str) -> None:
        """In whatever order; what was raised comes out as it is."""
        jobs = list({id(job): job for job in map(self.in_block, which) if job is not None}.values())

        async def fail(_: mt.DownloadedFile) -> None:
            raise OurError

        def end() -> None:
            for job in jobs:
                job.is_to_end = True
                if how == "cancel":
                    job.scope.cancel()
                else:
                    job.tell(fail if how == "raise" else None)

        self.portal.call(end)
        self.settle()
        assert all(isinstance(job.error, OurError) == (how == "raise") for job in jobs)

    # -- how it is done

    def begin(self, asked: list[tuple[str, bool]]) -> list[Job]:
        def make() -> list[Job]:
            return [Job(self, path, ask_anyway) for path, ask_anyway in asked]

        jobs = self.portal.call(make)
        self.jobs += jobs
        for job in jobs:
            self.portal.start_task_soon(job.run)
        return jobs

    def cancel_now(self, jobs: list[Job]) -> None:
        for job in jobs:
            job.is_to_end = True
            job.scope.cancel()

    def save_now(self, job: Job, name: str) -> None:
        job.tell(lambda file: file.save_as(self.saved_dir / name))

    def pending(self) -> list[Job]:
        return [job for job in self.jobs if job.is_pending]

    def in_blocks(self) -> list[Job]:
        return [job for job in self.jobs if job.file is not None]

    def some_pending(self) -> list[Job]:
        if not self.pending():
            self.start([("/held/0", False)])
        return self.pending()

    def in_block(self, which: int) -> Job | None:
        """One of those; None if all slots are taken by others that are held."""
        if not self.in_blocks():
            self.start([("/whole/0", True)])
        jobs = self.in_blocks()
        return jobs[which % len(jobs)] if jobs else None

    def settle(self) -> None:
        """Wait until nothing can move any more without another rule."""
        give_up_at = time.monotonic() + _WAIT_SECONDS
        while (moving := self.portal.call(self.what_moves)) is not None:
            assert time.monotonic() < give_up_at, f"{moving}: {[vars(job) for job in self.jobs if not job.has_ended]}"
            time.sleep(_POLL_SECONDS)  # no one event says it: sockets close, and threads end
        for job in self.jobs:
            self.check_error(job)
        self.jobs = [job for job in self.jobs if not job.has_ended]

    def what_moves(self) -> str | None:
        """The first thing that is not as it will be in the end; None if there is none."""
        living = [job for job in self.jobs if not job.has_ended]
        if any(job.is_to_end for job in living):
            return "not ended"
        if any(job.file is not None and job.orders for job in living):
            return "not obeyed"
        pending = [job for job in living if job.is_pending]
        asking = [job for job in pending if job.has_started]
        finding_out = {job.path for job in asking if not job.ask_anyway}
        if any(not job.has_started and job.path not in finding_out for job in pending):
            return "waits for nobody"
        held = self.site.held_ports
        waiting = self.admission.statistics().waiting
        answered = sum(job.has_answer for job in asking)
        if len(asking) != len(held) + waiting or answered != len(held) or (waiting and len(held) < SLOTS):
            return f"{len(asking)} asking, {answered} answered, {len(held)} held, {waiting} waiting"
        if client_ports(self.site.server) != held:
            return "connections"
        return None

    def check_error(self, job: Job) -> None:
        """What the server did comes out as what it is, once; after that the URL is known to be bad."""
        if isinstance(job.error, mt.KnownBadUrlError):
            assert job.path in self.failed_paths
        elif job.error is not None and not isinstance(job.error, OurError):
            assert type(job.error) is ERRORS[job.path]
        else:
            assert job.has_ended <= (job.is_to_end or job.error is not None)
        if isinstance(job.error, mt.DownloadError):
            self.failed_paths.add(job.path)

    # -- what holds

    @invariant()
    def nothing_more_is_open(self) -> None:
        """Descriptors to the spool, connections, slots and bytes are those of the downloads, to the last."""
        blocks, held = len(self.in_blocks()), len(self.site.held_ports)
        assert len(open_in(self.spool_dir)) == blocks + held
        assert client_ports(self.site.server) == self.site.held_ports
        active, _, reserved_bytes = holds(self.admission)
        in_memory = self.spool == "memory"
        assert (active, reserved_bytes) == (
            held,
            held * (SLOT_BYTES + STEP_BYTES * in_memory) + blocks * BODY_BYTES * in_memory,
        )

    @invariant()
    def the_folders_hold_what_was_saved(self) -> None:
        """Whole files, and nothing beside them; none in the spool, where they have no names."""
        assert {path.name: path.read_bytes() for path in self.saved_dir.iterdir()} == self.saved
        assert list(self.spool_dir.iterdir()) == []

    @invariant()
    def whoever_has_a_file_has_the_right_one(self) -> None:
        for job in self.in_blocks():
            assert job.file is not None
            assert job.file.path.read_bytes() == content(job)
            assert job.file.sha256 == hashlib.sha256(content(job)).hexdigest()

    def teardown(self) -> None:
        """Cancel all that is left; then the process is as it was."""
        try:
            self.portal.call(self.cancel_now, self.jobs)
            self.settle()
            assert holds(self.admission) == NOTHING
            assert open_in(self.spool_dir) == []
        finally:
            for path in self.saved_dir.iterdir():
                path.unlink()
            self.opened.close()
        self.site.server.wait_until_idle()
        assert open_descriptors() == self.before


def content(job: Job) -> bytes:
    """What a job's file is to hold."""
    return body("/whole/0" if job.path == "/led" else job.path)


class AsyncioMachine(DownloadMachine):
    """On asyncio, with a spool on disk: files are saved by giving them a name."""

    backend, spool = "asyncio", "disk"


class TrioMachine(DownloadMachine):
    """On trio, with a spool in memory: files are saved by copying them."""

    backend, spool = "trio", "memory"


TestOnAsyncio, TestOnTrio = AsyncioMachine.TestCase, TrioMachine.TestCase
TestOnAsyncio.settings = TestOnTrio.settings = settings(max_examples=settings().max_examples // 8)
