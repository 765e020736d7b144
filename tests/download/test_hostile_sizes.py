"""Servers that send too much: bodies, headers, and what unpacks to a thousand times its size."""

import gzip
import os
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import memsafe_transcribe as mt

from ..conftest import Run
from ..support.server import Exchange, Server, knows_no_head
from .test_downloader import CHUNKED, HEAD, chunk, fetched, raw, refusal, spooled_file

_BLOCK = bytes(60_000)
_GZIP = HEAD + b"Content-Encoding: gzip\r\n"
MOST_BYTES = 6 * mt.MiB  # of memory, as `fetch` says


@contextmanager
def flat() -> Iterator[None]:
    """What is allocated meanwhile, at any one time, is no more than a download may take."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < MOST_BYTES


def test_case_01_length_over_the_cap_on_head(run: Run, server: Server, spool_dir: Path) -> None:
    """GET is never sent; the error has the announced length."""
    server.routes["/"] = lambda exchange: exchange.answer(bytes(1001))
    error = refusal(run, server.url("/"), spool_dir, max_bytes=1000)
    assert isinstance(error, mt.DownloadTooLargeError)
    assert (error.size_bytes, error.max_bytes) == (1001, 1000)
    assert [request.method for request in server.requests] == ["HEAD"]


def test_case_01_length_over_the_cap_where_head_is_redirected(run: Run, server: Server, spool_dir: Path) -> None:
    """It is the end of the way that counts."""
    server.routes["/"] = lambda exchange: exchange.answer(status="302 Found", Location="/end")
    server.routes["/end"] = lambda exchange: exchange.answer(bytes(1001))
    assert type(refusal(run, server.url("/"), spool_dir, max_bytes=1000)) is mt.DownloadTooLargeError
    assert server.gets == []


def test_case_01_length_over_the_free_space_on_head(run: Run, server: Server, spool_dir: Path) -> None:
    """No disk has so much room: GET is never sent here either."""
    server.routes["/"] = raw(HEAD + b"Content-Length: %d\r\n\r\n" % 10**17)
    error = refusal(run, server.url("/"), spool_dir, max_bytes=10**18)
    assert type(error) is mt.SpoolError
    assert server.gets == []


def test_case_01_length_of_an_error_on_head_decides_nothing(run: Run, server: Server, spool_dir: Path) -> None:
    """It is that of a page that says what is wrong."""
    server.on_head = raw(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 1001\r\n\r\n")
    server.routes["/"] = lambda exchange: exchange.answer(b"here")
    assert fetched(run, server.url("/"), spool_dir, max_bytes=1000)[1] == b"here"


def test_case_02_small_on_head_and_large_on_get(run: Run, server: Server, spool_dir: Path) -> None:
    """Refused by the announced length. The server keeps the nameless file open: nothing was ever written to it."""
    lengths = []

    def head_only(exchange: Exchange) -> None:
        with open(spooled_file(spool_dir), "rb") as kept:
            exchange.send(HEAD + b"Content-Length: 1001\r\n\r\n" + bytes(1000))
            exchange.hold_until_closed()
            lengths.append(os.fstat(kept.fileno()).st_size)

    server.on_head = lambda exchange: exchange.answer(bytes(5))
    server.routes["/"] = head_only
    error = refusal(run, server.url("/"), spool_dir, max_bytes=1000)
    assert isinstance(error, mt.DownloadTooLargeError)
    assert (error.size_bytes, error.max_bytes) == (1001, 1000)
    assert (len(server.gets), lengths) == (1, [0])


def test_case_02_small_on_head_and_large_in_fact(run: Run, server: Server, spool_dir: Path) -> None:
    """What HEAD announced is no promise that GET keeps, or breaks: only the cap counts."""
    server.on_head = lambda exchange: exchange.answer(bytes(5))
    server.routes["/fits"] = lambda exchange: exchange.answer(bytes(1000))
    server.routes["/more"] = raw(CHUNKED, chunk(bytes(1001)), chunk(b""))
    assert fetched(run, server.url("/fits"), spool_dir, max_bytes=1000)[0].size_bytes == 1000
    assert type(refusal(run, server.url("/more"), spool_dir, max_bytes=1000)) is mt.DownloadTooLargeError


@pytest.mark.parametrize("head", [CHUNKED, HEAD + b"\r\n"], ids=["in chunks", "until closed"])
def test_case_03_endless_body_without_a_length(run: Run, server: Server, spool_dir: Path, head: bytes) -> None:
    """Never more than the cap is written: the server keeps the nameless file open, and looks at its length when the
    client has gone. It is not asked again.
    """
    cap = 4 * mt.MiB
    lengths = []

    def endless(exchange: Exchange) -> None:
        with open(spooled_file(spool_dir), "rb") as kept:
            exchange.send(head)
            exchange.send_for_ever(chunk(_BLOCK) if head == CHUNKED else _BLOCK)
            lengths.append(os.fstat(kept.fileno()).st_size)

    server.on_head = knows_no_head
    server.routes["/"] = endless
    with flat():
        error = refusal(run, server.url("/"), spool_dir, max_bytes=cap)
    assert isinstance(error, mt.DownloadTooLargeError)
    assert [cap / 2 <= length <= cap for length in lengths] == [True]


@pytest.mark.parametrize("framed", ["by length", "in chunks", "until closed"])
@pytest.mark.parametrize("cap", [1, 1000, 2 * mt.MiB])
def test_case_04_05_exactly_the_cap_and_one_byte_more(
    run: Run, server: Server, spool_dir: Path, framed: str, cap: int
) -> None:
    """The first is fine, the second is not, however the body is framed, and where only GET can tell."""

    def answer(body: bytes) -> Callable[[Exchange], None]:
        if framed == "by length":
            return lambda exchange: exchange.answer(body)
        return raw(CHUNKED, chunk(body), chunk(b"")) if framed == "in chunks" else raw(HEAD, b"\r\n", body)

    server.on_head = knows_no_head
    server.routes["/fits"], server.routes["/more"] = answer(bytes(cap)), answer(bytes(cap + 1))
    file, body = fetched(run, server.url("/fits"), spool_dir, max_bytes=cap)
    assert (file.size_bytes, body) == (cap, bytes(cap))
    error = refusal(run, server.url("/more"), spool_dir, max_bytes=cap)
    assert isinstance(error, mt.DownloadTooLargeError)
    assert (error.size_bytes > cap, error.max_bytes) == (True, cap)
    assert [request.path for request in server.gets] == ["/fits", "/more"]


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "identity, gzip", "whatever"])
def test_case_12_a_compressed_body_is_refused(run: Run, server: Server, spool_dir: Path, encoding: str) -> None:
    """Only the identity encoding was asked for; it is not asked again."""
    server.routes["/"] = lambda exchange: exchange.answer(b"x", Content_Encoding=encoding)
    assert type(refusal(run, server.url("/"), spool_dir)) is mt.DownloadProtocolError
    assert [request.headers["accept-encoding"] for request in server.gets] == ["identity"]


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "gzip, br"])
def test_case_12_where_gzip_is_allowed_nothing_else_is(
    run: Run, server: Server, spool_dir: Path, encoding: str
) -> None:
    """Gzip in gzip would be a bomb of a million to one."""
    server.routes["/"] = lambda exchange: exchange.answer(b"x", Content_Encoding=encoding)
    assert type(refusal(run, server.url("/"), spool_dir, allow_gzip=True)) is mt.DownloadProtocolError
    assert [request.headers["accept-encoding"] for request in server.gets] == ["gzip"]


def test_case_12_gzip_is_unpacked_where_it_is_allowed(run: Run, server: Server, spool_dir: Path) -> None:
    """Its length on the wire is not that of the file; a body that is not compressed is fine as well."""
    body = bytes(range(256)) * 10_000
    server.routes["/"] = lambda exchange: exchange.answer(gzip.compress(body), Content_Encoding="gzip")
    server.routes["/plain"] = lambda exchange: exchange.answer(body)
    for path in ("/", "/plain"):
        file, unpacked = fetched(run, server.url(path), spool_dir, allow_gzip=True)
        assert (file.size_bytes, unpacked) == (len(body), body)


def test_case_12_gzip_bomb(run: Run, server: Server, spool_dir: Path) -> None:
    """128 KiB are said to be 128 MiB: too large, and memory is flat up to there."""
    bomb = gzip.compress(bytes(128 * mt.MiB))
    server.routes["/"] = raw(_GZIP + b"Content-Length: %d\r\n\r\n" % len(bomb), bomb)
    with flat():
        error = refusal(run, server.url("/"), spool_dir, allow_gzip=True, max_bytes=32 * mt.MiB)
    assert isinstance(error, mt.DownloadTooLargeError)
    assert len(server.gets) == 1


def test_case_12_gzip_that_is_none_or_ends_early(run: Run, server: Server, spool_dir: Path) -> None:
    """The first is not asked again; the second is, and never continued: it is packed anew each time."""
    packed = gzip.compress(os.urandom(10_000))
    server.on_head = knows_no_head
    server.routes["/none"] = lambda exchange: exchange.answer(bytes(100), Content_Encoding="gzip")
    server.routes["/short"] = raw(_GZIP + b'ETag: "a"\r\nContent-Length: 5000\r\n\r\n', packed[:5000])
    assert type(refusal(run, server.url("/none"), spool_dir, allow_gzip=True)) is mt.DownloadProtocolError
    assert len(server.gets) == 1
    assert type(refusal(run, server.url("/short"), spool_dir, allow_gzip=True)) is mt.TruncatedDownloadError
    assert [request.headers.get("range") for request in server.gets] == [None] * 5


@pytest.mark.parametrize(
    ("head", "again"),
    [
        pytest.param(HEAD, b"X-Name: " + b"x" * 1000 + b"\r\n", id="lines"),
        pytest.param(HEAD, b"X: y\r\n", id="short lines"),
        pytest.param(HEAD + b"X-Name: ", b"x" * 1000, id="one line"),
        pytest.param(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", id="103 without end"),
        pytest.param(b"", b"HTTP/1.1 100 Continue\r\n\r\n", id="100 without end"),
        pytest.param(b"", b"x", id="a first line without end"),
        pytest.param(CHUNKED + b"1\r\nx\r\n1;", b"extension" * 100, id="a chunk's extension without end"),
        pytest.param(CHUNKED + b"1\r\nx\r\n0\r\n", b"X-Name: x\r\n" * 100, id="trailers without end"),
    ],
)
def test_case_13_headers_without_end(run: Run, server: Server, spool_dir: Path, head: bytes, again: bytes) -> None:
    """An error, within the memory of any download, and long before the server is through with 100 MB of them."""
    again *= 1 + 50_000 // len(again)
    sent_bytes = []

    def endless(exchange: Exchange) -> None:
        exchange.send(head)
        sent_bytes.append(exchange.send_for_ever(again))

    server.routes["/"] = endless
    with flat():
        error = refusal(run, server.url("/"), spool_dir, max_attempts=2)
    assert isinstance(error, mt.DownloadProtocolError)
    assert 0 < len(server.gets) <= 2
    assert max(sent_bytes) < 16 * mt.MiB  # most of it has only filled the buffers of two sockets
