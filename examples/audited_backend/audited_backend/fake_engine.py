"""Recordings whose words are tones, and an engine that hears them: what is shown here is not recognition."""

import asyncio
import io
import math
import wave
from array import array
from contextlib import suppress
from itertools import groupby, pairwise
from pathlib import Path

HERTZ = {"memory": 400, "is": 700, "all": 1_000, "you": 1_300, "need": 1_600}
LOUDNESS = 12_000  # of 32 767
LOUD = 3_000
FRAME_SAMPLES = 160
STRIDE = 7  # no tone has its zeros at every seventh sample
HEARD_SAMPLES = 1_600
WAV_BYTES_PER_SECOND = 32_000
CROWD_SECONDS = 1.0
TONE_SECONDS = 0.6  # of each second; the rest, on both sides, is a pause


def text_of(seconds: int) -> str:
    """What is said in a recording of that length: a word a second."""
    words = list(HERTZ)
    return " ".join(words[second % len(words)] for second in range(seconds))


def write_recording(path: Path, seconds: int, *, rate_hz: int = 16_000, channels: int = 1, take: int = 0) -> Path:
    """A WAV file in which `text_of(seconds)` is said; no take is the same bytes as another."""
    words = [_one_second(hertz, rate_hz, channels, LOUDNESS + take) for hertz in HERTZ.values()]
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, 2, rate_hz, seconds * rate_hz, "NONE", ""))
        for second in range(seconds):
            file.writeframesraw(words[second % len(words)])
    return path


def _one_second(hertz: int, rate_hz: int, channels: int, loudness: int) -> bytes:
    pause = [0] * int(rate_hz * (1 - TONE_SECONDS) / 2)
    tone_samples = rate_hz - 2 * len(pause)
    tone = [int(loudness * math.sin(2 * math.pi * hertz * n / rate_hz)) for n in range(tone_samples)]
    return array("h", [sample for sample in (*pause, *tone, *pause) for _ in range(channels)]).tobytes()


def hear(wav: bytes) -> str:
    """The words in a chunk of 16 kHz mono 16-bit WAV: each tone by its pitch."""
    with wave.open(io.BytesIO(wav)) as file:
        samples = memoryview(file.readframes(file.getnframes())).cast("h")
        rate_hz = file.getframerate()
    loud = (max(samples[at : at + FRAME_SAMPLES : STRIDE]) > LOUD for at in range(0, len(samples), FRAME_SAMPLES))
    words, at = [], 0
    for is_loud, frames in groupby(loud):
        if is_loud:
            heard = samples[at + FRAME_SAMPLES : at + FRAME_SAMPLES + HEARD_SAMPLES]
            rises = sum(1 for before, after in pairwise(heard) if before < 0 <= after)
            hertz = rises * rate_hz / max(1, len(heard))
            words.append(min(HERTZ, key=lambda word: abs(HERTZ[word] - hertz)))
        at += FRAME_SAMPLES * sum(1 for _ in frames)
    return " ".join(words)


class CountingEngine:
    """Hears, and counts how many calls are in it at once.

    Args:
        error: with what every call is answered instead, as an error.
        seconds_per_minute: how long it takes for a minute of audio.
        crowd: calls wait in it until so many are there, or for a second; None to let them go.

    Attributes:
        may_answer: calls wait in it until this is set.
        calls: how many came.
        inside: how many are in it now.
        peak_inside: the most that ever were at once.
    """

    def __init__(self, error: str | None = None, seconds_per_minute: float = 0.0, crowd: int | None = None) -> None:
        self._error = error
        self._seconds_per_byte = seconds_per_minute / 60 / WAV_BYTES_PER_SECOND
        self._crowd = crowd
        self.may_answer = asyncio.Event()
        if crowd is None:
            self.may_answer.set()
        self.calls = 0
        self.inside = 0
        self.peak_inside = 0

    async def __call__(self, wav: bytes) -> str:
        self.calls += 1
        self.inside += 1
        self.peak_inside = max(self.peak_inside, self.inside)
        if self.inside == self._crowd:
            self.may_answer.set()
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.may_answer.wait(), None if self._crowd is None else CROWD_SECONDS)
            await asyncio.sleep(self._seconds_per_byte * len(wav))
            if self._error is not None:
                raise RuntimeError(self._error)
            return hear(wav)
        finally:
            self.inside -= 1
