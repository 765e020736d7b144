"""Gemini by google-genai, the SDK that is maintained. Extra: `google-genai`."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from time import monotonic, sleep
from typing import Any, ClassVar, Literal, get_args

from .._errors import TranscriberError, TranscriberUnavailableError
from .._transcription.protocol import Capabilities
from .._units import KiB, MiB
from ._gemini import DEFAULT_MODEL, Failure, GeminiEngine, HttpFailure
from ._gemini_answers import Reply, redacted, schema

Upload = Literal["inline", "file"]

_LOG = logging.getLogger("memsafe_transcribe")
# The service refuses less than 10 s in this header; the SDK writes its own timeout there, and we may have less left.
_SERVER_TIMEOUT = {"X-Server-Timeout": "600"}
_AUDIO = "audio/wav"
# https://ai.google.dev/gemini-api/docs/files: 2 GB a file; .../audio: 9.5 hours in a prompt.
_MAX_FILE_BYTES, _MAX_PROMPT_SECONDS = 2_000_000_000, 9.5 * 3600
# Measured: with httpx2 nothing beside chunks of less than the SDK's piece of 8 MiB, else two pieces. httpx has a piece
# three times while it goes out in parts, which is the most beside a chunk of 263 s: 2.5 times its size on loopback.
_FILE_CALL_BYTES, _FILE_CALL_BYTES_PER_SECOND = 256 * KiB, 90_000.0
_FIRST_POLL_SECONDS, _LONGEST_POLL_SECONDS = 0.25, 5.0
_DELETING_SECONDS = 10.0
# They write an upload's URL, whose query is a credential: at INFO those of httpx, at DEBUG those of httpcore.
_URL_LOGGERS = (
    "httpx",
    "httpx2",
    *(f"{core}.{part}" for core in ("httpcore", "httpcore2") for part in ("http11", "http2", "proxy")),
)


class GoogleGenaiTranscriber(GeminiEngine):
    """Asks Gemini for a transcript of each chunk, with times by segments.

    Args:
        model: its name, without "models/".
        api_key: by default that of the environment: GEMINI_API_KEY, else GOOGLE_API_KEY.
        base_url: where the API is, if not at Google's: a proxy of yours. Redirects are not followed, nor uploads made
            elsewhere: the key goes there and nowhere else.
        timeout_seconds: how long the service may be silent; of a file, how long its upload, its processing and the
            answer may take together.
        concurrency: how many chunks of one file are asked for at once.
        upload: "inline", each chunk in the request that asks about it; or "file", by the Files API: in less memory, for
            chunks of any length, in four requests and more. The file is deleted when the chunk is answered, or failed.

    Raises:
        TranscriberError: the SDK is not installed, or there is no key.

    Cancellation: a request that is on its way is waited for, `timeout_seconds` at most, and a file's deletion 10 s.
    """

    name = "google-genai"
    sdk = "google.genai"
    distribution = "google-genai"
    resident_bytes: ClassVar[int] = 64 * MiB
    # Measured: 129 000 a second at the peak on a fresh heap, 213 000 on one that thousands of tests have used, and
    # at the first calls a megabyte besides.
    call_bytes: ClassVar[int] = 1 * MiB
    call_bytes_per_second: ClassVar[float] = 216_000.0

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        timeout_seconds: float = 120.0,
        concurrency: int = 2,
        upload: Upload = "inline",
    ) -> None:
        if upload not in get_args(Upload):
            raise ValueError(f'upload must be "inline" or "file", got {upload!r}')
        super().__init__(
            model, api_key=api_key, base_url=base_url, timeout_seconds=timeout_seconds, concurrency=concurrency
        )
        self._upload = upload
        if upload == "file":
            self.capabilities: Capabilities = replace(
                self.capabilities,
                max_chunk_seconds=_MAX_PROMPT_SECONDS,
                max_chunk_bytes=_MAX_FILE_BYTES,
                counts_base64=False,
                call_bytes=_FILE_CALL_BYTES,
                call_bytes_per_second=_FILE_CALL_BYTES_PER_SECOND,
            )

    def _open(self, key: str) -> Any:
        from google.genai import Client, types

        for name in _URL_LOGGERS:
            logging.getLogger(name).addFilter(_is_logged)
        options = types.HttpOptions(  # without retry_options, it asks once
            base_url=self._base_url,
            api_version="v1beta",  # what the other engine asks, too
            headers=_SERVER_TIMEOUT,
            client_args={"event_hooks": {"request": [_prepare], "response": [_check]}},
        )
        return Client(api_key=key, vertexai=False, http_options=options)

    def _ask(self, client: Any, asked: str, wav: bytes, timeout_seconds: float) -> Reply:
        from google.genai import types

        if self._upload == "inline":
            audio = types.Part.from_bytes(data=wav, mime_type=_AUDIO)
            return self._answer(client, audio, asked, types.HttpOptions(timeout=max(1, int(timeout_seconds * 1000))))
        with _calling(timeout_seconds) as call:
            with call.kept_out_of_logs():
                file = self._uploaded(client, wav)
            try:
                file = self._processed(client, file, call)
                audio = types.Part.from_uri(file_uri=file.uri, mime_type=_AUDIO)
                return self._answer(client, audio, asked, types.HttpOptions())
            finally:
                call.begin_anew(min(self._timeout_seconds, _DELETING_SECONDS))
                self._delete(client, file)

    def _answer(self, client: Any, audio: Any, asked: str, http_options: Any) -> Reply:
        from google.genai import types

        config = types.GenerateContentConfig(
            response_mime_type="application/json",
            response_schema=schema(),
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),  # it copies the contents
            http_options=http_options,
        )
        contents = types.Content(role="user", parts=[audio, types.Part.from_text(text=asked)])
        answer = client.models.generate_content(model=self._model, contents=contents, config=config)
        feedback = answer.prompt_feedback
        blocked = _name(feedback.block_reason) if feedback is not None else None
        if not answer.candidates:
            return Reply(False, block_reason=blocked)
        candidate = answer.candidates[0]
        parts = (candidate.content.parts if candidate.content is not None else None) or ()
        text = "".join(part.text or "" for part in parts if not part.thought)
        return Reply(True, text, _name(candidate.finish_reason), blocked)

    def _uploaded(self, client: Any, wav: bytes) -> Any:
        """The chunk as a file of the service's, sent in the SDK's pieces of 8 MiB out of the memory that it has."""
        from google.genai import types

        # With base_url the SDK sends it there, wherever the service is by its own account.
        options = types.HttpOptions(base_url=self._base_url)
        return client.files.upload(
            file=BytesIO(wav), config=types.UploadFileConfig(mime_type=_AUDIO, http_options=options)
        )

    def _processed(self, client: Any, file: Any, call: "_Call") -> Any:
        """The same file when it can be asked about."""
        pause_seconds = _FIRST_POLL_SECONDS
        while _name(file.state) == "PROCESSING":
            sleep(min(pause_seconds, call.left_seconds))
            pause_seconds = min(2 * pause_seconds, _LONGEST_POLL_SECONDS)
            file = client.files.get(name=file.name)
        if _name(file.state) == "FAILED":
            why = file.error.message if file.error is not None else None
            raise Failure(TranscriberError(f"Gemini could not process the chunk's file: {why or 'it says no more'}"))
        return file

    def _delete(self, client: Any, file: Any) -> None:
        try:
            client.files.delete(name=file.name)
        except Exception as error:  # the answer, or the failure, is what counts
            said = error.failure if isinstance(error, Failure) else f"{type(error).__name__}: {error}"
            what = f"{file.name}, a chunk's file, could not be deleted: {said}"
            _LOG.warning("%s; Gemini drops it after 48 hours", redacted(TranscriberError(what), self._key()))

    async def _close(self, client: Any) -> None:
        client.close()
        await client.aio.aclose()  # never used, but it would start a task when it is collected


class _Call:
    """The requests that a chunk needs as a file, which have one time and one address together."""

    def __init__(self, seconds: float) -> None:
        self.is_logged = True
        self._origin: tuple[str, str, int | None] | None = None
        self.begin_anew(seconds)

    def begin_anew(self, seconds: float) -> None:
        """From now on there are so many."""
        self._until = monotonic() + seconds

    @contextmanager
    def kept_out_of_logs(self) -> Iterator[None]:
        """What is done in the block is in none of those that would have its URL."""
        self.is_logged = False
        try:
            yield
        finally:
            self.is_logged = True

    @property
    def left_seconds(self) -> float:
        """How many there are still.

        Raises:
            TimeoutError: none.
        """
        seconds = self._until - monotonic()
        if seconds <= 0:
            raise TimeoutError("timeout of the upload, the file's processing and the answer together")
        return seconds

    def prepare(self, request: Any) -> None:
        """Give a request what time is left.

        Raises:
            TimeoutError: none is.
            Failure: it would go elsewhere than the first one.
        """
        origin = (request.url.scheme, request.url.host, request.url.port)
        self._origin = self._origin or origin
        if origin != self._origin:
            raise Failure(TranscriberError(f"Gemini wants the chunk to be sent elsewhere: to {request.url.host}"))
        request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), self.left_seconds)


class _Current(threading.local):
    call: _Call | None = None  # that this thread makes


_current = _Current()


@contextmanager
def _calling(seconds: float) -> Iterator[_Call]:
    _current.call = _Call(seconds)
    try:
        yield _current.call
    finally:
        _current.call = None


def _is_logged(record: logging.LogRecord) -> bool:
    """A logger's filter: whether this thread uploads nothing."""
    return _current.call is None or _current.call.is_logged


def _prepare(request: Any) -> None:
    """Called before a request is sent."""
    if _current.call is not None:
        _current.call.prepare(request)


def _check(response: Any) -> None:
    """Called before the SDK acts on a response: it would follow a redirect, with the key, and repeat an upload."""
    if response.status_code != 200:
        raise HttpFailure(response.status_code, response.headers.get("Retry-After"), response.read())
    command = response.request.headers.get("X-Goog-Upload-Command", "")
    if command.startswith("upload") and "X-Goog-Upload-Status" not in response.headers:
        raise Failure(TranscriberUnavailableError("Gemini was not reached, or not understood: not by the upload"))


def _name(reason: Any) -> str | None:
    return None if reason is None else str(getattr(reason, "name", reason))
