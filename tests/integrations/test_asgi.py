"""The parts for FastAPI and Starlette, by the messages of ASGI alone: what is refused, streamed, and given up."""

import dataclasses
import io
import os
import re
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

import memsafe_transcribe as mt
from memsafe_transcribe.integrations import asgi
from memsafe_transcribe.integrations.asgi import (
    AdmissionMiddleware,
    SegmentEvents,
    draining,
    transcribe_while_connected,
)
from memsafe_transcribe.testing import FakeEngine, FakeGuard

from ..conftest import Run
from ..support.media import _wav_in_memory, tone_samples
from .exchange import Exchange

URL = "https://example.com/talk.mp3"
WAIT_SECONDS = 60.0


def alone(**options: Any) -> mt.AdmissionController:
    return mt.AdmissionController(scope="process", **options)


def raising(error: Exception, *, begun: bool = False) -> ASGIApp:
    """An application that raises, before or after it has begun to answer."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise error

    return app


def sound(seconds: float) -> bytes:
    return _wav_in_memory(tone_samples(seconds)).getvalue()


def service(transcriber: mt.ChunkedTranscriber, admission: mt.AdmissionController) -> Starlette:
    """A body to be transcribed, and a file of the service's own; whole, or as events."""

    async def whole(request: Request) -> Response:
        source = request.stream() if request.url.path == "/whole" else io.BytesIO(sound(3.0))
        return JSONResponse((await transcribe_while_connected(request, transcriber, source)).to_dict())

    async def events(request: Request) -> Response:
        source = request.stream() if request.url.path == "/events" else io.BytesIO(sound(3.0))
        return SegmentEvents(transcriber, source)

    routes = [Route(path, whole, methods=["POST"]) for path in ("/whole", "/own")]
    routes += [Route(path, events, methods=["POST"]) for path in ("/events", "/own/events")]
    return Starlette(routes=routes, middleware=[Middleware(AdmissionMiddleware, admission=admission)])


REFUSALS: list[tuple[Exception, int, str | None]] = [
    (mt.AdmissionRejectedError("full", need_bytes=1, waiting=9, retry_after_seconds=6.2), 503, "7"),
    (mt.DrainingError("ends", need_bytes=1, waiting=0, retry_after_seconds=5.0), 503, "5"),
    (mt.DrainingError("at once", need_bytes=1, waiting=0, retry_after_seconds=0.0), 503, "1"),
    (mt.AdmissionTimeoutError("no turn", need_bytes=1, timeout_seconds=9.0), 503, "1"),
    (mt.MemoryPressureError("full", need_bytes=1, used_bytes=2, limit_bytes=2, binding="host"), 503, "1"),
    (mt.ReservationTooLargeError("never", need_bytes=9, limit_bytes=1, ceiling_bytes=1), 413, None),
    (mt.DownloadTooLargeError("large", url=URL, size_bytes=2, max_bytes=1), 413, None),
    (mt.AudioLimitError("long", max_audio_seconds=1.0), 413, None),
    (mt.UnsupportedMediaError("text"), 415, None),
    (mt.DecoderCrashedError("crashed", reason="memory"), 422, None),
    (mt.UrlBlockedError("private", url=URL, reason="private"), 400, None),
    (mt.DownloadConnectionError("refused", url=URL), 502, None),
    (mt.HTTPStatusError("404", url=URL, status_code=404), 502, None),
    (mt.KnownBadUrlError("bad", url=URL, status_code=404, retry_after_seconds=60.0), 502, "60"),
    (mt.DownloadTimeoutError("slow", url=URL), 504, None),
    (mt.DownloadTimeoutError("slow", url="upload"), 408, None),
    (mt.DownloadProtocolError("empty", url="upload"), 400, None),
]
OPERATORS: list[tuple[Exception, int, str | None]] = [
    (mt.SpoolError("/secret: full", url=URL, spool_dir="/secret", errno=28), 507, None),
    (mt.TranscriberFailedError("secret", chunk_index=0, start_seconds=0.0, retryable=False), 502, None),
    (mt.TranscriberFailedError("secret", chunk_index=0, start_seconds=0.0, retryable=True), 503, "1"),
    (mt.StoreError("/secret: locked", path="/secret", reason="locked"), 503, "1"),
    (mt.StoreError("/secret: busy", path="/secret", reason="busy"), 503, "1"),
    (TimeoutError("secret"), 504, None),
]


