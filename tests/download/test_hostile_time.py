"""Servers and resolvers that take their time."""

import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import memsafe_transcribe as mt

from ..conftest import Run
from ..support.server import Exchange, Server, in_turn, knows_no_head
from .test_downloader import ANY, CHUNKED, HEAD, chunk, fetched, raw, refusal

_WAIT_SECONDS = 30.0
_SLOW: dict[str, Any] = {"low_speed_seconds": 0.1, "low_speed_bytes_per_second": 1000, "max_attempts": 1}


class SilentServer(Server):
    """Accepts, and says nothing: no answer, and no TLS."""

    def _handle(self, handler: socketserver.StreamRequestHandler) -> None:
        Exchange(handler.connection, "", "", {}).hold_until_closed()


@pytest.fixture
def silent() -> Iterator[Server]:
    """A server that accepts, and no more."""
    with SilentServer() as server:
        yield server


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(HEAD + b"Content-Length: 1000000\r\n\r\n", id="body by length"),
        pytest.param(CHUNKED + b"f4240\r\n", id="body in one chunk"),
        pytest.param(HEAD + b"\r\n", id="body until closed"),
        pytest.param(HEAD + b"X-Name: ", id="headers"),
        pytest.param(b"", id="first line"),
    ],
)
def test_case_14_one_byte_now_and_then(run: Run, server: Server, spool_dir: Path, head: bytes) -> None:
    """Too slow, although it is never silent for as long as it may; the message names the setting."""

    def drip(exchange: Exchange) -> None:
        exchange.send(head)
        exchange.drip_until_closed(b"x", 0.01)

    server.routes["/"] = drip
    error = refusal(run, server.url("/"), spool_dir, **_SLOW)
    assert (type(error), error.retryable) == (mt.DownloadTimeoutError, True)
    assert "low_speed_bytes_per_second" in str(error)
    assert len(server.gets) == 1


def test_case_14_chunks_of_one_byte_now_and_then(run: Run, server: Server, spool_dir: Path) -> None:
    """Their framing makes six of one: it is what comes through the socket that counts."""

    def drip(exchange: Exchange) -> None:
        exchange.send(CHUNKED)
        exchange.drip_until_closed(chunk(b"x"), 0.005)

    server.on_head = knows_no_head
    server.routes["/"] = drip
    assert type(refusal(run, server.url("/"), spool_dir, **_SLOW)) is mt.DownloadTimeoutError


def test_case_14_slow_once_is_tried_again(run: Run, server: Server, spool_dir: Path) -> None:
    """Another connection may well be faster."""

    def drip(exchange: Exchange) -> None:
        exchange.send(HEAD + b"Content-Length: 1000000\r\n\r\n")
        exchange.drip_until_closed(b"x", 0.01)

    server.on_head = knows_no_head
    server.routes["/"] = in_turn(drip, lambda exchange: exchange.answer(b"here"))
    assert fetched(run, server.url("/"), spool_dir, **{**_SLOW, "max_attempts": 2})[1] == b"here"


def test_case_14_silent_after_accept(run: Run, silent: Server, spool_dir: Path) -> None:
    """A timeout, retried: one connection for HEAD, and four for GET."""
    error = refusal(run, silent.url("/"), spool_dir, read_timeout_seconds=0.05)
    assert type(error) is mt.DownloadTimeoutError
    assert isinstance(error, TimeoutError)
    assert (silent.accepted, error.retryable) == (5, True)
    silent.wait_until_idle()


