"""Pure: samples in memory -> a file in memory that engines accept."""

import struct

_WAV_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")


def wav(samples: bytes, sample_rate_hz: int) -> bytes:
    """A RIFF/WAVE file of mono signed 16-bit samples.

    Args:
        samples: little-endian, an even number of bytes, less than 4 GiB.
        sample_rate_hz: their rate.

    Memory: the result, 44 bytes longer than `samples`.
    """
    size = len(samples)
    header = _WAV_HEADER.pack(
        b"RIFF", size + 36, b"WAVE", b"fmt ", 16, 1, 1, sample_rate_hz, sample_rate_hz * 2, 2, 16, b"data", size
    )
    return header + samples
