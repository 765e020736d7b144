"""Names of files: none outlives the process that made it for a moment only, and none shows a part of a file.

**A temporary name** is locked for as long as its maker has the file open: what can be locked has no living owner, and
whoever finds it removes it. **A file is published** when its data is complete and on disk, by one system call. A file
without a name is given one; where that cannot be, on another file system above all, it is copied: into a file without a
name again, or, where there are none, into one with a temporary name. To replace a file that is there, a temporary name
is needed too, for only a name can be put over another. Who is killed in that moment leaves it behind, and the next that
publishes to the same path removes it.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from .._errors import SpoolError
from .._units import MiB, format_size

try:
    import fcntl
    import resource
except ImportError:  # Windows
    fcntl = resource = None  # type: ignore[assignment]

_O_TMPFILE = getattr(os, "O_TMPFILE", 0)
# It is refused by old kernels and some file systems: overlayfs before Linux 6.3, the root of many containers.
_NO_TMPFILE = {errno.EISDIR, errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}
# So is a link: to another file system, or where there are none, or where /proc does not show the file. (What is refused
# for another reason, such as a folder that is not writable, is refused to a copy, too, before it is begun.)
_NO_LINK = {errno.ENOENT, errno.EXDEV, errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS}
_MODE = 0o666
_SLOTS = 16  # how many may publish to the same path at the same time
_PIECE_BYTES = 8 * MiB
_BUFFER_BYTES = 1 * MiB


@contextmanager
def closing(fd: int) -> Iterator[int]:
    """Close a descriptor at the end of the block."""
    try:
        yield fd
    finally:
        os.close(fd)


def reason(error: OSError, folder: Path) -> str:
    """What the system said, with the figures behind it: the space and inodes of `folder`, or the descriptors."""
    with suppress(OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            found = os.statvfs(folder)
            free = format_size(found.f_bavail * found.f_frsize)
            return f"{error.strerror}, {free} and {found.f_favail} inodes are free"
        if error.errno == errno.EMFILE:
            return f"{error.strerror}, {resource.getrlimit(resource.RLIMIT_NOFILE)[0]} are allowed (ulimit -n)"
    return str(error.strerror)


# -- files without a name, and temporary names


def open_tmpfile(folder: Path | str, dir_fd: int | None = None) -> int | None:
    """A descriptor of a new file without a name in `folder`; None where the system knows none."""
    if not _O_TMPFILE:
        return None
    try:
        return os.open(folder, _O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=dir_fd)
    except OSError as error:
        if error.errno in _NO_TMPFILE:
            return None
        raise


def create_locked(name: str, folder_fd: int, mode: int) -> int | None:
    """Create a file that is locked for the life of its descriptor, and of those that forked children get of it.

    Returns:
        Its descriptor; None if somebody took it for a dead one's in the moment before it was locked, and removes it.

    Raises:
        FileExistsError: the name is taken.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, mode, dir_fd=folder_fd)
    try:
        if lock(fd) and _is_at(fd, name, folder_fd):
            return fd
    except BaseException:
        with closing(fd):
            os.unlink(name, dir_fd=folder_fd)
        raise
    os.close(fd)
    return None


def lock(fd: int) -> bool:
    """Keep others from taking this file for a dead one's; False if one of them was faster.

    Where the file system has no locks, nobody gets one, so nobody removes anything.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def remove_if_dead(name: str, folder_fd: int) -> bool:
    """Remove this user's file of that name if no living process has it locked; whether it was."""
    # Were it a pipe, opening it would wait for its other end.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with closing(os.open(name, flags, dir_fd=folder_fd)) as fd:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
                return False
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another may have removed it first, and a third have taken the name.
            if not _is_at(fd, name, folder_fd):
                return False
            os.unlink(name, dir_fd=folder_fd)
    except OSError:  # gone, a link, locked, or not to be removed
        return False
    return True


def _is_at(fd: int, name: str, folder_fd: int) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(name, dir_fd=folder_fd, follow_symlinks=False))
    except FileNotFoundError:
        return False


# -- publishing


@dataclass(frozen=True)
class _Target:
    """A name in an open folder, and the names beside it that stand for it while it is replaced."""

    folder_fd: int
    name: str

    @property
    def slots(self) -> list[str]:
        """The temporary names. They are few, so that what the dead left is found without listing the folder."""
        key = sha256(os.fsencode(self.name)).hexdigest()[:16]
        return [f".memsafe-{key}-{number}" for number in range(_SLOTS)]

    def check(self) -> None:
        """Refuse what a file must not take the place of: a folder, a device, a pipe."""
        with suppress(FileNotFoundError):
            mode = os.stat(self.name or ".", dir_fd=self.folder_fd).st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, "it is a folder")
            if not stat.S_ISREG(mode):
                raise FileExistsError(errno.EEXIST, "it is there, and is not a file")

    def link(self, fd: int) -> bool:
        """Publish a locked file without a name; False if it cannot be given one."""
        try:
            name = self._link_where_free(fd)
        except OSError as error:
            if error.errno in _NO_LINK:
                return False
            raise
        if name != self.name:
            with self.replaced_by(name):
                pass
        return True

    def _link_where_free(self, fd: int) -> str:
        for name in (self.name, *self.slots):
            with suppress(FileExistsError):
                os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=self.folder_fd)
                return name
        raise _all_taken()

    def create(self) -> tuple[int, str]:
        """A new, locked file under a temporary name: its descriptor, and that name."""
        for slot in self.slots:
            with suppress(FileExistsError):
                if (fd := create_locked(slot, self.folder_fd, _MODE)) is not None:
                    return fd, slot
        raise _all_taken()

    @contextmanager
    def replaced_by(self, name: str) -> Iterator[None]:
        """Put what has this temporary name in place, once the block has finished it; remove it if anything fails."""
        try:
            yield
            os.rename(name, self.name, src_dir_fd=self.folder_fd, dst_dir_fd=self.folder_fd)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self.folder_fd)
            raise


