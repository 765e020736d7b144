"""The recognizing process. Run by `faster_whisper.py`, never imported.

A process of its own, so that the model's memory is gone when the engine is closed, and a call can be cancelled.

Frames in: O (options, JSON), once; then for each chunk a C (language and prompt, JSON) and a W (a WAV file). Out: R,
once the model is loaded; then for each chunk a T (JSON: language, and segments of [text, start, end, words]). An E
stands in the place of either (JSON: an exception's text, and whether it says that memory is short).
"""

import io
import json
import os
import sys
import wave
from typing import Any

from memsafe_transcribe._worker import inside

_MAX_CHUNK_BYTES = 1 << 26


def main() -> None:
    inside.die_with_parent(int(sys.argv[1]))
    frames = inside.receive(_MAX_CHUNK_BYTES)
    options = json.loads(next(frames)[1])
    os.environ.update(options["environment"])  # what the libraries read; nothing else of the host's is here
    try:
        model = _load(options)
    except Exception as error:
        _send_error(error)
        return
    inside.send(b"R", b"")
    hints: dict[str, Any] = {}
    for kind, payload in frames:
        if kind == b"C":
            hints = json.loads(payload)
            continue
        try:
            answer = _transcribe(model, payload, hints, options)
        except Exception as error:
            _send_error(error)
        else:
            inside.send_json(b"T", answer)


def _load(options: dict[str, Any]) -> Any:
    import faster_whisper

    folder = options["folder"]
    if folder is None:
        folder = faster_whisper.download_model(options["model"], cache_dir=options["cache"])
    return faster_whisper.WhisperModel(
        folder,
        device=options["device"],
        compute_type=options["compute_type"],
        cpu_threads=options["cpu_threads"],
        local_files_only=True,
    )


def _transcribe(model: Any, wav: bytes, hints: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    import ctranslate2
    import numpy

    with wave.open(io.BytesIO(wav)) as file:
        samples = numpy.frombuffer(file.readframes(file.getnframes()), numpy.int16)
    if not samples.any():  # Whisper hears something in silence, too
        return {"language": hints["language"], "segments": []}
    ctranslate2.set_random_seed(1)  # where it is unsure it samples: the same chunk is to be heard the same
    segments, info = model.transcribe(
        samples.astype(numpy.float32) / 32768,
        language=hints["language"],
        initial_prompt=hints["prompt"],
        beam_size=options["beam_size"],
        word_timestamps=True,
        condition_on_previous_text=False,  # what went wrong in one window is not to spoil the next
    )
    heard = [
        [each.text, float(each.start), float(each.end), [_word(word) for word in each.words or ()]] for each in segments
    ]
    return {"language": info.language, "segments": heard}


def _word(word: Any) -> list[Any]:
    return [word.word.strip(), float(word.start), float(word.end)]


def _send_error(error: Exception) -> None:
    is_memory = isinstance(error, MemoryError) or "bad_alloc" in str(error) or "out of memory" in str(error)
    inside.send_json(b"E", {"is_memory": is_memory, "text": f"{type(error).__name__}: {error}"[:1000]})
