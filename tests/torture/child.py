"""The other side of a SIGKILL: processes that run a scenario and kill themselves at a step.

`nursery()` gives a process that has imported everything; it forks one for each order. What a killed one leaves alive is
given to the nursery, which says whether it ends.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import psutil

import memsafe_transcribe as mt

from ..admission.room import ToldGuard
from ..support.batch_child import nursing
from .place import Place, no_pauses
from .scenarios import SCENARIOS
from .stepping import by_killing_itself, run

_SECONDS, _LOOK_SECONDS = 60.0, 0.01
_SUBREAPER = 36  # of <linux/prctl.h>


@dataclass(frozen=True)
class Order:
    """What is run, where, and the step at which the process kills itself."""

    scenario: str
    backend: str
    step: int
    folders: dict[str, str]
    url: str
    tls_url: str


class Nursery:
    """Forks processes that kill themselves."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def run(self, order: Order) -> bool:
        """Whether it was killed; else it has ended by itself before that step."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(asdict(order)), file=self._process.stdin, flush=True)
        return self._process.stdout.readline() == "killed\n"

    def orphans(self) -> list[psutil.Process]:
        """What is alive of those that have ended, after a while for it to notice."""
        give_up_at = time.monotonic() + _SECONDS
        while alive := [each for each in psutil.Process(self._process.pid).children(recursive=True) if _is_alive(each)]:
            if time.monotonic() > give_up_at:
                break
            time.sleep(_LOOK_SECONDS)
        return alive


def _is_alive(process: psutil.Process) -> bool:
    """Whether it has not ended; the nursery buries it at its next order."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def nursery() -> Iterator[Nursery]:
    with nursing(__name__) as process:
        yield Nursery(process)


def _obey(order: Order) -> None:
    admission = mt.AdmissionController(guard=ToldGuard(10**9), max_concurrent=3)
    place = Place(
        folder=Path(order.folders["folder"]),
        spool=Path(order.folders["spool"]),
        saved=Path(order.folders["saved"]),
        temporary=Path(order.folders["temporary"]),
        memory=Path(order.folders["memory"]),
        url=order.url,
        tls_url=order.tls_url,
        admission=admission,
        observer=admission,
        isolation=SCENARIOS[order.scenario].isolation,
    )
    with no_pauses():
        run(partial(SCENARIOS[order.scenario].run, place), order.backend, {order.step: by_killing_itself})


def _nurse() -> None:
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            try:
                _obey(Order(**json.loads(line)))
            finally:
                os._exit(0)
        _, status = os.waitpid(pid, 0)
        is_killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        while _reaped():
            pass
        sys.stdout.write("killed\n" if is_killed else "ended\n")
        sys.stdout.flush()


def _reaped() -> bool:
    """Whether there was an orphan that has ended."""
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


if __name__ == "__main__":
    _nurse()
