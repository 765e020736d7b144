"""A batch of long MP3s by URL, all at once, inside a real memory group, beside the same work without a limit.

    python -m benchmarks.batch_in_group [--jobs 12] [--hours 4] [--limit-mib 512 256] [--rounds 1]

The server is outside of the group, the spool on disk, the engine answers at once, nothing is stored. Each round has a
run without a limit, and then one with each of the limits. Printed of each: how many jobs are done, the wall time beside
that of the run without, the processor time, how often the engine was called (chunks are shorter where memory is short),
what the group had at most (with the pages of files, which fill it up), the most of it that was anonymous, how often it
was at its limit, and how many processes the kernel killed for that; then when each job was done, in seconds, and what
went wrong.

Groups take root; without it there is only the run without a limit.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import anyio
from tests.support.groups import Groups, GroupsUnavailableError, nested_groups

import memsafe_transcribe as mt
from benchmarks.loopback import loopback
from memsafe_transcribe._download.spool import is_memory

_TIMEOUT_SECONDS = 3600
_SAMPLE_SECONDS = 0.1
_WORDS_PER_SECOND = 2.5


@dataclass(frozen=True)
class Batch:
    """What the batch itself saw: calls of the engine, when each source was done, and what came of the others."""

    calls: int = 0
    done_seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """One run; without a limit, nothing is known of a group."""

    limit_mib: int | None
    returncode: int
    batch: Batch
    wall_seconds: float
    cpu_seconds: float
    peak_mib: float = 0.0
    anonymous_mib: float = 0.0
    times_at_limit: int = 0
    oom_kills: int = 0


async def host(jobs: int, hours: float, url: str, spool_dir: Path) -> Batch:
    """The batch itself."""
    admission = mt.AdmissionController(max_concurrent=jobs)
    policy = mt.UrlPolicy(allow_private=True)
    downloader = mt.SafeDownloader(policy=policy, admission=admission, spool_dir=spool_dir)
    calls = 0

    async def engine(chunk: mt.AudioChunk) -> str:
        nonlocal calls
        calls += 1
        return " ".join(["word"] * int(chunk.duration_seconds * _WORDS_PER_SECOND))

    transcriber = mt.ChunkedTranscriber(engine, admission=admission, downloader=downloader)
    batch, started = Batch(), time.monotonic()
    urls = [f"{url}{number}" for number in range(jobs)]
    async with mt.BatchTranscriber(transcriber, max_batch_size=jobs).run(urls) as outcomes:
        async for outcome in outcomes:
            if outcome.transcript is None:
                batch.errors.append(f"{outcome.source} after {outcome.attempts} attempts: {outcome.error!r}")
            elif abs(outcome.transcript.duration_seconds - hours * 3600) > 1:
                batch.errors.append(f"{outcome.source}: only {outcome.transcript.duration_seconds} s of it")
            else:
                batch.done_seconds.append(round(time.monotonic() - started, 1))
    return replace(batch, calls=calls)


def measure(jobs: int, hours: float, limits_mib: list[int]) -> Iterator[Run]:
    """A run without a limit, and one with each of these.

    Raises:
        GroupsUnavailableError: groups cannot be made here.
    """
    from tests.support.media import write_long_mp3  # it loads PyAV

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        assert not is_memory(folder), f"{folder} is in memory; TMPDIR names another"
        with loopback([write_long_mp3(folder / "long.mp3", hours * 3600)]) as url:
            for limit_mib in (None, *limits_mib):
                yield _run(jobs, hours, limit_mib, url, folder)


def _run(jobs: int, hours: float, limit_mib: int | None, url: str, folder: Path) -> Run:
    command = [sys.executable, "-m", "benchmarks.batch_in_group", "--jobs", str(jobs), "--hours", str(hours)]
    command += ["--inside", url, str(folder)]
    if limit_mib is None:
        return _timed(command, None, None, folder)
    limit_bytes = limit_mib * mt.MiB
    with nested_groups(outer_bytes=limit_bytes, inner_bytes=limit_bytes) as groups:
        return _timed(groups.command(groups.inner, *command), limit_mib, groups, folder)


def _timed(command: list[str], limit_mib: int | None, groups: Groups | None, folder: Path) -> Run:
    env = {**os.environ, "MEMSAFE_LEDGER_DIR": str(folder)}  # nobody else's work counts
    started, cpu_before, anonymous_bytes = time.monotonic(), _cpu_seconds(), 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        while process.poll() is None:
            if time.monotonic() - started > _TIMEOUT_SECONDS:
                process.kill()  # whatever it has started dies with it
            if groups is not None:
                anonymous_bytes = max(anonymous_bytes, groups.anonymous_bytes())
            time.sleep(_SAMPLE_SECONDS)
        assert process.stdout is not None
        said = process.stdout.read()
    return Run(
        limit_mib,
        process.returncode,
        Batch(**json.loads(said)) if said else Batch(),
        time.monotonic() - started,
        _cpu_seconds() - cpu_before,
        0.0 if groups is None else int(groups.peak_file.read_text()) / mt.MiB,
        anonymous_bytes / mt.MiB,
        0 if groups is None else groups.times_at_limit(),
        0 if groups is None else groups.oom_kills(),
    )


def _cpu_seconds() -> float:
    """Of all that has ended; decoding processes are counted with their host."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime


def line(run: Run, jobs: int, unlimited: Run) -> str:
    """One run, for people."""
    limit = "no limit" if run.limit_mib is None else f"{run.limit_mib} MiB"
    ratio = run.wall_seconds / unlimited.wall_seconds
    text = (
        f"{limit:8} {len(run.batch.done_seconds)} of {jobs} done, {run.wall_seconds:6.1f} s ({ratio:4.2f} of the time "
        f"without), {run.cpu_seconds:6.1f} s of processor, {run.batch.calls} calls"
    )
    if run.limit_mib is not None:
        text += (
            f", peak {run.peak_mib:5.1f} MiB ({run.anonymous_mib:5.1f} anonymous), at the limit {run.times_at_limit} "
            f"times, {run.oom_kills} OOM kills"
        )
    ending = [f"ended with {run.returncode}"] if run.returncode else []
    return "\n  ".join([text, f"done after {run.batch.done_seconds}", *run.batch.errors, *ending])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=12)
    parser.add_argument("--hours", type=float, default=4.0)
    parser.add_argument("--limit-mib", type=int, nargs="*", default=[512, 256])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        batch = anyio.run(host, options.jobs, options.hours, options.inside[0], Path(options.inside[1]))
        print(json.dumps(asdict(batch)))
        return
    try:
        for _ in range(options.rounds):
            unlimited = None
            for run in measure(options.jobs, options.hours, options.limit_mib):
                unlimited = unlimited or run
                print(line(run, options.jobs, unlimited), flush=True)
    except GroupsUnavailableError as error:
        print(f"no groups of our own: {error}")
    print("load at the end:", *os.getloadavg())


if __name__ == "__main__":
    main()
