"""What a decoder that a media file has taken over may say: nothing of it passes for audio."""

import json
import struct
import sys
from pathlib import Path
from random import Random

import psutil
import pytest

import memsafe_transcribe as mt

from ..conftest import Run
from ..support.fuzzing import bases
from ..support.media import SPEECH
from ..support.media_cases import hear


def sound(levels: bytes, samples: bytes) -> bytes:
    payload = struct.pack("<I", len(levels) // 4) + levels + samples
    return b"P" + struct.pack("<I", len(payload)) + payload


def words(kind: bytes, said: object) -> bytes:
    payload = said if isinstance(said, bytes) else json.dumps(said).encode()
    return kind + struct.pack("<I", len(payload)) + payload


LEVELS, SAMPLES = struct.pack("<100f", *[0.1] * 100), b"\1\2" * 16_000
INFO = words(b"I", {"format": "mp3", "codec": "mp3", "duration_seconds": 1, "is_confined": True})
END = words(b"D", {"samples": 16_000, "gaps": []})


def gaps(said: bytes) -> bytes:
    return INFO + sound(LEVELS, SAMPLES) + words(b"D", b'{"samples": 16000, "gaps": [' + said + b"]}")


CASES = {
    "levels without samples": INFO + sound(LEVELS * 30, b"") + END,
    "endless levels": INFO + sound(LEVELS * 2000, b"") * 60 + END,
    "odd bytes": INFO + sound(LEVELS, SAMPLES + b"x") + END,
    "count beyond the payload": INFO + b"P" + struct.pack("<II", 8, 0xFFFF_FFFF) + b"abcd" + END,
    "a gap that is not a number": gaps(b'[NaN, NaN, "x"]'),
    "a gap backwards": gaps(b'[-5, -16000, "x"]'),
    "a gap beyond floats": gaps(b"[0, 1" + b"0" * 400 + b', "x"]'),
    "info of other types": words(b"I", {"format": [1], "codec": {}, "duration_seconds": "x", "is_confined": 3}) + END,
    "an end that counts more samples than came": INFO
    + sound(LEVELS, SAMPLES)
    + words(b"D", {"samples": 32_000, "gaps": []}),
    "an end that counts fewer": INFO + sound(LEVELS, SAMPLES) * 2 + END,
    "an end that counts none": INFO + sound(LEVELS, SAMPLES) + words(b"D", {"gaps": []}),
    "samples before it says what they are of": sound(LEVELS, SAMPLES) + INFO + sound(LEVELS, SAMPLES) + END,
    "an unknown kind": INFO + words(b"Z", {"kind": "limit", "message": "x"}),
}


def impostor(folder: Path, monkeypatch: pytest.MonkeyPatch, sends: bytes) -> None:
    (folder / "words").write_bytes(sends)
    python = folder / "python"
    python.write_text(f"#!/bin/sh\nexec cat {folder}/words\n")
    python.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(python))


@pytest.mark.parametrize("sends", CASES.values(), ids=CASES)
def test_nonsense_is_an_error_of_ours(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sends: bytes) -> None:
    impostor(tmp_path, monkeypatch, sends)
    before = psutil.Process().memory_info().rss
    with pytest.raises(mt.DecoderCrashedError, match="does not speak its protocol"):
        run(hear, SPEECH)
    assert psutil.Process().memory_info().rss - before < 64 * mt.MiB


@pytest.mark.parametrize("part", range(10))
def test_its_true_words_mutated_are_samples_or_an_error_of_ours(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    """Frames of a real job, damaged: nothing but AudioDecodeError, or a transcript with gaps in order."""
    assert bases()  # real files are there
    whole = INFO + sound(LEVELS, SAMPLES) * 3 + words(b"D", {"samples": 48_000, "gaps": [[100, 200, "x"]]})
    failures = []
    for seed in range(part * 30, part * 30 + 30):
        random = Random(seed)
        data = bytearray(whole)
        frames = [0, len(INFO), len(INFO) + len(sound(LEVELS, SAMPLES)), len(whole) - 50]
        for _ in range(random.choice((1, 1, 2, 4))):
            at = random.choice((random.choice(frames) + random.randrange(50), random.randrange(len(data)))) % len(data)
            data[at] = random.choice((0, 1, 0x2D, 0x39, 0x65, 0x7F, 0xFF, data[at] ^ 1 << random.randrange(8)))
        with monkeypatch.context() as patch:
            impostor(tmp_path, patch, bytes(data))
            try:
                heard = run(hear, SPEECH)
                at_seconds = 0.0
                for gap in heard.transcript.gaps:
                    assert at_seconds <= gap.start_seconds <= gap.end_seconds
                    at_seconds = gap.start_seconds
            except mt.AudioDecodeError:
                pass
            except Exception as error:
                failures.append(f"{seed}: {error!r}")
    assert not failures, "\n".join(failures)
