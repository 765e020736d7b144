"""What both Gemini engines have in common: options, limits, and the one way in which a chunk is asked for."""

import importlib.util
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, ClassVar

from .._errors import TranscriberError, TranscriberUnavailableError
from .._transcription.protocol import AudioChunk, Capabilities, ChunkContext, ChunkResult
from ._gemini_answers import QUESTION_VERSION, Reply, failure_of, question, redacted, result_of

DEFAULT_MODEL = "gemini-3.8-flash"
_KEY_VARIABLES = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
# A request may have 20 MB in all, audio as base64: https://ai.google.dev/gemini-api/docs/audio. What is not audio in
# ours, the question and the schema, takes about 2 kB, and the caller's prompt.
_MAX_REQUEST_BYTES, _MAX_QUESTION_BYTES = 20_000_000, 100_000
_SHORTEST_TIMEOUT_SECONDS = 0.001


class Failure(Exception):  # noqa: N818 - a message between two files, never raised to anybody else
    """What is to be raised where the SDK's own error is forgotten. Carries nothing of the request, with its key."""

    def __init__(self, failure: TranscriberError) -> None:
        super().__init__()
        self.failure = failure


class HttpFailure(Failure):
    """An answer with a status other than 200."""

    def __init__(self, status: int, retry_after: str | None, body: bytes) -> None:
        super().__init__(failure_of(status, retry_after, body, datetime.now(UTC)))


class GeminiEngine(ABC):
    """Asks Gemini for a transcript of each chunk, sent inside the request, with times by segments.

    Args:
        model: its name, without "models/".
        api_key: by default that of the environment: GEMINI_API_KEY, else GOOGLE_API_KEY.
        base_url: where the API is, if not at Google's: a proxy of yours. Redirects are not followed: the key goes there
            and nowhere else.
        timeout_seconds: how long the service may be silent. A request takes as long at most if it answers in one piece.
        concurrency: how many chunks of one file are asked for at once.

    Raises:
        TranscriberError: the SDK is not installed, or there is no key.

    Cancellation: a request that is on its way is waited for, `timeout_seconds` at most.
    """

    name: ClassVar[str]  # of the engine
    sdk: ClassVar[str]  # the module's name
    distribution: ClassVar[str]
    resident_bytes: ClassVar[int]
    call_bytes: ClassVar[int]
    call_bytes_per_second: ClassVar[float]

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        timeout_seconds: float = 120.0,
        concurrency: int = 2,
    ) -> None:
        if (what := self._missing_sdk()) is not None:
            raise TranscriberError(f"engine {self.name!r} cannot be used: {what}")
        if not timeout_seconds >= _SHORTEST_TIMEOUT_SECONDS:
            raise ValueError(f"timeout_seconds must be more than 0, got {timeout_seconds}")
        self._model = model.removeprefix("models/")
        if not self._model or "/" in self._model:
            raise ValueError(f"model must be a name such as {DEFAULT_MODEL!r}, got {model!r}")
        if base_url is not None and (not base_url.startswith(("http://", "https://")) or "@" in base_url):
            raise ValueError("base_url must begin with http:// or https:// and hold no credentials")
        self._base_url = None if base_url is None else base_url.rstrip("/")
        self._timeout_seconds = timeout_seconds
        # In a closure, so that nothing that prints attributes prints it.
        key = self._found_key(api_key)
        self._key: Callable[[], str] = lambda: key
        self._client: Any = None
        self._lock = threading.Lock()
        where = "" if self._base_url is None else f" at {self._base_url}"
        self.capabilities: Capabilities = Capabilities(
            max_chunk_seconds=600.0,  # what max_chunk_bytes allows is less
            max_chunk_bytes=_MAX_REQUEST_BYTES - _MAX_QUESTION_BYTES,
            counts_base64=True,
            timestamps="segment",
            trusts_times=False,
            takes_prompt=True,
            concurrency=concurrency,
            is_thread_safe=True,
            resident_bytes=self.resident_bytes,
            call_bytes=self.call_bytes,
            call_bytes_per_second=self.call_bytes_per_second,
            cache_key=f"gemini:{self._model}{where}:question-{QUESTION_VERSION}",
        )

    @classmethod
    def _missing_sdk(cls) -> str | None:
        with suppress(ModuleNotFoundError):  # the parent of a dotted name is imported
            if importlib.util.find_spec(cls.sdk) is not None:
                return None
        return f"{cls.distribution} is not installed: pip install 'memsafe-transcribe[{cls.name}]'"

    @classmethod
    def missing(cls) -> str | None:
        """What keeps it from being used without options; None if nothing does."""
        if (what := cls._missing_sdk()) is not None:
            return what
        if any(os.environ.get(name) for name in _KEY_VARIABLES):
            return None
        return f"it has no key: set {' or '.join(_KEY_VARIABLES)}, or pass api_key"

    def _found_key(self, api_key: str | None) -> str:
        found = api_key or next((os.environ[name] for name in _KEY_VARIABLES if os.environ.get(name)), "")
        key = found.strip()
        if not key:
            raise TranscriberError(
                f"engine {self.name!r} has no key: set {' or '.join(_KEY_VARIABLES)}, or pass api_key"
            )
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError("api_key must be printable ASCII without spaces (it is not shown here)")
        return key

    def transcribe(self, chunk: AudioChunk, context: ChunkContext) -> ChunkResult:
        """Ask about one chunk, once."""
        asked = question(chunk.duration_seconds, context)
        timeout_seconds = self._timeout_seconds
        if context.deadline_seconds is not None:
            timeout_seconds = max(_SHORTEST_TIMEOUT_SECONDS, min(timeout_seconds, context.deadline_seconds))
        failure = self._attempt(asked, chunk, timeout_seconds)
        if isinstance(failure, Reply):
            return result_of(failure, chunk.duration_seconds)
        # Raised here, not where it was caught: the SDK's own error, which holds the request with the key, would be its
        # context even with `from None`.
        raise redacted(failure, self._key())

    def _attempt(self, asked: str, chunk: AudioChunk, timeout_seconds: float) -> Reply | TranscriberError:
        try:
            with self._lock:
                if self._client is None:
                    self._client = self._open(self._key())
                client = self._client
        except Exception as error:
            return TranscriberError(f"engine {self.name!r} could not be opened: {type(error).__name__}: {error}")
        try:
            return self._ask(client, asked, chunk.data, timeout_seconds)
        except Failure as error:
            return error.failure
        except MemoryError:
            raise MemoryError(f"no memory left to send chunk {chunk.index}") from None
        except Exception as error:  # of the connection, or of an answer that is not the API's
            what = f"{type(error).__name__}: {error}"
            return TranscriberUnavailableError(f"Gemini was not reached, or not understood: {what}")

    @abstractmethod
    def _open(self, key: str) -> Any:
        """Make the SDK's client, which keeps its connections until it is closed."""

    @abstractmethod
    def _ask(self, client: Any, asked: str, wav: bytes, timeout_seconds: float) -> Reply:
        """Ask once; no request is repeated by the SDK.

        Raises:
            Failure: a status was not 200, or what else was seen before the SDK acted on it.
        """

    async def aclose(self) -> None:
        """Close the connections. The next chunk opens others."""
        client, self._client = self._client, None
        if client is not None:
            await self._close(client)

    @abstractmethod
    async def _close(self, client: Any) -> None:
        """Close the SDK's client."""
