"""Waiting for other processes without sleeping, and watching what they open."""

import ctypes
import os
import select
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_IN_OPEN = 0x20
_libc = ctypes.CDLL(None, use_errno=True)


def gone_within(pidfd: int, seconds: float) -> bool:
    """Wait for the process behind a pidfd to end; whether it did."""
    return bool(select.select([pidfd], [], [], seconds)[0])


class OpenWatch:
    """Tells whether anybody has opened a file since the last question."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def was_opened(self) -> bool:
        try:
            return bool(os.read(self._fd, 4096))
        except BlockingIOError:
            return False


@contextmanager
def watch_opens(path: Path) -> Iterator[OpenWatch]:
    """Let the kernel (inotify) note each time that `path` is opened, by whatever process."""
    fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        assert _libc.inotify_add_watch(fd, os.fsencode(path), _IN_OPEN) >= 0, os.strerror(ctypes.get_errno())
        yield OpenWatch(fd)
    finally:
        os.close(fd)
