"""Fixtures for tests of processes that share a ledger."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .members import Family, Nursery, nursery as open_nursery


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """Forks members. It ends with its module, since a test of another one may ask that no child process be left."""
    with open_nursery() as nursery:
        yield nursery


@pytest.fixture
def family(nursery: Nursery, ledger_dir: Path) -> Iterator[Family]:
    """Processes that share a ledger in a folder of this test's own."""
    with Family(nursery, ledger_dir) as family:
        yield family
