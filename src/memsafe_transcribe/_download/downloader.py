"""SafeDownloader: bytes from the internet onto disk, never more than the cap, and gone when they are done with."""

import hashlib
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import anyio

from .._errors import DownloadProtocolError, DownloadTooLargeError, HTTPStatusError, TruncatedDownloadError
from .._units import MB, MiB, format_size
from . import policy as rules, spool, transport

_WRITE_BYTES = 1 * MiB
_NEED_BYTES = 4 * MiB  # one write buffer, its successor, and the connection
_MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Admission(Protocol):
    """What a downloader needs of an admission controller."""

    def reserve(
        self, need_bytes: int, *, timeout_seconds: float | None = None, reservation: Any = None
    ) -> AbstractAsyncContextManager[Any]:
        """Hold a slot and bytes, or a part of `reservation`."""

    def current_reservation(self) -> Any:
        """What the running task holds already."""


@dataclass(frozen=True, slots=True)
class DownloadedFile:
    """A downloaded file without a name. It is gone when the block that gave it ends, or this process.

    Attributes:
        fd: open for reading; valid inside the block.
        path: opens it, here and, on Linux, in a child process.
        size_bytes: its length.
        content_type: what the server said it is, or None.
        sha256: of its bytes, as 64 hexadecimal digits.
        final_url: where it came from after redirects, without query and credentials.
        suggested_filename: the last part of the URL's path; never a path itself.
    """

    fd: int
    path: Path
    size_bytes: int
    content_type: str | None
    sha256: str
    final_url: str
    suggested_filename: str


