"""OpenAI's API on loopback, spoken to by its own SDK as it is: what is sent, and what comes back."""

import json
import subprocess
import sys
import threading
from functools import partial

import anyio
import anyio.to_thread
import pytest

import memsafe_transcribe as mt
from memsafe_transcribe.transcribers.openai import OpenAITranscriber

from ..conftest import Run
from ..support.server import Exchange, Server, in_turn
from .openai_server import JSON, KEY, PATH, SAID, asked, chunk, form, says


def test_a_chunk_is_sent_and_its_words_come_back(run: Run, server: Server) -> None:
    """With the text's punctuation; the whole WAV file has arrived, with model, language, prompt and the key."""
    bodies: list[bytes] = []

    def route(exchange: Exchange) -> None:
        bodies.append(exchange.body)
        exchange.answer(json.dumps(SAID).encode(), **JSON)

    server.routes[PATH] = route
    result = run(asked, server, mt.ChunkContext(language="en", prompt="Alice"))
    assert [word.text for word in result.words] == ["Oh", "dear,", "I", "shall", "be", "late!"]
    assert (result.words[5].start_seconds, result.words[5].end_seconds) == (1.25, 1.45)
    assert (result.language, result.segments) == ("english", ())
    fields = form(bodies[0])
    assert fields.pop("file") == [chunk().data]
    assert fields == {
        "model": [b"whisper-1"], "language": [b"en"], "prompt": [b"Alice"],
        "response_format": [b"verbose_json"], "timestamp_granularities[]": [b"word"],
    }  # fmt: skip
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


def test_a_model_without_times_is_asked_for_text(run: Run, server: Server) -> None:
    """The gpt-4o-transcribe family refuses verbose_json; what is asked for can be said, too."""
    bodies: list[bytes] = []

    def route(exchange: Exchange) -> None:
        bodies.append(exchange.body)
        exchange.answer(json.dumps({"text": "Oh dear"}).encode(), **JSON)

    server.routes[PATH] = route
    for ask in (partial(asked, model="gpt-4o-transcribe"), partial(asked, model="own", timestamps="segment")):
        result = run(ask, server)
        assert (result.text, result.words) == ("Oh dear", ())
    none, segment = map(form, bodies)
    assert (none["response_format"], "timestamp_granularities[]" in none) == ([b"json"], False)
    assert segment["timestamp_granularities[]"] == [b"segment"]
    engine = OpenAITranscriber("gpt-4o-mini-transcribe", api_key=KEY)
    assert (engine.capabilities.timestamps, engine.capabilities.max_chunk_seconds) == ("none", 300.0)


def test_segments_serve_where_a_server_gives_no_words(run: Run, server: Server) -> None:
    """And words that are not found in the text stay as they are."""
    segments = [{"id": 0, "start": 0.0, "end": 1.5, "text": " Oh dear."}]
    server.routes[PATH] = in_turn(
        says({"text": "Oh dear.", "segments": segments}),
        says({"text": "Oh dear.", "words": [{"word": "other", "start": 0, "end": 1}]}),
        says({"text": ""}),
    )
    result = run(asked, server)
    assert [(each.text, each.end_seconds) for each in result.segments] == [(" Oh dear.", 1.5)]
    assert [word.text for word in run(asked, server).words] == ["other"]
    assert run(asked, server) == mt.ChunkResult()


