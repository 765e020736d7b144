"""Good, bad, cancelled and killed jobs, one after another for an hour in 256 MiB: does anything grow?

    python -m benchmarks.soak [--minutes 60] [--limit-mib 256] [--seed N]

One host runs four jobs at a time over one store, with a downloader, decoding processes and an engine that answers at
once; the store is cleaned up beside them. What each job is, is drawn by the seed:

    good       an MP3 of half a minute to ten minutes, by URL, of other bytes each time
    bad        not there, cut off, slow, silent, endless, in memory's reach, no audio, damaged, a bomb
    cancelled  a good one, at a moment of its first two seconds
    crashed    a good one, whose decoding process is killed by SIGKILL
    killed     a good one in a process of its own, which is killed by SIGKILL

Every ten seconds it is noted what the host has of RssAnon and RssShmem, of descriptors and of threads, and what all of
the group has of anonymous memory. Printed are each figure's median slope per hour (Theil and Sen: the median over all
pairs of samples) after the first sixth, what came of each kind of job, what was not as it should be, the kills of the
kernel, and what was left at the end.

Groups take root.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path

from tests.support.groups import GroupsUnavailableError, nested_groups

import memsafe_transcribe as mt
from benchmarks.soak_server import served

_WARM_AFTER = 1 / 6  # of the run


@dataclass(frozen=True)
class Sample:
    """What the host has at one moment, and the group."""

    seconds: float
    resident_mib: float
    group_anonymous_mib: float
    descriptors: int
    threads: int
    jobs: int


@dataclass(frozen=True)
class Soak:
    """What came of it.

    Attributes:
        samples: in order.
        outcomes: how often each kind of job ended in which way.
        wrong: what should not have come.
        left: what was there when all jobs had ended.
        oom_kills: by the kernel.
    """

    samples: list[Sample]
    outcomes: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    returncode: int = 0
    oom_kills: int = 0

    def slope_per_hour(self, figure: Callable[[Sample], float]) -> float:
        """Of one figure, by Theil and Sen, over what came after the first sixth."""
        if not self.samples:
            return 0.0
        warm_seconds = self.samples[-1].seconds * _WARM_AFTER
        warm = [(each.seconds, figure(each)) for each in self.samples if each.seconds >= warm_seconds]
        slopes = [(b - a) / (then - now) * 3600 for (now, a), (then, b) in combinations(warm, 2) if then > now]
        return statistics.median(slopes) if slopes else 0.0


def measure(minutes: float, limit_mib: int, seed: int) -> Soak:
    """Run it.

    Raises:
        GroupsUnavailableError: groups cannot be made here.
    """
    with tempfile.TemporaryDirectory() as name:
        limit_bytes = limit_mib * mt.MiB
        with served(Path(name)) as url, nested_groups(outer_bytes=limit_bytes, inner_bytes=limit_bytes) as groups:
            command = [sys.executable, "-m", "benchmarks.soak_host", url, name, str(seed), str(minutes * 60)]
            command = groups.command(groups.inner, *command)
            env = {**os.environ, "MEMSAFE_LEDGER_DIR": name}
            samples: list[Sample] = []
            rest: dict[str, object] = {}
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
                assert process.stdout is not None
                for line in process.stdout:
                    found = json.loads(line)
                    if "seconds" in found:
                        samples.append(Sample(**found, group_anonymous_mib=groups.anonymous_bytes() / mt.MiB))
                    else:
                        rest = found
            return Soak(samples, **rest, returncode=process.returncode, oom_kills=groups.oom_kills())  # type: ignore[arg-type]


def report(soak: Soak) -> list[str]:
    """For people."""
    figures: dict[str, Callable[[Sample], float]] = {
        "host's memory, MiB": lambda each: each.resident_mib,
        "group's anonymous memory, MiB": lambda each: each.group_anonymous_mib,
        "descriptors": lambda each: each.descriptors,
        "threads": lambda each: each.threads,
    }
    lines = [f"{count:6} {what}" for what, count in sorted(soak.outcomes.items())]
    for name, figure in figures.items() if soak.samples else ():
        values = [figure(each) for each in soak.samples]
        lines.append(
            f"{name:30} {soak.slope_per_hour(figure):+6.2f} an hour; median {statistics.median(values):.1f}, "
            f"{min(values):.1f} to {max(values):.1f}"
        )
    lines += [f"wrong: {text}" for text in soak.wrong] + [f"left: {text}" for text in soak.left]
    ending = f"{soak.oom_kills} OOM kills, {len(soak.wrong)} wrong, {len(soak.left)} left; ended with {soak.returncode}"
    return [*lines, ending]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--limit-mib", type=int, default=256)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write all samples there")
    options = parser.parse_args()
    try:
        soak = measure(options.minutes, options.limit_mib, options.seed)
    except GroupsUnavailableError as error:
        print(f"no groups of our own: {error}")
        return
    print("\n".join(report(soak)))
    print("load at the end:", *os.getloadavg())
    if options.json:
        options.json.write_text(json.dumps(asdict(soak)))


if __name__ == "__main__":
    main()