class SafeDownloader:
    """Downloads what strangers name.

    Args:
        max_bytes: the cap on a body; it is kept while the body comes in, whatever was announced.
        policy: which addresses are allowed; public ones only by default.
        admission: a download takes one of its slots while it runs; the process-wide one by default.
        spool_dir: where files are put; the system's temporary folder by default.
    """

    def __init__(
        self,
        *,
        max_bytes: int = 500 * MB,
        policy: rules.UrlPolicy | None = None,
        admission: Admission | None = None,
        spool_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, got {max_bytes}")
        self.max_bytes = max_bytes
        self.policy = policy or rules.UrlPolicy()
        self.spool_dir = Path(spool_dir) if spool_dir is not None else spool.default_spool_dir()
        self._admission = admission

    @asynccontextmanager
    async def fetch(
        self,
        url: str,
        *,
        reservation: Any = None,
        queue_timeout_seconds: float | None = None,
        on_progress: Callable[[int, int | None], None] | None = None,
    ) -> AsyncIterator[DownloadedFile]:
        """`async with` this: download `url` to a file that lives as long as the block.

        The slot is given back before the block begins. A server may take 10 s to be connected to, and be silent for
        30 s at a time; for a limit on the whole use `anyio.fail_after`.

        Args:
            url: http or https.
            reservation: download on this reservation's slot and bytes instead of queueing for others; by default on
                that which the running task holds, if it does.
            queue_timeout_seconds: how long to wait for a slot; None for as long as it takes.
            on_progress: called with (bytes so far, announced bytes or None) after each MiB.

        Raises:
            UrlBlockedError, DownloadTooLargeError, HTTPStatusError, SpoolError, or another `DownloadError`.
            AdmissionError: no slot or no memory in time, or too little left in the reservation.

        Cancellation: the connection is closed and the file is gone.

        Memory: at most 4 MiB, whatever the size of the body.
        """
        rules.check_url(url)
        with ExitStack() as opened:
            async with self._reserve(reservation, queue_timeout_seconds):
                file = opened.enter_context(_Spooled(self.spool_dir, rules.shown(url), self.max_bytes))
                downloaded = await self._download(url, file, on_progress or (lambda done, total: None))
            yield downloaded

    def _reserve(self, reservation: Any, timeout_seconds: float | None) -> AbstractAsyncContextManager[Any]:
        if self._admission is None:
            from memsafe_transcribe import default_admission  # the room below may not know the one above

            self._admission = default_admission()
        held = reservation or self._admission.current_reservation()
        return self._admission.reserve(_NEED_BYTES, timeout_seconds=timeout_seconds, reservation=held)

    async def _download(
        self, url: str, file: "_Spooled", on_progress: Callable[[int, int | None], None]
    ) -> DownloadedFile:
        for _ in range(_MAX_REDIRECTS + 1):
            async with transport.get(url, self.policy) as answer:
                location = answer.headers.get("location")
                if answer.status_code not in _REDIRECTS or location is None:
                    expected = self._expected_bytes(url, answer)
                    await self._receive(answer, file, expected, on_progress)
                    return file.finished(url, answer.headers.get("content-type"), expected)
                url = rules.redirect_target(url, location)
        raise DownloadProtocolError(f"{rules.shown(url)}: more than {_MAX_REDIRECTS} redirects", url=rules.shown(url))

    def _expected_bytes(self, url: str, answer: transport.Answer) -> int | None:
        """Judge the headers; the announced length, if there is one."""
        where = rules.shown(url)
        if answer.status_code != 200:
            raise HTTPStatusError(
                f"{where}: the server answered {answer.status_code}", url=where, status_code=answer.status_code
            )
        if (encoding := answer.headers.get("content-encoding", "identity").lower()) != "identity":
            raise DownloadProtocolError(f"{where}: sent as {encoding!r}, which was not asked for", url=where)
        length = answer.headers.get("content-length")
        expected = int(length) if length is not None and length.isdecimal() else None
        if expected is not None and expected > self.max_bytes:
            raise _too_large(where, expected, self.max_bytes, "announces")
        return expected

    async def _receive(
        self,
        answer: transport.Answer,
        file: "_Spooled",
        expected_bytes: int | None,
        on_progress: Callable[[int, int | None], None],
    ) -> None:
        """Write the body in pieces of a MiB: a thread for each 64 KiB would cost more than the network does."""
        buffer = bytearray()
        async with aclosing(answer.body) as parts:
            async for part in parts:
                file.count(len(part))
                buffer += part
                if len(buffer) >= _WRITE_BYTES:
                    await anyio.to_thread.run_sync(file.write, buffer)
                    buffer.clear()
                    on_progress(file.size_bytes, expected_bytes)
        if buffer:
            await anyio.to_thread.run_sync(file.write, buffer)
        on_progress(file.size_bytes, expected_bytes)


class _Spooled:
    """The file being written: counts before it writes, and hashes what it wrote."""

    def __init__(self, spool_dir: Path, url: str, max_bytes: int) -> None:
        self.size_bytes = 0
        self._spool_dir = spool_dir
        self._url = url
        self._max_bytes = max_bytes
        self._hash = hashlib.sha256()
        self._lock = threading.Lock()
        self._is_writing = self._is_left = False
        self._fd = spool.open_nameless(spool_dir, url)

    def __enter__(self) -> "_Spooled":
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file. While a thread still writes, that thread does it: asyncio's own `Task.cancel()` does not wait
        for threads, and a descriptor that is closed under one may be another file by the time it writes.
        """
        with self._lock:
            self._is_left = True
            if not self._is_writing:
                os.close(self._fd)

    def count(self, size_bytes: int) -> None:
        """Account for bytes before they are written."""
        self.size_bytes += size_bytes
        if self.size_bytes > self._max_bytes:
            raise _too_large(self._url, self.size_bytes, self._max_bytes, "sends")

    def write(self, data: bytearray) -> None:
        """Write and hash; runs in a thread."""
        with self._lock:
            if self._is_left:
                return
            self._is_writing = True
        try:
            self._hash.update(data)
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise spool.spool_error(self._spool_dir, self._url, error) from error
        finally:
            with self._lock:
                self._is_writing = False
                if self._is_left:
                    os.close(self._fd)

    def finished(self, url: str, content_type: str | None, expected_bytes: int | None) -> DownloadedFile:
        """The file as its user sees it, once all has come in."""
        where = rules.shown(url)
        if expected_bytes is not None and self.size_bytes != expected_bytes:
            raise TruncatedDownloadError(f"{where}: {self.size_bytes} of {expected_bytes} bytes came in", url=where)
        if self.size_bytes == 0:
            raise DownloadProtocolError(f"{where}: the answer is empty", url=where)
        return DownloadedFile(
            fd=self._fd,
            path=spool.path_of(self._fd),
            size_bytes=self.size_bytes,
            content_type=content_type,
            sha256=self._hash.hexdigest(),
            final_url=where,
            suggested_filename=_filename(url),
        )


def _filename(url: str) -> str:
    """The last part of the URL's path, fit to be joined to a folder."""
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    name = "".join(letter for letter in name if letter.isprintable() and letter != "\\")
    return "download" if name in ("", ".", "..") else name


def _too_large(url: str, size_bytes: int, max_bytes: int, verb: str) -> DownloadTooLargeError:
    return DownloadTooLargeError(
        f"{url} {verb} {format_size(size_bytes)}, at most {format_size(max_bytes)} are allowed (max_bytes)",
        url=url,
        size_bytes=size_bytes,
        max_bytes=max_bytes,
    )
