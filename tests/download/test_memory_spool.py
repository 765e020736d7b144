"""A spool that is memory: its bytes are reserved before they are written, and until the file closes."""

import logging
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

import memsafe_transcribe as mt

from ..admission.room import NOTHING, holds, told
from ..conftest import Run
from ..support.needs import tmpfs
from ..support.server import Exchange, Server

ANY = mt.UrlPolicy(allow_private=True)
BODY = random.Random(7).randbytes(3 * mt.MiB)
SLOT = 6 * mt.MiB  # what a download reserves while it runs
_WAIT_SECONDS = 30.0


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


class Told(logging.Handler):
    """Waits for an event that a download logs."""

    def __init__(self, event: str) -> None:
        super().__init__(logging.INFO)
        self._event = event
        self.has_come = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "event", None) == self._event:
            self.has_come.set()


@pytest.fixture
def dropped() -> Iterator[threading.Event]:
    """Is set when a download is dropped."""
    logger, told_of_it = logging.getLogger("memsafe_transcribe.download"), Told("dropped")
    level = logger.level
    logger.addHandler(told_of_it)
    logger.setLevel(logging.INFO)
    yield told_of_it.has_come
    logger.removeHandler(told_of_it)
    logger.setLevel(level)


@pytest.mark.parametrize("count", [2, 3])
def test_the_newest_makes_room_for_the_older_ones(
    run: Run, server: Server, memory: Path, dropped: threading.Event, count: int
) -> None:
    """There is room for one file at a time: a newer one is dropped, and all come in, one after the other, unharmed."""

    def patient(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY))
        if not exchange.is_head:
            assert dropped.wait(_WAIT_SECONDS)
            exchange.send(BODY)

    server.routes["/"] = patient

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
