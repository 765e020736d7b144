"""The decoding process: any audio file in, the frames of `decoding.py` out. Run by `decoder.py`, never imported."""

import os
import sys
import wave

from memsafe_transcribe._worker import inside, sandbox

_STDIN = 0


def _warm_up() -> None:
    """Decode a moment of silence, so that everything PyAV imports on first use is there before files are forbidden."""
    import av.subtitles.codeccontext
    import av.subtitles.subtitle  # noqa: F401 - of a film with subtitles, which are not decoded

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

        from .decoding import decode

        av.logging.set_level(None)
        _warm_up()
        inside.limit_resources(data_limit_bytes, cpu_seconds)
        is_confined = sandbox.confine()
        decode(None if fd < 0 else fd, _STDIN, max_samples, inside.send, is_confined=is_confined)
    except MemoryError:
        inside.send_json(b"E", {"kind": "memory", "message": f"needs more than data_limit_bytes={data_limit_bytes}"})
