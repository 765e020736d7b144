"""What a download leaves in the hands of its user."""

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from .._threads import run_to_its_end
from . import publishing
from .spool import SpoolFile

_MAX_NAME_BYTES = 255  # of a file, on all common file systems
_MAX_SUFFIX_BYTES = 16


@dataclass(frozen=True, slots=True)
class DownloadedFile:
    """A downloaded file without a name. It is gone when the block that gave it ends, or this process.

    Attributes:
        fd: open for reading; -1 when the block has ended.
        path: opens it, here and, on Linux, in a child process; inside the block. Asked for later, it opens nothing.
        size_bytes: its length.
        content_type: what the server said it is, or None.
        sha256: of its bytes, as 64 hexadecimal digits.
        final_url: where it came from after redirects, without query and credentials.
        suggested_filename: the last part of the URL's path; never a path itself.
    """

    _spooled: SpoolFile
    size_bytes: int
    content_type: str | None
    sha256: str
    final_url: str
    suggested_filename: str

    @property
    def fd(self) -> int:
        return self._spooled.fd

    @property
    def path(self) -> Path:
        return self._spooled.path

    async def save_as(self, path: str | os.PathLike[str]) -> None:
        """Give the file a name that stays: all of it or nothing, and on disk when this returns.

        Args:
            path: what is there already is replaced at once; its folder must exist. On the spool's own file system
                nothing is copied.

        Raises:
            SpoolError: the disk said no; what was there before is unharmed, and nothing else is left.
            RuntimeError: the block has ended.

        Cancellation: it is finished first.
        """
        await run_to_its_end(lambda: publishing.publish(self._spooled.duplicate, Path(path)))


def suggested_filename(url: str) -> str:
    """The last part of the URL's path, fit to be joined to a folder."""
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    name = "".join(letter for letter in name if letter.isprintable() and letter != "\\")
    name = "download" if name in ("", ".", "..") else name
    if len(name.encode()) <= _MAX_NAME_BYTES:
        return name
    suffix = PurePosixPath(name).suffix
    suffix = suffix if len(suffix.encode()) <= _MAX_SUFFIX_BYTES else ""
    stem = name.removesuffix(suffix).encode()[: _MAX_NAME_BYTES - len(suffix.encode())]
    return stem.decode(errors="ignore") + suffix
