"""Run a command and watch the memory of its whole process tree."""

import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_SAMPLE_SECONDS = 0.01


@dataclass(frozen=True)
class Watched:
    """A command that has ended.

    Attributes:
        returncode: its exit code.
        stdout: what it printed.
        stderr: what it said.
        peak_bytes: the highest sum of VmHWM over the processes that lived at one time.
        seconds: how long it took.
    """

    returncode: int
    stdout: str
    stderr: str
    peak_bytes: int
    seconds: float


def run_watched(command: Sequence[str], folder: Path, env: Mapping[str, str]) -> Watched:
    """Run `command` to its end; its output goes through files in `folder`, so that no pipe slows it down."""
    out, err = folder / "stdout", folder / "stderr"
    started = time.monotonic()
    with out.open("w") as stdout, err.open("w") as stderr:
        process = psutil.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=dict(env))
        peak = 0
        while True:
            peak = max(peak, _tree_bytes(process))
            try:
                process.wait(_SAMPLE_SECONDS)
                break
            except psutil.TimeoutExpired:
                continue
    return Watched(process.returncode, out.read_text(), err.read_text(), peak, time.monotonic() - started)


def _tree_bytes(process: psutil.Process) -> int:
    try:
        return sum(_high_water_bytes(each.pid) for each in (process, *process.children(recursive=True)))
    except psutil.Error:
        return 0


def _high_water_bytes(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0