@pytest.mark.parametrize("sent", [b"", HEAD + b"X", HEAD + b"Content-Length: 10\r\n\r\nshort", CHUNKED + b"5"])
def test_case_14_silent_in_the_middle(run: Run, server: Server, spool_dir: Path, sent: bytes) -> None:
    """After the request, in the headers, in the body: a timeout, retried."""

    def silent(exchange: Exchange) -> None:
        exchange.send(sent)
        exchange.hold_until_closed()

    server.routes["/"] = silent
    server.routes["/once"] = in_turn(silent, silent, lambda exchange: exchange.answer(b"here"))
    assert type(refusal(run, server.url("/"), spool_dir, read_timeout_seconds=0.05)) is mt.DownloadTimeoutError
    assert len(server.gets) == 4
    server.on_head = knows_no_head
    assert fetched(run, server.url("/once"), spool_dir, read_timeout_seconds=0.05)[1] == b"here"


def test_case_14_tls_handshake_that_stalls(run: Run, silent: Server, spool_dir: Path) -> None:
    """It counts as connecting, not as reading."""
    url = silent.url("/").replace("http:", "https:")
    error = refusal(run, url, spool_dir, connect_timeout_seconds=0.05, max_attempts=2)
    assert type(error) is mt.DownloadTimeoutError
    assert "no connection within 0.05 s" in str(error)
    assert silent.accepted == 3
    silent.wait_until_idle()


class HangingNames:
    """A resolver that hangs over some names until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = threading.Semaphore(0)
        self.go_on = threading.Event()
        real = socket.getaddrinfo

        def getaddrinfo(host: Any, *arguments: Any, **more: Any) -> Any:
            if (host.decode() if isinstance(host, bytes) else host) == "hangs.test":
                self.asked.release()
                assert self.go_on.wait(_WAIT_SECONDS)
                raise socket.gaierror(socket.EAI_AGAIN, "too late")
            return real(host, *arguments, **more)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[HangingNames]:
    """A resolver that knows hangs.test, in a way; its threads are let go at the end."""
    names = HangingNames(monkeypatch)
    yield names
    names.go_on.set()


def test_case_14_dns_that_hangs_lets_other_downloads_go_on(
    run: Run, server: Server, spool_dir: Path, hanging: HangingNames
) -> None:
    """Twenty wait for it while another is downloaded; then they are cancelled, and their slots are free."""
    server.routes["/"] = lambda exchange: exchange.answer(b"here")

    async def main() -> None:
        admission = mt.AdmissionController(max_concurrent=21, scope="process")
        downloader = mt.SafeDownloader(policy=ANY, admission=admission, spool_dir=spool_dir)

        async def hang(number: int) -> None:
            async with downloader.fetch(f"http://hangs.test/{number}"):
                pytest.fail("the file was handed out")

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(hang, number)
            for _ in range(20):
                assert await anyio.to_thread.run_sync(hanging.asked.acquire, True, _WAIT_SECONDS)
            assert admission.statistics().active == 20
            async with downloader.fetch(server.url("/")) as file:
                assert file.path.read_bytes() == b"here"
            tasks.cancel_scope.cancel()
        assert admission.statistics().active == 0
        hanging.go_on.set()

    run(main)


def test_case_14_dns_that_hangs_is_a_timeout(run: Run, spool_dir: Path, hanging: HangingNames) -> None:
    """The resolver counts as connecting."""
    error = refusal(run, "http://hangs.test/", spool_dir, connect_timeout_seconds=0.05, max_attempts=1)
    assert type(error) is mt.DownloadTimeoutError
    assert "no connection within 0.05 s" in str(error)


def test_case_14_dns_that_hangs_collects_no_threads(run: Run, spool_dir: Path, hanging: HangingNames) -> None:
    """Those that were given up still count: while there are 32, nobody asks any more."""

    async def main() -> None:
        admission = mt.AdmissionController(max_concurrent=33, scope="process")
        downloader = mt.SafeDownloader(
            policy=ANY, admission=admission, spool_dir=spool_dir, connect_timeout_seconds=0.05, max_attempts=1
        )
        patient = mt.SafeDownloader(policy=ANY, admission=admission, spool_dir=spool_dir, max_attempts=1)

        async def hang(number: int) -> None:
            async with patient.fetch(f"http://hangs.test/{number}"):
                pytest.fail("the file was handed out")

        async with anyio.create_task_group() as tasks:
            for number in range(32):
                tasks.start_soon(hang, number)
            for _ in range(32):
                assert await anyio.to_thread.run_sync(hanging.asked.acquire, True, _WAIT_SECONDS)
            tasks.cancel_scope.cancel()
        with pytest.raises(mt.DownloadTimeoutError):
            async with downloader.fetch("http://hangs.test/"):
                pytest.fail("the file was handed out")
        assert not hanging.asked.acquire(blocking=False)
        hanging.go_on.set()
        with pytest.raises(mt.DownloadConnectionError, match="cannot be resolved"):
            async with patient.fetch("http://hangs.test/", ask_anyway=True):
                pytest.fail("the file was handed out")

    run(main)


def test_case_14_dns_that_hangs_lets_the_process_end() -> None:
    """Nobody waits for its thread, neither the loop nor the interpreter."""
    script = """
