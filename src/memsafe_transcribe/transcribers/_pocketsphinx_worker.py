"""The recognizing process. Run by `pocketsphinx.py`, never imported.

A process of its own, because PocketSphinx holds the interpreter's lock while it works: in a thread it would stop the
host's event loop for seconds, and could not be cancelled. Frames in: W (a WAV file). Out: R (once the model is loaded),
then a T for each W (JSON: a list of [word, start_seconds, end_seconds]).
"""

import io
import json
import sys
import wave
from array import array

from memsafe_transcribe._worker import inside

_FRAMES_PER_SECOND = 100
_MAX_CHUNK_BYTES = 1 << 26
_SILENT_PEAK = 32  # -60 dBFS: in digital silence PocketSphinx hears words


def main() -> None:
    lifeline = int(sys.argv[1])
    inside.die_with_parent(lifeline)
    import pocketsphinx

    decoder = pocketsphinx.Decoder(samprate=16_000.0, loglevel="FATAL")
    inside.send(b"R", b"")
    for _, wav in inside.receive(_MAX_CHUNK_BYTES):
        with wave.open(io.BytesIO(wav)) as file:
            samples = file.readframes(file.getnframes())
        if not _is_loud(samples):
            inside.send(b"T", b"[]")
            continue
        decoder.reinit_feat()  # what was heard before must not change the answer; the mean alone (set_cmn) is not all
        decoder.start_utt()
        decoder.process_raw(samples, full_utt=True)
        decoder.end_utt()
        words = [
            [
                segment.word.partition("(")[0],
                segment.start_frame / _FRAMES_PER_SECOND,
                (segment.end_frame + 1) / _FRAMES_PER_SECOND,
            ]
            for segment in decoder.seg() or ()
            if not segment.word.startswith(("<", "["))
        ]
        inside.send(b"T", json.dumps(words).encode())


def _is_loud(samples: bytes) -> bool:
    numbers = array("h", samples)
    return bool(numbers) and max(max(numbers), -min(numbers)) > _SILENT_PEAK
