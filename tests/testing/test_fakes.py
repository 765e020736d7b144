"""The fakes do as they are told, and what they stand for could not tell."""

import io
import socket
from http.client import HTTPConnection
from typing import Any

import anyio
import pytest

import memsafe_transcribe as mt
from memsafe_transcribe.testing import BadServer, FakeEngine, FakeGuard, Reply

from ..conftest import Run
from ..support.media import _wav_in_memory, tone_samples


def tone(seconds: float) -> io.BytesIO:
    return _wav_in_memory(tone_samples(seconds))


def chunk(index: int) -> mt.AudioChunk:
    return mt.AudioChunk(
        index=index, start_seconds=0, duration_seconds=0, sample_rate_hz=16_000, format="wav", data=bytes(44)
    )


def test_an_engine_answers_by_its_script(run: Run) -> None:
    """In turn, the last line for ever; without one, by the chunk's number."""

    async def main() -> None:
        engine = FakeEngine(["a", mt.ChunkResult(text="b", language="en"), KeyError("c"), "d"])
        assert (await engine.transcribe(chunk(0), mt.ChunkContext())).text == "a"
        assert (await engine.transcribe(chunk(1), mt.ChunkContext())).language == "en"
        with pytest.raises(KeyError, match="c"):
            await engine.transcribe(chunk(2), mt.ChunkContext())
        for index in (3, 4):
            assert (await engine.transcribe(chunk(index), mt.ChunkContext())).text == "d"
        assert [each.index for each, _ in engine.calls] == [0, 1, 2, 3, 4]
        assert (await FakeEngine().transcribe(chunk(7), mt.ChunkContext())).text == "chunk 7"

    run(main)


def test_a_held_engine_waits_and_counts(run: Run) -> None:
    """Calls go on when it is released, and a cancelled one is not in it any more."""

    async def main() -> None:
        engine = FakeEngine(capabilities=mt.Capabilities(concurrency=2))
        engine.hold()
        async with anyio.create_task_group() as tasks:
            for index in range(2):
                tasks.start_soon(engine.transcribe, chunk(index), mt.ChunkContext())
            await engine.wait_for_calls(2)
            assert (engine.active, engine.peak_active) == (2, 2)
            engine.release()
        engine.hold()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(engine.transcribe, chunk(2), mt.ChunkContext())
            await engine.wait_for_calls(3)
            tasks.cancel_scope.cancel()
        assert (engine.active, engine.peak_active, engine.closed) == (0, 2, 0)
        await engine.aclose()
        assert engine.closed == 1

    run(main)


def test_an_engine_is_one_to_a_transcriber(run: Run) -> None:
    """With an error in between, which is a gap."""
    engine = FakeEngine(["one", ValueError("bad"), "three"])

    async def main() -> mt.Transcript:
        source = _wav_in_memory(3 * (tone_samples(0.6) + bytes(9600)))
        return await mt.ChunkedTranscriber(engine, chunk_seconds=1.0, on_error="mark").transcribe(source)

    transcript = run(main)
    assert (transcript.text, transcript.status, len(transcript.gaps)) == ("one three", "partial", 1)