@pytest.mark.parametrize("moment", ["before the answer", "in the upload", "in the answer"])
def test_a_cancelled_call_leaves_nothing(run: Run, server: Server, moment: str) -> None:
    """The connection is closed on this side, and the engine is good for another chunk."""

    def held(exchange: Exchange) -> None:
        if moment == "in the upload":
            released.wait(30)
            return
        if moment == "in the answer":
            exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n{")
        exchange.hold_until_closed()

    released = threading.Event()
    server.routes[PATH] = in_turn(held, says(SAID))

    async def main() -> mt.ChunkResult:
        engine = OpenAITranscriber(api_key=KEY, base_url=server.url("/v1"))
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(engine.transcribe, chunk(300.0), mt.ChunkContext())
                await anyio.to_thread.run_sync(server.wait_for_requests, 1)
                await anyio.sleep(0.1)
                tasks.cancel_scope.cancel()
            released.set()
            return await engine.transcribe(chunk(), mt.ChunkContext())
        finally:
            await engine.aclose()

    assert len(run(main).words) == 6


def test_one_engine_serves_chunks_at_once_and_again_after_closing(run: Run, server: Server) -> None:
    """As a transcriber does that is used without `async with`."""
    server.routes[PATH] = says(SAID)

    async def main() -> list[int]:
        engine = OpenAITranscriber(api_key=KEY, base_url=server.url("/v1"))
        heard: list[int] = []

        async def one() -> None:
            heard.append(len((await engine.transcribe(chunk(), mt.ChunkContext())).words))

        for _ in range(2):
            async with anyio.create_task_group() as tasks:
                for _ in range(4):
                    tasks.start_soon(one)
            await engine.aclose()
        await engine.aclose()
        return heard

    assert run(main) == [6] * 8


@pytest.mark.parametrize("seconds", [0.2, 0.0])
def test_the_deadline_of_a_job_holds(run: Run, server: Server, seconds: float) -> None:
    """Where it is shorter than the engine's own patience, be there no time left at all."""
    server.routes[PATH] = lambda exchange: exchange.hold_until_closed()
    with pytest.raises(mt.TranscriberUnavailableError, match=rf"within {seconds:g} s|could not be asked"):
        run(asked, server, mt.ChunkContext(deadline_seconds=seconds))


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, run: Run, server: Server) -> None:
    """Key and address; a server of your own needs no key."""
    with pytest.raises(mt.TranscriberError, match="set OPENAI_API_KEY"):
        mt.ChunkedTranscriber("memsafe_transcribe.transcribers.openai:OpenAITranscriber")
    assert "no API key" in str(OpenAITranscriber.missing())
    monkeypatch.setenv("OPENAI_BASE_URL", server.url("/v1/"))
    assert OpenAITranscriber.missing() is None
    server.routes[PATH] = says(SAID)

    async def main() -> None:
        engine = OpenAITranscriber()
        try:
            await engine.transcribe(chunk(), mt.ChunkContext())
        finally:
            await engine.aclose()

    run(main)
    assert server.requests[0].headers["authorization"] == "Bearer none"
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    engine = OpenAITranscriber()
    assert repr(engine) == f"OpenAITranscriber(model='whisper-1', base_url='{server.url('/v1')}')"
    assert KEY not in str(engine.capabilities)


def test_without_the_sdk_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is imported before the first chunk."""
    script = (
        "import sys, memsafe_transcribe.transcribers.openai as o; o.OpenAITranscriber(api_key='x'); print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "openai" not in loaded
    monkeypatch.setitem(sys.modules, "openai", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(mt.TranscriberError, match=r"pip install 'memsafe-transcribe\[openai\]'"):
        OpenAITranscriber(api_key=KEY)


_MEASURED = """
import sys, threading, time
import anyio
import memsafe_transcribe as mt
from memsafe_transcribe._audio.encoding import wav
from memsafe_transcribe.transcribers.openai import OpenAITranscriber

def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon", "RssShmem")))

async def main():
    [getattr(mt, name) for name in mt.__all__]
    url, seconds, count = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    engine = OpenAITranscriber(api_key="x", base_url=url)
    idle = anonymous()

    def chunk(seconds):
        data = wav([b"ab" * int(seconds * 16000)], 16000)
        return mt.AudioChunk(index=0, start_seconds=0, duration_seconds=seconds, sample_rate_hz=16000, format="wav",
                             data=data)

    await engine.transcribe(chunk(1.0), mt.ChunkContext())
    warm = anonymous()
    chunks = [chunk(seconds) for _ in range(count)]
    before, peak, ended = anonymous(), 0, threading.Event()

    def watch():
        nonlocal peak
        while not ended.wait(0.002):
            peak = max(peak, anonymous())

    watching = threading.Thread(target=watch)
    watching.start()
    async with anyio.create_task_group() as tasks:
        for each in chunks:
            tasks.start_soon(engine.transcribe, each, mt.ChunkContext())
    ended.set()
    watching.join()
    declared = engine.capabilities
    await engine.aclose()
    print(warm - idle, max(0, peak - before), declared.resident_bytes, count * declared.memory_bytes(seconds))

anyio.run(main, backend=sys.argv[4])
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_memory_in_flight_is_what_is_declared(server: Server, backend: str) -> None:
    """Four chunks of five minutes, 38 MB, each held for a while in mid-upload and again before its answer."""
    seconds, count = 300.0, 4

    def route(exchange: Exchange) -> None:
        left = int(exchange.headers["content-length"])
        is_large = left > 1_000_000
        if is_large:
            held.wait()
        if is_large:
            held.wait()
        exchange.answer(json.dumps(SAID).encode(), **JSON)

    held = threading.Barrier(count, timeout=60)
    server.routes[PATH] = route
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, server.url("/v1"), str(seconds), str(count), backend],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    resident, in_flight, declared_resident, declared_in_flight = map(int, done.stdout.split())
    assert resident <= declared_resident
    assert in_flight <= declared_in_flight
