"""What the errors carry, and what they never tell."""

import pickle
import socket
import traceback
from pathlib import Path

import pytest

import memsafe_transcribe as mt
from memsafe_transcribe import _errors

from ..conftest import Run
from ..support.server import Exchange, Handler, Server, knows_no_head

ANY = mt.UrlPolicy(allow_private=True)
SECRET = "hunter" + "2"
CLASSES: list[type[mt.MemsafeError]] = [getattr(_errors, name) for name in _errors.__all__]


def figures(kind: type[mt.MemsafeError]) -> set[str]:
    """The figures that a class and its parents declare."""
    return {name for each in kind.__mro__ if issubclass(each, mt.MemsafeError) for name in each.__annotations__}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_survives_pickling(kind: type[mt.MemsafeError]) -> None:
    """With its class, its message and every figure that it declares, and under its public name."""
    values = {name: 7.0 if name == "retry_after_seconds" else f"the {name}" for name in figures(kind)}  # one is checked
    error = kind("what happened", **values)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(error, protocol))
        assert (type(again), str(again), repr(again)) == (kind, "what happened", repr(error))
        assert {name: getattr(again, name) for name in values} == values
    assert kind.__module__ == "memsafe_transcribe"


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (mt.MemoryPressureError, MemoryError),
        (mt.AdmissionTimeoutError, TimeoutError),
        (mt.DownloadConnectionError, ConnectionError),
        (mt.DownloadTimeoutError, TimeoutError),
        (mt.SpoolError, OSError),
        (mt.TranscriberNotFoundError, LookupError),
    ],
)
def test_errors_are_python_s_own_where_there_is_one(kind: type[mt.MemsafeError], builtin: type[Exception]) -> None:
    """Code that knows nothing of this library can catch them."""
    assert issubclass(kind, builtin)
    assert issubclass(kind, mt.MemsafeError)


def everything_told(run: Run, url: str, spool_dir: Path, policy: mt.UrlPolicy | None = ANY) -> str:
    """The error of a download in every form in which it may reach a log, with what caused it."""

    async def main() -> str:
        with pytest.raises(mt.DownloadError) as caught:
            downloader = mt.SafeDownloader(max_bytes=10, policy=policy, spool_dir=spool_dir, read_timeout_seconds=0.05)
            async with downloader.fetch(url):
                pytest.fail("the file was handed out")
        error = caught.value
        return "".join([str(error), repr(error), repr(vars(error)), *traceback.format_exception(error)])

    return run(main)  # type: ignore[no-any-return]


@pytest.mark.parametrize("on_head", [None, knows_no_head], ids=["HEAD too", "GET"])
@pytest.mark.parametrize(
    "route",
    [
        pytest.param(lambda exchange: exchange.answer(status="404 Not Found"), id="status"),
        pytest.param(lambda exchange: exchange.answer(bytes(11)), id="too large"),
        pytest.param(lambda exchange: exchange.answer(), id="empty"),
        pytest.param(lambda exchange: exchange.answer(b"x", Content_Encoding="gzip"), id="gzip"),
        pytest.param(lambda exchange: exchange.send(b"noise\r\n\r\n"), id="garbage"),
        pytest.param(lambda exchange: exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"), id="truncated"),
        pytest.param(Exchange.hold_until_closed, id="timeout"),
        pytest.param(lambda exchange: exchange.send(f"{SECRET}\r\n\r\n".encode()), id="garbage that echoes it"),
        pytest.param(
            lambda exchange: exchange.send(
                f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{SECRET}\r\n".encode()
            ),
            id="chunk size that echoes it",
        ),
        pytest.param(
            lambda exchange: exchange.answer(status="302 Found", Location=f"/?token={SECRET}"), id="redirect loop"
        ),
        pytest.param(
            lambda exchange: exchange.answer(status="302 Found", Location=f"http://user:{SECRET}@127.0.0.1/"),
            id="redirect with credentials",
        ),
        pytest.param(
            lambda exchange: exchange.answer(status="302 Found", Location=f"gopher://user:{SECRET}@x/?{SECRET}"),
            id="redirect to another scheme",
        ),
        pytest.param(
            lambda exchange: exchange.answer(status="302 Found", Location=f"http://user:{SECRET}@xn--zzzzz9999/"),
            id="redirect to no host",
        ),
        pytest.param(
            lambda exchange: exchange.answer(status="302 Found", Location=f"http://user:{SECRET}@h:port/"),
            id="redirect to no URL",
        ),
    ],
)
def test_a_query_is_never_told(
    run: Run, server: Server, spool_dir: Path, route: Handler, on_head: Handler | None
) -> None:
    """Signed URLs carry keys in it: not in the message, the figures, or what the cause says."""
    server.on_head = on_head
    server.routes["/"] = route
    told = everything_told(run, server.url(f"/?key={SECRET}#{SECRET}"), spool_dir)
    assert server.gets if on_head is not None else server.requests
    assert SECRET not in told


def test_a_query_is_not_told_where_no_server_answers(run: Run, spool_dir: Path) -> None:
    """Refused connections, blocked addresses and a missing spool folder."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/?key={SECRET}"
        assert SECRET not in everything_told(run, url, spool_dir)
        assert SECRET not in everything_told(run, url, spool_dir / "missing")
        assert SECRET not in everything_told(run, url, spool_dir, None)


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{SECRET}@127.0.0.1/",
        f"http://{SECRET}@127.0.0.1/",
        f"http://user:{SECRET}@127.0.0.1:port/",
        f"http://user:{SECRET}/@127.0.0.1/",
        f"http://user:{SECRET}?@127.0.0.1/",
        f"http://user:{SECRET}\\@127.0.0.1/",
        f"http://user:{SECRET}@127.0.0.1\n/",
        f"http://user:{SECRET}@exa\u2100mple/",
        f"http://user:{SECRET}@[::1/",
        f"http://user:{SECRET}@[nonsense]/",
        f"http://user:{SECRET}@/",
        f"http:user:{SECRET}@127.0.0.1/",
        f"http:\\\\user:{SECRET}@127.0.0.1/",
        f"user:{SECRET}@127.0.0.1/",
        f"ftp://user:{SECRET}@127.0.0.1/",
    ],
)
def test_credentials_are_refused_and_never_told(run: Run, spool_dir: Path, url: str) -> None:
    """However they are written, and however far the URL can be read."""
    told = everything_told(run, url, spool_dir)
    assert "UrlBlockedError" in told
    assert SECRET not in told
