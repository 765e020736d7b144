"""A plugin as another distribution would ship it: 150 words a minute, at once, with their times."""

import memsafe_transcribe as mt

WORDS_PER_SECOND = 150 / 60


class SpeechClock:
    """Says one word for each 0.4 s of audio: its number in the whole file."""

    capabilities = mt.Capabilities(max_chunk_seconds=300, timestamps="word")

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        first = round(chunk.start_seconds * WORDS_PER_SECOND)
        words = tuple(
            mt.Word(f"word{first + number}", number / WORDS_PER_SECOND, (number + 1) / WORDS_PER_SECOND)
            for number in range(int(chunk.duration_seconds * WORDS_PER_SECOND))
        )
        return mt.ChunkResult(words=words)
