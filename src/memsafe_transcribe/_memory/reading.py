"""What the machine says about memory: cgroup v2 and v1 over the whole hierarchy, and the host.

The only file that reads memory figures (/proc, /sys, psutil). It decides nothing.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from .pressure import Reading, Term


@dataclass(frozen=True, slots=True)
class _Version:
    """How one version of cgroups names its memory files."""

    name: str
    limits: tuple[str, ...]
    usage: str
    stat_prefix: str
    dirty: tuple[str, str]


# v1's unprefixed statistics leave out the groups below; v2's are hierarchical as they are.
_V1 = _Version("v1", ("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_", ("dirty", "writeback"))
_V2 = _Version("v2", ("memory.max", "memory.high"), "memory.current", "", ("file_dirty", "file_writeback"))


def read(limit_bytes: int | None, limit_source: str, root: Path = Path("/")) -> Reading:
    """Read every limit afresh.

    Args:
        limit_bytes: the application's own limit on this process and its descendants, if it has one.
        limit_source: where that limit comes from.
        root: where /proc and /sys are; tests point it at recorded trees.
    """
    memory = psutil.virtual_memory()
    host_used = memory.total - memory.available
    terms = [*_cgroup_terms(root, memory.total), Term("host", "host", "psutil", memory.total, host_used, host_used)]
    if limit_bytes is not None:
        used = sum(resident_bytes(pid) for pid in _family())
        terms.append(Term("limit", "this process and its descendants", limit_source, limit_bytes, used, used))
    return Reading(tuple(terms), psutil.Process().memory_info().rss)


def _cgroup_terms(root: Path, host_total_bytes: int) -> Iterator[Term]:
    """The limited levels of this process's memory cgroup, innermost first."""
    found = _cgroup_directories(root)
    if found is None:
        return
    version, top, directory = found
    while True:
        term = _level(version, directory, "/" + directory.relative_to(top).as_posix().lstrip("."))
        if term is not None and term.limit_bytes < host_total_bytes:
            yield term
        if directory == top:
            return
        directory = directory.parent


def _cgroup_directories(root: Path) -> tuple[_Version, Path, Path] | None:
    """Which version counts memory here, where it is mounted, and this process's own directory below that."""
    groups: dict[str, str] = {}
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        groups.update(dict.fromkeys(controllers.split(","), path))
    # On a hybrid machine both are there, and the v1 controller is the one that counts.
    version, controller = (_V1, "memory") if "memory" in groups else (_V2, "")
    if controller not in groups:
        return None
    for line in _lines(root / "proc/self/mountinfo"):
        left, _, right = line.partition(" - ")
        mount_root, mount_point = (_unescape(field) for field in left.split(" ")[3:5])
        kind, _, options = right.split(" ", 2)
        if (version is _V2 and kind == "cgroup2") or (
            version is _V1 and kind == "cgroup" and "memory" in options.split(",")
        ):
            top = root / mount_point.lstrip("/")
            return version, top, _below(top, mount_root, groups[controller])
    return None


def _below(top: Path, mount_root: str, path: str) -> Path:
    """The directory of group `path` under a mount that shows the hierarchy from `mount_root` down.

    Inside a container without a cgroup namespace, `path` is the host's and the mount shows its end only; with one,
    `path` is "/" or, after a move, "/../other", which cannot be seen from here: then the mount's top stands for it.
    """
    inside = path.removeprefix(mount_root.rstrip("/")) if path.startswith(mount_root) else path
    directory = top / inside.lstrip("/")
    return top if ".." in directory.parts or not directory.is_dir() else directory


def _level(version: _Version, directory: Path, name: str) -> Term | None:
    limits = [(limit, file) for file in version.limits if (limit := _number(directory / file)) is not None]
    usage = _number(directory / version.usage)
    if not limits or usage is None:
        return None
    limit, file = min(limits)
    stat = dict(line.split()[:2] for line in _lines(directory / "memory.stat"))
    inactive, active, dirty, writeback = (
        int(stat.get(version.stat_prefix + key, 0)) for key in ("inactive_file", "active_file", *version.dirty)
    )
    clean_cache = max(0, inactive + active - dirty - writeback)
    return Term(
        kind="limit",
        binding=f"cgroup {version.name} {name}",
        source=str(directory / file),
        limit_bytes=limit,
        used_bytes=max(0, usage - clean_cache),
        working_set_bytes=max(0, usage - inactive),
    )


def resident_bytes(pid: int | None = None) -> int:
    """RssAnon + RssShmem of a process (this one by default); 0 if it is gone. Without /proc, its whole RSS."""
    status = _status(pid)
    if status:
        return status.get("RssAnon", 0) + status.get("RssShmem", 0)
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def tree_peak_bytes() -> int:
    """VmHWM summed over this process and its living descendants: no less than they ever had resident at once."""
    return sum(_status(pid).get("VmHWM", 0) for pid in _family())


def filesystem_type(path: Path) -> str:
    """The type of the file system that holds `path` ("ext4", "tmpfs"), or "unknown"."""
    path, best, kind = path.resolve(), Path(), "unknown"
    for line in _lines(Path("/proc/self/mountinfo")):
        left, _, right = line.partition(" - ")
        mount = Path(_unescape(left.split(" ")[4]))
        # Of two mounts on one point the later one is seen.
        if path.is_relative_to(mount) and len(mount.parts) >= len(best.parts):
            best, kind = mount, right.split(" ")[0]
    return kind


def _family() -> list[int]:
    me = psutil.Process()
    return [me.pid, *(child.pid for child in me.children(recursive=True))]


def _status(pid: int | None) -> dict[str, int]:
    """The sizes of /proc/PID/status in bytes; empty if there is no such process or file."""
    lines = _lines(Path(f"/proc/{pid or os.getpid()}/status"))
    fields = (line.split() for line in lines if line.startswith(("Vm", "Rss")))
    return {name.rstrip(":"): int(value) * 1024 for name, value, _ in fields}


def _lines(path: Path) -> list[str]:
    """The lines of a file; none if it cannot be read. Names in it may hold what Unicode takes for a line's end."""
    try:
        with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
            return [line.removesuffix("\n") for line in file]
    except OSError:
        return []


def _number(path: Path) -> int | None:
    """The file's number; None for "max", for v1's "unlimited", and where there is no such file."""
    for line in _lines(path):
        return int(line) if line.isdigit() and int(line) < 1 << 62 else None
    return None


def _unescape(field: str) -> str:
    """Undo mountinfo's octal escapes (a space is \\040)."""
    return re.sub(r"\\([0-7]{3})", lambda escape: chr(int(escape[1], 8)), field)
