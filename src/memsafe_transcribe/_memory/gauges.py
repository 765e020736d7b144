"""The limits that can hold for a process, each with what counts against it, read from descriptors that stay open.

All of them work in two steps. `usage_bytes()` is cheap and read afresh each time: nothing is deducted, so it is an
upper bound of what counts. `spare_bytes`, what may be deducted (clean file cache above all), is dear, and read by
`settle()`, at most 100 ms ago or when it decides.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from .cgroup import V1, Version
from .kept import KeptFile, pread
from .pressure import Events, Kind, Term
from .reading import PAGE_BYTES, host_memory

_UNLIMITED = 1 << 62  # v1 writes "unlimited" as a number near 2**63


class Gauge(Protocol):
    """One limit and how full it is.

    Attributes:
        kind, binding, source, limit_bytes: as in Term.
        is_live: `usage_bytes` differs between two refreshes.
        is_nested: it counts all that the nested gauge before it counts, so that gauge's spare bytes are spare here.
        spare_bytes: the part of `usage_bytes()` that does not count, as of the last `settle`.
    """

    kind: Kind
    binding: str
    source: str
    limit_bytes: int
    is_live: bool
    is_nested: bool
    spare_bytes: int

    def usage_bytes(self) -> int:
        """What is used now, with nothing deducted."""
        ...

    def settle(self, usage_bytes: int) -> None:
        """Read afresh what is to be deducted from `usage_bytes`."""
        ...

    def working_set_bytes(self, usage_bytes: int) -> int:
        """`usage_bytes` as Kubernetes counts it."""
        ...

    def term(self, usage_bytes: int) -> Term:
        """The limit and its use, when so much is used before anything is deducted."""
        ...


class _Base:
    kind: Kind = "limit"
    binding: str
    source: str
    limit_bytes: int
    is_live = True
    is_nested = False
    spare_bytes = 0

    def settle(self, usage_bytes: int) -> None:
        """Nothing is to be deducted here."""

    def working_set_bytes(self, usage_bytes: int) -> int:
        return max(0, usage_bytes - self.spare_bytes)

    def term(self, usage_bytes: int) -> Term:
        used, working_set = max(0, usage_bytes - self.spare_bytes), self.working_set_bytes(usage_bytes)
        return Term(self.kind, self.binding, self.source, self.limit_bytes, used, working_set)


class HostGauge(_Base):
    """The machine's RAM, against all that is not available."""

    kind: Kind = "host"
    binding = "host"
    source = "psutil"
    limit_bytes = 0
    is_live = False
    _used_bytes = 0

    def refresh(self) -> None:
        self.limit_bytes, available = host_memory()
        self._used_bytes = self.limit_bytes - available
        self.spare_bytes = 0

    def usage_bytes(self) -> int:
        """What was used at the last refresh: the host alone is not read at every question."""
        return self._used_bytes

    def settle(self, usage_bytes: int) -> None:
        total, available = host_memory()
        self.spare_bytes = max(0, usage_bytes - (total - available))  # what was given back since


class GroupGauge(_Base):
    """One group of the cgroup hierarchy: its limits, usage, statistics and events."""

    is_nested = True

    def __init__(self, version: Version, directory: Path, name: str, *, is_top: bool) -> None:
        self.binding = f"cgroup {version.name} {_printable(name)}"
        self.source = ""
        self.limit_bytes = 0
        self.events: Events | None = None
        self._inactive_bytes = 0
        self._tells_of_hidden_limits = is_top and version is V1
        self._limits = [KeptFile(str(directory / limit)) for limit in version.limits]
        self._usage = KeptFile(str(directory / version.usage))
        self._statistics = KeptFile(str(directory / "memory.stat"))
        self._events = [KeptFile(str(directory / file)) for file in version.events]
        self._failures = KeptFile(str(directory / version.failures)) if version.failures else None
        self._keys = [f"\n{key} ".encode() for key in (version.inactive, version.active)]
        self._dirty_keys = [f"\n{key} ".encode() for key in (version.dirty, version.writeback)]
        self._last_usage = 0

    def refresh(self) -> bool:
        """Read limits, statistics and events; return whether there is a limit, and a use to hold against it."""
        for file in self._files():
            file.verify()
        limits = [(limit, _printable(file.path)) for file in self._limits if (limit := file.number()) is not None]
        if self._tells_of_hidden_limits and (
            hidden := _value(self._statistics.content(), b"\nhierarchical_memory_limit ")
        ):
            # v1 tells the lowest limit of all the groups above, also of those that a container does not see.
            limits.append((hidden, _printable(self._statistics.path)))
        limit, source = min(limits, default=(_UNLIMITED, ""))
        usage = self._usage.number() if limit < _UNLIMITED else None
        if usage is None:
            for file in self._files()[len(self._limits) :]:
                file.close()
            self.events = None
            return False
        self.limit_bytes, self.source, self._last_usage = limit, source, usage
        self.settle(usage)
        self.events = self._read_events()
        return True

    def usage_bytes(self) -> int:
        try:  # not by KeptFile.number: every check comes through here
            return int(pread(self._usage.descriptor, 32, 0))
        except (OSError, ValueError):
            usage = self._usage.number()
            # None: the group is gone, and the next refresh finds out where we are.
            return self._last_usage if usage is None else usage

    def settle(self, usage_bytes: int) -> None:
        statistics = b"\n" + self._statistics.content()
        inactive, active = (_value(statistics, key) for key in self._keys)
        dirty, writeback = (_value(statistics, key) for key in self._dirty_keys)
        self._inactive_bytes = inactive
        self.spare_bytes = max(0, inactive + active - dirty - writeback)

    def working_set_bytes(self, usage_bytes: int) -> int:
        return max(0, usage_bytes - self._inactive_bytes)

    def close(self) -> None:
        for file in self._files():
            file.close()

    def _files(self) -> list[KeptFile]:
        return [*self._limits, self._usage, self._statistics, *self._events, *filter(None, [self._failures])]

    def _read_events(self) -> Events:
        content = next(filter(None, (file.content() for file in self._events)), b"")
        counts = dict(line.split(b" ", 1) for line in content.splitlines() if b" " in line)
        at_max = int(counts.get(b"max", 0))
        if self._failures is not None:
            at_max = self._failures.number() or 0
        return Events(
            oom=int(counts.get(b"oom", 0)) + int(counts.get(b"oom_kill", 0)),
            at_max=at_max,
            at_high=int(counts.get(b"high", 0)),
            clean_bytes=self.spare_bytes,
            limit_bytes=self.limit_bytes,
        )


