"""The same backend on memsafe_transcribe: the diff with `old_backend` is the migration."""

import asyncio
import os
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
        store_path: of the file that keeps jobs, batches and failed URLs.
        max_file_bytes: larger files are refused.
        chunk_seconds: how long the chunks are that files are cut into.
        policy: which URLs are let through.
        queue_timeout_seconds: how long a job waits for its turn and its memory.
    """

    def __init__(
        self,
        engine: Engine,
        store_path: str | os.PathLike[str],
        *,
        max_file_bytes: int = MAX_FILE_BYTES,
        chunk_seconds: float = CHUNK_SECONDS,
        policy: mt.UrlPolicy | None = None,
        queue_timeout_seconds: float = QUEUE_TIMEOUT_SECONDS,
    ) -> None:
        self.admission = mt.AdmissionController(max_concurrent=MAX_CONCURRENT)
        self._store = mt.JobStore(store_path)
        self._transcriber = mt.ChunkedTranscriber(
            _Plugin(engine),
            admission=self.admission,
            downloader=mt.SafeDownloader(
                max_bytes=max_file_bytes, policy=policy, admission=self.admission, failures=self._store
            ),
            store=self._store,
            chunk_seconds=chunk_seconds,
            queue_timeout_seconds=queue_timeout_seconds,
        )
        self._batch = mt.BatchTranscriber(self._transcriber, max_batch_size=MAX_BATCH_SIZE)
        self._scheduled = mt.BatchTranscriber(self._transcriber, max_batch_size=MAX_SCHEDULED)

    async def transcribe_audio(self, url: str) -> str:
        """The text of one file."""
        return (await self._transcriber.transcribe(url)).text

    async def transcribe_batch(self, batch_id: str, urls: Sequence[str]) -> dict[str, str | BaseException]:
        """The text of each, or what went wrong. What is done is not asked for again, also in another process."""
        async with self._batch.run(urls, name=batch_id) as outcomes:
            return {str(outcome.source): _answer(outcome) async for outcome in outcomes}

    async def run_scheduled(self, urls: Sequence[str]) -> list[str]:
        """What the scheduler does at night."""
        async with self._scheduled.run(urls, name="scheduled", ordered=True) as outcomes:
            answers = [_answer(outcome) async for outcome in outcomes]
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return [str(answer) for answer in answers]

    async def cleanup_cache(self) -> None:
        """Forget batches older than a day, and failed URLs older than a week."""
        await self._store.cleanup()

    async def cleanup_periodically(self, every_seconds: float = 3600.0) -> None:
        """Clean up now and every hour."""
        async with self._store.cleaning(every_seconds=every_seconds):
            await asyncio.Event().wait()


def _answer(outcome: mt.Outcome) -> str | Exception:
    if outcome.transcript is not None:
        return outcome.transcript.text
    assert outcome.error is not None
    return outcome.error
