"""Servers that answer HEAD badly, break HTTP, or ask to be left alone."""

import email.utils
import time
from pathlib import Path

import anyio
import pytest

import memsafe_transcribe as mt

from ..conftest import Run
from ..support.server import Exchange, Handler, Server, in_turn, knows_no_head
from .test_downloader import ANY, CHUNKED, HEAD, chunk, fetched, raw, refusal, refusals


def busy(status: str = "503 Service Unavailable", **headers: str) -> Handler:
    """A route that cannot be had just now."""
    return lambda exchange: exchange.answer(b"busy", status, **headers)


def here(exchange: Exchange) -> None:
    """A route as it should be."""
    exchange.answer(b"here")


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between attempts, which are over at once."""
    asked = []

    async def sleep(seconds: float) -> None:
        asked.append(seconds)
        await anyio.lowlevel.checkpoint()

    monkeypatch.setattr(anyio, "sleep", sleep)
    monkeypatch.setattr("memsafe_transcribe._download.transfer._BACKOFF_SECONDS", 0.5)
    return asked


def loop(exchange: Exchange) -> None:
    exchange.answer(status="302 Found", Location="/")


@pytest.mark.parametrize(
    "on_head",
    [
        pytest.param(busy("403 Forbidden"), id="403"),
        pytest.param(busy("404 Not Found"), id="404"),
        pytest.param(busy("405 Method Not Allowed"), id="405"),
        pytest.param(busy("500 Internal Server Error"), id="500"),
        pytest.param(busy("501 Not Implemented"), id="501"),
        pytest.param(Exchange.hold_until_closed, id="hangs"),
        pytest.param(raw(HEAD), id="breaks off"),
        pytest.param(raw(), id="hangs up"),
        pytest.param(raw(b"noise\r\n\r\n"), id="noise"),
        pytest.param(raw(HEAD + b"Content-Length: -1\r\n\r\n"), id="negative length"),
        pytest.param(raw(HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n"), id="length beyond all numbers"),
        pytest.param(raw(HEAD + b"Content-Length: 0\r\n\r\n"), id="length 0"),
        pytest.param(raw(HEAD + b"Content-Encoding: br\r\n\r\n"), id="compressed"),
        pytest.param(raw(HEAD + b"Content-Length: 9\r\n\r\nHEAD's own"), id="has a body"),
        pytest.param(raw(CHUNKED, chunk(b"HEAD's own"), chunk(b"")), id="has a body in chunks"),
        pytest.param(lambda exchange: exchange.send_for_ever(HEAD + b"\r\n" + bytes(60_000)), id="an endless body"),
        pytest.param(lambda exchange: exchange.send_for_ever(b"HTTP/1.1 103 X\r\n\r\n" * 1000), id="103 without end"),
        pytest.param(raw(b"HTTP/1.1 302 Found\r\n\r\n"), id="redirect to nowhere"),
        pytest.param(loop, id="redirects without end"),
    ],
)
def test_case_06_whatever_head_answers_get_decides(run: Run, server: Server, spool_dir: Path, on_head: Handler) -> None:
    """Once HEAD has failed, hung or lied, one GET brings the body."""
    server.on_head = on_head
    server.routes["/"] = here
    assert fetched(run, server.url("/"), spool_dir, read_timeout_seconds=0.1)[1] == b"here"
    assert len(server.gets) == 1


def test_case_06_head_that_is_never_done_is_given_up(
    run: Run, server: Server, spool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is never silent, so only a time for all of it helps."""
    monkeypatch.setattr("memsafe_transcribe._download.transfer._HEAD_SECONDS", 0.1)
    server.on_head = lambda exchange: exchange.drip_until_closed(HEAD + b"X: " + b"x" * 10_000, 0.01)
    server.routes["/"] = here
    asked = {"deadline_seconds": 10.0}
    assert fetched(run, server.url("/"), spool_dir, low_speed_bytes_per_second=0, asked=asked)[1] == b"here"


