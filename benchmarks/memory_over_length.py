"""Peak memory and time over the length of the audio and over formats; for MP3 beside three peers in the same run.

    python -m benchmarks.memory_over_length [--hours H ...] [--formats F ...] [--peers-python PATH] [--json PATH]

By default 10 minutes, 1, 4 and 12 hours of each format; 10.9 in place of 12 for M4A, whose index every decoder loads
whole. Ours is a process that iterates over `stream()`, with an engine that answers at once with 150 words a minute and
their times. For MP3 there is also the command, to text, and the peers, which only load or decode the audio:
`benchmarks/contenders.py` says how to make the environment that --peers-python names. One that is not there is named as
missing, and none is let run that would take most of the memory there is, going by the length before.

Peak memory is the sum of VmHWM over the whole process tree, read every 10 ms; that takes time, so the times here are
good for their order only (see `benchmarks.decode`). --json keeps the numbers, for `benchmarks.picture`.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from tests.support.plugin import install_plugin
from tests.support.tree import run_watched

from .contenders import FFMPEG, OURS, Contender, bounded, check, command, peers, segments
from .long_files import FORMATS, write_long

_MIB = 1 << 20
_HOURS = (1 / 6, 1.0, 4.0, 12.0)
_LONGEST_M4A = 10.9
_TIMEOUT_SECONDS = 1200
_MOST_OF_MEMORY = 0.75  # of what is available: a peer that needs more is left out


@dataclass(frozen=True)
class Row:
    """One run, as --json keeps it."""

    what: str
    format: str
    hours: float
    peak_mib: float
    seconds: float


def measure(contender: Contender, kind: str, audio: Path, hours: float, env: Mapping[str, str]) -> Row:
    """Run it once under the watcher; print and return what was found."""
    watched = run_watched(bounded(contender.on(audio), _TIMEOUT_SECONDS), audio.parent, env)
    assert watched.returncode == 0, f"{contender.name} ended with {watched.returncode}: {watched.stderr}"
    check(contender, watched.stdout, hours * 3600)
    row = Row(contender.name, kind, round(hours, 3), round(watched.peak_bytes / _MIB, 1), round(watched.seconds, 1))
    print(f"{kind:7} {hours:6.2f} h   {row.what:15} {row.peak_mib:8.1f} MiB {row.seconds:7.1f} s", flush=True)
    return row


def fits(contender: Contender, hours: float, rows: list[Row]) -> bool:
    """Whether there is memory enough, if it grows with the length from the longest that was measured."""
    before = [row for row in rows if (row.what, row.format) == (contender.name, "mp3")]
    need = before[-1].peak_mib * hours / before[-1].hours if before else 0
    if need * _MIB <= _MOST_OF_MEMORY * psutil.virtual_memory().available:
        return True
    print(f"mp3     {hours:6.2f} h   {contender.name:15} left out: it would take about {need / 1024:.0f} GiB")
    return False


def summary(rows: list[Row], kind: str) -> str:
    peaks = [row.peak_mib for row in rows if (row.what, row.format) == (OURS, kind)]
    return f"{OURS}, {kind:7} at most {max(peaks):6.1f} MiB; from the least to the most {max(peaks) - min(peaks):5.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, nargs="+")
    parser.add_argument("--formats", choices=FORMATS, nargs="+", default=FORMATS)
    parser.add_argument("--peers-python", default=sys.executable, metavar="PATH")
    parser.add_argument("--json", type=Path, metavar="PATH")
    options = parser.parse_args()
    others = [peer for peer in peers(options.peers_python) if peer.name != FFMPEG] if "mp3" in options.formats else []
    rows: list[Row] = []
    started = time.strftime("%Y-%m-%d")
    for kind in options.formats:
        longest = (_LONGEST_M4A,) if kind == "m4a" else _HOURS[-1:]
        for hours in sorted(options.hours or (*_HOURS[:-1], *longest)):
            with tempfile.TemporaryDirectory() as name:
                env = install_plugin(Path(name) / "plugin")
                audio = write_long(Path(name), kind, hours * 3600)
                rows.append(measure(segments(), kind, audio, hours, env))
                if kind == "mp3":
                    rows.append(measure(command(), kind, audio, hours, env))
                    rows += [
                        measure(peer, kind, audio, hours, os.environ) for peer in others if fits(peer, hours, rows)
                    ]
    print(*(summary(rows, kind) for kind in options.formats), sep="\n")
    print("load at the end:", *os.getloadavg())
    if options.json:
        machine = f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"
        kept = {"date": started, "machine": machine, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
