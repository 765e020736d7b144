"""Box sizes of MP4, M4A and MOV files (ISO/IEC 14496-12): how large the index is that a decoder loads whole."""

import os
import struct
from collections.abc import Iterator
from functools import partial

from . import mp4

_BOX = struct.Struct(">I4s")
_LARGE_SIZE = struct.Struct(">Q")
_MAX_BOXES = 100_000
_MAX_MOOV_BYTES = 1 << 20  # of one that stands before fragments and has no tables itself


def index_bytes(fd: int) -> int:
    """The size of the `moov` box, or of all `moof` boxes, of the file behind `fd`.

    0 for any other kind of file, and for one whose index stays in the file (`flat_track`).

    Reads box headers only. A box's size is what the file says, but never more than the file has. As FFmpeg does, it
    asks for no `ftyp`, which old QuickTime files do not have, and takes a `free` or `hoov` box with an index in it,
    which is what a recorder may have made of its `moov`, for one.
    """
    if flat_track(fd) is not None:
        return 0
    total = 0
    for kind, at, end in _boxes(fd):
        if kind in (b"free", b"hoov") and os.pread(fd, 8, at + _BOX.size)[4:] in (b"mvhd", b"cmov"):
            kind = b"moov"
        if kind in (b"moov", b"moof"):
            total += end - at
    return total


def is_mp4(fd: int) -> bool:
    """Whether the file behind `fd` has an index, be it loaded or not."""
    return any(kind in (b"moov", b"moof", b"free", b"hoov") for kind, _, _ in _boxes(fd))


def flat_track(fd: int) -> mp4.Track | None:
    """The sound of a file whose index need not be loaded."""
    return mp4.find(partial(os.pread, fd), os.fstat(fd).st_size)


def fragments_begin(fd: int) -> int | None:
    """Where the `moov` box of a fragmented file ends: the fragments come behind it. None for any other file."""
    for kind, at, end in _boxes(fd):
        if kind == b"moov":
            return end if b"mvex" in os.pread(fd, min(end - at, _MAX_MOOV_BYTES), at) else None
    return None


def _boxes(fd: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each box of the file's first level."""
    file_bytes = os.fstat(fd).st_size
    at = 0
    for _ in range(_MAX_BOXES):
        head = os.pread(fd, _BOX.size + _LARGE_SIZE.size, at)
        if len(head) < _BOX.size:
            return
        size, kind = _BOX.unpack_from(head)
        if size == 1 and len(head) == _BOX.size + _LARGE_SIZE.size:
            (size,) = _LARGE_SIZE.unpack_from(head, _BOX.size)
        end = at + size if size else file_bytes
        if end < at + _BOX.size:
            return
        yield kind, at, min(end, file_bytes)
        at = end