def test_case_07_head_429_is_not_waited_for(run: Run, server: Server, spool_dir: Path, pauses: list[float]) -> None:
    """GET decides, at once, and is not refused."""
    server.on_head = busy("429 Too Many Requests", Retry_After="3000")
    server.routes["/"] = here
    assert fetched(run, server.url("/"), spool_dir)[1] == b"here"
    assert (pauses, len(server.gets)) == ([], 1)


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
def test_case_07_get_is_asked_again_when_the_server_says(
    run: Run, server: Server, spool_dir: Path, pauses: list[float], status: str
) -> None:
    """The pauses are those that it asked for, to the second."""
    server.on_head = knows_no_head
    server.routes["/"] = in_turn(busy(status, Retry_After="7"), busy(status, Retry_After="0"), here)
    assert fetched(run, server.url("/"), spool_dir)[1] == b"here"
    assert (pauses, len(server.gets)) == ([7.0, 0.0], 3)


def test_case_07_a_second_is_really_waited(run: Run, server: Server, spool_dir: Path) -> None:
    """Nothing stands in for the clock here."""
    asked_at = []

    def noted(exchange: Exchange) -> None:
        asked_at.append(time.monotonic())
        (busy(Retry_After="1") if len(asked_at) == 1 else here)(exchange)

    server.on_head = knows_no_head
    server.routes["/"] = noted
    assert fetched(run, server.url("/"), spool_dir)[1] == b"here"
    assert asked_at[1] - asked_at[0] >= 1


def test_case_07_a_date_is_waited_for(run: Run, server: Server, spool_dir: Path, pauses: list[float]) -> None:
    """HTTP has it in two forms."""
    until = email.utils.formatdate(time.time() + 600, usegmt=True)
    server.on_head = knows_no_head
    server.routes["/"] = in_turn(busy(Retry_After=until), here)
    assert fetched(run, server.url("/"), spool_dir)[1] == b"here"
    assert [500 < pause <= 600 for pause in pauses] == [True]


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", id="another protocol"),
        pytest.param(b"\x00\xff" * 1000, id="noise"),
        pytest.param(b"HTTP/1.1 abc\r\n\r\n", id="no status"),
        pytest.param(HEAD + b"Content-Length: -1\r\n\r\nx", id="negative length"),
        pytest.param(HEAD + b"Content-Length: 0x10\r\n\r\nx", id="length not a number"),
        pytest.param(HEAD + b"Content-Length: 1.0\r\n\r\nx", id="length with a point"),
        pytest.param(HEAD + b"Content-Length: \r\n\r\nx", id="length of nothing"),
        pytest.param(HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", id="conflicting lengths"),
        pytest.param(HEAD + b"Content-Length: 1, 2\r\n\r\nxx", id="conflicting lengths in one line"),
        pytest.param(HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nx", id="length beyond all numbers"),
        pytest.param(HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n", id="compressed in transfer"),
    ],
)
def test_case_09_lengths_that_are_none_and_other_noise(run: Run, server: Server, spool_dir: Path, sent: bytes) -> None:
    """A protocol error, however often it is tried."""
    server.routes["/"] = raw(sent)
    assert type(refusal(run, server.url("/"), spool_dir)) is mt.DownloadProtocolError
    assert 1 <= len(server.gets) <= 4


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(CHUNKED + chunk(b"whole"), id="no last chunk"),
        pytest.param(CHUNKED + b"a\r\nshort", id="short chunk"),
        pytest.param(CHUNKED + chunk(b"whole") + b"not hexadecimal\r\n", id="bad chunk size"),
        pytest.param(CHUNKED + chunk(b"whole") + b"-1\r\n", id="negative chunk size"),
        pytest.param(CHUNKED + chunk(b"whole") + b"f" * 1000 + b"\r\n", id="chunk size beyond all numbers"),
        pytest.param(CHUNKED + b"5\r\nwhole, and more\r\n", id="chunk longer than it said"),
    ],
)
def test_case_10_broken_chunk_framing(run: Run, server: Server, spool_dir: Path, sent: bytes) -> None:
    """Retried, then it fails; or succeeds, and nothing of the broken body is in the file."""
    server.on_head = knows_no_head
    server.routes["/"] = raw(sent)
    server.routes["/once"] = in_turn(raw(sent), here)
    assert type(refusal(run, server.url("/"), spool_dir)) is mt.TruncatedDownloadError
    assert len(server.gets) == 4
    assert fetched(run, server.url("/once"), spool_dir)[1] == b"here"


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(HEAD + b"Content-Length: 0\r\n\r\n", id="by length"),
        pytest.param(CHUNKED + chunk(b""), id="in chunks"),
        pytest.param(HEAD + b"\r\n", id="until closed"),
    ],
)
def test_case_11_empty_200(run: Run, server: Server, spool_dir: Path, sent: bytes) -> None:
    """An error, and no file of no bytes; it is not asked again."""
    server.on_head = knows_no_head
    server.routes["/"] = raw(sent)
    assert type(refusal(run, server.url("/"), spool_dir)) is mt.DownloadProtocolError
    assert len(server.gets) == 1


