"""Resume: what was paid for is not paid for again, and what comes out is what would have come out."""

import asyncio
import io
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

import memsafe_transcribe as mt
from memsafe_transcribe._memory.pressure import Term
from memsafe_transcribe._store.jobs import ChunkPlan, StoredChunk
from memsafe_transcribe._store.locks import Locks

from ..conftest import Run, open_descriptors
from ..support.damaged_media import damage
from ..support.media import tone_samples, write_encoded, write_wav
from ..support.memory import tell
from ..support.segments import pydub
from ..support.server import Server
from .engines import Teller
from .other_program import other_program


@pytest.fixture
def store(tmp_path: Path) -> mt.JobStore:
    """An empty one."""
    return mt.JobStore(tmp_path / "jobs.sqlite")


@pytest.fixture
def tone(tmp_path: Path) -> Path:
    """Six seconds that are not silent."""
    return write_wav(tmp_path / "tone.wav", tone_samples(6.0))


def transcriber(engine: Any, store: mt.JobStore | None, **options: Any) -> mt.ChunkedTranscriber:
    """In chunks of a second, unless it is said otherwise."""
    return mt.ChunkedTranscriber(engine, **{"chunk_seconds": 1.0, "store": store, "isolation": "thread", **options})


async def heard(
    engine: Any, store: mt.JobStore | None, source: Any, options: dict[str, Any] | None = None, **arguments: Any
) -> mt.Transcript:
    """A transcript."""
    return await transcriber(engine, store, **options or {}).transcribe(source, **arguments)


async def fails(engine: Any, store: mt.JobStore, source: Any, options: dict[str, Any] | None = None) -> None:
    with pytest.raises(mt.TranscriberFailedError):
        await heard(engine, store, source, options)


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_a_job_that_failed_goes_on_where_it_was(run: Run, store: mt.JobStore, tone: Path, isolation: str) -> None:
    """Each chunk is asked for once, over two runs; the result is that of one, and so is a third."""
    broken, options = Teller(fails_at={3}), {"isolation": isolation}

    async def main() -> None:
        await fails(broken, store, tone, options)
        assert len(broken.asked) == 3
        resumed = await heard(broken, store, tone, options)
        whole = await heard(Teller(), None, tone, options)
        assert resumed == whole
        assert resumed.to_json() == whole.to_json()
        assert len(broken.asked) == len(set(broken.asked)) > 4
        assert await heard(broken, store, tone, options) == whole
        assert len(broken.asked) == len(set(broken.asked))

    run(main)


# -- the plan


def limit_of(megabytes: int) -> Term:
    return Term("limit", "cgroup v2 /told", "memory.max", megabytes * mt.MiB, 0, 0)


@pytest.mark.parametrize(("first", "then"), [(100, 1000), (1000, 140)], ids=["more memory", "less memory"])
def test_the_plan_of_the_first_run_is_followed(
    run: Run, store: mt.JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int, then: int
) -> None:
    """Whatever the memory is now, that of the other run would have led to another plan."""
    path = write_wav(tmp_path / "long.wav", tone_samples(200.0))
    memory = tell(monkeypatch, limit_of(first))

    def admission() -> dict[str, Any]:
        controller = mt.AdmissionController(guard=mt.MemoryGuard(), scope="process")
        return {"admission": controller, "chunk_seconds": None}

    def engine(**options: Any) -> Teller:
        return Teller(call_bytes_per_second=mt.MiB, **options)

    async def main() -> None:
        whole, other, broken = engine(), engine(), engine(fails_at={1})
        expected = await heard(whole, None, path, admission())
        await fails(broken, store, path, admission())
        memory.say(limit_of(then))
        await heard(other, None, path, admission())
        assert other.asked != whole.asked
        assert await heard(broken, store, path, admission()) == expected
        assert broken.asked == whole.asked

    run(main)


