"""ChunkedTranscriber: the whole way from a source to a transcript."""

import asyncio
import io
import os
import signal
import subprocess
import sys
import threading
import wave
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import anyio
import psutil
import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._memory.pressure import Term
from memsafe_transcribe.testing import FakeEngine, FakeGuard

from ..conftest import Run
from ..support.media import SPEECH, tone_samples, write_wav
from ..support.memory import tell
from ..support.processes import gone_within
from ..support.server import Server

ANY = mt.UrlPolicy(allow_private=True)


class Recorder:
    """An engine that keeps a hash of what it heard, and says the chunk's number."""

    capabilities = mt.Capabilities(max_chunk_seconds=60.0)

    def __init__(self) -> None:
        self.samples = b""
        self.begins: list[int] = []
        self.chunks: list[mt.AudioChunk] = []

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        self.chunks.append(chunk)
        self.begins.append(len(self.samples))
        with wave.open(io.BytesIO(chunk.data)) as file:
            self.samples += file.readframes(file.getnframes())
        return mt.ChunkResult(text=str(chunk.index), language="en")


@pytest.mark.parametrize("extra_samples", [-1, 0, 1])
def test_every_sample_is_heard_at_its_place(run: Run, tmp_path: Path, extra_samples: int) -> None:
    """Where there is no pause to cut in, both chunks hear a quarter of a second on both sides of the cut."""
    samples = tone_samples(3.0 + extra_samples / 16_000)
    path = write_wav(tmp_path / "tone.wav", samples)
    engine = Recorder()

    async def main() -> mt.Transcript:
        return await mt.ChunkedTranscriber(engine, chunk_seconds=1.0).transcribe(path)

    transcript = run(main)
    heard = 0
    for chunk, begin, end in zip(engine.chunks, engine.begins, [*engine.begins[1:], len(engine.samples)], strict=True):
        start = round(chunk.start_seconds * 16_000) * 2
        assert engine.samples[begin:end] == samples[start : start + end - begin]
        assert start == max(0, heard - 2 * 8_000 if heard else 0)
        heard = start + end - begin
    assert heard == len(samples)
    assert transcript.duration_seconds == len(samples) / 32_000
    assert all(2 / 3 - 0.01 < chunk.duration_seconds <= 1.75 for chunk in engine.chunks)
    assert (transcript.status, transcript.language, transcript.gaps) == ("complete", "en", ())
    assert transcript.segments[-1].end_seconds == pytest.approx(transcript.duration_seconds)


def test_silence_is_not_sent_to_an_engine(run: Run, tmp_path: Path) -> None:
    """Twenty seconds of it between two tones are left out, and the second is at its time."""
    tone = tone_samples(2.0)
    path = write_wav(tmp_path / "tones.wav", tone + bytes(20 * 32_000) + tone)
    engine = Recorder()
    transcript = run(mt.ChunkedTranscriber(engine).transcribe, path)
    assert [chunk.start_seconds for chunk in engine.chunks] == pytest.approx([0.0, 22.0], abs=0.4)
    assert len(engine.samples) / 32_000 == pytest.approx(4.0, abs=0.8)
    assert (transcript.status, transcript.duration_seconds, transcript.text) == ("complete", 24.0, "0 1")


@pytest.mark.parametrize("seconds", [0.1, 3.0, 600.0])
def test_all_silence_is_no_call_of_the_engine(run: Run, tmp_path: Path, seconds: float) -> None:
    """The status says why there is no text."""
    path = write_wav(tmp_path / "silence.wav", bytes(int(seconds * 16_000) * 2))
    engine = Recorder()
    transcript = run(mt.ChunkedTranscriber(engine).transcribe, path)
    assert (engine.chunks, transcript.text, transcript.status) == ([], "", "silent")
    assert transcript.duration_seconds == seconds


