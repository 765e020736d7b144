"""What chunks in flight add to a process of its own: `gemini_child ENGINE URL SECONDS COUNT OPTIONS`."""

import gc
import json
import sys
import threading
from pathlib import Path
from typing import Any

import memsafe_transcribe as mt

from .gemini_server import ENGINES, KEY, MODEL, chunk_of


def status_bytes(name: str) -> int:
    """A figure of /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def main(name: str, url: str, seconds: str, count: str, options: str) -> None:
    """Print what import and first use added, and then at the peak, chunks included, so many calls at once."""
    idle_bytes = status_bytes("RssAnon")
    engine: Any = ENGINES[name](MODEL, api_key=KEY, base_url=url, timeout_seconds=30, **json.loads(options))
    engine.transcribe(chunk_of(1.0), mt.ChunkContext())
    gc.collect()
    resident_bytes = status_bytes("RssAnon") - idle_bytes
    chunks = [chunk_of(float(seconds), index) for index in range(int(count))]
    threads = [threading.Thread(target=engine.transcribe, args=(chunk, mt.ChunkContext())) for chunk in chunks]
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew: no peak is missed, however short
    before_bytes = status_bytes("VmHWM")
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    encoded_bytes = sum(len(chunk.data) for chunk in chunks)
    added_bytes = status_bytes("VmHWM") - before_bytes + encoded_bytes
    declared_bytes = sum(engine.capabilities.memory_bytes(chunk.duration_seconds) for chunk in chunks) + encoded_bytes
    figures = {
        "resident_bytes": resident_bytes,
        "declared_resident_bytes": engine.capabilities.resident_bytes,
        "added_bytes": added_bytes,
        "encoded_bytes": encoded_bytes,
        "declared_bytes": declared_bytes,
    }
    sys.stdout.write(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
