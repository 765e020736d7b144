"""MP4 files read without their index: the same frames as by FFmpeg's demuxer, or none of our business."""

import io
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import av
import pytest
from hypothesis import given, settings, strategies as st

from memsafe_transcribe._audio import mp4
from memsafe_transcribe._audio.boxes import make_box

from ..support.media import encode, tone_samples
from ..support.media_cases import beeps, write_covered, write_film
from ..support.mp4 import STBL, Sample, change, content, samples_of, table, with_tables, write_long_m4a

_OPTIONS = {"advanced_editlist": "0"}


class File:
    """Bytes that are read a piece at a time; what is asked for is bounded."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.read_bytes = 0

    def read(self, size: int, offset: int) -> bytes:
        assert 0 <= offset <= len(self.data)
        assert 0 <= size <= 1 << 20
        self.read_bytes += min(size, len(self.data) - offset)
        return self.data[offset : offset + size]

    def find(self) -> mp4.Track | None:
        return mp4.find(self.read, len(self.data))


class Heard(NamedTuple):
    """What a file sounds like: each frame with its time, and what the container says of itself."""

    frames: list[tuple[Any, ...]]
    told: tuple[Any, ...]


def frames_of(codec: Any, packet: Any) -> list[tuple[Any, ...]]:
    frames = []
    for frame in codec.decode(packet):
        size = frame.samples * frame.format.bytes * (1 if frame.format.is_planar else frame.layout.nb_channels)
        shape = frame.pts, frame.time_base, frame.samples, frame.sample_rate, frame.format.name, frame.layout.name
        frames.append((*shape, *(bytes(plane)[:size] for plane in frame.planes)))
    return frames


def heard_by_ffmpeg(data: bytes) -> Heard:
    with av.open(io.BytesIO(data), "r", container_options=_OPTIONS) as file:
        stream = file.streams.best("audio")
        assert stream is not None
        frames = [frame for packet in file.demux(stream) for frame in frames_of(stream.codec_context, packet)]
        return Heard(frames, (file.format.name, stream.codec_context.name, stream.duration, stream.start_time))


def heard_by_us(data: bytes, problem: str | None = None) -> Heard:
    track = File(data).find()
    assert track is not None
    with av.open(io.BytesIO(track.head()), "r", container_options=_OPTIONS) as file:
        stream = file.streams.best("audio")
        assert stream is not None and stream.time_base is not None
        first = [packet for packet in file.demux(stream) if packet.size]
        frames = [frame for packet in first for frame in frames_of(stream.codec_context, packet)]
        for piece, pts in track.packets(first[0].pts or 0):
            if piece:
                packet = av.Packet(len(piece))
                packet.update(piece)
                packet.pts, packet.time_base = pts, stream.time_base
                frames += frames_of(stream.codec_context, packet)
        frames += frames_of(stream.codec_context, None)
        assert track.problem == problem
        return Heard(frames, (file.format.name, stream.codec_context.name, stream.duration, stream.start_time))


def assert_heard_alike(data: bytes) -> Heard:
    heard = heard_by_us(data)
    assert heard == heard_by_ffmpeg(data)
    assert len(heard.frames) > 0
    return heard


@pytest.fixture(scope="module")
def m4a(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five seconds of AAC, the index at the end."""
    return encode(tmp_path_factory.mktemp("mp4") / "sound.m4a", "aac", beeps(5))


@pytest.mark.parametrize(
    ("name", "codec", "rate", "layout", "options"),
    [
        ("a.m4a", "aac", 48_000, "stereo", {}),
        ("a.m4a", "aac", 44_100, "mono", {"movflags": "faststart"}),
        ("a.m4a", "aac", 8_000, "mono", {"use_editlist": "0"}),
        ("a.mp4", "aac", 48_000, "5.1", {"movie_timescale": "600"}),
        ("a.mov", "aac", 22_050, "stereo", {}),
        ("a.mov", "aac", 48_000, "5.1", {"movflags": "faststart"}),
        ("a.m4a", "alac", 44_100, "stereo", {}),
        ("a.mov", "alac", 8_000, "mono", {}),
        ("a.mp4", "alac", 48_000, "5.1", {"movflags": "faststart"}),
        ("a.mp4", "libmp3lame", 44_100, "stereo", {}),
        ("a.mp4", "ac3", 48_000, "5.1", {}),
        ("a.mp4", "libopus", 48_000, "stereo", {}),
        ("a.mp4", "flac", 44_100, "stereo", {}),
    ],
)
def test_frames_and_times_are_those_of_ffmpeg(
    tmp_path: Path, name: str, codec: str, rate: int, layout: str, options: dict[str, str]
) -> None:
    """Byte by byte, from the first sample that is to be heard."""
    path = encode(tmp_path / name, codec, beeps(12), rate=rate, layout=layout, options=options)
    assert_heard_alike(path.read_bytes())


