"""Two pictures of the same work in the same memory group: the usual pipeline, and this library's command.

    python -m benchmarks.two_pictures [--jobs 4] [--hours 1] [--limit-mib 512] [--folder docs]

The sources are stereo MP3s by URL from a server outside of the group; the spool is on disk. Ours is the command
`batch`, with --timeline and an engine that answers at once. The usual pipeline is that which the audit of
`examples/audited_backend` found: it downloads each file, has pydub load it whole, makes it 16 kHz mono and cuts it, all
jobs at once. Its memory is read from outside, as the guard would read it. It gets as much time as ours took. Both
pictures have the same axes: naive_in_512_mib.svg and ours_in_512_mib.svg.

Groups take root, and pydub the ffmpeg command.
"""

import argparse
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.groups import Groups, GroupsUnavailableError, nested_groups
from tests.support.plugin import install_plugin

from benchmarks.loopback import loopback
from memsafe_transcribe import MiB
from memsafe_transcribe._download.spool import is_memory
from memsafe_transcribe._memory.cgroup import V1, V2
from memsafe_transcribe._memory.gauges import GroupGauge
from memsafe_transcribe._timeline.picture import axes_of, drawn
from memsafe_transcribe._timeline.run import Ending, Jobs, Phase, Run, Sample, Samples
from memsafe_transcribe._transcription.sources import label_of

_SAMPLE_SECONDS = 0.05
_CHUNK_MS = 60_000
_LEAST_SECONDS = 5.0
_OURS_TIMEOUT_SECONDS = 600
_DOCS = Path(__file__).parents[1] / "docs"


@dataclass(frozen=True)
class Result:
    """What came of one way to do the work.

    Attributes:
        svg: its picture.
        done: how many jobs have their transcript.
        returncode: of the process; negative if a signal ended it.
        seconds: how long it took.
        oom_kills: how many processes the kernel killed.
    """

    svg: Path
    done: int
    returncode: int
    seconds: float
    oom_kills: int


