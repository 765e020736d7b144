"""What was damaged: all else is heard, at its time, and what was lost is a gap. Never silently less."""

import random
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
from av.container import InputContainer

import memsafe_transcribe as mt
from memsafe_transcribe._audio.decoder import BYTES_PER_SECOND, open_decoder
from memsafe_transcribe._audio.files import FileView
from memsafe_transcribe._audio.media import Media
from memsafe_transcribe._audio.samples import Samples
from memsafe_transcribe._audio.words import DecodeGap

from ..conftest import Run
from ..support.damaged_media import aac_channels, break_fragment, damage, overwrite_packets
from ..support.media import encode
from ..support.media_cases import Heard, beeps, hear, vorbis_that_claims
from .test_hostile_media import FORMATS, ONCE

FRAGMENTED = {"movflags": "frag_keyframe+empty_moov", "frag_duration": "500000"}
FRAGMENTS = [
    pytest.param(FRAGMENTED, id="plain"),
    pytest.param({"movflags": "dash+delay_moov", "frag_duration": "500000"}, id="dash"),
]


@ONCE
@pytest.mark.parametrize("options", FRAGMENTS)
@pytest.mark.parametrize(
    ("kind", "offset", "content"),
    [
        pytest.param(b"moof", 0, b"\0\0\0\4", id="no size"),  # FFmpeg takes that for the end of the file
        pytest.param(b"moof", 0, random.Random(7).randbytes(8), id="no name"),
        pytest.param(b"tfhd", 12, bytes(4), id="no track"),  # and with that, it would not open the file
        pytest.param(b"trun", 12, b"\x7f\xff\xff\xff", id="too many packets"),
        pytest.param(b"trun", 12, b"\0\xff\xff\xff", id="too much memory"),
    ],
)
def test_a_fragment_whose_header_is_broken_loses_only_itself(
    run: Run, tmp_path: Path, options: dict[str, str], kind: bytes, offset: int, content: bytes
) -> None:
    """What comes behind stands for itself, and says when it is to be heard."""
    path = encode(tmp_path / "speech.mp4", "aac", beeps(12), options=options)
    heard = run(hear, break_fragment(path, 11, kind, offset, content))
    assert_only_the_middle_is_lost(heard)
    (gap,) = heard.transcript.gaps
    assert (gap.start_seconds, gap.end_seconds) == pytest.approx((5.62, 6.14), abs=0.03)


@ONCE
def test_several_fragments_whose_headers_are_broken_lose_only_themselves(run: Run, tmp_path: Path) -> None:
    """FFmpeg looks ahead, and would not open the file for the last of them."""
    path = encode(tmp_path / "speech.mp4", "aac", beeps(12), options=FRAGMENTED)
    for number in (8, 9, 10, 11):
        break_fragment(path, number, b"tfhd", 8, b"\xff" * 4)  # it passes over these
    break_fragment(path, 15, b"tfhd", 12, bytes(4))
    heard = run(hear, path)
    gaps = heard.transcript.gaps
    assert [gap.start_seconds for gap in gaps] == pytest.approx([4.1, 7.68], abs=0.05)
    assert [gap.end_seconds for gap in gaps] == pytest.approx([6.14, 8.19], abs=0.05)
    assert [beep.number for beep in heard.beeps] == [0, 1, 2, 3, 6, 7, 8, 9, 10, 11]
    assert [beep.start_seconds for beep in heard.beeps[7:]] == pytest.approx([9.0, 10.0, 11.0], abs=0.05)


@ONCE
def test_fragments_all_of_whose_headers_are_broken_end_soon(run: Run, tmp_path: Path) -> None:
    """The first is heard, and then it is tried some times, not for ever."""
    path = encode(tmp_path / "speech.mp4", "aac", beeps(12), options=FRAGMENTED)
    for number in range(1, 24):
        break_fragment(path, number, b"tfhd", 12, bytes(4))
    heard = run(hear, path)
    assert heard.transcript.status == "partial"
    assert heard.seconds == pytest.approx(0.51, abs=0.05)


