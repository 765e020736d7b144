"""Fixtures for all tests. `run` is the important one: whatever it runs, on asyncio and on trio, must leave nothing."""

import gc
import os
import pickle
import shutil
import signal
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import psutil
import pytest
from hypothesis import Phase, settings

import memsafe_transcribe as mt

from .simulation.sessions import tally as simulated
from .support import proof, targets
from .support.fuzzing import tally_of_session
from .support.server import Server
from .support.steps import steps_run
from .torture.tally import tally as tally_of_torture

T = TypeVar("T")
Run = Callable[..., Any]

settings.register_profile("default", deadline=None, print_blob=True)
settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
settings.register_profile("long", deadline=None, print_blob=True, max_examples=1000, stateful_step_count=100)
# A mutant is to be noticed, not to be understood: what fails is not made small.
noticing = (Phase.explicit, Phase.generate)
settings.register_profile("mutation", deadline=None, derandomize=True, database=None, phases=noticing)
PROFILE = os.environ.get("MEMSAFE_TEST_PROFILE") or ("ci" if os.environ.get("CI") else "default")
settings.load_profile(PROFILE)


# In the background of a script it is ignored, and what the tests start would never hear of it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Of the mutants that are tried at once each has a folder of its own: pytest clears away those of the others."""
    if PROFILE == "mutation":
        config.option.basetemp = tempfile.mkdtemp(prefix="mutant-")
        config.add_cleanup(partial(shutil.rmtree, config.option.basetemp, ignore_errors=True))


def pytest_collection_finish() -> None:
    """What thousands of collected tests are made of is never garbage: `run` need not look at it, twice in each test."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """One of several processes tells the first what it has tortured."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["torture"] = pickle.dumps(tally_of_torture)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """And that adds it up. One that has crashed has told nothing."""
    if told := getattr(node, "workeroutput", {}).get("torture"):
        tally_of_torture.add(pickle.loads(told))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how many steps, schedules and points were run, and what was fuzzed: the long profile has to do much."""
    if hasattr(config, "workerinput"):
        return  # one of several processes: the first one says what came of all
    if steps_run:
        each = ", ".join(f"{name} {count:,}" for name, count in sorted(steps_run.items()))
        terminalreporter.write_line(f"steps of state machines: {steps_run.total():,} ({each})")
    if simulated.schedules:
        terminalreporter.write_line(simulated.line())
        proof.keep("simulation", simulated.figures())
    if tally_of_session.formats:
        for line in tally_of_session.lines():
            terminalreporter.write_line(line)
    if targets.inputs_tried:
        for line in targets.lines():
            terminalreporter.write_line(line)
    if targets.inputs_tried or tally_of_session.formats:
        proof.keep("fuzz", {"inputs": dict(targets.inputs_tried), "media": tally_of_session.figures()})
    if tally_of_torture.points:
        proof.keep("torture", tally_of_torture.report())
        for line in tally_of_torture.lines():
            terminalreporter.write_line(line)


def open_descriptors() -> dict[int, str]:
    """What each descriptor of this process leads to."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the listing's own
            continue
    return found


@pytest.fixture(autouse=True)
def ledger_dir(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where each test, and the processes that it starts, have a container's ledger of their own."""
    folder = tmp_path_factory.mktemp("ledgers")
    monkeypatch.setenv("MEMSAFE_LEDGER_DIR", str(folder))
    return folder


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run an async function to its end; then no descriptor and no child process may be left of it."""
    servers = [request.getfixturevalue(name) for name in ("server", "silent") if name in request.fixturenames]

    def run(function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        mt.MemoryGuard(limit_bytes=1).snapshot()  # opens what the process's one reader keeps open
        with suppress(mt.AdmissionError):  # and this what the default controller does: the container's ledger
            mt.default_admission().reserve_nowait(0, slot=False).release()
        gc.collect()
        before = open_descriptors()
        try:
            return anyio.run(function, *arguments, backend=request.param)
        finally:
            for server in servers:  # their side of a connection is a descriptor of this process, too
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
