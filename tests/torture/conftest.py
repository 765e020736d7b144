"""Fixtures for the torture."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .place import Place, place as new_place


@pytest.fixture(autouse=True, scope="module")
def ledger_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One container's ledger for all tests of a file: whoever loses it joins the same again."""
    folder = tmp_path_factory.mktemp("ledgers")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MEMSAFE_LEDGER_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def place(ledger_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Where scenarios run, and what they must leave empty."""
    with new_place(tmp_path_factory.mktemp("place")) as found, pytest.MonkeyPatch.context() as patched:
        patched.setenv("TMPDIR", str(found.temporary))
        patched.setattr("tempfile.tempdir", None)
        yield found
