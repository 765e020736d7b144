"""Servers that drop a body, and get up to something when they are asked for the rest of it."""

import email.utils
import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import memsafe_transcribe as mt

from ..conftest import Run
from ..support.server import Exchange, Handler, Server, in_turn, knows_no_head
from .test_downloader import HEAD, chunk, fetched, raw, refusal

BODY, OTHER = b"0123456789", b"abcdefghijkl"
STRONG = b'ETag: "a"\r\n'
HALF = raw(HEAD + STRONG + b"Content-Length: 10\r\n\r\n" + BODY[:5])
HALF_IN_CHUNKS = raw(HEAD + STRONG + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(BODY[:5]))


def whole(exchange: Exchange) -> None:
    """The body, ranges or not."""
    exchange.answer(BODY, ETag='"a"')


def part(content_range: str | None, body: bytes = BODY[5:], **headers: str) -> Handler:
    """A 206 of these bytes, under this range."""
    if content_range is not None:
        headers["Content_Range"] = content_range
    return lambda exchange: exchange.answer(body, "206 Partial Content", **{"ETag": '"a"', **headers})


def beyond(content_range: str) -> Handler:
    """A 416."""
    return lambda exchange: exchange.answer(status="416 Range Not Satisfiable", Content_Range=content_range)


def ranges(server: Server) -> list[str | None]:
    """What each GET asked for."""
    return [request.headers.get("range") for request in server.gets]


@pytest.fixture
def server(server: Server) -> Server:
    """One that leaves all to GET."""
    server.on_head = knows_no_head
    return server


@pytest.mark.parametrize("first", [HALF, HALF_IN_CHUNKS], ids=["by length", "in chunks"])
def test_case_08_short_body_is_continued(run: Run, server: Server, spool_dir: Path, first: Handler) -> None:
    """With a strong ETag only the rest is asked for, and the hash is that of the whole."""
    server.routes["/"] = in_turn(first, part("bytes 5-9/10"))
    file, body = fetched(run, server.url("/"), spool_dir)
    assert (body, file.sha256, file.size_bytes) == (BODY, hashlib.sha256(BODY).hexdigest(), 10)
    assert ranges(server) == [None, "bytes=5-"]
    assert server.gets[1].headers["if-range"] == '"a"'
    assert server.gets[1].headers["accept-encoding"] == "identity"


def test_case_08_short_body_without_an_etag_is_retried(run: Run, server: Server, spool_dir: Path) -> None:
    """From the beginning: nothing says that the rest would be of the same file."""
    server.routes["/"] = in_turn(raw(HEAD + b"Content-Length: 12\r\n\r\n" + OTHER[:5]), whole)
    assert fetched(run, server.url("/"), spool_dir)[1] == BODY
    assert ranges(server) == [None, None]


def test_case_08_a_status_that_passes_in_between_loses_nothing(run: Run, server: Server, spool_dir: Path) -> None:
    """What came in before is kept."""
    busy: Handler = lambda exchange: exchange.answer(status="503 Service Unavailable")  # noqa: E731
    server.routes["/"] = in_turn(HALF, busy, part("bytes 5-9/10"))
    assert fetched(run, server.url("/"), spool_dir)[1] == BODY
    assert ranges(server) == [None, "bytes=5-", "bytes=5-"]


def test_case_08_the_rest_through_a_redirect(run: Run, server: Server, spool_dir: Path) -> None:
    """Each attempt begins at the first URL, and the range goes along."""
    server.routes["/"] = lambda exchange: exchange.answer(status="302 Found", Location="/end")
    server.routes["/end"] = in_turn(HALF, part("bytes 5-9/10"))
    file, body = fetched(run, server.url("/"), spool_dir)
    assert (body, file.final_url) == (BODY, server.url("/end"))
    assert ranges(server) == [None, None, "bytes=5-", "bytes=5-"]


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(HEAD + b"Content-Length: 10\r\n\r\nshort", id="short body"),
        pytest.param(HEAD + b"Content-Length: 10\r\n\r\n", id="no body"),
        pytest.param(HEAD + STRONG + b"Content-Length: 10\r\n\r\nshort", id="with an ETag, but no ranges"),
    ],
)
def test_case_08_short_for_ever_is_truncated(run: Run, server: Server, spool_dir: Path, sent: bytes) -> None:
    """After four attempts."""
    server.routes["/"] = raw(sent)
    error = refusal(run, server.url("/"), spool_dir)
    assert (type(error), error.retryable) == (mt.TruncatedDownloadError, True)
    assert len(server.gets) == 4


