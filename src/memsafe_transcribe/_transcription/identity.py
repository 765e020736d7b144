"""What tells one source from another: all of its bytes."""

import hashlib
import os
from collections.abc import Iterable
from functools import partial

import anyio

from .._threads import run_to_its_end
from .sources import Media

_PIECE_BYTES = 4 * 1024 * 1024


class Identity:
    """The bytes of one source, as they were when this was made.

    Attributes:
        sha256: of all of them, as 64 hexadecimal digits.
    """

    def __init__(self, media: Media, sha256: str, seen: tuple[int, int] | None) -> None:
        self.sha256 = sha256
        self._media = media
        self._seen = seen

    @property
    def is_unchanged(self) -> bool:
        """Whether they still are the same, by the file's length and time of change."""
        return _seen(self._media) == self._seen


async def identity_of(media: Media) -> Identity:
    """Read all of it, unless it was just spooled, when its hash is known.

    Cancellation: it is read to the end of the piece that is being read.

    Memory: a piece at a time.
    """
    seen = _seen(media)
    if media.sha256 is not None:
        return Identity(media, media.sha256, seen)
    hashed = hashlib.sha256()
    if media.fd is not None:
        at, limiter = 0, anyio.CapacityLimiter(1)
        while read_bytes := await run_to_its_end(partial(_hash_piece, hashed, media.fd, at), limiter):
            at += read_bytes
    else:
        await run_to_its_end(lambda: _hash_all(hashed, media.feed or ()), anyio.CapacityLimiter(1))
    return Identity(media, hashed.hexdigest(), seen)


def _hash_piece(hashed: "hashlib._Hash", fd: int, at: int) -> int:
    piece = os.pread(fd, _PIECE_BYTES, at)
    hashed.update(piece)
    return len(piece)


def _hash_all(hashed: "hashlib._Hash", pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        hashed.update(piece)


def _seen(media: Media) -> tuple[int, int] | None:
    if media.fd is None:
        return None
    found = os.fstat(media.fd)
    return found.st_size, found.st_mtime_ns
