"""What a job will take, known before anything is decoded."""

import io
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, strategies as st

import memsafe_transcribe as mt
from memsafe_transcribe._transcription.planning import SHORTEST_CHUNK_SECONDS, Sizes, fitted, planned
from memsafe_transcribe._units import format_size
from memsafe_transcribe.testing import FakeGuard

from ..conftest import Run
from ..plugin.speech_clock import SpeechClock
from ..support.media import SPEECH, tone_samples, write_wav
from ..support.segments import pydub
from ..support.server import Server

SHORTEST_SAMPLES = int(SHORTEST_CHUNK_SECONDS * 16_000)
CALLS = st.builds(
    lambda fixed, rate: mt.Capabilities(call_bytes=fixed, call_bytes_per_second=rate).memory_bytes,
    st.integers(0, 10**8),
    st.floats(0, 10**6),
)
SIZES = st.builds(Sizes, st.integers(1, 300 * 16_000), st.integers(1, 16), CALLS)


@given(wanted=SIZES, other_bytes=st.integers(0, 10**9), free_bytes=st.integers(-(10**8), 10**9))
def test_what_is_fitted_fits_or_is_the_smallest(wanted: Sizes, other_bytes: int, free_bytes: int) -> None:
    """Never larger than wanted, never shorter than ten seconds for lack of memory, and as large as it can be."""
    sizes = fitted(wanted, other_bytes, free_bytes)
    assert min(wanted.chunk_samples, SHORTEST_SAMPLES) <= sizes.chunk_samples <= wanted.chunk_samples
    assert 1 <= sizes.concurrency <= wanted.concurrency
    if other_bytes + sizes.host_bytes > free_bytes:
        assert sizes == Sizes(min(wanted.chunk_samples, SHORTEST_SAMPLES), 1, wanted.call_bytes)
    if sizes.chunk_samples < wanted.chunk_samples:
        assert sizes.concurrency == 1
        longer = Sizes(min(wanted.chunk_samples, 2 * sizes.chunk_samples + 1), 1, wanted.call_bytes)
        assert other_bytes + longer.host_bytes > free_bytes
    if sizes.concurrency < wanted.concurrency:
        more = Sizes(wanted.chunk_samples, sizes.concurrency + 1, wanted.call_bytes)
        assert other_bytes + more.host_bytes > free_bytes


def test_what_fits_nowhere_is_asked_for_at_its_smallest() -> None:
    """It has to wait; chunks are made fewer before they are made shorter, and shorter than ten seconds never."""
    call = mt.Capabilities().memory_bytes
    wanted = Sizes(60 * 16_000, 3, call)
    assert fitted(wanted, 0, 0) == fitted(wanted, 10**9, 10**6) == Sizes(SHORTEST_SAMPLES, 1, call)
    assert fitted(wanted, 10**6, 10**6 + wanted.host_bytes) == wanted
    assert fitted(wanted, 10**6, 10**6 + wanted.host_bytes - 1) == Sizes(60 * 16_000, 2, call)
    half = Sizes(30 * 16_000, 1, call)
    assert fitted(wanted, 10**6, 10**6 + half.host_bytes) == half
    assert fitted(Sizes(5 * 16_000, 2, call), 0, 0) == Sizes(5 * 16_000, 1, call)


@pytest.mark.parametrize(("engine_bytes", "told"), [(0, ""), (5 << 20, ", the engine 5.0 MiB")])
def test_a_plan_says_what_it_is_made_of(engine_bytes: int, told: str) -> None:
    """The engine only where it adds something."""
    sizes = Sizes(60 * 16_000, 3, lambda seconds: 0)
    made = planned(sizes, 7 << 20, engine_bytes, 600.0, 9 << 20, "why")
    host = sizes.host_bytes
    assert made.why == f"decoding 7.0 MiB, chunks of 60 s, 3 at once, {format_size(host)}{told}; why"
    assert (made.peak_bytes, made.bounds[1]) == ((7 << 20) + host + engine_bytes, (9 << 20) + host + engine_bytes)


def plan(run: Run, source: Any, engine: Any = None, **arguments: Any) -> mt.Plan:
    """Of a job in an admission of its own; nothing stays reserved."""

    async def main() -> mt.Plan:
        admission = mt.AdmissionController(scope="process", guard=arguments.pop("guard", None))
        transcriber = mt.ChunkedTranscriber(engine or SpeechClock(), admission=admission, **arguments)
        made: mt.Plan = await transcriber.plan(source)
        assert (admission.statistics().active, admission.statistics().reserved_bytes) == (0, 0)
        return made

    result: mt.Plan = run(main)
    return result


