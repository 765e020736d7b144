"""Small containers, many jobs, long files: this library's command beside the usual pipeline, in real memory groups.

    python -m benchmarks.container_matrix [--limit-mib 128 256 512] [--jobs 1 4 16] [--audio 10min 3h 12h bomb]
                                          [--most-hours 192]

A cell is a group with that limit in which so many jobs begin at once, each with that audio (stereo MP3 of 128 kbit/s)
by URL from a server outside of it; the spool is on disk, and the engine answers at once. The bomb is 30 hours of
silence in a small FLAC, longer than the 24 hours that are let in. The usual pipeline is that of
`benchmarks.two_pictures`: pydub loads each file whole. It has as much time as ours took, and half a minute; then it has
stalled. Printed of each cell are how many jobs are done, how many were refused, how many processes the kernel killed,
the time, and the most anonymous memory; then what the first that was refused was told.

In less than 96 MiB no job fits beside the command itself, which says so of each, after it has waited three minutes for
what else is there to go.

Groups take root, and pydub the ffmpeg command. All cells take about an hour and a half on two cores, and half of that
without those of sixteen jobs of twelve hours, which --most-hours 48 leaves out: the hours of one cell's jobs together.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from math import inf
from pathlib import Path

from tests.support.groups import GroupsUnavailableError, nested_groups
from tests.support.plugin import install_plugin

from benchmarks.loopback import loopback
from memsafe_transcribe import MiB
from memsafe_transcribe._download.spool import is_memory

OURS, NAIVE = "ours", "usual"
HOURS = {"1min": 1 / 60, "10min": 1 / 6, "3h": 3.0, "12h": 12.0}
BOMB = "bomb"
_BOMB_SECONDS, _BOMB_RATE_HZ = 30 * 3600, 8_000
_CAP = "1GB"  # for downloads: twelve hours of that MP3 are more than the 500 MB that are let in by default
_SAMPLE_SECONDS = 0.1
_TIMEOUT_SECONDS = 3600.0
_MORE_SECONDS = 30.0  # than ours took, for the usual pipeline


@dataclass(frozen=True)
class Cell:
    """One way to do the work in one group.

    Attributes:
        who: `OURS` or `NAIVE`.
        limit_mib: of the group.
        jobs: how many begin at once.
        audio: what each is given.
        done: how many have their transcript.
        refused: how many have not, and were told why.
        why: what the first of them was told.
        oom_kills: by the kernel.
        stalled: it was ended from outside.
        seconds: that it took.
        anonymous_mib: the most that was seen.
    """

    who: str
    limit_mib: int
    jobs: int
    audio: str
    done: int
    refused: int
    why: str
    oom_kills: int
    stalled: bool
    seconds: float
    anonymous_mib: float

    @property
    def verdict(self) -> str:
        """In one word or two."""
        if self.oom_kills:
            return f"killed ({self.oom_kills})"
        if self.stalled:
            return "stalled"
        if self.done == self.jobs:
            return "done"
        return "refused" if self.done + self.refused == self.jobs else "broke down"


def measure(
    limits_mib: Sequence[int], jobs: Sequence[int], audios: Sequence[str], most_hours: float = inf
) -> Iterator[Cell]:
    """Ours and then the usual pipeline, in each cell whose jobs have no more hours together.

    Raises:
        GroupsUnavailableError: groups cannot be made here.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        assert not is_memory(folder), f"{folder} is in memory; TMPDIR names another"
        plugin = install_plugin(folder / "plugin")
        paths = [os.environ.get("PYTHONPATH", ""), plugin["PYTHONPATH"]]
        env = {**plugin, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "MEMSAFE_LEDGER_DIR": name}
        for audio in audios:
            counts = [count for count in jobs if count * HOURS.get(audio, 0.0) <= most_hours]
            if not counts:
                continue
            with loopback([_written(folder, audio)]) as url:
                for limit_mib in limits_mib:
                    for count in counts:
                        urls = [f"{url}{number}" for number in range(count)]
                        ours = _ours(urls, limit_mib, audio, folder, env)
                        yield ours
                        yield _naive(urls, limit_mib, audio, folder, env, ours.seconds + _MORE_SECONDS)


def _written(folder: Path, audio: str) -> Path:
    from tests.support.media import write_long_mp3  # it loads PyAV

    if audio != BOMB:
        return write_long_mp3(folder / f"{audio}.mp3", HOURS[audio] * 3600)
    return _write_bomb(folder / "bomb.flac")


