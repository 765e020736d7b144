"""What a file's own headers say of its length: read by the size of boxes and chunks, never trusted with memory."""

import os
import struct
from collections.abc import Iterator

_MOST_CHUNKS = 1_000
_UNKNOWN = (0, 0xFFFFFFFF)  # what is written where the length is not known yet
_OGG_TAIL_BYTES = 70_000  # the longest page has 65 307
_OGG_HEADER = struct.Struct("<4sBB")
_OGG_LAST_PAGE = 4


def wav_shape(fd: int) -> tuple[int, int]:
    """Channels and samples a second, as a WAV file's header says; zeros for other files."""
    for name, at in _wav_chunks(fd):
        shape = os.pread(fd, 8, at)
        if name == b"fmt " and len(shape) == 8:
            _, channels, rate_hz = struct.unpack("<HHI", shape)
            return channels, rate_hz
    return 0, 0


def missing_share(fd: int) -> float:
    """By how much a WAV file's data chunk is longer than what the file has of it, as a share of that.

    0 for other files, and where it tells no length.
    """
    long_bytes = 0
    for name, at in _wav_chunks(fd):
        if name == b"ds64":
            long_bytes = int.from_bytes(os.pread(fd, 16, at)[8:], "little")
        if name == b"data":
            size = int.from_bytes(os.pread(fd, 4, at - 4), "little")
            if os.pread(fd, 4, 0) == b"RF64":
                size = long_bytes or size
            there = os.fstat(fd).st_size - at
            return (size - there) / there if size not in _UNKNOWN and 0 < there < size else 0.0
    return 0.0


def _wav_chunks(fd: int) -> Iterator[tuple[bytes, int]]:
    """Name and place of what is in each chunk of a WAV file; none for other files."""
    head = os.pread(fd, 12, 0)
    at = 12
    if head[:4] not in (b"RIFF", b"RF64") or head[8:] != b"WAVE":
        return
    for _ in range(_MOST_CHUNKS):
        chunk = os.pread(fd, 8, at)
        if len(chunk) < 8:
            return
        name, size = struct.unpack("<4sI", chunk)
        yield name, at + 8
        at += 8 + size + size % 2


def ogg_is_cut_off(fd: int) -> bool:
    """Whether the last page of an Ogg file is not marked as the end of its stream, as RFC 3533 asks for."""
    if os.pread(fd, 4, 0) != b"OggS":
        return False
    size = os.fstat(fd).st_size
    tail = os.pread(fd, _OGG_TAIL_BYTES, max(0, size - _OGG_TAIL_BYTES))
    at = tail.rfind(b"OggS\x00")
    if at < 0 or len(tail) - at < 27:
        return True
    segments = tail[at + 26]
    is_whole = len(tail) - at >= 27 + segments + sum(tail[at + 27 : at + 27 + segments])
    return not (is_whole and _OGG_HEADER.unpack_from(tail, at)[2] & _OGG_LAST_PAGE)


def mp3_tells_its_length(fd: int) -> bool:
    """Whether an MP3's first frame, behind the ID3v2 tag, is a Xing, Info or VBRI header with the number of frames."""
    tag = os.pread(fd, 10, 0)
    sizes = tag[6:] if tag.startswith(b"ID3") else b""
    start = sum(size << shift for size, shift in zip(sizes, (21, 14, 7, 0), strict=False)) + (10 if sizes else 0)
    first = os.pread(fd, 64, start)
    return first.startswith(b"\xff") and any(name in first for name in (b"Xing", b"Info", b"VBRI"))
