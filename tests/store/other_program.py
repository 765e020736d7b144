"""Another process that has a store's file open, and does with it what it is told."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PROGRAM = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
for line in sys.stdin:
    for statement in line.split(";"):
        rows = connection.execute(statement).fetchall()
    print(rows[0][0] if rows else "done", flush=True)
"""


class OtherProgram:
    """What a process does to a file."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def execute(self, statements: str) -> str:
        """Run these, which have no line breaks, and wait until they are done.

        Returns:
            The first value that the last of them gives.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{statements}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "it failed"
        return answer.strip()


@contextmanager
def other_program(path: Path) -> Iterator[OtherProgram]:
    """Start it; it has ended when the block has."""
    command = [sys.executable, "-S", "-c", _PROGRAM, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield OtherProgram(process)
