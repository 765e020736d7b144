"""Which MP4 files are read without their index, and the small file of the headers that FFmpeg is given instead."""

import struct
from pathlib import Path

import pytest

from memsafe_transcribe._audio import mp4
from memsafe_transcribe._audio.boxes import make_box

from ..support.media import encode
from ..support.media_cases import beeps, write_film
from ..support.mp4 import STBL, boxes, change, content, samples_of, table, with_tables
from .test_mp4 import File, assert_heard_alike

_KIB = 1 << 10


@pytest.fixture(scope="module")
def m4a(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Five seconds of AAC, the index at the end."""
    return encode(tmp_path_factory.mktemp("headers") / "sound.m4a", "aac", beeps(5)).read_bytes()


@pytest.fixture(scope="module")
def mp3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five seconds of MP3 in MP4."""
    return encode(tmp_path_factory.mktemp("headers") / "sound.mp4", "libmp3lame", beeps(5))


def track_of(data: bytes) -> mp4.Track:
    track = File(data).find()
    assert track is not None
    return track


def note(samples: int, name: bytes = b"iTunSMPB") -> bytes:
    parts = (b"mean", b"com.apple.iTunes"), (b"name", name), (b"data", bytes(4) + b" 0 %X 0 FFFF" % samples)
    return make_box(b"----", *(make_box(kind, bytes(4), text) for kind, text in parts))


PNG = make_box(b"covr", make_box(b"data", struct.pack(">II", 14, 0), b"\x89PNG\r\n\x1a\n" + bytes(100)))


def noted(data: bytes, *items: bytes) -> bytes:
    """With these items, and without an edit list."""
    hdlr = make_box(b"hdlr", content(content(data, "moov/udta/meta")[4:], "hdlr"))
    meta = bytes(4) + hdlr + make_box(b"ilst", *items)
    return change(change(data, "moov/trak/edts", None), "moov/udta/meta", meta)


def test_itunes_note_of_the_priming_is_heeded(m4a: bytes) -> None:
    """What iTunes writes in place of an edit list, among other notes.

    FFmpeg takes it for one on the cover if that came before, and for none if the track comes behind.
    """
    early = noted(m4a, note(2112))
    moov = sorted(boxes(content(early, "moov")), key=lambda box: box[0] == b"trak")
    early = change(early, "moov", b"".join(make_box(kind, inside) for kind, inside in moov))

    def samples_in(data: bytes) -> int:
        return sum(frame[2] for frame in assert_heard_alike(data).frames)

    whole = samples_in(noted(m4a))
    assert samples_in(noted(m4a, note(2112), PNG)) == whole - 2112
    assert samples_in(noted(m4a, note(9, b"iTunNORM"), note(2112))) == whole - 2112
    assert samples_in(noted(m4a, PNG, note(2112))) == samples_in(early) == whole


def test_the_head_is_a_file_like_any_other(m4a: bytes) -> None:
    """With all that ISO/IEC 14496-12 asks for: what is read of it is the same head, and that is all."""
    for data in (m4a, noted(m4a, note(2112))):
        head = track_of(data).head()
        again = track_of(head)
        assert again.head() == head
        assert list(again.packets(0)) == []
        assert b"".join(packet for packet, _ in track_of(head).packets(0)) == content(head, "mdat")


def test_the_head_is_made_of_whole_boxes(m4a: bytes) -> None:
    """And its tables have neither a version nor flags (ISO/IEC 14496-12, 8.6.1.2 and 8.7)."""
    for data, kinds in (
        (noted(m4a), [b"mvhd", b"trak"]),
        (noted(m4a, PNG, note(2112)), [b"mvhd", b"trak"]),
        (noted(m4a, note(2112)), [b"mvhd", b"trak", b"udta"]),
    ):
        head = track_of(data).head()
        assert [kind for kind, _ in boxes(head)] == [b"ftyp", b"moov", b"mdat"]
        assert [kind for kind, _ in boxes(content(head, "moov"))] == kinds
        tables = [content(head, STBL + name) for name in ("stts", "stsc", "stsz", "stco")]
        assert [each[:4] for each in tables] == [bytes(4)] * 4


def test_of_durations_a_thousand_are_in_the_head(m4a: bytes) -> None:
    """Where there are no more, they say how long the file is; else its headers do, and the head is no longer."""

    def lasting(rows: int) -> bytes:
        return change(m4a, STBL + "stts", table(*((1, 100 + number % 2) for number in range(rows)), row="II"))

    assert_heard_alike(lasting(1_000))
    assert len(track_of(lasting(5_000)).head()) == len(track_of(lasting(1_001)).head())


def test_no_more_packets_are_in_the_head_than_are_read_at_once(m4a: bytes) -> None:
    """256 KiB of them, of packets that are large; the others come behind it."""
    data = change(m4a, STBL + "stsz", struct.pack(">III", 0, 64 * _KIB, 6))
    track = track_of(change(data, STBL + "stsc", table((1, 6, 1), row="III")) + make_box(b"free", bytes(512 * _KIB)))
    assert len(content(track.head(), "mdat")) == 256 * _KIB
    assert [len(packet) for packet, _ in track.packets(0)] == [64 * _KIB] * 2


def test_times_may_begin_where_two_of_them_just_fit(m4a: bytes) -> None:
    """In 64 bits."""
    for first in (1 << 61, -(1 << 61)):
        assert next(track_of(m4a).packets(first))[1] == first
        assert list(track_of(m4a).packets(first + (1 if first > 0 else -1))) == []


def test_all_that_may_stand_beside_the_index_does_not_matter(m4a: bytes) -> None:
    """Room that is left, and what others have noted."""
    beside = (b"free", b"skip", b"wide", b"uuid", b"udta", b"pdin")
    assert_heard_alike(m4a + b"".join(make_box(kind, bytes(16)) for kind in beside))


def test_a_track_for_the_blind_is_left_to_ffmpeg(tmp_path: Path) -> None:
    """Beside another one, FFmpeg prefers what has no such note, whichever of them is enabled."""
    kind = make_box(b"udta", make_box(b"kind", bytes(4), b"urn:mpeg:dash:role:2011\0description\0"))
    name = make_box(b"udta", make_box(b"name", b"Ton"))

    def noted(data: bytes, udta: bytes) -> bytes:
        """With this in the first track that has sound."""
        moov = content(data, "moov")
        trak = next(inside for box, inside in boxes(moov) if box == b"trak" and b"soun" in inside)
        new = moov.replace(make_box(b"trak", trak), make_box(b"trak", trak, udta))
        return change(data, "moov", new)

    one = write_film(tmp_path / "one.mp4", beeps(1)).read_bytes()
    two = write_film(tmp_path / "two.mp4", beeps(1), beeps(1)).read_bytes()
    assert File(noted(one, kind)).find() is not None
    assert File(noted(two, name)).find() is not None
    assert File(noted(two, kind)).find() is None


def test_a_track_header_that_ends_behind_its_flags_is_ffmpegs_affair(m4a: bytes) -> None:
    """Nothing else of it is asked for here."""
    assert_heard_alike(change(m4a, "moov/trak/tkhd", b"\0\0\0\3"))


@pytest.mark.parametrize(("row", "bits", "most"), [("B", 8, 0xFF), ("H", 16, 0xFFFF)])
def test_compact_sizes_have_no_sign(m4a: bytes, row: str, bits: int, most: int) -> None:
    """The greatest are the greatest."""
    sizes = (most, 1, most // 2 + 1)
    stz2 = struct.pack(f">III3{row}", 0, bits, 3, *sizes)
    data = change(change(m4a, STBL + "stsz", None), STBL + "stz2", stz2) + make_box(b"free", bytes(100_000))
    assert tuple(len(packet) for packet, _ in track_of(data).packets(0)) == sizes


def test_no_large_offset_lies_before_the_file(m4a: bytes) -> None:
    """Those of 64 bits have no sign."""
    data = change(change(m4a, STBL + "stco", None), STBL + "co64", table(((1 << 64) - 1_000_000,), row="Q"))
    track = track_of(data)
    assert list(track.packets(0)) == []
    assert track.problem == "the file ends before its index says so"


_AAC, _MP3 = {0x40, 0x66, 0x67, 0x68}, {0x69, 0x6B}


@pytest.mark.parametrize(
    ("brand", "rows", "codings"),
    [(b"isom", 3, _AAC | _MP3), (b"isom", 4, _AAC), (b"qt  ", 1, _AAC)],
)
def test_of_all_codings_these_are_read(mp3: Path, brand: bytes, rows: int, codings: set[int]) -> None:
    """An MP3 frame is a packet only in MP4, and where durations hardly change: FFmpeg parses all others anew."""
    samples = samples_of(mp3)
    durations = [1152 + min(number, rows - 1) for number in range(len(samples))]
    data = with_tables(mp3.read_bytes(), samples, [len(samples)], durations)
    data = data[:8] + brand + data[12:]
    at = data.index(b"\x04\x80\x80\x80", data.index(b"esds")) + 5
    assert data[at] == 0x6B
    found = {coding for coding in range(256) if File(data[:at] + bytes([coding]) + data[at + 1 :]).find() is not None}
    assert found == codings
    if 0x6B in codings:
        assert_heard_alike(data)
