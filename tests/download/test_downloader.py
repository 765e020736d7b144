"""SafeDownloader against real sockets: what comes in, and what servers get up to."""

import contextlib
import hashlib
import os
import socket
import struct
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import memsafe_transcribe as mt

from ..conftest import Run
from ..support.server import Exchange, Server

ANY = mt.UrlPolicy(allow_private=True)
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def fetched(run: Run, url: str, spool_dir: Path, **settings: Any) -> tuple[mt.DownloadedFile, bytes]:
    """Download to the end; the file's description and its bytes."""

    async def main() -> tuple[mt.DownloadedFile, bytes]:
        async with mt.SafeDownloader(policy=ANY, spool_dir=spool_dir, **settings).fetch(url) as file:
            return file, file.path.read_bytes()

    return run(main)  # type: ignore[no-any-return]


def refusals(
    run: Run, urls: Sequence[str], spool_dir: Path, *, policy: mt.UrlPolicy = ANY, **settings: Any
) -> list[mt.DownloadError]:
    """The errors that downloads end in, one after the other."""

    async def main() -> list[mt.DownloadError]:
        errors = []
        for url in urls:
            with pytest.raises(mt.DownloadError) as caught:
                async with mt.SafeDownloader(policy=policy, spool_dir=spool_dir, **settings).fetch(url):
                    pytest.fail(f"the file was handed out: {url}")
            errors.append(caught.value)
        return errors

    return run(main)  # type: ignore[no-any-return]


def refusal(run: Run, url: str, spool_dir: Path, **settings: Any) -> mt.DownloadError:
    """The error that a download ends in."""
    (error,) = refusals(run, [url], spool_dir, **settings)
    return error


def raw(*parts: bytes) -> Callable[[Exchange], None]:
    """A route that sends these bytes as they are, then hangs up."""
    return lambda exchange: exchange.send(b"".join(parts))


