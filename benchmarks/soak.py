"""Good, bad, cancelled and killed jobs, one after another for an hour in 256 MiB: does anything grow?.

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
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path

import anyio
import psutil
from tests.support.groups import GroupsUnavailableError, nested_groups
from tests.support.server import Exchange, Server

import memsafe_transcribe as mt
from memsafe_transcribe._memory.reading import resident_bytes

_AT_ONCE = 4
_SECONDS = (30.0, 60.0, 600.0)  # of the good ones
_WEIGHTS = {"good": 10, "bad": 6, "cancelled": 4, "crashed": 2, "killed": 1}
_CANCEL_WITHIN_SECONDS = 2.0
_PARTS = 360  # samples of a run; of an hour, one each ten seconds
_BOMB_SECONDS = 7200
_MAX_AUDIO_SECONDS = 3600.0
_MAX_BYTES = 16 * mt.MiB
_SHORTEST_SHARE = 1 / 6  # of the run, until all is warm
_AGE_SECONDS = 30.0  # after which the store forgets
_BAD: dict[str, tuple[type[Exception], ...]] = {
    "missing": (mt.HTTPStatusError, mt.KnownBadUrlError),
    "short": (mt.TruncatedDownloadError,),
    "slow": (mt.DownloadTimeoutError,),
    "silent": (mt.DownloadTimeoutError,),
    "endless": (mt.DownloadTooLargeError,),
    "private": (mt.UrlBlockedError,),
    "text": (mt.UnsupportedMediaError,),
    "bomb": (mt.AudioLimitError,),
    "noise": (mt.AudioDecodeError,),
}


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
        warm_seconds = self.samples[-1].seconds * _SHORTEST_SHARE
        warm = [(each.seconds, figure(each)) for each in self.samples if each.seconds >= warm_seconds]
        slopes = [(b - a) / (then - now) * 3600 for (now, a), (then, b) in combinations(warm, 2) if then > now]
        return statistics.median(slopes) if slopes else 0.0


# -- the server, which is not in the group


def serve(folder: Path) -> None:
    """Good files and bad manners; says its address, and ends when its stdin does."""
    good = [(folder / f"{seconds:g}.mp3").read_bytes() for seconds in _SECONDS]
    bomb, damaged = (folder / "bomb.flac").read_bytes(), (folder / "noise.wav").read_bytes()

    def number(exchange: Exchange) -> bytes:
        server.requests.clear()
        return b"%09d\n" % int(exchange.query)

    def tagged(exchange: Exchange) -> None:
        title = b"\0" + number(exchange)
        frame = b"TIT2" + len(title).to_bytes(4, "big") + b"\0\0" + title
        tag = b"ID3\3\0\0" + b"\0\0\0" + bytes([len(frame)]) + frame
        exchange.answer(tag + good[int(exchange.query) % len(good)])

    def short(exchange: Exchange) -> None:
        exchange.answer(good[0][:5000], Content_Length=str(len(good[0])))

    def endless(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        if not exchange.is_head:
            exchange.send_for_ever(bytes(65_536))

    def slow(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        if not exchange.is_head:
            exchange.drip_until_closed(b"\0", 0.2)

    with Server() as server:
        server.routes |= {
            "/good": tagged,
            "/short": short,
            "/slow": slow,
            "/silent": Exchange.hold_until_closed,
            "/endless": endless,
            "/private": lambda exchange: exchange.answer(status="302 Found", Location="http://169.254.169.254/latest"),
            "/text": lambda exchange: exchange.answer(b"It is not a sound.\n" * 99 + number(exchange)),
            "/bomb": lambda exchange: exchange.answer(bomb),
            "/noise": lambda exchange: exchange.answer(damaged + number(exchange)),
        }
        print(server.url(""), flush=True)
        sys.stdin.read()


# -- the host, which is


class Host:
    """Draws jobs and runs them, and remembers what came of them."""

    def __init__(self, url: str, folder: Path, seed: int) -> None:
        self.url, self.folder = url, folder
        self.draw = random.Random(seed)
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.jobs = 0

    async def run(self, seconds: float) -> None:
        """All of it; prints each sample, and at the end what came of the jobs and what is left."""
        ends_at = time.monotonic() + seconds
        async with transcribing(self.folder) as transcriber, anyio.create_task_group() as tasks:
            for _ in range(_AT_ONCE):
                tasks.start_soon(self._work, transcriber, ends_at)
            await self._watch(seconds)
        left = [f"child {child.pid}" for child in psutil.Process().children()]
        left += [f"file {path.name}" for path in self.folder.glob("memsafe-*") if path.is_file()]
        print(json.dumps({"outcomes": self.outcomes, "wrong": self.wrong, "left": left}), flush=True)

    async def _watch(self, seconds: float) -> None:
        began, itself = time.monotonic(), psutil.Process()
        for part in range(1, _PARTS + 1):
            await anyio.sleep(max(0.0, began + seconds * part / _PARTS - time.monotonic()))
            print(
                json.dumps(
                    {
                        "seconds": time.monotonic() - began,
                        "resident_mib": resident_bytes(itself.pid) / mt.MiB,
                        "descriptors": itself.num_fds(),
                        "threads": itself.num_threads(),
                        "jobs": self.jobs,
                    }
                ),
                flush=True,
            )

    async def _work(self, transcriber: mt.ChunkedTranscriber, ends_at: float) -> None:
        while time.monotonic() < ends_at:
            self.jobs += 1
            try:
                await self._job(transcriber, self.jobs)
            except mt.DecoderCrashedError:  # of whatever job, as `_crashed` cannot tell whose it is
                self.outcomes["crashed: DecoderCrashedError"] += 1
            except Exception as error:
                self.wrong.append(repr(error))

    async def _job(self, transcriber: mt.ChunkedTranscriber, number: int) -> None:
        [kind] = self.draw.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
        url = f"{self.url}/good?{number}"
        if kind == "bad":
            await self._bad(transcriber, number)
        elif kind == "killed":
            await self._killed(url)
        elif kind == "crashed":
            await self._crashed(transcriber, url)
        elif kind == "cancelled":
            with anyio.move_on_after(self.draw.uniform(0, _CANCEL_WITHIN_SECONDS)) as scope:
                await transcriber.transcribe(url)
            self.outcomes["cancelled: " + ("in time" if scope.cancelled_caught else "too late")] += 1
        else:
            transcript = await transcriber.transcribe(url)
            self.outcomes[f"good: {transcript.status}"] += 1
            if min(abs(transcript.duration_seconds - seconds) for seconds in _SECONDS) > 1:
                self.wrong.append(f"{url}: {transcript.duration_seconds} s of it")

    async def _bad(self, transcriber: mt.ChunkedTranscriber, number: int) -> None:
        name = self.draw.choice(list(_BAD))
        try:
            transcript = await transcriber.transcribe(f"{self.url}/{name}?{number}")
        except _BAD[name] as error:
            self.outcomes[f"bad, {name}: {type(error).__name__}"] += 1
        except Exception as error:
            self.wrong.append(f"{name}: {error!r}")
        else:
            self.wrong.append(f"{name}: {transcript.status}")

    async def _crashed(self, transcriber: mt.ChunkedTranscriber, url: str) -> None:
        """Kill some decoding process of this host's, be it this job's or that of another one."""

        async def kill() -> None:
            await anyio.sleep(self.draw.uniform(0.1, 0.5))
            decoders = [child for child in psutil.Process().children() if "soak" not in " ".join(_arguments(child))]
            for child in decoders[:1]:
                child.kill()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(kill)
            try:
                await transcriber.transcribe(url)
            except mt.DecoderCrashedError:
                self.outcomes["crashed: DecoderCrashedError"] += 1
            else:
                self.outcomes["crashed: not this one"] += 1

    async def _killed(self, url: str) -> None:
        command = [sys.executable, "-m", "benchmarks.soak", "--job", url, str(self.folder)]
        async with await anyio.open_process(command, stdout=None, stderr=None) as process:
            with anyio.move_on_after(self.draw.uniform(0.5, 3.0)) as scope:
                await process.wait()
            if scope.cancelled_caught:
                process.kill()
        self.outcomes["killed: " + ("in time" if scope.cancelled_caught else "too late")] += 1


def _arguments(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return ["soak"]


@asynccontextmanager
async def transcribing(folder: Path) -> AsyncIterator[mt.ChunkedTranscriber]:
    """As a host would set it up, with limits that a bad server meets within seconds."""
    store = mt.JobStore(folder / "jobs.sqlite")
    downloader = mt.SafeDownloader(
        max_bytes=_MAX_BYTES,
        policy=mt.UrlPolicy(allowed_networks=("127.0.0.0/8",)),
        failures=store,
        spool_dir=folder,
        read_timeout_seconds=2.0,
        low_speed_seconds=2.0,
        max_attempts=2,
    )
    async with (
        store,
        store.cleaning(
            every_seconds=10.0,
            finished_seconds=_AGE_SECONDS,
            unfinished_seconds=_AGE_SECONDS,
            failed_url_seconds=_AGE_SECONDS,
            spool_dir=folder,
        ),
        mt.ChunkedTranscriber(
            Engine(), store=store, downloader=downloader, max_audio_seconds=_MAX_AUDIO_SECONDS
        ) as transcriber,
    ):
        yield transcriber


class Engine:
    """Answers at once, with 150 words a minute."""

    capabilities = mt.Capabilities(max_chunk_seconds=60.0, cache_key="at once")

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        return mt.ChunkResult(text=" ".join(["word"] * int(chunk.duration_seconds * 2.5)))


async def one_job(url: str, folder: Path) -> None:
    """In a process of its own, which will be killed."""
    async with transcribing(folder) as transcriber:
        await transcriber.transcribe(url)


# -- the run


def measure(minutes: float, limit_mib: int, seed: int) -> Soak:
    """Run it.

    Raises:
        GroupsUnavailableError: groups cannot be made here.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_sources(folder)
        limit_bytes = limit_mib * mt.MiB
        with _served(folder) as url, nested_groups(outer_bytes=limit_bytes, inner_bytes=limit_bytes) as groups:
            command = [sys.executable, "-m", "benchmarks.soak", "--minutes", str(minutes), "--seed", str(seed)]
            command = groups.command(groups.inner, *command, "--inside", url, name)
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


def _write_sources(folder: Path) -> None:
    from tests.support.media import encode, write_long_mp3  # they load PyAV

    for seconds in _SECONDS:
        write_long_mp3(folder / f"{seconds:g}.mp3", seconds)
    encode(folder / "bomb.flac", "flac", bytes(_BOMB_SECONDS * 32_000), rate=16_000)
    (folder / "noise.wav").write_bytes(random.Random(7).randbytes(100_000))


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.soak", "--serve", str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.stdin.close()


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
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--job", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    if options.job:
        anyio.run(one_job, options.job[0], Path(options.job[1]))
        return
    if options.inside:
        host = Host(options.inside[0], Path(options.inside[1]), options.seed)
        anyio.run(host.run, options.minutes * 60)
        return
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
