"""PocketSphinx: English, offline, without a key. Its wheel carries the model. Extra: `offline`."""

import contextlib
import importlib.util
import json
import sys
from dataclasses import replace
from importlib.metadata import version

import anyio

from .._errors import TranscriberError
from .._transcription.protocol import AudioChunk, Capabilities, ChunkContext, ChunkResult
from .._transcription.transcript import Word
from .._units import MiB
from .._worker.process import WorkerProcess


class PocketsphinxTranscriber:
    """Recognizes English with word times, in a process of its own that is started at the first chunk.

    One chunk at a time; others wait. The model takes about 150 MiB as long as the engine is open. It is a small and old
    model: good enough to try everything out without a key, not to publish.

    Cancellation: the process is killed; the next call starts another.
    """

    # Longer chunks gain nothing, and the search's memory grows with them.
    capabilities: Capabilities = Capabilities(
        max_chunk_seconds=30.0,
        timestamps="word",
        languages=("en", "en-US"),
        resident_bytes=150 * MiB,
        call_bytes=12 * MiB,  # the search's lattice; 9.3 were measured over 30 s of speech
    )

    def __init__(self) -> None:
        if (what := self.missing()) is not None:
            raise TranscriberError(f"engine 'pocketsphinx' cannot be used: {what}")
        cache_key = f"pocketsphinx {version('pocketsphinx')}"  # its model comes with it
        self.capabilities = replace(type(self).capabilities, cache_key=cache_key)
        self._lock = anyio.Lock()
        self._worker: WorkerProcess | None = None

    @staticmethod
    def missing() -> str | None:
        """What keeps it from being used; None if nothing does."""
        if importlib.util.find_spec("pocketsphinx") is not None:
            return None
        if sys.version_info >= (3, 14):
            return "pocketsphinx has no wheel for this Python; use 3.11, 3.12 or 3.13"
        return "pocketsphinx is not installed: pip install 'memsafe-transcribe[offline]'"

    async def transcribe(self, chunk: AudioChunk, context: ChunkContext) -> ChunkResult:
        """Recognize one chunk."""
        async with self._lock:
            try:
                words = await self._ask(chunk.data)
            except BaseException:
                await self.aclose()
                raise
        return ChunkResult(words=tuple(Word(*word) for word in words), language="en")

    async def _ask(self, wav: bytes) -> list[tuple[str, float, float]]:
        if self._worker is None:
            self._worker = WorkerProcess("transcribers._pocketsphinx_worker")
            await self._receive(self._worker)
        with contextlib.suppress(BrokenPipeError):  # it is dead; what it died of is found below
            await self._worker.send(b"W", wav)
        words: list[tuple[str, float, float]] = json.loads(await self._receive(self._worker))
        return words

    async def _receive(self, worker: WorkerProcess) -> bytes:
        frame = await worker.receive()
        if frame is None:
            raise TranscriberError(f"the recognizing process died: {await worker.exit_reason()}")
        return frame[1]

    async def aclose(self) -> None:
        """End the process."""
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.aclose()
