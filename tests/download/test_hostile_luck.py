"""A disk that fills up, and a crowd before a door that stays shut."""

import contextlib
import errno
import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

import memsafe_transcribe as mt

from ..conftest import Run
from ..support.needs import tmpfs
from ..support.server import Exchange, Handler, Server, knows_no_head
from .test_downloader import ANY, CHUNKED, HEAD, chunk, raw, refusal

_WAIT_SECONDS = 30.0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB, which has to be as empty afterwards as it was before."""
    with tmpfs(tmp_path / "disk", "size=4m") as folder:
        free = os.statvfs(folder).f_bfree
        yield folder
        assert (list(folder.iterdir()), os.statvfs(folder).f_bfree) == ([], free)


def is_no_space(error: mt.DownloadError, disk: Path) -> bool:
    """Whether it is the one clear error: which folder, why, and that trying again is no use."""
    assert isinstance(error, mt.SpoolError)
    assert (error.errno, error.spool_dir) == (errno.ENOSPC, str(disk))
    assert "spool_dir, or MEMSAFE_SPOOL_DIR" in str(error)
    return not error.retryable


def test_case_25_disk_full_in_mid_write_without_a_length(run: Run, server: Server, disk: Path) -> None:
    """One error, no second GET, nothing left."""

    def endless(exchange: Exchange) -> None:
        exchange.send(CHUNKED)
        exchange.send_for_ever(chunk(bytes(60_000)))

    server.routes["/"] = endless
    assert is_no_space(refusal(run, server.url("/"), disk), disk)
    assert len(server.gets) == 1


@pytest.mark.parametrize("on_head", [None, knows_no_head], ids=["HEAD", "GET"])
def test_case_25_more_than_the_disk_is_announced(run: Run, server: Server, disk: Path, on_head: Handler | None) -> None:
    """Refused before a byte comes, by HEAD if that says it, else by GET; a twentieth is left to others."""
    server.on_head = on_head
    server.routes["/"] = raw(HEAD + b"Content-Length: %d\r\n\r\n" % (4 * mt.MiB - 1))
    assert is_no_space(refusal(run, server.url("/"), disk), disk)
    assert len(server.gets) == (0 if on_head is None else 1)


def test_case_25_disk_full_in_mid_write_although_it_was_announced(run: Run, server: Server, disk: Path) -> None:
    """There was room when it began; then a neighbour took it."""
    begun = threading.Event()

    def route(exchange: Exchange) -> None:
        exchange.send(HEAD + b'ETag: "a"\r\nContent-Length: %d\r\n\r\n' % (3 * mt.MiB))
        if exchange.is_head:
            return
        exchange.send(bytes(2 * mt.MiB))
        assert begun.wait(_WAIT_SECONDS)
        with (disk / "neighbour").open("wb", buffering=0) as neighbour, contextlib.suppress(OSError):
            while True:
                neighbour.write(bytes(mt.MiB))
        exchange.send(bytes(mt.MiB))

    server.routes["/"] = route
    asked = {"on_progress": lambda done, total: begun.set()}
    error = refusal(run, server.url("/"), disk, asked=asked)
    (disk / "neighbour").unlink()
    assert is_no_space(error, disk)
    assert len(server.gets) == 1


def test_case_25_the_next_download_finds_room_again(run: Run, server: Server, disk: Path) -> None:
    """What failed gave back its space and its reservation; a full disk says nothing of the URL."""
    server.routes["/"] = lambda exchange: exchange.send(
        CHUNKED + (chunk(bytes(5 * mt.MiB)) if len(server.gets) == 1 else chunk(b"here")) + chunk(b"")
    )

    async def main() -> None:
        admission = mt.AdmissionController(max_concurrent=1, scope="process")
        downloader = mt.SafeDownloader(policy=ANY, admission=admission, spool_dir=disk)
        with pytest.raises(mt.SpoolError):
            async with downloader.fetch(server.url("/")):
                pytest.fail("the file was handed out")
        assert (admission.statistics().active, admission.statistics().reserved_bytes) == (0, 0)
        async with downloader.fetch(server.url("/")) as file:
            assert file.path.read_bytes() == b"here"

    run(main)


@pytest.mark.parametrize(
    ("sent", "first"),
    [
        pytest.param(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", mt.HTTPStatusError, id="404"),
        pytest.param(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", mt.HTTPStatusError, id="503"),
        pytest.param(HEAD + b"Content-Length: 10\r\n\r\nshort", mt.TruncatedDownloadError, id="truncated"),
        pytest.param(HEAD + b"Content-Length: 0\r\n\r\n", mt.DownloadProtocolError, id="empty"),
        pytest.param(b"", mt.DownloadProtocolError, id="nothing"),
    ],
)
def test_case_26_a_hundred_at_once_for_one_failing_url(
    run: Run, server: Server, spool_dir: Path, sent: bytes, first: type[mt.DownloadError]
) -> None:
    """The first finds out, with one GET, while all others wait; they are told what it found."""
    go_on = threading.Event()

    def route(exchange: Exchange) -> None:
        assert go_on.wait(_WAIT_SECONDS)
        exchange.send(sent)

    server.on_head = knows_no_head
    server.routes["/"] = route
    errors: list[mt.DownloadError] = []

    async def main() -> None:
        downloader = mt.SafeDownloader(policy=ANY, spool_dir=spool_dir, max_attempts=1)

        async def download() -> None:
            with pytest.raises(mt.DownloadError) as caught:
                async with downloader.fetch(server.url("/")):
                    pytest.fail("the file was handed out")
            errors.append(caught.value)

        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(download)
            await anyio.to_thread.run_sync(server.wait_for_requests, 2)
            await anyio.wait_all_tasks_blocked()
            assert errors == []
            go_on.set()

    run(main)
    assert Counter(map(type, errors)) == {first: 1, mt.KnownBadUrlError: 99}
    assert [request.method for request in server.requests] == ["HEAD", "GET"]
    assert len({getattr(error, "status_code", None) for error in errors}) == 1


def test_case_26_a_hundred_at_once_where_it_is_only_the_cap(run: Run, server: Server, spool_dir: Path) -> None:
    """That is our own refusal, which another caller may not share: each asks, and is refused by HEAD."""
    server.routes["/"] = lambda exchange: exchange.answer(bytes(1001))
    errors: list[type[mt.DownloadError]] = []

    async def main() -> None:
        downloader = mt.SafeDownloader(policy=ANY, spool_dir=spool_dir, max_bytes=1000)

        async def download() -> None:
            with pytest.raises(mt.DownloadError) as caught:
                async with downloader.fetch(server.url("/")):
                    pytest.fail("the file was handed out")
            errors.append(type(caught.value))

        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(download)

    run(main)
    assert errors == [mt.DownloadTooLargeError] * 100
    assert (len(server.requests), server.gets) == (100, [])
