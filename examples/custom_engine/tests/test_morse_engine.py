"""The contract, and what this engine is for."""

import io
import math
import wave
from array import array

import memsafe_transcribe as mt
from memsafe_transcribe.testing import TranscriberContract
from morse_engine import LETTERS, MorseEngine


def keyed(text: str, unit_seconds: float = 0.06) -> bytes:
    """A WAV file of somebody who keys this text at 600 Hz."""
    signs = {letter: sign for sign, letter in LETTERS.items()}
    keys = "0000000".join(
        "000".join("0".join({".": "1", "-": "111"}[sign] for sign in signs[letter]) for letter in word)
        for word in text.split()
    )
    length = int(unit_seconds * 16_000)
    tone = array("h", (int(12_000 * math.sin(2 * math.pi * 600 * n / 16_000)) for n in range(length))).tobytes()
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setparams((1, 2, 16_000, 0, "NONE", ""))
        wav.writeframes(b"".join(tone if key == "1" else bytes(len(tone)) for key in f"000{keys}000"))
    return file.getvalue()


class TestMorseEngine(TranscriberContract):
    def make_engine(self) -> MorseEngine:
        return MorseEngine()

    def speech(self) -> bytes:
        return keyed("what hath god wrought")


def test_it_is_found_by_its_name_and_hears() -> None:
    """Installed, as users have it."""
    import anyio

    transcript = anyio.run(mt.ChunkedTranscriber("morse").transcribe, io.BytesIO(keyed("what hath god wrought")))
    assert transcript.text == "what hath god wrought"
    assert transcript.words[1].start_seconds > transcript.words[0].end_seconds