def chunk(data: bytes) -> bytes:
    """One chunk of the chunked transfer encoding."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def spooled_file(spool_dir: Path) -> str:
    """A path to the one nameless file that this process has open in a folder."""
    names = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    (found,) = [name for name in names if os.path.realpath(name).startswith(f"{spool_dir}/")]
    return found


def test_a_body_arrives_whole_and_the_file_has_no_name(run: Run, server: Server, spool_dir: Path) -> None:
    """The file can be read by its path, its hash is right, and its folder stays empty."""
    body = bytes(range(256)) * 20_000
    server.routes["/talk.mp3"] = lambda exchange: exchange.answer(body, Content_Type="audio/mpeg")

    async def main() -> None:
        async with mt.SafeDownloader(policy=ANY, spool_dir=spool_dir).fetch(server.url("/talk.mp3?key=secret")) as file:
            assert file.path.read_bytes() == body
            assert file.sha256 == hashlib.sha256(body).hexdigest()
            assert (file.size_bytes, file.content_type) == (len(body), "audio/mpeg")
            assert (file.suggested_filename, file.final_url) == ("talk.mp3", server.url("/talk.mp3"))
            assert list(spool_dir.iterdir()) == []

    run(main)


def test_progress_is_told_after_each_mib_and_at_the_end(run: Run, server: Server, spool_dir: Path) -> None:
    """The figures grow, the last one is the whole, and the announced length comes with each."""
    size = 3 * mt.MiB + 5
    server.routes["/"] = lambda exchange: exchange.answer(bytes(size))
    told: list[tuple[int, int | None]] = []

    async def main() -> None:
        downloader = mt.SafeDownloader(policy=ANY, spool_dir=spool_dir)
        async with downloader.fetch(server.url("/"), on_progress=lambda done, total: told.append((done, total))):
            pass

    run(main)
    done = [each for each, _ in told]
    steps = [after - before for before, after in pairwise([0, *done])]
    assert len(steps) > 2
    assert all(mt.MiB <= step < 2 * mt.MiB for step in steps[:-1])
    assert done[-1] == size
    assert {total for _, total in told} == {size}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/talk.mp3", "talk.mp3"),
        ("/", "download"),
        ("/a/%2e%2e", "download"),
        ("/..%2f..%2fpasswd", "passwd"),
        ("/..%5cx%00%0ay", "..xy"),
    ],
)
def test_the_suggested_filename_is_never_a_path(
    run: Run, server: Server, spool_dir: Path, path: str, name: str
) -> None:
    """Joined to a folder it stays inside, whatever the URL ends in."""
    server.routes[path] = server.routes["/"] = server.routes["/a/"] = lambda exchange: exchange.answer(b"x")
    file, _ = fetched(run, server.url(path), spool_dir)
    assert file.suggested_filename == name


@pytest.mark.parametrize("framed", ["by length", "in chunks"])
@pytest.mark.parametrize("cap", [1, 1000, 2 * mt.MiB])
def test_the_cap_itself_is_fine_and_one_byte_more_is_not(
    run: Run, server: Server, spool_dir: Path, framed: str, cap: int
) -> None:
    """However the body is framed."""

    def answer(body: bytes) -> Callable[[Exchange], None]:
        if framed == "by length":
            return lambda exchange: exchange.answer(body)
        return raw(CHUNKED, chunk(body), chunk(b""))

    server.routes["/fits"], server.routes["/more"] = answer(bytes(cap)), answer(bytes(cap + 1))
    file, body = fetched(run, server.url("/fits"), spool_dir, max_bytes=cap)
    assert (file.size_bytes, body) == (cap, bytes(cap))
    error = refusal(run, server.url("/more"), spool_dir, max_bytes=cap)
    assert isinstance(error, mt.DownloadTooLargeError)
    assert (error.size_bytes > cap, error.max_bytes) == (True, cap)


def test_of_an_endless_body_never_more_than_the_cap_is_written(run: Run, server: Server, spool_dir: Path) -> None:
    """The server keeps the nameless file open, and looks at its length when the client has gone."""
    cap = 2 * mt.MiB
    lengths = []

    def endless(exchange: Exchange) -> None:
        with open(spooled_file(spool_dir), "rb") as kept:
            exchange.send(CHUNKED)
            with contextlib.suppress(OSError):
                while True:
                    exchange.connection.sendall(chunk(bytes(60_000)))
            lengths.append(os.fstat(kept.fileno()).st_size)

    server.routes["/"] = endless
    error = refusal(run, server.url("/"), spool_dir, max_bytes=cap)
    assert isinstance(error, mt.DownloadTooLargeError)
    assert [mt.MiB <= length <= cap for length in lengths] == [True]


def test_an_announced_length_above_the_cap_is_refused_before_the_body(
    run: Run, server: Server, spool_dir: Path
) -> None:
    """The server never sends a body; the error has the announced length."""

    def head_only(exchange: Exchange) -> None:
        exchange.send(HEAD + b"Content-Length: 1001\r\n\r\n")
        exchange.hold_until_closed()

    server.routes["/"] = head_only
    error = refusal(run, server.url("/"), spool_dir, max_bytes=1000)
    assert isinstance(error, mt.DownloadTooLargeError)
    assert (error.size_bytes, error.max_bytes) == (1001, 1000)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(HEAD + b"Content-Length: 10\r\n\r\nshort", id="short body"),
        pytest.param(HEAD + b"Content-Length: 10\r\n\r\n", id="no body"),
        pytest.param(CHUNKED + chunk(b"whole"), id="no last chunk"),
        pytest.param(CHUNKED + b"a\r\nshort", id="short chunk"),
        pytest.param(CHUNKED + chunk(b"whole") + b"not hexadecimal\r\n", id="bad chunk size"),
        pytest.param(CHUNKED + b"5\r\nwhole, and more\r\n", id="chunk longer than it said"),
    ],
)
def test_a_body_that_breaks_off_is_truncated(run: Run, server: Server, spool_dir: Path, sent: bytes) -> None:
    """By its length, or by its framing."""
    server.routes["/"] = raw(sent)
    assert type(refusal(run, server.url("/"), spool_dir)) is mt.TruncatedDownloadError


def test_a_reset_in_mid_body_is_a_connection_error(run: Run, server: Server, spool_dir: Path) -> None:
    """The kernel says so, not the framing; the message says something too."""

    def reset(exchange: Exchange) -> None:
        exchange.send(HEAD + b"Content-Length: 10\r\n\r\nshort")
        exchange.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        exchange.connection.close()  # with this option, the kernel sends a reset

    server.routes["/"] = reset
    error = refusal(run, server.url("/"), spool_dir)
    assert type(error) is mt.DownloadConnectionError
    assert str(error).removeprefix(server.url("/: ")).strip()


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", id="another protocol"),
        pytest.param(b"\x00\xff" * 1000, id="noise"),
        pytest.param(b"HTTP/1.1 abc\r\n\r\n", id="no status"),
        pytest.param(HEAD + b"Content-Length: -1\r\n\r\nx", id="negative length"),
        pytest.param(HEAD + b"Content-Length: 0x10\r\n\r\nx", id="length not a number"),
        pytest.param(HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", id="conflicting lengths"),
        pytest.param(HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nx", id="length beyond all numbers"),
        pytest.param(HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n", id="compressed in transfer"),
        pytest.param(HEAD + b"X: " + b"x" * 1_000_000 + b"\r\n\r\nx", id="a megabyte of headers"),
        pytest.param(HEAD + b"Content-Length: 0\r\n\r\n", id="empty"),
        pytest.param(CHUNKED + chunk(b""), id="empty in chunks"),
        pytest.param(HEAD + b"\r\n", id="empty until closed"),
    ],
)
def test_what_is_not_proper_http_is_a_protocol_error(run: Run, server: Server, spool_dir: Path, sent: bytes) -> None:
    """Garbage, lengths that are none, endless headers, and a 200 without a body."""
    server.routes["/"] = raw(sent)
    assert type(refusal(run, server.url("/"), spool_dir)) is mt.DownloadProtocolError


def test_any_status_but_200_is_an_error(run: Run, server: Server, spool_dir: Path) -> None:
    """The error has the status as a figure; a Location where it means nothing is not followed."""
    statuses = [201, 204, 206, 300, 304, 400, 404, 429, 500, 503]
    for status in statuses:
        server.routes[f"/{status}"] = raw(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\nLocation: /x\r\n\r\n" % status)
    errors = refusals(run, [server.url(f"/{status}") for status in statuses], spool_dir)
    assert [isinstance(error, mt.HTTPStatusError) and error.status_code for error in errors] == statuses
    assert len(server.requests) == len(statuses)


def test_a_redirect_status_without_a_location_is_an_error(run: Run, server: Server, spool_dir: Path) -> None:
    """There is nowhere to go."""
    server.routes["/"] = lambda exchange: exchange.answer(b"moved", "302 Found")
    error = refusal(run, server.url("/"), spool_dir)
    assert isinstance(error, mt.HTTPStatusError)
    assert error.status_code == 302


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "identity, gzip", "whatever"])
def test_a_compressed_body_is_refused(run: Run, server: Server, spool_dir: Path, encoding: str) -> None:
    """Only the identity encoding was asked for."""
    server.routes["/"] = lambda exchange: exchange.answer(b"x", Content_Encoding=encoding)
    error = refusal(run, server.url("/"), spool_dir)
    assert type(error) is mt.DownloadProtocolError
    assert server.requests[0].headers["accept-encoding"] == "identity"


def test_the_identity_encoding_is_accepted(run: Run, server: Server, spool_dir: Path) -> None:
    """Servers may name it."""
    server.routes["/"] = lambda exchange: exchange.answer(b"x", Content_Encoding="Identity")
    assert fetched(run, server.url("/"), spool_dir)[1] == b"x"


def test_nobody_listening_is_a_connection_error(run: Run, spool_dir: Path) -> None:
    """The port is taken, so that no one else can listen on it either."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        error = refusal(run, f"http://127.0.0.1:{taken.getsockname()[1]}/", spool_dir)
    assert type(error) is mt.DownloadConnectionError
    assert isinstance(error, ConnectionError)


