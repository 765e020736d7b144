"""The pure rooms of audio: WAV files, box sizes, and names for what is not audio."""

import io
import os
import struct
import wave
from pathlib import Path

from hypothesis import given, strategies as st

from memsafe_transcribe._audio import sniff
from memsafe_transcribe._audio.encoding import wav
from memsafe_transcribe._audio.isobmff import index_bytes


@given(samples=st.binary(max_size=2000).map(lambda data: data[: len(data) // 2 * 2]))
def test_a_wav_file_reads_back_as_what_went_in(samples: bytes) -> None:
    """Python's own reader agrees on format and samples."""
    with wave.open(io.BytesIO(wav([samples], 16_000))) as file:
        assert file.getparams()[:3] == (1, 2, 16_000)
        assert file.readframes(file.getnframes()) == samples


def index_of(data: bytes) -> int:
    """`index_bytes` of a file with this content."""
    fd = os.memfd_create("boxes")
    try:
        os.write(fd, data)
        return index_bytes(fd)
    finally:
        os.close(fd)


def box(kind: bytes, size: int) -> bytes:
    return struct.pack(">I4s", size, kind) + bytes(size - 8)


def test_the_index_of_an_mp4_is_its_moov_or_its_moofs() -> None:
    """Wherever it stands, with 32-bit, 64-bit and open-ended sizes."""
    ftyp, large = box(b"ftyp", 24), struct.pack(">I4sQ", 1, b"mdat", 1016) + bytes(1000)
    assert index_of(ftyp + box(b"moov", 500) + box(b"mdat", 1000)) == 500
    assert index_of(ftyp + large + box(b"moov", 500)) == 500
    assert index_of(ftyp + box(b"moov", 100) + box(b"moof", 50) + box(b"mdat", 99) + box(b"moof", 60)) == 210
    assert index_of(ftyp + struct.pack(">I4s", 0, b"moov") + bytes(92)) == 100
    assert index_of(box(b"moov", 500)) == 0


@given(data=st.binary(max_size=300), head=st.booleans())
def test_any_bytes_have_an_index_within_their_own_size(data: bytes, head: bool) -> None:
    """A box that lies about its size cannot make the index larger than the file, nor the walk endless."""
    data = (box(b"ftyp", 16) if head else b"") + data
    assert 0 <= index_of(data) <= len(data)


@given(head=st.binary(max_size=sniff.HEAD_BYTES))
def test_any_first_bytes_can_be_described(head: bytes) -> None:
    """It never raises, and says something or nothing."""
    assert sniff.describe(head) != ""


def test_speech_is_not_described_as_something_else() -> None:
    """A real MP3 is none of the kinds that are named."""
    speech = Path(__file__).parents[2] / "src/memsafe_transcribe/_demo/alice.mp3"
    assert sniff.describe(speech.read_bytes()[: sniff.HEAD_BYTES]) is None
