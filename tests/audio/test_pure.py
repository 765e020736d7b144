"""The pure rooms of audio: WAV files, box sizes, and names for what is not audio."""

import io
import os
import struct
import wave
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from memsafe_transcribe._audio import sniff
from memsafe_transcribe._audio.encoding import wav
from memsafe_transcribe._audio.files import FileView
from memsafe_transcribe._audio.isobmff import index_bytes
from memsafe_transcribe._audio.timestamps import flac_sample_number


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
    assert index_of(box(b"mdat", 100)) == index_of(box(b"free", 100)) == 0


def test_what_ffmpeg_takes_for_an_index_is_one() -> None:
    """Without `ftyp`, as old QuickTime has it; and where a `moov` is called otherwise, but begins like one."""
    renamed = struct.pack(">I4s", 500, b"free") + box(b"mvhd", 108) + bytes(384)
    assert index_of(box(b"moov", 500)) == index_of(box(b"wide", 8) + box(b"moov", 500)) == 500
    assert index_of(box(b"mdat", 99) + renamed) == index_of(box(b"skip", 8) + renamed.replace(b"free", b"hoov")) == 500
    assert index_of(renamed.replace(b"free", b"skip")) == 0


@given(
    data=st.binary(max_size=60),
    start=st.integers(0, 20),
    patch=st.tuples(st.integers(0, 20), st.binary(max_size=20)),
    reads=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60))),
)
def test_a_view_reads_as_the_file_with_its_patch(
    data: bytes, start: int, patch: tuple[int, bytes], reads: list[tuple[int, int]]
) -> None:
    """From wherever, and however much at once; it is as long as the file is from there on."""
    at, content = patch
    expected = bytearray(data[start:])
    content = content[: max(0, len(expected) - at)]
    expected[at : at + len(content)] = content
    fd = os.memfd_create("view")
    try:
        os.write(fd, data)
        view = FileView(fd, start, patch=(at, content))
        for offset, size in reads:
            view.seek(offset)
            assert view.read(size) == expected[offset : offset + size]
            assert view.tell() == offset + len(expected[offset : offset + size])
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("coded", "number"),
    [
        ("00", 0),
        ("7f", 0x7F),
        ("c280", 0x80),
        ("dfbf", 0x7FF),
        ("e0a080", 0x800),
        ("f0908080", 0x1_0000),
        ("f7bfbfbf", 0x1F_FFFF),
        ("fbbfbfbfbf", 0x3FF_FFFF),
        ("fdbfbfbfbfbf", 0x7FFF_FFFF),
        ("febfbfbfbfbfbf", 0xF_FFFF_FFFF),
    ],
)
def test_a_flac_frame_tells_its_number(coded: str, number: int) -> None:
    """In one to seven bytes (RFC 9639, 9.1.5): that of a frame, or where blocks change their size, of a sample."""
    code = bytes.fromhex(coded)
    assert flac_sample_number(b"\xff\xf8\xc9\x18" + code + bytes(8), 4096) == number * 4096
    assert flac_sample_number(b"\xff\xf9\xc9\x18" + code + bytes(8), 4096) == number
    assert flac_sample_number(b"\xff\xf8\xc9\x18" + code[:-1], 4096) is None


@given(frame=st.binary(max_size=16))
def test_any_bytes_tell_a_number_or_none(frame: bytes) -> None:
    """Damaged frames are asked, too."""
    number = flac_sample_number(frame, 4096)
    assert number is None or 0 <= number < 1 << 36 + 12


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