def test_of_films_the_sound_is_taken(tmp_path: Path) -> None:
    """Beside a picture, of a cover, the enabled one of two, and one that begins late."""
    assert_heard_alike(write_film(tmp_path / "one.mp4", beeps(3)).read_bytes())
    assert_heard_alike(write_film(tmp_path / "two.mp4", beeps(3), beeps(2)[::-1]).read_bytes())
    assert_heard_alike(write_film(tmp_path / "second.mov", beeps(3), beeps(2)[::-1], default=1).read_bytes())
    assert_heard_alike(write_film(tmp_path / "late.mp4", beeps(3), start_seconds=1.5).read_bytes())
    assert_heard_alike(write_covered(tmp_path / "cover.m4a", "aac", beeps(3)).read_bytes())


def elst(*edits: tuple[int, int]) -> bytes:
    return table(*((duration, time, 0x10000) for duration, time in edits), row="Iii")


@pytest.mark.parametrize(
    "edits",
    [
        [(5000, 2112)],
        [(0, 1024)],
        [(700, -1), (5000, 1024)],
        [(1000, 1024), (1000, 96_000)],
        [(2000, -1)],
        [(5000, 48_000)],
    ],
)
def test_edit_lists_are_ffmpegs_affair(m4a: Path, edits: list[tuple[int, int]]) -> None:
    """Priming, a late start, several edits: as FFmpeg has it."""
    assert_heard_alike(change(m4a.read_bytes(), "moov/trak/edts/elst", elst(*edits)))


def test_high_efficiency_aac_plays_at_twice_the_rate(tmp_path: Path) -> None:
    """It is told in the AudioSpecificConfig (ISO/IEC 14496-3, 1.6.2.1): object type 5, and the rate of the output."""
    data = encode(tmp_path / "a.m4a", "aac", beeps(3), rate=24_000, layout="mono").read_bytes()
    at = data.index(b"\x05\x80\x80\x80\x05") + 5
    # 5 bits of object type, 4 of rate (24 kHz is 6), 4 of channels; 4 of the output's rate (48 kHz is 3), 5 of type
    config = 5 << 35 | 6 << 31 | 1 << 27 | 3 << 23 | 2 << 18
    heard = assert_heard_alike(data[:at] + config.to_bytes(5, "big") + data[at + 5 :])
    assert heard.frames[0][3] == 48_000


@pytest.mark.parametrize("per_chunk", [1, 7, 1_000])
@pytest.mark.parametrize(("wide", "size_bits"), [(False, 32), (True, 32), (True, 16)])
def test_tables_of_every_shape_are_read(m4a: Path, per_chunk: int, wide: bool, size_bits: int) -> None:
    """Chunks of any length, large offsets, compact sizes."""
    samples = samples_of(m4a)
    chunks = [per_chunk] * len(samples)
    data = with_tables(m4a.read_bytes(), samples, chunks, [1024] * len(samples), wide=wide, size_bits=size_bits)
    assert_heard_alike(data)


def test_sizes_of_a_byte_are_read(tmp_path: Path) -> None:
    """Of packets that are that small."""
    path = encode(tmp_path / "a.m4a", "aac", tone_samples(3), bit_rate=24_000)
    samples = samples_of(path)
    assert max(sample.size for sample in samples) < 256
    assert_heard_alike(with_tables(path.read_bytes(), samples, [10] * 50, [1024] * len(samples), size_bits=8))


def test_chunks_may_stand_in_any_order_and_packets_last_as_they_please(m4a: Path) -> None:
    """Times come from the durations, and the order from the table."""
    samples = samples_of(m4a)
    order = [sample for at in range(0, len(samples), 20) for sample in reversed(samples[at : at + 20])]
    durations = [1000 + number % 7 for number in range(len(samples))]
    assert_heard_alike(with_tables(m4a.read_bytes(), order, [1] * len(samples), durations))


