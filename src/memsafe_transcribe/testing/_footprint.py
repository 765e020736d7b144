"""What an engine takes and leaves: memory, threads, descriptors, child processes."""

import ctypes
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

from .._memory.cleanup import allocator, cleanup
from .._memory.reading import descendants, resident_bytes
from ._bench import LOOP_THREAD

_SETTLE_SECONDS = 3.0
_M_MMAP_THRESHOLD, _LARGE_BYTES = -3, 128 * 1024  # of <malloc.h>, and what glibc begins with
_POOLED = ("AnyIO worker thread", "Trio thread", LOOP_THREAD)  # kept idle by the loops' own pools
_SOURCE = Path(__file__).resolve().parents[2]
_SAMPLER = (
    f"import sys; sys.path[:] = {{path!r}} + [{str(_SOURCE)!r}]; "
    "from memsafe_transcribe.testing._sampler import main; main({pid})"
)


@dataclass(frozen=True)
class Footprint:
    """What this process holds at one time."""

    threads: frozenset[threading.Thread]
    descriptors: frozenset[tuple[int, str]]
    children: frozenset[int]

    @classmethod
    def now(cls) -> "Footprint":
        """Look, after whatever is only garbage has gone."""
        gc.collect()
        threads = (thread for thread in threading.enumerate() if not thread.name.startswith(_POOLED))
        return cls(frozenset(threads), frozenset(_descriptors()), frozenset(descendants()))

    def grown(self) -> list[str]:
        """What is there now and was not, after it had some time to go."""
        give_up = monotonic() + _SETTLE_SECONDS
        while True:
            now = Footprint.now()
            left = [f"thread {thread.name!r}" for thread in now.threads - self.threads]
            left += [f"descriptor {fd} ({target})" for fd, target in sorted(now.descriptors - self.descriptors)]
            left += [f"child process {pid}" for pid in sorted(now.children - self.children)]
            if not left or monotonic() > give_up:
                return left
            sleep(0.02)


def _descriptors() -> Iterator[tuple[int, str]]:
    with suppress(FileNotFoundError):  # no /proc
        for name in os.listdir("/proc/self/fd"):
            with suppress(FileNotFoundError):  # the listing's own
                yield int(name), os.readlink(f"/proc/self/fd/{name}")


def can_measure() -> bool:
    """Whether the system tells what is asked here."""
    return Path("/proc/self/status").exists()


def tree_bytes() -> int:
    """RssAnon + RssShmem of this process and its descendants, after free memory was given back."""
    cleanup()
    return sum(map(resident_bytes, (os.getpid(), *descendants())))


@dataclass
class Growth:
    """How much was added at the most while the block ran."""

    bytes: int = 0


@contextmanager
def growing() -> Iterator[Growth]:
    """Watch memory from a process of its own, every millisecond, whoever holds the interpreter's lock here.

    On glibc, from here on large blocks go back to the system when they are freed, as in a young process. Else it puts
    more of them into its heap the larger those are that were freed before, and what a call takes would depend on the
    tests before it.
    """
    if allocator() == "glibc":
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
    cleanup()
    growth = Growth()
    with subprocess.Popen(
        [sys.executable, "-S", "-P", "-c", _SAMPLER.format(path=sys.path, pid=os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as sampler:
        assert sampler.stdin and sampler.stdout
        try:
            first_bytes = int(sampler.stdout.readline())
            yield growth
            sampler.stdin.close()
            growth.bytes = int(sampler.stdout.readline()) - first_bytes
        finally:
            sampler.kill()
