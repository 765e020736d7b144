"""SegmentStream: one job as an iterator that decodes and transcribes a chunk each time it runs dry."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Any, Literal

import anyio

from .._audio.decoder import BYTES_PER_SECOND, SAMPLE_RATE_HZ, Decoder
from .._audio.encoding import wav
from .protocol import AudioChunk, ChunkContext
from .registry import Engine
from .transcript import Gap, Segment


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is.

    Attributes:
        phase: "waiting" for a slot and memory, "downloading", or "transcribing".
        done: bytes downloaded, or seconds of audio transcribed.
        total: how many there will be, as far as the server or the file's header says; None if they do not.
    """

    phase: Literal["waiting", "downloading", "transcribing"]
    done: float = 0.0
    total: float | None = None


OnProgress = Callable[[Progress], None]


class SegmentStream:
    """Segments in order of time, made as they are asked for: nothing is decoded ahead of the reader.

    Attributes:
        language: what the caller said, or else the engine; None before the first chunk.
        duration_seconds: the audio read so far; all of it once the iteration has ended.
        gaps: what was found damaged; complete once the iteration has ended.
    """

    def __init__(
        self, engine: Engine, decoder: Decoder, chunk_bytes: int, context: ChunkContext, on_chunk: Callable[..., Any]
    ) -> None:
        self.language = context.language
        self.duration_seconds = 0.0
        self.gaps: tuple[Gap, ...] = ()
        self._engine = engine
        self._decoder = decoder
        self._chunk_bytes = chunk_bytes
        self._context = context
        self._on_chunk = on_chunk
        self._samples = bytearray()  # decoded, and of no chunk yet
        self._ready: deque[Segment] = deque()
        self._index = 0
        self._closed = False
        self._iterating = anyio.ResourceGuard("iterating over")

    def __aiter__(self) -> "SegmentStream":
        return self

    async def __anext__(self) -> Segment:
        with self._iterating:
            while not self._ready:
                if self._closed:
                    raise RuntimeError("the block of stream() has ended; iterate inside it")
                if not await self._next_chunk():
                    raise StopAsyncIteration
        return self._ready.popleft()

    def close(self) -> None:
        """Called when the block ends: there is nothing behind the stream any more."""
        self._closed = True

    async def _next_chunk(self) -> bool:
        await self._on_chunk(self)
        chunk = await self._read_chunk()
        if chunk is None:
            self.gaps = tuple(Gap(gap.start_seconds, gap.end_seconds, gap.reason) for gap in self._decoder.gaps)
            return False
        remaining = remaining_seconds()
        context = replace(self._context, deadline_seconds=remaining if isfinite(remaining) else None)
        segments, language = await self._engine.transcribe(chunk, context)
        self.language = self.language or language
        self._ready.extend(segments)
        self._index += 1
        self.duration_seconds = chunk.start_seconds + chunk.duration_seconds
        return True

    async def _read_chunk(self) -> AudioChunk | None:
        while len(self._samples) < self._chunk_bytes and (block := await self._decoder.read()) is not None:
            self._samples += block.samples
        if not self._samples:
            return None
        samples = bytes(self._samples[: self._chunk_bytes])
        del self._samples[: self._chunk_bytes]
        return AudioChunk(
            index=self._index,
            start_seconds=self._index * self._chunk_bytes / BYTES_PER_SECOND,
            duration_seconds=len(samples) / BYTES_PER_SECOND,
            sample_rate_hz=SAMPLE_RATE_HZ,
            format="wav",
            data=wav(samples, SAMPLE_RATE_HZ),
        )


def remaining_seconds() -> float:
    """Until the nearest deadline around this task; infinite without one."""
    deadline = anyio.current_effective_deadline()
    return inf if deadline == inf else deadline - anyio.current_time()
