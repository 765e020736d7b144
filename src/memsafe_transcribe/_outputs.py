"""Where the command puts its results: what each file is called, and that it is there whole or not at all."""

import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TextIO
from urllib.parse import urlsplit

from ._transcription.sources import Source


def source_of(text: str) -> Source:
    """What a source on the command line, or in a list, means.

    Raises:
        ValueError: it is a URL of another scheme than http and https.
    """
    if "://" not in text:
        return Path(text)
    if urlsplit(text).scheme.lower() not in ("http", "https"):
        raise ValueError(f"{text}: only http and https URLs, and files, can be transcribed")
    return text


def stem_of(source: str) -> str:
    """What a source's result is called, without its suffix."""
    path = urlsplit(source).path if "://" in source else source
    return PurePosixPath(path).stem or "transcript"


@contextmanager
def opened_output(target: Path | None) -> Iterator[TextIO]:
    """Standard output, or a draft without a name that becomes `target` only when all went well.

    Only while the finished draft is copied, for milliseconds, does it have a name of its own.
    """
    if target is None:
        yield sys.stdout
        return
    target = target.resolve()
    if target.exists() and not target.is_file():  # a FIFO or a device is written to, not replaced
        with target.open("w", encoding="utf-8") as file:
            yield file
        return
    with tempfile.TemporaryFile("w+", encoding="utf-8", dir=target.parent) as draft:
        yield draft
        draft.seek(0)
        new = target.with_name(f".{secrets.token_hex(8)}.part")
        with new.open("x", encoding="utf-8") as file:
            try:
                shutil.copyfileobj(draft, file)
                if target.exists():
                    shutil.copymode(target, new)
                new.replace(target)
            except BaseException:
                new.unlink()
                raise


def one_line(error: BaseException) -> str:
    """An error for people."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def say(message: str) -> None:
    """Tell people, on standard error, whatever the message holds."""
    line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in message)
    print(f"memsafe-transcribe: {line}", file=sys.stderr)
