"""Where this process's memory cgroup is, under cgroup v2 and v1, with namespaces and without."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .kept import OUT_OF_RESOURCES

MAX_VISITED = 10_000  # groups looked at, at most, to find our own by its process


@dataclass(frozen=True, slots=True)
class Version:
    """How one version of cgroups names its memory files and what stands in them."""

    name: str
    limits: tuple[str, ...]
    usage: str
    inactive: str  # file cache, in memory.stat
    active: str
    dirty: str  # the part of it that cannot simply be dropped
    writeback: str
    events: tuple[str, ...]  # the first of these that is there
    failures: str  # one more file of events: how often the limit was reached


# v1's unprefixed statistics leave out the groups below; v2's are hierarchical as they are.
V1 = Version(
    "v1",
    ("memory.limit_in_bytes",),
    "memory.usage_in_bytes",
    "total_inactive_file",
    "total_active_file",
    "total_dirty",
    "total_writeback",
    ("memory.oom_control",),
    "memory.failcnt",
)
V2 = Version(
    "v2",
    ("memory.max", "memory.high"),
    "memory.current",
    "inactive_file",
    "active_file",
    "file_dirty",
    "file_writeback",
    ("memory.events.local", "memory.events"),
    "",
)


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo."""

    root: str
    point: Path
    kind: str
    options: frozenset[str]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process's memory is counted.

    Attributes:
        version: v1 or v2.
        top: the highest group that can be seen from here.
        directory: the process's own group, or `top` where that cannot be seen.
    """

    version: Version
    top: Path
    directory: Path

    def groups(self) -> Iterator[tuple[Path, str]]:
        """Each group that counts this process, innermost first, with its name below `top`."""
        directory = self.directory
        while True:
            yield directory, "/" + directory.relative_to(self.top).as_posix().lstrip(".")
            if directory == self.top:
                return
            directory = directory.parent
            # Old v1 kernels let a group not count the groups below it.
            if lines(directory / "memory.use_hierarchy") == ["0"]:
                return


def find(root: Path, pid: int) -> Place | None:
    """Where the memory of the process whose /proc/self is below `root` is counted.

    Args:
        root: where /proc and /sys are; tests point it at recorded trees.
        pid: the process, to tell groups apart where their names do not.
    """
    groups: dict[str, str] = {}
    for line in lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        groups.update(dict.fromkeys(controllers.split(","), path))
    # On a hybrid machine both are there, and the v1 controller is the one that counts.
    version, controller = (V1, "memory") if "memory" in groups else (V2, "")
    if controller not in groups:
        return None
    places = []
    for mount in _visible_mounts(root):
        if (version is V2 and mount.kind == "cgroup2") or (
            version is V1 and mount.kind == "cgroup" and "memory" in mount.options
        ):
            top = root / mount.point.as_posix().lstrip("/")
            directory = _directory(top, mount.root, groups[controller], pid)
            places.append((directory is not None, Place(version, top, directory or top)))
    if not places:
        return None
    # A hierarchy may be mounted twice. The most limits are seen where the most groups above our own are.
    return max(places, key=lambda found: (found[0], len(found[1].directory.relative_to(found[1].top).parts)))[1]


def _visible_mounts(root: Path) -> Iterator[Mount]:
    """The mounts, without those that a later one on the same point hides."""
    return iter({mount.point: mount for mount in mounts(root)}.values())


def mounts(root: Path) -> Iterator[Mount]:
    """The lines of mountinfo, later mounts later."""
    for line in lines(root / "proc/self/mountinfo"):
        left, _, right = line.partition(" - ")
        mount_root, point = (_unescape(field) for field in left.split(" ")[3:5])
        kind, _, options = right.split(" ", 2)
        yield Mount(mount_root, Path(point), kind, frozenset(options.split(",")))


def _directory(top: Path, mount_root: str, path: str, pid: int) -> Path | None:
    """The directory of group `path` under a mount that shows the hierarchy from `mount_root` down; None if hidden.

    Both are told from the root of our cgroup namespace. Inside a container without one, `path` is the host's and the
    mount shows its end only. With one, `path` is "/" or, after a move, "/../other", and a mount made outside begins
    above our root: "/../..". The names of the groups between cannot be told, so the one we are in is looked for.
    """
    mount_ups, mount_names = _split(mount_root)
    ups, names = _split(path)
    between = 0
    if mount_ups and not mount_names and ups <= mount_ups:
        between = mount_ups - ups
    elif ups == mount_ups and names[: len(mount_names)] == mount_names:
        names = names[len(mount_names) :]
    elif not mount_ups and not ups and not names:
        pass  # we are at the root of what is mounted further down: as good as at its top
    else:
        return None
    if not between:
        directory = top.joinpath(*names)
        return directory if directory.is_dir() else None
    return _search(top, between, names, pid)


def _split(path: str) -> tuple[int, list[str]]:
    names = [name for name in path.split("/") if name]
    ups = 0
    while ups < len(names) and names[ups] == "..":
        ups += 1
    return ups, names[ups:]


def _search(top: Path, depth: int, names: list[str], pid: int) -> Path | None:
    """The group that our process is in, `depth` levels below `top` and then along `names`."""
    level, visited = [top], 0
    for _ in range(depth):
        below = []
        for directory in level:
            try:
                with os.scandir(directory) as entries:
                    below += [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
            except OSError:
                continue
            visited += len(below)
            if visited > MAX_VISITED:
                return None
        level = below
    for directory in level:
        own = directory.joinpath(*names)
        if str(pid) in lines(own / "cgroup.procs"):
            return own
    return None


def lines(path: Path) -> list[str]:
    """The lines of a file; none if it cannot be read. Names in it may hold what Unicode takes for a line's end."""
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            return [line.removesuffix("\n") for line in file]
    except OSError as error:
        if error.errno in OUT_OF_RESOURCES:
            raise
        return []


def _unescape(field: str) -> str:
    """Undo mountinfo's octal escapes (a space is \\040)."""
    return re.sub(r"\\([0-7]{3})", lambda escape: chr(int(escape[1], 8)), field)