import socket, threading, anyio, memsafe_transcribe as mt
asked = threading.Event()
def getaddrinfo(*_):
    asked.set()
    threading.Event().wait()
socket.getaddrinfo = getaddrinfo
async def main():
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(mt.SafeDownloader().probe, "http://hangs.test/")
        await anyio.to_thread.run_sync(asked.wait)
        tasks.cancel_scope.cancel()
    print("given up", flush=True)
anyio.run(main)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "given up\n", "")


@pytest.mark.parametrize(
    "route",
    [
        pytest.param(Exchange.hold_until_closed, id="silence"),
        pytest.param(lambda exchange: exchange.send_for_ever(HEAD + b"\r\n" + bytes(100)), id="an endless body"),
        pytest.param(raw(HEAD + b"Content-Length: 9\r\n\r\nshort"), id="endless attempts"),
    ],
)
def test_the_deadline_ends_everything(
    run: Run, server: Server, spool_dir: Path, monkeypatch: pytest.MonkeyPatch, route: Any
) -> None:
    """Its error has the deadline, and says nothing of the URL: it is asked again."""
    monkeypatch.setattr("memsafe_transcribe._download.transfer._HEAD_SECONDS", 0.01)
    server.routes["/"] = route

    async def main() -> None:
        admission = mt.AdmissionController(max_concurrent=1, scope="process")
        downloader = mt.SafeDownloader(
            policy=ANY, admission=admission, spool_dir=spool_dir, max_attempts=10**9, max_bytes=10**15
        )
        for _ in range(2):
            asked = len(server.gets)
            with pytest.raises(mt.DownloadTimeoutError, match=r"not done within 0\.2 s \(deadline_seconds\)") as caught:
                async with downloader.fetch(server.url("/"), deadline_seconds=0.2):
                    pytest.fail("the file was handed out")
            assert caught.value.deadline_seconds == 0.2
            assert len(server.gets) > asked
        assert admission.statistics().active == 0

    run(main)


def test_the_deadline_s_error_has_the_last_attempt_s(run: Run, server: Server, spool_dir: Path) -> None:
    """In its message and as its cause: what kept it from being done."""
    server.on_head = knows_no_head
    server.routes["/"] = in_turn(
        lambda exchange: exchange.answer(status="503 Service Unavailable"), Exchange.hold_until_closed
    )
    error = refusal(run, server.url("/"), spool_dir, asked={"deadline_seconds": 0.5})
    assert type(error) is mt.DownloadTimeoutError
    assert "503" in str(error)
    assert isinstance(error.__cause__, mt.HTTPStatusError)


def test_no_deadline(run: Run, server: Server, spool_dir: Path) -> None:
    """None is for ever."""
    server.routes["/"] = lambda exchange: exchange.answer(b"here")
    assert fetched(run, server.url("/"), spool_dir, asked={"deadline_seconds": None})[1] == b"here"