@pytest.mark.parametrize(("error", "status", "retry_after"), REFUSALS + OPERATORS, ids=repr)
def test_each_error_has_its_status(
    run: Run, caplog: pytest.LogCaptureFixture, error: Exception, status: int, retry_after: str | None
) -> None:
    """With its message; that of the operator's own affairs is a warning in the log, and not for clients.

    A 503 always says when to come back, and never at once.
    """
    caplog.set_level("INFO", "memsafe_transcribe.asgi")

    async def main() -> Exchange:
        exchange = Exchange()
        await exchange.run(AdmissionMiddleware(raising(error), admission=alone()))
        return exchange

    answered = run(main)
    assert (answered.status, answered.headers.get("retry-after")) == (status, retry_after)
    assert answered.json["error"] == type(error).__name__
    is_operators = (error, status, retry_after) in OPERATORS
    (level,) = {record.levelname for record in caplog.records if record.name == "memsafe_transcribe.asgi"}
    assert level == ("WARNING" if is_operators else "INFO")
    if is_operators:
        assert "secret" not in answered.text
    else:
        assert answered.json["message"] == str(error)


@pytest.mark.parametrize(
    "error",
    [
        mt.NestedReservationError("in itself", need_bytes=1, held_bytes=1, left_bytes=0),
        mt.StoreError("corrupt", path="jobs.sqlite", reason="corrupt"),
        mt.TranscriberNotFoundError("no such engine", name="x", available=()),
        KeyError("anything else"),
    ],
    ids=repr,
)
def test_the_hosts_own_faults_are_left_to_the_host(run: Run, error: Exception) -> None:
    """Its handlers and logs have to see them."""
    with pytest.raises(type(error)):
        run(Exchange().run, AdmissionMiddleware(raising(error), admission=alone()))


def test_an_answer_that_has_begun_is_not_begun_again(run: Run) -> None:
    """The error goes on to the server, which cuts the answer off."""
    exchange = Exchange()
    with pytest.raises(mt.UnsupportedMediaError):
        run(exchange.run, AdmissionMiddleware(raising(mt.UnsupportedMediaError("text"), begun=True), admission=alone()))
    assert len(exchange.sent) == 1


def test_under_pressure_the_application_is_not_even_asked(run: Run) -> None:
    """Nor while the queue is full, nor while the process drains. But for memory alone, one job may be let in."""
    asked = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal asked
        asked += 1
        await Response()(scope, receive, send)

    async def main() -> None:
        guard = FakeGuard(limit_bytes=100 * mt.MiB, used_bytes=70 * mt.MiB)
        admission = alone(guard=guard, max_concurrent=1)
        gate = AdmissionMiddleware(app, admission=admission, max_waiting=2)

        async def status() -> int:
            exchange = Exchange()
            await exchange.run(gate)
            assert exchange.status == 200 or int(exchange.headers["retry-after"]) >= 1
            return exchange.status

        async def wait() -> None:
            with pytest.raises(mt.DrainingError):
                async with admission.reserve(0):
                    pass

        assert await status() == 200  # nothing runs that could free any
        held = admission.reserve_nowait(0)  # not by `with`: the tasks would stand within it
        assert await status() == 503
        guard.used_bytes = 10 * mt.MiB
        async with anyio.create_task_group() as tasks:
            for waiting, expected in enumerate((200, 200, 503), 1):
                assert await status() == expected
                tasks.start_soon(wait)
                while (
                    admission.statistics().waiting < waiting
                ):  # the first of them looks again and again: never blocked
                    await anyio.lowlevel.checkpoint()
            admission.drain()
        held.release()
        assert await status() == 503
        assert asked == 3

    run(main)


def test_of_a_burst_no_more_are_let_in_than_may_wait(run: Run) -> None:
    """Though none of them has come as far as the queue yet; who has ended makes room, however it did."""

    async def main() -> None:
        gate_open = anyio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await gate_open.wait()
            raise mt.UnsupportedMediaError("text")

        exchanges = [Exchange() for _ in range(5)]
        gate = AdmissionMiddleware(app, admission=alone(), max_waiting=2)
        async with anyio.create_task_group() as tasks:
            for exchange in exchanges:
                tasks.start_soon(exchange.run, gate)
            await anyio.wait_all_tasks_blocked()
            assert [exchange.status for exchange in exchanges if exchange.sent] == [503] * 3
            gate_open.set()
        again = Exchange()
        await again.run(gate)
        assert again.status == 415

    run(main)