def test_a_url_becomes_a_transcript_and_nothing_is_left(run: Run, server: Server, spool_dir: Path) -> None:
    """Downloaded, decoded, transcribed; the slot is free again and progress was told."""
    server.routes["/talk.mp3"] = lambda exchange: exchange.answer(SPEECH.read_bytes())
    heard: list[mt.Progress] = []

    async def main() -> mt.Transcript:
        admission = mt.AdmissionController(scope="process")
        downloader = mt.SafeDownloader(policy=ANY, admission=admission, spool_dir=spool_dir)
        async with mt.ChunkedTranscriber(
            Recorder(), admission=admission, downloader=downloader, chunk_seconds=10.0
        ) as transcriber:
            transcript = await transcriber.transcribe(server.url("/talk.mp3"), on_progress=heard.append)
        assert (admission.statistics().active, admission.statistics().reserved_bytes) == (0, 0)
        return transcript

    assert run(main).text == "0 1 2 3"
    phases = [progress.phase for progress in heard]
    assert list(dict.fromkeys(phases)) == ["waiting", "downloading", "transcribing"]
    assert heard[-1].done == pytest.approx(31.57, abs=0.1)
    assert heard[-1].total == pytest.approx(31.57, abs=0.1)


@pytest.mark.parametrize("source", ["talk.mp3", "/etc/passwd", "file:///etc/passwd", "ftp://example.com/a.mp3"])
def test_a_string_never_names_a_local_file(run: Run, source: str) -> None:
    """A user's URL field cannot read the server's disk; the error names pathlib.Path."""
    with pytest.raises(ValueError, match=r"is no http\(s\) URL; name a local file by pathlib\.Path"):
        run(mt.ChunkedTranscriber(Recorder()).transcribe, source)


