"""A spool that is memory: its bytes are reserved before they are written, and until the file closes."""

import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._download.holding import Dropped, InMemory

from ..admission.room import NOTHING, ToldGuard, holds, told
from ..conftest import Run
from ..support.downloads import answered_after
from ..support.needs import tmpfs
from ..support.server import Exchange, Server

ANY = mt.UrlPolicy(allow_private=True)
BODY = random.Random(7).randbytes(3 * mt.MiB)
SLOT = 6 * mt.MiB  # what a download reserves while it runs
_WAIT_SECONDS = 10.0


class SpoolGuard(ToldGuard):
    """Counts what is in a spool as used, as the kernel does."""

    def __init__(self, spool_dir: Path, room_bytes: int, largest: int = 10**9) -> None:
        self._spool_dir = spool_dir
        self._room_bytes = room_bytes
        super().__init__(room_bytes, largest=largest)

    def room(self, *, exact: bool = True) -> mt.MemoryRoom:
        self.say(self._room_bytes - used_bytes(self._spool_dir))
        return super().room(exact=exact)


def used_bytes(folder: Path) -> int:
    """What a file system holds."""
    found = os.statvfs(folder)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A spool on tmpfs, which is empty again afterwards."""
    with tmpfs(tmp_path / "spool", "size=64m") as folder:
        yield folder
        assert list(folder.iterdir()) == []


def announced(exchange: Exchange) -> None:
    """The body with its length."""
    exchange.answer(BODY)


def in_chunks(exchange: Exchange) -> None:
    """The body without."""
    exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    if not exchange.is_head:
        exchange.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY))


@pytest.mark.parametrize("answer", [announced, in_chunks])
def test_the_bytes_are_held_until_the_file_closes(run: Run, server: Server, memory: Path, answer: object) -> None:
    """As many as the file has, without a slot; however much was asked for in steps."""
    server.routes["/"] = answer  # type: ignore[assignment]

    async def main() -> None:
        admission = told(10**9)
        async with mt.SafeDownloader(policy=ANY, admission=admission, spool_dir=memory).fetch(server.url("/")) as file:
            assert file.path.read_bytes() == BODY
            assert holds(admission) == (0, 0, len(BODY))
            assert admission.statistics().budget_bytes == 10**9  # they are in use by now, and not counted twice
        assert holds(admission) == NOTHING

    run(main)


def test_on_a_disk_nothing_is_held(run: Run, server: Server, spool_dir: Path) -> None:
    """There, bytes are no memory."""
    server.routes["/"] = announced

    async def main() -> None:
        admission = told(10**9)
        async with mt.SafeDownloader(policy=ANY, admission=admission, spool_dir=spool_dir).fetch(server.url("/")):
            assert holds(admission) == NOTHING

    run(main)


def test_an_announced_length_is_reserved_at_once(run: Run, server: Server, memory: Path) -> None:
    """Before a byte of it has come."""
    go_on = threading.Event()

    def slow(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY))
        if not exchange.is_head:
            go_on.wait(_WAIT_SECONDS)
            exchange.send(BODY)

    server.routes["/"] = slow

    async def main() -> None:
        admission = told(10**9)
        downloader = mt.SafeDownloader(policy=ANY, admission=admission, spool_dir=memory)

        async def download() -> None:
            async with downloader.fetch(server.url("/")):
                pass

        with anyio.fail_after(_WAIT_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(download)
                while admission.statistics().reserved_bytes < SLOT + len(BODY):
                    await anyio.lowlevel.checkpoint()
                go_on.set()
        assert holds(admission) == NOTHING

    run(main)


@pytest.mark.parametrize("count", [2, 3])
def test_the_newest_makes_room_for_the_older_ones(
    run: Run, server: Server, memory: Path, dropped: threading.Event, count: int
) -> None:
    """There is room for one file at a time: a newer one is dropped, and all come in, one after the other, unharmed."""
    server.routes["/"] = answered_after(dropped, BODY)

    async def main() -> None:
        admission = told(count * SLOT + len(BODY) + mt.MiB, max_concurrent=count)
        downloader = mt.SafeDownloader(policy=ANY, admission=admission, spool_dir=memory)
        done = 0

        async def download(number: int) -> None:
            nonlocal done
            async with downloader.fetch(server.url(f"/?{number}")) as file:
                assert file.path.read_bytes() == BODY
                done += 1

        with anyio.fail_after(_WAIT_SECONDS):
            async with anyio.create_task_group() as tasks:
                for number in range(count):
                    tasks.start_soon(download, number)
        assert (done, holds(admission)) == (count, NOTHING)
        assert dropped.is_set()
        dropped.clear()

    run(main)


def test_an_older_one_has_a_newer_one_dropped(run: Run, server: Server, memory: Path, dropped: threading.Event) -> None:
    """The older has no length: when it needs a step that the newer took, the newer begins anew."""
    newer_is_in = threading.Event()

    def answer(exchange: Exchange) -> None:
        if exchange.is_head:
            exchange.answer(status="405 Method Not Allowed")
        elif exchange.query == "older":
            exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            assert newer_is_in.wait(_WAIT_SECONDS)
            exchange.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY))
        else:
            exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY))
            assert dropped.wait(_WAIT_SECONDS)
            exchange.send(BODY)

    server.routes["/"] = answer

    async def main() -> None:
        admission = told(2 * SLOT + len(BODY) + 100_000, max_concurrent=2)
        downloader = mt.SafeDownloader(policy=ANY, admission=admission, spool_dir=memory)
        order = []

        async def download(name: str) -> None:
            async with downloader.fetch(server.url(f"/?{name}")) as file:
                assert file.path.read_bytes() == BODY
                order.append(name)

        with anyio.fail_after(_WAIT_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(download, "older")
                while admission.statistics().active == 0:
                    await anyio.lowlevel.checkpoint()
                tasks.start_soon(download, "newer")
                while admission.statistics().reserved_bytes < 2 * SLOT + len(BODY):
                    await anyio.lowlevel.checkpoint()
                newer_is_in.set()
        assert (sorted(order), holds(admission)) == (["newer", "older"], NOTHING)
        assert dropped.is_set()
        dropped.clear()
        newer_is_in.clear()

    run(main)


def test_one_that_could_not_fit_alone_is_refused(run: Run, server: Server, memory: Path) -> None:
    """With the figures, and nothing is left."""
    server.routes["/"] = announced

    async def main() -> None:
        room = SLOT + mt.MiB
        admission = told(room, admitted=room, largest=len(BODY) - 1)
        downloader = mt.SafeDownloader(policy=ANY, admission=admission, spool_dir=memory)
        with pytest.raises(mt.ReservationTooLargeError) as caught:
            async with downloader.fetch(server.url("/")):
                pytest.fail("the file was handed out")
        assert caught.value.need_bytes in (SLOT, len(BODY))
        assert holds(admission) == NOTHING

    run(main)


def test_what_is_written_was_reserved_before(
    run: Run, server: Server, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each write, to the byte, where no length is announced; in steps, not for each block."""
    body, pwrite = random.Random(8).randbytes(20 * mt.MiB), os.pwrite
    server.routes["/"] = lambda exchange: exchange.send(b"HTTP/1.1 200 OK\r\n\r\n" + body * (not exchange.is_head))
    seen: list[tuple[int, int]] = []

    async def main() -> None:
        admission = told(10**9)

        def noted(fd: int, data: bytes, offset: int) -> int:
            seen.append((offset + len(data), admission.statistics().reserved_bytes - SLOT))
            return pwrite(fd, data, offset)

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", noted)
            async with mt.SafeDownloader(policy=ANY, admission=admission, spool_dir=memory).fetch(server.url("/")):
                assert holds(admission) == (0, 0, len(body))
        assert holds(admission) == NOTHING
        assert all(written <= reserved for written, reserved in seen)
        assert {reserved for _, reserved in seen} == {8 * mt.MiB, 16 * mt.MiB, 24 * mt.MiB}
        seen.clear()

    run(main)


