"""What some proofs need of the machine: root, a disk of their own."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest


def cannot(reason: str) -> NoReturn:
    """Skip, but never quietly where the tests are there to prove something."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def commands(*names: str) -> None:
    """Go on only where all of them are installed."""
    for name in names:
        if shutil.which(name) is None:
            cannot(f"needs the {name} command")


@contextmanager
def tmpfs(folder: Path, options: str) -> Iterator[Path]:
    """A file system in memory, for one test alone. It can only be unmounted when nothing in it is open."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True) if os.geteuid() == 0 else None
    if mounted is None or mounted.returncode != 0:
        cannot(f"needs root to mount a tmpfs: {mounted.stderr if mounted else 'not root'}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