def test_a_guard_sees_what_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once; levels and refusals are the real ones, whatever the environment says of limits."""
    monkeypatch.setenv("MEMSAFE_LIMIT", "1MiB")
    guard = FakeGuard(limit_bytes=1000 * mt.MiB, used_bytes=100 * mt.MiB)
    snapshot = guard.check(499 * mt.MiB)
    assert (snapshot.limit_bytes, snapshot.used_bytes) == (1000 * mt.MiB, 100 * mt.MiB)
    assert (snapshot.percent, snapshot.level, snapshot.binding) == (10.0, mt.MemoryLevel.OK, "fake")
    with pytest.raises(mt.MemoryPressureError, match=r"100.0 MiB of 1000.0 MiB are used by fake"):
        guard.check(501 * mt.MiB)
    guard.used_bytes = 950 * mt.MiB
    assert guard.snapshot().level == mt.MemoryLevel.CRITICAL
    assert guard.room().admitted_work_bytes == -50 * mt.MiB
    assert guard.cleanup() == 0
    assert FakeGuard(limit_bytes=100, threshold_percent=50, ceiling_percent=50).check(50 - 1).limit_bytes == 100


def test_a_guard_that_waits_or_watches_is_told_too(run: Run) -> None:
    """`wait_until_ok` and `on_level` follow what a test sets."""

    async def main() -> None:
        guard = FakeGuard(limit_bytes=100, used_bytes=95)
        rose = anyio.Event()
        with pytest.raises(mt.MemoryPressureError):
            await guard.wait_until_ok(timeout_seconds=0)
        guard.used_bytes = 10
        assert (await guard.wait_until_ok(5)).used_bytes == 10
        guard.on_level(lambda snapshot: rose.set())
        async with guard:
            guard.used_bytes = 95
            with anyio.fail_after(10):
                await rose.wait()

    run(main)


def fetched(server: BadServer, path: str) -> bytes:
    async def main() -> bytes:
        downloader = mt.SafeDownloader(policy=mt.UrlPolicy(allow_private=True), max_attempts=2, max_bytes=100_000)
        async with downloader.fetch(server.url(path)) as file:
            return await anyio.Path(file.path).read_bytes()

    return anyio.run(main)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(b"good"), b"good"),
        (Reply(b"good", knows_head=False), b"good"),
        (Reply.slow(b"good", 0.01), b"good"),
        (Reply.redirect("/good"), b"elsewhere"),
        ([Reply(status="503 Busy", headers={"Retry-After": "0"}), Reply(b"then good")], b"then good"),
        (Reply(status="404 Not Found"), mt.HTTPStatusError),
        (Reply.truncated(b"cut", 1000), mt.TruncatedDownloadError),
        (Reply(b"x" * 1000, for_ever=True), mt.DownloadTooLargeError),
        (Reply(b"x", declared_bytes=10**9), mt.DownloadTooLargeError),
    ],
)
def test_a_server_has_the_manners_it_is_told(reply: Any, expected: Any) -> None:
    """And a downloader meets them."""
    with BadServer({"/it": reply, "/good": Reply(b"elsewhere")}) as server:
        if isinstance(expected, bytes):
            assert fetched(server, "/it") == expected
        else:
            with pytest.raises(expected):
                fetched(server, "/it")
        assert {request.target for request in server.requests} <= {"/it", "/good"}


def test_a_server_takes_what_is_posted_before_it_answers() -> None:
    """However large it is: to hang up on a client that still sends would be its error, in place of the answer."""
    with BadServer({"/it": Reply(b"no", status="413 Too Large")}) as server:
        client = HTTPConnection(server.url("").removeprefix("http://"))
        client.request("POST", "/it", body=bytes(16 << 20))
        with client.getresponse() as response:
            assert (response.status, response.read()) == (413, b"no")
        client.close()
        assert [request.method for request in server.requests] == ["POST"]


def test_a_server_keeps_requests_and_hangs_up_at_its_end() -> None:
    """Whoever hangs does not hold up the test."""
    with BadServer({"/it": Reply(b"part", declared_bytes=9, then_hangs=True)}) as server:
        with socket.create_connection(("127.0.0.1", int(server.url("").rsplit(":")[-1]))) as client:
            client.sendall(b"GET /it?a=1 HTTP/1.1\r\nHost: x\r\nX-Mine: yes\r\n\r\n")
            head = client.recv(1000)
            while b"part" not in head:
                head += client.recv(1000)
            server.__exit__(None, None, None)
            assert client.recv(10) == b""
    (request,) = server.requests
    assert (request.method, request.target, request.headers["x-mine"]) == ("GET", "/it?a=1", "yes")
