"""SafeDownloader against real sockets: what comes in, what can be asked for, and what is told."""

import hashlib
import math
import os
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import memsafe_transcribe as mt

from ..conftest import Run
from ..support.server import Exchange, Server, in_turn, knows_no_head

ANY = mt.UrlPolicy(allow_private=True)
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def fetched(
    run: Run, url: str, spool_dir: Path, *, asked: Mapping[str, Any] | None = None, **settings: Any
) -> tuple[mt.DownloadedFile, bytes]:
    """Download to the end; the file's description and its bytes. `asked` is for `fetch`, the rest for the class."""

    async def main() -> tuple[mt.DownloadedFile, bytes]:
        downloader = mt.SafeDownloader(policy=ANY, spool_dir=spool_dir, **settings)
        async with downloader.fetch(url, **(asked or {})) as file:
            return file, file.path.read_bytes()

    return run(main)  # type: ignore[no-any-return]


def refusals(
    run: Run,
    urls: Sequence[str],
    spool_dir: Path,
    *,
    policy: mt.UrlPolicy = ANY,
    asked: Mapping[str, Any] | None = None,
    **settings: Any,
) -> list[mt.DownloadError]:
    """The errors that downloads end in, one after the other."""

    async def main() -> list[mt.DownloadError]:
        errors = []
        for url in urls:
            downloader = mt.SafeDownloader(policy=policy, spool_dir=spool_dir, **settings)
            with pytest.raises(mt.DownloadError) as caught:
                async with downloader.fetch(url, **(asked or {})):
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


def test_a_redirect_status_without_a_location_is_an_error(run: Run, server: Server, spool_dir: Path) -> None:
    """There is nowhere to go."""
    server.routes["/"] = lambda exchange: exchange.answer(b"moved", "302 Found")
    error = refusal(run, server.url("/"), spool_dir)
    assert isinstance(error, mt.HTTPStatusError)
    assert error.status_code == 302


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


@pytest.mark.parametrize(
    "setting",
    [
        {"max_bytes": 0},
        {"connect_timeout_seconds": 0},
        {"read_timeout_seconds": -1},
        {"low_speed_seconds": 0},
        {"low_speed_bytes_per_second": -1},
        {"max_attempts": 0},
        {"read_timeout_seconds": math.nan},
    ],
    ids=str,
)
def test_a_setting_that_lets_nothing_through_is_a_bad_argument(spool_dir: Path, setting: dict[str, Any]) -> None:
    """The message names it."""
    (name,) = setting
    with pytest.raises(ValueError, match=name):
        mt.SafeDownloader(spool_dir=spool_dir, **setting)


def test_the_expected_hash(run: Run, server: Server, spool_dir: Path) -> None:
    """In capitals as well. Another one is an error with both figures, which is not retried, and says nothing of the
    URL: without the hash it is asked again.
    """
    server.routes["/"] = lambda exchange: exchange.answer(b"here")
    right, wrong = hashlib.sha256(b"here").hexdigest(), hashlib.sha256(b"there").hexdigest()
    for expected in (right, right.upper()):
        assert fetched(run, server.url("/"), spool_dir, asked={"expected_sha256": expected})[1] == b"here"

    async def main() -> None:
        server.requests.clear()
        downloader = mt.SafeDownloader(policy=ANY, spool_dir=spool_dir)
        with pytest.raises(mt.ChecksumMismatchError) as caught:
            async with downloader.fetch(server.url("/"), expected_sha256=wrong):
                pytest.fail("the file was handed out")
        assert (caught.value.sha256, caught.value.expected_sha256) == (right, wrong)
        assert len(server.gets) == 1
        async with downloader.fetch(server.url("/")):
            pass

    run(main)


@pytest.mark.parametrize("text", ["", "abc", "g" * 64, "a" * 63, "a" * 65, "\uff41" * 64, "a" * 64 + "\n"])
def test_an_expected_hash_that_is_none_is_a_bad_argument(run: Run, server: Server, spool_dir: Path, text: str) -> None:
    """Before anything is sent."""
    with pytest.raises(ValueError, match="expected_sha256"):
        fetched(run, server.url("/"), spool_dir, asked={"expected_sha256": text})
    assert server.requests == []


