"""Runs a backend in a process of its own, and looks at it from outside."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import psutil

from .fake_engine import write_recording
from .host import LIFETIME_SECONDS, Order
from .server import Answer, Server

SAMPLE_SECONDS = 0.02
HEAD_BYTES = 512 * 1024  # of an answer that then breaks off, or hangs


class ExperimentError(Exception):
    """The experiment itself went wrong, so that it says nothing about the backend."""


@dataclass(frozen=True)
class Ended:
    """A host that has ended.

    Attributes:
        answer: what it printed; empty if it was killed.
        left_bytes: the sizes of the files that it left in its temporary folder.
        sent_bytes: what the server sent it, of bodies.
        peak_bytes: the highest sum of VmHWM over the processes of its tree that lived at one time; 0 if nobody watched.
    """

    answer: dict[str, Any]
    left_bytes: tuple[int, ...]
    sent_bytes: int
    peak_bytes: int

    def said(self, key: str) -> Any:
        """A part of the answer that only a scenario that went to its end has.

        Raises:
            ExperimentError: it did not.
        """
        if key not in self.answer:
            raise ExperimentError(f"the scenario did not come to its end: {self.answer}")
        return self.answer[key]

    @property
    def error(self) -> str:
        """The name of the error that it ended with.

        Raises:
            ExperimentError: with none.
        """
        if not self.answer["errors"]:
            raise ExperimentError(f"an error was expected, there is {self.answer}")
        return str(self.answer["errors"][0])


class Bench:
    """Recordings, a server for them, and hosts that fetch from it.

    Args:
        folder: where recordings are made, and hosts have their temporary folders.
    """

    def __init__(self, folder: Path) -> None:
        self.server = Server()
        self._folder = folder

    def recording(self, seconds: int, *, rate_hz: int = 16_000, channels: int = 1) -> str:
        """The URL of a recording of that length, like none before: a store tells recordings by their bytes."""
        take = len(self.server.answers)
        path = write_recording(self._folder / f"{take}.wav", seconds, rate_hz=rate_hz, channels=channels, take=take)
        return self.answer(f"/{path.name}", Answer.of(path))

    def answer(self, path: str, answer: Answer) -> str:
        """The URL that is answered so."""
        self.server.answers[path] = answer
        return self.server.url(path)

    def host(self, order: Order, *, kill_when: threading.Event | None = None, watch: bool = False) -> Ended:
        """Carry an order out in a process.

        Args:
            order: it is carried out to its end, for which the process has set an alarm.
            kill_when: once this is set, the process is ended by SIGKILL.
            watch: its memory.

        Raises:
            ExperimentError: it ended in another way.
        """
        self.server.sent_bytes.clear()
        with tempfile.TemporaryDirectory(dir=self._folder) as home:
            spool, out, err = Path(home, "tmp"), Path(home, "stdout"), Path(home, "stderr")
            spool.mkdir()
            # A ledger of its own, too: what else runs in this container is not to wait for it, nor it for that.
            env = {**os.environ, "TMPDIR": str(spool), "MEMSAFE_LEDGER_DIR": home}
            command = [sys.executable, "-m", f"{__package__}.host", replace(order, folder=home).to_json()]
            with (
                out.open("w") as stdout,
                err.open("w") as stderr,
                _running(command, env, stdout, stderr) as process,
            ):
                if kill_when is not None and kill_when.wait(LIFETIME_SECONDS):
                    process.kill()
                peak_bytes = _watch(process) if watch else 0
                process.wait()
            if process.returncode not in ((0,) if kill_when is None else (-signal.SIGKILL,)):
                raise ExperimentError(f"{order} ended with {process.returncode}: {err.read_text()}")
            return Ended(
                json.loads(out.read_text() or "{}"),
                tuple(file.stat().st_size for file in spool.rglob("*") if file.is_file()),
                self.server.sent_bytes.total(),
                peak_bytes,
            )


@contextmanager
def _running(command: list[str], env: dict[str, str], out: IO[str], err: IO[str]) -> Iterator[subprocess.Popen[bytes]]:
    """The process, which does not outlive the block."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env) as process:
        try:
            yield process
        finally:
            process.kill()  # nothing, if it has ended


def _watch(process: subprocess.Popen[bytes]) -> int:
    """Wait for its end; the peak of its tree."""
    peak_bytes = 0
    while True:
        with suppress(psutil.NoSuchProcess):
            host = psutil.Process(process.pid)
            program = host.cmdline()
            # A child that has not begun its own program yet has its parent's memory, which would count twice.
            tree = (host, *(each for each in host.children(recursive=True) if each.cmdline() != program))
            peak_bytes = max(peak_bytes, sum(_high_water_bytes(each.pid) for each in tree))
        try:
            process.wait(SAMPLE_SECONDS)
            return peak_bytes
        except subprocess.TimeoutExpired:
            continue


def _high_water_bytes(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0
