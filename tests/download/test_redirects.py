"""Redirects are followed by hand: each target is judged like the first URL, resolved afresh, and they are counted."""

from collections.abc import Callable
from pathlib import Path

import pytest

import memsafe_transcribe as mt

from ..conftest import Run
from ..support.server import Exchange, Server
from .test_downloader import fetched, refusal, refusals

FORBIDDEN = [
    "http://169.254.169.254/latest/meta-data/",
    "//169.254.169.254/",
    "http://[fd00:ec2::254]/",
    "http://100.100.100.200/",
    "http://[::ffff:169.254.169.254]/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://0.0.0.0/",
    "http://[fe80::1%25lo]/",
    "http://127.0.0.1:0/",
    "http://user@127.0.0.1/",
    "file:///etc/passwd",
    "file:/etc/passwd",
    "gopher://127.0.0.1/",
    "ftp://127.0.0.1/",
    "data:audio/mpeg;base64,AAAA",
    "javascript:alert(1)",
    "http://xn--zzzzz9999/",
    "http://127.0.0.1:port/",
    "http://0177.0.0.1/",
    "http://[x/",
    "//[",
    "http://exa\u2100mple/",
    "\\\\127.0.0.1\\x",
]


def redirect(target: str, status: str = "302 Found") -> Callable[[Exchange], None]:
    """A route that sends the client elsewhere."""
    return lambda exchange: exchange.answer(b"moved", status, Location=target)


@pytest.mark.parametrize(
    ("status", "target"),
    [
        (301, "/a/end.mp3"),
        (302, "end.mp3"),
        (303, "./x/../end.mp3"),
        (307, "//{host}/a/end.mp3"),
        (308, "http://{host}/a/end.mp3"),
    ],
)
def test_a_redirect_is_followed(run: Run, server: Server, spool_dir: Path, target: str, status: int) -> None:
    """Relative to the URL that sent it, or absolute; the file tells where it came from in the end."""
    end = server.url("/a/end.mp3")
    server.routes["/a/start"] = redirect(target.format(host=end.split("/")[2]), f"{status} Moved")
    server.routes["/a/end.mp3"] = lambda exchange: exchange.answer(b"here")
    file, body = fetched(run, server.url("/a/start"), spool_dir)
    assert (body, file.final_url, file.suggested_filename) == (b"here", end, "end.mp3")
    assert [request.method for request in server.requests] == ["GET", "GET"]


def test_blanks_in_a_redirect_are_encoded(run: Run, server: Server, spool_dir: Path) -> None:
    """Servers send file names as they are."""
    server.routes["/"] = redirect("/my talk.mp3")
    server.routes["/my%20talk.mp3"] = lambda exchange: exchange.answer(b"here")
    assert fetched(run, server.url("/"), spool_dir)[0].suggested_filename == "my talk.mp3"


def test_the_body_of_a_redirect_is_not_read(run: Run, server: Server, spool_dir: Path) -> None:
    """It may never end."""

    def endless(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 302 Found\r\nLocation: /end\r\nContent-Length: 1000000\r\n\r\nmoved")
        exchange.hold_until_closed()

    server.routes["/"] = endless
    server.routes["/end"] = lambda exchange: exchange.answer(b"here")
    assert fetched(run, server.url("/"), spool_dir, max_bytes=4)[1] == b"here"


def test_five_redirects_are_followed_and_no_sixth(run: Run, server: Server, spool_dir: Path) -> None:
    """However different they are."""
    for number in range(6):
        server.routes[f"/{number}"] = redirect(f"/{number + 1}")
    server.routes["/6"] = lambda exchange: exchange.answer(b"here")
    assert fetched(run, server.url("/1"), spool_dir)[1] == b"here"
    server.requests.clear()
    error = refusal(run, server.url("/0"), spool_dir)
    assert type(error) is mt.DownloadProtocolError
    assert "5 redirects" in str(error)
    assert [request.path for request in server.requests] == [f"/{number}" for number in range(6)]


def test_a_redirect_loop_ends(run: Run, server: Server, spool_dir: Path) -> None:
    """It is asked six times, and no more."""
    server.routes["/"] = redirect("/")
    assert type(refusal(run, server.url("/"), spool_dir)) is mt.DownloadProtocolError
    assert len(server.requests) == 6


def test_a_redirect_to_a_forbidden_place_is_refused(run: Run, server: Server, spool_dir: Path) -> None:
    """Even where private addresses are allowed, and without another request."""
    for number, target in enumerate(FORBIDDEN):
        server.routes[f"/{number}"] = redirect(target)
    errors = refusals(run, [server.url(f"/{number}") for number in range(len(FORBIDDEN))], spool_dir)
    wrong = [(target, error) for target, error in zip(FORBIDDEN, errors, strict=True) if not is_block(error)]
    assert wrong == []
    assert len(server.requests) == len(FORBIDDEN)


def is_block(error: mt.DownloadError) -> bool:
    return type(error) is mt.UrlBlockedError
