"""Box sizes of MP4, M4A and MOV files (ISO/IEC 14496-12): how large the index is that a decoder loads whole."""

import os
import struct

_BOX = struct.Struct(">I4s")
_LARGE_SIZE = struct.Struct(">Q")
_MAX_BOXES = 100_000


def index_bytes(fd: int) -> int:
    """The size of the `moov` box, or of all `moof` boxes, of the file behind `fd`; 0 for any other kind of file.

    Reads box headers only. A box's size is what the file says, but never more than the file has.
    """
    file_bytes = os.fstat(fd).st_size
    total = at = 0
    for _ in range(_MAX_BOXES):
        head = os.pread(fd, _BOX.size + _LARGE_SIZE.size, at)
        if len(head) < _BOX.size:
            break
        size, kind = _BOX.unpack_from(head)
        if at == 0 and kind != b"ftyp":
            return 0
        if size == 1 and len(head) == _BOX.size + _LARGE_SIZE.size:
            (size,) = _LARGE_SIZE.unpack_from(head, _BOX.size)
        end = at + size if size else file_bytes
        if end < at + _BOX.size:
            break
        if kind in (b"moov", b"moof"):
            total += min(end, file_bytes) - at
        at = end
    return total
