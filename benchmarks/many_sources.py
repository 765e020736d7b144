"""A batch of very many short sources: what the host's memory and the cost of a source come to, and what cleanup leaves.

    python -m benchmarks.many_sources [--sources 10000] [--isolation process|thread]

The sources are MP3s of half a second to a second, each of other bytes, by URL from a loopback server; the engine
answers at once; the store is on disk. Printed for each tenth of them: what the host's process has of RssAnon and
RssShmem at its end, and of one source the wall time, and the processor time of the host and of its decoding processes.
Then how far the memory rose from the 100th to the last, and the database's size before and after
`cleanup(finished_seconds=0)`.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import anyio

import memsafe_transcribe as mt
from benchmarks.loopback import loopback
from memsafe_transcribe._audio.decoder import Isolation
from memsafe_transcribe._memory.reading import resident_bytes

_TONE_SECONDS = (0.5, 0.6, 0.75, 0.9, 1.0)
_WARM_AT = 100  # by then all is loaded, and each kind of source was met


@dataclass(frozen=True)
class Row:
    """What was found once so many sources were done; the costs are of one source, since the row before."""

    done: int
    resident_mib: float
    wall_ms: float
    host_cpu_ms: float
    decoder_cpu_ms: float


@dataclass(frozen=True)
class Report:
    """What a batch came to."""

    rows: list[Row]
    database_mib: float
    cleaned_mib: float
    cleanup_seconds: float
    jobs_removed: int

    @property
    def rise_mib(self) -> float:
        """Of the memory, from the first row that counts."""
        warm = [row.resident_mib for row in self.rows if row.done >= min(_WARM_AT, self.rows[-1].done)]
        return max(warm) - warm[0]


class Engine:
    """Answers at once."""

    capabilities = mt.Capabilities(max_chunk_seconds=60.0, cache_key="at once")

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        return mt.ChunkResult(text="a tone")


def measure(sources: int, isolation: Isolation, on_row: Callable[[Row], object] = lambda row: None) -> Report:
    """Run the batch in a fresh process."""
    from tests.support.media import write_encoded  # it loads PyAV

    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tones = [write_encoded(folder / f"{seconds}.mp3", "mp3", seconds) for seconds in _TONE_SECONDS]
        with loopback(tones) as url:
            command = [sys.executable, "-m", "benchmarks.many_sources", "--sources", str(sources)]
            command += ["--isolation", isolation, "--inside", url, name]
            env = {**os.environ, "MEMSAFE_LEDGER_DIR": name}  # nobody else's work counts
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
                assert process.stdout is not None
                for line in process.stdout:
                    found = json.loads(line)
                    if "done" in found:
                        rows.append(Row(**found))
                        on_row(rows[-1])
    assert process.returncode == 0, f"the batch ended with {process.returncode}"
    return Report(rows, **found)


async def host(sources: int, isolation: Isolation, url: str, folder: Path) -> None:
    """The batch itself: prints each row, and then what else there is in a report."""
    store = mt.JobStore(folder / "jobs.sqlite")
    downloader = mt.SafeDownloader(policy=mt.UrlPolicy(allow_private=True), failures=store, spool_dir=folder)
    transcriber = mt.ChunkedTranscriber(Engine(), store=store, downloader=downloader, isolation=isolation)
    async with store:
        async for row in _rows(mt.BatchTranscriber(transcriber), sources, url):
            print(json.dumps(asdict(row)), flush=True)
        before_mib = _size_mib(store.path)
        started = time.perf_counter()
        cleanup = await store.cleanup(finished_seconds=0, spool_dir=folder)
        rest = {"database_mib": before_mib, "cleaned_mib": _size_mib(store.path), "jobs_removed": cleanup.jobs}
        print(json.dumps({**rest, "cleanup_seconds": time.perf_counter() - started}))


async def _rows(batch: mt.BatchTranscriber, sources: int, url: str) -> AsyncGenerator[Row]:
    looks = {min(_WARM_AT, sources), *(sources * tenth // 10 for tenth in range(1, 11))}
    done, before, before_ms = 0, 0, _clocks_ms()
    async with batch.run(f"{url}{number}" for number in range(sources)) as outcomes:
        async for outcome in outcomes:
            if outcome.error is not None:
                raise outcome.error
            done += 1
            if done in looks:
                now_ms = _clocks_ms()
                costs = [(now - then) / (done - before) for now, then in zip(now_ms, before_ms, strict=True)]
                yield Row(done, resident_bytes(os.getpid()) / mt.MiB, *costs)
                before, before_ms = done, now_ms


def _clocks_ms() -> tuple[float, float, float]:
    """Of the wall, of this process, and of its children that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() * 1000, time.process_time() * 1000, (ended.ru_utime + ended.ru_stime) * 1000


def _size_mib(path: Path) -> float:
    return sum(each.stat().st_size for each in (path, Path(f"{path}-wal")) if each.exists()) / mt.MiB


def _show(row: Row) -> None:
    costs = f"{row.wall_ms:8.1f} {row.host_cpu_ms:12.1f} {row.decoder_cpu_ms:15.1f}"
    print(f"{row.done:8} {row.resident_mib:13.1f} {costs}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", type=int, default=10_000)
    parser.add_argument("--isolation", choices=get_args(Isolation), default="process")
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        anyio.run(host, options.sources, options.isolation, options.inside[0], Path(options.inside[1]))
        return
    print(f"{'sources':>8} {'resident MiB':>13} {'wall ms':>8} {'host CPU ms':>12} {'decoder CPU ms':>15}")
    report = measure(options.sources, options.isolation, _show)
    print(f"memory rose by {report.rise_mib:.1f} MiB")
    print(
        f"database {report.database_mib:.1f} MiB, after cleanup {report.cleaned_mib:.2f}: {report.jobs_removed} jobs "
        f"removed in {report.cleanup_seconds:.1f} s"
    )
    print("load at the end:", *os.getloadavg())


if __name__ == "__main__":
    main()
