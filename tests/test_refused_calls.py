"""Where the system refuses the one call between opening something and owning it, what was opened is closed.

Each was found by `tests/torture`, which in its short form may not come by.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from memsafe_transcribe._admission.shared import LedgerUnavailableError, SharedLedger
from memsafe_transcribe._download.publishing import create_locked
from memsafe_transcribe._memory.kept import KeptFile
from memsafe_transcribe._worker.pipes import open_pipe
from memsafe_transcribe._worker.process import WorkerProcess

from .conftest import open_descriptors


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = open_descriptors()
    yield
    assert open_descriptors() == before
    assert psutil.Process().children() == []


def refuse(monkeypatch: pytest.MonkeyPatch, name: str, nth: int = 1) -> None:
    """From the Nth call on, this function of `os` fails."""
    function: Callable[..., Any] = getattr(os, name)
    calls = 0

    def call(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls >= nth:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return function(*arguments, **options)

    monkeypatch.setattr(os, name, call)


@pytest.mark.parametrize("nth", [1, 2])
def test_a_pipe_that_cannot_be_wrapped(monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
    """Either of its ends."""
    refuse(monkeypatch, "fdopen", nth)
    with ExitStack() as opened, pytest.raises(OSError, match="Input/output"):
        open_pipe(opened)


@pytest.mark.parametrize(("name", "nth"), [("fdopen", 2), ("set_blocking", 1), ("set_blocking", 3)])
def test_a_worker_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch, name: str, nth: int) -> None:
    """It runs already, and is killed and reaped."""
    refuse(monkeypatch, name, nth)
    with pytest.raises(OSError, match="Input/output"):
        WorkerProcess("_audio.worker", 0)


def test_a_kept_file_that_says_nothing_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is it kept, nor is a later one taken for another's."""
    kept = KeptFile("/proc/self/statm")
    with monkeypatch.context() as patched:
        refuse(patched, "fstat")
        assert kept.content() == b""
    assert kept.content() != b""
    with monkeypatch.context() as patched:
        refuse(patched, "fstat")
        kept.verify()
        assert kept.content() != b""
        kept.close()


def test_a_ledger_that_says_nothing_of_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """There is none, then."""
    with monkeypatch.context() as patched, pytest.raises(LedgerUnavailableError):
        refuse(patched, "fstat", 2)
        SharedLedger(tmp_path / "ledger", 1)


def test_a_temporary_file_that_can_neither_be_kept_nor_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its descriptor is closed; the file is unlocked then, so that the next one removes it."""
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        with monkeypatch.context() as patched, pytest.raises(OSError, match="Input/output"):
            for name in ("fstat", "unlink"):
                refuse(patched, name)
            create_locked("file", folder, 0o600)
    finally:
        os.close(folder)