def test_what_is_no_source_is_refused(run: Run, tmp_path: Path) -> None:
    """Other types, folders, FIFOs (without waiting for a writer), files that are not there."""
    transcribe: Any = mt.ChunkedTranscriber(Recorder()).transcribe
    with pytest.raises(TypeError, match="source must be"):
        run(transcribe, 3)
    with pytest.raises(mt.UnsupportedMediaError, match="not a regular file"):
        run(transcribe, tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(mt.UnsupportedMediaError, match="not a regular file"):
        run(transcribe, tmp_path / "fifo")
    with pytest.raises(FileNotFoundError):
        run(transcribe, tmp_path / "nothing.mp3")


def test_an_engine_that_fails_leaves_nothing(run: Run) -> None:
    """Decoder, descriptor and reservation are gone when the error comes out."""

    async def main() -> None:
        admission = mt.AdmissionController(scope="process")

        def engine(chunk: mt.AudioChunk) -> str:
            raise RuntimeError("no")

        with pytest.raises(mt.TranscriberFailedError):
            await mt.ChunkedTranscriber(engine, admission=admission).transcribe(SPEECH)
        assert (admission.statistics().active, admission.statistics().reserved_bytes) == (0, 0)
        assert psutil.Process().children() == []

    run(main)


def test_cancelling_in_the_engine_leaves_nothing(run: Run) -> None:
    """The same while the engine is thinking."""

    async def main() -> None:
        admission = mt.AdmissionController(scope="process")
        thinking = anyio.Event()

        async def engine(chunk: mt.AudioChunk) -> str:
            thinking.set()
            await anyio.sleep_forever()
            return ""

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(mt.ChunkedTranscriber(engine, admission=admission).transcribe, SPEECH)
            await thinking.wait()
            assert admission.statistics().active == 1
            tasks.cancel_scope.cancel()
        assert (admission.statistics().active, admission.statistics().reserved_bytes) == (0, 0)
        assert psutil.Process().children() == []

    run(main)


def test_leaving_the_stream_early_stops_the_work(run: Run) -> None:
    """One segment is enough for some; also while another task still iterates."""

    async def main() -> None:
        transcriber = mt.ChunkedTranscriber(lambda chunk: "text", chunk_seconds=1.0)
        async with transcriber.stream(SPEECH) as stream:
            async for segment in stream:
                assert segment.start_seconds == 0.0
                break
        assert psutil.Process().children() == []

    run(main)


def test_a_stream_says_when_its_block_has_ended(run: Run) -> None:
    """Not an error of closed files from deep inside."""

    async def main() -> None:
        async with mt.ChunkedTranscriber(lambda chunk: "text").stream(SPEECH) as stream:
            pass
        with pytest.raises(RuntimeError, match=r"the block of stream\(\) has ended"):
            await anext(stream)

    run(main)


def test_a_deadline_stops_the_job_and_is_told_to_the_engine(run: Run) -> None:
    """TimeoutError that says how far it came; the engine knew what time it had."""
    deadlines = []

    class Slow:
        capabilities = mt.Capabilities()

        async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
            deadlines.append(context.deadline_seconds)
            await anyio.sleep_forever()
            return mt.ChunkResult()

    async def main() -> None:
        await mt.ChunkedTranscriber(Slow()).transcribe(SPEECH, deadline_seconds=1.5)

    with pytest.raises(TimeoutError, match=r"deadline_seconds=1\.5 passed with 0 segments done"):
        run(main)
    assert deadlines[0] is not None
    assert 0 < deadlines[0] <= 1.5


def test_a_sync_engine_is_waited_for_when_cancelled(run: Run) -> None:
    """Its thread cannot be stopped: the slot stays taken until it has ended."""

    async def main() -> None:
        admission = mt.AdmissionController(scope="process")
        started, may_end = anyio.Event(), threading.Event()
        token = anyio.lowlevel.current_token()

        def engine(chunk: mt.AudioChunk) -> str:
            anyio.from_thread.run_sync(started.set, token=token)
            assert may_end.wait(30)
            return ""

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(mt.ChunkedTranscriber(engine, admission=admission).transcribe, SPEECH)
            await started.wait()
            tasks.cancel_scope.cancel()
            assert admission.statistics().active == 1
            may_end.set()
        assert admission.statistics().active == 0

    run(main)


@pytest.mark.parametrize("times", [1, 2, 5])
def test_native_cancellation_waits_for_the_thread_too(times: int) -> None:
    """asyncio's own Task.cancel(), as of `asyncio.wait_for`: the slot stays taken until the thread has ended."""

    async def main() -> None:
        admission = mt.AdmissionController(scope="process")
        started, may_end = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def engine(chunk: mt.AudioChunk) -> str:
            loop.call_soon_threadsafe(started.set)
            assert may_end.wait(30)
            return ""

        task = asyncio.create_task(mt.ChunkedTranscriber(engine, admission=admission).transcribe(SPEECH))
        await started.wait()
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert admission.statistics().active == 1
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (admission.statistics().active, admission.statistics().reserved_bytes) == (0, 0)
        assert psutil.Process().children() == []

    asyncio.run(main())


@pytest.mark.parametrize("times", [1, 2, 3])
def test_native_cancellation_gives_back_the_engine(times: int) -> None:
    """Its memory is not charged any more, and its process is gone."""

    async def main() -> None:
        admission = mt.AdmissionController(scope="process")
        transcriber = mt.ChunkedTranscriber("pocketsphinx", admission=admission)
        entered = asyncio.Event()

        async def use() -> None:
            async with transcriber.stream(SPEECH) as stream:
                await anext(stream)
                entered.set()
                await anext(stream)
                await asyncio.sleep(3600)

        task = asyncio.create_task(use())
        await entered.wait()
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (admission.statistics().active, admission.statistics().reserved_bytes) == (0, 0)
        assert psutil.Process().children() == []

    asyncio.run(main())


class Resident(Recorder):
    """An engine with a model, which counts how often it is closed."""

    capabilities = mt.Capabilities(resident_bytes=100 * mt.MiB)
    closed = 0

    async def aclose(self) -> None:
        self.closed += 1


def test_an_engines_memory_is_charged_while_it_is_open(run: Run) -> None:
    """Without a slot, and no longer than that; an object is its maker's to close."""
    engine = Resident()

    async def main() -> None:
        admission = mt.AdmissionController(scope="process")
        async with mt.ChunkedTranscriber(engine, admission=admission) as transcriber:
            assert (admission.statistics().active, admission.statistics().reserved_bytes) == (0, 100 * mt.MiB)
            await transcriber.transcribe(SPEECH)
            assert admission.statistics().reserved_bytes == 100 * mt.MiB
        assert admission.statistics().reserved_bytes == 0

    run(main)
    assert engine.closed == 0


HALF = "\ud83d"  # of a pair of surrogates, as JSON may have it


@pytest.mark.parametrize(
    "said",
    [
        mt.ChunkResult(text=f"so {HALF}", language=HALF),
        mt.ChunkResult(words=(mt.Word(f"so {HALF}", 0.0, 1.0),)),
        mt.ChunkResult(segments=(mt.Segment(f"so {HALF}", 0.0, 1.0),)),
        mt.ChunkResult(segments=(mt.Segment(f"so {HALF}", 0.0, 1.0, words=(mt.Word(HALF, 0.0, 1.0),)),)),
        ValueError(f"so {HALF}"),
    ],
    ids=["text", "words", "segments", "words of segments", "failure"],
)
def test_what_no_file_takes_is_replaced(run: Run, said: mt.ChunkResult | Exception) -> None:
    """A transcript that was paid for can be written; what cannot be of a letter is marked in its place."""
    transcript = run(mt.ChunkedTranscriber(FakeEngine([said]), on_error="mark").transcribe, SPEECH)
    assert "so \ufffd" in transcript.to_json()
    for text in (transcript.to_text(), transcript.to_srt(), transcript.to_vtt(), transcript.to_json()):
        assert text.encode().decode() == text


class Closing:
    """An engine whose closing takes as long as the test wants."""

    capabilities = mt.Capabilities(resident_bytes=100 * mt.MiB)
    made: ClassVar[list["Closing"]] = []

    def __init__(self) -> None:
        self.made.append(self)
        self.is_closing = anyio.Event()
        self.may_close = anyio.Event()
        self.does_close = False
        self.asked = 0

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> str:
        assert not self.does_close
        self.asked += 1
        return "heard"

    async def aclose(self) -> None:
        self.does_close = True
        self.is_closing.set()
        await self.may_close.wait()
        self.does_close = False


def test_an_engine_that_closes_is_not_asked_meanwhile(run: Run) -> None:
    """A job that comes just then waits for that, and only then promises its memory: there is one model at a time."""

    async def main() -> None:
        admission = mt.AdmissionController(scope="process")
        transcriber = mt.ChunkedTranscriber(f"{__name__}:{Closing.__name__}", admission=admission)
        engine = Closing.made[-1]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(transcriber.transcribe, SPEECH)
            await engine.is_closing.wait()
            tasks.start_soon(transcriber.transcribe, SPEECH)
            await anyio.wait_all_tasks_blocked()
            assert (engine.asked, admission.statistics().reserved_bytes) == (1, 100 * mt.MiB)
            engine.may_close.set()
        assert (engine.asked, admission.statistics().reserved_bytes) == (2, 0)

    run(main)


def test_an_engines_memory_counts_as_used_from_its_first_answer_on(run: Run, tmp_path: Path) -> None:
    """Not from silence on that was done before: until it is asked, it may have no model in memory yet."""
    path = write_wav(tmp_path / "late.wav", bytes(2 * 16_000 * 10) + tone_samples(40.0))
    admission = mt.AdmissionController(guard=FakeGuard(limit_bytes=1024 * mt.MiB), scope="process")
    budgets: list[int] = []

    class Looking(Resident):
        async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
            budgets.append(admission.statistics().budget_bytes)
            return await super().transcribe(chunk, context)

    async def main() -> mt.Transcript:
        return await mt.ChunkedTranscriber(Looking(), admission=admission, chunk_seconds=20).transcribe(path)

    assert run(main).duration_seconds == 50.0
    first, second, *_ = budgets
    assert 99 * mt.MiB < second - first < 110 * mt.MiB


def test_an_engine_is_opened_once_for_jobs_that_overlap(run: Run) -> None:
    """Without `async with`: charged from the first to the last, and again for the next."""
    engine = Resident()

    async def main() -> None:
        admission = mt.AdmissionController(scope="process")
        transcriber = mt.ChunkedTranscriber(engine, admission=admission)
        for _ in range(2):
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(transcriber.transcribe, SPEECH)
            assert admission.statistics().reserved_bytes == 0
        # Two openings of the engine, six jobs.
        assert admission.statistics().granted == 8
        assert admission.statistics().peak_reserved_bytes < 400 * mt.MiB

    run(main)


def test_at_the_ceiling_no_new_chunk_is_begun(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the deadline near, it ends in MemoryPressureError; what was finished had come out before."""

    limit = Term("limit", "cgroup v2 /full", "memory.max", 100 * mt.MiB, 0, 0)
    memory = tell(monkeypatch, limit)
    guard = mt.MemoryGuard()
    texts = []

    def engine(chunk: mt.AudioChunk) -> str:
        memory.say(replace(limit, used_bytes=95 * mt.MiB))
        return f"{chunk.index}"

    async def main() -> None:
        transcriber = mt.ChunkedTranscriber(
            engine, admission=mt.AdmissionController(guard=guard, scope="process"), chunk_seconds=1.0
        )
        with anyio.fail_after(2):
            async with transcriber.stream(SPEECH) as stream:
                async for segment in stream:
                    texts.append(segment.text)  # noqa: PERF401 - what came before the error must be kept

    with pytest.raises(mt.MemoryPressureError, match=r"95\.0 MiB of 100\.0 MiB are used by cgroup v2 /full") as caught:
        run(main)
    assert "ceiling_percent=90" in str(caught.value)
    assert texts == ["0"]


_HOST = """
import sys, anyio, pathlib, memsafe_transcribe as mt

async def engine(chunk):
    print("in the engine", flush=True)
    await anyio.sleep_forever()

async def main():
    downloader = mt.SafeDownloader(policy=mt.UrlPolicy(allow_private=True), spool_dir=sys.argv[2])
    await mt.ChunkedTranscriber(engine, downloader=downloader).transcribe(sys.argv[1])

anyio.run(main, backend=sys.argv[3])
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_sigkill_in_the_middle_leaves_nothing(server: Server, spool_dir: Path, backend: str) -> None:
    """Downloaded file, decoding process: gone with the host."""
    server.routes["/talk.mp3"] = lambda exchange: exchange.answer(SPEECH.read_bytes())
    command = [sys.executable, "-c", _HOST, server.url("/talk.mp3"), str(spool_dir), backend]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        assert host.stdout.readline() == "in the engine\n"
        (decoder,) = psutil.Process(host.pid).children()
        pidfd = os.pidfd_open(decoder.pid)
        try:
            host.send_signal(signal.SIGKILL)
            assert gone_within(pidfd, 30)
        finally:
            os.close(pidfd)


def test_twelve_jobs_leave_nothing_and_never_more_than_three_run(run: Run) -> None:
    """The audit's case in small: many jobs at once, one limit."""

    async def main() -> mt.AdmissionStatistics:
        admission = mt.AdmissionController(scope="process")
        transcriber = mt.ChunkedTranscriber(lambda chunk: "x", admission=admission)
        async with anyio.create_task_group() as tasks:
            for _ in range(12):
                tasks.start_soon(transcriber.transcribe, SPEECH)
        return admission.statistics()

    statistics = run(main)
    assert (statistics.granted, statistics.peak_active, statistics.active) == (12, 3, 0)
