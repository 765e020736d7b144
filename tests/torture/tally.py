"""What was tortured in this session: how many points, and which of the sites in the code were hit."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from .sites import Site, await_sites, io_sites

# By file, or by file and text: why it is not tortured here.
_OWN_PROCESS = "runs in a process of its own, whose end at any moment is what is tortured (children killed)"
_ENGINE = "an engine: TranscriberContract cancels and measures it"
_CLOSED = "pipes and folders are closed: that cannot fail"
_NOBODY = "the task of the loop's own thread: nobody can cancel it, and Portal.stop ends it"
_MEMBERS = "of a member that has died: tests/admission kills some"
_TREES = "of a container that sees its host's groups: tests/memory has trees of those"
_COMMAND = "the command: tests/test_cli.py interrupts it"
ELSEWHERE = {
    "testing/": "for tests, not for production",
    "transcribers/": _ENGINE,
    "__main__.py": _COMMAND,
    "cli.py": _COMMAND,
    "_batch.py": _COMMAND,
    "_outputs.py": _COMMAND,
    "_demo/": _COMMAND,
    "_doctor.py": _COMMAND,
    "integrations/celery.py": "Celery's: tests/integrations/test_celery.py stops and kills its processes",
    "_worker/inside.py": _OWN_PROCESS,
    "_audio/worker.py": _OWN_PROCESS,
    "_admission/shared.py:os.pwrite(self._fd, bytes(table.RECORD_BYTES), table.record_at(member.seat))": _MEMBERS,
    "_worker/pipes.py:await self.write(part)": _ENGINE,
    "_worker/pipes.py:os.close(fd)": _CLOSED,
    "_download/publishing.py:os.close(fd)": "of a file that a cleaner took just then: tests/download has that race",
    "_portal.py:async with BlockingPortal()": _NOBODY,
    "_portal.py:await portal.sleep_until_stopped()": _NOBODY,
    "_admission/finding.py:os.close(folder_fd)": _CLOSED,
    "_download/spool.py:os.close(copy)": "of a file that is closed just then: tests/download has that moment",
    "_memory/cgroup.py:with os.scandir(": _TREES,
    "_memory/cgroup.py:below += ": _TREES,
    '_memory/reading.py:if not Path(f"/proc/{pid}/task': _COMMAND,
    "_memory/reading.py:threads = os.listdir(": _COMMAND,
    '_memory/reading.py:return Path("/proc/self/ns/pid")': "asked where there are no groups: tests/memory has that",
    "_settings.py:return Path(os.fsdecode(tempfile": "asks where there is no folder for temporary files at all",
}


@dataclass
class Tally:
    """Counts.

    Attributes:
        points: by what was done, the scenario and the backend.
        cancelled: the sites at which a cancellation came in, and how often.
        failed: those of I/O that failed, and how often.
        waited: where a task waited in a run in which nothing went wrong.
        waited_ever: the same, and in those in which something did.
        passed: lines that ran in one in which nothing went wrong.
        reached: where the system was asked in one.
    """

    points: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    cancelled: Counter[Site] = field(default_factory=Counter)
    failed: Counter[Site] = field(default_factory=Counter)
    waited: set[Site] = field(default_factory=set)
    waited_ever: set[Site] = field(default_factory=set)
    passed: set[tuple[str, int]] = field(default_factory=set)
    reached: set[Site] = field(default_factory=set)

    def add(self, other: "Tally") -> None:
        """What another process did."""
        self.points += other.points
        self.cancelled += other.cancelled
        self.failed += other.failed
        self.waited |= other.waited
        self.waited_ever |= other.waited_ever
        self.passed |= other.passed
        self.reached |= other.reached

    def report(self) -> dict[str, Any]:
        """All of it, for machines."""
        by_what, by_scenario, by_backend = (Counter[str]() for _ in range(3))
        for (what, scenario, backend), number in self.points.items():
            by_what[what] += number
            by_scenario[scenario] += number
            by_backend[backend] += number
        return {
            "points": self.points.total(),
            "by_what": by_what,
            "by_scenario": by_scenario,
            "by_backend": by_backend,
            "await_sites": _listed(await_sites(), self.cancelled, self._without_waiting()),
            "waited_but_not_cancelled_at": _named(self.waited - self.cancelled.keys()),
            "io_sites": _listed(io_sites(), self.failed, set()),
            "reached_but_not_refused": _named(self.reached - self.failed.keys()),
        }

    def _without_waiting(self) -> set[Site]:
        """Sites that were passed, and at which no task waited, whatever happened: nothing can be cancelled there."""
        return {site for site in await_sites() - self.waited_ever if (site.file, site.line) in self.passed}

    def lines(self) -> Iterator[str]:
        """For people."""
        found = self.report()
        yield f"torture: {found['points']:,} points, {dict(found['by_what'])}"
        for name in ("await_sites", "io_sites"):
            sites = found[name]
            yield (
                f"{name}: {sites['all']}, {len(sites['hit'])} hit, {len(sites['elsewhere'])} elsewhere, "
                f"{len(sites['without_waiting'])} without waiting, {len(sites['not_hit'])} not hit"
            )


tally = Tally()


def elsewhere(site: Site) -> str | None:
    """Why a site is not tortured here; None if it is to be."""
    return next((why for where, why in ELSEWHERE.items() if f"{site.file}:{site.text}".startswith(where)), None)


def _listed(sites: set[Site], hit: Counter[Site], without_waiting: set[Site]) -> dict[str, Any]:
    not_hit = sites - hit.keys() - without_waiting
    return {
        "all": len(sites),
        "hit": {str(site): hit[site] for site in sorted(hit)},
        "elsewhere": {str(site): elsewhere(site) for site in sorted(not_hit) if elsewhere(site)},
        "without_waiting": _named(site for site in without_waiting if not elsewhere(site)),
        "not_hit": _named(site for site in not_hit if not elsewhere(site)),
    }


def _named(sites: Iterable[Site]) -> list[str]:
    return [str(site) for site in sorted(sites)]
