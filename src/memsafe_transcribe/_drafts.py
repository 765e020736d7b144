"""Files that are there whole or not at all."""

import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


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
                file.flush()  # before it is seen: a disk that is full says so here
                if target.exists():
                    shutil.copymode(target, new)
                new.replace(target)
            except BaseException:
                new.unlink(missing_ok=True)
                raise
