"""What is tortured: uses of the public API that a host could have written, from the first await to the last."""

import io
import os
import shutil
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import anyio
import anyio.lowlevel
from anyio.abc import TaskStatus
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse

import memsafe_transcribe as mt
from memsafe_transcribe._download import publishing
from memsafe_transcribe.integrations.asgi import (
    AdmissionMiddleware,
    SegmentEvents,
    draining,
    transcribe_while_connected,
)
from memsafe_transcribe.testing import FakeGuard

from ..admission.room import NOTHING, ToldGuard, holds, told
from ..integrations.exchange import Exchange
from ..support.downloads import BODY
from ..support.media import tone_samples
from ..support.segments import pydub
from .place import MoodyEngine, Place, wav

Scenario = Callable[[Place], Awaitable[None]]
SCENARIOS: dict[str, "Case"] = {}


@dataclass(frozen=True)
class Case:
    """One scenario.

    Attributes:
        run: what is done.
        begin: what is done before each run, untouched.
        isolation: of its decoder.
        forgets: whether it asks again for what was stored.
    """

    run: Scenario
    begin: Scenario | None = None
    isolation: str = "thread"
    forgets: bool = False


def case(**options: Any) -> Callable[[Scenario], Scenario]:
    """One of the scenarios, under its function's name."""

    def known(function: Scenario) -> Scenario:
        SCENARIOS[getattr(function, "__name__", "")] = Case(function, **options)
        return function

    return known


async def pieces(data: bytes) -> AsyncGenerator[bytes]:
    """As a request's body comes."""
    for at in range(0, len(data), 20_000):
        await anyio.lowlevel.checkpoint()
        yield data[at : at + 20_000]


# -- downloads


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


# -- jobs


async def _batch(place: Place) -> None:
    sources: list[Any] = [
        place.folder / "path.wav",
        f"{place.url}/url.wav",
        pieces(wav(1.2, 600)),
        f"{place.url}/missing.wav",
    ]
    transcriber = place.transcriber(store=place.job_store())
    async with mt.BatchTranscriber(transcriber, max_batch_size=2).run(sources, ordered=True) as outcomes:
        found = [outcome async for outcome in outcomes]
    place.told += ["error" if each.transcript is None else each.transcript.to_json() for each in found]


@case()
async def batch(place: Place) -> None:
    """A path, a URL, an upload and a URL that is not there, with a store; chunks are halved, and asked for again."""
    await _batch(place)


@case(begin=_batch)
async def batch_again(place: Place) -> None:
    """All is stored already."""
    await _batch(place)


async def _job(place: Place, *, is_broken: bool = False) -> None:
    """One source with a store; broken, it ends after its first chunk."""
    engine = MoodyEngine(place, breaks_at=1 if is_broken else None)
    transcriber = place.transcriber(engine=engine, store=place.job_store(), on_error="stop")
    place.told.append((await transcriber.transcribe(place.folder / "path.wav")).to_json())


@case(isolation="process")
async def job(place: Place) -> None:
    """A path and a store, with the decoder in a process of its own."""
    await _job(place)


@case(begin=partial(_job, is_broken=True))
async def job_resumed(place: Place) -> None:
    """A job that was broken off goes on."""
    await _job(place)


@case(begin=partial(_job, is_broken=True), forgets=True)
async def job_begun_anew(place: Place) -> None:
    """A job that was broken off cannot go on, for the engine takes less at once than then."""
    engine = MoodyEngine(place, max_chunk_seconds=30.0)
    transcriber = place.transcriber(engine=engine, store=place.job_store())
    place.told.append((await transcriber.transcribe(place.folder / "path.wav")).to_json())


@case()
async def job_twice_at_once(place: Place) -> None:
    """Two of the same source: the second one waits for the first, and asks for nothing."""
    transcriber = place.transcriber(store=place.job_store())

    async def one() -> None:
        place.told.append((await transcriber.transcribe(place.folder / "short.wav")).to_json())

    async with transcriber, anyio.create_task_group() as tasks:
        tasks.start_soon(one)
        tasks.start_soon(one)


@case()
async def batch_of_tries(place: Place) -> None:
    """Sources that come asynchronously, twice the same, one that is tried again, and one that the engine ends."""

    async def sources() -> AsyncGenerator[Any]:
        for source in ("/busy.wav", "/url.wav", "/url.wav"):
            await anyio.lowlevel.checkpoint()
            yield f"{place.url}{source}"

    store = place.job_store()
    transcriber = place.transcriber(downloader=place.downloader(max_attempts=1, failures=store), store=store)
    async with store, mt.BatchTranscriber(transcriber, max_batch_size=3).run(sources()) as outcomes:
        found = [outcome async for outcome in outcomes]
    place.told += ["error" if each.transcript is None else each.transcript.to_json() for each in found]


@case()
async def streamed(place: Place) -> None:
    """A request's body, segment by segment; the loop is left early."""
    async with place.transcriber().stream(pieces(wav(5.5, 400))) as segments:
        async for _ in segments:
            break


