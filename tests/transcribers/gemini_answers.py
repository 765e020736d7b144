"""What comes back from the service, well or not, and what becomes of it."""

import socket
from typing import Any

import anyio
import pytest

import memsafe_transcribe as mt

from ..support.gemini_server import (
    PATH,
    blocked,
    candidate,
    chunk_of,
    quota_failure,
    refuses,
    retry_info,
    says,
    send,
)
from ..support.server import Handler, Server
from .gemini_base import AGAIN, HALVE, PLAIN, QUOTA, GeminiBase, break_off, hang_up, hold, html, reset


class AnswerCases(GeminiBase):
    """One call each."""

    @pytest.mark.parametrize(
        ("handler", "kind", "said", "wait_seconds"),
        [
            (refuses("429 Too Many Requests", "slow", retry_info("34.074824224s")), AGAIN, "429: slow", 34.074824224),
            (refuses("429 Too Many Requests", "slow", Retry_After="7"), AGAIN, "429: slow", 7.0),
            (refuses("429 Too Many Requests", "slow"), AGAIN, "429: slow", None),
            (refuses("429 Too Many Requests", "slow", retry_info("soon"), Retry_After="never"), AGAIN, "slow", None),
            (html("429 Too Many Requests", Retry_After="3"), AGAIN, "429", 3.0),
            (
                refuses(
                    "429 Too Many Requests",
                    "You exceeded your current quota",
                    quota_failure("GenerateRequestsPerDayPerProjectPerModel-FreeTier"),
                    retry_info("51s"),
                ),
                QUOTA,
                "exceeded your current quota",
                None,
            ),
            (
                refuses(
                    "429 Too Many Requests",
                    "You exceeded your current quota",
                    quota_failure("GenerateRequestsPerMinutePerProjectPerModel-FreeTier"),
                    retry_info("51s"),
                ),
                AGAIN,
                "exceeded your current quota",
                51.0,
            ),
            (refuses("400 Bad Request", "API key not valid"), PLAIN, "400: API key not valid", None),
            (refuses("400 Bad Request", "Request payload size exceeds the limit: 1"), HALVE, "payload size", None),
            (refuses("401 Unauthorized", "who are you"), PLAIN, "401: who are you", None),
            (refuses("403 Forbidden", "not for you"), PLAIN, "403: not for you", None),
            (refuses("404 Not Found", "no such model"), PLAIN, "404: no such model", None),
            (html("404 Not Found"), PLAIN, "404", None),
            (html("413 Content Too Large"), HALVE, "413", None),
            (
                lambda exchange: send(exchange, [{"error": {"message": "in a list"}}], "403 No"),
                PLAIN,
                "in a list",
                None,
            ),
            (lambda exchange: send(exchange, "a text", "503 No"), AGAIN, "503", None),
            (refuses("408 Request Timeout", "slow"), AGAIN, "408", None),
            (refuses("500 Internal Server Error", "oh"), AGAIN, "500: oh", None),
            (html("502 Bad Gateway"), AGAIN, "502", None),
            (refuses("503 Service Unavailable", "overloaded", Retry_After="2"), AGAIN, "503: overloaded", 2.0),
            (refuses("504 Gateway Timeout", "Deadline expired"), AGAIN, "504: Deadline expired", None),
            (html("200 OK"), AGAIN, "not understood", None),
            (reset, AGAIN, "not reached", None),
            (hang_up, AGAIN, "not reached", None),
            (break_off, AGAIN, "not reached", None),
        ],
    )
    def test_what_is_no_answer(
        self, server: Server, engine: Any, handler: Handler, kind: type, said: str, wait_seconds: float | None
    ) -> None:
        """Each becomes the error that says what is to be done. The SDK asks once: repeating is the library's."""
        server.routes[PATH] = handler
        failure = self.failure(engine)
        assert type(failure) is kind
        assert said in str(failure)
        assert getattr(failure, "retry_after_seconds", None) == wait_seconds
        assert len(self.asked(server)) == 1

    @pytest.mark.parametrize(
        ("handler", "kind", "said"),
        [
            (lambda exchange: send(exchange, {"candidates": []}), PLAIN, "without a candidate"),
            (lambda exchange: send(exchange, {}), PLAIN, "without a candidate"),
            (blocked("SAFETY"), PLAIN, "SAFETY"),
            (candidate(None, "SAFETY"), PLAIN, "SAFETY"),
            (candidate("half", "RECITATION"), PLAIN, "RECITATION"),
            (candidate(None), PLAIN, "no text"),
            (candidate('{"segments": [{"text": "It wa', "MAX_TOKENS"), HALVE, "MAX_TOKENS"),
            (candidate(None, "MAX_TOKENS"), HALVE, "MAX_TOKENS"),
            (candidate('{"segments": [{"text": "It wa'), HALVE, "breaks off"),
            (candidate("I am sorry, I cannot do that."), PLAIN, "not the JSON"),
            (candidate('{"words": []}'), PLAIN, "without a list of segments"),
            (candidate('{"segments": [{"start": 0, "end": 1}]}'), PLAIN, "without text"),
        ],
    )
    def test_what_is_no_transcript(self, server: Server, engine: Any, handler: Handler, kind: type, said: str) -> None:
        """Named, or to be halved."""
        server.routes[PATH] = handler
        failure = self.failure(engine)
        assert type(failure) is kind
        assert said in str(failure)

    def test_nobody_speaks(self, server: Server, engine: Any) -> None:
        """An empty list is an empty text, no error."""
        server.routes[PATH] = says(language="unknown")
        assert engine.transcribe(chunk_of(1.0), mt.ChunkContext()) == mt.ChunkResult()

    def test_a_redirect_takes_the_key_nowhere(self, server: Server, engine: Any) -> None:
        """It is an error."""
        server.routes[PATH] = lambda exchange: exchange.answer(
            status="307 Temporary Redirect", Location=server.url("/elsewhere"), Connection="close"
        )
        assert "307" in str(self.failure(engine))
        assert "/elsewhere" not in [request.path for request in server.requests]
        assert len(self.asked(server)) == 1

    @pytest.mark.parametrize(
        ("timeout_seconds", "deadline_seconds"), [(0.3, None), (60.0, 0.3)], ids=["timeout", "deadline"]
    )
    def test_silence_ends(self, server: Server, timeout_seconds: float, deadline_seconds: float | None) -> None:
        """After the engine's own time, or the job's if that is less."""
        server.routes[PATH] = hold
        engine = self.make(server, timeout_seconds=timeout_seconds)
        failure = self.failure(engine, deadline_seconds=deadline_seconds)
        assert isinstance(failure, mt.TranscriberUnavailableError)
        assert "imeout" in str(failure)
        assert len(self.asked(server)) == 1
        anyio.run(engine.aclose)

    def test_nobody_listens(self, server: Server) -> None:
        """May pass."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            engine = self.make(server, base_url=f"http://127.0.0.1:{taken.getsockname()[1]}")
            assert type(self.failure(engine)) is mt.TranscriberUnavailableError
            anyio.run(engine.aclose)
