"""Web requests, a nightly batch and a scheduler, in one process or several: together never above the limit.

    python schedules.py [--processes N]

Each process runs all three at once, against one admission for the whole container. The engine notes when each call
begins and ends; the parent reads all notes, and exits with 1 if more calls ran at once than there are slots, or more
memory was promised than the limit allows.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import wave
from array import array
from itertools import accumulate
from math import pi, sin
from pathlib import Path
from typing import Any

import anyio

import memsafe_transcribe as mt

SLOTS = 3
SCHEDULER_SLOTS = 1
CALL_SECONDS = 0.3
REQUESTS, NIGHTLY, PERIODIC = 6, 6, 3


class NotingEngine:
    """Takes a moment for each chunk, and notes it in a file that all processes append to."""

    capabilities = mt.Capabilities(max_chunk_seconds=60.0, cache_key="noting 1")

    def __init__(self, notes: Path, admission: mt.AdmissionController, kind: str) -> None:
        self._notes = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._admission = admission
        self._kind = kind

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> str:
        now = self._admission.statistics()
        self._note(1, now.reserved_bytes + now.others_reserved_bytes)
        await anyio.sleep(CALL_SECONDS)
        self._note(-1, 0)
        return f"{chunk.duration_seconds:.1f} seconds"

    def _note(self, step: int, reserved_bytes: int) -> None:
        note = {"at": time.monotonic(), "step": step, "reserved_bytes": reserved_bytes, "kind": self._kind}
        os.write(self._notes, (json.dumps(note) + "\n").encode())

    async def aclose(self) -> None:
        os.close(self._notes)


async def web_requests(transcriber: mt.ChunkedTranscriber) -> None:
    """What a web framework does: each request in a task of its own, all at once; its body is an upload."""
    async with anyio.create_task_group() as tasks:
        for number in range(REQUESTS):
            tasks.start_soon(transcriber.transcribe, io.BytesIO(tone(1.0 + number)))


async def nightly_batch(transcriber: mt.ChunkedTranscriber, nightly: list[Path]) -> None:
    """What a cron job does: a folder full of files, resumable by the transcriber's store."""
    async with mt.BatchTranscriber(transcriber, max_batch_size=5).run(nightly) as outcomes:
        async for outcome in outcomes:
            if outcome.error is not None:
                raise outcome.error


async def scheduler(transcriber: mt.ChunkedTranscriber, admission: mt.AdmissionController) -> None:
    """What a scheduler does: the same thing again and again, in a lane that can never take all slots."""
    admission.lane("scheduler", max_concurrent=SCHEDULER_SLOTS)
    async with transcriber, anyio.create_task_group() as tasks:  # the engine is open before any plan
        for number in range(PERIODIC):
            tasks.start_soon(periodic, transcriber, admission, tone(2.0 + number))


async def periodic(transcriber: mt.ChunkedTranscriber, admission: mt.AdmissionController, audio: bytes) -> None:
    """One piece of periodic work: it queues in its lane, and the transcription runs on what it holds."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        file.write(audio)
        file.flush()
        plan = await transcriber.plan(Path(file.name))
        async with admission.reserve(plan.peak_bytes, lane="scheduler") as reserved:
            await transcriber.transcribe(Path(file.name), reservation=reserved)


async def backend(folder: Path, nightly: list[Path]) -> None:
    """One process of the backend: everything goes through one admission, which all processes of the container share."""
    admission = mt.AdmissionController(max_concurrent=SLOTS)
    engines = {kind: NotingEngine(folder / "notes", admission, kind) for kind in ("web", "nightly", "scheduler")}
    store = mt.JobStore(folder / f"jobs-{os.getpid()}.sqlite")
    web, night, periodic_work = (
        mt.ChunkedTranscriber(engine, admission=admission, store=store if kind == "nightly" else None)
        for kind, engine in engines.items()
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(web_requests, web)
        tasks.start_soon(nightly_batch, night, nightly)
        tasks.start_soon(scheduler, periodic_work, admission)
    for engine in engines.values():
        await engine.aclose()


def tone(seconds: float) -> bytes:
    """A WAV file."""
    samples = array("h", (int(9000 * sin(2 * pi * 220 * index / 16_000)) for index in range(int(16_000 * seconds))))
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, 16_000, len(samples), "NONE", ""))
        out.writeframes(samples.tobytes())
    return file.getvalue()


def report(notes: list[dict[str, Any]], processes: int) -> int:
    """Print what was seen; 1 if it was too much at any moment."""
    notes.sort(key=lambda note: note["at"])
    peak_calls = max(accumulate(int(note["step"]) for note in notes))
    peak_scheduler = max(accumulate(int(note["step"]) for note in notes if note["kind"] == "scheduler"))
    peak_bytes = max(int(note["reserved_bytes"]) for note in notes)
    limit_bytes = mt.default_guard().room().largest_need_bytes
    calls = sum(note["step"] > 0 for note in notes)
    print(f"processes  {processes}, each with {REQUESTS} requests, a batch of {NIGHTLY}, and {PERIODIC} periodic works")
    print(f"calls      {calls} in all, at most {peak_calls} at once; there are {SLOTS} slots")
    print(f"scheduler  at most {peak_scheduler} at once; its lane has {SCHEDULER_SLOTS}")
    print(f"promised   at most {peak_bytes / mt.MiB:.0f} MiB at once; {limit_bytes / mt.MiB:.0f} MiB may be")
    is_kept = peak_calls <= SLOTS and peak_scheduler <= SCHEDULER_SLOTS and peak_bytes <= limit_bytes
    print("kept" if is_kept else "NOT kept")
    return 0 if is_kept else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # of a process of the backend
    options = parser.parse_args()
    if options.folder is not None:
        anyio.run(backend, options.folder, sorted(options.folder.glob("*.wav")))
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(NIGHTLY):
            (folder / f"{number}.wav").write_bytes(tone(3.0 + number))
        command = [sys.executable, __file__, "--folder", name]
        children = [subprocess.Popen(command) for _ in range(options.processes)]
        failed = [child.wait() for child in children]
        if any(failed):
            return 1
        return report([json.loads(line) for line in (folder / "notes").read_text().splitlines()], options.processes)


if __name__ == "__main__":
    sys.exit(main())