@ONCE
@pytest.mark.parametrize(("parts", "numbers"), [(60, [0, 1, 2, 0, 1, 2]), (150, [0, 1, 2])])
def test_parts_that_cannot_be_opened_are_passed_over_but_not_without_end(
    run: Run, tmp_path: Path, parts: int, numbers: list[int]
) -> None:
    """Streams of a chained Ogg that hold nothing at all: a hundred of them are enough."""
    good = encode(tmp_path / "good.ogg", "libopus", beeps(3)).read_bytes()
    page = struct.pack("<4s2BqIIIBB", b"OggS", 0, 2, 0, 7, 0, 0, 1, 4) + b"junk"
    path = tmp_path / "whole.ogg"
    path.write_bytes(good + (page + page.replace(b"\2", b"\0", 1)) * parts + good)
    heard = run(hear, path)
    assert [beep.number for beep in heard.beeps] == numbers
    (gap,) = heard.transcript.gaps
    assert gap.start_seconds == gap.end_seconds == pytest.approx(3.0, abs=0.02)


class _Stuck:
    """A container whose demuxer raises the same error for ever."""

    def __init__(self, container: InputContainer) -> None:
        self._container = container

    def demux(self, stream: av.AudioStream) -> "Iterator[av.Packet[av.AudioStream]]":
        raise av.InvalidDataError(1, "nonsense")
        yield

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None:
        self._container.close()


def test_a_demuxer_that_raises_for_ever_is_given_up(tmp_path: Path) -> None:
    """It is asked some times, for some find their way again; then what is left of the file is a gap."""
    with encode(tmp_path / "speech.wav", "pcm_s16le", beeps(3)).open("rb") as file:
        media = Media(FileView(file.fileno()), file.fileno(), 60 * 16_000)
        media._container = _Stuck(media._container)  # type: ignore[assignment]  # noqa: SLF001
        media.decode(Samples(lambda levels, samples: None))
    assert [(gap.start_samples, gap.end_samples) for gap in media.gaps] == [(0, 3 * 16_000)]


@ONCE
def test_a_stream_that_appears_on_the_way_does_not_matter(run: Run, tmp_path: Path) -> None:
    """As damage in an FLV makes it: a packet that is said to be of a picture."""
    path = encode(tmp_path / "speech.flv", "aac", beeps(12))
    with av.open(str(path)) as source:
        tags = [packet.pos for packet in source.demux(audio=0) if packet.pos]
    data = bytearray(path.read_bytes())
    assert data[tags[288]] == 8
    data[tags[288]] = 9
    path.write_bytes(data)
    heard = run(hear, path)
    heard.assert_in_place(range(12))
    assert heard.seconds == pytest.approx(12.0, abs=0.1)


def assert_only_the_middle_is_lost(heard: Heard) -> None:
    """Of 12 seconds of beeps: all but what the gaps, near the damage, name; and each at its time."""
    assert heard.transcript.status == "partial"
    gaps = heard.transcript.gaps
    assert all(4.0 <= gap.start_seconds < gap.end_seconds <= 10.1 for gap in gaps)
    assert heard.seconds == pytest.approx(12.0, abs=0.15)
    lost = {
        number for number in range(12) for gap in gaps if gap.start_seconds < number + 0.5 and number < gap.end_seconds
    }
    assert lost <= {4, 5, 6, 7, 8, 9}
    heard.assert_in_place(set(range(12)) - lost, tolerance_seconds=0.15)


TIMED = [each for each in FORMATS if each.id not in ("mp3", "wav")]


