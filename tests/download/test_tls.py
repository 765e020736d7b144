"""https: the certificate is the name's, and what breaks in TLS is one of the library's errors."""

import os
import shutil
import socket
import socketserver
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest

import memsafe_transcribe as mt

from ..conftest import Run
from ..support.needs import cannot
from ..support.server import Exchange, Handler, Server, knows_no_head
from .test_downloader import ANY, fetched, refusal
from .test_hosts import Names, names

__all__ = ["names"]  # a fixture, which is found by its name

NAME = "audio.test"
_BAD_RECORD = b"\x17\x03\x03\x00\x20" + bytes(32)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for NAME and 127.0.0.1 that nobody else trusts, and its key, in one file."""
    if shutil.which("openssl") is None:
        cannot("needs the openssl command to make a certificate")
    folder = tmp_path_factory.mktemp("certificate")
    command = "openssl req -x509 -nodes -days 2 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -keyout key -out cert"
    subject = ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME},IP:127.0.0.1"]
    subprocess.run([*command.split(), *subject], cwd=folder, check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_bytes((folder / "key").read_bytes() + (folder / "cert").read_bytes())
    return both


@pytest.fixture
def server(certificate: Path) -> Iterator[Server]:
    """A server that speaks TLS."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    with Server(tls) as server:
        yield server


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the downloader trust that certificate, and nothing else."""
    context = ssl.create_default_context(cafile=certificate)
    monkeypatch.setattr("memsafe_transcribe._download.transport._ssl_context", lambda: context)


@pytest.mark.usefixtures("trusted")
def test_the_certificate_is_checked_against_the_name(run: Run, server: Server, spool_dir: Path, names: Names) -> None:
    """The judged address is dialled, and still the name is what is asked for and certified."""
    names.answers = {NAME: [["127.0.0.1"]] * 2, "other.test": [["127.0.0.1"]] * 2}
    server.routes["/a"] = lambda exchange: exchange.answer(b"here")
    url = server.url("/a?key=value")
    assert fetched(run, url.replace("127.0.0.1", NAME), spool_dir)[1] == b"here"
    assert [each.method for each in server.requests] == ["HEAD", "GET"]
    assert all(each.headers["host"].startswith(f"{NAME}:") for each in server.requests)
    assert {(each.path, each.query) for each in server.requests} == {("/a", "key=value")}
    error = refusal(run, url.replace("127.0.0.1", "other.test"), spool_dir)
    assert type(error) is mt.DownloadConnectionError
    assert "certificate" in str(error)
    assert len(server.requests) == 2


def test_case_14_bad_certificate(run: Run, server: Server, spool_dir: Path) -> None:
    """No request is sent; and it is fatal: after one connection for HEAD and one for GET, none is tried again."""
    error = refusal(run, server.url("/"), spool_dir)
    assert type(error) is mt.DownloadConnectionError
    assert "certificate" in str(error)
    assert not error.retryable
    assert (server.requests, server.accepted) == ([], 2)


class PlainServer(Server):
    """Answers in plain text, whatever it is told."""

    def _handle(self, handler: socketserver.StreamRequestHandler) -> None:
        exchange = Exchange(handler.connection, "GET", "/", {})
        exchange.answer(status="400 Bad Request")
        exchange.hold_until_closed()


def test_a_server_without_tls_is_a_connection_error(run: Run, spool_dir: Path) -> None:
    """It does not understand the handshake."""

    async def main() -> None:
        with PlainServer() as plain:
            with pytest.raises(mt.DownloadConnectionError):
                async with mt.SafeDownloader(policy=ANY, spool_dir=spool_dir).fetch(
                    plain.url("/").replace(":", "s:", 1)
                ):
                    pytest.fail("the file was handed out")
            await anyio.to_thread.run_sync(plain.wait_until_idle)

    run(main)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what caused it, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort"])
def test_tls_that_breaks_later_is_a_connection_error(run: Run, server: Server, spool_dir: Path, first: bytes) -> None:
    """A record that nobody with the key has sent, before the answer or in the middle of it. Another attempt may do."""

    def forged(exchange: Exchange) -> None:
        exchange.send(first)
        with socket.socket(fileno=os.dup(exchange.connection.fileno())) as under_tls:
            under_tls.sendall(_BAD_RECORD)
        exchange.hold_until_closed()

    server.on_head = knows_no_head
    server.routes["/"] = forged
    error = refusal(run, server.url("/"), spool_dir)
    assert len(server.gets) == 4
    assert type(error) is mt.DownloadConnectionError
    assert "SSL" in str(error)
    assert any(isinstance(each, ssl.SSLError) for each in causes(error))


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("on_head", [None, knows_no_head], ids=["HEAD", "GET"])
@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        (lambda url: url("/end"), True),
        (lambda url: "/end", True),
        (lambda url: url("/end").replace("https:", "http:"), False),
        (lambda url: "HTTP" + url("/end").removeprefix("https"), False),
    ],
    ids=["https", "relative", "http", "HTTP"],
)
def test_case_20_redirect_from_https_to_http(
    run: Run,
    server: Server,
    spool_dir: Path,
    target: Callable[[Callable[[str], str]], str],
    allowed: bool,
    on_head: Handler | None,
) -> None:
    """Otherwise anyone on the way could say what is downloaded."""
    server.routes["/"] = lambda exchange: exchange.answer(b"", "302 Found", Location=target(server.url))
    server.routes["/end"] = lambda exchange: exchange.answer(b"here")
    server.on_head = on_head
    if allowed:
        assert fetched(run, server.url("/"), spool_dir)[1] == b"here"
    else:
        error = refusal(run, server.url("/"), spool_dir)
        assert isinstance(error, mt.UrlBlockedError)
        assert "https to http" in error.reason
    paths = ["/", "/end"] if allowed else ["/"] if on_head is not None else []
    assert [request.path for request in server.gets] == paths
