"""Waiting for other processes without sleeping, and watching what they open."""

import ctypes
import os
import select
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_IN_OPEN, _IN_MOVED_TO, _IN_CREATE = 0x20, 0x80, 0x100
_libc = ctypes.CDLL(None, use_errno=True)


def gone_within(pidfd: int, seconds: float) -> bool:
    """Wait for the process behind a pidfd to end; whether it did."""
    return bool(select.select([pidfd], [], [], seconds)[0])


class OpenWatch:
    """Tells whether anybody has opened a file since the last question."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def is_opened_within(self, seconds: float) -> bool:
        """Wait until somebody opens it; whether somebody did."""
        return bool(select.select([self._fd], [], [], seconds)[0]) and self.was_opened()

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


class NameWatch:
    """Waits for files to appear in a folder."""

    def __init__(self, folder: Path, fd: int) -> None:
        self._folder = folder
        self._fd = fd

    def wait_for(self, name: str, seconds: float) -> None:
        """Block until there is a file of this name."""
        give_up_at = time.monotonic() + seconds
        while not (self._folder / name).exists():
            left = give_up_at - time.monotonic()
            assert left > 0, f"no {name} within {seconds:g} s; there are {os.listdir(self._folder)}"
            select.select([self._fd], [], [], left)
            with suppress(BlockingIOError):
                os.read(self._fd, 4096)


@contextmanager
def watch_names(folder: Path) -> Iterator[NameWatch]:
    """Let the kernel note each name that appears in `folder`."""
    fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        assert _libc.inotify_add_watch(fd, os.fsencode(folder), _IN_CREATE | _IN_MOVED_TO) >= 0
        yield NameWatch(folder, fd)
    finally:
        os.close(fd)
