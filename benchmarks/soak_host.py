"""The host of a soak: draws jobs and runs them; told what they are in `benchmarks.soak`.

python -m benchmarks.soak_host URL FOLDER SEED SECONDS        prints samples, and at the end what came of it
python -m benchmarks.soak_host URL FOLDER                     does one job, to be killed
"""

import contextlib
import json
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import psutil

import memsafe_transcribe as mt
from benchmarks.soak_server import GOOD_SECONDS
from memsafe_transcribe._memory.reading import resident_bytes

_AT_ONCE = 4
_WEIGHTS = {"good": 10, "bad": 6, "cancelled": 4, "crashed": 2, "killed": 1}
_CANCEL_WITHIN_SECONDS = 2.0
_SAMPLES = 360  # of an hour, one each ten seconds
_MAX_AUDIO_SECONDS = 3600.0
_MAX_BYTES = 16 * mt.MiB
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
        for part in range(1, _SAMPLES + 1):
            await anyio.sleep(max(0.0, began + seconds * part / _SAMPLES - time.monotonic()))
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
            if min(abs(transcript.duration_seconds - seconds) for seconds in GOOD_SECONDS) > 1:
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
        command = [sys.executable, "-m", "benchmarks.soak_host", url, str(self.folder)]
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


def main() -> None:
    url, folder = sys.argv[1], Path(sys.argv[2])
    if len(sys.argv) == 3:
        anyio.run(one_job, url, folder)
    else:
        anyio.run(Host(url, folder, int(sys.argv[3])).run, float(sys.argv[4]))


if __name__ == "__main__":
    main()