@ONCE
@pytest.mark.parametrize(("name", "codec", "options"), TIMED)
def test_what_follows_damage_is_at_its_time(
    run: Run, tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    """Where timestamps can be trusted, what is lost becomes silence of the same length, and a gap that names it."""
    assert_only_the_middle_is_lost(run(hear, damage(encode(tmp_path / name, codec, beeps(12), options=options))))


@ONCE
@pytest.mark.parametrize("size", [2, 40_000])
def test_what_follows_a_broken_header_in_wavpack_is_at_its_time(run: Run, tmp_path: Path, size: int) -> None:
    """FFmpeg does not look for the next block behind one that begins with something else."""
    path = encode(tmp_path / "speech.wv", "wavpack", beeps(12))
    data = path.read_bytes()
    block = [found.start() for found in re.finditer(b"wvpk", data)][11]
    path.write_bytes(data[:block] + bytes(size) + data[block + size :])
    assert_only_the_middle_is_lost(run(hear, path))


@ONCE
@pytest.mark.parametrize("part", [0.3, 0.5, 0.7])
def test_what_follows_a_lost_page_of_flac_in_ogg_is_at_its_time(run: Run, tmp_path: Path, part: float) -> None:
    """FFmpeg counts frames there, and was early by a page of a second; the frames themselves know their place."""
    heard = run(hear, damage(encode(tmp_path / "speech.oga", "flac", beeps(12)), at=part, size=100))
    (gap,) = heard.transcript.gaps
    assert 0.5 < gap.end_seconds - gap.start_seconds < 1.5
    assert heard.seconds == pytest.approx(12.0, abs=0.02)
    for start_seconds, number in heard.beeps:
        assert min(abs(start_seconds - number), abs(start_seconds - gap.end_seconds)) < 0.02
    lost = {number for number in range(12) if gap.start_seconds < number + 0.5 and number < gap.end_seconds}
    assert {beep.number for beep in heard.beeps} >= set(range(12)) - lost


@ONCE
def test_noise_that_announces_channels_to_an_aac_decoder_loses_only_itself(run: Run, tmp_path: Path) -> None:
    """The decoder takes memory for each channel that it is told of, and keeps it: all together, more than its limit."""
    path = encode(tmp_path / "speech.m4a", "aac", beeps(12), bit_rate=256_000)
    heard = run(hear, overwrite_packets(path, {284 + number: aac_channels(3 * number) for number in range(5)}))
    assert_only_the_middle_is_lost(heard)
    (gap,) = heard.transcript.gaps
    assert (gap.start_seconds, gap.end_seconds) == pytest.approx((6.06, 6.17), abs=0.05)


@ONCE
@pytest.mark.parametrize("some", [10, 100])
def test_packets_that_need_more_memory_than_there_is_lose_only_themselves(run: Run, tmp_path: Path, some: int) -> None:
    """As any damaged packet does: the decoder is made anew behind it."""
    path = encode(tmp_path / "noise.m4a", "aac", random.Random(1).randbytes(32_000 * 5), bit_rate=256_000)
    seconds, gaps = run(decode_within, overwrite_packets(path, {30 + at: aac_channels(0) for at in range(some)}))
    assert seconds == pytest.approx(5.0, abs=0.1)
    (gap,) = gaps
    assert (gap.start_seconds, gap.end_seconds) == pytest.approx((0.62, 0.62 + some * 1024 / 48_000), abs=0.05)
    assert "memory" in gap.reason


@ONCE
@pytest.mark.parametrize(("seconds", "packets"), [(4, range(189)), (13, range(30, 600))], ids=["few", "many"])
def test_a_file_all_of_whose_packets_need_too_much_memory_is_an_error(
    run: Run, tmp_path: Path, seconds: int, packets: range
) -> None:
    """And soon: after some hundreds of them no more is tried."""
    path = encode(tmp_path / "noise.m4a", "aac", random.Random(1).randbytes(32_000 * seconds), bit_rate=256_000)
    with pytest.raises(mt.DecoderCrashedError, match="out of memory: needs more than data_limit_bytes"):
        run(decode_within, overwrite_packets(path, dict.fromkeys(packets, aac_channels(0))))


async def decode_within(path: Path) -> tuple[float, tuple[DecodeGap, ...]]:
    """How many seconds come out within less memory than 50 channels take, and what is missing."""
    with path.open("rb") as file:
        async with open_decoder(file.fileno(), "it", max_audio_seconds=60, data_limit_bytes=14 * mt.MiB) as decoder:
            count = 0
            while (block := await decoder.read()) is not None:
                count += len(block.samples)
            return count / BYTES_PER_SECOND, decoder.gaps


@ONCE
@pytest.mark.parametrize(("name", "codec"), [("a.m4a", "aac"), ("a.flac", "flac"), ("a.ogg", "libopus")])
def test_what_follows_zeros_is_at_its_time(run: Run, tmp_path: Path, name: str, codec: str) -> None:
    """As a download leaves them that was written out of order and never finished."""
    assert_only_the_middle_is_lost(run(hear, damage(encode(tmp_path / name, codec, beeps(12)), noise=False)))


@ONCE
@pytest.mark.parametrize("noise", [True, False], ids=["noise", "zeros"])
def test_damage_in_an_mp3_loses_itself_and_is_reported(run: Run, tmp_path: Path, noise: bool) -> None:
    """Nothing there tells how much is lost: what follows comes early, in its order, and the place is named."""
    heard = run(hear, damage(encode(tmp_path / "speech.mp3", "libmp3lame", beeps(12)), noise=noise))
    assert heard.transcript.status == "partial"
    assert heard.transcript.gaps[0].start_seconds == pytest.approx(6.0, abs=0.3)
    numbers = [beep.number for beep in heard.beeps if beep.number >= 0]
    assert numbers == sorted(numbers) and {0, 1, 2, 3, 4, 5, 8, 9, 10, 11} <= set(numbers)
    assert 11.0 < heard.seconds < 12.1


@ONCE
def test_damage_in_a_wav_moves_nothing(run: Run, tmp_path: Path) -> None:
    """Its samples are what they are: 15 ms of noise, which nobody can tell from sound, and all else in its place."""
    heard = run(hear, damage(encode(tmp_path / "speech.wav", "pcm_s16le", beeps(12))))
    heard.assert_in_place(range(12))
    assert heard.seconds == 12.0


@ONCE
@pytest.mark.parametrize(("suffix", "part"), [("flac", 0.4), ("flac", 0.5), ("flac", 0.6), ("mkv", 0.5)])
def test_one_wrong_byte_in_a_flac_frame_is_a_gap(run: Run, tmp_path: Path, suffix: str, part: float) -> None:
    """The frame's checksum tells; without it, wrong samples would pass for sound. A frame is 96 ms here."""
    path = damage(encode(tmp_path / f"speech.{suffix}", "flac", beeps(12)), at=part, size=1)
    assert_only_the_middle_is_lost(run(hear, path))


@ONCE
def test_damage_in_a_chained_stream_is_a_gap_of_its_length(run: Run, tmp_path: Path) -> None:
    """The times of the second stream are those of its own clock, and what was lost of it is filled."""
    sound = beeps(12)
    first = encode(tmp_path / "first.ogg", "libopus", sound[:64_000], layout="mono").read_bytes()
    second = bytearray(encode(tmp_path / "second.ogg", "libopus", sound[64_000:]).read_bytes())
    middle = len(second) // 2
    second[middle : middle + 100] = bytes(100)
    path = tmp_path / "whole.ogg"
    path.write_bytes(first + second)
    heard = run(hear, path)
    (gap,) = heard.transcript.gaps
    assert 5.5 < gap.start_seconds < gap.end_seconds < 8.5
    heard.assert_in_place({0, 1, 2, 3, 4, 9, 10, 11}, tolerance_seconds=0.03)
    assert heard.seconds == pytest.approx(12.0, abs=0.05)


@ONCE
def test_damage_late_in_a_chained_stream_is_a_gap_of_its_length(run: Run, tmp_path: Path) -> None:
    """Beyond what the first stream, or the second alone, is long."""
    sound = beeps(12)
    data = b"".join(
        encode(tmp_path / "part.ogg", "libopus", sound[at : at + 128_000]).read_bytes() for at in (0, 128_000, 256_000)
    )
    at = len(data) * 10 // 12
    path = tmp_path / "whole.ogg"
    path.write_bytes(data[:at] + bytes(100) + data[at + 100 :])
    heard = run(hear, path)
    (gap,) = heard.transcript.gaps
    assert 8.9 < gap.start_seconds < gap.end_seconds < 11.1
    heard.assert_in_place({*range(9), 11}, tolerance_seconds=0.03)
    assert heard.seconds == pytest.approx(12.0, abs=0.05)


@ONCE
@pytest.mark.parametrize("alone", [True, False])
def test_an_absurd_rate_of_a_part_is_damage_and_of_the_whole_a_refusal(run: Run, tmp_path: Path, alone: bool) -> None:
    """In a chained Ogg, what comes before and behind is heard."""
    absurd = vorbis_that_claims(tmp_path / "part.ogg", beeps(3), 2_000_000_000)
    good = encode(tmp_path / "part.ogg", "vorbis", beeps(3)).read_bytes()
    path = tmp_path / "whole.ogg"
    path.write_bytes(absurd if alone else good + absurd + good)
    if alone:
        with pytest.raises(mt.AudioLimitError, match=r"claims 2000000000 Hz and 2 channels.* 64 channels$"):
            run(hear, path)
        return
    heard = run(hear, path)
    assert [beep.number for beep in heard.beeps] == [0, 1, 2, 0, 1, 2]
    (gap,) = heard.transcript.gaps
    assert gap.start_seconds == gap.end_seconds == pytest.approx(3.0, abs=0.05)
    assert "2000000000 Hz" in gap.reason