def test_the_caller_s_headers_are_sent(run: Run, server: Server, spool_dir: Path) -> None:
    """With HEAD and with GET; in place of ours where we have one of that name, however it is written."""
    own = {
        "X-Api-Key": "k3y",
        "authorization": "Bearer t0ken",
        "user-agent": "mine",
        "ACCEPT": "audio/*",
        "X-Empty": "",
    }
    server.routes["/"] = lambda exchange: exchange.answer(b"here")
    assert fetched(run, server.url("/"), spool_dir, asked={"headers": own})[1] == b"here"
    lower = {name.lower(): value for name, value in own.items()}
    assert [each.method for each in server.requests] == ["HEAD", "GET"]
    for each in server.requests:
        assert {name: value for name, value in each.headers.items() if name in lower} == lower


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "x") for name in ("Host", "range", "If-Range", "Accept-Encoding", "Connection", "TE", "Upgrade")),
        *((name, "0") for name in ("Content-Length", "Transfer-Encoding", "Expect", "Proxy-Authorization")),
        *((name, "x") for name in ("", "X Name", "X:", "X\n", "X\r\nHost", "\xe9", "X\x00")),
        *(
            ("X-Name", value)
            for value in ("a\nb", "a\r\nHost: b", "a\x00", "\x7f", "\u20ac", "\xe9", " a", "a ", "\ta")
        ),
    ],
)
def test_a_header_that_cannot_be_the_caller_s_is_a_bad_argument(
    run: Run, server: Server, spool_dir: Path, name: str, value: str
) -> None:
    """What is the downloader's own, and what no header may have: before anything is sent, and the value is not told."""
    with pytest.raises(ValueError, match="headers") as caught:
        fetched(run, server.url("/"), spool_dir, asked={"headers": {name: value}})
    assert server.requests == []
    assert len(value) < 2 or value not in str(caught.value)


def test_with_the_caller_s_headers_a_failure_is_not_remembered(run: Run, server: Server, spool_dir: Path) -> None:
    """Nor is one that was remembered looked up: the headers may be what makes the difference."""
    server.on_head = knows_no_head
    asked: list[dict[str, str] | None] = [{"X-Api-Key": "k3y"}, None, {"X-Api-Key": "k3y"}, None]

    async def main() -> None:
        downloader = mt.SafeDownloader(policy=ANY, spool_dir=spool_dir)
        for headers, kind in zip(asked, [*[mt.HTTPStatusError] * 3, mt.KnownBadUrlError], strict=True):
            with pytest.raises(kind):
                async with downloader.fetch(server.url("/none"), headers=headers):
                    pytest.fail("the file was handed out")

    run(main)
    assert [each.headers.get("x-api-key") for each in server.gets] == ["k3y", None, "k3y"]


def test_a_failure_is_remembered_and_can_be_asked_all_the_same(run: Run, server: Server, spool_dir: Path) -> None:
    """`ask_anyway` asks; once that gets through, the URL is as good as any."""
    server.on_head = knows_no_head
    server.routes["/"] = in_turn(
        lambda exchange: exchange.answer(status="404 Not Found"), lambda exchange: exchange.answer(b"here")
    )

    async def main() -> None:
        downloader = mt.SafeDownloader(policy=ANY, spool_dir=spool_dir)
        for kind in (mt.HTTPStatusError, mt.KnownBadUrlError):
            with pytest.raises(kind):
                async with downloader.fetch(server.url("/")):
                    pytest.fail("the file was handed out")
        for ask_anyway in (True, False):
            async with downloader.fetch(server.url("/"), ask_anyway=ask_anyway) as file:
                assert file.path.read_bytes() == b"here"

    run(main)
    assert len(server.gets) == 3
