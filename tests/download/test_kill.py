"""A download is killed at whatever instruction: the space that it took is free again."""

import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio
import pytest

import memsafe_transcribe as mt

from ..support.needs import tmpfs
from ..support.server import Exchange, Server

KILLS = 200
_BODY = random.Random(24).randbytes(3 * mt.MiB)
_LAG_SECONDS = 1.0  # of the kernel, at most
_LONGEST_SECONDS = 0.06  # a whole download takes about half of that
_WAIT_SECONDS = 30.0


def half_then_whole(exchange: Exchange) -> None:
    """Every other body breaks off, so that some are killed as they continue."""
    data = _BODY
    head = f'HTTP/1.1 200 OK\r\nETag: "a"\r\nContent-Length: {len(_BODY)}\r\n\r\n'
    if exchange.headers.get("range") == f"bytes={len(_BODY) // 2}-":
        data = _BODY[len(_BODY) // 2 :]
        head = (
            f'HTTP/1.1 206 Partial Content\r\nETag: "a"\r\nContent-Length: {len(data)}\r\n'
            f"Content-Range: bytes {len(_BODY) // 2}-{len(_BODY) - 1}/{len(_BODY)}\r\n\r\n"
        )
    elif "half" in exchange.query:
        data = data[: len(_BODY) // 2]
    exchange.send(head.encode())
    if not exchange.is_head:
        exchange.send(data)


@contextmanager
def nursery(environment: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    """A process that has imported everything, and forks a victim for each line that it reads."""
    command = [sys.executable, "-m", __name__]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, env={**os.environ, **environment}) as process:  # type: ignore[call-overload]
        yield process
        process.stdin.close()
        process.wait(_WAIT_SECONDS)


@pytest.mark.parametrize("query", ["whole", "half"])
def test_two_hundred_kills_leave_no_space_taken(server: Server, tmp_path: Path, query: str) -> None:
    """At random moments of downloading and continuing, each time by SIGKILL; half of the kills for each query."""
    server.routes["/"] = half_then_whole
    seed = random.randrange(1 << 32)
    moments = random.Random(seed)
    with tmpfs(tmp_path / "spool", "size=64m") as spool_dir, nursery({"TMPDIR": str(spool_dir)}) as process:
        before = os.statvfs(spool_dir)
        saw_space_taken = 0
        for kill in range(KILLS // 2):
            print(f"{server.url('/')}?{query}", file=process.stdin, flush=True)
            assert process.stdout is not None
            pidfd = os.pidfd_open(int(process.stdout.readline()))
            try:
                select.select([pidfd], [], [], moments.uniform(0, _LONGEST_SECONDS))
                saw_space_taken += os.statvfs(spool_dir).f_bfree < before.f_bfree
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                assert select.select([pidfd], [], [], _WAIT_SECONDS)[0]
            finally:
                os.close(pidfd)
            give_up = time.monotonic() + _LAG_SECONDS
            after = os.statvfs(spool_dir)
            while _free(after) != _free(before) and time.monotonic() < give_up:  # the kernel may be a moment behind
                os.sched_yield()
                after = os.statvfs(spool_dir)
            # What nobody holds is free, or will be when the kernel has come to it.
            assert _free(after) == _free(before) or not (held := _held_on(spool_dir)), (seed, kill, held)
        assert list(spool_dir.iterdir()) == []
        assert saw_space_taken > KILLS // 50, "it was killed too early, or too late"


def _free(found: os.statvfs_result) -> tuple[int, int]:
    return found.f_bfree, found.f_ffree


def _held_on(folder: Path) -> list[str]:
    """Which descriptors and mappings of all processes are of files on its file system, and whose they are."""
    device, held = folder.stat().st_dev, []
    for kind in ("fd", "map_files"):
        for link in Path("/proc").glob(f"[0-9]*/{kind}/*"):
            with suppress(OSError):
                if link.stat().st_dev == device:
                    held.append(f"{link} {link.readlink()} {(link.parents[1] / 'cmdline').read_bytes()!r}")
    return held


async def _download_for_ever(url: str) -> None:
    downloader = mt.SafeDownloader(policy=mt.UrlPolicy(allow_private=True))
    while True:
        async with downloader.fetch(url):
            pass


def _nurse() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    assert all(getattr(mt, name) for name in mt.__all__)
    anyio.run(anyio.lowlevel.checkpoint)
    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            anyio.run(_download_for_ever, line.strip())
            os._exit(0)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _nurse()
