"""The Nth time that the library asks the system for something, it is refused; once, or from then on.

The functions by which Python asks are replaced, in the modules that have them, and count what has the library's code
below it on the stack, be it through pathlib, subprocess or an event loop. What is asked from C alone (SQLite's own
reading and writing, FFmpeg's) is made to fail in `tests/store/test_store_faults.py`.

What closes a file is done, and then says that it failed, as the system does it. What cannot fail is left alone: the
closing of pipes and sockets, an event loop's waking of itself, and that a process kills its own child.
"""

import builtins
import errno
import fcntl
import io
import os
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from memsafe_transcribe._memory import kept

from .sites import Site, io_site_of, is_ours

_DESCRIPTORS = ("open", "pipe", "dup", "pidfd_open", "memfd_create", "scandir", "listdir")
_WRITES = (
    "write", "pwrite", "ftruncate", "fsync", "fdatasync", "mkdir", "mknod", "link", "rename", "replace",
    "copy_file_range", "posix_fallocate",
)  # fmt: skip
_REST = (
    "read", "pread", "stat", "lstat", "fstat", "statvfs", "fstatvfs", "unlink", "remove", "rmdir", "readlink", "fchmod",
    "chmod", "utime", "posix_fadvise", "set_blocking", "set_inheritable", "access", "sched_getaffinity", "fdopen",
)  # fmt: skip
# A loop's own pipe, by which it is woken, and that by which subprocess hears of its child: neither can fail.
_NEVER = {
    ("socket.send", "_write_to_self"),
    ("socket.send", "wakeup_thread_and_signal_safe"),
    ("os.read", "_execute_child"),
}
_SOCKET = ("__init__", "setsockopt", "getsockopt", "setblocking", "recv", "send", "shutdown", "getpeername")