def test_a_file_is_planned_by_its_header(run: Run) -> None:
    """Length, chunks, and what it takes; the engine is not asked, nor opened."""

    def engine(chunk: mt.AudioChunk) -> str:
        raise AssertionError("asked")

    made = plan(run, SPEECH, engine)
    assert made.duration_seconds == pytest.approx(31.6, abs=0.1)
    assert (made.chunk_seconds, made.concurrency) == (60.0, 1)
    assert 16 * mt.MiB < made.peak_bytes < 26 * mt.MiB
    assert made.bounds[0] == made.peak_bytes
    assert made.bounds[0] < made.bounds[1] < 50 * mt.MiB
    assert made.why.startswith("decoding 16.0 MiB, chunks of 60 s, 1 at once")


def test_what_the_engine_takes_is_in_the_plan(run: Run) -> None:
    """Its model, unless it is open already; its copies of each chunk; and as many chunks as it takes at once."""

    class Large(SpeechClock):
        capabilities = mt.Capabilities(max_chunk_seconds=30, resident_bytes=100 * mt.MiB, concurrency=2)

    small, large = plan(run, SPEECH, chunk_seconds=30), plan(run, SPEECH, Large())
    assert (large.chunk_seconds, large.concurrency) == (30.0, 2)
    assert 102 * mt.MiB < large.peak_bytes - small.peak_bytes < 105 * mt.MiB

    async def while_open() -> mt.Plan:
        async with mt.ChunkedTranscriber(Large(), admission=mt.AdmissionController(scope="process")) as transcriber:
            return await transcriber.plan(SPEECH)

    assert run(while_open).peak_bytes == large.peak_bytes - 100 * mt.MiB


def test_short_memory_makes_fewer_and_shorter_chunks(run: Run, tmp_path: Path) -> None:
    """The plan says so, and the job does so."""
    path = write_wav(tmp_path / "tone.wav", tone_samples(70.0))
    heard: list[float] = []

    class Watched(SpeechClock):
        capabilities = mt.Capabilities(max_chunk_seconds=300, timestamps="word", concurrency=3)

        async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
            heard.append(chunk.duration_seconds)
            return await super().transcribe(chunk, context)

    async def main(free_bytes: int) -> mt.Plan:
        admission = mt.AdmissionController(guard=mt.MemoryGuard(limit_bytes=2048 * mt.MiB), scope="process")
        rest = admission.statistics().budget_bytes - free_bytes
        with admission.reserve_nowait(rest, slot=False):
            transcriber = mt.ChunkedTranscriber(Watched(), admission=admission)
            made = await transcriber.plan(path)
        with_less = admission.reserve_nowait(rest, slot=False)
        async with transcriber.stream(path) as stream:
            words = [word async for segment in stream for word in segment.words]
        with_less.release()
        assert len(words) == 175
        return made

    assert run(main, 60 * mt.MiB).concurrency == 3
    assert run(main, 25 * mt.MiB).concurrency in (1, 2)
    assert max(heard) > 30
    heard.clear()
    short = run(main, 19 * mt.MiB)
    assert (short.concurrency, short.chunk_seconds < 30) == (1, True)
    assert max(heard) < 34


@pytest.mark.parametrize("is_url", [False, True])
def test_chunks_leave_room_for_an_engine_that_is_not_open_yet(
    run: Run, server: Server, tmp_path: Path, is_url: bool
) -> None:
    """The sizes are those that the job will have when it is."""
    path = write_wav(tmp_path / "tone.wav", tone_samples(70.0))
    server.routes["/tone.wav"] = lambda exchange: exchange.answer(path.read_bytes())
    source = server.url("/tone.wav") if is_url else path

    class Large(SpeechClock):
        capabilities = mt.Capabilities(max_chunk_seconds=60, resident_bytes=100 * mt.MiB, concurrency=3)

    async def main() -> None:
        guard = FakeGuard(limit_bytes=140 * mt.MiB, threshold_percent=90)
        admission = mt.AdmissionController(guard=guard, scope="process")
        downloader = mt.SafeDownloader(policy=mt.UrlPolicy(allow_private=True), admission=admission)
        transcriber = mt.ChunkedTranscriber(Large(), admission=admission, downloader=downloader)
        closed = await transcriber.plan(source)
        assert (closed.concurrency, closed.chunk_seconds) == (1, 60.0)
        async with transcriber:
            opened = await transcriber.plan(source)
        assert (opened.concurrency, opened.chunk_seconds) == (1, 60.0)
        assert closed.peak_bytes == opened.peak_bytes + 100 * mt.MiB

    run(main)


