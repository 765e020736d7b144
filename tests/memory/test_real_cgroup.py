"""What the kernel itself counts: a program inside groups with real limits, cgroup v1 or v2, whichever is here.

Making groups takes root and a writable hierarchy. Without them these tests are skipped; where CI is set, they fail.
"""

import json
import os
import shlex
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._memory.reading import filesystem_type

MiB = mt.MiB
OUTER, INNER = 200 * MiB, 256 * MiB
X = 32 * MiB
TOLERANCE = 6 * MiB

# Prints what the guard sees, takes X bytes in the way it is told to, and prints it again.
MEASURE = """
import dataclasses, json, mmap, os, sys
from pathlib import Path
import memsafe_transcribe as mt

kind, path, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
guard = mt.MemoryGuard()

def look():
    now = guard.snapshot()
    source = Path(now.source)
    usage = source.with_name("memory.usage_in_bytes" if "in_bytes" in source.name else "memory.current")
    print(json.dumps({**dataclasses.asdict(now), "usage_bytes": int(usage.read_text())}), flush=True)

def read():
    with open(path, "rb") as file:
        while file.read(1 << 20):
            pass

piece = bytes(1 << 20)
look()
if kind == "anonymous":
    block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for offset in range(0, size, 4096):
        block[offset] = 1
else:
    with open(path, "wb") as file:
        for _ in range(size >> 20):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    if kind == "cache":
        read()
        read()
look()
"""

# Asks for more than the group can give, for what fits, and for more beside it than is left.
ADMIT = """
import json
import anyio
import memsafe_transcribe as mt

async def main():
    admission = mt.AdmissionController()
    said = []
    try:
        async with admission.reserve(190 * mt.MiB):
            said.append("let in")
    except mt.ReservationTooLargeError as error:
        said.append([str(error), error.limit_bytes, error.ceiling_bytes])
    async with admission.reserve(50 * mt.MiB, timeout_seconds=0) as held:
        said.append(held.need_bytes)
        try:
            async with admission.reserve(80 * mt.MiB, timeout_seconds=0):
                said.append("let in")
        except mt.AdmissionTimeoutError as error:
            said.append(str(error))
    async with admission.reserve(80 * mt.MiB, timeout_seconds=0) as held:
        said.append(held.need_bytes)
    print(json.dumps(said))

anyio.run(main)
"""


@dataclass(frozen=True)
class Groups:
    """Two groups of this test's own, one within the other; the outer one has the lower limit."""

    version: str
    name: str
    outer: Path

    @property
    def inner(self) -> Path:
        return self.outer / "inner"

    @property
    def limit_file(self) -> Path:
        return self.outer / ("memory.limit_in_bytes" if self.version == "v1" else "memory.max")

    def make(self) -> None:
        self.outer.mkdir()
        if self.version == "v2":
            (self.outer / "cgroup.subtree_control").write_text("+memory")
        self.inner.mkdir()
        self.limit_file.write_text(str(OUTER))
        (self.inner / self.limit_file.name).write_text(str(INNER))

    def remove(self) -> None:
        for folder in (self.inner, self.outer):
            if folder.exists():
                folder.rmdir()

    def run(self, program: str, *arguments: str) -> list[Any]:
        """Run a Python program in the inner group to its end; what it printed, line by line."""
        move = f'echo $$ > {shlex.quote(str(self.inner / "cgroup.procs"))} && exec "$@"'
        command = ["sh", "-c", move, "sh", sys.executable, "-c", program, *arguments]
        environment = {name: value for name, value in os.environ.items() if name != "MEMSAFE_LIMIT"}
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def measure(self, kind: str, path: Path = Path("-")) -> tuple[dict[str, Any], dict[str, Any]]:
        before, after = self.run(MEASURE, kind, str(path), str(X))
        return before, after


def memory_hierarchy() -> tuple[str, Path] | None:
    """Where groups with memory limits can be made: v1 where it has the controller, else v2."""
    found = None
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        point, (kind, _, options) = Path(left.split()[4]), right.split(" ", 2)
        if kind == "cgroup" and "memory" in options.split(","):
            return "v1", point
        if kind == "cgroup2" and "memory" in (point / "cgroup.controllers").read_text().split():
            found = "v2", point
    return found


def cannot(reason: str) -> None:
    """Skip, but never quietly where the tests are there to prove something."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def groups() -> Iterator[Groups]:
    hierarchy = memory_hierarchy()
    if hierarchy is None:
        cannot("no hierarchy with the memory controller is mounted")
    assert hierarchy is not None
    version, point = hierarchy
    name = f"memsafe-test-{uuid.uuid4().hex}"
    groups = Groups(version, name, point / name)
    try:
        try:
            if version == "v2":
                (point / "cgroup.subtree_control").write_text("+memory")
            groups.make()
        except OSError as error:
            cannot(f"groups cannot be made here: {error}")
        yield groups
    finally:
        groups.remove()


def test_the_outer_limit_binds_and_touched_memory_counts(groups: Groups) -> None:
    """Of 256 MiB within 200 MiB the outer limit binds; X bytes that are touched take X of its headroom."""
    before, after = groups.measure("anonymous")
    for look in (before, after):
        assert look["limit_bytes"] == OUTER
        assert look["binding"] == f"cgroup {groups.version} /{groups.name}"
        assert look["source"] == str(groups.limit_file)
    assert before["headroom_bytes"] > 100 * MiB
    assert abs(before["headroom_bytes"] - after["headroom_bytes"] - X) < TOLERANCE
    assert abs(after["process_rss_bytes"] - before["process_rss_bytes"] - X) < TOLERANCE


def test_files_on_tmpfs_count(groups: Groups) -> None:
    """X bytes written to tmpfs take X of the headroom: they are memory that cannot be dropped."""
    path = Path("/dev/shm") / groups.name
    if filesystem_type(path.parent) != "tmpfs":
        cannot("/dev/shm is no tmpfs here")
    try:
        before, after = groups.measure("tmpfs", path)
    finally:
        path.unlink(missing_ok=True)
    assert abs(before["headroom_bytes"] - after["headroom_bytes"] - X) < TOLERANCE


def test_clean_file_cache_does_not_count(groups: Groups, tmp_path: Path) -> None:
    """X bytes of a file on disk fill the page cache, which the kernel counts as usage, and take no headroom."""
    if filesystem_type(tmp_path) == "tmpfs":
        cannot("the folder for temporary files is memory here")
    before, after = groups.measure("cache", tmp_path / "file")
    assert after["usage_bytes"] - before["usage_bytes"] > X - TOLERANCE
    assert abs(before["headroom_bytes"] - after["headroom_bytes"]) < TOLERANCE


def test_admission_in_a_small_group(groups: Groups) -> None:
    """What can never fit is refused at once, what fits is let in, and no memory is promised twice."""
    too_large, first, beside, later = groups.run(ADMIT)[0]
    message, limit_bytes, ceiling_bytes = too_large
    assert (limit_bytes, ceiling_bytes) == (OUTER, OUTER * 9 // 10)
    assert str(groups.limit_file) in message
    assert (first, later) == (50 * MiB, 80 * MiB)
    assert "50.0 MiB are promised to others" in beside and groups.name in beside
