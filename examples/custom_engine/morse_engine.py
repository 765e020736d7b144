"""An engine that understands Morse code: tones that are on and off."""

from itertools import groupby

import memsafe_transcribe as mt

LETTERS = dict(
    zip(
        [
            ".-",
            "-...",
            "-.-.",
            "-..",
            ".",
            "..-.",
            "--.",
            "....",
            "..",
            ".---",
            "-.-",
            ".-..",
            "--",
            "-.",
            "---",
            ".--.",
            "--.-",
            ".-.",
            "...",
            "-",
            "..-",
            "...-",
            ".--",
            "-..-",
            "-.--",
            "--..",
        ],
        "abcdefghijklmnopqrstuvwxyz",
        strict=True,
    )
)
WAV_HEADER_BYTES = 44
FRAME_SECONDS = 0.01
LOUD = 3_000  # of 32 767


class MorseEngine:
    """Hears words, with their times, in tones of any pitch.

    Args:
        unit_seconds: how long a dot is. A dash is three of it, and so is the pause between letters; that between words
            is seven.
    """

    capabilities = mt.Capabilities(timestamps="word", is_thread_safe=True, cache_key="morse-1")

    def __init__(self, unit_seconds: float = 0.06) -> None:
        self.unit_seconds = unit_seconds

    def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        """Hear one chunk. Plain, not async: it computes, so the library runs it in a thread."""
        samples = memoryview(chunk.data)[WAV_HEADER_BYTES:].cast("h")  # a view, so that no copy is to be declared
        size = int(chunk.sample_rate_hz * FRAME_SECONDS)
        loud = (max(samples[at : at + size]) > LOUD for at in range(0, len(samples), size))
        words: list[mt.Word] = []
        signs, letters, start, end, at = "", "", 0.0, 0.0, 0.0
        for is_loud, frames in groupby(loud):
            length = sum(1 for _ in frames) * FRAME_SECONDS
            units = length / self.unit_seconds
            if is_loud:
                start = start if letters or signs else at
                signs += "." if units < 2 else "-"
                end = min(at + length, chunk.duration_seconds)
            elif units > 2:
                letters, signs = letters + LETTERS.get(signs, ""), ""
                if units > 5 and letters:
                    words.append(mt.Word(letters, start, end))
                    letters = ""
            at += length
        letters += LETTERS.get(signs, "")
        return mt.ChunkResult(words=(*words, *([mt.Word(letters, start, end)] if letters else ())))
