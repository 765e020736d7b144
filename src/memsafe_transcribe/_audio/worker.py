"""The decoding process: any audio file in, 16 kHz mono signed 16-bit samples out. Run by `decoder.py`, never imported.

Frames out: I (JSON: what the file says of itself), P (a block: a 32-bit count of levels, the levels as 32-bit floats,
samples), then D (JSON: what was damaged) or E (JSON: why not).
"""

import io
import os
import struct
import sys
import wave
from array import array

from memsafe_transcribe._worker import inside, sandbox

_COUNT = struct.Struct("<I")


class _File(io.RawIOBase):
    """A descriptor read at a position of our own: several workers may share one open file."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        data = os.pread(self._fd, size, self._at)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at}.get(whence, os.fstat(self._fd).st_size)
        return self._at

    def tell(self) -> int:
        return self._at

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


class _Feed(io.RawIOBase):
    """What comes in by stdin: forwards only."""

    def read(self, size: int = -1) -> bytes:
        return os.read(0, size)

    def readable(self) -> bool:
        return True


def _send_block(levels: "array[float]", samples: bytes) -> None:
    inside.send(b"P", _COUNT.pack(len(levels)) + levels.tobytes() + samples)


def _warm_up() -> None:
    """Decode a moment of silence, so that everything PyAV imports on first use is there before files are forbidden."""
    from .media import Media
    from .samples import Samples

    silence = io.BytesIO()
    with wave.open(silence, "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(16_000))
    silence.seek(0)
    samples = Samples(lambda levels, samples: None)
    samples.add_silence(1)
    Media(silence, None, 16_000).decode(samples)  # type: ignore[arg-type]


def main() -> None:
    lifeline, fd, data_limit_bytes, max_samples, cpu_seconds = map(int, sys.argv[1:])
    inside.die_with_parent(lifeline)
    try:
        import av

        from .media import Media, RefusalError
        from .samples import Samples

        av.logging.set_level(None)
        _warm_up()
        inside.limit_resources(data_limit_bytes, cpu_seconds)
        is_confined = sandbox.confine()
        try:
            media = Media(_Feed(), None, max_samples) if fd < 0 else Media(_File(fd), fd, max_samples)
            inside.send_json(b"I", {**media.info, "is_confined": is_confined})
            samples = Samples(_send_block)
            media.decode(samples)
            if samples.count == 0:
                what = "no sample of it could be decoded" if media.gaps else "it holds no samples"
                raise RefusalError("unsupported", what)
            gaps = [(gap.start_samples, gap.end_samples, gap.reason) for gap in media.gaps]
            inside.send_json(b"D", {"samples": samples.count, "gaps": gaps})
        except RefusalError as refusal:
            inside.send_json(b"E", {"kind": refusal.kind, "message": str(refusal)})
    except MemoryError:
        inside.send_json(b"E", {"kind": "memory", "message": f"needs more than data_limit_bytes={data_limit_bytes}"})
