"""Redirects are followed by hand: each target is judged like the first URL, resolved afresh, and they are counted."""

from collections.abc import Callable
from pathlib import Path

import pytest

import memsafe_transcribe as mt

from ..conftest import Run
from ..support.server import Exchange, Handler, Server, in_turn, knows_no_head
from .test_downloader import fetched, raw, refusal, refusals

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
    paths = ["/a/start", "/a/end.mp3"]
    assert [(request.method, request.path) for request in server.requests] == [
        *(("HEAD", path) for path in paths),
        *(("GET", path) for path in paths),
    ]


def test_blanks_in_a_redirect_are_encoded(run: Run, server: Server, spool_dir: Path) -> None:
    """Servers send file names as they are."""
    server.routes["/"] = redirect("/my talk.mp3")
    server.routes["/my%20talk.mp3"] = lambda exchange: exchange.answer(b"here")
    assert fetched(run, server.url("/"), spool_dir)[0].suggested_filename == "my talk.mp3"


def test_case_20_redirect_with_an_endless_body(run: Run, server: Server, spool_dir: Path) -> None:
    """It is not read: the server sends on, or falls silent."""

    def silent(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 302 Found\r\nLocation: /endless\r\nContent-Length: 1000000\r\n\r\nmoved")
        exchange.hold_until_closed()

    def endless(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 302 Found\r\nLocation: /end\r\n\r\n")
        exchange.send_for_ever(bytes(60_000))

    server.routes["/"], server.routes["/endless"] = silent, endless
    server.routes["/end"] = lambda exchange: exchange.answer(b"here")
    assert fetched(run, server.url("/"), spool_dir, max_bytes=4)[1] == b"here"


def test_case_20_five_redirects_are_followed_and_no_sixth(run: Run, server: Server, spool_dir: Path) -> None:
    """However different they are."""
    for number in range(6):
        server.routes[f"/{number}"] = redirect(f"/{number + 1}")
    server.routes["/6"] = lambda exchange: exchange.answer(b"here")
    assert fetched(run, server.url("/1"), spool_dir)[1] == b"here"
    server.requests.clear()
    error = refusal(run, server.url("/0"), spool_dir)
    assert type(error) is mt.DownloadProtocolError
    assert "5 redirects" in str(error)
    assert [request.path for request in server.gets] == [f"/{number}" for number in range(6)]


def test_case_20_redirect_loop(run: Run, server: Server, spool_dir: Path) -> None:
    """It is asked six times by HEAD, which decides nothing, six times by GET, and no more."""
    server.routes["/"] = redirect("/")
    assert type(refusal(run, server.url("/"), spool_dir)) is mt.DownloadProtocolError
    assert [request.method for request in server.requests] == ["HEAD"] * 6 + ["GET"] * 6


@pytest.mark.parametrize("on_head", [None, knows_no_head], ids=["HEAD", "GET"])
def test_case_20_redirect_to_a_forbidden_place(
    run: Run, server: Server, spool_dir: Path, on_head: Handler | None
) -> None:
    """Even where private addresses are allowed, and without another request: by HEAD, and where only GET tells."""
    server.on_head = on_head
    for number, target in enumerate(FORBIDDEN):
        server.routes[f"/{number}"] = redirect(target)
    errors = refusals(run, [server.url(f"/{number}") for number in range(len(FORBIDDEN))], spool_dir)
    wrong = [(target, error) for target, error in zip(FORBIDDEN, errors, strict=True) if not is_block(error)]
    assert wrong == []
    assert len(server.gets) == (0 if on_head is None else len(FORBIDDEN))
    assert len(server.requests) == len(FORBIDDEN) + len(server.gets)


def is_block(error: mt.DownloadError) -> bool:
    return type(error) is mt.UrlBlockedError


OWN = {"X-Api-Key": "k3y", "Authorization": "Bearer t0ken", "Cookie": "a=b", "User-Agent": "mine"}


def own_seen(server: Server) -> list[tuple[str, str, dict[str, str]]]:
    """Each request that came, and which of the caller's headers it had."""
    values = set(OWN.values())
    return [
        (each.method, each.path, {name: value for name, value in each.headers.items() if value in values})
        for each in server.requests
    ]


def test_case_20_a_caller_s_headers_are_stripped_across_origins(run: Run, server: Server, spool_dir: Path) -> None:
    """From one port to another and back: they go as far as the first origin does, and never come back."""
    lower = {name.lower(): value for name, value in OWN.items()}
    with Server() as other:
        server.routes["/"] = redirect("/same")
        server.routes["/same"] = redirect(other.url("/away"))
        other.routes["/away"] = redirect(server.url("/back"))
        server.routes["/back"] = redirect("/end")
        server.routes["/end"] = lambda exchange: exchange.answer(b"here")
        assert fetched(run, server.url("/"), spool_dir, asked={"headers": OWN})[1] == b"here"
        at_home = [("/", lower), ("/same", lower), ("/back", {}), ("/end", {})]
        assert own_seen(server) == [(method, *each) for method in ("HEAD", "GET") for each in at_home]
        assert own_seen(other) == [("HEAD", "/away", {}), ("GET", "/away", {})]


def test_case_20_a_caller_s_headers_are_stripped_again_when_it_is_continued(
    run: Run, server: Server, spool_dir: Path
) -> None:
    """Each attempt begins at the first URL, with the headers, and loses them on the same way."""
    half = raw(b'HTTP/1.1 200 X\r\nETag: "a"\r\nContent-Length: 10\r\n\r\n01234')
    rest = raw(b'HTTP/1.1 206 X\r\nETag: "a"\r\nContent-Range: bytes 5-9/10\r\nContent-Length: 5\r\n\r\n56789')
    with Server() as other:
        server.on_head = other.on_head = knows_no_head
        server.routes["/"] = redirect(other.url("/away"))
        other.routes["/away"] = in_turn(half, rest)
        assert fetched(run, server.url("/"), spool_dir, asked={"headers": {"X-Api-Key": "k3y"}})[1] == b"0123456789"
        assert [each.headers.get("x-api-key") for each in server.gets] == ["k3y"] * 2
        assert [(each.headers.get("x-api-key"), each.headers.get("range")) for each in other.gets] == [
            (None, None),
            (None, "bytes=5-"),
        ]