def test_one_without_a_length_that_outgrows_everything_is_refused(run: Run, server: Server, memory: Path) -> None:
    """It is dropped as the newest, asks for what it is known to need beside its slot, and hears that it cannot be."""
    most_bytes, body = 7 * mt.MiB, bytes(9 * mt.MiB)
    server.routes["/"] = lambda exchange: exchange.send(b"HTTP/1.1 200 OK\r\n\r\n" + body * (not exchange.is_head))

    async def main() -> None:
        guard = SpoolGuard(memory, SLOT + most_bytes, largest=SLOT + most_bytes)
        admission = mt.AdmissionController(guard=guard, scope="process")
        downloader = mt.SafeDownloader(policy=ANY, admission=admission, spool_dir=memory)
        with pytest.raises(mt.AdmissionError, match="could never fit"):
            async with downloader.fetch(server.url("/")):
                pytest.fail("the file was handed out")
        assert (holds(admission), used_bytes(memory)) == (NOTHING, 0)

    run(main)


class Two:
    """An older download without a length, which wants more than there is beside a newer one.

    The older is answered when `older_goes` is set, and the rest of it comes with `older_ends`.
    """

    def __init__(self, server: Server, memory: Path) -> None:
        guard = SpoolGuard(memory, 2 * SLOT + len(BODY) + 100_000)
        self.admission = mt.AdmissionController(guard=guard, max_concurrent=2, scope="process")
        self.downloader = mt.SafeDownloader(policy=ANY, admission=self.admission, spool_dir=memory)
        self.older_goes, self.older_ends = threading.Event(), threading.Event()
        self.scopes = {"older": anyio.CancelScope(), "newer": anyio.CancelScope()}
        self.ended = {"older": anyio.Event(), "newer": anyio.Event()}
        self.whole: list[str] = []
        self._server = server
        server.on_head = lambda exchange: exchange.answer(status="405 Method Not Allowed")
        server.routes["/older"] = self._older
        server.routes["/newer"] = announced

    def _older(self, exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\n\r\n")
        assert self.older_goes.wait(_WAIT_SECONDS)
        exchange.send(BODY[: mt.MiB])
        assert self.older_ends.wait(_WAIT_SECONDS)
        exchange.send(BODY[mt.MiB :])

    async def download(self, name: str) -> None:
        with self.scopes[name]:
            async with self.downloader.fetch(self._server.url(f"/{name}")) as file:
                assert file.path.read_bytes() == BODY
                self.whole.append(name)
        self.ended[name].set()

    async def until_it_holds(self, active: int, waiting: int, reserved_bytes: int) -> None:
        while holds(self.admission) != (active, waiting, reserved_bytes):
            await anyio.lowlevel.checkpoint()


class HeldWrite:
    """Holds up the first write to the spool until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        pwrite = os.pwrite

        def held(fd: int, data: bytes, offset: int) -> int:
            if not self.begun.is_set():
                self.begun.set()
                assert self.go_on.wait(_WAIT_SECONDS)
            return pwrite(fd, data, offset)

        monkeypatch.setattr(os, "pwrite", held)


@pytest.mark.parametrize("cancels", [None, "older", "newer"])
def test_one_that_is_dropped_leaves_nothing(
    run: Run, server: Server, memory: Path, monkeypatch: pytest.MonkeyPatch, cancels: str | None
) -> None:
    """The older waits until its file is gone, and gets its bytes; it queues again. Either can be cancelled then."""

    async def main() -> None:
        server.requests.clear()
        two = Two(server, memory)
        both = SLOT + SLOT + len(BODY)
        with anyio.fail_after(_WAIT_SECONDS), monkeypatch.context() as patch:
            write = HeldWrite(patch)
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(two.download, "older")
                    await anyio.to_thread.run_sync(server.wait_for_requests, 2)
                    tasks.start_soon(two.download, "newer")
                    await anyio.to_thread.run_sync(write.begun.wait, _WAIT_SECONDS)
                    assert holds(two.admission) == (2, 0, both)
                    two.older_goes.set()
                    while not two.downloader._admitting.in_memory[-1]._scope.cancel_called:  # noqa: SLF001
                        await anyio.lowlevel.checkpoint()
                    assert holds(two.admission) == (2, 0, both)  # nobody takes what a thread still writes to
                    if cancels == "older":
                        two.scopes["older"].cancel()
                        await two.ended["older"].wait()
                    write.go_on.set()
                    if cancels != "older":
                        await two.until_it_holds(1, 1, SLOT + 8 * mt.MiB)  # the newer waits, and has nothing
                    if cancels == "newer":
                        two.scopes["newer"].cancel()
                        await two.until_it_holds(1, 0, SLOT + 8 * mt.MiB)
                    two.older_ends.set()
            finally:
                two.older_goes.set()
                two.older_ends.set()
        assert set(two.whole) == {"older", "newer"} - {cancels}
        assert (holds(two.admission), used_bytes(memory)) == (NOTHING, 0)

    run(main)


def test_one_that_is_dropped_twice_knows_what_it_needs(run: Run) -> None:
    """It may be dropped before it has heard its length again."""

    class Held:
        need_bytes = len(BODY)

        def try_grow(self, more_bytes: int) -> bool:
            return False

        def shrink(self, fewer_bytes: int) -> None:
            pass

        def mark_used(self, used_bytes: int) -> None:
            pass

    async def main() -> None:
        downloads: list[InMemory] = []
        older, newer = (InMemory(Held(), downloads, anyio.Event()) for _ in range(2))

        async def wants_more() -> None:
            with anyio.move_on_after(0):
                await older.cover(2 * len(BODY), used_bytes=0)

        with older.under_way(), pytest.raises(Dropped) as caught, newer.under_way():
            await wants_more()
            await anyio.sleep_forever()
        assert caught.value.need_bytes == len(BODY)

    run(main)


@pytest.mark.parametrize("is_announced", [True, False])
def test_a_full_disk_is_one_clear_error(run: Run, server: Server, tmp_path: Path, is_announced: bool) -> None:
    """On 4 MiB: nothing is tried again, no space, descriptor or reservation is left."""
    body = bytes(8 * mt.MiB)

    def answer(exchange: Exchange) -> None:
        head = f"Content-Length: {len(body)}" if is_announced else "Connection: close"
        exchange.send(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode())
        if not exchange.is_head:
            exchange.send(body)

    server.routes["/"] = answer

    async def main(spool_dir: Path) -> None:
        admission = told(10**9)
        downloader = mt.SafeDownloader(policy=ANY, admission=admission, spool_dir=spool_dir)
        with pytest.raises(mt.SpoolError, match="spool_dir") as caught:
            async with downloader.fetch(server.url("/")):
                pytest.fail("the file was handed out")
        assert (caught.value.spool_dir, caught.value.retryable) == (str(spool_dir), False)
        assert holds(admission) == NOTHING

    with tmpfs(tmp_path / "small", "size=4m") as spool_dir:
        run(main, spool_dir)
        assert list(spool_dir.iterdir()) == []
    assert len([each for each in server.requests if not each.is_head]) == (0 if is_announced else 1)