@case()
async def formatted(place: Place) -> None:
    """To the text of a file, of each format."""
    async with place.transcriber() as transcriber:
        for format_ in ("txt", "srt", "vtt", "json"):
            async with transcriber.stream(place.folder / "short.wav") as segments:
                async with aclosing(mt.format_segments(segments, format_)) as parts:
                    place.told.append("".join([part async for part in parts]))


@case(isolation="process")
async def fed(place: Place) -> None:
    """Sound that is in memory is fed to the decoder's process, and hashed for the store."""
    sound = pydub.AudioSegment(tone_samples(3.0), sample_width=2, frame_rate=16_000, channels=1)
    place.told.append((await place.transcriber(store=place.job_store()).transcribe(sound)).to_json())


@case()
async def fed_to_a_thread(place: Place) -> None:
    """The same, decoded in a thread."""
    sound = pydub.AudioSegment(tone_samples(3.0), sample_width=2, frame_rate=16_000, channels=1)
    place.told.append((await place.transcriber().transcribe(sound)).to_json())


@case()
async def file_objects(place: Place) -> None:
    """An open file, one in memory, and a pipe; engines that are functions, and one that the library makes."""

    def plain(chunk: mt.AudioChunk) -> str:
        return "plain"

    def awaitable(chunk: mt.AudioChunk) -> Any:
        return coroutine(chunk)

    async def coroutine(chunk: mt.AudioChunk) -> str:
        await anyio.lowlevel.checkpoint()
        return "coroutine"

    reader, writer = os.pipe()
    with (place.folder / "short.wav").open("rb") as file, os.fdopen(reader, "rb", buffering=0) as pipe:
        with os.fdopen(writer, "wb") as target:
            target.write(wav(0.5, 400))
        for source, engine in (
            (file, plain),
            (io.BytesIO(wav(0.5, 400)), awaitable),
            (pipe, coroutine),
        ):
            place.told.append((await place.transcriber(engine=engine).transcribe(source)).text)
    named = place.transcriber(engine=f"{__name__}:OwnEngine")
    place.told.append((await named.transcribe(place.folder / "short.wav")).text)


class OwnEngine:
    """One that the library makes itself, and closes; it charges for what it keeps."""

    def __init__(self) -> None:
        self.capabilities = mt.Capabilities(resident_bytes=1000)

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> str:
        await anyio.lowlevel.checkpoint()
        return "own"

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()


@case()
async def planned(place: Place) -> None:
    """Of a path, and of a URL."""
    transcriber = place.transcriber()
    for source in (place.folder / "path.wav", f"{place.url}/url.wav"):
        place.told.append(str((await transcriber.plan(source)).duration_seconds))


@case()
async def of_each_format(place: Place) -> None:
    """Whose headers are looked into before it is decoded."""
    for name in ("sound.mp3", "sound.ogg", "sound.m4a"):
        place.told.append((await place.transcriber().transcribe(place.folder / name)).text)


# -- more of downloads


@case()
async def download_with_names(place: Place) -> None:
    """Where the system knows no files without a name, for the spool and for what is published."""
    with patch.object(publishing, "_O_TMPFILE", 0):
        await download(place)
        await place.job_store().cleanup(spool_dir=place.spool)


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
    async with place.downloader().fetch(f"{place.url}/url.wav", headers={"X-Long": "x" * 4_000_000}) as file:
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

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one, first)
            tasks.start_soon(other)
            while not admission.statistics().reserved_bytes and not admission.statistics().granted:
                await anyio.lowlevel.checkpoint()
            has_begun.set()
    finally:
        place.left += [f"in memory: {holds(admission)}"] * (holds(admission) != NOTHING)


# -- the admission, and the guard


@case()
async def queue(place: Place) -> None:
    """One slot for three; a part of what is held; what is drained at last."""
    admission = told(1000, max_concurrent=1)

    async def one() -> None:
        async with admission.reserve(10) as held:
            await anyio.lowlevel.checkpoint()
            async with admission.reserve(5, reservation=held):
                await anyio.lowlevel.checkpoint()

    async def late() -> None:
        try:
            async with admission.reserve(10):
                pass
        except mt.AdmissionError:
            place.told.append("refused")

    try:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(one)
            async with anyio.create_task_group() as others:
                others.start_soon(late)
                for _ in range(10):
                    await anyio.lowlevel.checkpoint()
        for _ in range(_OFTEN):  # entering is a schedule point now and then
            async with admission.reserve(1):
                pass
        async with anyio.create_task_group() as tasks:
            await tasks.start(_hold_for, admission, 0.06)
            admission.drain()
            assert await admission.wait_until_drained()
    finally:
        place.left += [f"queue: {holds(admission)}"] * (holds(admission) != NOTHING)


_OFTEN = 70


