"""What can be transcribed: whatever it is, it becomes a regular file that is open, or a stream of WAV."""

# ruff: noqa: SLF001 - what `tempfile` hides

import errno
import inspect
import io
import os
import stat
import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

import anyio

from .._admission.reservation import Reservation
from .._audio.encoding import WavPieces
from .._download.downloader import SafeDownloader
from .._download.policy import shown
from .._errors import UnsupportedMediaError
from .._threads import run_to_its_end
from .progress import OnProgress, Progress

_PIECE_BYTES = 256 * 1024
_TAKEN = (
    "an http(s) URL, a pathlib.Path, a file object opened in binary mode, an async iterable of bytes, or a "
    "pydub.AudioSegment"
)


class BinaryFile(Protocol):
    """A file object opened in binary mode: a file, a pipe, `io.BytesIO`, an upload's `.file`."""

    def read(self, size_bytes: int, /) -> bytes:
        """At most so many bytes; none at the end."""


class AudioSegment(Protocol):
    """A `pydub.AudioSegment`, as far as it is needed here."""

    channels: int
    frame_rate: int
    sample_width: int

    @property
    def raw_data(self) -> bytes:
        """Its samples."""


Source = str | os.PathLike[str] | BinaryFile | AsyncIterable[bytes] | AudioSegment


@dataclass(frozen=True, slots=True)
class Media:
    """What is to be decoded: one of `fd` and `feed`.

    Attributes:
        name: what messages call it.
        fd: a regular file, open for reading; its position is neither used nor to be changed.
        feed: a WAV stream, in pieces of at most 64 KiB.
        duration_seconds: its length, where it is in memory already; None of a file.
        sha256: of the file, where it was just written; None where nobody has read it yet.
    """

    name: str
    fd: int | None
    feed: Iterable[bytes] | None = None
    duration_seconds: float | None = None
    sha256: str | None = None


@asynccontextmanager
async def opened(
    source: Source,
    downloader: SafeDownloader,
    *,
    held: Reservation | None,
    queue_timeout_seconds: float | None,
    report: OnProgress,
    ask_anyway: bool = False,
) -> AsyncIterator[Media]:
    """`async with` this: the source as a file or a stream, until the block ends.

    A URL is downloaded. A regular file is used as it is: one given by its path, and a file object at its start, which
    stays its owner's to close, and has to stay open meanwhile. Everything else but an `AudioSegment` is spooled by
    `downloader`, a file object from where it stands.

    Args:
        source: what there is.
        downloader: whose cap, spool and admission hold for whatever is not a file already.
        held: the reservation to download on, if there is one.
        queue_timeout_seconds: how long to wait for a slot to download with.
        report: told of what is downloaded or spooled.
        ask_anyway: also for a URL that failed before.

    Raises:
        TypeError: it is none of these, or opened in text mode.
        ValueError: a string that is no http(s) URL; a file object that is closed, or not open for reading.
        UnsupportedMediaError: a path that leads to something else than a regular file.
        DownloadError, AdmissionError, MemoryPressureError, OSError: it could not be had.

    Cancellation: nothing is left. A file object that is being read is waited for, as its `read` cannot be interrupted;
    a pipe that has nothing to read is not.

    Memory: that of a download. An `AudioSegment` is not copied.
    """
    async with at_hand(source) as media:
        if media is not None:
            yield media
            return
    if isinstance(source, str):
        spooling = partial(downloader.fetch, source, ask_anyway=ask_anyway)
    elif isinstance(source, AsyncIterable):
        spooling = partial(downloader.receive, source)
    else:
        file = cast(BinaryFile, source)
        name = _name_of(file)
        spooling = partial(downloader.receive, _read(file, name), name=name)
    report(Progress("waiting"))
    async with spooling(
        reservation=held,
        queue_timeout_seconds=queue_timeout_seconds,
        on_progress=lambda done, total: report(Progress("downloading", done, total)),
    ) as spooled:
        yield Media(spooled.final_url, spooled.fd, sha256=spooled.sha256)


@asynccontextmanager
async def at_hand(source: Source) -> AsyncIterator[Media | None]:
    """`async with` this: the source, if it can be decoded as it is; None if it has to be spooled first.

    Raises:
        TypeError, ValueError, UnsupportedMediaError, OSError: as `opened`.
    """
    if isinstance(source, os.PathLike):
        with _regular_file(source) as fd:
            yield Media(os.fspath(source), fd)
    elif (segment := _audio_segment(source)) is not None:
        feed = WavPieces(segment.raw_data, int(segment.frame_rate), segment.channels, segment.sample_width)
        yield Media("AudioSegment", None, feed, feed.duration_seconds)
    elif isinstance(source, str):
        if not is_url(source):
            raise ValueError(f"{source!r} is no http(s) URL; name a local file by pathlib.Path({source!r})")
        yield None
    elif isinstance(source, AsyncIterable):
        yield None
    else:
        file = _checked(source)
        name = _name_of(file)
        fd_or_none = await run_to_its_end(lambda: _descriptor(file, name), anyio.CapacityLimiter(1))
        yield None if fd_or_none is None else Media(name, fd_or_none)