def _all_taken() -> OSError:
    return BlockingIOError(errno.EBUSY, f"{_SLOTS} others are writing it just now")


def publish(duplicate: Callable[[], int], path: Path) -> None:
    """Save a `SpoolFile`, by its `duplicate`, under a name, atomically and durably, in place of a file that has it.

    It blocks: run it in a thread. The file stays usable, and may be closed meanwhile; its position is neither used nor
    changed. A symbolic link is replaced, not followed. The mode is what the umask leaves of 0666.

    Raises:
        RuntimeError: the file is closed already.
        SpoolError: `path` is no file or cannot be written; it is as it was, and nothing is left beside it. (If the disk
            fails just after the name has appeared, the file is there, but may not outlive a power failure.)

    Memory: at most 1 MiB. What is copied is sent on to the disk every 8 MiB, so that it does not fill the container.
    """
    need_bytes = 0
    try:
        with closing(duplicate()) as source:
            need_bytes = os.fstat(source).st_size
            with closing(os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as folder_fd:
                _publish(source, _Target(folder_fd, path.name))
    except OSError as error:
        text = f"{path} ({format_size(need_bytes)}) cannot be written: {reason(error, path.parent)}"
        raise SpoolError(text, url="", spool_dir=str(path.parent), errno=error.errno) from error


def _publish(source: int, target: _Target) -> None:
    target.check()
    for slot in target.slots:
        remove_if_dead(slot, target.folder_fd)
    umask = _umask()
    if umask is None or not (_link_itself(source, target, umask) or _link_copy(source, target, umask)):
        _rename_copy(source, target)
    try:
        os.fsync(target.folder_fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot do that to a folder
            raise


def _umask() -> int | None:
    """This process's umask; None if the system does not say. (`os.umask` tells it only by changing it, for all.)"""
    with suppress(FileNotFoundError), open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"Umask:"):
                return int(line.split()[1], 8)
    return None


def _link_itself(source: int, target: _Target, umask: int) -> bool:
    """Give the spooled file itself the name; False where that cannot be."""
    # Both only save the time to find it out when the link is refused, for the data has to be on disk before.
    was_nameless = _O_TMPFILE and fcntl.fcntl(source, fcntl.F_GETFL) & _O_TMPFILE == _O_TMPFILE
    if not was_nameless or os.fstatvfs(source).f_fsid != os.fstatvfs(target.folder_fd).f_fsid:
        return False
    try:
        fd = os.open(f"/proc/self/fd/{source}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    with closing(fd):  # this one has a lock of its own, not its copies' common one: of two threads, one gets it
        # What was published before is copied, so that no two names lead to one file.
        if not lock(fd) or os.fstat(fd).st_nlink:
            return False
        os.fchmod(fd, _MODE & ~umask)
        os.fsync(source)  # that write-back has failed is told once only, and to those who had the file open by then
        return target.link(fd)


def _link_copy(source: int, target: _Target, umask: int) -> bool:
    """Copy into a file without a name, and give it the name; False where there are no such files."""
    fd = open_tmpfile(".", target.folder_fd)
    if fd is None:
        return False
    with closing(fd):
        lock(fd)
        _copy(source, fd)
        os.fchmod(fd, _MODE & ~umask)
        os.fsync(fd)
        return target.link(fd)


def _rename_copy(source: int, target: _Target) -> None:
    """Copy into a file with a temporary name, and rename that. The kernel applies the umask when it is created."""
    fd, slot = target.create()
    with closing(fd), target.replaced_by(slot):
        _copy(source, fd)
        os.fsync(fd)


def _copy(source: int, copy: int) -> None:
    """Copy all bytes from one file's beginning to the other's, in pieces, without moving the position in `source`."""
    size_bytes, done = os.fstat(source).st_size, 0
    while done < size_bytes:
        end = min(done + _PIECE_BYTES, size_bytes)
        while done < end:
            done += _copy_in_kernel(source, copy, end - done, done) or _copy_by_hand(source, copy, end - done, done)
        if hasattr(os, "posix_fadvise"):
            # Begins to write what is dirty, drops what is written. Unlike a wait for it, it leaves errors to fsync.
            os.posix_fadvise(copy, 0, done, os.POSIX_FADV_DONTNEED)


def _copy_in_kernel(source: int, copy: int, count: int, offset: int) -> int:
    """How many bytes were copied; 0 where this cannot be done, for whatever reason."""
    try:
        return os.copy_file_range(source, copy, count, offset, offset)
    except (AttributeError, OSError):  # no Linux; another file system, or an error that writing will show, too
        return 0


def _copy_by_hand(source: int, copy: int, count: int, offset: int) -> int:
    data = os.pread(source, min(count, _BUFFER_BYTES), offset)
    if not data:
        raise OSError(errno.EIO, "the spooled file has become shorter")
    return os.pwrite(copy, data, offset)
