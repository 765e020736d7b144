"""Pure: how this process and its workers cut a pipe into messages.

A frame is one kind byte, the payload's length as an unsigned 32-bit little-endian number, and the payload.
"""

import struct
from collections.abc import Iterator

MAX_PAYLOAD_BYTES = 1 << 20  # what a worker may make its parent hold at once
_HEADER = struct.Struct("<cI")


class FrameError(ValueError):
    """The bytes are not frames, or a frame is longer than allowed."""


def header(kind: bytes, payload_bytes: int) -> bytes:
    """The bytes that go before a payload."""
    return _HEADER.pack(kind, payload_bytes)


class FrameReader:
    """Collects bytes as they come and cuts off whole frames. Holds at most one frame and one read."""

    def __init__(self, max_payload_bytes: int = MAX_PAYLOAD_BYTES) -> None:
        self._buffer = bytearray()
        self._max_payload_bytes = max_payload_bytes

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Take in `data`; yield (kind, payload) for each frame that is complete now.

        Raises:
            FrameError: a frame announces more than `max_payload_bytes`.
        """
        self._buffer += data
        at = 0
        while len(self._buffer) - at >= _HEADER.size:
            kind, length = _HEADER.unpack_from(self._buffer, at)
            if length > self._max_payload_bytes:
                raise FrameError(f"a frame of {length} bytes was announced, {self._max_payload_bytes} are allowed")
            end = at + _HEADER.size + length
            if len(self._buffer) < end:
                break
            yield kind, bytes(self._buffer[at + _HEADER.size : end])
            at = end
        del self._buffer[:at]
