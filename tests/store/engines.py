"""Engines whose answers can be told from one another, and that count what they are asked."""

import io
import wave
from collections.abc import Callable
from typing import Any

import memsafe_transcribe as mt

Before = Callable[[int, mt.AudioChunk], Any]


class Teller:
    """An engine that says where each chunk begins and ends, and counts how often it was asked for which.

    Args:
        fails_at: which answers fail, counted from 0 over those that were given; each does once.
        cache_key: of its answers.
        before: called with the number of answers so far, before each; what it returns is awaited, if it can be, and
            raised, if it is an exception.
        capabilities: other than usual.
    """

    def __init__(
        self,
        *,
        fails_at: set[int] | None = None,
        cache_key: str | None = "teller",
        before: Before = lambda number, chunk: None,
        **capabilities: Any,
    ) -> None:
        wanted = {"max_chunk_seconds": 60.0, "timestamps": "word", "cache_key": cache_key, **capabilities}
        self.capabilities = mt.Capabilities(**wanted)
        self.asked: list[float] = []
        self.heard_seconds: list[float] = []
        self.fails_at = fails_at or set()
        self._before = before

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        if len(self.asked) in self.fails_at:
            self.fails_at.discard(len(self.asked))
            raise RuntimeError("broken")
        found = self._before(len(self.asked), chunk)
        if hasattr(found, "__await__"):
            found = await found
        if isinstance(found, Exception):
            raise found
        self.asked.append(chunk.start_seconds)
        with wave.open(io.BytesIO(chunk.data)) as file:
            seconds = file.getnframes() / 16_000
        self.heard_seconds.append(seconds)
        middle = seconds / 2
        word = mt.Word(f"at{chunk.start_seconds + middle:.2f}", middle - 0.1, middle + 0.1)
        return mt.ChunkResult(words=(word,), language="en")
