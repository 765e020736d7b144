"""The FastAPI example under load: uvicorn's workers in one real memory group, and clients who come back when told to.

    python -m benchmarks.fastapi_in_group [--requests 50] [--seconds 3600] [--limit-mib 512] [--workers 4]

All requests come at once, every second one as an upload, the others by URL; each is for an MP3 of its own. The clients
and the server of the URLs are outside of the group; spool and store are on disk, and the engine answers at once. A
client that gets a 503 comes back after the seconds that it names. Printed: how many transcripts came out whole, how
many 503s were given, and what the group had at most; whether the kernel killed anything, whether a worker was replaced,
and every answer that was neither a transcript nor a 503 with its time. It exits with 1 if there was any of that.

Groups take root.
"""

import argparse
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import httpx
from tests.support.groups import nested_groups
from tests.support.service import serving

import memsafe_transcribe as mt
from benchmarks.loopback import loopback
from memsafe_transcribe._download.spool import is_memory

_TIMEOUT_SECONDS = 3600
_SAMPLE_SECONDS = 0.1
_PIECE_BYTES = 256 * 1024


@dataclass
class Load:
    """What the clients saw.

    Attributes:
        done: transcripts of the whole file.
        refused: answers that were a 503 with its time.
        tries: how many each transcript took, counted.
        wrong: everything else.
    """

    done: int = 0
    refused: int = 0
    tries: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """One load on one service.

    Attributes:
        started: processes that have served, those that replaced others included.
        log: what the service said, but for the lines of requests.
    """

    load: Load
    wall_seconds: float
    peak_mib: float
    anonymous_mib: float
    times_at_limit: int
    oom_kills: int
    workers: int
    started: int
    log: list[str]

    @property
    def is_kept(self) -> bool:
        """Whether everything was as promised."""
        return not self.load.wrong and not self.oom_kills and self.started == self.workers


async def load(base_url: str, files_url: str, file: Path, requests: int, seconds: float) -> Load:
    """All requests at once, each until it has its transcript."""
    seen, path = Load(), "/v1/transcripts"
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=base_url, timeout=None, limits=limits) as client:

        async def ask(number: int) -> None:
            tries, is_refused = 0, True
            while is_refused:
                tries += 1
                if number % 2:
                    response = await client.get(path, params={"url": f"{files_url}{number}"})
                else:
                    response = await client.post(path, content=_tagged(file, number))
                is_refused = response.status_code == 503 and response.headers.get("retry-after", "").isdigit()
                if is_refused:
                    seen.refused += 1
                    await anyio.sleep(int(response.headers["retry-after"]))
            if response.status_code == 200 and abs(response.json()["duration"] - seconds) < 1:
                seen.done += 1
                seen.tries[tries] += 1
            else:
                seen.wrong.append(f"{number}: {response.status_code} {response.text[:300]}")

        async def try_to_ask(number: int) -> None:
            try:
                await ask(number)
            except httpx.HTTPError as error:
                seen.wrong.append(f"{number}: {error!r}")

        with anyio.fail_after(_TIMEOUT_SECONDS):
            async with anyio.create_task_group() as tasks:
                for number in range(requests):
                    tasks.start_soon(try_to_ask, number)
    return seen


async def _tagged(file: Path, number: int) -> AsyncIterator[bytes]:
    """The file, made different from all others at its end, as the server of the URLs does."""
    async with await anyio.open_file(file, "rb") as opened:
        while piece := await opened.read(_PIECE_BYTES):
            yield piece
    yield b"TAG%-125d" % number


def measure(requests: int, seconds: float, limit_mib: int, workers: int) -> Run:
    """One load in a group of its own.

    Raises:
        GroupsUnavailableError: groups cannot be made here.
    """
    from tests.support.media import write_long_mp3  # it loads PyAV

    limit_bytes, anonymous_bytes, over = limit_mib * mt.MiB, 0, threading.Event()
    command = ("python", "-m", "uvicorn", "app:app", "--no-access-log", "--workers", str(workers))
    with (
        tempfile.TemporaryDirectory() as name,
        nested_groups(outer_bytes=limit_bytes, inner_bytes=limit_bytes) as groups,
    ):
        folder = Path(name)
        assert not is_memory(folder), f"{folder} is in memory; TMPDIR names another"
        file = write_long_mp3(folder / "long.mp3", seconds)

        def sample() -> None:
            nonlocal anonymous_bytes
            while not over.wait(_SAMPLE_SECONDS):
                anonymous_bytes = max(anonymous_bytes, groups.anonymous_bytes())

        sampler = threading.Thread(target=sample)
        sampler.start()
        try:
            into_group = groups.command(groups.inner)
            with (
                loopback([file]) as files_url,
                serving(folder, command, workers=workers, prefix=into_group) as served,
            ):
                started = time.monotonic()
                seen = anyio.run(load, served.url, files_url, file, requests, seconds)
                wall_seconds = time.monotonic() - started
        finally:
            over.set()
            sampler.join()
        return Run(
            seen,
            wall_seconds,
            int(groups.peak_file.read_text()) / mt.MiB,
            anonymous_bytes / mt.MiB,
            groups.times_at_limit(),
            groups.oom_kills(),
            workers,
            served.count("Started server process"),
            served.log,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--limit-mib", type=int, default=512)
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    run = measure(options.requests, options.seconds, options.limit_mib, options.workers)
    print(
        f"{run.load.done} of {options.requests} transcripts in {run.wall_seconds:.0f} s, after {run.load.refused} "
        f"times 503 (tries: {dict(sorted(run.load.tries.items()))})"
    )
    print(
        f"peak {run.peak_mib:.1f} of {options.limit_mib} MiB ({run.anonymous_mib:.1f} anonymous), at the limit "
        f"{run.times_at_limit} times, {run.oom_kills} OOM kills, {run.started} workers started"
    )
    print(*run.load.wrong, "load at the end:", *os.getloadavg(), sep="\n")
    return 0 if run.is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
