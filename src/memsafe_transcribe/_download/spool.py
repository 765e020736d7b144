"""Where downloads lie: files that no crash can leave behind.

Most have no name at all, so their space is free when the last process that holds them dies. Where the system knows no
such files, they are made in a private folder and unlinked at once; where a file without a name could not be handed to a
child, they keep their name there. Whatever has a name is locked for as long as its descriptor lives: a file that can be
locked is one whose process has died, and is removed by the next that uses the folder.
"""

import errno
import os
import re
import secrets
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from .. import _settings
from .._errors import SpoolError
from .publishing import closing, create_locked, open_tmpfile, reason, remove_if_dead

_NO_DESCRIPTORS = {errno.EMFILE, errno.ENFILE}
_IN_MEMORY = {"tmpfs", "ramfs", "rootfs", "devtmpfs", "hugetlbfs"}
_NAME = re.compile(r"spool-[0-9a-f]{16}")
_TRIES = 100


class SpoolFile:
    """One spooled file: without a name where the system allows it, else in a private folder under a lock.

    One that is dropped without being closed says so in a `ResourceWarning`, and is closed. A forked child that closes
    it gives up its own descriptor: the file stays its parent's.

    Args:
        fd: of the file; it is this object's from now on.
        name: by which a folder shows it; None if none does.

    Attributes:
        fd: open for reading and writing; -1 once it is closed.
        path: opens it in this process, and can be handed to a child process; once it is closed, it opens nothing.
        is_nameless: whether no folder shows it.
    """

    def __init__(self, fd: int, name: Path | None = None) -> None:
        self.fd = fd
        self._name = name
        self._open = [fd]  # who takes it out, closes it
        self._owner_pid = os.getpid()

    @property
    def is_nameless(self) -> bool:
        return self._name is None

    @property
    def path(self) -> Path:
        return self._name or _path_of(self.fd)

    def duplicate(self) -> int:
        """Another descriptor of it, which stays when this is closed; in any thread.

        Raises:
            RuntimeError: it is closed, or is being closed just now.
        """
        fd = self.fd
        if fd >= 0:
            copy = os.dup(fd)
            if self.fd == fd:
                return copy
            os.close(copy)  # the number may have been another file's by then
        raise RuntimeError("the block that gave this file has ended; save it inside")

    def close(self) -> None:
        """Remove the file, if nobody else has it open. What was published stays."""
        try:
            fd = self._open.pop()
        except IndexError:
            return
        self.fd = -1
        try:
            if self._name is not None and os.getpid() == self._owner_pid:
                with suppress(FileNotFoundError):  # cleaners of temporary folders come by
                    os.unlink(self._name)
                _remove_if_empty(self._name.parent)
        finally:
            os.close(fd)

    def __del__(self) -> None:
        if self._open:
            self.close()
            if os.getpid() == self._owner_pid:
                warnings.warn(f"{self!r} was dropped without being closed", ResourceWarning, source=self, stacklevel=1)

    def __repr__(self) -> str:
        return f"<SpoolFile {self.path}>"


def default_spool_dir() -> Path:
    """Where files are spooled if nothing else is said: MEMSAFE_SPOOL_DIR, or else the system's folder for temporary
    files (TMPDIR).
    """
    return _settings.folder("MEMSAFE_SPOOL_DIR") or _settings.temporary_folder()


def open_spool_file(spool_dir: Path, url: str) -> SpoolFile:
    """Open a new, empty file that no other user can reach.

    Args:
        spool_dir: the folder whose file system takes it.
        url: what it is for, as errors shall show it.

    Raises:
        SpoolError: the folder is missing or cannot be written, or there is no space, inode or descriptor left.
    """
    try:
        return _open_nameless(spool_dir) or _open_private(spool_dir)
    except OSError as error:
        raise spool_error(spool_dir, url, error) from error


def free_bytes(spool_dir: Path) -> int:
    """How much may still be written there by a user without privileges.

    Raises:
        SpoolError: the folder is missing.
    """
    try:
        found = os.statvfs(spool_dir)
    except OSError as error:
        raise spool_error(spool_dir, "", error) from error
    return found.f_bavail * found.f_frsize


def is_memory(spool_dir: Path) -> bool:
    """Whether files there are memory, which counts against the container's limit. False where that cannot be told.

    An overlay whose upper folder is in memory is not seen: that folder is outside of the container.

    Raises:
        SpoolError: the folder is missing, or no descriptor is left.
    """
    try:
        device = os.stat(spool_dir).st_dev
        # By device, and not by the mount points above: what is mounted over another, moved or bound cannot mislead.
        with suppress(FileNotFoundError), open("/proc/self/mountinfo", "rb") as mounts:
            for line in mounts:
                left, _, right = line.partition(b" - ")
                if left.split()[2].decode() == f"{os.major(device)}:{os.minor(device)}":
                    return right.split()[0].decode() in _IN_MEMORY
    except OSError as error:
        raise spool_error(spool_dir, "", error) from error
    return False