def test_who_has_a_slot_does_not_wait(run: Run) -> None:
    """A request whose job runs takes no place of those that may wait."""

    async def main() -> None:
        admission, running, leave = alone(), anyio.Event(), anyio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            async with admission.reserve(0):
                running.set()
                await leave.wait()
            await Response()(scope, receive, send)

        gate = AdmissionMiddleware(app, admission=admission, max_waiting=1)
        first, second = Exchange(), Exchange()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first.run, gate)
            await running.wait()
            leave.set()  # for the second, which is let in while the first is still inside
            await second.run(gate)
        assert (first.status, second.status) == (200, 200)

    run(main)


def test_the_refusal_of_one_too_many_has_its_figures(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many wait, and when a slot comes free by all that is known."""

    async def main() -> Exchange:
        admission, exchange = alone(max_concurrent=1), Exchange()
        gate = AdmissionMiddleware(raising(KeyError()), admission=admission, max_waiting=1)

        async def wait() -> None:
            async with admission.reserve(0):
                pass

        held = admission.reserve_nowait(0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            while not admission.statistics().waiting:
                await anyio.lowlevel.checkpoint()
            now = admission.statistics()
            monkeypatch.setattr(admission, "statistics", lambda: dataclasses.replace(now, retry_after_seconds=42))
            await exchange.run(gate)
            monkeypatch.undo()
            held.release()
        return exchange

    answered = run(main)
    assert (answered.status, answered.headers["retry-after"]) == (503, "42")
    assert answered.json["message"].startswith("1 wait already (max_waiting)")
    assert answered.json["retry_after_seconds"] == 42


def test_what_runs_in_other_processes_is_waited_for_like_ones_own(run: Run) -> None:
    """It will free memory, too; only where nothing runs at all, one job may go up to the ceiling."""

    async def main() -> None:
        guard = FakeGuard(limit_bytes=100 * mt.MiB, used_bytes=10 * mt.MiB)
        here, elsewhere = (mt.AdmissionController(guard=guard) for _ in range(2))
        with elsewhere.reserve_nowait(0):
            guard.used_bytes = 70 * mt.MiB
            exchange = Exchange()
            await exchange.run(AdmissionMiddleware(raising(KeyError()), admission=here))
            assert (exchange.status, exchange.json["error"]) == (503, "MemoryPressureError")
        with pytest.raises(KeyError):
            await Exchange().run(AdmissionMiddleware(raising(KeyError()), admission=here))

    run(main)


def test_a_web_socket_is_none_of_its_business(run: Run) -> None:
    """Nor is the lifespan: they go through, even while the process drains, and so do their errors."""

    async def main() -> None:
        admission = alone()
        admission.drain()

        async def nothing(*_: Any) -> Any:
            raise AssertionError

        gate = AdmissionMiddleware(raising(mt.UnsupportedMediaError("text")), admission=admission)
        for kind in ("websocket", "lifespan"):
            with pytest.raises(mt.UnsupportedMediaError):
                await gate({"type": kind}, nothing, nothing)

    run(main)


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    ("source", "language", "said"),
    [
        ("talk.mp3", None, "'talk.mp3' is no http(s) URL"),
        ("ftp://a/b.mp3", None, "'ftp://a/b.mp3' is no http(s) URL"),
        (URL, "xx", "engine 'FakeEngine' knows the languages de, en; got 'xx'"),
    ],
)
def test_what_a_client_says_and_cannot_be_is_its_own_fault(
    run: Run, is_stream: bool, source: str, language: str | None, said: str
) -> None:
    """It is answered before anything is done for it; without the middleware it is the ValueError of `transcribe`."""

    async def main() -> None:
        admission = alone()
        engine = FakeEngine(capabilities=mt.Capabilities(languages=("de", "en")))
        transcriber = mt.ChunkedTranscriber(engine, admission=admission)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if is_stream:
                await SegmentEvents(transcriber, source, language=language)(scope, receive, send)
                return
            await transcribe_while_connected(Request(scope, receive), transcriber, source, language=language)

        exchange = Exchange()
        await exchange.run(AdmissionMiddleware(app, admission=admission))
        assert (exchange.status, exchange.json["message"]) == (400, said)
        assert admission.statistics().granted == 0
        with pytest.raises(ValueError, match=re.escape(said)):
            await Exchange().run(app)

    run(main)


@pytest.mark.parametrize("is_stream", [False, True])
def test_what_the_caller_says_reaches_the_engine(run: Run, is_stream: bool) -> None:
    """Language, prompt, and, for a whole transcript, the time that is left."""

    async def main() -> mt.ChunkContext:
        admission, engine = alone(), FakeEngine()
        transcriber = mt.ChunkedTranscriber(engine, admission=admission)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            said: dict[str, Any] = {"language": "pt", "prompt": "Ana"}
            if is_stream:
                await SegmentEvents(transcriber, io.BytesIO(sound(1.0)), **said)(scope, receive, send)
                return
            request = Request(scope, receive)
            source = io.BytesIO(sound(1.0))
            await transcribe_while_connected(request, transcriber, source, **said, deadline_seconds=WAIT_SECONDS)
            await Response()(scope, receive, send)

        await Exchange().run(app)
        ((_, context),) = engine.calls
        return context

    context = run(main)
    assert (context.language, context.prompt) == ("pt", "Ana")
    if not is_stream:
        assert context.deadline_seconds is not None and 0 < context.deadline_seconds <= WAIT_SECONDS


@pytest.mark.parametrize("path", ["/whole", "/events"])
def test_an_upload_comes_in_whole(run: Run, path: str) -> None:
    """Whoever waits for the client to hang up takes nothing of its body."""
    body = sound(3.0)
    pieces = [body[at : at + 10_000] for at in range(0, len(body), 10_000)]

    async def main() -> Exchange:
        admission, exchange = alone(), Exchange(path, pieces)
        await exchange.run(service(mt.ChunkedTranscriber(FakeEngine(["hello"]), admission=admission), admission))
        return exchange

    answered = run(main)
    assert answered.status == 200
    last = answered.json if path == "/whole" else answered.events[-1][1]
    assert (last["duration"], last["status"]) == (3.0, "complete")


@pytest.mark.parametrize("path", ["/whole", "/events"])
def test_an_upload_that_breaks_off_leaves_nothing(run: Run, path: str) -> None:
    """Nobody is there to be told, and no error is logged for it."""

    async def main() -> None:
        admission, exchange = alone(), Exchange(path, [b"RIFF"], cuts_off=True)
        await exchange.run(service(mt.ChunkedTranscriber(FakeEngine(), admission=admission), admission))
        assert (exchange.sent, admission.statistics().active) == ([], 0)

    run(main)


def test_a_source_that_is_not_read_to_its_end_is_closed(run: Run) -> None:
    """When the error comes, not when the garbage collector does."""
    closed: list[str] = []

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(1000)
        finally:
            await anyio.lowlevel.checkpoint()
            closed.append("closed")

    async def main() -> None:
        downloader = mt.SafeDownloader(max_bytes=5000)
        transcriber = mt.ChunkedTranscriber(FakeEngine(), admission=alone(), downloader=downloader)
        source = endless()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            with pytest.raises(mt.DownloadTooLargeError):
                await transcribe_while_connected(Request(scope, receive), transcriber, source)
            assert closed == ["closed"]

        await Exchange().run(app)

    run(main)


@pytest.mark.parametrize(
    ("path", "has_upload"), [("/own", False), ("/own/events", False), ("/whole", True), ("/events", True)]
)
def test_a_client_that_hangs_up_takes_its_job_with_it(run: Run, path: str, has_upload: bool) -> None:
    """The engine is left, the slot is given back; `run` looks for what else could be left.

    So it is after an upload, too: when all of the body is in, nobody else reads on.
    """

    async def main() -> None:
        admission, engine, exchange = alone(), FakeEngine(), Exchange(path, [sound(3.0)] if has_upload else [])
        engine.hold()
        with anyio.fail_after(WAIT_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(exchange.run, service(mt.ChunkedTranscriber(engine, admission=admission), admission))
                await engine.wait_for_calls(1)
                exchange.hung_up.set()
        assert (engine.active, engine.peak_active, admission.statistics().active) == (0, 1, 0)
        assert "event: done" not in exchange.text

    run(main)


def test_sending_to_nobody_ends_the_job(run: Run) -> None:
    """Servers of ASGI 2.4 raise it."""

    async def main() -> None:
        admission, engine, exchange = alone(), FakeEngine(), Exchange("/own/events", fails=True)
        with anyio.fail_after(WAIT_SECONDS):
            await exchange.run(service(mt.ChunkedTranscriber(engine, admission=admission), admission))
        assert admission.statistics().active == 0

    run(main)


def test_events_tell_all_there_is(run: Run) -> None:
    """Progress, each segment with its words, and how it ended."""

    async def main() -> Exchange:
        result = mt.ChunkResult(words=(mt.Word("hel\nlo", 0.5, 1.0),), language="en")
        engine = FakeEngine([result], capabilities=mt.Capabilities(max_chunk_seconds=60.0, timestamps="word"))
        admission, exchange = alone(), Exchange("/own/events")
        await exchange.run(service(mt.ChunkedTranscriber(engine, admission=admission), admission))
        return exchange

    answered = run(main)
    assert answered.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answered.headers["cache-control"] == "no-store"  # nor may a proxy hold events back
    assert answered.headers["x-accel-buffering"] == "no"
    assert "content-length" not in answered.headers
    assert answered.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    told = dict(answered.events)
    assert list(told) == ["progress", "segment", "done"]
    assert told["progress"] == {"phase": "transcribing", "done": 0.0, "total": 3.0}
    assert [word["start"] for word in told["segment"]["words"]] == [0.5]
    assert told["done"] == {"language": "en", "duration": 3.0, "status": "complete", "gaps": [], "suspects": []}


def test_segments_are_numbered_and_what_was_to_follow_follows(run: Run) -> None:
    """From 0, one by one; then the response's background task runs, as of any response of Starlette's."""
    ran: list[str] = []

    async def main() -> Exchange:
        engine = FakeEngine(["one", "two", "three"], capabilities=mt.Capabilities(max_chunk_seconds=1.0))
        events = SegmentEvents(mt.ChunkedTranscriber(engine, admission=alone()), io.BytesIO(sound(3.0)))
        events.background = BackgroundTask(ran.append, "after")
        exchange = Exchange()
        await exchange.run(events)
        return exchange

    answered = run(main)
    numbers = [event["id"] for name, event in answered.events if name == "segment"]
    assert len(numbers) >= 2
    assert numbers == list(range(len(numbers)))
    assert ran == ["after"]


def test_who_waits_hears_of_it_long_before_a_proxy_gives_up(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer begins after a second of silence; only from then on silence is as long as proxies bear it."""
    monkeypatch.setattr(asgi, "_KEEP_ALIVE_SECONDS", 3600.0)
    monkeypatch.setattr(asgi, "_REFUSED_WITHIN_SECONDS", 0.01)
    monkeypatch.setattr(asgi, "_PROGRESS_SECONDS", 0.01)

    async def main() -> Exchange:
        admission, exchange = alone(max_concurrent=1), Exchange("/own/events")
        held = admission.reserve_nowait(0)
        with anyio.fail_after(WAIT_SECONDS):
            async with anyio.create_task_group() as tasks:
                app = service(mt.ChunkedTranscriber(FakeEngine(), admission=admission), admission)
                tasks.start_soon(exchange.run, app)
                while not exchange.sent:
                    await anyio.lowlevel.checkpoint()
                held.release()
        return exchange

    assert run(main).events[-1][0] == "done"


def test_two_tasks_never_send_at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress and segments take turns, however long the server takes over a message."""
    monkeypatch.setattr(asgi, "_KEEP_ALIVE_SECONDS", 0.0)
    monkeypatch.setattr(asgi, "_REFUSED_WITHIN_SECONDS", 0.0)
    monkeypatch.setattr(asgi, "_PROGRESS_SECONDS", 0.0)
    sending = 0

    async def main() -> None:
        async def receive() -> Any:
            await anyio.sleep_forever()

        async def send(_: Any) -> None:
            nonlocal sending
            assert not sending
            sending += 1
            try:
                for _ in range(20):
                    await anyio.lowlevel.checkpoint()
            finally:  # the task that tells of progress is given up at the end
                sending -= 1

        engine = FakeEngine(["one", "two", "three"], capabilities=mt.Capabilities(max_chunk_seconds=1.0))
        events = SegmentEvents(mt.ChunkedTranscriber(engine, admission=alone()), io.BytesIO(sound(3.0)))
        await events({"type": "http"}, receive, send)

    run(main)


def test_what_is_refused_at_once_has_a_status_of_its_own(run: Run) -> None:
    """As long as nothing was told, the answer has not begun."""

    async def main() -> Exchange:
        admission, exchange = alone(max_concurrent=1, max_waiting=0), Exchange("/own/events")
        held = admission.reserve_nowait(0)
        await exchange.run(service(mt.ChunkedTranscriber(FakeEngine(), admission=admission), admission))
        held.release()
        return exchange

    answered = run(main)
    assert (answered.status, answered.json["error"]) == (503, "AdmissionRejectedError")


def test_what_fails_later_is_told_as_an_event(run: Run) -> None:
    """Who waits is told so after a second; what then becomes of it, when the answer has begun, is the last event."""

    async def main() -> Exchange:
        admission, exchange = alone(max_concurrent=1), Exchange("/own/events")
        held = admission.reserve_nowait(0)
        with anyio.fail_after(WAIT_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(
                    exchange.run, service(mt.ChunkedTranscriber(FakeEngine(), admission=admission), admission)
                )
                await exchange.wait_for("waiting")
                admission.drain()
        held.release()
        return exchange

    answered = run(main)
    assert answered.status == 200
    assert [name for name, _ in answered.events] == ["progress", "error"]
    last = answered.events[-1][1]
    assert (last["status"], last["error"], last["retry_after_seconds"]) == (503, "DrainingError", 5)


def test_the_hosts_own_fault_cuts_the_stream_off(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """After what was heard; the server and its logs see it."""
    monkeypatch.setattr(asgi, "ending_dict", {}.__getitem__)

    async def main() -> None:
        admission, exchange = alone(), Exchange("/own/events")
        with pytest.raises(KeyError):
            await exchange.run(service(mt.ChunkedTranscriber(FakeEngine(), admission=admission), admission))
        assert (exchange.events[-1][0], exchange.sent[-1]["more_body"]) == ("segment", True)

    run(main)


def test_silence_is_broken_before_a_proxy_gives_up(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """By comments, which clients skip."""
    monkeypatch.setattr(asgi, "_KEEP_ALIVE_SECONDS", 0.01)

    async def main() -> None:
        admission, engine, exchange = alone(), FakeEngine(), Exchange("/own/events")
        engine.hold()
        with anyio.fail_after(WAIT_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(exchange.run, service(mt.ChunkedTranscriber(engine, admission=admission), admission))
                await exchange.wait_for(": still here\n\n")
                engine.release()
        assert exchange.events[-1][0] == "done"

    run(main)


@contextmanager
def server(number: int) -> Iterator[list[int]]:
    """The handler that a server has for a signal; what it was called with."""
    called: list[int] = []
    before = signal.signal(number, lambda signum, frame: called.append(signum))
    try:
        yield called
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_of_the_end_drains_at_once(run: Run, number: int) -> None:
    """Also while this very thread is inside of the admission; the server gets it, too, and its handler back."""

    async def main() -> None:
        admission = alone(max_concurrent=1)
        held = admission.reserve_nowait(0)
        async with draining(admission, grace_seconds=WAIT_SECONDS):
            with pytest.raises(mt.DrainingError), anyio.fail_after(WAIT_SECONDS):
                with admission._keeper._lock:  # noqa: SLF001 - as the handler may find it
                    os.kill(os.getpid(), number)
                    assert called == [number]
                    assert not admission.is_draining
                async with admission.reserve(0):
                    pass
            held.release()
        assert admission.statistics().active == 0

    with server(number) as called:
        theirs = signal.getsignal(number)
        run(main)
        assert signal.getsignal(number) is theirs


def test_the_end_waits_no_longer_than_the_grace(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """And says what still runs."""

    async def main() -> None:
        admission = alone()
        with admission.reserve_nowait(0):
            async with draining(admission, grace_seconds=0):
                admission.drain()

    run(main)
    assert "1 jobs still run" in caplog.text


def test_signals_that_nobody_handles_are_left_alone(run: Run) -> None:
    """A process that would be ended by SIGTERM still is; and a thread can have no handlers."""

    async def main() -> None:
        async with draining(alone()):
            seen.append(signal.getsignal(signal.SIGTERM))

    seen: list[Any] = []
    run(main)
    assert seen == [signal.SIG_DFL]
    with server(signal.SIGTERM):
        thread = threading.Thread(target=anyio.run, args=(main,))
        thread.start()
        thread.join(WAIT_SECONDS)
        assert seen[1] is signal.getsignal(signal.SIGTERM)


def test_one_must_be_allowed_to_wait() -> None:
    """Else nothing would ever be let in."""
    with pytest.raises(ValueError, match="max_waiting"):
        AdmissionMiddleware(raising(KeyError()), max_waiting=0)
    AdmissionMiddleware(raising(KeyError()), max_waiting=1)
