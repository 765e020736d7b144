"""Downloads and uploads."""

import os
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any
from unittest.mock import patch

import anyio
import anyio.lowlevel

import memsafe_transcribe as mt
from memsafe_transcribe._download import publishing, resolving, writeback
from memsafe_transcribe.testing import FakeGuard

from ...admission.room import told
from ...support.downloads import BODY
from ..cases import case, given_back, pieces
from ..place import ANY, Place, wav


@case()
async def download(place: Place) -> None:
    """HEAD, a redirect, a body that breaks off, its continuation by Range, `save_as`, and what is there replaced."""
    async with place.downloader().fetch(f"{place.url}/") as file:
        await file.save_as(place.saved / "file")
        assert (place.saved / "file").read_bytes() == BODY
        await file.save_as(place.saved / "file")


@case()
async def download_twice(place: Place) -> None:
    """A second task waits for the first to find out about the URL."""
    downloader = place.downloader()

    async def one() -> None:
        async with downloader.fetch(f"{place.url}/url.wav") as file:
            assert file.size_bytes == len(wav(2.2, 500))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one)
        tasks.start_soon(one)


@case()
async def upload(place: Place) -> None:
    """A request's body as a file, with a pause in it."""
    async with place.downloader().receive(pieces(BODY[:200_000])) as file:
        assert file.path.read_bytes() == BODY[:200_000]


@case()
async def probe(place: Place) -> None:
    """HEAD alone."""
    found = await place.downloader().probe(f"{place.url}/url.wav")
    place.told.append("error" if found.size_bytes is None else "known")  # of a HEAD that fails, nothing is made


@case()
async def download_with_names(place: Place) -> None:
    """Where the system knows no files without a name, for the spool and for what is published."""
    left = place.saved / publishing._Target(0, "file").slots[1]  # noqa: SLF001 - by one that was killed
    left.touch()
    try:
        with patch.object(publishing, "_O_TMPFILE", 0):
            await download(place)
            async with place.downloader().fetch(f"{place.url}/url.wav"):
                pass
            await place.job_store().cleanup(spool_dir=place.spool)
    finally:
        left.unlink(missing_ok=True)


@case()
async def download_gzip(place: Place) -> None:
    """Unpacked as it comes, of unknown length."""
    async with place.downloader(allow_gzip=True).fetch(f"{place.url}/packed") as file:
        assert file.path.read_bytes() == BODY[:400_000]


@case()
async def download_fails(place: Place) -> None:
    """A URL that is not there is remembered in the store, and forgotten when it is."""
    store = place.job_store()
    downloader = place.downloader(failures=store)
    for path in ("/missing.wav", "/missing.wav", "/late.wav", "/late.wav"):
        try:
            async with downloader.fetch(f"{place.url}{path}", ask_anyway=path == "/late.wav"):
                pass
        except mt.DownloadError:
            place.told.append("error")
    place.told.append(str(await store.find(f"{place.url}/missing.wav") is not None))


@case()
async def download_behind_a_long_header(place: Place) -> None:
    """More is sent than the system takes at once."""
    async with place.downloader().fetch(f"{place.url}/url.wav", headers={"X-Long": "x" * 8_000_000}) as file:
        assert file.size_bytes


@case()
async def downloads_in_memory(place: Place) -> None:
    """The spool is memory, and there is not enough for both: the newer one makes room, and begins anew."""
    await _in_memory(place, f"{place.url}/long")


@case()
async def upload_in_memory(place: Place) -> None:
    """The same with an upload, which is never dropped."""
    await _in_memory(place, pieces(BODY))


async def _in_memory(place: Place, first: Any) -> None:
    admission = told(2 * 6 * mt.MiB + len(BODY) + mt.MiB, max_concurrent=2)
    downloader = place.downloader(admission=admission, spool_dir=place.memory)
    has_begun = anyio.Event()

    async def one(source: Any) -> None:
        opening = downloader.fetch(source) if isinstance(source, str) else downloader.receive(source)
        try:
            async with opening as file:
                assert file.size_bytes == len(BODY)
        except mt.MemoryPressureError:  # an upload that came last finds nobody to take room from
            pass

    async def other() -> None:
        await has_begun.wait()
        await one(f"{place.url}/long?2")

    with given_back(place, admission):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one, first)
            tasks.start_soon(other)
            while not admission.statistics().reserved_bytes and not admission.statistics().granted:
                await anyio.lowlevel.checkpoint()
            has_begun.set()


