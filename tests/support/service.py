"""The FastAPI example, served by uvicorn in processes of its own."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import memsafe_transcribe as mt

ROOT = Path(__file__).parents[2]
APP = ROOT / "examples" / "fastapi_app"
WAIT_SECONDS = 60.0


class Service:
    """What serves.

    Attributes:
        log: the lines of its log so far.
        url: where it listens.
    """

    def __init__(self, process: "subprocess.Popen[str]", workers: int) -> None:
        self.log: list[str] = []
        self.url = ""
        self._process = process
        self._workers = workers
        self._is_up = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait_until_up(self) -> None:
        """Until every worker serves."""
        assert self._is_up.wait(WAIT_SECONDS), self.log
        assert self._has_begun, self.log

    @property
    def _has_begun(self) -> bool:
        return bool(self.url) and self.count("startup complete") >= self._workers

    def count(self, text: str) -> int:
        """The lines of the log that have it."""
        return sum(text in line for line in self.log)

    def terminate(self) -> None:
        """As a deploy does it."""
        self._process.send_signal(signal.SIGTERM)

    def wait(self) -> None:
        """Until it has ended.

        Raises:
            TimeoutExpired: it did not by itself, and was killed.
        """
        try:
            self._process.wait(WAIT_SECONDS)
        finally:
            self._process.kill()  # workers end with what they were spawned by
            self._reader.join(WAIT_SECONDS)

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.log.append(line.rstrip())
            if found := re.search(r"running on (http://[\d.:]+)", line):
                self.url = found[1]
            if self._has_begun:
                self._is_up.set()
        self._is_up.set()


@contextmanager
def serving(
    folder: Path,
    command: Sequence[str] = ("python", "-m", "uvicorn", "app:app"),
    *,
    workers: int = 1,
    prefix: Sequence[str] = (),
    env: Mapping[str, str] = {},
) -> Iterator[Service]:
    """Serve on a free port of loopback; in the end it gets SIGTERM.

    Args:
        folder: where its store, its spool and its ledger are.
        command: that starts it, in the example's folder.
        workers: how many that starts.
        prefix: of the command, such as one that enters a group.
        env: variables of the environment, besides.
    """
    (folder / "ledger").mkdir(exist_ok=True)
    settings = {
        "APP_ALLOW_PRIVATE": "1",
        "APP_STORE": str(folder / "jobs.sqlite"),
        "MEMSAFE_LEDGER_DIR": str(folder / "ledger"),  # nobody else's work counts
        "PYTHONPATH": os.pathsep.join([str(Path(mt.__file__).parents[1]), str(APP), str(ROOT)]),
        "TMPDIR": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    assert command[0] == "python"
    with subprocess.Popen(
        [*prefix, sys.executable, *command[1:], "--port", "0"],
        cwd=APP,
        env={**os.environ, **settings, **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        service = Service(process, workers)
        try:
            service.wait_until_up()
            yield service
        finally:
            service.terminate()
            service.wait()