def test_a_film_that_has_thousands_of_durations_keeps_its_length(tmp_path: Path) -> None:
    """The head's table of durations is cut, but not the length that the header tells."""
    path = write_long_m4a(tmp_path / "a.m4a", 60)
    samples = samples_of(path)
    durations = [1000 + number % 2 * 48 for number in range(len(samples))]
    assert len(durations) > 2_000
    data = with_tables(path.read_bytes(), samples, [100] * (len(samples) // 100 + 1), durations)
    assert_heard_alike(data)


def encrypted(stsd: bytes) -> bytes:
    """The content of an `stsd` whose entry says how it is protected, and is called as before."""
    (size,) = struct.unpack_from(">I", stsd, 8)
    return stsd[:8] + make_box(stsd[12:16], stsd[16 : 8 + size], make_box(b"sinf"))


def _flip(path: str, at: int, new: bytes) -> Callable[[bytes], bytes]:
    def flipped(data: bytes) -> bytes:
        old = content(data, path)
        return change(data, path, old[:at] + new + old[at + len(new) :])

    return flipped


def _replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data.replace(old, new)


@pytest.mark.parametrize(
    "unusual",
    [
        lambda data: data[8:],
        lambda data: make_box(b"free", bytes(8)) + data,
        lambda data: data + make_box(b"moof", bytes(8)),
        lambda data: data + make_box(b"moov", content(data, "moov")),
        lambda data: data[:-20],
        lambda data: change(data, "moov/mvex", bytes(8)),
        lambda data: change(data, "moov/cmov", bytes(8)),
        lambda data: change(data, STBL + "ctts", table((1, 1), row="II")),
        lambda data: change(data, STBL + "cslg", bytes(24)),
        lambda data: change(data, STBL + "stsd", table() + content(data, STBL + "stsd")[8:] * 2),
        lambda data: change(data, STBL + "stts", table((215, 1), row="II")),
        lambda data: change(data, STBL + "stts", table()),
        lambda data: change(data, STBL + "stsc", table((2, 100, 1), row="III")),
        lambda data: change(data, STBL + "stsc", table()),
        lambda data: change(data, STBL + "stsz", None),
        lambda data: change(data, STBL + "stsz", bytes(8)),
        lambda data: change(change(data, STBL + "stsz", None), STBL + "stz2", struct.pack(">III", 0, 4, 8) + bytes(8)),
        lambda data: change(data, STBL + "co64", table((0,), row="Q")),
        lambda data: change(data, "moov/trak/mdia/mdhd", None),
        lambda data: change(data, "moov/trak/tkhd", b""),
        lambda data: change(data, "moov/trak/mdia/minf/dinf/dref", table((8,)) + b"url "),
        lambda data: change(data, "moov/udta", bytes(3) + b"\x09" + bytes(4)),
        lambda data: change(data, "moov/trak/edts", bytes(100_000)),
        lambda data: change(data, STBL + "stsd", encrypted(content(data, STBL + "stsd"))),
        _flip(STBL + "stsd", 7, b"\2"),
        _flip(STBL + "stsd", 24, b"\0\3"),
        _flip(STBL + "stsz", 8, b"\x01"),
        _flip(STBL + "stsc", 4, b"\x01"),
        _flip("moov/trak/mdia/hdlr", 8, b"subt"),
        _flip("moov/trak/mdia/minf/dinf/dref", 19, b"\0"),
        _replaced(b"mp4a", b"enca"),
        _replaced(b"mp4a", b"ec-3"),
        _replaced(b"esds", b"esdz"),
        _replaced(b"\x04\x80\x80\x80\x17\x40", b"\x04\x80\x80\x80\x17\x41"),
    ],
)
def test_what_is_unusual_is_left_to_ffmpeg(m4a: Path, unusual: Callable[[bytes], bytes]) -> None:
    """And nothing is said of it."""
    data = m4a.read_bytes()
    assert File(data).find() is not None
    assert unusual(data) != data
    assert File(unusual(data)).find() is None


def test_other_files_are_left_to_ffmpeg(tmp_path: Path) -> None:
    """Fragments, raw samples, MP3 in QuickTime (where a sample is no packet), two tracks to choose from."""
    sound = beeps(2)
    fragments = {"movflags": "frag_keyframe+empty_moov"}
    paths = [
        encode(tmp_path / "fragments.mp4", "aac", sound, options=fragments),
        encode(tmp_path / "raw.mov", "pcm_s16le", sound),
        encode(tmp_path / "mp3.mov", "libmp3lame", sound),
        encode(tmp_path / "sound.wav", "pcm_s16le", sound),
    ]
    film = write_film(tmp_path / "film.mp4", sound, sound).read_bytes()
    both = film.replace(b"tkhd\0\0\0\2", b"tkhd\0\0\0\3")
    assert both != film and File(film).find() is not None
    assert [File(data).find() for data in (*(path.read_bytes() for path in paths), both, b"")] == [None] * 6


def test_more_boxes_than_any_real_file_has_are_not_looked_at(m4a: Path) -> None:
    """Four thousand are; of a gigabyte of empty ones no more."""
    data, empty = m4a.read_bytes(), make_box(b"free")
    assert File(data + empty * 4_000).find() is not None
    many = File(data + empty * 1_000_000)
    assert many.find() is None
    assert many.read_bytes < 100_000


@pytest.mark.parametrize("box", [b"moov", b"mvhd", b"hdlr", b"dref", b"stsd", b"esds", b"stts", b"stco"])
def test_a_file_that_is_shorter_than_was_said_is_left_to_ffmpeg(m4a: Path, box: bytes) -> None:
    """It was cut off while it was looked at: no header is made of what is not there."""
    data = m4a.read_bytes()
    assert mp4.find(pread_of(bytearray(data)), len(data)) is not None
    assert mp4.find(pread_of(bytearray(data[: data.index(box)])), len(data)) is None
    assert mp4.find(pread_of(bytearray(data[: data.index(box) + 6])), len(data)) is None


def test_wherever_the_headers_are_cut_off_nothing_is_made_of_them(m4a: Path) -> None:
    """At each byte, also where the table of durations is the last one."""
    data = m4a.read_bytes()
    for unread in ("moov/udta", STBL + "sgpd", STBL + "sbgp"):
        data = change(data, unread, None)
    stts = table((len(samples_of(m4a)), 1024), row="II")
    for file, rest in ((data, 4), (change(change(data, STBL + "stts", None), STBL + "stts", stts), 0)):
        assert File(file).find() is not None
        cuts = range(file.index(b"moov"), len(file) - rest)  # the offset of its chunk is read later
        assert [end for end in cuts if mp4.find(pread_of(bytearray(file[:end])), len(file)) is not None] == []


def pread_of(data: bytearray) -> Callable[[int, int], bytes]:
    """As a file is read that may become shorter."""
    return lambda size, offset: bytes(data[offset : offset + size])


def test_an_index_that_is_cut_off_while_it_is_read_ends_with_a_word(tmp_path: Path) -> None:
    """What was read of it before is heard, and each packet at its time."""
    path = write_long_m4a(tmp_path / "a.m4a", 120)
    samples = samples_of(path)
    assert len(samples) > 5_000
    data = with_tables(path.read_bytes(), samples, [1_000] * 6, [1024] * len(samples))
    track = File(data).find()
    assert track is not None
    whole = list(track.packets(0))
    rows = data.index(b"stsz") + 16
    for end in (data.index(b"stts"), rows, rows + 4 * 4_096, rows + 4 * 5_000 + 2):
        file = bytearray(data)
        track = mp4.find(pread_of(file), len(file))
        assert track is not None
        packets = track.packets(0)
        heard = [next(packets)]
        del file[end:]
        heard += packets
        assert heard == whole[:4_096]  # sizes are read in pieces of so many, of which the first is there already
        assert track.problem == "its index is cut off"


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (lambda data: data[: len(data) * 2 // 3], "the file ends before its index says so"),
        (lambda data: data[:-1], "the file ends before its index says so"),
        (_flip(STBL + "stco", 12, b"\x7f" * 12), "the file ends before its index says so"),
        (_flip(STBL + "stsc", 8 + 12, bytes(4)), "its index ends early"),
        (_flip(STBL + "stsc", 8 + 12 + 4, bytes(4)), "its index ends early"),
        (_flip(STBL + "stsc", 8 + 12 + 8, b"\0\0\0\2"), "its index ends early"),
        (_flip(STBL + "stco", 4, b"\0\0\0\2"), "its index ends early"),
    ],
)
def test_tables_that_break_off_end_with_a_word(tmp_path: Path, broken: Callable[[bytes], bytes], problem: str) -> None:
    """What comes before is heard."""
    path = encode(tmp_path / "a.m4a", "aac", beeps(5), options={"movflags": "faststart"})
    samples = samples_of(path)
    data = with_tables(path.read_bytes(), samples, [100, 50, 50, 50], [1024] * len(samples))
    shift = len(data) - len(path.read_bytes())
    samples = [Sample(sample.position + shift, sample.size) for sample in samples]
    data = with_tables(data, samples, [100, 50, 50, 50], [1024] * len(samples))
    whole = assert_heard_alike(data).frames
    part = heard_by_us(broken(data), problem).frames
    assert 90 <= len(part) < len(whole)
    assert part == whole[: len(part)]


@pytest.mark.parametrize(("path", "at"), [("stco", 8 + 4), ("stsz", 12 + 4 * 100)])
def test_one_wrong_place_or_size_costs_one_chunk(m4a: Path, path: str, at: int) -> None:
    """What comes behind is heard at its time."""
    data, samples = m4a.read_bytes(), samples_of(m4a)
    durations = [1020 + number // 7 for number in range(len(samples))]
    data = with_tables(data, samples, [100, 50, 50, 50], durations)
    heard = heard_by_us(_flip(STBL + path, at, b"\x7f")(data)).frames
    whole = heard_by_us(data).frames
    assert len(heard) == len(whole) - 50
    assert heard[:98] == whole[:98]
    assert heard[-30:] == whole[-30:]


def test_a_wrong_size_in_a_chunk_of_thousands_costs_that_chunk_alone(tmp_path: Path) -> None:
    """The sizes behind it are passed over, in pieces, and those of the next chunk are its own."""
    path = write_long_m4a(tmp_path / "a.m4a", 90)
    samples = samples_of(path)
    data = with_tables(path.read_bytes(), samples, [3_000, len(samples) - 3_000], [1024] * len(samples))
    track, broken = File(data).find(), File(_flip(STBL + "stsz", 12 + 4 * 100, b"\x7f")(data)).find()
    assert track is not None and broken is not None
    whole = list(track.packets(0))
    assert list(broken.packets(0)) == whole[:100] + whole[3_000:]
    assert broken.problem is None


_LONGEST = 0xFFFF_FFFF - 480_000


@pytest.mark.parametrize("longest", [_LONGEST, _LONGEST + 1, _LONGEST + 479_000, 0xFFFF_FFFF])
def test_a_packet_that_is_too_long_is_a_correction_as_by_ffmpeg(m4a: Path, longest: int) -> None:
    """It lasts for one, and those behind it for less, until the time is where it should be."""
    samples = samples_of(m4a)
    for some in ([1024], [1034, 1024, 1044], [1024, 900] + [1024] * 50, [1024] * 38 + [0]):
        durations = (some * len(samples))[: len(samples)]
        durations[100] = durations[103] = longest
        durations[102] = durations[-1] = 1
        assert_heard_alike(with_tables(m4a.read_bytes(), samples, [len(samples)], durations))


@pytest.mark.parametrize(
    "durations",
    [
        [0xFFFF_FFFF, 0xFFFF_FFF0, 1000],
        [0xFFFF_FFFE, 1000, 1000, 900],
        [0xFFFF_FFFF - 1021, 1023],
    ],
)
def test_corrections_are_made_good_to_the_last_tick(m4a: Path, durations: list[int]) -> None:
    """Two of them together; one of 3 that leaves 1 to those behind the next two; one that is all of the next."""
    samples = samples_of(m4a)
    durations = [1024] * 100 + durations + [1024 - number % 2 for number in range(len(samples) - 100)]
    assert_heard_alike(with_tables(m4a.read_bytes(), samples, [len(samples)], durations[: len(samples)]))


def test_the_same_data_is_not_read_for_ever(m4a: Path) -> None:
    """A thousand chunks at one place would be a thousand times the file."""
    samples = samples_of(m4a)
    data = m4a.read_bytes()
    many = with_tables(data, samples * 1_000, [len(samples)] * 1_000, [1024])
    file = File(many)
    track = file.find()
    assert track is not None
    track.head()
    assert sum(len(packet) for packet, _ in track.packets(0)) <= 2 * len(many) + (1 << 20)
    assert track.problem == "its index has more data than the file"
    assert file.read_bytes < 4 * len(many)


def test_counts_alone_cost_nothing(m4a: Path) -> None:
    """Four thousand million samples of one size need no table: what is not there is not counted."""
    huge = struct.pack(">III", 0, 1, 0xFFFF_FFFF)
    data = change(change(m4a.read_bytes(), STBL + "stsz", huge), STBL + "stsc", table((1, 0xFFFF_FFFF, 1), row="III"))
    track = File(data).find()
    assert track is not None
    track.head()
    assert sum(1 for _ in track.packets(0)) < len(data)
    assert track.problem == "the file ends before its index says so"


def test_impossible_times_end_it(m4a: Path) -> None:
    """What FFmpeg makes of an edit list may be near the end of 64 bits; so may the sum of the durations."""
    data = m4a.read_bytes()
    track = File(data).find()
    assert track is not None
    assert list(track.packets(-(1 << 62))) == []
    assert track.problem == "its edit list gives impossible times"

    data = change(data, STBL + "stsz", struct.pack(">III", 0, 1, 0xFFFF_FFFF))
    data = change(data, STBL + "stsc", table((1, 0xFFFF_FFFF, 1), row="III"))
    track = File(change(data, STBL + "stts", table((0xFFFF_FFFF, 0x7FFF_FFFF), row="II"))).find()
    assert track is not None
    assert max(time for _, time in track.packets(0)) < 1 << 61
    assert track.problem == "its index gives impossible times"
    just = table((1 << 30, 1 << 31), (0xFFFF_FFFF - (1 << 30), 0), row="II")
    track = File(change(data, STBL + "stts", just)).find()
    assert track is not None
    assert max(time for _, time in track.packets(0)) < 1 << 61
    assert track.problem == "the file ends before its index says so"


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    """An hour, and a quarter of one."""
    peaks = []
    for minutes in (15, 60):
        path = write_long_m4a(tmp_path / f"{minutes}.m4a", minutes * 60)
        with path.open("rb") as file:

            def read(size: int, offset: int, file: Any = file) -> bytes:
                file.seek(offset)
                return bytes(file.read(size))

            tracemalloc.start()
            track = mp4.find(read, path.stat().st_size)
            assert track is not None
            track.head()
            count = sum(1 for _ in track.packets(0))
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert count + 64 >= minutes * 60 * 48_000 // 1024
        assert track.problem is None
    assert peaks[1] < peaks[0] * 1.1 < 2_000_000


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A second of AAC in chunks of several lengths."""
    path = encode(tmp_path_factory.mktemp("small") / "sound.m4a", "aac", tone_samples(1))
    samples = samples_of(path)
    chunks = [20, 10, *[1] * (len(samples) - 30)]
    return with_tables(path.read_bytes(), samples, chunks, [1024] * 30 + [1000] * (len(samples) - 30))


@settings(max_examples=1_000, deadline=None)
@given(st.data())
def test_whatever_is_in_the_headers_reading_is_bounded(small: bytes, data: st.DataObject) -> None:
    """No exception, no read outside of the file, and none that is not worth its while."""
    moov = small.index(b"moov")
    file = bytearray(small)
    numbers = st.sampled_from((0, 1, 2, 8, 0x7F, 0xFF, 0xFFFF, 0x7FFF_FFFF, 0xFFFF_FFFF)) | st.integers(0, 0xFFFF_FFFF)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(moov - 4, len(file) - 4))
        if data.draw(st.booleans()):
            file[at : at + 4] = struct.pack(">I", data.draw(numbers))
        else:
            file[at] = data.draw(st.integers(0, 255))
    end = data.draw(st.just(len(file)) | st.integers(0, len(file)))
    cut = File(bytes(file[:end]))
    track = cut.find()
    if track is not None:
        track.head()
        count = sum(1 for _ in track.packets(data.draw(st.integers(-(1 << 63), (1 << 63) - 1))))
        assert count <= len(small)
    assert cut.read_bytes <= 3 * len(small) + (1 << 20)
