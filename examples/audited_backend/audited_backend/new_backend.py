"""The same backend on memsafe_transcribe: the diff with `old_backend` is the migration."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import memsafe_transcribe as mt

MAX_FILE_BYTES = 500 * mt.MB
CHUNK_SECONDS = 60.0
MAX_BATCH_SIZE = 5
MAX_CONCURRENT_CHUNKS = 2
MAX_CONCURRENT = 3
MAX_SCHEDULED = 2
QUEUE_TIMEOUT_SECONDS = 60.0

Engine = Callable[[bytes], Awaitable[str]]


class _Plugin:
    """The engine as the library asks it."""

    capabilities = mt.Capabilities(concurrency=MAX_CONCURRENT_CHUNKS, cache_key="fake-1")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> str:
        return await self._engine(chunk.data)


class TranscriptionBackend:
    """Transcribes audio from URLs.

    Args:
        engine: what hears a chunk of 16 kHz mono WAV.
        max_file_bytes: larger files are refused.
        chunk_seconds: how long the chunks are that files are cut into.
        policy: which URLs are let through.
        queue_timeout_seconds: how long a job waits for its turn and its memory.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        max_file_bytes: int = MAX_FILE_BYTES,
        chunk_seconds: float = CHUNK_SECONDS,
        policy: mt.UrlPolicy | None = None,
        queue_timeout_seconds: float = QUEUE_TIMEOUT_SECONDS,
    ) -> None:
        self.admission = mt.AdmissionController(max_concurrent=MAX_CONCURRENT)
        self.admission.lane("scheduler", max_concurrent=MAX_SCHEDULED)
        self._queue_timeout_seconds = queue_timeout_seconds
        self._transcriber = mt.ChunkedTranscriber(
            _Plugin(engine),
            admission=self.admission,
            downloader=mt.SafeDownloader(max_bytes=max_file_bytes, policy=policy, admission=self.admission),
            chunk_seconds=chunk_seconds,
            queue_timeout_seconds=queue_timeout_seconds,
        )

    async def transcribe_audio(self, url: str) -> str:
        """The text of one file."""
        return (await self._transcriber.transcribe(url)).text

    async def transcribe_batch(self, batch_id: str, urls: Sequence[str]) -> dict[str, str | BaseException]:
        """The text of each, or what went wrong."""
        outcomes = await asyncio.gather(*map(self.transcribe_audio, urls), return_exceptions=True)
        return dict(zip(urls, outcomes, strict=True))

    async def run_scheduled(self, urls: Sequence[str]) -> list[str]:
        """What the scheduler does at night."""

        async def one(url: str) -> str:
            need_bytes = (await self._transcriber.plan(url)).peak_bytes
            async with self.admission.reserve(need_bytes, lane="scheduler"):
                return await self.transcribe_audio(url)

        return await asyncio.gather(*map(one, urls))
