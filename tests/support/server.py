"""An HTTP server of good or bad manners, over real sockets: each path is a function that may send any bytes at all."""

import contextlib
import itertools
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

_WAIT_SECONDS = 30.0


class Exchange:
    """One request with its body, and the socket to answer it on."""

    def __init__(
        self,
        connection: socket.socket,
        method: str,
        target: str,
        headers: dict[str, str],
        body: bytes = b"",
    ) -> None:
        self.connection = connection
        self.method = method
        self.path, _, self.query = target.partition("?")
        self.headers = headers
        self.body = body

    @property
    def is_head(self) -> bool:
        """Whether the answer is to have no body."""
        return self.method == "HEAD"

    def send(self, data: bytes) -> None:
        """Send raw bytes; a client that has gone does not matter."""
        with contextlib.suppress(OSError):
            self.connection.sendall(data)

    def answer(self, body: bytes = b"", status: str = "200 OK", **headers: str) -> None:
        """A whole, correct answer, to HEAD too. Header names are given with underscores."""
        named = {"Content-Length": str(len(body)), **{name.replace("_", "-"): value for name, value in headers.items()}}
        head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
        self.send(f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + (b"" if self.is_head else body))

    def send_for_ever(self, data: bytes) -> int:
        """Send the same again and again until the client hangs up; how many bytes it was."""
        sent_bytes = 0
        with contextlib.suppress(OSError):
            while True:
                self.connection.sendall(data)
                sent_bytes += len(data)
        return sent_bytes

    def hold_until_closed(self) -> None:
        """Say nothing more until the client hangs up."""
        self.connection.settimeout(_WAIT_SECONDS)
        with contextlib.suppress(OSError):
            while self.connection.recv(65536):
                pass

    def drip_until_closed(self, data: bytes, every_seconds: float) -> None:
        """Send one byte at a time, and from the beginning again, until the client hangs up."""
        self.connection.settimeout(every_seconds)
        for byte in itertools.cycle(data):
            self.send(bytes([byte]))
            try:
                if not self.connection.recv(1):
                    return
            except TimeoutError:
                continue
            except OSError:
                return


Handler = Callable[[Exchange], None]


def _not_found(exchange: Exchange) -> None:
    exchange.answer(status="404 Not Found")


def knows_no_head(exchange: Exchange) -> None:
    """For `Server.on_head`: GET has to find out everything."""
    exchange.answer(status="501 Not Implemented")


def in_turn(*handlers: Handler) -> Handler:
    """A route that answers each request in another way; the last way is for all that follow."""
    left = list(handlers)

    def next_one(exchange: Exchange) -> None:
        (left.pop(0) if len(left) > 1 else left[0])(exchange)

    return next_one


class Server:
    """Serves `routes` on 127.0.0.1 while its `with` block runs, and keeps the requests that came.

    Args:
        tls: its side of TLS; plain text without it.

    Attributes:
        routes: what answers each path, whatever the method.
        on_head: answers HEAD in place of the routes, for all paths; None to leave it to them.
        requests: those that came, in order.
        accepted: how many connections there were.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.routes: dict[str, Handler] = {}
        self.on_head: Handler | None = None
        self.requests: list[Exchange] = []
        self.accepted = 0
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
                    server.accepted += 1
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

    @property
    def gets(self) -> list[Exchange]:
        """The requests for a body."""
        return [request for request in self.requests if request.method == "GET"]

    def wait_for_requests(self, count: int) -> None:
        """Block until so many requests have come."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.requests) >= count, _WAIT_SECONDS)

    def wait_until_idle(self) -> None:
        """Block until every connection is closed on this side, too: a moment after the client hung up."""
        with self._closed:
            assert self._closed.wait_for(lambda: not self._open, _WAIT_SECONDS), "the client has not hung up"

    def wait_until_quiet(self) -> None:
        """The same for connections that were given up before they were even accepted: one more comes behind them."""
        host, port = self._tcp.server_address[:2]
        with socket.create_connection((str(host), port)) as last, contextlib.suppress(ConnectionError):
            last.shutdown(socket.SHUT_WR)
            last.recv(1)  # until it is closed on that side
        self.wait_until_idle()

    def _handle(self, handler: socketserver.StreamRequestHandler) -> None:
        try:
            line = handler.rfile.readline().decode("latin-1").split()
        except OSError:  # the client has hung up, perhaps over the certificate
            return
        if len(line) != 3:
            return
        headers: dict[str, str] = {}
        while header := handler.rfile.readline().decode("latin-1").strip():
            name, value = (part.strip() for part in header.split(":", 1))
            before = headers.get(name.lower())
            headers[name.lower()] = value if before is None else f"{before}, {value}"
        body = handler.rfile.read(int(headers.get("content-length", 0)))
        exchange = Exchange(handler.connection, line[0], line[1], headers, body)
        with self._arrived:
            self.requests.append(exchange)
            self._arrived.notify_all()
        answer = self.routes.get(exchange.path, _not_found)
        if exchange.is_head and self.on_head is not None:
            answer = self.on_head
        answer(exchange)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tcp.shutdown()
        self._tcp.server_close()
        self._thread.join()
