"""A plugin as another distribution would ship it: 150 words a minute, at once, with their times."""

import math

import memsafe_transcribe as mt

WORDS_PER_SECOND = 150 / 60


class SpeechClock:
    """Says one word for each 0.4 s of audio, in the chunk that has its middle: its number in the whole file."""

    capabilities = mt.Capabilities(max_chunk_seconds=300, timestamps="word", cache_key="speech-clock 1")

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        start, end = chunk.start_seconds, chunk.start_seconds + chunk.duration_seconds
        words = tuple(
            mt.Word(f"word{number}", number / WORDS_PER_SECOND - start, (number + 1) / WORDS_PER_SECOND - start)
            for number in range(math.ceil(start * WORDS_PER_SECOND - 0.5), math.ceil(end * WORDS_PER_SECOND - 0.5))
        )
        return mt.ChunkResult(words=words)
