"""What the command's sources and results are called, and what it says."""

import os
import sys
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from ._download.policy import shown
from ._timeline.timeline import Timeline
from ._transcription.sources import Source

_MAX_STEM_BYTES = 200  # a name may have 255


def source_of(text: str) -> Source:
    """What a source on the command line means.

    Raises:
        ValueError: it is a URL of another scheme than http and https.
    """
    if "://" not in text:
        return Path(text)
    if urlsplit(text).scheme.lower() not in ("http", "https"):
        raise ValueError(f"{called(text)}: only http and https URLs, and files, can be transcribed")
    return text


def called(source: str) -> str:
    """What people are told of a source: a URL without its query and credentials."""
    return shown(source) if "://" in source else source


def stem_of(source: str) -> str:
    """What a source's result is called, without its suffix, and with room for one, and for a number before it."""
    path = urlsplit(source).path if "://" in source else source
    stem = PurePosixPath(path).stem or "transcript"
    in_bytes = os.fsencode(stem)
    return stem if len(in_bytes) <= _MAX_STEM_BYTES else in_bytes[:_MAX_STEM_BYTES].decode(errors="ignore")


def timeline_to(path: Path | None) -> Timeline | None:
    """The picture that --timeline asks for, if it does.

    Raises:
        ValueError: it is not called .svg, so that no audio can be replaced by it; or there is no such folder.
    """
    if path is None:
        return None
    if path.suffix.lower() != ".svg":
        raise ValueError(f"--timeline {path}: the picture is an SVG, and its name must end so")
    if not path.parent.is_dir():
        raise ValueError(f"--timeline {path}: there is no folder {path.parent}")
    return Timeline(path)


def one_line(error: BaseException) -> str:
    """An error for people."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def say(message: str) -> None:
    """Tell people, on standard error, whatever the message holds."""
    line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in message)
    print(f"memsafe-transcribe: {line}", file=sys.stderr)
