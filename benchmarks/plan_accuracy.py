"""What `plan()` says beside what the job really adds: RssAnon + RssShmem over its processes, looked at every 10 ms.

    python -m benchmarks.plan_accuracy [HOURS ...]        (default: 0.17 1)

The host is a process of its own that has imported the library and is idle; its engine answers at once with 150 words a
minute. Each job runs in a fresh host. Printed are the plan, the highest figure that was seen, and plan / seen: from 1.0
to 1.15 is what was promised.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.long_files import FORMATS, write_long
from memsafe_transcribe._memory.reading import resident_bytes

_MIB = 1 << 20
_SAMPLE_SECONDS = 0.01
_HOST = """
import pathlib, sys
import anyio, memsafe_transcribe as mt
from tests.plugin.speech_clock import SpeechClock
[getattr(mt, name) for name in mt.__all__]

async def main():
    engine = SpeechClock()
    engine.capabilities = mt.Capabilities(
        max_chunk_seconds=300, timestamps="word", concurrency=int(sys.argv[2]), call_bytes_per_second=0
    )
    transcriber = mt.ChunkedTranscriber(engine, chunk_seconds=float(sys.argv[3]))
    print("idle", flush=True)
    await anyio.to_thread.run_sync(sys.stdin.readline)
    print((await transcriber.plan(pathlib.Path(sys.argv[1]))).peak_bytes, flush=True)
    await anyio.to_thread.run_sync(sys.stdin.readline)
    async with transcriber.stream(pathlib.Path(sys.argv[1])) as stream:
        async for segment in stream:
            pass

anyio.run(main)
"""


def added_bytes(audio: Path, concurrency: int = 1, chunk_seconds: float = 60.0) -> tuple[int, int]:
    """(the plan, the most that the job added) in a fresh host."""
    command = [sys.executable, "-c", _HOST, str(audio), str(concurrency), str(chunk_seconds)]
    with psutil.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout.readline() == "idle\n"
        idle = _resident_bytes(host)
        host.stdin.write("\n")
        host.stdin.flush()
        plan = int(host.stdout.readline())
        host.stdin.write("\n")
        host.stdin.flush()
        seen = idle
        while host.poll() is None:
            seen = max(seen, _resident_bytes(host))
            time.sleep(_SAMPLE_SECONDS)
        assert host.returncode == 0
    return plan, seen - idle


def _resident_bytes(host: psutil.Process) -> int:
    """A child that was just forked has its parent's memory until it is another program: that is not counted twice."""
    try:
        command = host.cmdline()
        children = [child for child in host.children(recursive=True) if child.cmdline() != command]
        return sum(resident_bytes(each.pid) for each in (host, *children))
    except psutil.Error:
        return 0


def main() -> None:
    lengths = [float(argument) for argument in sys.argv[1:]] or [1 / 6, 1.0]
    print(f"{'file':12} {'hours':>6} {'at once':>7} {'chunk s':>7} {'plan MiB':>9} {'seen MiB':>9} {'ratio':>6}")
    with tempfile.TemporaryDirectory() as name:
        for kind in FORMATS:
            for hours in lengths:
                audio = write_long(Path(name), kind, hours * 3600)
                for concurrency, chunk_seconds in ((1, 60.0), (3, 60.0), (1, 20.0)):
                    plan, seen = added_bytes(audio, concurrency, chunk_seconds)
                    figures = f"{concurrency:7} {chunk_seconds:7g} {plan / _MIB:9.1f} {seen / _MIB:9.1f}"
                    print(f"{kind:12} {hours:6.2f} {figures} {plan / seen:6.2f}", flush=True)


if __name__ == "__main__":
    main()
