"""The decoding process: any audio file in, 16 kHz mono signed 16-bit samples out. Run by `decoder.py`, never imported.

Frames out: I (JSON: what the file says of itself), P (a block: a 32-bit count of levels, the levels as 32-bit floats,
samples), then D (JSON: what was damaged) or E (JSON: why not).
"""

import os
import struct
import sys
import wave
from array import array

from memsafe_transcribe._worker import inside, sandbox

_COUNT = struct.Struct("<I")


def _send_block(levels: "array[float]", samples: bytes) -> None:
    inside.send(b"P", _COUNT.pack(len(levels)) + levels.tobytes() + samples)


def _warm_up() -> None:
    """Decode a moment of silence, so that everything PyAV imports on first use is there before files are forbidden."""
    from .files import FileView
    from .media import Media
    from .samples import Samples

    with os.fdopen(os.memfd_create("silence"), "w+b") as silence:
        with wave.open(silence, "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes(bytes(16_000))
        silence.flush()
        samples = Samples(lambda levels, samples: None)
        samples.add_silence(1)
        Media(FileView(silence.fileno()), silence.fileno(), 16_000).decode(samples)


def main() -> None:
    lifeline, fd, data_limit_bytes, max_samples, cpu_seconds = map(int, sys.argv[1:])
    inside.die_with_parent(lifeline)
    try:
        import av

        from .files import Feed, FileView
        from .media import Media, RefusalError
        from .samples import Samples

        av.logging.set_level(None)
        _warm_up()
        inside.limit_resources(data_limit_bytes, cpu_seconds)
        is_confined = sandbox.confine()
        try:
            media = Media(Feed(0), None, max_samples) if fd < 0 else Media(FileView(fd), fd, max_samples)
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
