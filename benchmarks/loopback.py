"""Sources by URL, from a process of its own: /N is the Nth of some files, over and over, with N in a tag at its end.

    python -m benchmarks.loopback FILE ...        says its port, and ends when its stdin does

The tag is ID3v1's: so any number of MP3s can be had that are all different, of which only a few are on disk.
"""

import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path


@contextmanager
def running(module: str, *arguments: object) -> Iterator[str]:
    """Run a server's module in a process of its own, which ends when its stdin does; gives the line that it says."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.stdin.close()


@contextmanager
def loopback(files: Sequence[Path]) -> Iterator[str]:
    """Serve these files; gives the URL to which a number belongs."""
    with running("benchmarks.loopback", *files) as port:
        yield f"http://127.0.0.1:{int(port)}/"


class _Handler(BaseHTTPRequestHandler):
    files: Sequence[Path]

    def do_HEAD(self) -> None:
        self._head()

    def do_GET(self) -> None:
        path, tag = self._head()
        with path.open("rb") as file, suppress(ConnectionError):  # whoever asked may have been killed
            self.connection.sendfile(file)
            self.wfile.write(tag)

    def _head(self) -> tuple[Path, bytes]:
        number = int(self.path[1:])
        path, tag = self.files[number % len(self.files)], b"TAG%-125d" % number
        self.send_response(200)
        self.send_header("Content-Type", "audio/mpeg")
        self.send_header("Content-Length", str(path.stat().st_size + len(tag)))
        self.end_headers()
        return path, tag

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Nothing is said."""


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128


def main() -> None:
    _Handler.files = [Path(argument) for argument in sys.argv[1:]]
    with _Server(("127.0.0.1", 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(server.server_address[1], flush=True)
        sys.stdin.read()
        server.shutdown()


if __name__ == "__main__":
    main()
