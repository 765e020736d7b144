"""Fixtures for the torture."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .place import Place, place as new_place
from .torture import LONG

# Until samples of it hold each time, the torture runs where it is asked for (`nox -s proof`).
_ASKED_FOR = ("cancelled", "failed", "interrupted", "killed", "sites")
collect_ignore = [] if LONG else [f"test_{name}.py" for name in _ASKED_FOR]


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
