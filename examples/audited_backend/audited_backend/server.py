"""A server on loopback that counts what it really sends."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import SO_SNDBUF, SOL_SOCKET
from typing import Any

BLOCK_BYTES = 1 << 16


@dataclass(frozen=True)
class Answer:
    """How GET is answered; HEAD gets the same headers.

    Attributes:
        body: the file that is sent; None for zeros.
        size_bytes: how much is sent.
        declared_bytes: the Content-Length; None for none.
        status: the code.
        then_hangs: keep the connection open after that, until the client has gone.
    """

    body: Path | None
    size_bytes: int
    declared_bytes: int | None
    status: int = 200
    then_hangs: bool = False

    @classmethod
    def of(cls, path: Path) -> "Answer":
        """A good one."""
        size_bytes = path.stat().st_size
        return cls(path, size_bytes, size_bytes)

    def blocks(self) -> Iterator[bytes]:
        """The body, piece by piece."""
        if self.body is None:
            for start in range(0, self.size_bytes, BLOCK_BYTES):
                yield bytes(min(BLOCK_BYTES, self.size_bytes - start))
            return
        with self.body.open("rb") as file:
            left = self.size_bytes
            while block := file.read(min(BLOCK_BYTES, left)):
                left -= len(block)
                yield block


class Server:
    """Answers by path.

    Attributes:
        answers: what is answered; other paths are 404.
        sent_bytes: of bodies, by path: what the kernel took, some of which waits in its buffers.
        is_hanging: set once an answer that then hangs has been sent as far as it goes.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.sent_bytes: Counter[str] = Counter()
        self.is_hanging = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def setup(self) -> None:
                self.request.setsockopt(SOL_SOCKET, SO_SNDBUF, BLOCK_BYTES)  # so that little waits there uncounted
                super().setup()

            def do_HEAD(self) -> None:
                self.send_head()

            def do_GET(self) -> None:
                answer = self.send_head()
                with suppress(OSError):  # the client has gone, as it may
                    for block in answer.blocks():
                        self.wfile.write(block)
                        server.sent_bytes[self.path] += len(block)
                    if answer.then_hangs:
                        server.is_hanging.set()
                        self.rfile.read(1)

            def send_head(self) -> Answer:
                answer = server.answers.get(self.path, Answer(None, 0, 0, 404))
                self.send_response(answer.status)
                if answer.declared_bytes is not None:
                    self.send_header("Content-Length", str(answer.declared_bytes))
                self.end_headers()
                return answer

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """The table says it all."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def url(self, path: str) -> str:
        """The URL of a path."""
        return f"http://127.0.0.1:{self._http.server_address[1]}{path}"

    @contextmanager
    def running(self) -> Iterator["Server"]:
        """Serve while the block runs."""
        thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            thread.join()
            self._http.server_close()