def is_url(source: object) -> bool:
    """Whether it is a string that is downloaded."""
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def name_of(source: Source) -> str:
    """What a source is called, without secrets."""
    if is_url(source):
        return shown(str(source))
    return os.fsdecode(source) if isinstance(source, os.PathLike) else type(source).__name__


def label_of(source: Source) -> str:
    """What a source is called where others may see it: only the host and the file's name."""
    name = name_of(source)
    if is_url(source) and "://" in name:
        parts = urlsplit(name)
        return f"{parts.hostname}/{parts.path.rpartition('/')[2]}"
    return os.path.basename(name) or name


@contextmanager
def _regular_file(path: os.PathLike[str]) -> Iterator[int]:
    # Without O_NONBLOCK, opening a FIFO would wait for a writer.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise UnsupportedMediaError(f"{os.fspath(path)} is not a regular file")
        yield fd
    finally:
        os.close(fd)


def _audio_segment(source: object) -> AudioSegment | None:
    """The source, if it is one. Who has one, has loaded pydub."""
    kind: Any = getattr(sys.modules.get("pydub"), "AudioSegment", ())
    return cast(AudioSegment, source) if isinstance(source, kind) else None


# -- file objects


def _checked(source: object) -> BinaryFile:
    """The source, if it is a file object that gives bytes.

    Raises:
        TypeError: what it is instead, and what to do about it.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        raise TypeError(f"source is {type(source).__name__}: wrap what is in memory in io.BytesIO")
    if isinstance(_inner(source), io.TextIOBase):
        raise TypeError(f"{_name_of(source)} is opened in text mode: open it in binary mode ('rb')")
    read = getattr(source, "read", None)
    if not callable(read):
        raise TypeError(f"source must be {_TAKEN}, got {type(source).__name__}")
    if inspect.iscoroutinefunction(read):
        raise TypeError(
            f"source must be {_TAKEN}, got {type(source).__name__} with an asynchronous read(): pass the file object "
            "that it wraps (an UploadFile's `.file`), or an async generator of what it reads"
        )
    return cast(BinaryFile, source)


def _name_of(file: object) -> str:
    name = getattr(file, "name", None)  # of a temporary file it is a number
    return os.fsdecode(name) if isinstance(name, str | bytes) else type(file).__name__


def _inner(file: object) -> object:
    """The file object in those that `tempfile` wraps around one."""
    if isinstance(file, tempfile._TemporaryFileWrapper):
        return file.file
    return file._file if isinstance(file, tempfile.SpooledTemporaryFile) else file


def _raw(file: object) -> io.FileIO | None:
    """What reads the very bytes of a descriptor, with nothing between but a buffer.

    `fileno()` does not tell: that of a `GzipFile` leads to what is compressed.
    """
    inner: Any = _inner(file)
    raw = inner.raw if type(inner) in (io.BufferedReader, io.BufferedRandom, io.BufferedWriter) else inner
    return raw if type(raw) is io.FileIO else None


def _descriptor(file: BinaryFile, name: str) -> int | None:
    """The descriptor of a regular file that is to be read from its start; None for everything else. May block.

    Raises:
        ValueError: it is closed, or not open for reading.
    """
    raw, inner = _raw(file), cast(io.BufferedIOBase, _inner(file))
    if raw is None:
        return None
    if not raw.readable():
        raise ValueError(f"{name} is not open for reading")
    if not stat.S_ISREG(os.fstat(raw.fileno()).st_mode) or inner.tell() != 0:
        return None
    if raw.writable():
        inner.flush()
    return raw.fileno()


async def _read(file: BinaryFile, name: str) -> AsyncGenerator[bytes]:
    """What a file object gives from where it stands, read in a thread of its own.

    A pipe is waited for outside of that, where it can be cancelled. What its owner has left in the object's buffer
    comes with what comes next.
    """
    raw = _raw(file)
    pipe = raw if raw is not None and _is_pipe(raw.fileno()) else None
    read: Callable[[int], bytes | None] = getattr(file, "read1", file.read)  # as it comes, where it comes slowly
    limiter = anyio.CapacityLimiter(1)  # one that blocks must not take a thread that the host's own calls share
    while True:
        if pipe is not None:
            await anyio.wait_readable(pipe.fileno())
        piece = await run_to_its_end(lambda: read(_PIECE_BYTES), limiter)
        if isinstance(piece, str):
            raise TypeError(f"{name} gives text: open it in binary mode ('rb')")
        if piece is None:
            raise BlockingIOError(errno.EAGAIN, f"{name} does not block, and has nothing to read now")
        if not piece:
            return
        yield piece


def _is_pipe(fd: int) -> bool:
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
