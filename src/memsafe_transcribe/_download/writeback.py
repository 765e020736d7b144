"""Pages of a file that was just written: on their way to the disk at once, and out of memory once they are there.

A page that waits to be written counts as used memory, and cannot be dropped: a fast download would fill a small
container with its own file before the kernel begins to write (by default after half a minute, or at 10 % of the
machine's memory), and keep other jobs out meanwhile. So in a container each stretch is sent on its way as soon as it is
complete; where memory is short, the one before it, which has had that long, is waited for. Elsewhere that would only
make the download as slow as the disk.
"""

import ctypes
import errno
import os
from enum import IntEnum
from functools import cache
from typing import Any

_NOT_KNOWN = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ESPIPE}
_WAIT_BEFORE, _WRITE, _WAIT_AFTER = 1, 2, 4  # of sync_file_range(2)


class Haste(IntEnum):
    """What to do about pages that wait for the disk: leave them, send them on their way, or wait for them, too."""

    NONE = 0
    SEND = 1
    WAIT = 2


def send(fd: int, from_bytes: int, to_bytes: int) -> None:
    """Begin to write one stretch back, where the system can; what it could not write, `fsync` tells."""
    if (flush := _sync_file_range()) is not None:
        flush(fd, from_bytes, to_bytes - from_bytes, _WRITE)


def flush_behind(fd: int, from_bytes: int, to_bytes: int) -> None:
    """Begin to write one stretch back; wait for what comes before it, and drop that from memory. Blocks.

    Where the system has no sync_file_range (macOS, some sandboxes), the whole file is synchronized instead.

    Raises:
        OSError: the disk could not write.
    """
    flush = _sync_file_range()
    # The second from the beginning: pages that were busy the last time are tried again, and those that are gone cost
    # nothing. That they could not be written is told here, and to no later fsync.
    if flush is None or not (
        _is_done(flush, fd, from_bytes, to_bytes - from_bytes, _WRITE)
        and (not from_bytes or _is_done(flush, fd, 0, from_bytes, _WAIT_BEFORE | _WRITE | _WAIT_AFTER))  # 0 means all
    ):
        os.fsync(fd)
        from_bytes = to_bytes
    if from_bytes and hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, 0, from_bytes, os.POSIX_FADV_DONTNEED)


def _is_done(flush: Any, fd: int, from_bytes: int, size_bytes: int, how: int) -> bool:
    if flush(fd, from_bytes, size_bytes, how) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NOT_KNOWN:
        return False
    raise OSError(code, os.strerror(code))


@cache
def _sync_file_range() -> Any:
    try:
        function = ctypes.CDLL(None, use_errno=True).sync_file_range
    except (AttributeError, OSError, TypeError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return function
