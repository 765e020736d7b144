"""What the system says about processes, the host and where we are. The only file that knows psutil."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

from . import cgroup
from .cgroup import lines, mounts

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_ROOT = Path("/")


def host_memory() -> tuple[int, int]:
    """The machine's RAM, and how much of it is available, in bytes."""
    memory = psutil.virtual_memory()
    return memory.total, memory.available


def resident_bytes(pid: int | None = None) -> int:
    """RssAnon + RssShmem of a process (this one by default); 0 if it is gone. Without /proc, its whole RSS."""
    status = _status(pid)
    if status:
        return status.get("RssAnon", 0) + status.get("RssShmem", 0)
    return whole_resident_bytes(pid)


def whole_resident_bytes(pid: int | None = None) -> int:
    """The resident size of a process (this one by default), with its pages of files; 0 if it is gone."""
    if statm := "".join(lines(Path(f"/proc/{pid or os.getpid()}/statm"))).split():
        return int(statm[1]) * PAGE_BYTES
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def tree_peak_bytes() -> int:
    """VmHWM summed over this process and its living descendants: no less than they ever had resident at once."""
    return sum(_status(pid).get("VmHWM", 0) for pid in (os.getpid(), *descendants()))


def shared_mappings(name: str) -> Iterator[tuple[int, int]]:
    """Where files with `name` in theirs are mapped into this process as shared memory: start and size of each."""
    for line in lines(Path("/proc/self/maps")):
        place, mode, _, _, _, *path = line.split(maxsplit=5)
        if mode.endswith("s") and path and name in Path(path[0]).name:
            start, end = (int(address, 16) for address in place.split("-"))
            yield start, end - start


def descendants(pid: int | None = None) -> list[int]:
    """The living descendants of a process (this one by default)."""
    pid = pid or os.getpid()
    if not Path(f"/proc/{pid}/task/{pid}/children").exists():  # no /proc, or a kernel without these files
        try:
            return [child.pid for child in psutil.Process(pid).children(recursive=True)]
        except psutil.Error:
            return []
    found, unseen = [], [pid]
    while unseen:
        children = list(_children(unseen.pop()))
        found += children
        unseen += children
    return found


def _children(pid: int) -> Iterator[int]:
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for thread in threads:
        for line in lines(Path(f"/proc/{pid}/task/{thread}/children")):
            yield from map(int, line.split())


def process_state(pid: int) -> str | None:
    """The one-letter state of a process ("R" running, "S" sleeping, "T" stopped, "Z" dead but not yet reaped).

    None if there is no such process, or no /proc to ask.
    """
    # The second field is the name in brackets, which may hold brackets, spaces and lines' ends of its own.
    _, _, rest = "\n".join(lines(Path(f"/proc/{pid}/stat"))).rpartition(")")
    return rest.split()[0] if rest else None


def cgroup_inode() -> int | None:
    """The inode of this process's own memory cgroup, as far as it can be seen from here; None without one."""
    place = cgroup.find(_ROOT, os.getpid())
    try:
        return place.directory.stat().st_ino if place else None
    except OSError:
        return None


def boot_id() -> str:
    """What tells this boot of the machine from every other; empty where the system does not say (no Linux)."""
    return "".join(lines(Path("/proc/sys/kernel/random/boot_id")))


def pid_namespace() -> int | None:
    """The number of the namespace that this process's id is told in; None where there are no such namespaces."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return None


def filesystem_type(path: Path) -> str:
    """The type of the file system that holds `path` ("ext4", "tmpfs"), or "unknown"."""
    path, best, kind = path.resolve(), Path(), "unknown"
    for mount in mounts(_ROOT):
        # Of two mounts on one point the later one is seen.
        if path.is_relative_to(mount.point) and len(mount.point.parts) >= len(best.parts):
            best, kind = mount.point, mount.kind
    return kind


def _status(pid: int | None) -> dict[str, int]:
    """The sizes of /proc/PID/status in bytes; empty if there is no such process or file."""
    found = lines(Path(f"/proc/{pid or os.getpid()}/status"))
    fields = (line.split() for line in found if line.startswith(("Vm", "Rss")))
    return {name.rstrip(":"): int(value) * 1024 for name, value, _ in fields}
