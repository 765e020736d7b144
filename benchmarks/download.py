"""A download from nginx on loopback to disk, beside curl, requests and a plain httpx loop in the same run.

    python -m benchmarks.download [--rounds N] [--mib SIZE]        (default: 5 rounds of 1024 MiB)

Each line is the median over the rounds, in which all take turns; the ratio is that of ours to the peer in the same
round, with its range. Ours has everything on: the policy, HEAD, the cap, SHA-256. Time is that of the download alone,
in a process that has imported what it needs; of curl, that of the whole process. Peak is what RSS rose to above idle.

Last, ours in a memory group that is 64 MiB above the idle process (as root, where such groups can be made): the file's
own pages that wait for the disk must not fill it.

Needs nginx, curl and requests.
"""

import argparse
import importlib
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
from tests.support.groups import Groups, GroupsUnavailableError, nested_groups

import memsafe_transcribe as mt

_PORT = 18_437
_URL = f"http://127.0.0.1:{_PORT}/body.bin"
_GROUP_BYTES = 64 * mt.MiB


def ours(folder: Path, backend: str) -> None:
    async def main() -> None:
        policy = mt.UrlPolicy(allow_private=True)
        downloader = mt.SafeDownloader(policy=policy, spool_dir=folder, max_bytes=1 << 40)
        async with downloader.fetch(_URL) as file:
            assert file.sha256

    anyio.run(main, backend=backend)


def plain_httpx(folder: Path, backend: str) -> None:
    import httpx

    async def main() -> None:
        with (folder / "httpx.bin").open("wb") as file:
            async with httpx.AsyncClient() as client, client.stream("GET", _URL) as response:
                async for part in response.aiter_raw():
                    file.write(part)

    anyio.run(main, backend=backend)


def plain_requests(folder: Path, _: str) -> None:
    import requests

    with requests.get(_URL, stream=True, timeout=30) as response, (folder / "requests.bin").open("wb") as file:
        for part in response.iter_content(1 << 20):
            file.write(part)


CONTENDERS: dict[str, tuple[Callable[[Path, str], None], str]] = {
    "ours, asyncio": (ours, "asyncio"),
    "ours, trio": (ours, "trio"),
    "httpx aiter_raw, asyncio": (plain_httpx, "asyncio"),
    "requests": (plain_requests, "asyncio"),
}


def status_bytes(name: str) -> int:
    """A size of this process, such as VmRSS."""
    found = re.search(rf"^{name}:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def inside(name: str, folder: Path) -> None:
    """In a process of its own: be idle, wait to be told, download once, say the seconds and the rise of RSS."""
    download, backend = CONTENDERS[name]
    for module in ("httpx", "requests", "trio"):
        importlib.import_module(module)
    [getattr(mt, each) for each in mt.__all__]
    anyio.run(anyio.lowlevel.checkpoint, backend=backend)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    idle = status_bytes("VmRSS")
    print("idle", flush=True)
    sys.stdin.readline()
    started = time.perf_counter()
    download(folder, backend)
    print(time.perf_counter() - started, status_bytes("VmHWM") - idle, flush=True)


@contextmanager
def started(name: str, folder: Path, groups: Groups | None = None) -> Iterator[Callable[[], tuple[float, int]]]:
    """A process that is idle; call what this gives to let it download: seconds, and bytes that RSS rose by."""
    command = [sys.executable, "-m", "benchmarks.download", "--inside", name, str(folder)]
    if groups is not None:
        command = groups.command(groups.inner, *command)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "idle\n"

        def go() -> tuple[float, int]:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write("go\n")
            child.stdin.flush()
            seconds, rise = child.stdout.readline().split()
            return float(seconds), int(rise)

        yield go
    assert child.returncode == 0, f"{name} ended with {child.returncode}"


def curl(folder: Path) -> float:
    start = time.perf_counter()
    subprocess.run(["curl", "--silent", "--fail", "--output", str(folder / "curl.bin"), _URL], check=True)
    return time.perf_counter() - start


@contextmanager
def nginx(folder: Path, mib: int) -> Iterator[None]:
    """Serve a file of so many MiB."""
    (folder / "www").mkdir()
    with (folder / "www/body.bin").open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(1 << 20))
    (folder / "nginx.conf").write_text(f"""
        user root; worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log stderr crit;
        events {{ worker_connections 64; }}
        http {{ access_log off; sendfile on; server {{ listen 127.0.0.1:{_PORT}; root {folder}/www; }} }}
    """)
    server = subprocess.Popen(["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")])
    try:
        while subprocess.run(["curl", "-sfI", "-o", os.devnull, _URL]).returncode:
            assert server.poll() is None, "nginx did not start"
        yield
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def compare(folder: Path, rounds: int, mib: int) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in ("curl", *CONTENDERS)}
    rises: dict[str, list[int]] = {name: [] for name in CONTENDERS}
    for number in range(rounds):
        names = list(seconds)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            if name == "curl":
                seconds[name].append(curl(folder))
            else:
                with started(name, folder) as go:
                    took, rise = go()
                seconds[name].append(took)
                rises[name].append(rise)
            for left in folder.glob("*.bin"):
                left.unlink()
    print(f"{mib} MiB, median of {rounds} rounds")
    for name, times in seconds.items():
        ratios = sorted(mine / other for mine, other in zip(seconds["ours, asyncio"], times, strict=True))
        peak = f"peak {statistics.median(rises[name]) / mt.MiB:5.1f} MiB above idle" if name in rises else ""
        print(
            f"{name:26} {mib / statistics.median(times):6.0f} MiB/s   ours takes {statistics.median(ratios):4.2f} "
            f"of its time ({ratios[0]:.2f} to {ratios[-1]:.2f})   {peak}",
            flush=True,
        )


def in_a_small_group(folder: Path, mib: int) -> None:
    try:
        with nested_groups(outer_bytes=1 << 40, inner_bytes=1 << 40) as groups:
            for name in ("ours, asyncio", "ours, trio"):
                with started(name, folder, groups) as go:
                    usage_file = groups.limit_file.with_name(
                        "memory.usage_in_bytes" if groups.version == "v1" else "memory.current"
                    )
                    limit = int(usage_file.read_text()) + _GROUP_BYTES
                    groups.limit_file.write_text(str(limit))
                    took, rise = go()
                print(
                    f"{name}, in a group of {limit // mt.MiB} MiB, 64 above idle: {mib / took:.0f} MiB/s, "
                    f"peak {rise / mt.MiB:.1f} MiB above idle"
                )
                groups.limit_file.write_text(str(1 << 40))
    except GroupsUnavailableError as error:
        print(f"no groups of our own: {error}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        inside(options.inside[0], Path(options.inside[1]))
        return
    if missing := [name for name in ("nginx", "curl") if shutil.which(name) is None]:
        parser.error(f"not installed: {', '.join(missing)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        with nginx(folder, options.mib):
            spool = folder / "spool"
            spool.mkdir()
            compare(spool, options.rounds, options.mib)
            in_a_small_group(spool, options.mib)


if __name__ == "__main__":
    main()
