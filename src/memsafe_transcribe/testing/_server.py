"""An HTTP server of bad manners on loopback, for tests of downloads and of engines."""

import socket
import socketserver
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

_HEAD_WAIT_SECONDS = 30.0
_PIECE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Reply:
    """How one request is answered. HEAD gets the same headers, and no body.

    Attributes:
        body: what is sent.
        status: the code and its reason.
        headers: more headers, or others; None for a value leaves the header out.
        declared_bytes: the Content-Length, where it is not the body's own: more, and the body ends too soon.
        every_seconds: with it, the body is sent byte by byte, one each time that this has passed.
        for_ever: send the body again and again, without a length, until the client has gone.
        then_hangs: say nothing more after the body, and keep the connection open until the client has gone.
        knows_head: whether HEAD is answered; with False it gets 501.
    """

    body: bytes = b""
    status: str = "200 OK"
    headers: dict[str, str | None] = field(default_factory=dict)
    declared_bytes: int | None = None
    every_seconds: float | None = None
    for_ever: bool = False
    then_hangs: bool = False
    knows_head: bool = True

    @classmethod
    def redirect(cls, url: str, status: str = "302 Found") -> Self:
        """One that sends the client elsewhere."""
        return cls(status=status, headers={"Location": url})

    @classmethod
    def truncated(cls, body: bytes, declared_bytes: int) -> Self:
        """One that promises more than it sends, and hangs up."""
        return cls(body, declared_bytes=declared_bytes)

    @classmethod
    def slow(cls, body: bytes, every_seconds: float) -> Self:
        """One that drips."""
        return cls(body, every_seconds=every_seconds)

    def head(self) -> bytes:
        """Its status line and headers."""
        length = len(self.body) if self.declared_bytes is None else self.declared_bytes
        named = {"Content-Length": None if self.for_ever else str(length), "Connection": "close", **self.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in named.items() if value is not None)
        return f"HTTP/1.1 {self.status}\r\n{lines}\r\n".encode("latin-1")


@dataclass(frozen=True, slots=True)
class Request:
    """What came: method, path with query, and headers by lower-case names."""

    method: str
    target: str
    headers: dict[str, str]


class BadServer:
    """Answers each path as a test tells it to, on 127.0.0.1, while its `with` block runs.

    Whatever the method is; a body that comes is read, and not kept. For downloads from it, allow private addresses:
    `mt.UrlPolicy(allow_private=True)`.

    Args:
        replies: by path, the `Reply` to each request, or several for requests in turn, the last for all that follow.
            HEAD takes none of them: it is answered like the next GET. Other paths are 404.

    Attributes:
        requests: those that came, in order.
    """

    def __init__(self, replies: dict[str, Reply | list[Reply]]) -> None:
        self.requests: list[Request] = []
        self._replies = {path: list(each) if isinstance(each, list) else [each] for path, each in replies.items()}
        self._closing = threading.Event()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        serve = self._serve

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                serve(self.request)

        class Tcp(socketserver.ThreadingTCPServer):
            daemon_threads = False
            block_on_close = True

        self._tcp = Tcp(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._tcp.serve_forever, kwargs={"poll_interval": 0.02})

    def url(self, path: str) -> str:
        """The URL of a path."""
        return f"http://127.0.0.1:{self._tcp.server_address[1]}{path}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tcp.shutdown()
        self._closing.set()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._tcp.server_close()
        self._thread.join()

    def _serve(self, connection: socket.socket) -> None:
        with self._lock:
            if self._closing.is_set():
                return
            self._open.add(connection)
        try:
            connection.settimeout(_HEAD_WAIT_SECONDS)
            with suppress(OSError):  # the client has gone, as it may
                self._answer(connection)
        finally:
            with self._lock:
                self._open.discard(connection)

    def _answer(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as lines:
            words = lines.readline().decode("latin-1").split()
            if len(words) != 3:
                return
            headers = {}
            while line := lines.readline().decode("latin-1").strip():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            length = headers.get("content-length", "")
            left = int(length) if length.isdecimal() else 0
            while left > 0 and (piece := lines.read1(min(left, _PIECE_BYTES))):  # kept by nobody
                left -= len(piece)
        request = Request(words[0], words[1], headers)
        reply = self._reply(request)
        connection.settimeout(None)
        connection.sendall(reply.head())
        if request.method == "HEAD":
            return
        if reply.for_ever:
            while True:
                connection.sendall(reply.body)
        if reply.every_seconds is None:
            connection.sendall(reply.body)
        else:
            for byte in reply.body:
                connection.sendall(bytes([byte]))
                if self._closing.wait(reply.every_seconds):
                    return
        if reply.then_hangs:
            while connection.recv(1 << 16):
                pass

    def _reply(self, request: Request) -> Reply:
        with self._lock:
            self.requests.append(request)
            turns = self._replies.get(request.target.partition("?")[0], [Reply(status="404 Not Found")])
            reply = turns.pop(0) if request.method != "HEAD" and len(turns) > 1 else turns[0]
        if request.method == "HEAD" and not reply.knows_head:
            return Reply(status="501 Not Implemented")
        return reply
