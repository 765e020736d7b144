"""FastAPI and Starlette: refusals as 503 with Retry-After, server-sent events, cancelled with the client, draining.

Needs the extra `asgi`. Everything here works on asyncio and trio; uvicorn is asyncio.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict
from typing import Any

import anyio
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .._admission.controller import AdmissionController, default_admission
from .._admission.draining import draining_error
from .._errors import AdmissionRejectedError
from .._tasks import background
from .._transcription.chunked import ChunkedTranscriber, runner_of
from .._transcription.formats import ending_dict
from .._transcription.progress import Progress
from .._transcription.sources import Source, is_url
from .._transcription.transcript import Transcript, segment_dict, word_dict
from ._refusals import BadRequestError, Refusal, refusal_of
from ._signals import draining

__all__ = ["AdmissionMiddleware", "SegmentEvents", "draining", "transcribe_while_connected"]

_REFUSED_WITHIN_SECONDS = 1.0  # a stream begins to answer after that: until then, a refusal is a status of its own
_PROGRESS_SECONDS = 0.5  # between two events of progress
_KEEP_ALIVE_SECONDS = 15.0  # of silence: proxies take a silent connection for a dead one


class AdmissionMiddleware:
    """ASGI middleware: what the library refuses is answered with its status, 503 with the time to come back.

    A request is refused before the application sees it (and before its body is read) while the process drains, while
    `max_waiting` others wait, or while memory is over the guard's threshold and something runs that will free it. What
    the application raises before it has begun to answer is answered by its kind; what is the host's own fault is not.
    The body is JSON: `status`, `error`, `message`, `retry_after_seconds`.

    Leave what must be answered always, such as a probe of liveness, outside of it: mount the application that has it.

    Args:
        app: the application.
        admission: where its jobs queue; the process-wide one by default.
        max_waiting: how many requests may be inside without a slot, in this process; jobs that are none of a request
            count, too, while they wait.

    Raises:
        ValueError: `max_waiting` is less than 1.
    """

    def __init__(self, app: ASGIApp, *, admission: AdmissionController | None = None, max_waiting: int = 20) -> None:
        if max_waiting < 1:
            raise ValueError(f"max_waiting must be at least 1, got {max_waiting}")
        self._app = app
        self._admission = admission or default_admission()
        self._max_waiting = max_waiting
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun = False

        async def noting(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            self._check()
            self._inside += 1
            try:
                await self._app(scope, receive, noting)
            finally:
                self._inside -= 1
        except ClientDisconnect:
            return  # there is nobody to be told
        except Exception as error:
            refusal = None if has_begun else refusal_of(error, self._admission)
            if refusal is None:
                raise
            await _response(refusal)(scope, receive, send)

    def _check(self) -> None:
        now = self._admission.statistics()
        if self._admission.is_draining:
            raise draining_error(0, now.waiting)
        waiting = max(now.waiting, self._inside - now.active)  # of a burst, none is in the queue yet
        if waiting >= self._max_waiting:
            raise AdmissionRejectedError(
                f"{waiting} wait already (max_waiting); retry in about {now.retry_after_seconds} s",
                need_bytes=0,
                waiting=waiting,
                retry_after_seconds=now.retry_after_seconds,
            )
        if now.active or now.others_active:  # else one job may go up to the ceiling: the admission knows
            self._admission.guard.check()


def _response(refusal: Refusal) -> Response:
    headers = {} if refusal.retry_after_seconds is None else {"retry-after": str(refusal.retry_after_seconds)}
    return JSONResponse(asdict(refusal), refusal.status, headers)


def _check_asked(transcriber: ChunkedTranscriber, source: Source, language: str | None) -> None:
    """Raises:
    BadRequestError: a client said what cannot be.
    """
    if isinstance(source, str) and not is_url(source):
        raise BadRequestError(f"{source!r} is no http(s) URL")
    try:
        runner_of(transcriber).check_language(language)
    except ValueError as error:
        raise BadRequestError(str(error)) from None


async def transcribe_while_connected(
    request: Request,
    transcriber: ChunkedTranscriber,
    source: Source,
    *,
    language: str | None = None,
    prompt: str | None = None,
    deadline_seconds: float | None = None,
) -> Transcript:
    """`transcriber.transcribe`, given up when the client of this request hangs up.

    Args:
        request: whose client it is for. Its body has been read, or is the `source` (`request.stream()`), or is of no
            interest: what is left of it is dropped.
        transcriber, source, language, prompt, deadline_seconds: as for `ChunkedTranscriber.transcribe`.

    Raises:
        ClientDisconnect: the client has hung up, and nothing is left of the job but what is in the store.
            `AdmissionMiddleware` takes it.
        Exception: what `transcribe` raises. `AdmissionMiddleware` answers 400 where its ValueError is about the string
            or the language that it was given.

    Cancellation: as for `transcribe`. A client whose body is the source, and still waits for its turn, is only missed
    when it is read.
    """
    _check_asked(transcriber, source, language)
    async with _connected(request.receive, source) as given:
        transcript = await transcriber.transcribe(
            given, language=language, prompt=prompt, deadline_seconds=deadline_seconds
        )
    return transcript  # noqa: RET504 - mypy takes the block for one that may swallow errors


class SegmentEvents(Response):
    """A response that streams a transcription as server-sent events, each with JSON as its data.

    - `progress`: `phase`, `done`, `total` (as `Progress` has them), twice a second at most.
    - `segment`: as in `Transcript.to_dict()["segments"]`, with its `words`.
    - `done`, the last one: `language`, `duration`, `status`, `gaps`, `suspects`.
    - `error`, the last one instead: `status`, `error`, `message`, `retry_after_seconds`.

    It answers when there is something to tell, or after a second. What is refused before that is raised, and so gets
    its status from `AdmissionMiddleware`; later it is an `error` event.

    Args:
        transcriber, source, language, prompt: as for `ChunkedTranscriber.stream`; the source may be `request.stream()`.

    Cancellation: when the client hangs up, the job is given up, and nothing is left but what is in the store.

    Memory: that of `stream`: a client that reads slowly holds its slot, and no more than the chunks that are in work.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        transcriber: ChunkedTranscriber,
        source: Source,
        *,
        language: str | None = None,
        prompt: str | None = None,
    ) -> None:
        self.status_code = 200
        self.background: BackgroundTask | None = None
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no"})  # nginx would hold events back
        self._transcriber = transcriber
        self._source = source
        self._language = language
        self._prompt = prompt

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        events = _Events(send, {"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        with suppress(ClientDisconnect):
            try:
                _check_asked(self._transcriber, self._source, self._language)
                async with _connected(receive, self._source) as source, background() as tasks:
                    tasks.start_soon(events.tell_progress)
                    await self._transcribe(source, events)
            except Exception as error:
                admission = runner_of(self._transcriber).admission
                refusal = refusal_of(error, admission) if events.has_begun else None
                if refusal is None:
                    raise
                await events.send("error", asdict(refusal))
            await events.end()
        if self.background is not None:
            await self.background()

    async def _transcribe(self, source: Source, events: "_Events") -> None:
        number = 0
        async with self._transcriber.stream(
            source, language=self._language, prompt=self._prompt, on_progress=events.note
        ) as segments:
            async for segment in segments:
                words = [word_dict(word) for word in segment.words]
                await events.send("segment", {**segment_dict(number, segment), "words": words})
                number += 1
        await events.send("done", ending_dict(segments))


class _Events:
    """Sends events, from one task or two.

    Args:
        send: of ASGI.
        start: what is sent before the first one.
    """

    def __init__(self, send: Send, start: Message) -> None:
        self.has_begun = False
        self._send = send
        self._start = start
        self._sending = anyio.Lock()
        self._progress: Progress | None = None
        self._is_news = anyio.Event()

    async def send(self, name: str, data: dict[str, Any]) -> None:
        await self._write(f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n")

    def note(self, progress: Progress) -> None:
        """Told of by `tell_progress`, or else what comes after it is."""
        self._progress = progress
        if self.has_begun or progress.phase == "transcribing":
            self._is_news.set()

    async def tell_progress(self) -> None:
        """For ever: the newest progress, or a sign of life."""
        with suppress(ClientDisconnect):  # the other task meets it, too
            while True:
                with anyio.move_on_after(_KEEP_ALIVE_SECONDS if self.has_begun else _REFUSED_WITHIN_SECONDS):
                    await self._is_news.wait()
                self._is_news, progress = anyio.Event(), self._progress
                self._progress = None
                if progress is None:
                    await self._write(": still here\n\n")
                else:
                    told = {"phase": progress.phase, "done": progress.done, "total": progress.total}
                    await self.send("progress", told)
                await anyio.sleep(_PROGRESS_SECONDS)

    async def end(self) -> None:
        await self._write("", more_body=False)

    async def _write(self, text: str, *, more_body: bool = True) -> None:
        try:
            async with self._sending:
                if not self.has_begun:
                    await self._send(self._start)
                    self.has_begun = True
                await self._send({"type": "http.response.body", "body": text.encode(), "more_body": more_body})
        except OSError:  # as ASGI 2.4 has it
            raise ClientDisconnect from None


@asynccontextmanager
async def _connected(receive: Receive, source: Source) -> AsyncIterator[Source]:
    """`async with` this: the source, to be used in the block, which is cancelled when the client hangs up.

    Raises:
        ClientDisconnect: it was.
    """
    is_read = anyio.Event()  # until then the body's reader is told of it, and nobody else may receive
    if isinstance(source, AsyncIterable):
        source = _told(source, is_read)
    else:
        is_read.set()

    async def watch() -> None:
        await is_read.wait()
        while (await receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    with anyio.CancelScope() as scope:
        async with background() as tasks:
            tasks.start_soon(watch)
            yield source
    if scope.cancelled_caught:
        raise ClientDisconnect


async def _told(source: AsyncIterable[bytes], is_read: anyio.Event) -> AsyncGenerator[bytes]:
    """The same; the event is set at its end."""
    async with AsyncExitStack() as at_the_end:
        if isinstance(source, AsyncGenerator):
            at_the_end.push_async_callback(source.aclose)
        async for piece in source:
            yield piece
    is_read.set()
