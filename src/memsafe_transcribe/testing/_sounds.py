"""Chunks to ask an engine about: silence, babble that is no language, and what its author says it understands."""

import functools
import io
import math
import wave
from array import array
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from .._audio.encoding import wav
from .._transcription.protocol import AudioChunk, Capabilities

RATE_HZ = 16_000
_LONGEST_SECONDS = 600.0  # some engines take hours: 10 minutes are 19 MB
_PATTERN_SECONDS = 4


def samples_of(speech: bytes) -> bytes:
    """The samples of a WAV file that an engine's author gave.

    Raises:
        ValueError: it is no WAV file of 16 kHz mono 16-bit samples.
    """
    if not isinstance(speech, bytes):
        raise ValueError(f"speech() is a {type(speech).__name__}, and the bytes of a WAV file are wanted")
    try:
        with wave.open(io.BytesIO(speech)) as file:
            shape = file.getframerate(), file.getnchannels(), file.getsampwidth()
            if shape == (RATE_HZ, 1, 2):
                samples: bytes = file.readframes(file.getnframes())
                return samples
    except (wave.Error, EOFError) as error:
        raise ValueError(f"speech() is no WAV file: {error}") from error
    raise ValueError(
        f"speech() is a WAV file of (hertz, channels, bytes a sample) {shape}, and (16000, 1, 2) is wanted"
    )


@functools.cache
def _pattern() -> bytes:
    """Four seconds of tones that come and go like syllables: loud, and no language."""
    pattern = array("h")
    for number in range(_PATTERN_SECONDS * RATE_HZ):
        seconds = number / RATE_HZ
        hertz = 140 + 60 * (int(seconds * 5) * 7 % 11)
        loudness = max(0.0, math.sin(2 * math.pi * 2.5 * seconds))
        pattern.append(int(9_000 * loudness * math.sin(2 * math.pi * hertz * seconds)))
    return pattern.tobytes()


def babble(samples: int, material: bytes = b"") -> bytes:
    """So many samples of `material`, again and again; of the babble where there is none."""
    material = material or _pattern()
    size = samples * 2
    return (material * (size // len(material) + 1))[:size]


def longest_samples(capabilities: Capabilities, at_most_seconds: float = _LONGEST_SECONDS) -> int:
    """How long the longest chunk is that is tried."""
    return int(min(capabilities.longest_chunk_seconds, at_most_seconds) * RATE_HZ)


def shortest_samples(capabilities: Capabilities) -> int:
    """How long the shortest chunk is that the library sends."""
    return max(1, math.ceil(capabilities.min_chunk_seconds * RATE_HZ))


def short_samples(capabilities: Capabilities, seconds: float = 2.0) -> int:
    """A length near `seconds` that the engine takes."""
    samples = max(shortest_samples(capabilities), int(seconds * RATE_HZ))
    return min(samples, int(capabilities.longest_chunk_seconds * RATE_HZ))


def chunk_of(samples: bytes, *, index: int = 0, start_seconds: float = 0.0) -> AudioChunk:
    """A chunk as the library makes them."""
    return AudioChunk(**_parts(samples, index, start_seconds))


def watched_chunk(samples: bytes, on_read: Callable[[], None]) -> AudioChunk:
    """A chunk that calls `on_read`, from whatever thread, when its data is first looked at."""
    chunk = _WatchedChunk(**_parts(samples, 0, 0.0))
    object.__setattr__(chunk, "on_read", on_read)
    return chunk


def _parts(samples: bytes, index: int, start_seconds: float) -> dict[str, Any]:
    return {
        "index": index,
        "start_seconds": start_seconds,
        "duration_seconds": len(samples) / 2 / RATE_HZ,
        "sample_rate_hz": RATE_HZ,
        "format": "wav",
        "data": wav([samples], RATE_HZ),
    }


class _WatchedChunk(AudioChunk):
    """An `AudioChunk` to everybody, to another process too."""

    def __getattribute__(self, name: str) -> Any:
        if name == "data":
            on_read = object.__getattribute__(self, "__dict__").pop("on_read", None)
            if on_read is not None:
                on_read()
        return object.__getattribute__(self, name)

    def __reduce__(self) -> Any:
        values = {field.name: getattr(self, field.name) for field in fields(AudioChunk)}
        return functools.partial(AudioChunk, **values), ()