@pytest.mark.parametrize("sent", [b"", HEAD + b"Content-Length: 10\r\n\r\nshort"])
def test_a_server_that_falls_silent_is_a_timeout(
    run: Run, server: Server, spool_dir: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """Before its answer, or in the middle of it."""
    monkeypatch.setattr("memsafe_transcribe._download.transport.READ_SECONDS", 0.05)

    def silent(exchange: Exchange) -> None:
        exchange.send(sent)
        exchange.hold_until_closed()

    server.routes["/"] = silent
    error = refusal(run, server.url("/"), spool_dir)
    assert type(error) is mt.DownloadTimeoutError
    assert isinstance(error, TimeoutError)


def test_proxies_in_the_environment_are_ignored(
    run: Run, server: Server, spool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy would resolve and connect on its own, past the policy."""
    server.routes["/"] = lambda exchange: exchange.answer(b"direct")
    with Server() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url(""))
        assert fetched(run, server.url("/"), spool_dir)[1] == b"direct"
    assert proxy.requests == []


def test_a_cap_below_one_byte_is_a_bad_argument(spool_dir: Path) -> None:
    """Nothing could be downloaded."""
    with pytest.raises(ValueError, match="max_bytes"):
        mt.SafeDownloader(max_bytes=0, spool_dir=spool_dir)