def naive(urls: list[str], events: Path) -> None:
    """The usual pipeline, with all its jobs at once; what each does is noted as it begins, for whoever outlives it."""
    from pydub import AudioSegment

    with events.open("a", buffering=1) as file:

        def job(number: int, url: str) -> None:
            def note(what: str) -> None:
                file.write(json.dumps([number, what, time.monotonic()]) + "\n")

            try:
                _naive_job(url, AudioSegment, note)
                note("complete")
            except Exception as error:
                note("failed")
                print(f"job {number}: {error}", file=sys.stderr)

        threads = [threading.Thread(target=job, args=each) for each in enumerate(urls, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _naive_job(url: str, audio_segment: type, note: Callable[[str], object]) -> None:
    note("downloading")
    with tempfile.NamedTemporaryFile(suffix=".mp3") as file:
        with urllib.request.urlopen(url) as answer:
            while block := answer.read(65_536):
                file.write(block)
        file.flush()
        note("transcribing")
        audio = audio_segment.from_file(file.name)  # type: ignore[attr-defined]
        audio = audio.set_channels(1).set_frame_rate(16_000).set_sample_width(2)
        for start in range(0, len(audio), _CHUNK_MS):
            audio[start : start + _CHUNK_MS].export(io.BytesIO(), format="wav")


def measure(jobs: int, hours: float, limit_mib: int, folder: Path) -> Iterator[Result]:
    """Ours, and then the usual pipeline; each with its picture in the folder.

    Raises:
        GroupsUnavailableError: groups cannot be made here.
    """
    from tests.support.media import write_long_mp3  # it loads PyAV

    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        assert not is_memory(work), f"{work} is in memory; TMPDIR names another"
        env = {**install_plugin(work / "plugin"), "MEMSAFE_LEDGER_DIR": str(work), "MEMSAFE_MAX_CONCURRENT": str(jobs)}
        env["PYTHONPATH"] = os.pathsep.join([env["PYTHONPATH"], *filter(None, [os.environ.get("PYTHONPATH")])])
        with loopback([write_long_mp3(work / "long.mp3", hours * 3600)]) as url:
            urls = [f"{url}{number}" for number in range(jobs)]
            with nested_groups(outer_bytes=limit_mib * MiB, inner_bytes=limit_mib * MiB) as groups:
                ours = _ours(urls, groups, work, env, folder / f"ours_in_{limit_mib}_mib.svg")
            yield ours
            with nested_groups(outer_bytes=limit_mib * MiB, inner_bytes=limit_mib * MiB) as groups:
                yield _naive(urls, groups, work, env, ours, folder / f"naive_in_{limit_mib}_mib.svg")


def _ours(urls: list[str], groups: Groups, work: Path, env: dict[str, str], svg: Path) -> Result:
    listed, output = work / "list.txt", work / "output"
    listed.write_text("".join(f"{url}\n" for url in urls))
    output.mkdir()
    command = [sys.executable, "-m", "memsafe_transcribe", "batch", str(listed), "--engine", "speech-clock"]
    command += ["--output-dir", str(output), "--max-batch-size", str(len(urls)), "--allow-private"]
    command += ["--timeline", str(svg)]
    began = time.monotonic()
    ended = subprocess.run(groups.command(groups.inner, *command), env=env, timeout=_OURS_TIMEOUT_SECONDS)
    seconds = time.monotonic() - began
    return Result(svg, len(list(output.iterdir())), ended.returncode, seconds, groups.oom_kills())


def _naive(urls: list[str], groups: Groups, work: Path, env: dict[str, str], ours: Result, svg: Path) -> Result:
    events, samples = work / "events.jsonl", Samples(_SAMPLE_SECONDS)
    events.touch()
    gauge = GroupGauge(V1 if groups.version == "v1" else V2, groups.inner, "naive", is_top=False)
    command = [sys.executable, "-m", "benchmarks.two_pictures", "--inside", str(events), *urls]
    began_at, began, is_late = time.gmtime(), time.monotonic(), False
    try:
        with subprocess.Popen(groups.command(groups.inner, *command), env=env) as process:
            while process.poll() is None:
                seconds = time.monotonic() - began
                gauge.refresh()
                used = gauge.term(gauge.usage_bytes()).used_bytes
                samples.add(Sample(seconds, used, gauge.limit_bytes))
                if is_late := seconds > max(ours.seconds, _LEAST_SECONDS):
                    break
                time.sleep(_SAMPLE_SECONDS)
            seconds = time.monotonic() - began
            groups.end_all()
    finally:
        gauge.close()
    kills = groups.oom_kills()
    labels = [label_of(url) for url in urls]
    jobs = _told(events, labels, began, seconds, "stopped" if is_late else "killed")
    if is_late:
        note = "It was stopped when the other one had long been done."
    else:
        note = f"The kernel killed {kills} process{'es' * (kills != 1)}, for want of memory." if kills else ""
    run = Run(
        f"pydub loads each file whole, {time.strftime('%Y-%m-%d %H:%M:%S', began_at)} UTC",
        seconds,
        tuple(samples.kept),
        samples.span_seconds,
        tuple(jobs.kept),
        endings=dict(jobs.endings),
        note=note,
    )
    axis = re.search(r'data-seconds="([0-9.]+)"', ours.svg.read_text())
    assert axis is not None
    svg.write_text(drawn(run, axes_of(run, float(axis[1]))))
    return Result(svg, jobs.endings.get("complete", 0), process.returncode, seconds, kills)


def _told(events: Path, labels: list[str], began: float, seconds: float, at_the_end: Ending) -> Jobs:
    """The jobs, from what they noted."""
    jobs = Jobs()
    running: dict[int, int] = {}
    phases: tuple[Phase, ...] = ("downloading", "transcribing")
    for text in events.read_text().splitlines():
        number, what, at = json.loads(text)
        if number not in running:
            running[number] = jobs.begin(labels[number - 1], at - began)
        if what in phases:
            jobs.enter(running[number], what, at - began)
        else:
            jobs.end(running[number], what, at - began)
            del running[number]
    for number in running.values():
        jobs.end(number, at_the_end, seconds)
    return jobs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--limit-mib", type=int, default=512)
    parser.add_argument("--folder", type=Path, default=_DOCS)
    parser.add_argument("--inside", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        naive(options.inside[1:], Path(options.inside[0]))
        return
    try:
        for result in measure(options.jobs, options.hours, options.limit_mib, options.folder):
            print(
                f"{result.svg.name:24} {result.done} of {options.jobs} done in {result.seconds:5.1f} s, ended with "
                f"{result.returncode}, {result.oom_kills} OOM kills",
                flush=True,
            )
    except GroupsUnavailableError as error:
        print(f"no groups of our own: {error}")
    print("load at the end:", *os.getloadavg())


if __name__ == "__main__":
    main()
