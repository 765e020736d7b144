"""Workers: the lifeline that they hang on, and what they leave."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from memsafe_transcribe._worker.process import WorkerProcess

from ..conftest import Run, open_descriptors
from ..support.media import SPEECH
from ..support.processes import gone_within

_HANGS = """
import re, sys
from memsafe_transcribe._worker import inside
inside.die_with_parent(int(sys.argv[1]))
print("armed", flush=True)
re.match("(a+)+$", "a" * 60 + "b")  # years, with the interpreter's lock held
"""


def test_a_worker_that_hangs_in_c_code_dies_with_its_parent() -> None:
    """The kernel kills it when the lifeline closes: no line of Python could run."""
    lifeline, writer = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", _HANGS, str(lifeline)], pass_fds=(lifeline,), stdout=subprocess.PIPE
    ) as worker:
        os.close(lifeline)
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"armed\n"
        os.close(writer)
        assert worker.wait(30) == -signal.SIGKILL


def test_a_worker_whose_parent_is_gone_already_does_not_begin() -> None:
    """The lifeline may have closed before it was listened to."""
    lifeline, writer = os.pipe()
    os.close(writer)
    script = (
        "import sys; from memsafe_transcribe._worker import inside; inside.die_with_parent(int(sys.argv[1])); 1 / 0"
    )
    done = subprocess.run([sys.executable, "-c", script, str(lifeline)], pass_fds=(lifeline,), capture_output=True)
    os.close(lifeline)
    assert (done.returncode, done.stderr) == (1, b"")


# What the host itself needs, before the script's folder comes first in its path.
_HOST_IMPORTS = "import sys, runpy, wave, json, fractions, anyio, memsafe_transcribe.cli"
_SCRIPT = """
import pathlib, sys, anyio, memsafe_transcribe as mt
print("running", flush=True)
print(anyio.run(mt.ChunkedTranscriber(lambda chunk: "heard").transcribe, pathlib.Path(sys.argv[1])).text)
"""


@pytest.mark.parametrize("name", ["wave", "av", "json", "fractions"])
def test_a_script_named_like_a_module_is_not_run_by_its_workers(tmp_path: Path, name: str) -> None:
    """It would start workers without end. Bounded here by the guard against a worker in a worker."""
    script = tmp_path / f"{name}.py"
    script.write_text(_SCRIPT)
    run_it = f"runpy.run_path({str(script)!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", f"{_HOST_IMPORTS}; sys.path.insert(0, {str(tmp_path)!r}); {run_it}", str(SPEECH)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "running\nheard\n", "")


_FORKS = """
import os, signal, anyio
from memsafe_transcribe._worker.process import WorkerProcess

async def main():
    worker = WorkerProcess("transcribers._pocketsphinx_worker")
    await worker.receive()
    fork = os.fork()
    if fork == 0:
        os.close(1)
        signal.pause()
    print(worker.pid, fork, flush=True)
    await anyio.sleep_forever()

anyio.run(main)
"""


def test_a_fork_lets_go_of_its_parents_workers() -> None:
    """A forked child that lives on does not keep a worker alive whose real parent is gone."""
    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", _FORKS], stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        worker, fork = (os.pidfd_open(int(pid)) for pid in host.stdout.readline().split())
        try:
            host.kill()
            assert gone_within(worker, 30)
            assert not gone_within(fork, 0)
        finally:
            signal.pidfd_send_signal(fork, signal.SIGKILL)
            os.close(worker)
            os.close(fork)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_native_cancellation_while_closing_leaves_nothing(times: int) -> None:
    """asyncio's own Task.cancel() breaks through every shield; the child is dead and reaped all the same."""

    async def use(entered: asyncio.Event) -> None:
        async with WorkerProcess("transcribers._pocketsphinx_worker") as worker:
            pids.append(worker.pid)
            entered.set()
            await worker.receive()
            await worker.receive()

    async def main() -> None:
        entered = asyncio.Event()
        task = asyncio.create_task(use(entered))
        await entered.wait()
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task

    pids: list[int] = []
    before = open_descriptors()
    asyncio.run(main())
    assert not psutil.pid_exists(pids[0])
    assert open_descriptors() == before


def test_a_worker_that_cannot_start_says_why(run: Run) -> None:
    """The last line of its standard error is in the reason."""

    async def main() -> None:
        async with WorkerProcess("no_such_module") as worker:
            assert await worker.receive() is None
            reason = await worker.exit_reason()
        assert reason.startswith("exit status 1: ")
        assert "No module named 'memsafe_transcribe.no_such_module'" in reason

    run(main)


_IN_A_CAGE = """
import ctypes, os, resource, sys
ctypes.CDLL(None).prctl(24, 24, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_SYS_RESOURCE: what root starts may raise no limit
resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""
_TRANSCRIBES = """
import pathlib, anyio, memsafe_transcribe as mt
print(anyio.run(mt.ChunkedTranscriber(lambda chunk: "heard").transcribe, pathlib.Path(SPEECH)).text)
"""


def test_a_host_that_may_raise_no_limit_decodes_all_the_same() -> None:
    """`ulimit -t`, as shared machines have it: the worker is held to that, where its own limit would be higher."""
    script = _TRANSCRIBES.replace("SPEECH", repr(str(SPEECH)))
    done = subprocess.run(
        [sys.executable, "-c", _IN_A_CAGE, script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "heard\n", "")
