"""The engine by google-genai where each chunk is a file of the service's: what all do, and the steps around it."""

import logging
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import anyio
import pytest

import memsafe_transcribe as mt
from memsafe_transcribe.transcribers import google_genai
from memsafe_transcribe.transcribers.google_genai import GoogleGenaiTranscriber

from ..support.gemini_server import (
    KEY,
    MODEL,
    PATH,
    UPLOAD_PATH,
    FileService,
    chunk_of,
    quota_failure,
    refuses,
    retry_info,
    says,
)
from ..support.server import Exchange, Handler, Server
from .gemini_answers import AnswerCases
from .gemini_base import AGAIN, HALVE, PLAIN, QUOTA, break_off, hang_up, hold, html, reset
from .gemini_jobs import JobCases
from .gemini_making import MakingCases

MIB = 1024 * 1024
DAILY = refuses("429 No", "used up", quota_failure("GenerateRequestsPerDayPerProjectPerModel"))


def redirected(exchange: Exchange) -> None:
    """To another place of the same server."""
    exchange.answer(status="307 Temporary Redirect", Location="/elsewhere", Connection="close")


class TestGoogleGenaiFile(AnswerCases, JobCases, MakingCases):
    """Every case of an engine, and no file is ever left of it."""

    name = "google-genai"
    options: ClassVar[dict[str, Any]] = {"upload": "file"}
    most_copies = 4.0
    most_declared = 4.0

    @pytest.fixture(autouse=True)
    def files(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileService]:
        """The service, which takes its time with each file."""
        monkeypatch.setattr(google_genai, "_FIRST_POLL_SECONDS", 0.0)
        self._files = FileService(server)
        self._files.states = ("PROCESSING", "PROCESSING", "ACTIVE")
        yield self._files
        assert self._files.files == {}

    def audio_in(self, exchange: Exchange) -> bytes:
        return self._files.audio_in(exchange)

    def secrets(self) -> list[str]:
        assert self._files.secrets
        return ["upload-secret"]

    @pytest.mark.parametrize("step", ["start", "upload", "get"])
    @pytest.mark.parametrize(
        ("handler", "kind", "said", "wait_seconds"),
        [
            (refuses("429 Too Many Requests", "slow", retry_info("34s")), AGAIN, "429: slow", 34.0),
            (refuses("429 Too Many Requests", "slow", Retry_After="7"), AGAIN, "429: slow", 7.0),
            (DAILY, QUOTA, "429: used up", None),
            (refuses("400 Bad Request", "API key not valid"), PLAIN, "400: API key not valid", None),
            (refuses("403 Forbidden", "no more room for files"), PLAIN, "403: no more room", None),
            (html("413 Content Too Large"), HALVE, "413", None),
            (refuses("500 Internal Server Error", "oh"), AGAIN, "500: oh", None),
            (refuses("503 Service Unavailable", "overloaded", Retry_After="2"), AGAIN, "503: overloaded", 2.0),
            (html("502 Bad Gateway"), AGAIN, "502", None),
            (html("200 OK"), AGAIN, "not understood", None),
            (reset, AGAIN, "not reached", None),
            (hang_up, AGAIN, "not reached", None),
            (break_off, AGAIN, "not reached", None),
            (redirected, PLAIN, "307", None),
        ],
    )
    def test_a_step_that_fails(
        self,
        server: Server,
        engine: Any,
        files: FileService,
        step: str,
        handler: Handler,
        kind: type,
        said: str,
        wait_seconds: float | None,
    ) -> None:
        """Is the same error as of the question itself; made once, and nothing is asked about the file."""
        count = 0

        def counted(exchange: Exchange) -> None:
            nonlocal count
            count += 1
            handler(exchange)

        files.answers[step] = counted
        failure = self.failure(engine)
        assert type(failure) is kind
        assert said in str(failure)
        assert getattr(failure, "retry_after_seconds", None) == wait_seconds
        assert (count, self.asked(server)) == (1, [])
        assert "/elsewhere" not in [request.path for request in server.requests]
        assert files.files == {}

    @pytest.mark.parametrize(
        ("timeout_seconds", "deadline_seconds"), [(0.3, None), (60.0, 0.3)], ids=["timeout", "deadline"]
    )
    @pytest.mark.parametrize("step", ["start", "upload", "get"])
    def test_a_step_that_hangs(
        self, server: Server, files: FileService, step: str, timeout_seconds: float, deadline_seconds: float | None
    ) -> None:
        """Ends as silence after the question does."""
        files.answers[step] = hold
        engine = self.make(server, timeout_seconds=timeout_seconds)
        failure = self.failure(engine, deadline_seconds=deadline_seconds)
        assert type(failure) is AGAIN
        assert "imeout" in str(failure)
        anyio.run(engine.aclose)

    @pytest.mark.parametrize("timeout_seconds", [100.0, 121.0])
    def test_the_time_is_that_of_all_steps(
        self, server: Server, files: FileService, monkeypatch: pytest.MonkeyPatch, timeout_seconds: float
    ) -> None:
        """Each takes forty seconds: three have gone when it would be asked about. The file is deleted all the same."""
        clock = 0.0
        monkeypatch.setattr(google_genai, "monotonic", lambda: clock)
        files.states = ("PROCESSING", "ACTIVE")

        def slow(handler: Handler) -> Handler:
            def answer(exchange: Exchange) -> None:
                nonlocal clock
                clock += 40.0
                handler(exchange)

            return answer

        for step in ("start", "upload", "get"):
            files.answers[step] = slow(files.answers[step])
        server.routes[PATH] = says(("Yes.", 0, 1))
        engine = self.make(server, timeout_seconds=timeout_seconds)
        if timeout_seconds > 120:
            engine.transcribe(chunk_of(1.0), mt.ChunkContext())
        else:
            assert "imeout" in str(self.failure(engine))
        assert len(self.asked(server)) == (timeout_seconds > 120)
        anyio.run(engine.aclose)

    def test_a_file_that_stays_in_the_making(self, server: Server, files: FileService) -> None:
        """Is waited for as long as there is time, at growing intervals, and deleted."""
        files.states = ("PROCESSING",)
        engine = self.make(server, timeout_seconds=0.3)
        failure = self.failure(engine)
        assert type(failure) is AGAIN
        assert "imeout" in str(failure)
        anyio.run(engine.aclose)

    def test_looks_are_farther_and_farther_apart(
        self, server: Server, engine: Any, files: FileService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """From a quarter of a second to five."""
        pauses: list[float] = []
        monkeypatch.setattr(google_genai, "_FIRST_POLL_SECONDS", 0.25)
        monkeypatch.setattr(google_genai, "sleep", pauses.append)
        files.states = ("PROCESSING",) * 7 + ("ACTIVE",)
        server.routes[PATH] = says(("Yes.", 0, 1))
        engine.transcribe(chunk_of(1.0), mt.ChunkContext())
        assert pauses == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0]

    def test_a_file_that_cannot_be_processed(self, server: Server, engine: Any, files: FileService) -> None:
        """Is a failure of its chunk, with the service's reason."""
        files.states = ("PROCESSING", "FAILED")
        failure = self.failure(engine)
        assert type(failure) is PLAIN
        assert "cannot be decoded" in str(failure)
        assert self.asked(server) == []

    @pytest.mark.parametrize("handler", [refuses("500 Oh", f"oh {KEY}"), reset, html("403 No"), hold])
    def test_a_file_that_cannot_be_deleted(
        self,
        server: Server,
        files: FileService,
        handler: Handler,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """The answer counts, or the failure; that it was left there is said once."""
        files.answers["delete"] = handler
        engine = self.make(server, timeout_seconds=1)
        server.routes[PATH] = says(("Yes.", 0, 1))
        assert engine.transcribe(chunk_of(1.0), mt.ChunkContext()).segments[0].text == "Yes."
        server.routes[PATH] = refuses("400 Bad", "bad audio")
        assert "bad audio" in str(self.failure(engine))
        warnings = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
        assert len(warnings) == 2
        assert all(name in warning for name, warning in zip(files.files, warnings, strict=True))
        assert all("could not be deleted" in warning and "48 hours" in warning for warning in warnings)
        assert KEY not in caplog.text
        files.files.clear()
        anyio.run(engine.aclose)

    def test_the_steps_of_a_chunk(self, server: Server, engine: Any, files: FileService) -> None:
        """More than a request could hold, in the SDK's own pieces; asked about by its address, and deleted."""
        server.routes[PATH] = says(("Yes.", 0, 1))
        chunk = chunk_of(700.0)
        assert engine.transcribe(chunk, mt.ChunkContext()).language == "en"
        rest = len(chunk.data) - 16 * MIB
        assert files.pieces == [8 * MIB, 8 * MIB, rest]
        assert list(files.received.values()) == [chunk.data]
        (name,) = files.received
        upload, file = ("POST", UPLOAD_PATH), f"/v1beta/{name}"
        looks = [("GET", file)] * 2
        assert [(request.method, request.path) for request in server.requests] == [
            *[upload] * 4,
            *looks,
            ("POST", PATH),
            ("DELETE", file),
        ]
        assert len(self.asked(server)[0].body) < 10_000
        assert {request.headers.get("x-server-timeout", "600") for request in server.requests} == {"600"}

    def test_chunks_at_once_keep_to_themselves(self, server: Server, engine: Any, files: FileService) -> None:
        """Four threads, four files, each with its own bytes."""
        server.routes[PATH] = says(("Yes.", 0, 1))
        chunks = [chunk_of(1.0 + number) for number in range(4)]
        threads = [threading.Thread(target=engine.transcribe, args=(each, mt.ChunkContext())) for each in chunks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(map(len, files.received.values())) == [len(chunk.data) for chunk in chunks]
        assert len(self.asked(server)) == 4

    def test_an_upload_goes_nowhere_else(
        self, server: Server, files: FileService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With a proxy's address it is made there; without, a service that names another host gets nothing there."""

        def elsewhere(exchange: Exchange) -> None:
            files.start(Renamed(exchange))

        files.answers["start"] = elsewhere
        server.routes[PATH] = says(("Yes.", 0, 1))
        engine = self.make(server)
        engine.transcribe(chunk_of(1.0), mt.ChunkContext())
        anyio.run(engine.aclose)
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url(""))
        engine = self.make(server, base_url=None)
        failure = self.failure(engine)
        assert type(failure) is PLAIN
        assert "sent elsewhere: to elsewhere.invalid" in str(failure)
        anyio.run(engine.aclose)

    def test_an_upload_s_address_is_in_no_message(self, server: Server, engine: Any, files: FileService) -> None:
        """Its query lets anybody write there."""
        said = f"no such upload: {server.url(UPLOAD_PATH)}?upload_id=upload-secret-9&upload_protocol=resumable, sorry"
        files.answers["upload"] = refuses("404 Not Found", said)
        failure = self.failure(engine)
        assert "upload-secret" not in str(failure)
        assert f"{server.url(UPLOAD_PATH)} sorry" in str(failure)

    def test_other_threads_are_heard_in_the_log(
        self, server: Server, engine: Any, files: FileService, caplog: Any
    ) -> None:
        """Only an upload's own requests are kept out of it."""

        def answer(exchange: Exchange) -> None:
            logging.getLogger("httpx").info("another's request")
            files.upload(exchange)

        files.answers["upload"] = answer
        server.routes[PATH] = says(("Yes.", 0, 1))
        with caplog.at_level(logging.DEBUG):
            engine.transcribe(chunk_of(1.0), mt.ChunkContext())
            logging.getLogger("httpx").info("a later request")
        said = [record.getMessage() for record in caplog.records if record.name in ("httpx", "httpx2")]
        assert (said[0], said[-1]) == ("another's request", "a later request")
        assert PATH in caplog.text
        assert UPLOAD_PATH not in caplog.text

    def test_limits_are_the_service_s(self, server: Server) -> None:
        """9.5 hours of audio in a prompt, which are less than 2 GB."""
        capabilities = self.make(server).capabilities
        assert capabilities.longest_chunk_seconds == 9.5 * 3600
        assert (capabilities.max_chunk_bytes, capabilities.counts_base64) == (2_000_000_000, False)

    @pytest.mark.parametrize("seconds", [263.0, 600.0])
    def test_memory_of_long_chunks_in_flight(self, server: Server, seconds: float) -> None:
        """At most four times their size too, where the SDK sends pieces."""
        figures = self.memory_figures(server, seconds, 1)
        assert figures["added_bytes"] <= self.most_copies * figures["encoded_bytes"]
        assert figures["added_bytes"] <= figures["declared_bytes"] <= self.most_copies * figures["encoded_bytes"]

    def test_another_way_is_refused(self) -> None:
        """At once."""
        with pytest.raises(ValueError, match='upload must be "inline" or "file", got \'files\''):
            GoogleGenaiTranscriber(MODEL, api_key=KEY, upload="files")  # type: ignore[arg-type]


class Renamed(Exchange):
    """Answers with another host in the address of the upload."""

    def __init__(self, exchange: Exchange) -> None:
        self.__dict__.update(exchange.__dict__)

    def answer(self, body: bytes = b"", status: str = "200 OK", **headers: str) -> None:
        path = headers["X_Goog_Upload_URL"].partition("/upload/")[2]
        super().answer(body, status, **{**headers, "X_Goog_Upload_URL": f"http://elsewhere.invalid/upload/{path}"})
