"""The one reader of a process: it keeps the files open that every guard asks, and finds out what has changed.

Use of the limited levels is read afresh at every question; what else it knows may be `STALE_SECONDS` old.
"""

import os
import threading
import weakref
from pathlib import Path

from . import cgroup, reading
from .gauges import Gauge, GroupGauge, HostGauge, OwnProcess, RlimitGauge, TreeGauge
from .kept import KeptFile
from .pressure import Events

try:
    import resource
except ImportError:  # Windows
    _RLIMITS: tuple[tuple[str, int, int, str], ...] = ()
else:
    # The limit, and the use it is held against: in statm an upper bound, in status exact.
    _RLIMITS = (
        ("RLIMIT_DATA", resource.RLIMIT_DATA, 5, "VmData"),
        ("RLIMIT_AS", resource.RLIMIT_AS, 0, ""),
    )

STALE_SECONDS = 0.1
_NEVER = float("-inf")


class MemoryReader:
    """Every limit that holds for this process.

    Take `lock` before anything else is touched; it may be taken again by the thread that has it, since a signal
    handler may ask at any time.

    Args:
        root: where /proc and /sys are; tests point it at recorded trees.

    Attributes:
        lock: held while asking.
        gauges: the limits, cgroup levels first and the inner ones before the outer ones.
        events: what the kernel had to do at each limit, by the limit's name.
        process_rss_bytes: the resident size of this process.
        stale_at_seconds: from when on `refresh` has to be called, on time.monotonic's clock.
        refreshes: how often it was.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self.lock = threading.RLock()
        self.gauges: tuple[Gauge, ...] = ()
        self.events: dict[str, Events] = {}
        self.process_rss_bytes = 0
        self.stale_at_seconds = _NEVER
        self.refreshes = 0
        self._root = root
        self._pid = os.getpid()
        self._process = OwnProcess(root)
        self._membership = KeptFile(str(root / "proc/self/cgroup"))
        self._seen_membership = b""
        self._groups: list[GroupGauge] = []
        self._host = HostGauge()
        self._rlimits = [
            (number, RlimitGauge(name, self._process, field, exact)) for name, number, field, exact in _RLIMITS
        ]
        _READERS.add(self)

    def refresh(self, now_seconds: float) -> None:
        """Read what may have changed: where we are, limits, statistics, events, the host.

        Raises:
            OSError: no descriptors are left; what was known stays as it was.
        """
        if os.getpid() != self._pid:  # forked without Python's knowing
            self.forget_process()
        self._process.verify()
        self._membership.verify()
        membership = self._membership.content()
        if membership != self._seen_membership or not self._groups:
            self._find_groups()
        self._host.refresh()
        limited = [group for group in self._groups if group.refresh()]
        if any(group in self.gauges and group not in limited for group in self._groups):
            membership = b""  # a limit was lifted, or the group is gone: look again where we are
        below_host = [group for group in limited if group.limit_bytes < self._host.limit_bytes]
        self.process_rss_bytes = self._process.statm_bytes(1) or reading.whole_resident_bytes()
        self.events = {group.binding: group.events for group in below_host if group.events is not None}
        self.gauges = (*below_host, self._host, *self._read_rlimits())
        self._seen_membership = membership
        self.stale_at_seconds = now_seconds + STALE_SECONDS
        self.refreshes += 1

    def _find_groups(self) -> None:
        place = cgroup.find(self._root, self._pid)
        found = list(place.groups()) if place else []
        for group in self._groups:
            group.close()
        self._groups = [
            GroupGauge(place.version, directory, name, is_top=directory == place.top)
            for directory, name in found
            if place is not None
        ]

    def _read_rlimits(self) -> list[RlimitGauge]:
        finite = []
        for number, gauge in self._rlimits:
            soft, _ = resource.getrlimit(number)
            usage = gauge.usage_bytes() if soft != resource.RLIM_INFINITY else 0
            if usage:
                gauge.limit_bytes = soft
                gauge.settle(usage)
                finite.append(gauge)
        return finite

    def tree_gauge(self, limit_bytes: int, source: str) -> TreeGauge:
        """The gauge of a limit of the application's own."""
        return TreeGauge(limit_bytes, source, self._resident_bytes, reading.resident_bytes, reading.descendants)

    def _resident_bytes(self, pid: int | None) -> int:
        if pid is None:
            return self._process.statm_bytes(1) or reading.whole_resident_bytes()
        return reading.whole_resident_bytes(pid)

    def forget_process(self) -> None:
        """After a fork: what is open of /proc/self is the parent's, and the child may be in another group."""
        self._pid = os.getpid()
        self._process.close()
        self._membership.close()
        self.stale_at_seconds = _NEVER

    def close(self) -> None:
        """Close all files. The next question opens them again."""
        with self.lock:
            self._process.close()
            self._membership.close()
            for group in self._groups:
                group.close()
            self.stale_at_seconds = _NEVER


_READERS: weakref.WeakSet[MemoryReader] = weakref.WeakSet()
_shared = MemoryReader()


def shared_reader() -> MemoryReader:
    """The reader of this process, which all guards ask."""
    return _shared


def _after_fork_in_child() -> None:
    for reader in _READERS:
        reader.lock = threading.RLock()  # another thread of the parent may have held it
        reader.forget_process()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