def test_case_11_any_status_but_200(run: Run, server: Server, spool_dir: Path) -> None:
    """The error has the status as a figure; a Location where it means nothing is not followed."""
    statuses = [201, 204, 206, 300, 304, 400, 404, 416, 429, 500, 503]
    for status in statuses:
        server.routes[f"/{status}"] = raw(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\nLocation: /x\r\n\r\n" % status)
    errors = refusals(run, [server.url(f"/{status}") for status in statuses], spool_dir, max_attempts=1)
    assert [isinstance(error, mt.HTTPStatusError) and error.status_code for error in errors] == statuses
    assert [request.path for request in server.gets] == [f"/{status}" for status in statuses]


def test_case_11_only_statuses_that_pass_are_asked_again(run: Run, server: Server, spool_dir: Path) -> None:
    """Four times in all, or once."""
    statuses = {201: 1, 204: 1, 304: 1, 404: 1, 408: 4, 410: 1, 425: 4, 429: 4, 500: 4, 501: 1, 502: 4, 503: 4, 504: 4}
    for status in statuses:
        server.routes[f"/{status}"] = raw(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)
    refusals(run, [server.url(f"/{status}") for status in statuses], spool_dir)
    paths = [request.path for request in server.gets]
    assert {status: paths.count(f"/{status}") for status in statuses} == statuses


def test_case_19_retry_after_beyond_the_deadline(
    run: Run, server: Server, spool_dir: Path, pauses: list[float]
) -> None:
    """Fails at once, without a pause, and says so with the figures; then it is left alone for as long."""
    server.on_head = knows_no_head
    server.routes["/"] = busy(Retry_After="120")

    async def main() -> None:
        downloader = mt.SafeDownloader(policy=ANY, spool_dir=spool_dir)
        with pytest.raises(mt.HTTPStatusError, match=r"120 s.*deadline_seconds") as caught:
            async with downloader.fetch(server.url("/"), deadline_seconds=60):
                pytest.fail("the file was handed out")
        assert (caught.value.status_code, caught.value.retry_after_seconds, caught.value.retryable) == (503, 120, True)
        with pytest.raises(mt.KnownBadUrlError) as known:
            async with downloader.fetch(server.url("/")):
                pytest.fail("the file was handed out")
        assert known.value.status_code == 503
        assert 100 < known.value.retry_after_seconds <= 120

    run(main)
    assert (pauses, len(server.gets)) == ([], 1)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("Sun, 06 Nov 1994 08:49:37 GMT", id="in the past"),
        pytest.param("-1", id="negative"),
        pytest.param("soon", id="a word"),
        pytest.param("1.5", id="not whole"),
        pytest.param("9" * 400, id="beyond all numbers"),
        pytest.param("Mon, 99 Foo 2026", id="no date"),
        pytest.param("", id="nothing"),
    ],
)
def test_case_19_retry_after_that_says_nothing(
    run: Run, server: Server, spool_dir: Path, pauses: list[float], value: str
) -> None:
    """The pauses are our own: random, up to a bound that doubles."""
    server.on_head = knows_no_head
    server.routes["/"] = busy(Retry_After=value)
    error = refusal(run, server.url("/"), spool_dir)
    assert isinstance(error, mt.HTTPStatusError)
    assert error.retry_after_seconds is None
    assert [0 <= pause <= bound for pause, bound in zip(pauses, (0.5, 1, 2), strict=True)] == [True] * 3
    assert len(set(pauses)) == 3