class Faults:
    """Counts what is asked, and refuses the Nth.

    Args:
        nth: which; 0 for none.
        at: of those from this place alone.
        is_forever: whether all that follow, too.
        is_refused: whether the system says that it is not permitted, instead of what is likely for each call.

    Attributes:
        count: how much was asked.
        reached: where something was asked.
        sites: where it was refused.
        names: by which calls.
    """

    def __init__(
        self, nth: int = 0, *, at: Site | None = None, is_forever: bool = False, is_refused: bool = False
    ) -> None:
        self.count = 0
        self.reached: set[Site] = set()
        self.sites: set[Site] = set()
        self.names: set[str] = set()
        self._nth = nth
        self._at = at
        self._is_forever = is_forever
        self._is_refused = is_refused
        self._lock = threading.Lock()
        self._here = threading.local()

    def error_of(self, name: str, code: int) -> OSError | None:
        """What the system says to this call; None if it is done."""
        frame = sys._getframe(2)  # noqa: SLF001
        if getattr(self._here, "is_looking", False):
            return None
        self._here.is_looking = True
        try:
            if (name, frame.f_code.co_name) in _NEVER or not is_ours(frame):
                return None
            site = io_site_of(frame)
            if self._at not in (None, site):
                return None
            with self._lock:
                self.count += 1
                if site is not None:
                    self.reached.add(site)
                is_due = self.count >= self._nth if self._is_forever else self.count == self._nth
                if not self._nth or not is_due:
                    return None
                self.names.add(name)
                if site is not None:
                    self.sites.add(site)
        finally:
            self._here.is_looking = False
        code = errno.EACCES if self._is_refused else code
        return OSError(code, os.strerror(code))

    def failing(self, name: str, function: Callable[..., Any], code: int) -> Callable[..., Any]:
        """The same function, which may be refused."""

        def call(*arguments: Any, **options: Any) -> Any:
            if (error := self.error_of(name, code)) is not None:
                raise error
            return function(*arguments, **options)

        return call

    def opening(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`open`, of names alone: what wraps a descriptor, as subprocess does, asks for nothing."""
        failing = self.failing("open", function, errno.EMFILE)

        def call(file: Any, *arguments: Any, **options: Any) -> Any:
            return (function if isinstance(file, int) else failing)(file, *arguments, **options)

        return call

    def closing(self, close: Callable[[int], None]) -> Callable[[int], None]:
        """`os.close`, which may say that it has failed."""

        def call(fd: int) -> None:
            error = self.error_of("os.close", errno.EIO) if _is_file(fd) else None
            close(fd)
            if error is not None:
                raise error

        return call

    @contextmanager
    def armed(self) -> Iterator["Faults"]:
        """While this lasts, things fail."""
        with ExitStack() as patched:

            def put(where: Any, name: str, function: Any) -> None:
                patched.enter_context(patch.object(where, name, function))

            for code, names in ((errno.EMFILE, _DESCRIPTORS), (errno.ENOSPC, _WRITES), (errno.EIO, _REST)):
                for name in names:
                    put(os, name, self.failing(f"os.{name}", getattr(os, name), code))
            put(os, "close", self.closing(os.close))
            opening = self.opening(open)
            put(kept, "pread", self.failing("os.pread", os.pread, errno.EIO))
            put(builtins, "open", opening)
            put(io, "open", opening)
            for name in ("fcntl", "flock"):
                put(fcntl, name, self.failing(f"fcntl.{name}", getattr(fcntl, name), errno.ENOLCK))
            for name in _SOCKET:
                put(socket.socket, name, self.failing(f"socket.{name}", getattr(socket.socket, name), errno.ENOBUFS))
            put(socket.socket, "connect_ex", self._connecting(socket.socket.connect_ex))
            put(socket, "getaddrinfo", self.failing("socket.getaddrinfo", socket.getaddrinfo, errno.EIO))
            put(subprocess, "_fork_exec", self.failing("fork", subprocess._fork_exec, errno.EAGAIN))  # type: ignore[attr-defined]  # noqa: SLF001
            put(sqlite3, "connect", self._connected_to_database)
            yield self

    def _connecting(self, connect_ex: Callable[..., int]) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            error = self.error_of("socket.connect_ex", errno.ENETUNREACH)
            return connect_ex(*arguments) if error is None else error.errno or 0

        return call

    def _connected_to_database(self, *arguments: Any, **options: Any) -> sqlite3.Connection:
        if self.error_of("sqlite3.connect", errno.EIO) is not None:
            raise _disk_error()
        faults = self

        class Cursor(sqlite3.Cursor):
            def fetchone(self) -> Any:
                self._ended_by(faults.error_of("sqlite3.fetchone", errno.EIO))
                return super().fetchone()

            def fetchall(self) -> Any:
                self._ended_by(faults.error_of("sqlite3.fetchall", errno.EIO))
                return super().fetchall()

            def _ended_by(self, error: OSError | None) -> None:
                if error is not None:  # a statement that fails is over
                    self.close()
                    raise _disk_error()

        class Connection(sqlite3.Connection):
            def execute(self, *arguments: Any) -> sqlite3.Cursor:
                if faults.error_of("sqlite3.execute", errno.EIO) is not None:
                    raise _disk_error()
                return self.cursor(Cursor).execute(*arguments)

            def executescript(self, script: str) -> sqlite3.Cursor:
                if faults.error_of("sqlite3.executescript", errno.EIO) is not None:
                    raise _disk_error()
                return super().executescript(script)

            def close(self) -> None:
                error = faults.error_of("sqlite3.close", errno.EIO)
                super().close()
                if error is not None:
                    raise _disk_error()

        return _connect(*arguments, **options, factory=Connection)


_connect, _fstat = sqlite3.connect, os.fstat


def _is_file(fd: int) -> bool:
    return stat.S_ISREG(_fstat(fd).st_mode)


def _disk_error() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_IOERR, "SQLITE_IOERR"
    return error
