"""A web service that transcribes: uploads, URLs, progress as it comes; in memory that is bounded, whatever is asked.

    python -m uvicorn app:app --workers 4 --timeout-graceful-shutdown 30

Set by the environment: APP_ENGINE, the name of an installed engine (without it, a stand-in that needs no key says how
long each chunk is); APP_STORE, the file of the store; APP_ALLOW_PRIVATE=1, to fetch from this machine and its network.
"""

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response

import memsafe_transcribe as mt
from memsafe_transcribe.integrations.asgi import (
    AdmissionMiddleware,
    SegmentEvents,
    draining,
    transcribe_while_connected,
)


class StandIn:
    """An engine that answers at once, without hearing anything."""

    capabilities = mt.Capabilities(max_chunk_seconds=60.0, cache_key="stand-in 1")

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> str:
        return f"From {chunk.start_seconds:.1f} to {chunk.start_seconds + chunk.duration_seconds:.1f} s."


policy = mt.UrlPolicy(allow_private=os.environ.get("APP_ALLOW_PRIVATE") == "1")
store = mt.JobStore(os.environ.get("APP_STORE") or Path(tempfile.gettempdir()) / "fastapi_app.sqlite")
transcriber = mt.ChunkedTranscriber(
    os.environ.get("APP_ENGINE") or StandIn(), downloader=mt.SafeDownloader(policy=policy, failures=store), store=store
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """The engine and the store are open as long as the process serves; innermost, the end of it waits for jobs."""
    async with store.cleaning(), transcriber, draining():
        yield


api = FastAPI()
api.add_middleware(AdmissionMiddleware, max_waiting=5)
Url = Annotated[str, Query(pattern="^https?://")]


@api.post("/transcripts")
async def transcribe_upload(request: Request) -> dict[str, Any]:
    """The body is the file itself: it is capped and spooled as it comes, and never held in memory."""
    return (await transcribe_while_connected(request, transcriber, request.stream())).to_dict()


@api.get("/transcripts")
async def transcribe_url(request: Request, url: Url) -> dict[str, Any]:
    return (await transcribe_while_connected(request, transcriber, url)).to_dict()


@api.post("/events")
async def stream_upload(request: Request) -> Response:
    return SegmentEvents(transcriber, request.stream())


@api.get("/events")
async def stream_url(url: Url) -> Response:
    return SegmentEvents(transcriber, url)


app = FastAPI(lifespan=lifespan)


@app.get("/alive")
async def alive() -> dict[str, bool]:
    """Outside of what may be refused: a probe that gets a 503 under load has the container restarted."""
    return {"alive": True}


app.mount("/v1", api)
