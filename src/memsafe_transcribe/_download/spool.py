"""Files without a name: no crash can leave one behind."""

import errno
import os
import tempfile
from pathlib import Path

from .._errors import SpoolError

_NO_TMPFILE = {errno.EISDIR, errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}


def default_spool_dir() -> Path:
    """Where files are spooled if nothing else is said: the system's folder for temporary files (TMPDIR)."""
    return Path(tempfile.gettempdir())


def open_nameless(spool_dir: Path, url: str) -> int:
    """Open a new file that has no name; return its descriptor. Its space is free as soon as nobody holds it open.

    Raises:
        SpoolError: the folder is missing or cannot be written.
    """
    try:
        return _open_tmpfile(spool_dir)
    except OSError as error:
        raise spool_error(spool_dir, url, error) from error


def _open_tmpfile(spool_dir: Path) -> int:
    flag = getattr(os, "O_TMPFILE", None)
    if flag is not None and spool_dir.is_dir():
        try:
            return os.open(spool_dir, flag | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            # Refused by some file systems: overlayfs before Linux 6.3, the root of many containers.
            if error.errno not in _NO_TMPFILE:
                raise
    fd, name = tempfile.mkstemp(prefix="memsafe-", dir=spool_dir)
    try:
        os.unlink(name)
    except BaseException:
        os.close(fd)
        raise
    return fd


def spool_error(spool_dir: Path, url: str, error: OSError) -> SpoolError:
    """What the disk said, with the setting that moves the spool."""
    return SpoolError(
        f"the spool folder {spool_dir} refused {url}: {error.strerror} (spool_dir, or TMPDIR, names another)",
        url=url,
        spool_dir=str(spool_dir),
        errno=error.errno,
    )


def path_of(fd: int) -> Path:
    """A path that opens the nameless file behind `fd`, here and, on Linux, in a child of the same user."""
    path = Path(f"/proc/{os.getpid()}/fd/{fd}")
    return path if path.exists() else Path(f"/dev/fd/{fd}")