@case()
async def download_changed(place: Place) -> None:
    """What comes after the connection broke is another file: the half of the first one is forgotten."""
    async with place.downloader().fetch(f"{place.url}/changed") as file:
        assert file.path.read_bytes() == BODY


@case()
async def download_refused_its_rest(place: Place) -> None:
    """What comes after the connection broke is no part of anything: the whole is asked for at once."""
    async with place.downloader().fetch(f"{place.url}/shrunk") as file:
        assert file.path.read_bytes() == BODY


@case()
async def download_by_name(place: Place) -> None:
    """The resolver does not answer others, who are as many as may wait for it."""
    answers = threading.Event()
    other = threading.Thread(target=answers.wait)
    other.start()

    async def answer() -> None:
        await anyio.sleep(0.06)
        answers.set()

    try:
        with patch.object(resolving, "_MOST_THREADS", 1), patch.object(resolving, "_threads", [other]):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(answer)
                async with place.downloader().fetch(f"{place.url.replace('127.0.0.1', 'localhost')}/url.wav") as file:
                    assert file.size_bytes
    finally:
        answers.set()
        other.join()


@case()
async def download_to_a_slow_disk(place: Place) -> None:
    """Memory is short, and the pages of a long one are waited for, on a system that knows but fsync."""
    guard = FakeGuard(limit_bytes=1000 * mt.MiB, used_bytes=700 * mt.MiB)
    with patch.object(writeback, "_sync_file_range", lambda: None):
        async with place.downloader(guard=guard).fetch(f"{place.url}/longer") as file:
            assert file.size_bytes == 5 * len(BODY)


@case()
async def saved_from_memory(place: Place) -> None:
    """What is published lies on another file system than the spool."""
    async with place.downloader(spool_dir=place.memory).fetch(f"{place.url}/long") as file:
        await file.save_as(place.saved / "file")
        assert (place.saved / "file").read_bytes() == BODY


@case()
async def upload_takes_room(place: Place) -> None:
    """An upload, in memory, grows to more than there is room for beside a download that came later."""
    await _takes_room(place, BODY[: mt.MiB * 3 // 2], spare_bytes=mt.MiB)


@case()
async def upload_takes_little_room(place: Place) -> None:
    """The same, with less than what is written at once."""
    await _takes_room(place, BODY[:100_000], spare_bytes=mt.MiB // 4)


async def _takes_room(place: Place, rest: bytes, *, spare_bytes: int) -> None:
    """An upload whose rest comes when a download has all that is left but so much, and is stuck."""
    admission = told(2 * 6 * mt.MiB + len(BODY) + spare_bytes, max_concurrent=2)
    downloader = place.downloader(admission=admission, spool_dir=place.memory, read_timeout_seconds=3.0)
    is_stuck = anyio.Event()

    async def slow() -> AsyncGenerator[bytes]:
        yield BODY[: mt.MiB // 4]
        await is_stuck.wait()
        async with aclosing(pieces(rest)) as others:
            async for piece in others:
                yield piece

    async def later() -> None:
        while not admission.statistics().reserved_bytes:
            await anyio.lowlevel.checkpoint()
        try:
            opening = downloader.fetch(f"{place.url}/stuck", on_progress=lambda done, total: is_stuck.set())
            async with opening as file:
                assert file.size_bytes == len(BODY)
        finally:
            is_stuck.set()

    with given_back(place, admission):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(later)
            async with downloader.receive(slow()) as file:
                assert file.size_bytes == mt.MiB // 4 + len(rest)


@case()
async def by_environment(place: Place) -> None:
    """Where to spool is said by the environment, or by nobody."""
    for name, folder in (("MEMSAFE_SPOOL_DIR", place.spool), ("TMPDIR", place.temporary)):
        with patch.dict(os.environ, {name: str(folder)}), patch("tempfile.tempdir", None):
            downloader = mt.SafeDownloader(policy=ANY, admission=place.admission)
            async with downloader.fetch(f"{place.url}/url.wav") as file:
                assert file.size_bytes
    with patch("tempfile.tempdir", str(place.temporary)):
        assert mt.SafeDownloader(admission=place.admission).spool_dir == place.temporary