async def _hold_for(
    admission: mt.AdmissionController, seconds: float, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    async with admission.reserve(1):
        task_status.started()
        await anyio.sleep(seconds)


@case()
async def ledger(place: Place) -> None:
    """A container's ledger is made, lost by its name, found again, and taken away by the last who leaves."""
    folder = place.folder / "ledger"
    folder.mkdir(exist_ok=True)
    guard = ToldGuard(1000)
    try:
        with patch.dict(os.environ, MEMSAFE_LEDGER_DIR=str(folder)):
            members = [mt.AdmissionController(guard=guard)]
            async with members[0].reserve(1):
                for file in folder.glob("*/ledger"):
                    file.unlink()
                members.append(mt.AdmissionController(guard=guard))
                async with members[1].reserve(1):
                    await anyio.lowlevel.checkpoint()
    finally:
        members.clear()
        shutil.rmtree(folder, ignore_errors=True)


@case()
async def guarded(place: Place) -> None:
    """Wait for memory that comes free; functions that do; and the watch."""
    guard = FakeGuard(limit_bytes=1000 * mt.MiB, used_bytes=990 * mt.MiB)
    decorated = mt.memory_guard(need_bytes=1, guard=guard, wait_seconds=5)

    @decorated
    async def function() -> int:
        await anyio.lowlevel.checkpoint()
        return 1

    @decorated
    async def generator() -> AsyncGenerator[int]:
        await anyio.lowlevel.checkpoint()
        yield 1
        await anyio.lowlevel.checkpoint()
        yield 2

    async def free() -> None:
        await anyio.sleep(0.06)
        guard.used_bytes = 0

    for use in (lambda: guard.wait_until_ok(1), function):
        guard.used_bytes = 990 * mt.MiB
        async with guard, anyio.create_task_group() as tasks:
            tasks.start_soon(free)
            await use()
    async with aclosing(generator()) as numbers:
        async for _ in numbers:
            break


@case()
async def short_of_memory(place: Place) -> None:
    """A job at the ceiling begins no chunk until there is room again."""
    guard = FakeGuard(limit_bytes=1000 * mt.MiB, used_bytes=0)
    admission = mt.AdmissionController(guard=guard, scope="process")
    engine = MoodyEngine(place, on_answer=lambda: setattr(guard, "used_bytes", 990 * mt.MiB))

    async def free() -> None:
        while True:
            await anyio.sleep(0.06)
            guard.used_bytes = 0

    transcriber = place.transcriber(engine=engine, admission=admission, downloader=place.downloader(guard=guard))
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(free)
            await transcriber.transcribe(pieces(wav(5.5, 400)))
            await transcriber.transcribe(f"{place.url}/url.wav")
            tasks.cancel_scope.cancel()
    finally:
        place.left += [f"at the ceiling: {holds(admission)}"] * (holds(admission) != NOTHING)


# -- the store


@case(begin=_batch, forgets=True)
async def cleaned(place: Place) -> None:
    """All that is there is too old."""
    store = place.job_store()
    await store.cleanup(finished_seconds=0, unfinished_seconds=0, failed_url_seconds=0, spool_dir=place.spool)
    async with store.cleaning(every_seconds=0.01, spool_dir=place.spool):
        await anyio.sleep(0.03)
    async with store:
        await _batch(place)


# -- plain code, and web services


@case()
async def web(place: Place) -> None:
    """A body as the source, and a file of the service's own; whole, and as events; a refusal; who hangs up."""
    transcriber = place.transcriber()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        if scope["path"] == "/refused":
            raise mt.AdmissionRejectedError("full", need_bytes=1, waiting=9, retry_after_seconds=1.0)
        source = request.stream() if "own" not in scope["path"] else place.folder / "path.wav"
        if "events" in scope["path"]:
            response = SegmentEvents(transcriber, source)
            response.background = BackgroundTask(anyio.lowlevel.checkpoint)
            await response(scope, receive, send)
        else:
            transcript = await transcribe_while_connected(request, transcriber, source)
            await JSONResponse(transcript.to_dict())(scope, receive, send)

    service = AdmissionMiddleware(app, admission=place.admission)
    body = wav(5.5, 400)
    halves = (body[:90_000], body[90_000:])
    for path, given in (("/whole", halves), ("/own", ()), ("/events", halves), ("/own/events", ()), ("/refused", ())):
        exchange = Exchange(path, given)
        await exchange.run(service)
        place.told.append("fine" if exchange.status == 200 else "error")
    await Exchange("/events", (b"no audio",)).run(service)
    await Exchange("/whole", halves[:1], cuts_off=True).run(service)
    await Exchange("/own/events", fails=True).run(service)
    admission = told(1000)
    async with anyio.create_task_group() as tasks:
        await tasks.start(_hold_for, admission, 0.06)
        async with draining(admission, grace_seconds=5):
            admission.drain()


@case()
async def encrypted(place: Place) -> None:
    """By TLS, and to one whose certificate nobody trusts."""
    for is_trusted in (True, False):
        with place.trusting(certificate=is_trusted):
            try:
                async with place.downloader(max_attempts=1).fetch(f"{place.tls_url}/long") as file:
                    assert file.size_bytes == len(BODY)
            except mt.DownloadConnectionError:
                place.told.append("error")
