"""The pure rooms of audio: WAV files, box sizes, and names for what is not audio."""

import io
import os
import random
import struct
import wave

import pytest
from hypothesis import given, strategies as st

from memsafe_transcribe._audio import sniff
from memsafe_transcribe._audio.encoding import PIECE_BYTES, WavPieces, wav, wav_header
from memsafe_transcribe._audio.files import FileView
from memsafe_transcribe._audio.isobmff import index_bytes
from memsafe_transcribe._audio.timestamps import flac_sample_number
from tests.support.media import SPEECH


@given(samples=st.binary(max_size=2000).map(lambda data: data[: len(data) // 2 * 2]))
def test_a_wav_file_reads_back_as_what_went_in(samples: bytes) -> None:
    """Python's own reader agrees on format and samples."""
    with wave.open(io.BytesIO(wav([samples], 16_000))) as file:
        assert file.getparams()[:3] == (1, 2, 16_000)
        assert file.readframes(file.getnframes()) == samples


@pytest.mark.parametrize("sample_bytes", [1, 2, 3, 4])
@pytest.mark.parametrize("frames", [0, 1, 50_001])
def test_samples_in_memory_are_a_wav_file_in_pieces(sample_bytes: int, frames: int) -> None:
    """Python's own reader agrees; no piece is a copy of all; of one byte each, samples have no sign in a WAV file."""
    samples = random.Random(frames).randbytes(frames * 2 * sample_bytes)
    pieces = list(file := WavPieces(samples, 44_100, channels=2, sample_bytes=sample_bytes))
    assert max(map(len, pieces)) <= PIECE_BYTES
    assert file.duration_seconds == frames / 44_100
    with wave.open(io.BytesIO(b"".join(pieces))) as read:
        assert read.getparams()[:4] == (2, sample_bytes, 44_100, frames)
        heard = read.readframes(frames)
    assert heard == (bytes((each + 128) % 256 for each in samples) if sample_bytes == 1 else samples)


def test_a_wav_header_of_too_much_says_until_the_end() -> None:
    """The sizes of RIFF and data have 32 bits; the largest of them stands for a length that is not known."""

    def sizes(size_bytes: int) -> tuple[int, int]:
        header = wav_header(size_bytes, 16_000, channels=1, sample_bytes=2)
        riff, data = struct.unpack("<4xI32xI", header)
        return riff, data

    most = 0xFFFF_FFFF - 36 - 1
    assert sizes(most) == (most + 36, most)
    assert sizes(most + 1) == sizes(1 << 40) == (0xFFFF_FFFF, 0xFFFF_FFFF)


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


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"", "empty"),
        (b"ffconcat version 1.0\nfile 'secret'\n", "an ffconcat playlist, which names other files"),
        (b"\xef\xbb\xbf\r\n#EXTM3U\nhttp://example.com/", "an HLS or M3U playlist, which names other addresses"),
        (b"\x89PNG\r\n\x1a\n", "a PNG image"),
        (b"\xff\xd8\xff\xe0", "a JPEG image"),
        (b"GIF89a", "a GIF image"),
        (b"%PDF-1.7", "a PDF document"),
        (b"PK\x03\x04", "a ZIP archive"),
        (b"\x1f\x8b\x08", "gzip data"),
        (b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash">', "a DASH playlist, which names other addresses"),
        (b"<!doctype html>\n<HTML><title>404</title>", "an HTML page"),
        (b'\n<?xml version="1.0"?><rss>', "XML"),
        (b"No such file.\r\nAsk again.\n", "plain text"),
        ("Größe".encode()[:3], None),
        (b"x" + "ß".encode() * sniff.HEAD_BYTES, "plain text"),  # cut off within a letter, as a longer file is
        (b"RIFF\x24\0\0\0WAVE", None),
    ],
)
def test_first_bytes_are_described_by_name(head: bytes, name: str | None) -> None:
    """What a user may have taken for audio."""
    assert sniff.describe(head[: sniff.HEAD_BYTES]) == name


def test_speech_is_not_described_as_something_else() -> None:
    """A real MP3 is none of the kinds that are named."""
    assert sniff.describe(SPEECH.read_bytes()[: sniff.HEAD_BYTES]) is None
