"""SegmentStream: one job as an iterator that decodes and transcribes a chunk each time it runs dry."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Any, Literal

import anyio

from .._audio.chunker import Span
from .._audio.chunks import ChunkReader
from .._audio.decoder import SAMPLE_RATE_HZ, Decoder
from .._audio.encoding import wav
from .protocol import AudioChunk, ChunkContext
from .registry import Engine
from .transcript import Gap, Segment, Transcript


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
        is_silent: whether there was nothing to send to the engine so far.
    """

    def __init__(
        self, engine: Engine, decoder: Decoder, chunks: ChunkReader, context: ChunkContext, on_chunk: Callable[..., Any]
    ) -> None:
        self.language = context.language
        self.duration_seconds = 0.0
        self.gaps: tuple[Gap, ...] = ()
        self.is_silent = True
        self._engine = engine
        self._decoder = decoder
        self._chunks = chunks
        self._context = context
        self._on_chunk = on_chunk
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
        read = await self._chunks.read()
        if read is None:
            self.gaps = tuple(Gap(gap.start_seconds, gap.end_seconds, gap.reason) for gap in self._decoder.gaps)
            return False
        span, samples = read
        if not span.is_silent:
            await self._transcribe(_chunk(self._index, span, samples))
        self.duration_seconds = span.core_end / SAMPLE_RATE_HZ
        return True

    async def _transcribe(self, chunk: AudioChunk) -> None:
        remaining = remaining_seconds()
        context = replace(self._context, deadline_seconds=remaining if isfinite(remaining) else None)
        segments, language = await self._engine.transcribe(chunk, context)
        self.language = self.language or language
        self.is_silent = False
        self._ready.extend(segments)
        self._index += 1


def _chunk(index: int, span: Span, samples: bytes) -> AudioChunk:
    """The core alone: where it was cut through sound, the words there are not reconciled with the neighbour's yet."""
    begin, end = max(span.start, span.core_start), min(span.end, span.core_end)
    heard = samples[(begin - span.start) * 2 : (end - span.start) * 2]
    return AudioChunk(
        index=index,
        start_seconds=begin / SAMPLE_RATE_HZ,
        duration_seconds=(end - begin) / SAMPLE_RATE_HZ,
        sample_rate_hz=SAMPLE_RATE_HZ,
        format="wav",
        data=wav(heard, SAMPLE_RATE_HZ),
    )


def whole(stream: SegmentStream, segments: Iterable[Segment]) -> Transcript:
    """All of it, once the iteration has ended and given these segments."""
    return Transcript(tuple(segments), stream.language, stream.duration_seconds, stream.gaps, stream.is_silent)


def remaining_seconds() -> float:
    """Until the nearest deadline around this task; infinite without one."""
    deadline = anyio.current_effective_deadline()
    return inf if deadline == inf else deadline - anyio.current_time()
