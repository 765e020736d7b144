"""Where the ledger of this container is: found by its name, and, once the name is gone, by those who have it open."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from .. import _settings
from .._memory import reading

NAME = "ledger"
_TRIES = 100


class FolderRefusedError(Exception):
    """The folder is not one that can be trusted; the text says why."""


def default_folder() -> Path:
    """The ledger's folder: named by user, boot and cgroup, so that no two containers share one."""
    base = os.environ.get("MEMSAFE_LEDGER_DIR")
    if not base:
        shm = Path("/dev/shm")  # noqa: S108 - in memory, one for each container, and no cleaner comes by
        base = str(shm if shm.is_dir() and os.access(shm, os.W_OK) else _settings.temporary_folder())
    group = reading.cgroup_inode()
    inside = f"cg{group}" if group is not None else f"ns{reading.pid_namespace()}"
    return Path(base) / f"memsafe-transcribe-{os.geteuid()}-{reading.boot_id()[:8]}-{inside}"


def open_named(folder: Path) -> int:
    """The ledger file, empty if it is new, in a folder that is ours alone.

    Raises:
        FolderRefusedError: it belongs to somebody else, or is open to others.
        OSError: it cannot be made or opened.
    """
    tries = _TRIES
    while True:
        with suppress(FileExistsError):
            folder.mkdir(0o700)
        try:
            return _open_in(folder)
        except FileNotFoundError:  # the last one to leave has just taken it away
            tries -= 1
            if not tries:
                raise


def _open_in(folder: Path) -> int:
    folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(folder_fd)
        if found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise FolderRefusedError(f"{folder} is not this user's own, or open to others")
        return os.open(NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder_fd)
    finally:
        os.close(folder_fd)


def open_lost(folder: Path) -> Iterator[int]:
    """The files of this name that were removed while some process has them open. The caller closes them."""
    for path in _descriptors(f"{os.path.realpath(folder / NAME)} (deleted)"):
        with suppress(OSError):
            yield os.open(path, os.O_RDWR | os.O_CLOEXEC)


def _descriptors(target: str) -> Iterator[str]:
    """The descriptors of all processes that we may look into that lead to `target`."""
    for process in _names("/proc"):
        if process.isdecimal():
            for fd in _names(f"/proc/{process}/fd"):
                path = f"/proc/{process}/fd/{fd}"
                with suppress(OSError):  # closed since, and the next ones may not be
                    if os.readlink(path) == target:
                        yield path


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def remove(folder: Path, fd: int) -> None:
    """Take away the ledger file and its folder, unless the name leads to another one by now that is in use."""
    named, ours = os.stat(folder / NAME), os.fstat(fd)
    # An empty one was made by somebody who then found ours. Whoever is just beginning to use it sees that it is gone.
    if (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino) or named.st_size == 0:
        os.unlink(folder / NAME)
        os.rmdir(folder)