def _write_bomb(path: Path) -> Path:
    import av

    with av.open(str(path), "w") as file:
        stream = file.add_stream("flac", rate=_BOMB_RATE_HZ, layout="mono")
        frame = av.AudioFrame(format="s16", layout="mono", samples=4096)
        frame.planes[0].update(bytes(frame.samples * 2))
        frame.sample_rate, frame.time_base = _BOMB_RATE_HZ, Fraction(1, _BOMB_RATE_HZ)
        for at in range(0, _BOMB_SECONDS * _BOMB_RATE_HZ, frame.samples):
            frame.pts = at
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def _ours(urls: list[str], limit_mib: int, audio: str, folder: Path, env: dict[str, str]) -> Cell:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        work = Path(name)
        (work / "out").mkdir()
        (work / "list").write_text("".join(f"{url}\n" for url in urls))
        command = [sys.executable, "-m", "memsafe_transcribe", "batch", str(work / "list"), "--engine", "speech-clock"]
        command += ["--output-dir", str(work / "out"), "--store", str(work / "jobs.sqlite"), "--allow-private"]
        env = {**env, "MEMSAFE_MAX_CONCURRENT": str(len(urls)), "MEMSAFE_MAX_DOWNLOAD_BYTES": _CAP, "TMPDIR": name}
        with _run(command, limit_mib, env, work, _TIMEOUT_SECONDS) as run:
            done = len(list((work / "out").glob("*.txt")))
            told = [line for line in (work / "err").read_text().splitlines() if line.startswith("memsafe-transcribe: ")]
            return Cell(OURS, limit_mib, len(urls), audio, done, len(told), told[0] if told else "", *run)


def _naive(urls: list[str], limit_mib: int, audio: str, folder: Path, env: dict[str, str], seconds: float) -> Cell:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        work = Path(name)
        events = work / "events"
        events.touch()
        command = [sys.executable, "-m", "benchmarks.two_pictures", "--inside", str(events), *urls]
        with _run(command, limit_mib, {**env, "TMPDIR": name}, work, seconds) as run:
            ends = [json.loads(line)[1] for line in events.read_text().splitlines()]
            told = (work / "err").read_text().splitlines()
            done, failed = ends.count("complete"), ends.count("failed")
            return Cell(NAIVE, limit_mib, len(urls), audio, done, failed, told[0] if told else "", *run)


@contextmanager
def _run(
    command: list[str], limit_mib: int, env: dict[str, str], work: Path, timeout_seconds: float
) -> Iterator[tuple[int, bool, float, float]]:
    """Run it in a group of its own to its end or that of its time: kills, whether it stalled, seconds, and memory."""
    limit_bytes, anonymous_bytes, stalled = limit_mib * MiB, 0, False
    with nested_groups(outer_bytes=limit_bytes, inner_bytes=limit_bytes) as groups, (work / "err").open("w") as err:
        command = groups.command(groups.inner, *command)
        began = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=err, env=env, cwd=Path.cwd()) as process:
            while process.poll() is None and not stalled:
                anonymous_bytes = max(anonymous_bytes, groups.anonymous_bytes())
                time.sleep(_SAMPLE_SECONDS)
                stalled = time.monotonic() - began > timeout_seconds
            seconds = time.monotonic() - began
            groups.end_all()
        yield groups.oom_kills(), stalled, seconds, anonymous_bytes / MiB


def table(cells: Sequence[Cell]) -> list[str]:
    """For people, in Markdown: a row for each cell, ours beside the usual pipeline."""
    lines = ["| limit | jobs | audio | ours | time | anonymous | usual pipeline |", "|---|---|---|---|---|---|---|"]
    for ours, naive in zip(cells[::2], cells[1::2], strict=True):
        lines.append(
            f"| {ours.limit_mib} MiB | {ours.jobs} | {ours.audio} | {ours.done} of {ours.jobs}, {ours.verdict} "
            f"| {ours.seconds:.0f} s | {ours.anonymous_mib:.0f} MiB | {naive.done} of {naive.jobs}, {naive.verdict} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit-mib", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--audio", nargs="+", choices=[*HOURS, BOMB], default=["10min", "3h", "12h", BOMB])
    parser.add_argument("--most-hours", type=float, default=inf)
    parser.add_argument("--json", type=Path, help="write the cells there")
    options = parser.parse_args()
    cells: list[Cell] = []
    try:
        for cell in measure(options.limit_mib, options.jobs, options.audio, options.most_hours):
            cells.append(cell)
            print(json.dumps(asdict(cell)), file=sys.stderr, flush=True)
            if options.json:
                options.json.write_text(json.dumps([asdict(each) for each in cells], indent=1))
    except GroupsUnavailableError as error:
        print(f"no groups of our own: {error}")
        return
    print("\n".join(table(cells)))
    print("load at the end:", *os.getloadavg())


if __name__ == "__main__":
    main()
