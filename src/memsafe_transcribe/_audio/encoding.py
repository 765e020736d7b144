"""Pure: samples in memory -> a WAV file, in memory or piece by piece."""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

WAV_HEADER_BYTES = 44
PIECE_BYTES = 64 * 1024
_WAV_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")
_UNKNOWN_BYTES = 0xFFFF_FFFF  # as a size: until the stream ends
_OTHER_SIGN = bytes(value ^ 0x80 for value in range(256))


def wav(samples: Iterable[bytes | memoryview], sample_rate_hz: int) -> bytes:
    """A RIFF/WAVE file of mono signed 16-bit samples.

    Args:
        samples: little-endian, in pieces of an even number of bytes, less than 4 GiB in all.
        sample_rate_hz: their rate.

    Memory: the result, 44 bytes longer than `samples`.
    """
    pieces = list(samples)
    size_bytes = sum(map(len, pieces))
    return b"".join((wav_header(size_bytes, sample_rate_hz, channels=1, sample_bytes=2), *pieces))


def wav_header(size_bytes: int, sample_rate_hz: int, *, channels: int, sample_bytes: int) -> bytes:
    """What a RIFF/WAVE file of PCM begins with.

    Args:
        size_bytes: of all samples; where that is more than a header can say (4 GiB), it says "until the end".
        sample_rate_hz: per channel.
        channels: interleaved.
        sample_bytes: of one sample of one channel; of a single byte they are unsigned, else signed.
    """
    frame_bytes = channels * sample_bytes
    riff_bytes, data_bytes = size_bytes + WAV_HEADER_BYTES - 8, size_bytes
    if riff_bytes >= _UNKNOWN_BYTES:
        riff_bytes = data_bytes = _UNKNOWN_BYTES
    rate = sample_rate_hz, sample_rate_hz * frame_bytes
    fmt = 16, 1, channels, *rate, frame_bytes, 8 * sample_bytes
    return _WAV_HEADER.pack(b"RIFF", riff_bytes, b"WAVE", b"fmt ", *fmt, b"data", data_bytes)


@dataclass(frozen=True, slots=True)
class WavPieces:
    """A WAV file of samples that are in memory already: iterated, its header and then pieces of at most 64 KiB.

    Attributes:
        samples: signed, little-endian, interleaved; of one byte as well, which WAV has unsigned.
        sample_rate_hz: per channel.
        channels: how many.
        sample_bytes: of one sample of one channel: 1, 2, 3 or 4.

    Memory: one piece at a time; the samples are neither copied nor joined.
    """

    samples: bytes
    sample_rate_hz: int
    channels: int
    sample_bytes: int

    @property
    def duration_seconds(self) -> float:
        """Their length."""
        return len(self.samples) / (self.sample_rate_hz * self.channels * self.sample_bytes)

    def __iter__(self) -> Iterator[bytes]:
        size_bytes = len(self.samples)
        yield wav_header(size_bytes, self.sample_rate_hz, channels=self.channels, sample_bytes=self.sample_bytes)
        for start in range(0, size_bytes, PIECE_BYTES):
            piece = bytes(self.samples[start : start + PIECE_BYTES])
            yield piece.translate(_OTHER_SIGN) if self.sample_bytes == 1 else piece
