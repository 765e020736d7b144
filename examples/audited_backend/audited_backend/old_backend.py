"""The backend as the audit found it. It is an ordinary one, and on a good day it works."""

import asyncio
import functools
import io
import logging
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx
import psutil
from pydub import AudioSegment

_LOG = logging.getLogger(__name__)

MAX_FILE_BYTES = 500_000_000
LONG_FILE_BYTES = 10_000_000
CHUNK_SECONDS = 60.0
MEMORY_THRESHOLD_PERCENT = 80.0
MAX_BATCH_SIZE = 5
MAX_CONCURRENT_CHUNKS = 2
MAX_SCHEDULED = 2
BATCH_CACHE_SECONDS = 24 * 3600.0
FAILED_URL_SECONDS = 7 * 24 * 3600.0
DOWNLOAD_BLOCK_BYTES = 1 << 16

Engine = Callable[[bytes], Awaitable[str]]


def _host_memory_percent() -> float:
    return psutil.virtual_memory().percent


def memory_guard(method: Callable[..., Awaitable[str]]) -> Callable[..., Awaitable[str]]:
    """Refuse to begin when memory is above the threshold."""

    @functools.wraps(method)
    async def guarded(self: "TranscriptionBackend", *arguments: Any) -> str:
        percent = self.memory_percent()
        if percent > MEMORY_THRESHOLD_PERCENT:
            raise MemoryError(f"memory usage is {percent:.0f} %, above {MEMORY_THRESHOLD_PERCENT:.0f} %")
        return await method(self, *arguments)

    return guarded


class TranscriptionBackend:
    """Transcribes audio from URLs.

    Args:
        engine: what hears a chunk of 16 kHz mono WAV.
        max_file_bytes: larger files are refused.
        long_file_bytes: from this size on a file is cut into chunks.
        chunk_seconds: how long those are.
        memory_percent: how much of the memory is used.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        max_file_bytes: int = MAX_FILE_BYTES,
        long_file_bytes: int = LONG_FILE_BYTES,
        chunk_seconds: float = CHUNK_SECONDS,
        memory_percent: Callable[[], float] = _host_memory_percent,
    ) -> None:
        self.engine = engine
        self.max_file_bytes = max_file_bytes
        self.long_file_bytes = long_file_bytes
        self.chunk_seconds = chunk_seconds
        self.memory_percent = memory_percent
        self.batches: dict[str, tuple[float, dict[str, str | BaseException]]] = {}
        self.failed_urls: dict[str, float] = {}
        self._batch_limit = asyncio.Semaphore(MAX_BATCH_SIZE)
        self._scheduler_limit = asyncio.Semaphore(MAX_SCHEDULED)

    async def transcribe_audio(self, url: str) -> str:
        """The text of one file."""
        if url in self.failed_urls:
            raise ValueError(f"{url} failed before")
        path = await asyncio.to_thread(self._download_audio_sync, url)
        if os.path.getsize(path) > self.long_file_bytes:
            text = await self._process_long_audio(path)
        else:
            audio = await asyncio.to_thread(_load, path)
            text = await self.engine(_to_wav(audio))
        os.unlink(path)
        return text

    async def transcribe_batch(self, batch_id: str, urls: Sequence[str]) -> dict[str, str | BaseException]:
        """The text of each, or what went wrong. A batch that is asked for again comes from the cache."""
        if batch_id in self.batches:
            return self.batches[batch_id][1]

        async def one(url: str) -> str:
            async with self._batch_limit:
                return await self.transcribe_audio(url)

        outcomes = dict(zip(urls, await asyncio.gather(*map(one, urls), return_exceptions=True), strict=True))
        self.batches[batch_id] = time.time(), outcomes
        return outcomes

    async def run_scheduled(self, urls: Sequence[str]) -> list[str]:
        """What the scheduler does at night."""

        async def one(url: str) -> str:
            async with self._scheduler_limit:
                return await self.transcribe_audio(url)

        return await asyncio.gather(*map(one, urls))

    async def cleanup_cache(self) -> None:
        """Forget batches older than a day, and failed URLs older than a week."""
        now = time.time()
        batch_ids = [batch_id for batch_id, (at, _) in self.batches.items() if now - at > BATCH_CACHE_SECONDS]
        failed_urls = [url for url, at in self.failed_urls.items() if now - at > FAILED_URL_SECONDS]
        for batch_id in batch_ids:
            del self.batches[batch_id]
        for url in failed_urls:
            del self.failed_urls[url]
        _LOG.info("cleanup: batches=%d, failed_urls=%d", len(batch_ids), len(failed_urls))

    async def cleanup_periodically(self, every_seconds: float = 3600.0) -> None:
        """Clean up now and every hour."""
        while True:
            await self.cleanup_cache()
            await asyncio.sleep(every_seconds)

    def _download_audio_sync(self, url: str) -> str:
        """Download to a temporary file; its path."""
        suffix = os.path.splitext(httpx.URL(url).path)[1]
        with tempfile.NamedTemporaryFile(suffix=suffix, delete=False) as file:
            try:
                with httpx.stream("GET", url, timeout=30, follow_redirects=True) as response:
                    response.raise_for_status()
                    for block in response.iter_bytes(DOWNLOAD_BLOCK_BYTES):
                        file.write(block)
            except httpx.HTTPStatusError as error:
                if error.response.status_code in (403, 404):
                    os.unlink(file.name)
                    self.failed_urls[url] = time.time()
                raise
        size_bytes = os.path.getsize(file.name)
        if size_bytes > self.max_file_bytes:
            raise ValueError(f"{url} has {size_bytes} bytes, more than {self.max_file_bytes}")
        return file.name

    @memory_guard
    async def _process_long_audio(self, path: str) -> str:
        """Chunk by chunk, a few at once."""
        audio = await asyncio.to_thread(_load, path)
        limit = asyncio.Semaphore(MAX_CONCURRENT_CHUNKS)
        step = int(self.chunk_seconds * 1000)

        async def one(start: int) -> str:
            async with limit:
                return await self.engine(_to_wav(audio[start : start + step]))

        return " ".join(await asyncio.gather(*map(one, range(0, len(audio), step))))


def _load(path: str) -> AudioSegment:
    """The whole file, as engines want it."""
    return AudioSegment.from_file(path).set_channels(1).set_frame_rate(16_000).set_sample_width(2)


def _to_wav(audio: AudioSegment) -> bytes:
    file = io.BytesIO()
    audio.export(file, format="wav")
    return file.getvalue()
