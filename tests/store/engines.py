"""Engines whose answers can be told from one another, and that count what they are asked."""

import io
import wave

import memsafe_transcribe as mt


class Teller:
    """An engine that says where each chunk begins and ends, and counts how often it was asked for which."""

    def __init__(self, *, fails_at: set[int] | None = None, cache_key: str | None = "teller") -> None:
        self.capabilities = mt.Capabilities(max_chunk_seconds=60.0, timestamps="word", cache_key=cache_key)
        self.asked: list[float] = []
        self.fails_at = fails_at or set()

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        if len(self.asked) in self.fails_at:
            self.fails_at.discard(len(self.asked))
            raise RuntimeError("broken")
        self.asked.append(chunk.start_seconds)
        with wave.open(io.BytesIO(chunk.data)) as file:
            seconds = file.getnframes() / 16_000
        middle = seconds / 2
        word = mt.Word(f"at{chunk.start_seconds + middle:.2f}", middle - 0.1, middle + 0.1)
        return mt.ChunkResult(words=(word,), language="en")
