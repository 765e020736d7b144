"""Web services."""

from typing import Any
from unittest.mock import patch

import anyio
import anyio.lowlevel
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse

import memsafe_transcribe as mt
from memsafe_transcribe.integrations import asgi
from memsafe_transcribe.integrations.asgi import (
    AdmissionMiddleware,
    SegmentEvents,
    draining,
    transcribe_while_connected,
)

from ...admission.room import told
from ...integrations.exchange import Exchange
from ...support.downloads import BODY
from ..cases import case, hold_for, until_active
from ..place import Place, wav


@case()
async def web(place: Place) -> None:
    """A body as the source, and a file of the service's own; whole, and as events; a refusal; who hangs up."""
    transcriber = place.transcriber()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        if scope["path"] == "/refused":
            raise mt.AdmissionRejectedError("full", need_bytes=1, waiting=9, retry_after_seconds=1.0)
        source = request.stream() if "own" not in scope["path"] else place.folder / "path.wav"
        if "events" in scope["path"]:
            response = SegmentEvents(transcriber, source)
            response.background = BackgroundTask(anyio.lowlevel.checkpoint)
            await response(scope, receive, send)
        else:
            transcript = await transcribe_while_connected(request, transcriber, source)
            await JSONResponse(transcript.to_dict())(scope, receive, send)

    service = AdmissionMiddleware(app, admission=place.admission)
    body = wav(5.5, 400)
    halves = (body[:90_000], body[90_000:])
    for path, given in (("/whole", halves), ("/own", ()), ("/events", halves), ("/own/events", ()), ("/refused", ())):
        exchange = Exchange(path, given)
        await exchange.run(service)
        place.told.append("fine" if exchange.status == 200 else "error")
    await Exchange("/events", (b"no audio",)).run(service)
    await Exchange("/whole", halves[:1], cuts_off=True).run(service)
    await Exchange("/own/events", fails=True).run(service)
    await Exchange("/own/events", kind="lifespan").run(AdmissionMiddleware(_nothing, admission=place.admission))
    admission = told(1000)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold_for, admission, 0.06)
        await until_active(admission)
        async with draining(admission, grace_seconds=5):
            admission.drain()


@case()
async def encrypted(place: Place) -> None:
    """By TLS, and to one whose certificate nobody trusts."""
    for is_trusted in (True, False):
        with place.trusting(certificate=is_trusted):
            try:
                async with place.downloader(max_attempts=1).fetch(f"{place.tls_url}/long") as file:
                    assert file.size_bytes == len(BODY)
            except mt.DownloadConnectionError:
                place.told.append("error")


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    await anyio.lowlevel.checkpoint()


@case()
async def signs_of_life(place: Place) -> None:
    """A job takes longer than a proxy waits, and then fails."""

    has_looked = anyio.Event()

    async def slow(chunk: mt.AudioChunk) -> str:
        await has_looked.wait()
        raise RuntimeError("it is broken")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await SegmentEvents(place.transcriber(engine=slow), place.folder / "short.wav")(scope, receive, send)

    exchange = Exchange("/events")

    async def look() -> None:
        await exchange.until(b"still here")
        has_looked.set()

    with patch.object(asgi, "_KEEP_ALIVE_SECONDS", 0.0), patch.object(asgi, "_PROGRESS_SECONDS", 0.01):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(look)
            await exchange.run(app)
            tasks.cancel_scope.cancel()
