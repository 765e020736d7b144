"""What the tests have actors of Ray make: engines that note in a folder what they are asked, and end where told to."""

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import ray

import memsafe_transcribe as mt

from ..store.engines import Teller

CHUNK_SECONDS = 1.0


def note(folder: Path, number: int, chunk: mt.AudioChunk) -> None:
    """Write down that a chunk was asked for, and how much its process uses of which limit."""
    with (folder / "asked").open("a") as file:
        file.write(f"{chunk.start_seconds:.2f}\n")
    guard = mt.default_guard()
    snapshot, room = guard.snapshot(), guard.room()
    with (folder / "memory").open("a") as file:
        file.write(f"{snapshot.used_bytes} {room.largest_need_limit.source} {room.largest_need_limit.limit_bytes}\n")


async def stay(folder: Path, number: int, chunk: mt.AudioChunk) -> None:
    """At a chunk in the middle, say which process this is, and stay there; the first time."""
    note(folder, number, chunk)
    if chunk.start_seconds > 2.5 and not (folder / "stopped").exists():
        (folder / "pid").write_text(str(os.getpid()))
        (folder / "pid").rename(folder / "stopped")
        await anyio.sleep_forever()


def end(folder: Path, number: int, chunk: mt.AudioChunk) -> None:
    """End this process, as an engine can that runs in it."""
    note(folder, number, chunk)
    os.kill(os.getpid(), signal.SIGKILL)


def quota(folder: Path, number: int, chunk: mt.AudioChunk) -> Exception:
    """There is none left."""
    return mt.TranscriberQuotaError("no more today")


class Talker(Teller):
    """An engine that says a mebibyte for each chunk, with what UTF-8 cannot say."""

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        await super().transcribe(chunk, context)
        return mt.ChunkResult(text="\udcff" + "x" * mt.MiB)


def telling(
    folder: Path, before: Any = note, kind: type[Teller] = Teller, **capabilities: Any
) -> mt.ChunkedTranscriber:
    """A transcriber whose engine tells chunks apart, with a store, that may ask loopback."""
    return mt.ChunkedTranscriber(
        kind(before=partial(before, folder), **capabilities),
        chunk_seconds=CHUNK_SECONDS,
        downloader=mt.SafeDownloader(policy=mt.UrlPolicy(allow_private=True)),
        store=mt.JobStore(folder / "jobs.sqlite"),
    )


def of_node(folder: Path) -> mt.ChunkedTranscriber:
    """One whose store lies on a disk of its node's own, as it were; it stays at a chunk."""
    disk = folder / ray.get_runtime_context().get_node_id()
    disk.mkdir(exist_ok=True)
    return mt.ChunkedTranscriber(
        Teller(before=partial(stay, folder)), chunk_seconds=CHUNK_SECONDS, store=mt.JobStore(disk / "jobs.sqlite")
    )


def strict(folder: Path) -> mt.ChunkedTranscriber:
    """One that may not ask loopback."""
    return mt.ChunkedTranscriber(
        Teller(before=partial(note, folder)), chunk_seconds=CHUNK_SECONDS, store=mt.JobStore(folder / "jobs.sqlite")
    )


def of_its_own(folder: Path) -> mt.ChunkedTranscriber:
    """One that an actor's limit would not hold for."""
    return mt.ChunkedTranscriber(
        Teller(), admission=mt.AdmissionController(scope="process"), store=mt.JobStore(folder / "jobs.sqlite")
    )


def without_store(folder: Path) -> mt.ChunkedTranscriber:
    """One that keeps nothing."""
    return mt.ChunkedTranscriber(Teller())


def without_cache_key(folder: Path) -> mt.ChunkedTranscriber:
    """One of whose answers nothing can be kept."""
    return mt.ChunkedTranscriber(lambda chunk: "hello", store=mt.JobStore(folder / "jobs.sqlite"))