@pytest.mark.parametrize("first", [HALF, HALF_IN_CHUNKS], ids=["by length", "in chunks"])
@pytest.mark.parametrize(
    "second",
    [
        pytest.param(part("bytes 0-4/10", BODY[:5]), id="from the beginning"),
        pytest.param(part("bytes 4-9/10", BODY[4:]), id="from before"),
        pytest.param(part("bytes 6-9/10", BODY[6:]), id="from behind"),
        pytest.param(part(None), id="without Content-Range"),
        pytest.param(part("nonsense"), id="nonsense for Content-Range"),
        pytest.param(part("items 5-9/10"), id="of another unit"),
        pytest.param(part("bytes 5-9/9"), id="beyond its own total"),
        pytest.param(part("bytes */10"), id="without a range"),
        pytest.param(part("bytes 5-9/10", Content_Length="4"), id="of another length"),
        pytest.param(part("bytes 5-7/10", BODY[5:8]), id="not all of the rest"),
        pytest.param(part("bytes 5-9/10", Content_Type="multipart/byteranges; boundary=x"), id="multipart"),
        pytest.param(part("bytes 5-9/10", Content_Encoding="gzip"), id="compressed"),
        pytest.param(part("bytes 5-9/10", ETag='"b"'), id="with another ETag"),
        pytest.param(part("bytes 5-9/10", ETag='W/"a"'), id="with a weak ETag"),
        pytest.param(raw(b"HTTP/1.1 206 X\r\nContent-Range: bytes 5-9/10\r\n\r\n56789"), id="without an ETag"),
    ],
)
def test_case_15_a_206_that_is_not_the_rest(
    run: Run, server: Server, spool_dir: Path, first: Handler, second: Handler
) -> None:
    """Started over, without a range: the content is right."""
    server.routes["/"] = in_turn(first, second, whole)
    assert fetched(run, server.url("/"), spool_dir)[1] == BODY
    assert ranges(server) == [None, "bytes=5-", None]


@pytest.mark.parametrize("content_range", ["bytes 5-9/11", "bytes 5-10/11", "bytes 5-10/*"])
def test_case_15_a_206_with_another_total(run: Run, server: Server, spool_dir: Path, content_range: str) -> None:
    """Than the Content-Length of the first answer: started over."""
    server.routes["/"] = in_turn(HALF, part(content_range), whole)
    assert fetched(run, server.url("/"), spool_dir)[1] == BODY
    assert ranges(server) == [None, "bytes=5-", None]


@pytest.mark.parametrize("first", [HALF, HALF_IN_CHUNKS], ids=["by length", "in chunks"])
@pytest.mark.parametrize("sent", [BODY[5:7], BODY[5:] + b"and more"], ids=["less", "more"])
def test_case_15_a_206_with_another_body_than_it_says(
    run: Run, server: Server, spool_dir: Path, first: Handler, sent: bytes
) -> None:
    """It has no length of its own, and ends where the server hangs up: never taken for the whole."""
    lying = raw(b"HTTP/1.1 206 X\r\n" + STRONG + b"Content-Range: bytes 5-9/10\r\n\r\n" + sent)
    server.routes["/"] = in_turn(first, lying, beyond("bytes */10"), whole)
    assert fetched(run, server.url("/"), spool_dir)[1] == BODY
    server.routes["/"] = in_turn(first, lying, beyond("bytes */10"))
    assert isinstance(refusal(run, server.url("/"), spool_dir), mt.DownloadError)


def test_case_15_a_206_that_was_not_asked_for(run: Run, server: Server, spool_dir: Path) -> None:
    """An error, even if it is said to be all: to ask again would be the same once more."""
    server.routes["/"] = part("bytes 0-9/10", BODY)
    error = refusal(run, server.url("/"), spool_dir)
    assert isinstance(error, mt.HTTPStatusError)
    assert (error.status_code, ranges(server)) == (206, [None])


