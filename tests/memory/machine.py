"""Recorded machines: /proc/self and the groups below /sys/fs/cgroup, as files that a reader takes for the real ones."""

from pathlib import Path

from memsafe_transcribe._memory.pressure import Term
from memsafe_transcribe._memory.reader import MemoryReader

UNLIMITED_V1 = 9223372036854771712
MOUNT_V2 = "31 23 0:26 {root} {point} ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate\n"
MOUNT_V1 = "35 31 0:32 {root} {point} ro,nosuid,nodev,noexec,relatime master:15 - cgroup cgroup rw,memory\n"
OTHER_MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
23 22 0:21 / /proc rw,nosuid,nodev,noexec - proc proc rw
34 31 0:31 / /sys/fs/cgroup/cpuset ro,relatime - cgroup cgroup rw,cpuset
"""


class Tree:
    """A machine as files: /proc/self and the groups below /sys/fs/cgroup."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "proc/self").mkdir(parents=True)

    def proc(self, cgroup: str, mountinfo: str) -> None:
        (self.root / "proc/self/cgroup").write_text(cgroup, newline="")
        (self.root / "proc/self/mountinfo").write_text(OTHER_MOUNTS + mountinfo, newline="")

    def group(self, path: str, **files: int | str) -> Path:
        """Write a group's files; `max` is memory.max, and so on. `stat` is text as it is."""
        folder = self.root / "sys/fs/cgroup" / path
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in files.items():
            (folder / f"memory.{name}").write_text(str(value).rstrip() + "\n")
        return folder

    def all_terms(self) -> tuple[Term, ...]:
        """Every limit that a fresh reader finds, groups first and the innermost of them first."""
        reader = MemoryReader(self.root)
        try:
            reader.refresh(0)
            return tuple(gauge.term(gauge.usage_bytes()) for gauge in reader.gauges)
        finally:
            reader.close()

    def terms(self) -> list[Term]:
        """The cgroup's limits, innermost first."""
        return [term for term in self.all_terms() if term.binding.startswith("cgroup")]


def v2(root: str = "/", point: str = "/sys/fs/cgroup") -> str:
    return MOUNT_V2.format(root=root, point=point)


def v1(root: str = "/", point: str = "/sys/fs/cgroup/memory") -> str:
    return MOUNT_V1.format(root=root, point=point)
