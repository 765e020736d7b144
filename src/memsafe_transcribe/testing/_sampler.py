"""The process that watches another's memory. Run by `_footprint.py`, never imported by the rest."""

import os
import select
import sys

from .._memory.reading import descendants, resident_bytes

_EVERY_SECONDS = 0.001


def main(pid: int) -> None:
    """Print what process `pid` and its descendants hold, then, once stdin closes, the most that they held."""
    peak_bytes = _held_bytes(pid)
    sys.stdout.write(f"{peak_bytes}\n")
    sys.stdout.flush()
    while not select.select([sys.stdin], [], [], _EVERY_SECONDS)[0]:
        peak_bytes = max(peak_bytes, _held_bytes(pid))
    sys.stdout.write(f"{peak_bytes}\n")


def _held_bytes(pid: int) -> int:
    return sum(resident_bytes(each) for each in (pid, *descendants(pid)) if each != os.getpid())