def test_a_plan_that_memory_can_never_have_room_for_is_refused(
    run: Run, store: mt.JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather than cut anew what was paid for; with room again it goes on."""
    path = write_wav(tmp_path / "long.wav", tone_samples(100.0))
    memory = tell(monkeypatch, limit_of(1000))
    broken = Teller(fails_at={1}, call_bytes_per_second=mt.MiB)

    async def main() -> None:
        options = {"admission": mt.AdmissionController(guard=mt.MemoryGuard(), scope="process"), "chunk_seconds": None}
        await fails(broken, store, path, options)
        memory.say(limit_of(80))
        with pytest.raises(mt.ReservationTooLargeError):
            await heard(broken, store, path, options)
        memory.say(limit_of(1000))
        await heard(broken, store, path, options)
        assert len(broken.asked) == len(set(broken.asked)) == 3

    run(main)


def test_an_engine_that_takes_less_at_once_begins_anew(
    run: Run, store: mt.JobStore, tone: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its chunks are cut as if there had been none; the log says so. One that takes more goes on."""
    large, less = Teller(fails_at={1}, max_chunk_seconds=5.0), Teller(max_chunk_seconds=2.0)
    options = {"chunk_seconds": None}

    async def main() -> None:
        await fails(large, store, tone, options)
        found = await heard(less, store, tone, options)
        assert less.asked[0] == 0
        assert found == await heard(Teller(max_chunk_seconds=2.0), None, tone, options)
        assert max(less.heard_seconds) <= 2

    run(main)
    assert [record.message for record in caplog.records if "begins anew" in record.message]


def test_an_engine_that_takes_more_goes_on(run: Run, store: mt.JobStore, tone: Path) -> None:
    """By the plan that there is."""
    small, more = Teller(fails_at={2}, max_chunk_seconds=2.0), Teller(max_chunk_seconds=30.0)
    options = {"chunk_seconds": None}

    async def main() -> None:
        await fails(small, store, tone, options)
        whole = Teller(max_chunk_seconds=2.0)
        assert await heard(more, store, tone, options) == await heard(whole, None, tone, options)
        assert [*small.asked, *more.asked] == whole.asked

    run(main)


def test_a_chunk_that_was_cut_in_two_is_resumed_by_its_parts(run: Run, store: mt.JobStore, tone: Path) -> None:
    """The whole, which was too large, is not asked for again, nor is the half that is known."""
    tried: list[float] = []

    def too_large(number: int, chunk: mt.AudioChunk) -> Exception | None:
        tried.append(chunk.duration_seconds)
        return mt.ChunkTooLargeError("too large") if chunk.duration_seconds > 3.5 else None

    options = {"chunk_seconds": 4.0}

    async def main() -> None:
        whole, broken = Teller(before=too_large), Teller(before=too_large, fails_at={1})
        expected = await heard(whole, None, tone, options)
        assert tried[0] > 3.5
        await fails(broken, store, tone, options)
        tried.clear()
        assert await heard(broken, store, tone, options) == expected
        assert broken.asked == whole.asked
        assert tried[0] < 3.5

    run(main)


# -- what is asked for again, and what is replayed


@pytest.mark.parametrize("on_error", ["mark", "stop"])
def test_only_what_failed_is_asked_for_again(run: Run, store: mt.JobStore, tone: Path, on_error: str) -> None:
    """Two chunks that were marked; or what was not come to after the first."""
    options = {"on_error": on_error}

    async def main() -> None:
        engine = Teller(fails_at={2, 5})
        first = await heard(engine, store, tone, options)
        assert first.status == "partial"
        runs = 1
        while (found := await heard(engine, store, tone, options)).status == "partial":
            runs += 1
        assert found == await heard(Teller(), None, tone)
        assert len(engine.asked) == len(set(engine.asked))
        assert runs == {"mark": 1, "stop": 2}[on_error]

    run(main)


def test_silence_is_replayed(run: Run, store: mt.JobStore, tmp_path: Path) -> None:
    """Nothing but silence, and silence at both ends and in the middle: as the first run had it."""
    engine = Teller()

    async def main() -> None:
        for name, sound in (
            ("silent", bytes(32_000 * 5)),
            ("mixed", bytes(64_000) + tone_samples(2.0) + bytes(128_000) + tone_samples(2.0) + bytes(64_000)),
        ):
            path = write_wav(tmp_path / f"{name}.wav", sound)
            first = await heard(engine, store, path)
            asked = len(engine.asked)
            again = await heard(engine, store, path)
            assert again == first == await heard(Teller(), None, path)
            assert again.to_json() == first.to_json()
            assert len(engine.asked) == asked
            assert first.status == ("complete" if name == "mixed" else "silent")

    run(main)


def test_gaps_of_damaged_audio_are_replayed(run: Run, store: mt.JobStore, tmp_path: Path) -> None:
    """To the digit."""
    path = damage(write_encoded(tmp_path / "damaged.flac", "flac", 12.0), size=20_000)
    engine = Teller()

    async def main() -> None:
        first = await heard(engine, store, path)
        assert first.gaps
        asked = len(engine.asked)
        again = await heard(engine, store, path)
        assert again.to_json() == first.to_json()
        assert again == first
        assert len(engine.asked) == asked

    run(main)


def test_suspects_are_replayed(run: Run, store: mt.JobStore, tmp_path: Path) -> None:
    """What gave no text for clear sound is as suspect the second time; also in a job that is resumed half."""
    path = write_wav(tmp_path / "beeps.wav", (tone_samples(0.5) + bytes(16_000)) * 30)
    options = {"chunk_seconds": 10.0}

    class Deaf(Teller):
        async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
            await super().transcribe(chunk, context)
            return mt.ChunkResult(language="eo")

    async def main() -> None:
        engine = Deaf(fails_at={1})
        await fails(engine, store, path, options)
        first = await heard(engine, store, path, options)
        asked = len(engine.asked)
        again = await heard(engine, store, path, options)
        assert len(first.suspects) > 1
        assert again.suspects == first.suspects
        assert again == first == await heard(Deaf(), None, path, options)
        assert len(engine.asked) == asked
        assert again.language == "eo"

    run(main)


def test_other_words_for_the_engine_are_another_job(run: Run, store: mt.JobStore, tone: Path) -> None:
    """Another language, prompt or length of chunks, and another engine; each is kept for itself."""
    engine, other = Teller(), Teller(cache_key="other")

    async def main() -> None:
        asked = 0
        for _ in range(2):
            found = [
                await heard(engine, store, tone),
                await heard(engine, store, tone, language="de"),
                await heard(engine, store, tone, prompt=""),
                await heard(engine, store, tone, {"chunk_seconds": 2.0}),
                await heard(other, store, tone),
            ]
            asked = asked or len(engine.asked) + len(other.asked)
            assert [each.language for each in found] == ["en", "de", "en", "en", "en"]
            assert len(engine.asked) + len(other.asked) == asked
        assert engine.asked.count(0.0) == 4

    run(main)


# -- sources


def test_a_file_that_was_changed_begins_anew(run: Run, store: mt.JobStore, tone: Path) -> None:
    """By its content: of the same name, length and time."""
    engine = Teller()

    async def main() -> None:
        before = tone.stat()
        await heard(engine, store, tone)
        write_wav(tone, tone_samples(6.0, hertz=800))
        os.utime(tone, ns=(before.st_atime_ns, before.st_mtime_ns))
        await heard(engine, store, tone)
        assert engine.asked.count(0.0) == 2
        write_wav(tone, tone_samples(6.0))
        await heard(engine, store, tone)
        assert engine.asked.count(0.0) == 2

    run(main)


def test_of_a_file_that_is_written_to_meanwhile_nothing_more_is_stored(
    run: Run, store: mt.JobStore, tone: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The transcript comes out and says so; neither the old bytes nor the new ones are done."""

    def touch(number: int, chunk: mt.AudioChunk) -> None:
        if number == 3:
            with tone.open("r+b") as file:
                file.seek(-2, os.SEEK_END)
                file.write(b"\1\1")
            os.utime(tone, ns=(1, 1))

    async def main() -> None:
        first = await heard(Teller(before=touch), store, tone)
        assert first.store_error is not None
        assert "written to" in str(first.store_error)
        again = Teller()
        assert (await heard(again, store, tone)).store_error is None
        assert again.asked[0] == 0
        original, resumed = write_wav(tone, tone_samples(6.0)), Teller()
        await heard(resumed, store, original)
        assert resumed.asked == again.asked[3:]

    run(main)
    assert len([record for record in caplog.records if "not stored" in record.message]) == 1


def test_an_engine_without_a_key_is_not_kept_and_says_so_once(
    run: Run, store: mt.JobStore, tone: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its answers may be another engine's tomorrow."""
    engine = Teller(cache_key=None)

    async def main() -> None:
        keyless = transcriber(engine, store)
        for _ in range(2):
            await keyless.transcribe(tone)
        assert engine.asked.count(0.0) == 2

    run(main)
    assert [record.message for record in caplog.records if "cache_key" in record.message] == [
        f"engine 'Teller' has no cache_key: nothing that it answers is kept in {store.path}"
    ]


def test_the_same_bytes_are_the_same_source(run: Run, store: mt.JobStore, tone: Path, server: Server) -> None:
    """By path, by URL, in memory, as an open file and as a stream: asked for once."""
    body = tone.read_bytes()
    server.routes["/a"] = lambda exchange: exchange.answer(body)
    engine = Teller()
    downloader = mt.SafeDownloader(policy=mt.UrlPolicy(allow_private=True))

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 10_000):
            yield body[start : start + 10_000]

    async def main() -> None:
        options = {"downloader": downloader}
        first = await heard(engine, store, tone, options)
        asked = len(engine.asked)
        with tone.open("rb") as file:
            for source in (server.url("/a"), io.BytesIO(body), pieces(), file):
                assert await heard(engine, store, source, options) == first
        assert len(engine.asked) == asked

    run(main)


def test_an_audio_segment_is_known_by_its_samples(run: Run, store: mt.JobStore) -> None:
    """And goes on where it was; another one is another source."""
    segment = pydub.AudioSegment(data=tone_samples(6.0), sample_width=2, frame_rate=16_000, channels=1)
    engine = Teller(fails_at={3})

    async def main() -> None:
        await fails(engine, store, segment)
        first = await heard(engine, store, segment)
        assert len(engine.asked) == len(set(engine.asked))
        assert await heard(engine, store, segment[:]) == first == await heard(Teller(), None, segment)
        assert len(engine.asked) == len(set(engine.asked))
        await heard(engine, store, segment[:2000])
        assert engine.asked.count(0.0) == 2

    run(main)


# -- several at once, and cancelled


def test_two_tasks_with_the_same_source_ask_once(run: Run, store: mt.JobStore, tone: Path) -> None:
    """The second waits until the first has ended, and gives out the same."""
    found: list[mt.Transcript] = []

    async def wait_for_the_other(number: int, chunk: mt.AudioChunk) -> None:
        if number == 0:
            await anyio.wait_all_tasks_blocked()

    engine = Teller(before=wait_for_the_other)

    async def one(shared: mt.ChunkedTranscriber) -> None:
        found.append(await shared.transcribe(tone))

    async def main() -> None:
        shared = transcriber(engine, store)
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(one, shared)

    run(main)
    assert found[0] == found[1] == found[2]
    assert len(engine.asked) == len(set(engine.asked))


_OTHER = """
import sys, anyio, pathlib, memsafe_transcribe as mt
class Engine:
    capabilities = mt.Capabilities(cache_key="teller", max_chunk_seconds=60.0)
    async def transcribe(self, chunk, context):
        if chunk.index == 1:
            print("at work", flush=True)
            assert sys.stdin.readline()
        return "theirs"
store = mt.JobStore(sys.argv[2])
transcriber = mt.ChunkedTranscriber(Engine(), chunk_seconds=1.0, store=store, isolation="thread")
anyio.run(transcriber.transcribe, pathlib.Path(sys.argv[1]))
"""


@contextmanager
def other_transcriber(audio: Path, store: mt.JobStore) -> Iterator["subprocess.Popen[str]"]:
    """Another process that has stored one chunk, and is asking for the next until it is told to go on."""
    command = [sys.executable, "-c", _OTHER, str(audio), str(store.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        yield process


@pytest.mark.parametrize("end", ["finishes", "dies"])
def test_two_processes_with_the_same_source_ask_once(run: Run, store: mt.JobStore, tone: Path, end: str) -> None:
    """The other one is at work; this one waits, and goes on where it ends, whether it finishes or dies."""
    engine = Teller()

    async def main() -> None:
        with other_transcriber(tone, store) as other:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(heard, engine, store, tone)
                await anyio.wait_all_tasks_blocked()
                assert engine.asked == []
                if end == "dies":
                    other.kill()
                else:
                    print(file=other.stdin, flush=True)
        if end == "finishes":
            assert engine.asked == []
        else:
            assert len(engine.asked) > 3
            assert 0.0 not in engine.asked

    run(main)


def test_what_cannot_be_waited_for_is_said_to_be_busy(run: Run, store: mt.JobStore, tone: Path) -> None:
    """On a reservation that is held already, waiting for who waits for it would be for ever."""
    busy: list[mt.StoreError] = []

    async def main() -> None:
        admission = mt.AdmissionController(scope="process")
        options = {"admission": admission}

        async def try_meanwhile(number: int, chunk: mt.AudioChunk) -> None:
            if number == 1:
                async with admission.reserve(500 * mt.MiB) as held:
                    with pytest.raises(mt.StoreError) as caught:
                        await heard(Teller(), store, tone, options, reservation=held)
                busy.append(caught.value)

        await heard(Teller(before=try_meanwhile), store, tone, options)
        async with admission.reserve(500 * mt.MiB) as held:
            await heard(Teller(fails_at={0}), store, tone, options, reservation=held)

    run(main)
    assert [(error.reason, error.path) for error in busy] == [("busy", str(store.path))]


def test_cancelled_while_it_waits_for_another(run: Run, store: mt.JobStore, tone: Path) -> None:
    """Nothing is held, and the one that it waited for is not disturbed."""

    async def main() -> None:
        async def cancel_another(number: int, chunk: mt.AudioChunk) -> None:
            if number == 1:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(heard, Teller(), store, tone)
                    await anyio.wait_all_tasks_blocked()
                    tasks.cancel_scope.cancel()

        engine = Teller(before=cancel_another)
        assert (await heard(engine, store, tone)).store_error is None
        assert await heard(Teller(fails_at={0}), store, tone)

    run(main)


def test_cancelled_while_it_commits(run: Run, store: mt.JobStore, tone: Path) -> None:
    """What was answered is paid for: it is waited for, and stored."""
    engine = Teller()

    async def main() -> None:
        await store.forget("https://a")
        with other_program(store.path) as other:
            at_work = anyio.Event()

            def lock(number: int, chunk: mt.AudioChunk) -> None:
                if number == 2:
                    other.execute("BEGIN IMMEDIATE")
                    at_work.set()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(heard, Teller(before=lock), store, tone)
                await at_work.wait()
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
                other.execute("ROLLBACK")
        await heard(engine, store, tone)

    run(main)
    whole = Teller()
    run(heard, whole, None, tone)
    assert engine.asked == whole.asked[3:]


def test_a_storm_of_cancellations_by_asyncio_itself_leaves_nothing_open(store: mt.JobStore, tone: Path) -> None:
    """`Task.cancel()` breaks through every shield, again and again: what was answered is stored, and all is closed."""

    async def main() -> None:
        await store.forget("https://a")
        with other_program(store.path) as other:
            at_work = anyio.Event()

            def lock(number: int, chunk: mt.AudioChunk) -> None:
                if number == 2:
                    other.execute("BEGIN IMMEDIATE")
                    at_work.set()

            task = asyncio.create_task(heard(Teller(before=lock), store, tone))
            await at_work.wait()
            await anyio.wait_all_tasks_blocked()
            for _ in range(3):
                task.cancel()
                await asyncio.sleep(0)
            other.execute("ROLLBACK")
            while not task.done():
                task.cancel()
                await asyncio.sleep(0)
            with pytest.raises(asyncio.CancelledError):
                await task
        assert [name for name in open_descriptors().values() if name.startswith(str(store.path))] == []
        resumed, whole = Teller(), Teller()
        assert await heard(resumed, store, tone) == await heard(whole, None, tone)
        assert resumed.asked == whole.asked[3:]

    anyio.run(main)


def test_cancelled_as_the_engine_answers(run: Run, store: mt.JobStore, tone: Path) -> None:
    """Before anything of that answer is stored: it is paid for, and stored all the same."""

    async def main() -> None:
        with anyio.CancelScope() as scope:

            def cancel(number: int, chunk: mt.AudioChunk) -> None:
                if number == 2:
                    scope.cancel()

            await heard(Teller(before=cancel), store, tone)
        assert scope.cancelled_caught
        resumed, whole = Teller(), Teller()
        assert await heard(resumed, store, tone) == await heard(whole, None, tone)
        assert resumed.asked == whole.asked[3:]

    run(main)


def test_a_stream_that_is_left_early_goes_on_later(run: Run, store: mt.JobStore, tone: Path) -> None:
    """What was given out was stored before; a chunk that was being heard is asked for again, and none else."""
    first, engine, whole = Teller(), Teller(), Teller()

    async def main() -> None:
        given: list[mt.Segment] = []
        async with transcriber(first, store).stream(tone) as stream:
            async for segment in stream:
                given.append(segment)
                if len(given) == 2:
                    break
        expected = await heard(whole, None, tone)
        assert list(expected.segments[:2]) == given
        assert await heard(engine, store, tone) == expected
        assert len(engine.asked) <= len(whole.asked) - 2
        assert set(first.asked) | set(engine.asked) == set(whole.asked)

    run(main)


def test_nothing_is_shown_before_it_is_stored(run: Run, store: mt.JobStore, tone: Path) -> None:
    """Another process that looks when a segment comes out finds its chunk there."""

    async def main() -> None:
        with other_program(store.path) as other:
            shown = 0
            async with transcriber(Teller(), store).stream(tone) as stream:
                async for _ in stream:
                    shown += 1
                    assert int(other.execute("SELECT count(*) FROM chunks")) >= shown

    run(main)


@pytest.mark.parametrize("kind", ["txt", "srt", "vtt", "json"])
def test_a_replay_is_the_same_file(run: Run, store: mt.JobStore, tone: Path, kind: Any) -> None:
    """Byte by byte, in each format, from a stream."""

    async def text(engine: Teller) -> str:
        async with transcriber(engine, store).stream(tone) as stream:
            return "".join([piece async for piece in mt.format_segments(stream, kind)])

    async def main() -> None:
        first, again = Teller(), Teller()
        assert await text(first) == await text(again)
        assert again.asked == []

    run(main)


def test_cancelled_at_each_step_it_goes_on(run: Run, store: mt.JobStore, tmp_path: Path) -> None:
    """A stream whose `anext` is cancelled before each segment loses none, nor in a replay."""
    path = write_wav(tmp_path / "short.wav", tone_samples(4.0))

    async def patiently(engine: Teller) -> list[mt.Segment]:
        segments = []
        async with transcriber(engine, store).stream(path) as stream:
            while True:
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    try:
                        segments.append(await anext(stream))
                        continue
                    except StopAsyncIteration:
                        return segments
                await checkpoint()
                try:
                    segments.append(await anext(stream))
                except StopAsyncIteration:
                    return segments

    async def main() -> None:
        expected = list((await heard(Teller(), None, path)).segments)
        first, again = Teller(), Teller()
        assert await patiently(first) == expected
        assert await patiently(again) == expected
        assert again.asked == []

    run(main)


def test_a_job_that_is_finished_just_now_is_not_busy(
    run: Run, store: mt.JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process finishes it between the look at it and its lock: it is given out, and not refused."""
    jobs = store._inside.jobs  # noqa: SLF001 - the moment can only be met from inside
    key, plan = b"k" * 32, ChunkPlan(16_000, 32_000)

    async def main() -> None:
        async with store:
            async with jobs.working_on(key, may_wait=False) as job:
                await job.keep(plan, StoredChunk(0, 16_000, 0, 16_000, b"x"))
            try_lock = Locks.try_lock
            with other_program(store.path) as other:

                def finish_before(self: Locks, *arguments: Any, **options: Any) -> Any:
                    other.execute("UPDATE jobs SET total_samples = 16000")
                    return try_lock(self, *arguments, **options)

                monkeypatch.setattr(Locks, "try_lock", finish_before)
                async with jobs.working_on(key, may_wait=False) as job:
                    assert job.state.total_samples == 16_000

    run(main)
