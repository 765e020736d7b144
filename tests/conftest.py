"""Fixtures for all tests. `run` is the important one: whatever it runs, on asyncio and on trio, must leave nothing."""

import gc
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import anyio
import psutil
import pytest
from hypothesis import settings

from .support.server import Server

T = TypeVar("T")
Run = Callable[..., Any]

settings.register_profile("default", deadline=None, print_blob=True)
settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


def open_descriptors() -> dict[int, str]:
    """What each descriptor of this process leads to."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the listing's own
            continue
    return found


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run an async function to its end; then no descriptor and no child process may be left of it."""
    server = request.getfixturevalue("server") if "server" in request.fixturenames else None

    def run(function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        gc.collect()
        before = open_descriptors()
        try:
            return anyio.run(function, *arguments, backend=request.param)
        finally:
            if server is not None:
                server.wait_until_idle()
            gc.collect()
            assert open_descriptors() == before
            assert psutil.Process().children() == []

    return run


@pytest.fixture
def spool_dir(tmp_path: Path) -> Iterator[Path]:
    """A folder for the spool, in which nothing may be left."""
    folder = tmp_path / "spool"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def server() -> Iterator[Server]:
    """A server on loopback that does what each test tells it to."""
    with Server() as server:
        yield server
