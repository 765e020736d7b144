"""Every bad manner of a server that speaks OpenAI's API, and the key, which is shown nowhere."""

import json
import logging
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

import memsafe_transcribe as mt
from memsafe_transcribe.transcribers.openai import OpenAITranscriber

from ..conftest import Run
from ..support.media import SPEECH, tone_samples, write_wav
from ..support.server import Exchange, Server, in_turn
from .openai_server import ERRORS, JSON, KEY, PATH, asked, assert_no_key_in, chunk, failed, says


@pytest.mark.parametrize(("route", "kind", "message"), ERRORS, ids=[case[2] for case in ERRORS])
def test_every_failure_is_one_of_ours_and_without_the_key(
    run: Run,
    server: Server,
    caplog: pytest.LogCaptureFixture,
    route: Callable[[Exchange], None],
    kind: type[mt.TranscriberError],
    message: str,
) -> None:
    """One request each, as the library retries and not the SDK; and the key is nowhere that anybody would look."""
    caplog.set_level(logging.DEBUG)
    server.routes[PATH] = route
    with pytest.raises(mt.TranscriberError, match=message) as raised:
        run(partial(asked, server, timeout_seconds=0.5 if "0.5" in message else 20))
    assert type(raised.value) is kind
    assert len(server.requests) == 1
    shown = "".join(traceback.TracebackException.from_exception(raised.value, capture_locals=True).format())
    assert "Zq9Xw8" not in shown + caplog.text
    assert_no_key_in(raised.value)


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [("7", 7, 7), ("0.5", 0.5, 0.5), ("Wed, 21 Oct 2015 07:28:00 GMT", None, None), ("soon", None, None),
     ("-1", None, None), ("nan", None, None), (f"Mon, 01 Jan 2024 00:00:00 +{'9' * 25}", None, None),
     ("Fri, 01 Jan 2100 00:00:00 GMT", 1e9, 3e9)],
)  # fmt: skip
def test_the_servers_own_wait_is_passed_on(
    run: Run, server: Server, value: str, low: float | None, high: float | None
) -> None:
    """Seconds or a date; one that has passed, or is none, asks for nothing."""
    server.routes[PATH] = failed("429 Too Many Requests", Retry_After=value)
    with pytest.raises(mt.TranscriberUnavailableError) as raised:
        run(asked, server)
    wait_seconds = raised.value.retry_after_seconds
    assert wait_seconds is None if low is None else wait_seconds is not None and low <= wait_seconds <= high  # type: ignore[operator]


def test_nobody_at_home(run: Run, server: Server) -> None:
    """A refused connection is worth another try."""
    with Server() as gone:
        url = gone.url("/v1")

    async def main() -> None:
        engine = OpenAITranscriber(api_key=KEY, base_url=url)
        try:
            await engine.transcribe(chunk(), mt.ChunkContext())
        finally:
            await engine.aclose()

    with pytest.raises(mt.TranscriberUnavailableError, match="could not be asked"):
        run(main)


def test_a_job_waits_as_the_server_asks_and_halves_what_is_too_large(run: Run, server: Server, tmp_path: Path) -> None:
    """Through the whole library: 429, then 413, then both halves."""
    path = write_wav(tmp_path / "tone.wav", tone_samples(8.0))
    server.routes[PATH] = in_turn(
        failed("429 Too Many Requests", Retry_After="0.01"), failed("413 Payload Too Large"), says({"text": "half"})
    )
    engine = OpenAITranscriber(api_key=KEY, base_url=server.url("/v1"))

    async def main() -> mt.Transcript:
        try:
            return await mt.ChunkedTranscriber(engine).transcribe(path)
        finally:
            await engine.aclose()

    transcript = run(main)
    assert (transcript.text, len(server.requests)) == ("half half", 4)


def test_a_quota_ends_the_job_at_its_first_chunk(run: Run, server: Server) -> None:
    """What is left stands in a gap."""
    server.routes[PATH] = failed("429 Too Many Requests", "used up", "insufficient_quota")

    async def main() -> mt.Transcript:
        engine = OpenAITranscriber(api_key=KEY, base_url=server.url("/v1"), concurrency=1)
        try:
            return await mt.ChunkedTranscriber(engine, on_error="mark", chunk_seconds=10).transcribe(SPEECH)
        finally:
            await engine.aclose()

    transcript = run(main)
    assert (transcript.status, len(server.requests)) == ("partial", 1)
    assert "used up" in transcript.gaps[0].reason


def test_times_that_cannot_be_are_marked(run: Run, server: Server, tmp_path: Path) -> None:
    """In milliseconds, backwards, or beyond the chunk."""
    path = write_wav(tmp_path / "tone.wav", tone_samples(8.0))
    wrong = [{"word": f"w{n}", "start": 4000 - n, "end": -n} for n in range(6)]
    server.routes[PATH] = says({"text": "w0 w1 w2 w3 w4 w5", "words": wrong})

    async def main() -> mt.Transcript:
        engine = OpenAITranscriber(api_key=KEY, base_url=server.url("/v1"))
        try:
            return await mt.ChunkedTranscriber(engine).transcribe(path)
        finally:
            await engine.aclose()

    transcript = run(main)
    assert transcript.text == "w0 w1 w2 w3 w4 w5"
    assert not any(word.trusted for word in transcript.words)
    assert all(0 <= word.start_seconds <= word.end_seconds <= 8 for word in transcript.words)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": "ftp://example.com"}, "an http or https URL"),
        ({"base_url": f"https://u:{KEY}@example.com/v1"}, "no user, password"),
        ({"base_url": f"https://example.com/v1?key={KEY}"}, "query or fragment"),
        ({"api_key": f"{KEY}\n{KEY}"}, "characters that no key has"),
        ({"timestamps": "letter"}, "got 'letter'"),
        ({"timeout_seconds": 0}, "must be more than 0"),
        ({"concurrency": 0}, "must be at least 1"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_bad_options_are_refused_and_no_key_is_quoted(options: dict[str, Any], message: str) -> None:
    """Not by the registry either, which names the options."""
    engine = "memsafe_transcribe.transcribers.openai:OpenAITranscriber"
    with pytest.raises(mt.TranscriberError, match=message) as raised:
        mt.ChunkedTranscriber(engine, engine_options={"api_key": KEY, **options})
    assert_no_key_in(raised.value)


def test_the_key_is_in_no_childs_environment_and_in_no_log(
    run: Run, server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While a job runs with its decoder, at DEBUG, with the key in this process's own environment."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url("/v1"))
    environments: list[bytes] = []

    def route(exchange: Exchange) -> None:
        for child in psutil.Process().children(recursive=True):
            with suppress(OSError):  # it has ended
                environments.append(Path(f"/proc/{child.pid}/environ").read_bytes())
        exchange.answer(json.dumps({"text": "text"}).encode(), **JSON)

    server.routes[PATH] = route

    async def main() -> mt.Transcript:
        engine = "memsafe_transcribe.transcribers.openai:OpenAITranscriber"
        # So short that the decoder is not done while the first chunks are asked for.
        async with mt.ChunkedTranscriber(engine, chunk_seconds=2) as transcriber:
            return await transcriber.transcribe(SPEECH)

    assert run(main).status == "complete"
    assert environments
    assert not any(b"Zq9Xw8" in each for each in environments)
    assert "openai" in {record.name.split(".")[0] for record in caplog.records}
    assert "Zq9Xw8" not in caplog.text
