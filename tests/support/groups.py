"""Real groups with memory limits, cgroup v1 or v2, whichever has the memory controller here."""

import os
import shlex
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


class GroupsUnavailableError(Exception):
    """Groups cannot be made here; the text says why."""


@dataclass(frozen=True)
class Groups:
    """Groups of our own: one with two within it, of which one has a limit too; none swaps, where that can be said."""

    version: str
    outer: Path

    @property
    def inner(self) -> Path:
        return self.outer / "inner"

    @property
    def sibling(self) -> Path:
        return self.outer / "sibling"

    @property
    def limit_file(self) -> Path:
        """Of the outer group."""
        return self.outer / ("memory.limit_in_bytes" if self.version == "v1" else "memory.max")

    @property
    def peak_file(self) -> Path:
        """Of the outer group: the most that was ever used, file cache included."""
        return self.outer / ("memory.max_usage_in_bytes" if self.version == "v1" else "memory.peak")

    def oom_kills(self) -> int:
        """How many processes the kernel killed in them, for want of memory."""
        if self.version == "v1":
            return sum(_figure(each / "memory.oom_control", "oom_kill") for each in (self.inner, self.outer))
        return _figure(self.outer / "memory.events", "oom_kill")

    def times_at_limit(self) -> int:
        """How often they had to find room, which files' pages give up at once."""
        if self.version == "v1":
            return sum(int((each / "memory.failcnt").read_text()) for each in (self.inner, self.outer))
        return _figure(self.outer / "memory.events", "max")

    def anonymous_bytes(self) -> int:
        """What all in the inner group have now, without pages of files."""
        return _figure(self.inner / "memory.stat", "total_rss" if self.version == "v1" else "anon")

    def end_all(self) -> None:
        """Kill what is left in the inner group."""
        while pids := (self.inner / "cgroup.procs").read_text().split():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.01)

    def command(self, group: Path, *command: str) -> list[str]:
        """The command that runs `command` in a group."""
        return ["sh", "-c", f'echo $$ > {shlex.quote(str(group / "cgroup.procs"))} && exec "$@"', "sh", *command]

    def run(self, command: Sequence[str]) -> None:
        """Run a command in the inner group to its end, with its output going where ours goes.

        Raises:
            CalledProcessError: it failed.
        """
        subprocess.run(self.command(self.inner, *command), check=True)

    def _make(self, outer_bytes: int, inner_bytes: int) -> None:
        self.outer.mkdir()
        if self.version == "v2":
            (self.outer / "cgroup.subtree_control").write_text("+memory")
        for folder, limit in ((self.outer, outer_bytes), (self.inner, inner_bytes), (self.sibling, None)):
            folder.mkdir(exist_ok=True)
            if limit is not None:
                (folder / self.limit_file.name).write_text(str(limit))
            for name in ("memory.swap.max", "memory.swappiness"):
                if (folder / name).exists():
                    (folder / name).write_text("0")

    def _remove(self) -> None:
        for folder in (self.inner, self.sibling, self.outer):
            if folder.exists():
                folder.rmdir()


def _figure(file: Path, name: str) -> int:
    """One of the figures that a file has, a line for each."""
    return next(int(line.partition(" ")[2]) for line in file.read_text().splitlines() if line.startswith(f"{name} "))


@contextmanager
def nested_groups(*, outer_bytes: int, inner_bytes: int) -> Iterator[Groups]:
    """Make an outer and an inner group with these limits, and remove them.

    Raises:
        GroupsUnavailableError: no hierarchy, or no permission.
    """
    hierarchy = _memory_hierarchy()
    if hierarchy is None:
        raise GroupsUnavailableError("no hierarchy with the memory controller is mounted")
    version, point = hierarchy
    groups = Groups(version, point / f"memsafe-{uuid.uuid4().hex}")
    try:
        try:
            if version == "v2":
                (point / "cgroup.subtree_control").write_text("+memory")
            groups._make(outer_bytes, inner_bytes)
        except OSError as error:
            raise GroupsUnavailableError(f"groups cannot be made here: {error}") from error
        yield groups
    finally:
        groups._remove()  # noqa: SLF001


def _memory_hierarchy() -> tuple[str, Path] | None:
    """Where groups with memory limits can be made: v1 where it has the controller, else v2."""
    found = None
    if not os.path.exists("/proc/self/mountinfo"):
        return None
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        point, (kind, _, options) = Path(left.split()[4]), right.split(" ", 2)
        if kind == "cgroup" and "memory" in options.split(","):
            return "v1", point
        if kind == "cgroup2" and "memory" in (point / "cgroup.controllers").read_text().split():
            found = "v2", point
    return found
