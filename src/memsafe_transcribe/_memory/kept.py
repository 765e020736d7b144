"""A small file of /proc or /sys that is kept open, so that reading it again costs one system call."""

import errno
import os
from collections.abc import Callable

_NONE = -1


def _no_pread(descriptor: int, size: int, offset: int, /) -> bytes:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


pread: Callable[[int, int, int], bytes] = getattr(os, "pread", _no_pread)  # Windows has neither it nor these files

# Out of descriptors or memory: that says nothing about the file, so nobody may take it for "there is no limit".
OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class KeptFile:
    """One file, opened at its first reading.

    The host may close all descriptors (as daemons do when they start) and the number may come to lead elsewhere:
    `verify` finds that out, reading opens anew after any error, and a number that is not ours is never closed.

    Attributes:
        path: where it is.
        descriptor: to read it from; -1 while it is not open, which no reading survives.
    """

    __slots__ = ("_identity", "descriptor", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self.descriptor = _NONE
        self._identity: tuple[int, int] | None = None

    def number(self) -> int | None:
        """The file's number; None for "max", and where there is no such file or something else in it."""
        content = b""
        try:
            content = pread(self.descriptor, 32, 0)
            return int(content)
        except (OSError, ValueError):
            if content == b"max\n":
                return None
            content = self._read_anew(32)
            return int(content) if content.strip().isdigit() else None

    def content(self, size: int = 8192) -> bytes:
        """What stands in the file; nothing where there is no such file."""
        try:
            return pread(self.descriptor, size, 0)
        except OSError:
            return self._read_anew(size)

    def _read_anew(self, size: int) -> bytes:
        self.close()
        try:
            self.descriptor, self._identity = identified(os.open(self.path, os.O_RDONLY))  # Python opens with O_CLOEXEC
            return pread(self.descriptor, size, 0)
        except OSError as error:
            if error.errno in OUT_OF_RESOURCES:
                raise
            self.close()
            return b""

    def verify(self) -> None:
        """Forget a descriptor that no longer leads to the file that was opened."""
        if self.descriptor != _NONE and not leads_to(self.descriptor, self._identity):
            self.descriptor = _NONE

    def close(self) -> None:
        """Close it, if it is still ours. The next reading opens it again."""
        descriptor, self.descriptor = self.descriptor, _NONE
        if descriptor != _NONE and leads_to(descriptor, self._identity):
            os.close(descriptor)


def identified(descriptor: int) -> tuple[int, tuple[int, int]]:
    """A descriptor that was just opened, and what it leads to: device and inode. It is closed if that cannot be told.

    Raises:
        OSError: it cannot.
    """
    try:
        found = os.fstat(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, (found.st_dev, found.st_ino)


def leads_to(descriptor: int, identity: tuple[int, int] | None) -> bool:
    """Whether it leads there still. It does unless the system says that it is closed, or another file by now."""
    try:
        found = os.fstat(descriptor)
    except OSError as error:
        return error.errno != errno.EBADF
    return (found.st_dev, found.st_ino) == identity
