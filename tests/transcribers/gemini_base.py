"""What the cases of both Gemini engines share: an engine by its own SDK as it comes, and a server on loopback."""

import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import anyio
import pytest

import memsafe_transcribe as mt

from ..conftest import Run
from ..support.gemini_server import (
    ENGINES,
    KEY,
    MODEL,
    PATH,
    audio_in,
    chunk_of,
    refuses,
    retry_info,
)
from ..support.server import Exchange, Handler, Server

HTML = b"<!DOCTYPE html><title>Error</title>"
PLAIN, AGAIN, QUOTA, HALVE = (
    mt.TranscriberError,
    mt.TranscriberUnavailableError,
    mt.TranscriberQuotaError,
    mt.ChunkTooLargeError,
)
SOON = refuses("429 Too Many Requests", "slow down", retry_info("0s"))


def html(status: str, **headers: str) -> Handler:
    """What a proxy in between says."""
    return lambda exchange: exchange.answer(HTML, status, Content_Type="text/html", Connection="close", **headers)


def reset(exchange: Exchange) -> None:
    """The connection breaks before an answer."""
    exchange.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    exchange.connection.close()


def hang_up(exchange: Exchange) -> None:
    """The connection ends before an answer."""


def break_off(exchange: Exchange) -> None:
    """The connection ends within the answer."""
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{")


def hold(exchange: Exchange) -> None:
    """No answer, for as long as the client waits for one."""
    exchange.hold_until_closed()


class GeminiBase:
    """Subclassed once for each engine."""

    name: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {}
    most_copies: ClassVar[float]  # of a chunk of 60 s, itself included
    most_declared: ClassVar[float]  # copies, of the same

    @pytest.fixture(autouse=True)
    def _surroundings(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(random, "uniform", lambda low, high: low)
        for variable in ("GEMINI_API_KEY", "GOOGLE_API_KEY"):
            monkeypatch.delenv(variable, raising=False)

    @pytest.fixture
    def engine(self, server: Server) -> Iterator[Any]:
        """One that is closed afterwards."""
        engine = self.make(server)
        yield engine
        anyio.run(engine.aclose)

    def make(self, server: Server, **options: Any) -> Any:
        return ENGINES[self.name](**self.options_for(server, **options))

    def options_for(self, server: Server, **options: Any) -> dict[str, Any]:
        """With what is wanted besides."""
        return {"model": MODEL, "api_key": KEY, "base_url": server.url(""), **self.options, **options}

    def asked(self, server: Server) -> list[Exchange]:
        """The requests in which something was asked about audio."""
        return [request for request in server.requests if request.path == PATH]

    def audio_in(self, exchange: Exchange) -> bytes:
        """The WAV file that was asked about."""
        return audio_in(exchange)

    def secrets(self) -> list[str]:
        """What nobody may see, besides the key."""
        return []

    def transcribe(self, run: Run, server: Server, source: Path, on_error: Any = "raise", **options: Any) -> Any:
        """A whole job by an engine of its own, in chunks of about ten seconds."""

        async def main() -> mt.Transcript:
            kind = ENGINES[self.name]
            admission = mt.AdmissionController(scope="process")
            async with mt.ChunkedTranscriber(
                f"{kind.__module__}:{kind.__qualname__}",
                engine_options=self.options_for(server, **options),
                admission=admission,
                chunk_seconds=10,
                on_error=on_error,
            ) as transcriber:
                return await transcriber.transcribe(source, language="en", prompt="Jabberwock")

        return run(main)

    def failure(self, engine: Any, seconds: float = 1.0, **context: Any) -> mt.TranscriberError:
        """What the engine raises. It is all that there is: nothing of the SDK hangs on it."""
        with pytest.raises(mt.TranscriberError) as caught:
            engine.transcribe(chunk_of(seconds), mt.ChunkContext(**context))
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None
        return caught.value
