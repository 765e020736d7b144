"""Who is at work on what: locks that the kernel drops when their process ends, however it ends.

Each is on a byte of one small file beside the database, far beyond its end; which byte, the hash of a name says. They
are locks of open file descriptions: two tasks of one process exclude each other as two processes do.

Not covered: if somebody removes the file, those who have it open and those who make it anew do not see each other. Then
two may do the same work; what they store is still stored once.
"""

import fcntl
import os
import struct
import weakref
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import anyio

from .._errors import StoreError

_POLL_SECONDS = 0.1
_FLOCK = struct.Struct("hhqqi4x")  # struct flock on 64-bit Linux
_held: "weakref.WeakSet[Lock]" = weakref.WeakSet()


class Lock:
    """A lock that is held until `release`. Without it, it is dropped when this is collected, or the process ends."""

    def __init__(self, fd: int, at: int) -> None:
        self._fd = fd
        self._at = at
        _held.add(self)

    def try_set(self, *, shared: bool) -> bool:
        """Whether it could be had."""
        try:
            self._set(fcntl.F_RDLCK if shared else fcntl.F_WRLCK)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def _set(self, kind: int) -> None:
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, self._at, 1, 0))

    def is_of(self, path: Path) -> bool:
        """Whether its file still has that name."""
        try:
            return os.path.samestat(os.stat(path), os.fstat(self._fd))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Give it back; again does nothing."""
        if self._fd >= 0:
            with suppress(OSError):  # there was none
                self._set(fcntl.F_UNLCK)  # to close is not enough while a child has the file that was never told
        self.forget()

    def forget(self) -> None:
        """Close the file; the lock is somebody else's."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.release()


class Locks:
    """The locks that go with one database."""

    def __init__(self, database: Path) -> None:
        self._path = database.with_name(f"{database.name}-locks")

    def try_lock(self, name: bytes, *, shared: bool = False) -> Lock | None:
        """The lock of that name; None while somebody has it.

        Args:
            name: of what is locked.
            shared: content with others that share it; only who wants it alone has to wait.

        Raises:
            StoreError: the file cannot be opened, or its file system knows no locks.
        """
        at = int.from_bytes(sha256(name).digest()[:8]) >> 2
        while True:
            lock = None
            try:
                lock = Lock(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), at)
                is_had = lock.try_set(shared=shared)
                if is_had and lock.is_of(self._path):
                    return lock
            except OSError as error:
                if lock is not None:
                    lock.release()
                raise StoreError(f"{self._path}: {error.strerror}", path=str(self._path), reason="refused") from error
            lock.release()
            if not is_had:
                return None  # else somebody removed the file just now

    async def lock(self, name: bytes, *, shared: bool = False) -> Lock:
        """The same, waited for: the kernel tells nobody when it is free, so that it is looked for at times."""
        while True:
            if (lock := self.try_lock(name, shared=shared)) is not None:
                return lock
            await anyio.sleep(_POLL_SECONDS)


def _forget_in_child() -> None:
    """A child shares its parent's open files, and with them the locks: it would keep them after its parent's end."""
    for lock in list(_held):
        lock.forget()


os.register_at_fork(after_in_child=_forget_in_child)
