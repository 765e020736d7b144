"""OpenAI's audio/transcriptions, and any server that speaks it. Extra: `openai`."""

import importlib.util
import io
import json
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from .._errors import (
    ChunkTooLargeError,
    TranscriberError,
    TranscriberQuotaError,
    TranscriberUnavailableError,
)
from .._transcription.protocol import AudioChunk, Capabilities, ChunkContext, ChunkResult
from .._transcription.transcript import Segment, Word
from .._units import KiB, MiB
from ._waits import seconds_until

Timestamps = Literal["word", "segment", "none"]

_OPENAI_URL = "https://api.openai.com/v1"
# "Error code: 413: Maximum content size limit (26214400) exceeded" counts the form around the file as well.
_MAX_UPLOAD_BYTES = 25_000_000
_MIN_SECONDS = 0.1  # "Audio file is too short. Minimum audio length is 0.1 seconds."
_MAX_ANSWER_BYTES = 8 * MiB  # a quarter of an hour of speech, with times for words, is a twentieth of it
_MAX_MESSAGE_CHARACTERS = 300
_CLOSE_SECONDS = 5.0
_QUOTA_CODES = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
_PASSING_STATUSES = {408, 409, 425, 429}


class OpenAITranscriber:
    """Sends each chunk to OpenAI, or to a server that speaks its API, and asks for times where the model has them.

    Args:
        model: the model's name, as the server knows it.
        api_key: the key; by default what the environment has in OPENAI_API_KEY. A server of your own may need none.
        base_url: where the API is, such as "http://127.0.0.1:8000/v1"; by default OPENAI_BASE_URL, or OpenAI's own.
        timestamps: the finest times to ask for: "word", "segment" or "none". None: by the model's name, where OpenAI's
            gpt-4o-transcribe family gives none and all others are asked for words.
        timeout_seconds: how long one chunk may take, from the first byte sent to the last one received.
        concurrency: how many chunks of one file to send at once.

    Cancellation: the connection is closed. What the server has begun, it may still finish and charge.
    Memory: a chunk is uploaded in pieces out of the memory that it has; see `Capabilities.call_bytes`.
    """

    def __init__(
        self,
        model: str = "whisper-1",
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        timestamps: Timestamps | None = None,
        timeout_seconds: float = 300.0,
        concurrency: int = 4,
    ) -> None:
        if (what := _missing_sdk()) is not None:
            raise TranscriberError(f"engine 'openai' cannot be used: {what}")
        if timestamps not in (None, "word", "segment", "none"):
            raise ValueError(f"timestamps must be 'word', 'segment' or 'none', got {timestamps!r}")
        if not timeout_seconds > 0:
            raise ValueError(f"timeout_seconds must be more than 0, got {timeout_seconds}")
        own_url = base_url or os.environ.get("OPENAI_BASE_URL")
        self._api_key = (api_key or os.environ.get("OPENAI_API_KEY") or ("none" if own_url else "")).strip()
        if not self._api_key:
            raise TranscriberError(f"engine 'openai' cannot be used: {_NO_KEY}")
        if not (self._api_key.isascii() and self._api_key.isprintable()):  # an error about the header would quote it
            raise ValueError("the API key has characters that no key has")
        self._base_url = _checked_url(own_url or _OPENAI_URL)
        self._model = model
        self._timeout_seconds = timeout_seconds
        self._timestamps: Timestamps = timestamps or _timestamps_of(model)
        self._client: Any = None
        self.capabilities: Capabilities = Capabilities(
            max_chunk_seconds=600.0 if self._timestamps != "none" else 300.0,  # the latter's answers end at 2000 tokens
            min_chunk_seconds=_MIN_SECONDS,
            max_chunk_bytes=_MAX_UPLOAD_BYTES,
            timestamps=self._timestamps,
            takes_prompt=True,
            concurrency=concurrency,
            resident_bytes=32 * MiB,  # the SDK itself, which Python keeps once it is imported
            call_bytes=512 * KiB,  # measured: 0.1 MiB, whatever the length
            call_bytes_per_second=500.0,  # the answer: words, as text, as JSON and as objects
            cache_key=f"openai 1 {self._base_url} {model} {self._timestamps}",
        )

    def __repr__(self) -> str:
        return f"OpenAITranscriber(model={self._model!r}, base_url={self._base_url!r})"

    @staticmethod
    def missing() -> str | None:
        """What keeps it from being used without options; None if nothing does."""
        has_key = any(os.environ.get(name) for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"))
        return _missing_sdk() or (None if has_key else _NO_KEY)

    async def transcribe(self, chunk: AudioChunk, context: ChunkContext) -> ChunkResult:
        """Have one chunk transcribed, by one request."""
        left_seconds = self._timeout_seconds if context.deadline_seconds is None else context.deadline_seconds
        seconds = min(self._timeout_seconds, left_seconds)
        # Raised out here, where no error of the SDK's, which has the request and so the key, can become its context.
        outcome: ChunkResult | TranscriberError
        try:
            with anyio.fail_after(seconds):
                outcome = self._result(await self._answer(chunk, context, seconds))
        except TimeoutError:
            outcome = TranscriberUnavailableError(f"{self._where} did not answer within {seconds:g} s")
        except MemoryError:  # two halves may do
            raise
        except Exception as error:
            outcome = self._mapped(error)
        if isinstance(outcome, TranscriberError):
            raise outcome.with_traceback(None)  # nor its frames, with the answer in them
        return outcome

    async def aclose(self) -> None:
        """Close the connections. Another call opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
                await client.close()

    @property
    def _where(self) -> str:
        return f"the server at {self._base_url}"

    async def _answer(self, chunk: AudioChunk, context: ChunkContext, seconds: float) -> bytes:
        """The body of the server's answer.

        A file object over the chunk's own bytes, which CPython's BytesIO shares, is read in pieces of 64 KiB; bytes
        would be handed to the socket in one, and copied there.
        """
        sdk = await anyio.to_thread.run_sync(_sdk)  # which takes most of a second
        if self._client is None:
            self._client = sdk.AsyncOpenAI(
                api_key=self._api_key, base_url=self._base_url, max_retries=0, timeout=self._timeout_seconds
            )
        options: dict[str, Any] = {"response_format": "json"}
        if self._timestamps != "none":
            options = {"response_format": "verbose_json", "timestamp_granularities": [self._timestamps]}
        if context.language is not None:
            options["language"] = context.language
        if context.prompt is not None:
            options["prompt"] = context.prompt
        body = bytearray()
        file = ("chunk.wav", io.BytesIO(chunk.data), "audio/wav")
        async with self._client.audio.transcriptions.with_streaming_response.create(
            file=file, model=self._model, timeout=seconds, **options
        ) as response:
            try:
                async for part in response.iter_bytes():
                    body += part
                    if len(body) > _MAX_ANSWER_BYTES:
                        await response.close()  # to end the generators inside this one; leaving the loop would not
            except Exception:
                if len(body) <= _MAX_ANSWER_BYTES:
                    raise
        if len(body) > _MAX_ANSWER_BYTES:
            raise TranscriberError(f"{self._where} answered with more than {_MAX_ANSWER_BYTES} bytes")
        return bytes(body)

    def _result(self, body: bytes) -> ChunkResult:
        """What an answer says.

        Raises:
            ChunkTooLargeError: it is JSON that was cut off, by a limit on its length: half a chunk needs half of it.
            TranscriberUnavailableError: it is something else, such as the page of a proxy.
            TranscriberError: it is JSON, and no transcript.
        """
        try:
            answer = json.loads(body)
        except ValueError:
            if body.lstrip().startswith(b"{"):
                raise ChunkTooLargeError(f"{self._where} answered with JSON that was cut off") from None
            raise TranscriberUnavailableError(f"{self._where} answered with something that is not JSON") from None
        text = answer.get("text") if isinstance(answer, dict) else None
        if not isinstance(text, str):
            what = answer.get("error") if isinstance(answer, dict) else None
            raise TranscriberError(
                self._redacted(f"{self._where} answered without a text: {what or 'no reason given'}")
            )
        try:
            language = answer.get("language")
            words = [Word(each["word"], each["start"], each["end"]) for each in answer.get("words") or ()]
            segments = tuple(Segment(each["text"], each["start"], each["end"]) for each in answer.get("segments") or ())
            return ChunkResult(
                text=text.strip(),
                words=tuple(_punctuated(words, text)),
                segments=() if words else segments,
                language=language if isinstance(language, str) else None,
            )
        except (TypeError, KeyError, AttributeError) as error:
            message = f"{self._where} answered with words or segments of another shape: {type(error).__name__}: {error}"
            raise TranscriberError(self._redacted(message)) from None

    def _mapped(self, error: Exception) -> TranscriberError:
        """The same as one of our errors, without anything that could hold the key."""
        if isinstance(error, TranscriberError):
            return error
        response = getattr(error, "response", None)
        status = getattr(error, "status_code", None)
        if response is None or not isinstance(status, int):
            cause = error.__cause__ or error  # the SDK says "Connection error." and no more
            message = self._redacted(f"{self._where} could not be asked: {type(error).__name__}: {cause}")
            is_ours = isinstance(error, TypeError | ValueError | AttributeError)  # no network raises these
            return TranscriberError(message) if is_ours else TranscriberUnavailableError(message)
        code, said = _said_by(getattr(error, "body", None))
        message = self._redacted(f"{self._where} answered {status}{said}")
        if code in _QUOTA_CODES:
            return TranscriberQuotaError(message)
        if status == 413:
            return ChunkTooLargeError(message)
        if status in _PASSING_STATUSES or status >= 500:
            return TranscriberUnavailableError(message, retry_after_seconds=_retry_after_seconds(response.headers))
        if status == 401:  # what is said about a key has a part of it
            return TranscriberError(f"{self._where} answered 401: it does not accept the API key")
        return TranscriberError(message)

    def _redacted(self, message: str) -> str:
        return message.replace(self._api_key, "[key]") if self._api_key != "none" else message


_NO_KEY = "no API key: set OPENAI_API_KEY, or pass engine_options={'api_key': ...}"


def _sdk() -> Any:
    import openai

    return openai


def _missing_sdk() -> str | None:
    if importlib.util.find_spec("openai") is not None:
        return None
    return "openai is not installed: pip install 'memsafe-transcribe[openai]'"


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("base_url must be an http or https URL")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("base_url is shown, so it must have no user, password, query or fragment; use api_key")
    return url.rstrip("/")


def _timestamps_of(model: str) -> Timestamps:
    """gpt-4o-transcribe, gpt-4o-mini-transcribe and their dated versions answer in plain JSON only."""
    return "none" if model.startswith("gpt-") else "word"


def _punctuated(words: list[Word], text: str) -> Iterable[Word]:
    """The words as the text has them: the API gives their times without the punctuation that follows them."""
    starts, at = [], 0
    for word in words:
        found = text.find(word.text.strip(), at)
        if found < 0:
            return words
        starts.append(found)
        at = found + len(word.text.strip())
    ends = [*starts, len(text)][1:]
    return [
        Word(text[start if number else 0 : end].strip(), word.start_seconds, word.end_seconds)
        for number, (word, start, end) in enumerate(zip(words, starts, ends, strict=True))
    ]


def _said_by(body: object) -> tuple[str | None, str]:
    """The code of an error, and its message in one line, from an answer's JSON."""
    if isinstance(body, dict):
        inner = body.get("error")
        if isinstance(inner, dict):
            body = inner
        code, message = body.get("code") or body.get("type"), body.get("message") or inner or body.get("detail")
        line = " ".join(str(message or "").split())[:_MAX_MESSAGE_CHARACTERS]
        return (code if isinstance(code, str) else None), f": {line}" if line else ""
    line = " ".join(body.split()) if isinstance(body, str) else ""
    return None, f": {line[:_MAX_MESSAGE_CHARACTERS]}" if line and not line.startswith("<") else ""


def _retry_after_seconds(headers: Any) -> float | None:
    """What Retry-After asks for: seconds, or a date (RFC 9110, 10.2.3). None where it makes no sense."""
    value = str(headers.get("retry-after") or "").strip()
    try:
        seconds = float(value)
    except ValueError:
        return seconds_until(value, datetime.now(UTC))
    return seconds if 0 <= seconds < float("inf") else None
