"""In the decoding process: what FFmpeg reads from, and where in a file it may begin again.

FFmpeg gives up on an Ogg file where a chained stream is of another shape, on a fragmented MP4 where the header of a
fragment is damaged, and on WavPack where that of a block is. What comes behind stands for itself: it is read as a file
of its own.
"""

import io
import os
import re
import struct
from collections.abc import Iterator

from . import isobmff

_SEARCHED_BYTES = 1 << 18  # at a time
_MARK_BYTES = 16  # at least as long as what is searched for
_OGG_BEGINS = (b"OggS\x00\x02", b"OggS\x00\x06")  # RFC 3533: the first page of a stream
_OGG_BEGIN = re.compile(rb"OggS\x00[\x02\x06]")
_OGG_PAGE_BYTES = 27 + 255  # of its header
_WAVPACK_BLOCK = re.compile(rb"wvpk[\0-\xff]{4}[\x02-\x10]\x04")
_FRAGMENT = re.compile(rb"moof\x00\x00\x00\x10mfhd")
_FREE_BOX = struct.Struct(">I4sQ")


class Readable(io.RawIOBase):
    """What FFmpeg reads from: a file object of Python's."""

    start = 0  # where in the file it begins

    def readable(self) -> bool:
        return True


class FileView(Readable):
    """A descriptor read at a position of our own: several workers may share one open file.

    Args:
        fd: of a regular file.
        start: where the view begins; nothing before it is there.
        end: where it ends in the file; by default, where the file does.
        patch: where, in the view, other bytes stand than in the file, and which.
        is_seekable: whether FFmpeg is told that it may go back and forth.
    """

    def __init__(
        self,
        fd: int,
        start: int = 0,
        *,
        end: int | None = None,
        patch: tuple[int, bytes] = (0, b""),
        is_seekable: bool = True,
    ) -> None:
        self.start = start
        self.end = os.fstat(fd).st_size if end is None else end
        self.fd = fd
        self._patch_at, self._patch = patch
        self._is_seekable = is_seekable
        self._at = 0

    def forwards(self) -> "FileView":
        """The same from its beginning, forwards only."""
        patch = self._patch_at, self._patch
        return FileView(self.fd, self.start, end=self.end, patch=patch, is_seekable=False)

    def read(self, size: int = -1) -> bytes:
        left = self.end - self.start - self._at
        data = os.pread(self.fd, min(size, left) if size >= 0 else left, self.start + self._at) if left > 0 else b""
        low, high = max(self._at, self._patch_at), min(self._at + len(data), self._patch_at + len(self._patch))
        if low < high:
            patched = self._patch[low - self._patch_at : high - self._patch_at]
            data = data[: low - self._at] + patched + data[high - self._at :]
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at}.get(whence, self.end - self.start)
        return self._at

    def tell(self) -> int:
        return self._at

    def seekable(self) -> bool:
        return self._is_seekable


class InMemory(io.BytesIO):
    """A small file."""

    start = 0


class Feed(Readable):
    """A pipe: forwards only."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, size: int = -1) -> bytes:
        return os.read(self._fd, size)


def ogg_link(fd: int, start: int = 0) -> FileView:
    """The streams of an Ogg file that begin at `start` together, up to those that are chained to them."""
    at = start
    while (page := os.pread(fd, _OGG_PAGE_BYTES, at))[:6] in _OGG_BEGINS:
        at += 27 + page[26] + sum(page[27 : 27 + page[26]]) if len(page) > 26 else 27
    return FileView(fd, start, end=_search(fd, _OGG_BEGIN, at))


def next_wavpack_block(fd: int, behind: int) -> tuple[int, FileView] | None:
    """Where the first block begins behind a place in a WavPack file, and the rest. Each block tells its time."""
    at = _search(fd, _WAVPACK_BLOCK, behind + 1)
    return None if at is None else (at, FileView(fd, at))


def next_fragment(fd: int, behind: int) -> tuple[int, FileView] | None:
    """Where the first fragment begins behind a place in an MP4, and the file without those before it.

    All else keeps its place, because fragments name the places of their data.
    """
    begin = isobmff.fragments_begin(fd)
    if begin is None:
        return None
    mark = _search(fd, _FRAGMENT, max(behind + 1, begin + _FREE_BOX.size) + 4)
    if mark is None:
        return None
    at = mark - 4
    return at, FileView(fd, patch=(begin, _FREE_BOX.pack(1, b"free", at - begin)))


def _search(fd: int, mark: "re.Pattern[bytes]", start: int) -> int | None:
    for at, piece in _pieces(fd, start):
        found = mark.search(piece)
        if found:
            return at + found.start()
    return None


def _pieces(fd: int, start: int) -> Iterator[tuple[int, bytes]]:
    """A file from `start` on, in pieces that overlap."""
    at = start
    while len(piece := os.pread(fd, _SEARCHED_BYTES, at)) >= _MARK_BYTES:
        yield at, piece
        at += len(piece) - _MARK_BYTES + 1
