"""Speed and peak memory of decoding a long file, beside four peers in the same run.

    python -m benchmarks.decode [--rounds N] [--hours H] [--format F] [--peers-python PATH]

By default 5 rounds of a stereo MP3 of four hours at 128 kbit/s. Ours is `stream()` with an engine that answers at once:
chunks come out, as WAV, by way of the decoding process. The peers are a loop around PyAV in one process, which decodes,
resamples to 16 kHz mono and keeps nothing; the ffmpeg command, which does the same; and two that load the whole file,
faster-whisper's `decode_audio` and pydub's `AudioSegment.from_file`. `benchmarks/contenders.py` says how to make the
environment that --peers-python names; a peer that is not there is named as missing.

First each runs once under a watcher, for its peak: the sum of VmHWM over its processes. Then come the rounds, in which
all take turns, without the watcher: the time is that of the whole command, process start included, and processor time
that of all its processes (one of two busy cores can hide it, a busy machine cannot). The ratio is our speed to the
peer's in the same round, by the clock: its median and its range.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.tree import run_watched

from .contenders import Contender, bounded, check, chunks, peers
from .long_files import FORMATS, write_long

_MIB = 1 << 20
_TIMEOUT_SECONDS = 600


def peak_mib(contender: Contender, audio: Path, seconds: float) -> float:
    watched = run_watched(bounded(contender.on(audio), _TIMEOUT_SECONDS), audio.parent, os.environ)
    assert watched.returncode == 0, f"{contender.name} ended with {watched.returncode}: {watched.stderr}"
    check(contender, watched.stdout, seconds)
    return watched.peak_bytes / _MIB


def timed(contender: Contender, audio: Path, seconds: float) -> tuple[float, float]:
    """Seconds by the clock, and of processor time."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(contender.on(audio), check=True, stdout=subprocess.PIPE, text=True, timeout=_TIMEOUT_SECONDS)
    took, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    check(contender, done.stdout, seconds)
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare(contenders: list[Contender], audio: Path, seconds: float, rounds: int) -> None:
    """Ours is the first of the contenders."""
    peaks = [peak_mib(contender, audio, seconds) for contender in contenders]
    times: list[list[tuple[float, float]]] = [[] for _ in contenders]
    for number in range(rounds):
        start = number % len(contenders)
        for index in (*range(start, len(contenders)), *range(start)):
            times[index].append(timed(contenders[index], audio, seconds))
    for contender, peak, pairs in zip(contenders, peaks, times, strict=True):
        took, processor = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratios = sorted(other / mine for (mine, _), (other, _) in zip(times[0], pairs, strict=True))
        print(
            f"{contender.name:15} peak {peak:7.1f} MiB   {took:6.1f} s, {seconds / took:4.0f} times real time   "
            f"{processor:6.1f} s of processor   our speed / its: {statistics.median(ratios):4.2f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hours", type=float, default=4.0)
    parser.add_argument("--format", choices=FORMATS, default="mp3")
    parser.add_argument("--peers-python", default=sys.executable, metavar="PATH")
    options = parser.parse_args()
    contenders = [chunks(), *peers(options.peers_python)]
    with tempfile.TemporaryDirectory() as name:
        audio = write_long(Path(name), options.format, options.hours * 3600)
        print(f"{options.hours:g} h of {options.format}, {audio.stat().st_size / _MIB:.0f} MiB")
        print(f"{options.rounds} rounds, load at the start:", *os.getloadavg(), flush=True)
        compare(contenders, audio, options.hours * 3600, options.rounds)
        print("load at the end:", *os.getloadavg())


if __name__ == "__main__":
    main()