def reap(spool_dir: Path) -> int:
    """Remove what dead processes of this user left in the private folder, and nothing else.

    Returns:
        How many files there were.

    Raises:
        SpoolError: the private folder is not one that can be trusted.
    """
    folder = _private_folder(spool_dir)
    try:
        with _opened_private(folder) as folder_fd:
            removed = _reap(folder_fd)
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise spool_error(spool_dir, "", error) from error
    _remove_if_empty(folder)
    return removed


def spool_error(spool_dir: Path, url: str, error: OSError) -> SpoolError:
    """What the disk said, with the figures and the setting that moves the spool."""
    refused = f"refused {url}" if url else "cannot be used"
    return SpoolError(
        f"the spool folder {spool_dir} {refused}: {reason(error, spool_dir)} "
        "(spool_dir, or MEMSAFE_SPOOL_DIR, names another)",
        url=url,
        spool_dir=str(spool_dir),
        errno=error.errno,
    )


# -- files without a name


def _open_nameless(spool_dir: Path) -> SpoolFile | None:
    """A file that never had a name; None where there are none, or they cannot be opened by a path."""
    fd = open_tmpfile(spool_dir)
    if fd is None:
        return None
    with ExitStack() as on_failure:
        on_failure.callback(os.close, fd)
        if not _opens(_path_of(fd), fd):
            return None
        on_failure.pop_all()
    return SpoolFile(fd)


def _path_of(fd: int) -> Path:
    """The path that opens the nameless file behind `fd`, here and in a child of the same user, if `_opens` says so."""
    return Path(f"/proc/{os.getpid()}/fd/{fd}")


def _opens(path: Path, fd: int) -> bool:
    """Whether the file behind `fd` can be opened by `path`, here and in a child."""
    try:
        # A process that changed its user (a server that gave up root) is shown as root's, and its own children may not
        # look into it.
        if path.parent.stat().st_uid != os.geteuid():
            return False
        with closing(os.open(path, os.O_RDONLY | os.O_CLOEXEC)) as found:
            return os.path.samestat(os.fstat(found), os.fstat(fd))
    except OSError as error:
        if error.errno in _NO_DESCRIPTORS:
            raise
        return False


# -- files with a name, under a lock


def _open_private(spool_dir: Path) -> SpoolFile:
    """A file of the private folder; without its name, if it can be opened without."""
    folder = _private_folder(spool_dir)
    for _ in range(_TRIES):
        with ExitStack() as on_failure:
            with suppress(FileExistsError):
                folder.mkdir(0o700)
                on_failure.callback(_remove_if_empty, folder)
            # Another process may just have removed the folder, as empty.
            with suppress(FileNotFoundError), _opened_private(folder) as folder_fd:
                _reap(folder_fd)
                if (file := _create_private(folder, folder_fd)) is not None:
                    on_failure.pop_all()
                    return file
    raise BlockingIOError(errno.EBUSY, f"{folder.name} in it is removed again and again")


def _create_private(folder: Path, folder_fd: int) -> SpoolFile | None:
    """A new file; None if another process removed it just then, as if its maker had died."""
    path = folder / f"spool-{secrets.token_hex(8)}"
    with ExitStack() as on_failure:
        if (fd := create_locked(path.name, folder_fd, 0o600)) is None:
            return None
        on_failure.callback(os.close, fd)
        on_failure.callback(os.unlink, path)
        if is_nameless := _opens(_path_of(fd), fd):
            os.unlink(path)
            _remove_if_empty(folder)
        on_failure.pop_all()
    return SpoolFile(fd, None if is_nameless else path)


def _private_folder(spool_dir: Path) -> Path:
    return spool_dir.absolute() / f"memsafe-spool-{os.geteuid()}"


@contextmanager
def _opened_private(folder: Path) -> Iterator[int]:
    """The private folder's descriptor, if it is ours alone."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise OSError(error.errno, f"{folder.name} in it is not a folder") from error
        raise
    with closing(fd):
        found = os.fstat(fd)
        if found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise PermissionError(errno.EACCES, f"{folder.name} in it is not this user's own, or open to others")
        yield fd


def _reap(folder_fd: int) -> int:
    return sum(remove_if_dead(name, folder_fd) for name in os.listdir(folder_fd) if _NAME.fullmatch(name))


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
