"""An HTTP server of good or bad manners, over real sockets: each path is a function that may send any bytes at all."""

import contextlib
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

_WAIT_SECONDS = 30.0


class Exchange:
    """One request, and the socket to answer it on."""

    def __init__(self, connection: socket.socket, method: str, target: str, headers: dict[str, str]) -> None:
        self.connection = connection
        self.method = method
        self.path, _, self.query = target.partition("?")
        self.headers = headers

    def send(self, data: bytes) -> None:
        """Send raw bytes; a client that has gone does not matter."""
        with contextlib.suppress(OSError):
            self.connection.sendall(data)

    def answer(self, body: bytes = b"", status: str = "200 OK", **headers: str) -> None:
        """A whole, correct answer. Header names are given with underscores."""
        named = {"Content-Length": str(len(body)), **{name.replace("_", "-"): value for name, value in headers.items()}}
        head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
        self.send(f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body)

    def hold_until_closed(self) -> None:
        """Say nothing more until the client hangs up."""
        self.connection.settimeout(_WAIT_SECONDS)
        with contextlib.suppress(OSError):
            while self.connection.recv(65536):
                pass


Handler = Callable[[Exchange], None]


def _not_found(exchange: Exchange) -> None:
    exchange.answer(status="404 Not Found")


class Server:
    """Serves `routes` on 127.0.0.1 while its `with` block runs, and keeps the requests that came.

    Args:
        tls: its side of TLS; plain text without it.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.routes: dict[str, Handler] = {}
        self.requests: list[Exchange] = []
        self._arrived = threading.Condition()
        self._open: set[int] = set()
        self._closed = threading.Condition()
        server = self

        class RequestHandler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                server._handle(self)

        class TcpServer(socketserver.ThreadingTCPServer):
            daemon_threads = False
            block_on_close = True

            def get_request(self) -> tuple[socket.socket, Any]:
                with server._closed:
                    connection, address = super().get_request()
                    if tls is not None:  # the handshake waits for the connection's own thread
                        connection = tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
                    server._open.add(id(connection))
                    return connection, address

            def close_request(self, request: Any) -> None:
                with server._closed:
                    super().close_request(request)
                    server._open.discard(id(request))
                    server._closed.notify_all()

        self._tcp = TcpServer(("127.0.0.1", 0), RequestHandler)
        self._scheme = "http" if tls is None else "https"
        self._thread = threading.Thread(target=self._tcp.serve_forever, kwargs={"poll_interval": 0.05})

    def url(self, path: str) -> str:
        """The URL of a route."""
        return f"{self._scheme}://127.0.0.1:{self._tcp.server_address[1]}{path}"

    def wait_for_requests(self, count: int) -> None:
        """Block until so many requests have come."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.requests) >= count, _WAIT_SECONDS)

    def wait_until_idle(self) -> None:
        """Block until every connection is closed on this side, too: a moment after the client hung up."""
        with self._closed:
            assert self._closed.wait_for(lambda: not self._open, _WAIT_SECONDS), "the client has not hung up"

    def _handle(self, handler: socketserver.StreamRequestHandler) -> None:
        try:
            line = handler.rfile.readline().decode("latin-1").split()
        except OSError:  # the client has hung up, perhaps over the certificate
            return
        if len(line) != 3:
            return
        headers = {}
        while header := handler.rfile.readline().decode("latin-1").strip():
            name, _, value = header.partition(":")
            headers[name.lower()] = value.strip()
        exchange = Exchange(handler.connection, line[0], line[1], headers)
        with self._arrived:
            self.requests.append(exchange)
            self._arrived.notify_all()
        self.routes.get(exchange.path, _not_found)(exchange)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tcp.shutdown()
        self._tcp.server_close()
        self._thread.join()
