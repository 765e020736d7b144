"""One file -> frames: I (JSON: what the file says of itself), P (a block: a 32-bit count of levels, the levels as
32-bit floats, samples), then D (JSON: what was damaged) or E (JSON: why not).

Imports PyAV: in the decoding process, or where a host has asked for a thread instead of one.
"""

import json
import struct
from array import array
from collections.abc import Callable
from contextlib import closing
from typing import Any

from .files import Feed, FileView
from .media import Media, RefusalError
from .samples import Samples

_COUNT = struct.Struct("<I")
_BLOCKS_AT_ONCE = 2  # each frame wakes its reader
Send = Callable[[bytes, bytes], object]


def decode(fd: int | None, feed_fd: int, max_samples: int, send: Send, *, is_confined: bool) -> None:
    """Decode all of it.

    Args:
        fd: of a regular file; None where it comes in by a pipe.
        feed_fd: that pipe.
        max_samples: at 16 kHz; more is refused.
        send: called with the kind and the payload of each frame.
        is_confined: passed on.

    Raises:
        MemoryError: it needs more than there is.
    """

    def send_json(kind: bytes, value: dict[str, Any]) -> None:
        send(kind, json.dumps(value).encode())

    try:
        media = Media(Feed(feed_fd) if fd is None else FileView(fd), fd, max_samples)
        send_json(b"I", {**media.info, "is_confined": is_confined})
        with closing(_Blocks(send)) as blocks:
            samples = Samples(blocks.add)
            media.decode(samples)
        if samples.count == 0:
            raise RefusalError(
                "unsupported", "no sample of it could be decoded" if media.gaps else "it holds no samples"
            )
        gaps = [(gap.start_samples, gap.end_samples, gap.reason) for gap in media.gaps]
        send_json(b"D", {"samples": samples.count, "gaps": gaps})
    except RefusalError as refusal:
        send_json(b"E", {"kind": refusal.kind, "message": str(refusal)})


class _Blocks:
    """Sends blocks, a few at a time; what is left when it is closed, too."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._count = 0
        self._levels = array("f")
        self._samples = bytearray()

    def add(self, levels: "array[float]", samples: bytes) -> None:
        self._levels += levels
        self._samples += samples
        self._count += 1
        if self._count == _BLOCKS_AT_ONCE:
            self.close()

    def close(self) -> None:
        if self._count:
            self._send(b"P", _COUNT.pack(len(self._levels)) + self._levels.tobytes() + self._samples)
        self._count = 0
        del self._levels[:], self._samples[:]
