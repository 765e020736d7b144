"""Whole jobs by a Gemini engine."""

import contextlib
import io
import logging
import pickle
import threading
import traceback
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

import memsafe_transcribe as mt

from ..conftest import Run
from ..support.gemini_server import (
    ENGINES,
    KEY,
    PATH,
    candidate,
    question_in,
    quota_failure,
    refuses,
    says,
)
from ..support.media import tone_samples, write_wav
from ..support.server import Exchange, Server, in_turn
from .gemini_base import HTML, SOON, GeminiBase, html, reset


class JobCases(GeminiBase):
    """Asked by the library, on asyncio and trio."""

    def test_a_whole_job(self, run: Run, server: Server, tmp_path: Path) -> None:
        """Audio, language and prompt go out; text comes back, with times that are marked as guesses."""
        server.routes[PATH] = says(("It was brillig.", 0.5, 2.0))
        source = write_wav(tmp_path / "tone.wav", tone_samples(8.0))
        transcript = self.transcribe(run, server, source)
        assert (transcript.text, transcript.status, transcript.language) == ("It was brillig.", "complete", "en")
        assert [segment.trusted for segment in transcript.segments] == [False]
        (request,) = self.asked(server)
        assert (request.method, request.headers["x-goog-api-key"]) == ("POST", KEY)
        assert KEY not in request.path + request.query
        assert self.audio_in(request)[:4] == b"RIFF"
        assert len(self.audio_in(request)) == 44 + 8 * 32_000
        assert "8.0 seconds" in question_in(request)
        assert "code en" in question_in(request)
        assert "Jabberwock" in question_in(request)

    def test_times_that_cannot_be(self, run: Run, server: Server, tmp_path: Path) -> None:
        """Beyond the recording, backwards, in another unit: the text is kept in order, within it, and marked."""
        server.routes[PATH] = says(("One.", 70, 80), ("Two.", 5, 2), ("Three.", "0:03", 4_000_000), ("Four.", -3, -1))
        transcript = self.transcribe(run, server, write_wav(tmp_path / "tone.wav", tone_samples(5.0)))
        assert transcript.text == "One. Two. Three. Four."
        assert not any(segment.trusted for segment in transcript.segments)
        times = [time for each in transcript.segments for time in (each.start_seconds, each.end_seconds)]
        assert times == sorted(times)
        assert times[0] >= 0
        assert times[-1] <= 5.0

    def test_what_passes_is_asked_again(self, run: Run, server: Server, tmp_path: Path) -> None:
        """By the library."""
        server.routes[PATH] = in_turn(SOON, html("502 Bad Gateway"), reset, html("200 OK"), says(("Yes.", 0, 1)))
        transcript = self.transcribe(run, server, write_wav(tmp_path / "tone.wav", tone_samples(5.0)))
        assert (transcript.text, len(self.asked(server))) == ("Yes.", 5)

    def test_an_answer_that_was_cut_off_is_asked_for_in_halves(self, run: Run, server: Server, tmp_path: Path) -> None:
        """The audio of both is all of it."""
        server.routes[PATH] = in_turn(candidate("{", "MAX_TOKENS"), says(("One.", 0, 1)), says(("Two.", 2, 3)))
        transcript = self.transcribe(run, server, write_wav(tmp_path / "tone.wav", tone_samples(8.0)))
        assert transcript.text == "One. Two."
        whole, *halves = (len(self.audio_in(request)) - 44 for request in self.asked(server))
        assert len(halves) == 2
        assert all(half < whole for half in halves)
        assert sum(halves) >= whole

    def test_a_daily_quota_ends_the_job(self, run: Run, server: Server, tmp_path: Path) -> None:
        """No further chunk is sent, whatever `on_error` says."""
        quota = refuses("429 No", "used up", quota_failure("GenerateRequestsPerDayPerProjectPerModel"))
        server.routes[PATH] = in_turn(says(("One.", 0, 1)), quota)
        source = write_wav(tmp_path / "tone.wav", tone_samples(40.0))
        transcript = self.transcribe(run, server, source, on_error="mark", concurrency=1)
        assert (transcript.text, transcript.status, len(self.asked(server))) == ("One.", "partial", 2)
        assert "used up" in transcript.gaps[0].reason

    def test_a_chunk_that_is_refused_is_a_gap(self, run: Run, server: Server, tmp_path: Path) -> None:
        """Named; the job goes on."""
        server.routes[PATH] = in_turn(says(("One.", 0, 1)), refuses("400 Bad", "bad audio"), says(("Three.", 0, 1)))
        source = write_wav(tmp_path / "tone.wav", tone_samples(25.0))
        transcript = self.transcribe(run, server, source, on_error="mark", concurrency=1)
        assert transcript.text.startswith("One. Three.")
        assert "bad audio" in transcript.gaps[0].reason

    def test_cancelled_while_it_waits(self, run: Run, server: Server, tmp_path: Path) -> None:
        """The request is waited for until the service hangs up, then the job ends and leaves nothing."""
        source = write_wav(tmp_path / "tone.wav", tone_samples(5.0))
        asked, cancelled = threading.Event(), threading.Event()

        def until_cancelled(exchange: Exchange) -> None:
            asked.set()
            assert cancelled.wait(30)

        server.routes[PATH] = until_cancelled
        kind = ENGINES[self.name]

        async def main() -> None:
            options = self.options_for(server, timeout_seconds=30)
            async with mt.ChunkedTranscriber(
                f"{kind.__module__}:{kind.__qualname__}",
                engine_options=options,
                admission=mt.AdmissionController(scope="process"),
            ) as transcriber:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(transcriber.transcribe, source)
                    await anyio.to_thread.run_sync(asked.wait, 30)
                    tasks.cancel_scope.cancel()
                    cancelled.set()
            assert tasks.cancel_scope.cancelled_caught

        run(main)
        assert len(self.asked(server)) == 1

    def test_two_chunks_at_once(self, run: Run, server: Server, tmp_path: Path) -> None:
        """As `concurrency` says; each is answered only when both have come."""
        both = threading.Barrier(2)

        def answer(exchange: Exchange) -> None:
            both.wait(30)
            says(("Yes.", 0, 1))(exchange)

        server.routes[PATH] = answer
        source = write_wav(tmp_path / "tone.wav", tone_samples(18.0))
        assert self.transcribe(run, server, source, concurrency=2).status == "complete"
        assert len(self.asked(server)) == 2

    def test_the_key_is_nowhere(
        self, run: Run, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
    ) -> None:
        """Not in logs at DEBUG, however the service repeats it; not in errors, objects, or a child's environment."""
        monkeypatch.setenv("GEMINI_API_KEY", KEY)
        lines = io.StringIO()
        handler = _Everything(lines)
        # Google's loggers pass nothing on to the root.
        loggers = {logger: logger.level for logger in map(logging.getLogger, (None, "google", "google.auth"))}
        for logger in loggers:
            logger.setLevel(logging.DEBUG)
            logger.addHandler(handler)
        environments: list[bytes] = []

        def look(exchange: Exchange) -> None:
            children = [Path(f"/proc/{child.pid}/environ") for child in psutil.Process().children(recursive=True)]
            with contextlib.suppress(OSError):  # at the end of the job it has nothing more to decode
                environments.extend(path.read_bytes() for path in children)
            says(("Yes.", 0, 1))(exchange)

        leaky = refuses("403 Forbidden", f"Consumer 'api_key:{KEY}' was suspended{' ' * 350}{KEY}")
        pages = [leaky, lambda exchange: exchange.answer(KEY.encode() + HTML, Connection="close"), reset]
        server.routes[PATH] = look
        source = write_wav(tmp_path / "tone.wav", tone_samples(60.0))
        try:
            assert self.transcribe(run, server, source, api_key=None).status == "complete"
            server.routes[PATH] = in_turn(*pages)
            engine = self.make(server)
            failures = [self.failure(engine) for _ in pages]
            with pytest.raises(mt.TranscriberFailedError) as job:
                server.routes[PATH] = leaky
                self.transcribe(run, server, source)
            with pytest.raises(mt.TranscriberError) as made:
                self.transcribe(run, server, source, timeout_seconds=-1)
            anyio.run(engine.aclose)
        finally:
            for logger, level in loggers.items():
                logger.setLevel(level)
                logger.removeHandler(handler)
        assert environments
        assert PATH in lines.getvalue()
        objects = (engine, vars(engine), engine.capabilities, *failures, job.value, made.value)
        shown = [f"{each!r} {each}" for each in objects]
        shown += ["".join(traceback.format_exception(each)) for each in (*failures, job.value, made.value)]
        shown += [repr(pickle.dumps(each)) for each in (*failures, job.value)]
        shown += [lines.getvalue(), repr(environments), *capfd.readouterr()]
        secrets = [KEY, KEY[:16], *self.secrets()]
        assert [each for each in shown if any(secret in each for secret in secrets)] == []
        assert "[key]" in str(failures[0])


class _Everything(logging.StreamHandler[io.StringIO]):
    """Writes each record with all of its attributes."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{record.getMessage()} {vars(record)}"
