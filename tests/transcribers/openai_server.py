"""A server that speaks OpenAI's API, well or badly, and questions to the engine for it."""

import json
import re
from collections.abc import Callable
from typing import Any

import memsafe_transcribe as mt
from memsafe_transcribe._audio.encoding import wav
from memsafe_transcribe.transcribers.openai import OpenAITranscriber

from ..support.media import tone_samples
from ..support.server import Exchange, Server

KEY = "sk-proj-Zq9Xw8Vu7Ts6Rp5"
PATH = "/v1/audio/transcriptions"
JSON = {"Content-Type": "application/json"}
SAID = {
    "task": "transcribe", "language": "english", "duration": 2.0, "text": " Oh dear, I shall be late!",
    "words": [{"word": word, "start": number / 4, "end": number / 4 + 0.2}
              for number, word in enumerate(["Oh", "dear", "I", "shall", "be", "late"])],
}  # fmt: skip


def chunk(seconds: float = 2.0) -> mt.AudioChunk:
    """A tone."""
    data = wav([tone_samples(seconds)], 16_000)
    return mt.AudioChunk(
        index=0, start_seconds=0.0, duration_seconds=seconds, sample_rate_hz=16_000, format="wav", data=data
    )


def says(answer: Any, status: str = "200 OK", **headers: str) -> Callable[[Exchange], None]:
    """A route that takes the upload and answers this: an object as JSON, bytes as they are."""
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()

    def route(exchange: Exchange) -> None:
        exchange.answer(body, status, **{**JSON, **headers})

    return route


def failed(status: str, message: str = "no", code: str | None = None, **headers: str) -> Callable[[Exchange], None]:
    """An error in the API's own shape."""
    error = {"error": {"message": message, "type": "some_error", "param": None, "code": code}}
    return says(error, status, **headers)


async def asked(
    server: Server, context: mt.ChunkContext | None = None, seconds: float = 2.0, **options: Any
) -> mt.ChunkResult:
    """One chunk's answer, of an engine that lives as long."""
    engine = OpenAITranscriber(api_key=KEY, base_url=server.url("/v1"), **options)
    try:
        return await engine.transcribe(chunk(seconds), context or mt.ChunkContext())
    finally:
        await engine.aclose()


def form(body: bytes) -> dict[str, list[bytes]]:
    """The fields of a multipart form."""
    fields: dict[str, list[bytes]] = {}
    for part in body.split(body[: body.index(b"\r\n")])[1:-1]:
        head, _, value = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        name = re.search(rb'name="([^"]*)"', head)
        assert name is not None
        fields.setdefault(name[1].decode(), []).append(value.removesuffix(b"\r\n"))
    return fields


def assert_no_key_in(error: BaseException) -> None:
    """Neither in it nor in anything that hangs on it."""
    seen: list[BaseException] = []
    left: list[BaseException | None] = [error]
    while left:
        each = left.pop()
        if each is not None and each not in seen:
            seen.append(each)
            left += [each.__cause__, each.__context__]
            assert "Zq9Xw8" not in f"{each!r} {each} {vars(each)}"
            assert not type(each).__module__.startswith(("openai", "httpx", "httpcore"))


ERRORS = [
    (failed("400 Bad Request", "Invalid file format."), mt.TranscriberError, "answered 400: Invalid file format"),
    (failed("401 Unauthorized", f"Incorrect API key provided: {KEY}"), mt.TranscriberError, "401: it does not accept"),
    (failed("403 Forbidden", "Country not supported"), mt.TranscriberError, "403: Country not supported"),
    (failed("404 Not Found", "The model `x` does not exist"), mt.TranscriberError, "404: The model `x` does not"),
    (failed("413 Payload Too Large", "Maximum content size limit"), mt.ChunkTooLargeError, "413: Maximum content"),
    (failed("429 Too Many Requests", "Rate limit"), mt.TranscriberUnavailableError, "429: Rate limit"),
    (failed("429 Too Many Requests", "You exceeded", "insufficient_quota"), mt.TranscriberQuotaError, "429: You exc"),
    (failed("500 Internal Server Error"), mt.TranscriberUnavailableError, "answered 500: no"),
    (says(b"<html>bad gateway</html>", "502 Bad Gateway"), mt.TranscriberUnavailableError, "answered 502"),
    (failed("503 Service Unavailable", Retry_After="3"), mt.TranscriberUnavailableError, "answered 503"),
    (says({"detail": "not loaded"}, "422 Unprocessable Entity"), mt.TranscriberError, "answered 422: not loaded"),
    (says({"error": "a string"}, "400 Bad Request"), mt.TranscriberError, "answered 400: a string"),
    (says(b"<html>sign in</html>", Content_Type="text/html"), mt.TranscriberUnavailableError, "is not JSON"),
    (says(b""), mt.TranscriberUnavailableError, "is not JSON"),
    (says(json.dumps(SAID).encode()[:-9]), mt.ChunkTooLargeError, "JSON that was cut off"),
    (says([]), mt.TranscriberError, "without a text: no reason given"),
    (says({"error": f"of {KEY}"}), mt.TranscriberError, r"without a text: of \[key\]"),
    (says({"text": None, "words": []}), mt.TranscriberError, "without a text"),
    (says({"text": "a", "words": [{"word": "a"}]}), mt.TranscriberError, "another shape: KeyError: 'start'"),
    (says({"text": "a", "words": [{"word": "a", "start": "0", "end": 1}]}), mt.TranscriberError, "another shape"),
    (says({"text": "a", "segments": 3}), mt.TranscriberError, "another shape"),
    (says(b'"' + bytes(9 << 20)), mt.TranscriberError, "more than 8388608 bytes"),
    (lambda exchange: None, mt.TranscriberUnavailableError, "could not be asked"),
    (lambda exchange: exchange.hold_until_closed(), mt.TranscriberUnavailableError, "within 0.5 s|could not be asked"),
    (lambda exchange: exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"),
     mt.TranscriberUnavailableError, "could not be asked"),
    (lambda exchange: exchange.drip_until_closed(b"HTTP/1.1 200 OK\r\nX: ", 0.1),
     mt.TranscriberUnavailableError, "within 0.5 s"),
    (lambda exchange: exchange.send(b"SSH-2.0-OpenSSH_9.6\r\n"), mt.TranscriberUnavailableError, "could not be asked"),
]  # fmt: skip
