"""Jobs, and batches of them."""

import io
import os
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any, ClassVar

import anyio
import anyio.lowlevel

import memsafe_transcribe as mt
from memsafe_transcribe._store import batches
from memsafe_transcribe._store.locks import Locks

from ...support.media import tone_samples
from ...support.segments import pydub
from ..cases import case, pieces
from ..place import MoodyEngine, Place, wav


async def several(place: Place) -> None:
    sources: list[Any] = [
        place.folder / "path.wav",
        f"{place.url}/url.wav",
        pieces(wav(1.2, 600)),
        f"{place.url}/missing.wav",
    ]
    transcriber = place.transcriber(store=place.job_store())
    async with mt.BatchTranscriber(transcriber, max_batch_size=2).run(
        sources, ordered=True, retry_failed=place.goes_on
    ) as outcomes:
        found = [outcome async for outcome in outcomes]
    place.told += ["error" if each.transcript is None else each.transcript.to_json() for each in found]


@case()
async def batch(place: Place) -> None:
    """A path, a URL, an upload and a URL that is not there, with a store; chunks are halved, and asked for again."""
    await several(place)


@case(begin=several)
async def batch_again(place: Place) -> None:
    """All is stored already."""
    await several(place)


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
    """Sources that come asynchronously, twice the same, one that is tried again, and a file that may come yet."""

    async def sources() -> AsyncGenerator[Any]:
        for source in ("/busy.wav", "/url.wav", "/url.wav"):
            await anyio.lowlevel.checkpoint()
            yield f"{place.url}{source}"
        yield place.folder / "absent.wav"

    store = place.job_store()
    transcriber = place.transcriber(downloader=place.downloader(max_attempts=1, failures=store), store=store)
    batch = mt.BatchTranscriber(transcriber, max_batch_size=3)
    async with store, batch.run(sources(), ordered=True, retry_failed=place.goes_on) as outcomes:
        found = [outcome async for outcome in outcomes]
    place.told += ["error" if each.transcript is None else each.transcript.to_json() for each in found]


@case()
async def batch_of_others(place: Place) -> None:
    """Who finishes or removes a batch has it alone for a moment, in which whoever comes waits."""
    store = place.job_store()
    lock = Locks(store.path).try_lock(batches._name(1))  # noqa: SLF001

    async def let_go() -> None:
        await anyio.sleep(0.06)
        if lock is not None:  # else that was not permitted
            lock.release()

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(let_go)
            batch = mt.BatchTranscriber(place.transcriber(store=store))
            async with batch.run([place.folder / "short.wav"], retry_failed=place.goes_on) as outcomes:
                place.told += [outcome.transcript.text async for outcome in outcomes if outcome.transcript is not None]
    finally:
        if lock is not None:
            lock.release()


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


class _SlowFile:
    """One whose reads take their time, in a thread."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        threading.Event().wait(0.03)
        return self._data.read(size)


@case()
async def slow_file_object(place: Place) -> None:
    """Other tasks go on, and may be cancelled with it, while a thread reads."""

    async def tick() -> None:
        for _ in range(30):
            await anyio.sleep(0.005)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        place.told.append((await place.transcriber().transcribe(_SlowFile(wav(0.5, 400)))).text)


class OwnEngine:
    """One that the library makes itself, and closes; it charges for what it keeps."""

    is_closing: ClassVar[anyio.Event]  # of the last one

    def __init__(self) -> None:
        type(self).is_closing = anyio.Event()
        self.capabilities = mt.Capabilities(resident_bytes=1000)

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> str:
        await anyio.lowlevel.checkpoint()
        return "own"

    async def aclose(self) -> None:
        self.is_closing.set()
        for _ in range(5):  # in which another may come to wait for it
            await anyio.lowlevel.checkpoint()


@case()
async def opened_while_it_closes(place: Place) -> None:
    """Who comes when an engine is being closed waits for that."""
    named = place.transcriber(engine=f"{__name__}:OwnEngine")

    async def first() -> None:
        try:
            async with named:
                await anyio.lowlevel.checkpoint()
        finally:
            OwnEngine.is_closing.set()  # or else it never comes to that

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first)
        await OwnEngine.is_closing.wait()
        async with named:
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
    for name in ("sound.mp3", "sound.ogg", "sound.m4a", "rf64.wav", "fragments.mp4", "freed.m4a"):
        place.told.append((await place.transcriber().transcribe(place.folder / name)).text)


@case()
async def pictured(place: Place) -> None:
    """With a picture of it, which replaces another one."""
    for _ in range(2):
        with mt.Timeline(place.saved / "run.svg", admission=place.admission) as timeline:
            transcriber = place.transcriber(timeline=timeline)
            place.told.append((await transcriber.transcribe(place.folder / "short.wav")).text)