def test_case_15_never_the_rest_is_bounded(run: Run, server: Server, spool_dir: Path) -> None:
    """The whole breaks off each time, and the rest is never the rest: four attempts, of two requests at most."""

    def route(exchange: Exchange) -> None:
        (part("bytes 0-4/10", BODY[:5]) if "range" in exchange.headers else HALF)(exchange)

    server.routes["/"] = route
    assert type(refusal(run, server.url("/"), spool_dir)) is mt.TruncatedDownloadError
    assert ranges(server) == [None, *["bytes=5-", None] * 3]


def test_case_15_the_rest_is_held_to_the_cap(run: Run, server: Server, spool_dir: Path) -> None:
    """The first half has no length; the second says it, or just goes on."""
    server.routes["/"] = in_turn(HALF_IN_CHUNKS, part("bytes 5-9/10"))
    assert type(refusal(run, server.url("/"), spool_dir, max_bytes=9)) is mt.DownloadTooLargeError
    assert ranges(server) == [None, "bytes=5-"]


@pytest.mark.parametrize("etag", ['"b"', 'W/"a"', None])
def test_case_16_etag_changed_in_between(run: Run, server: Server, spool_dir: Path, etag: str | None) -> None:
    """The answer is another file, and whole: nothing of the first stays."""
    headers = {} if etag is None else {"ETag": etag}
    server.routes["/"] = in_turn(HALF, lambda exchange: exchange.answer(OTHER, Content_Type="audio/x", **headers))
    file, body = fetched(run, server.url("/"), spool_dir)
    assert (body, file.sha256, file.content_type) == (OTHER, hashlib.sha256(OTHER).hexdigest(), "audio/x")
    assert ranges(server) == [None, "bytes=5-"]


def test_case_16_the_new_file_breaks_off_too(run: Run, server: Server, spool_dir: Path) -> None:
    """Then it is the new one that is continued, by its own ETag."""
    second = raw(HEAD + b'ETag: "b"\r\nContent-Length: 12\r\n\r\n' + OTHER[:3])
    server.routes["/"] = in_turn(HALF, second, part("bytes 3-11/12", OTHER[3:], ETag='"b"'))
    assert fetched(run, server.url("/"), spool_dir)[1] == OTHER
    assert ranges(server) == [None, "bytes=5-", "bytes=3-"]
    assert server.gets[2].headers["if-range"] == '"b"'


def old(exchange_date: float, age_seconds: float) -> bytes:
    """The lines of an answer to a file that was changed so long before."""
    dates = [email.utils.formatdate(moment, usegmt=True) for moment in (exchange_date, exchange_date - age_seconds)]
    return "Date: {}\r\nLast-Modified: {}\r\n".format(*dates).encode()


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(b'ETag: W/"a"\r\n', id="weak ETag"),
        pytest.param(b'ETag: W/"a"\r\n' + old(time.time(), 3600), id="weak ETag and an old date"),
        pytest.param(b"ETag: a\r\n", id="ETag without quotes"),
        pytest.param(old(time.time(), 1), id="date of a second ago"),
        pytest.param(STRONG + b"Accept-Ranges: none\r\n", id="no ranges"),
    ],
)
def test_case_16_never_if_range_by_what_is_not_strong(run: Run, server: Server, spool_dir: Path, lines: bytes) -> None:
    """Started over, although the server would have sent the rest."""
    server.routes["/"] = in_turn(raw(HEAD + lines + b"Content-Length: 10\r\n\r\n" + BODY[:5]), whole)
    assert fetched(run, server.url("/"), spool_dir)[1] == BODY
    assert ranges(server) == [None, None]
    assert [request.headers.get("if-range") for request in server.gets] == [None, None]


def test_case_16_if_range_by_an_old_date(run: Run, server: Server, spool_dir: Path) -> None:
    """Where there is no ETag at all."""
    lines = old(time.time(), 3600)
    modified = lines.decode().partition("Last-Modified: ")[2].strip()
    rest = raw(b"HTTP/1.1 206 X\r\n" + lines + b"Content-Range: bytes 5-9/10\r\nContent-Length: 5\r\n\r\n" + BODY[5:])
    server.routes["/"] = in_turn(raw(HEAD + lines + b"Content-Length: 10\r\n\r\n" + BODY[:5]), rest)
    assert fetched(run, server.url("/"), spool_dir)[1] == BODY
    assert server.gets[1].headers["if-range"] == modified