@pytest.mark.parametrize("says_its_length", [True, False])
def test_a_url_is_planned_by_bounds(run: Run, server: Server, tmp_path: Path, says_its_length: bool) -> None:
    """Nothing is downloaded; what the file will need is not known before, and the plan says so."""
    body = SPEECH.read_bytes()
    server.routes["/talk.mp3"] = (
        (lambda exchange: exchange.answer(body))
        if says_its_length
        else (lambda exchange: exchange.answer(b"", "405 Method Not Allowed"))
    )
    downloader = mt.SafeDownloader(policy=mt.UrlPolicy(allow_private=True), max_bytes=10 * mt.MiB)
    made = plan(run, server.url("/talk.mp3"), downloader=downloader)
    assert made.duration_seconds is None
    assert made.bounds[0] == made.peak_bytes < 30 * mt.MiB
    most = len(body) if says_its_length else 10 * mt.MiB
    assert made.bounds[1] - made.bounds[0] == pytest.approx(14 * most + 21 * mt.MiB, abs=mt.MiB)
    assert ("of unknown size" in made.why) != says_its_length
    assert "format is not known before" in made.why
    assert {request.method for request in server.requests} == {"HEAD"}


def test_a_segment_and_a_file_object_are_planned_too(run: Run) -> None:
    """Of what is in memory already, or open."""
    segment = pydub.AudioSegment(data=tone_samples(7.0), sample_width=2, frame_rate=16_000, channels=1)
    assert plan(run, segment).duration_seconds == pytest.approx(7.0)
    with SPEECH.open("rb") as file:
        assert plan(run, file).duration_seconds == pytest.approx(31.6, abs=0.1)
        assert file.tell() == 0


def test_what_has_to_be_spooled_first_is_not_planned(run: Run) -> None:
    """It would have to be read for it, and some can be read only once."""

    async def parts() -> Any:
        yield b""

    for source in (parts(), io.BytesIO(b"RIFF")):
        with pytest.raises(TypeError, match="would have to be read to its end"):
            plan(run, source)
    with pytest.raises(ValueError, match="name a local file by pathlib"):
        plan(run, "talk.mp3")


def test_what_is_no_audio_is_refused(run: Run, tmp_path: Path) -> None:
    """As it would be by the job."""
    (tmp_path / "text.mp3").write_text("no audio")
    with pytest.raises(mt.UnsupportedMediaError):
        plan(run, tmp_path / "text.mp3")
    with pytest.raises(mt.AudioLimitError, match="max_audio_seconds=10"):
        plan(run, SPEECH, max_audio_seconds=10)


def test_a_plan_waits_for_memory_like_everybody(run: Run) -> None:
    """A decoding process is started for it."""

    async def main() -> None:
        guard = mt.MemoryGuard(limit_bytes=2048 * mt.MiB)
        admission = mt.AdmissionController(guard=guard, scope="process")
        most = admission.reserve_nowait(admission.statistics().budget_bytes - 5 * mt.MiB)
        transcriber = mt.ChunkedTranscriber(SpeechClock(), admission=admission, queue_timeout_seconds=0.1)
        with pytest.raises(mt.AdmissionTimeoutError):
            await transcriber.plan(SPEECH)
        most.release()
        with anyio.fail_after(30):
            await transcriber.plan(SPEECH)

    run(main)


def test_a_task_that_holds_a_reservation_plans_on_it(run: Run) -> None:
    """Without waiting for what it holds itself."""

    async def main() -> None:
        admission = mt.AdmissionController(scope="process", max_concurrent=1)
        async with admission.reserve(20 * mt.MiB):
            assert (await mt.ChunkedTranscriber(SpeechClock(), admission=admission).plan(SPEECH)).peak_bytes

    run(main)


def test_a_job_that_has_to_queue_plans_with_its_share(run: Run, tmp_path: Path) -> None:
    """Others hold nearly all memory when it comes: it waits for them, instead of making shorter chunks."""
    path = write_wav(tmp_path / "tone.wav", tone_samples(70.0))
    heard: list[float] = []

    class Watched(SpeechClock):
        async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
            heard.append(chunk.duration_seconds)
            return await super().transcribe(chunk, context)

    async def main() -> None:
        admission = mt.AdmissionController(guard=mt.MemoryGuard(limit_bytes=2048 * mt.MiB), scope="process")
        running = admission.reserve_nowait(admission.statistics().budget_bytes - 20 * mt.MiB)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(mt.ChunkedTranscriber(Watched(), admission=admission).transcribe, path)
            with anyio.fail_after(60):
                while not admission.statistics().waiting and not heard:
                    await anyio.lowlevel.checkpoint()
            running.release()

    run(main)
    assert len(heard) == 2
