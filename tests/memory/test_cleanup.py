"""cleanup(): what it says it gave back is what this process no longer has."""

import mmap
import os
import subprocess
import sys
import tempfile
from ctypes.util import find_library
from pathlib import Path

import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._memory.cleanup import allocator, let_go_of
from memsafe_transcribe._memory.reading import resident_bytes

from ..support.needs import cannot

MiB = mt.MiB

# Leaves a heap that is mostly free below something that is not, so that free() alone cannot give it back.
FRAGMENT = """
import sys
import memsafe_transcribe as mt
from memsafe_transcribe._memory.cleanup import allocator
from memsafe_transcribe._memory.reading import resident_bytes

blocks = [bytes(2000) for _ in range(30_000)]
del blocks[::2]
kept = blocks[-1]
del blocks
cycle = [bytearray(8 << 20)]
cycle.append(cycle)
del cycle
before = resident_bytes()
said = mt.MemoryGuard().cleanup()
print(allocator(), said, before - resident_bytes())
"""


def given_back(preload: str = "") -> tuple[str, int, int]:
    environment = {**os.environ, "LD_PRELOAD": preload, "PYTHONMALLOC": "malloc"}
    done = subprocess.run([sys.executable, "-c", FRAGMENT], capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    kind, said, measured = done.stdout.split()
    return kind, int(said), int(measured)


def test_what_is_given_back_is_measured() -> None:
    """Garbage in cycles and the allocator's free memory go, and the figure is that of the system."""
    kind, said, measured = given_back()
    assert kind == allocator()
    assert said > 8 * MiB
    assert abs(said - measured) < MiB


def test_jemalloc() -> None:
    """Where it is preloaded it is known, and purged in its own way."""
    library = find_library("jemalloc")
    if library is None:
        cannot("jemalloc is not installed")
    kind, said, measured = given_back(library)
    assert kind == "jemalloc"
    assert 8 * MiB < said < measured + MiB  # by the clock, it also gives back some by itself


def test_nothing_to_give_back_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that grew meanwhile is not given back a negative number of times."""
    sizes = iter([10 * MiB, 12 * MiB])
    monkeypatch.setattr("memsafe_transcribe._memory.cleanup.resident_bytes", lambda: next(sizes))
    assert mt.MemoryGuard().cleanup() == 0
    assert resident_bytes() > 0


@pytest.mark.parametrize(
    ("symbols", "host", "expected"),
    [
        ({"mallctl", "malloc_trim", "gnu_get_libc_version"}, "x86_64-pc-linux-gnu", "jemalloc"),
        ({"malloc_trim", "gnu_get_libc_version"}, "x86_64-pc-linux-gnu", "glibc"),
        (set(), "x86_64-alpine-linux-musl", "musl"),
        (set(), "aarch64-apple-darwin", "other"),
        (None, "x86_64-pc-linux-gnu", "other"),
    ],
)
def test_allocators(monkeypatch: pytest.MonkeyPatch, symbols: set[str] | None, host: str, expected: str) -> None:
    """By what is linked in; one that we do not know is asked for nothing."""
    called: list[str] = []

    class Program:
        def __getattr__(self, name: str) -> object:
            if symbols is None or name not in symbols:
                raise AttributeError(name)
            return lambda *_: called.append(name)

    monkeypatch.setattr("memsafe_transcribe._memory.cleanup._program", lambda: None if symbols is None else Program())
    monkeypatch.setattr("sysconfig.get_config_var", lambda name: host)
    allocator.cache_clear()
    try:
        assert allocator() == expected
        mt.MemoryGuard().cleanup()
    finally:
        allocator.cache_clear()
    assert called == {"jemalloc": ["mallctl"], "glibc": ["malloc_trim"]}.get(expected, [])


def test_pages_of_shared_memory_are_let_go_of_and_not_lost() -> None:
    """Those of files with that name alone; what was written to them is there still, and comes back where it is read."""
    with (
        tempfile.NamedTemporaryFile(prefix="ours-", dir="/dev/shm") as ours,
        tempfile.NamedTemporaryFile(prefix="others-", dir="/dev/shm") as others,
    ):
        for file in (ours, others):
            file.truncate(16 * MiB)
        with mmap.mmap(ours.fileno(), 16 * MiB) as one, mmap.mmap(others.fileno(), 16 * MiB) as other:
            for memory in (one, other):
                memory[:] = b"x" * (16 * MiB)
            Path(ours.name).rename(f"{ours.name} of mine")  # a name with spaces; and the kernel follows it
            before = resident_bytes()
            let_go_of("ours-")
            assert 15 * MiB < before - resident_bytes() < 17 * MiB
            assert one[:] == other[:] == b"x" * (16 * MiB)
            Path(f"{ours.name} of mine").rename(ours.name)