def test_case_17_416_with_the_known_total(run: Run, server: Server, spool_dir: Path) -> None:
    """All had come in, only the last chunk was missing: done."""
    server.routes["/"] = in_turn(HALF_IN_CHUNKS, beyond("bytes */5"))
    file, body = fetched(run, server.url("/"), spool_dir)
    assert (body, file.sha256) == (BODY[:5], hashlib.sha256(BODY[:5]).hexdigest())
    assert ranges(server) == [None, "bytes=5-"]


@pytest.mark.parametrize("first", [HALF, HALF_IN_CHUNKS], ids=["by length", "in chunks"])
@pytest.mark.parametrize("content_range", ["bytes */10", "bytes */4", "bytes */*", "bytes 5-9/10", "nonsense"])
def test_case_17_416_with_another_total(
    run: Run, server: Server, spool_dir: Path, first: Handler, content_range: str
) -> None:
    """Started over."""
    server.routes["/"] = in_turn(first, beyond(content_range), whole)
    assert fetched(run, server.url("/"), spool_dir)[1] == BODY
    assert ranges(server) == [None, "bytes=5-", None]


def dropping(size_bytes: int, each_bytes: int, lines: bytes = STRONG) -> Callable[[Exchange], None]:
    """A route that hangs up after so many bytes of each answer."""

    def route(exchange: Exchange) -> None:
        first = int(exchange.headers.get("range", "bytes=0-")[len("bytes=") : -1])
        last = size_bytes - 1
        status = (
            f"206 X\r\nContent-Range: bytes {first}-{last}/{size_bytes}" if "range" in exchange.headers else "200 X"
        )
        head = f"HTTP/1.1 {status}\r\nContent-Length: {size_bytes - first}\r\n".encode()
        exchange.send(head + lines + b"\r\n" + bytes(min(each_bytes, size_bytes - first)))

    return route


@pytest.mark.parametrize("lines", [STRONG, b""], ids=["ranges", "no ranges"])
def test_case_18_drops_after_each_byte_for_ever(run: Run, server: Server, spool_dir: Path, lines: bytes) -> None:
    """A byte is no progress: four attempts."""
    server.routes["/"] = dropping(1000, 1, lines)
    assert type(refusal(run, server.url("/"), spool_dir)) is mt.TruncatedDownloadError
    assert ranges(server) == [None, *[f"bytes={first}-" if lines else None for first in (1, 2, 3)]]


def test_case_18_drops_after_each_mib_and_gets_through(run: Run, server: Server, spool_dir: Path) -> None:
    """That is progress: there may be more attempts than four."""
    server.routes["/"] = dropping(8 * mt.MiB, mt.MiB)
    file, _ = fetched(run, server.url("/"), spool_dir)
    assert file.sha256 == hashlib.sha256(bytes(8 * mt.MiB)).hexdigest()
    assert ranges(server) == [None, *[f"bytes={first * mt.MiB}-" for first in range(1, 8)]]


def test_case_18_the_same_mib_again_and_again_is_bounded(run: Run, server: Server, spool_dir: Path) -> None:
    """Without ranges the first MiB is progress once."""
    server.routes["/"] = dropping(8 * mt.MiB, mt.MiB, b"")
    assert type(refusal(run, server.url("/"), spool_dir)) is mt.TruncatedDownloadError
    assert ranges(server) == [None] * 5


def test_case_18_an_end_that_moves_away_is_bounded(run: Run, server: Server, spool_dir: Path) -> None:
    """Each part brings a MiB, and says that there are two more: at the second total it is started over."""

    def route(exchange: Exchange) -> None:
        first = int(exchange.headers.get("range", "bytes=0-")[len("bytes=") : -1])
        total = first + 3 * mt.MiB
        head = b"HTTP/1.1 206 X\r\nContent-Range: bytes %d-%d/%d\r\n" % (first, total - 1, total) if first else HEAD
        exchange.send(head + STRONG + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(bytes(mt.MiB)))

    server.routes["/"] = route
    assert type(refusal(run, server.url("/"), spool_dir)) is mt.TruncatedDownloadError
    assert len(server.gets) <= 12
