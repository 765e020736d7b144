"""Pure: what the decoding process says, if it can be: one that a media file has taken over may say anything."""

import json
import struct
from array import array
from dataclasses import dataclass
from math import isfinite
from typing import Any

from .chunker import FRAME_SAMPLES

SAMPLE_RATE_HZ = 16_000

_COUNT = struct.Struct("<I")
_LEVEL_BYTES, _SAMPLE_BYTES = 4, 2
_MOST_CHARACTERS = 500  # of a message


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """What a file says of itself.

    Attributes:
        format: FFmpeg's name of the container, `mp3` or `mov,mp4,m4a,3gp,3g2,mj2`.
        codec: FFmpeg's name of the audio decoder.
        duration_seconds: the length that the header claims or implies; None if it does neither. Never trusted.
        is_confined: whether the kernel lets the decoding process do nothing but compute (seccomp).
    """

    format: str
    codec: str
    duration_seconds: float | None
    is_confined: bool


@dataclass(frozen=True, slots=True)
class Block:
    """Up to two seconds of audio.

    Attributes:
        levels: the mean square of the samples of each 10 ms that has begun; full scale is 1.0.
        samples: 16 kHz mono signed 16-bit little-endian.
    """

    levels: "array[float]"
    samples: bytes


@dataclass(frozen=True, slots=True)
class DecodeGap:
    """Audio that is missing. Where the file does not tell how much, the end is the start."""

    start_seconds: float
    end_seconds: float
    reason: str


def block_of(payload: bytes) -> Block:
    """A block.

    Raises:
        ValueError, struct.error: it is none.
    """
    (count,) = _COUNT.unpack_from(payload)
    samples_at = _COUNT.size + _LEVEL_BYTES * count
    samples, odd = divmod(len(payload) - samples_at, _SAMPLE_BYTES)
    if samples < 1 or odd or count != -(-samples // FRAME_SAMPLES):
        raise ValueError(f"{len(payload)} bytes with {count} levels are no block")
    return Block(array("f", payload[_COUNT.size : samples_at]), payload[samples_at:])


def info_of(payload: bytes) -> MediaInfo:
    """What the file says of itself.

    Raises:
        ValueError, TypeError, LookupError: it cannot be that.
    """
    said = _dict_of(payload)
    seconds = said["duration_seconds"]
    if seconds is not None and not (type(seconds) in (int, float) and isfinite(seconds) and seconds >= 0):
        raise ValueError("duration_seconds is no length")
    return MediaInfo(_text(said["format"]), _text(said["codec"]), seconds, said["is_confined"] is True)


def gaps_of(payload: bytes, most_samples: int) -> tuple[DecodeGap, ...]:
    """What could not be heard, in order.

    Args:
        payload: what was said.
        most_samples: beyond which nothing can be missing.

    Raises:
        ValueError, TypeError, LookupError: it cannot be that.
    """
    gaps = []
    latest = 0
    for start, end, reason in _dict_of(payload)["gaps"]:
        if type(start) is not int or type(end) is not int or not latest <= start <= end <= most_samples:
            raise ValueError("a gap is out of order")
        latest = start
        gaps.append(DecodeGap(start / SAMPLE_RATE_HZ, end / SAMPLE_RATE_HZ, _text(reason)))
    return tuple(gaps)


def samples_of(payload: bytes) -> int:
    """How many samples there were in all.

    Raises:
        ValueError, TypeError, LookupError: it cannot be that.
    """
    samples = _dict_of(payload)["samples"]
    if type(samples) is not int:
        raise TypeError("no number")
    return samples


def refusal_of(payload: bytes) -> tuple[str, str]:
    """(kind, message) of why it is not decoded.

    Raises:
        ValueError, TypeError, LookupError: it cannot be that.
    """
    said = _dict_of(payload)
    return _text(said["kind"]), _text(said["message"])


def _dict_of(payload: bytes) -> dict[str, Any]:
    said = json.loads(payload)
    if not isinstance(said, dict):
        raise TypeError("no object")
    return said


def _text(said: object) -> str:
    if not isinstance(said, str):
        raise TypeError("no text")
    return said[:_MOST_CHARACTERS]