class OwnProcess:
    """What /proc/self says of the sizes of this process."""

    def __init__(self, root: Path) -> None:
        self.statm = KeptFile(str(root / "proc/self/statm"))
        self.status = KeptFile(str(root / "proc/self/status"))

    def statm_bytes(self, field: int) -> int:
        """A field of statm: 0 is the address space, 1 what is resident, 5 data and stack. 0 without /proc."""
        fields = self.statm.content(160).split()
        return int(fields[field]) * PAGE_BYTES if len(fields) > field else 0

    def status_bytes(self, name: str) -> int:
        """A size of status, such as VmData."""
        # A process chooses its own name, the first line; a name with a line's end in it is escaped there.
        return _value(self.status.content(), f"\n{name}:\t".encode()) * 1024

    def verify(self) -> None:
        self.statm.verify()
        self.status.verify()

    def close(self) -> None:
        self.statm.close()
        self.status.close()


class RlimitGauge(_Base):
    """A limit on this process alone, set by `ulimit` or setrlimit."""

    source = "setrlimit"

    def __init__(self, name: str, process: OwnProcess, statm_field: int, status_name: str = "") -> None:
        self.binding = f"{name} of this process"
        self.limit_bytes = 0
        self._process = process
        self._field = statm_field
        self._exact_name = status_name

    def usage_bytes(self) -> int:
        return self._process.statm_bytes(self._field)

    def settle(self, usage_bytes: int) -> None:
        if self._exact_name:
            self.spare_bytes = max(0, usage_bytes - self._process.status_bytes(self._exact_name))


class TreeGauge(_Base):
    """The application's own limit, against the anonymous and shared memory of this process and its descendants.

    Args:
        limit_bytes: the limit.
        source: where it comes from.
        resident: the resident bytes of a process, with its file pages: an upper bound.
        counted: those bytes that count.
        descendants: the processes besides this one. The list may be 100 ms old.
    """

    binding = "this process and its descendants"

    def __init__(
        self,
        limit_bytes: int,
        source: str,
        resident: Callable[[int | None], int],
        counted: Callable[[int | None], int],
        descendants: Callable[[], list[int]],
    ) -> None:
        self.limit_bytes = limit_bytes
        self.source = source
        self._resident = resident
        self._counted = counted
        self._descendants = descendants
        self._family: list[int | None] = [None]

    def refresh(self) -> None:
        self._family = [None, *self._descendants()]
        self.settle(self.usage_bytes())

    def usage_bytes(self) -> int:
        return sum(map(self._resident, self._family))

    def settle(self, usage_bytes: int) -> None:
        self.spare_bytes = max(0, usage_bytes - sum(map(self._counted, self._family)))


def _value(content: bytes, key: bytes) -> int:
    """The number after `key`, which begins with the end of the line before; 0 if it is not there."""
    start = content.find(key)
    if start < 0:
        return 0
    start += len(key)
    try:
        return int(content[start : content.find(b"\n", start)].removesuffix(b" kB"))
    except ValueError:
        return 0


def _printable(text: str) -> str:
    """Text that can be printed, from a path with bytes in it that are no UTF-8."""
    return text.encode(errors="surrogateescape").decode(errors="replace")
