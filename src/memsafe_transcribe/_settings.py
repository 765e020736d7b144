"""What a host may say by environment variables where it does not say it by an argument: docs/settings.md has them all.

Each is read when something that it concerns is made, never at import. An empty one is not set. One that cannot be used
is a `ValueError` that names it and what it says, never left out in silence.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ._units import parse_size

T = TypeVar("T")


def size_bytes(name: str) -> int | None:
    """A positive size, such as "512MiB"."""
    return _read(name, _positive_size)


def percent(name: str, most: float) -> float | None:
    """A number above 0, and not above `most`."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ValueError("must be a number of percent") from None
        if not 0 < value <= most:
            raise ValueError(f"must be more than 0 and at most {most:g}")
        return value

    return _read(name, number)


def count(name: str) -> int | None:
    """A whole number of things, 1 at least."""
    return _read(name, _positive_number)


def folder(name: str) -> Path | None:
    """A folder that is there."""
    return _read(name, _existing_folder)


def temporary_folder() -> Path:
    """The system's folder for temporary files, as `tempfile.gettempdir` has it, but without a trace.

    That one tries a folder by writing a file to it, which stays there if the process is killed just then.
    """
    import tempfile  # not above: the guard reads settings, and this loads much that it needs nothing of

    if tempfile.tempdir is None and os.name == "posix":
        named = map(os.environ.get, ("TMPDIR", "TEMP", "TMP"))
        for place in (*filter(None, named), "/tmp", "/var/tmp", "/usr/tmp"):  # noqa: S108 - where the system has them
            if os.path.isdir(place) and os.access(place, os.W_OK | os.X_OK):
                return Path(place).absolute()
    return Path(os.fsdecode(tempfile.gettempdir()))


def _read(name: str, parsed: Callable[[str], T]) -> T | None:
    text = os.environ.get(name)
    if not text:
        return None
    try:
        return parsed(text)
    except ValueError as error:
        raise ValueError(f"environment variable {name}={text!r}: {error}") from None


def _positive_size(text: str) -> int:
    size = parse_size(text)
    if size <= 0:
        raise ValueError("must be more than 0 bytes")
    return size


def _positive_number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise ValueError("must be a whole number, 1 at least")
    return int(text)


def _existing_folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise ValueError("there is no such folder")
    return Path(text).absolute()
