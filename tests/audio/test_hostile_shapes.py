"""Sound of every shape that is in use: heard whole, each beep in its second."""

from array import array
from pathlib import Path

import av
import pytest

import memsafe_transcribe as mt

from ..conftest import Run
from ..support.media import SAMPLE_RATE_HZ, encode, tone_samples, write_wav
from ..support.media_cases import Heard, Listener, beeps, hear, pcm, spread, write_covered, write_film

ONCE = pytest.mark.parametrize("run", ["asyncio"], indirect=True)
BARE = {"write_xing": "0", "id3v2_version": "0"}  # MP3 frames and nothing else


def assert_all(heard: Heard, seconds: int) -> None:
    """So many beeps, each once and in its second, and nothing missing."""
    assert [beep.number for beep in heard.beeps] == list(range(seconds))
    heard.assert_in_place(range(seconds))
    assert heard.seconds == pytest.approx(seconds, abs=0.1)
    assert (heard.transcript.status, heard.transcript.gaps) == ("complete", ())


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@ONCE
@pytest.mark.parametrize(
    ("name", "sound", "picture"),
    [
        ("film.mp4", "aac", "libx264"),
        ("film.mp4", "aac", "mpeg4"),
        ("film.mkv", "libopus", "libx264"),
        ("film.ts", "aac", "libx264"),
    ],
)
def test_a_film_gives_its_sound_and_its_picture_is_not_decoded(
    run: Run, tmp_path: Path, name: str, sound: str, picture: str
) -> None:
    """Pictures that are nonsense do not matter."""
    film = write_film(tmp_path / name, beeps(3), sound=sound, picture=picture, broken_picture=True)
    assert_all(run(hear, film), 3)


@ONCE
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize(("default", "first"), [(0, 0), (1, 3)])
def test_of_several_sounds_the_default_is_heard(
    run: Run, tmp_path: Path, suffix: str, default: int, first: int
) -> None:
    """As a player would choose; only that one."""
    film = write_film(tmp_path / f"film.{suffix}", beeps(3), beeps(6)[3 * 32_000 :], default=default)
    heard = run(hear, film)
    assert [beep.number for beep in heard.beeps] == [first, first + 1, first + 2]
    assert (heard.seconds, heard.transcript.status) == (pytest.approx(3.0, abs=0.1), "complete")


@ONCE
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_of_several_sounds_without_a_default_the_first_is_heard(run: Run, tmp_path: Path, suffix: str) -> None:
    """Where they are alike in all else."""
    assert_all(run(hear, write_film(tmp_path / f"film.{suffix}", beeps(3), beeps(6)[3 * 32_000 :])), 3)


@ONCE
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_sound_that_starts_later_than_the_picture_is_at_its_time(run: Run, tmp_path: Path, suffix: str) -> None:
    """Two seconds of picture come first: silence, and no gap."""
    heard = run(hear, write_film(tmp_path / f"film.{suffix}", beeps(3), start_seconds=2.0))
    assert [beep.number for beep in heard.beeps] == [0, 1, 2]
    assert [beep.start_seconds for beep in heard.beeps] == pytest.approx([2.0, 3.0, 4.0], abs=0.1)
    assert heard.seconds == pytest.approx(5.0, abs=0.1)
    assert (heard.transcript.status, heard.transcript.gaps) == ("complete", ())


@ONCE
@pytest.mark.parametrize(("name", "codec"), [("song.mp3", "libmp3lame"), ("song.m4a", "aac"), ("song.flac", "flac")])
def test_cover_art_does_not_matter(run: Run, tmp_path: Path, name: str, codec: str) -> None:
    """FFmpeg shows it as a picture stream."""
    assert_all(run(hear, write_covered(tmp_path / name, codec, beeps(3))), 3)


@ONCE
@pytest.mark.parametrize(
    ("made_as", "codec", "called"),
    [
        ("a.mp3", "libmp3lame", "a.wav"),
        ("a.m4a", "aac", "a.mp3"),
        ("a.flac", "flac", "a.m3u8"),
        ("a.wav", "pcm_s16le", "a.jpg"),
        ("a.ogg", "libopus", "upload"),
        ("a.webm", "libopus", "a.txt"),
        ("a.mp3", "libmp3lame", ".mp4"),
    ],
)
def test_the_content_decides_whatever_the_name(run: Run, tmp_path: Path, made_as: str, codec: str, called: str) -> None:
    """A wrong extension, or none at all."""
    assert_all(run(hear, encode(tmp_path / made_as, codec, beeps(3)).rename(tmp_path / called)), 3)


@ONCE
@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("end.m4a", "aac", {}),
        ("front.m4a", "aac", {"movflags": "faststart"}),
        ("fragmented.mp4", "aac", {"movflags": "frag_keyframe+empty_moov"}),
        ("fragmented.m4a", "aac", {"movflags": "frag_keyframe+empty_moov", "frag_duration": "500000"}),
        ("dash.mp4", "aac", {"movflags": "dash+delay_moov", "frag_duration": "500000"}),
        ("lossless.m4a", "alac", {}),
        ("bare.aac", "aac", {}),
        ("rf64.wav", "pcm_s16le", {"rf64": "always"}),
        ("law.wav", "pcm_alaw", {}),
        ("adpcm.wav", "adpcm_ima_wav", {}),
        ("sound.w64", "pcm_s16le", {}),
        ("sound.aiff", "pcm_s24be", {}),
        ("sound.caf", "pcm_s16le", {}),
        ("sound.au", "pcm_mulaw", {}),
        ("sound.ac3", "ac3", {}),
        ("sound.wv", "wavpack", {}),
        ("sound.ogg", "vorbis", {}),
        ("sound.oga", "flac", {}),
        ("live.webm", "libopus", {"live": "1"}),
    ],
)
def test_containers_and_codecs(run: Run, tmp_path: Path, name: str, codec: str, options: dict[str, str]) -> None:
    """Index at the end, at the front, in fragments, or none at all; lengths of 64 bits, or unknown."""
    assert_all(run(hear, encode(tmp_path / name, codec, beeps(3), options=options)), 3)


@ONCE
@pytest.mark.parametrize(
    ("rate", "layout"),
    [
        (8_000, "mono"),
        (11_025, "mono"),
        (22_050, "stereo"),
        (44_100, "mono"),
        (96_000, "stereo"),
        (192_000, "mono"),
        (192_000, "stereo"),
    ],
)
def test_rates(run: Run, tmp_path: Path, rate: int, layout: str) -> None:
    """Neither faster nor slower, by less than a tone's distance from the next."""
    assert_all(run(hear, encode(tmp_path / "sound.wav", "pcm_s16le", beeps(3), rate=rate, layout=layout)), 3)


WORDS = array("h", beeps(3))
WHOLE = {
    "8 bits": pcm(bytes((value >> 8) + 128 for value in WORDS), bits=8),
    "24 bits": pcm(b"".join(b"\0" + WORDS[at : at + 1].tobytes() for at in range(len(WORDS))), bits=24),
    "32 bits": pcm(array("i", [value << 16 for value in WORDS]).tobytes(), bits=32),
    "float": pcm(array("f", [value / 32768 for value in WORDS]).tobytes(), bits=32, tag=3),
    "double": pcm(array("d", [value / 32768 for value in WORDS]).tobytes(), bits=64, tag=3),
    "size 0": pcm(beeps(3), data_size=0),
    "size 0xFFFFFFFF": pcm(beeps(3), data_size=0xFFFF_FFFF),
    "left alone": pcm(spread(beeps(3), (1, 0)), channels=2),
    "right alone": pcm(spread(beeps(3), (0, 1)), channels=2),
    "opposite phase": pcm(spread(beeps(3), (1, -1)), channels=2),
    "5.1, front": pcm(spread(beeps(3), (1, 1, 0, 0, 0, 0)), channels=6),
    "5.1, centre": pcm(spread(beeps(3), (0, 0, 1, 0, 0, 0)), channels=6),
    "5.1, back": pcm(spread(beeps(3), (0, 0, 0, 0, 1, 1)), channels=6),
    "seven channels": pcm(spread(beeps(3), (1,) * 7), channels=7),
    "sixteen channels": pcm(spread(beeps(3), (1,) * 16), channels=16),
}


@ONCE
@pytest.mark.parametrize("shape", WHOLE)
def test_shapes_of_wav(run: Run, tmp_path: Path, shape: str) -> None:
    """Sample formats, channels, and headers that do not know the length: all of it is heard, and is complete."""
    assert_all(run(hear, write(tmp_path / "sound.wav", WHOLE[shape])), 3)


@ONCE
def test_channels_that_cancel_only_for_a_while_are_heard_throughout(run: Run, tmp_path: Path) -> None:
    """The second of three seconds is of opposite phase."""
    sound = beeps(3)
    parts = (sound[:32_000], 1), (sound[32_000:64_000], -1), (sound[64_000:], 1)
    data = pcm(b"".join(spread(part, (1, sign)) for part, sign in parts), channels=2)
    assert_all(run(hear, write(tmp_path / "sound.wav", data)), 3)


@ONCE
def test_an_mp3_of_changing_bit_rate_without_a_header_is_heard_whole(run: Run, tmp_path: Path) -> None:
    """Judged by its first frames and its size, it would be 33 s long."""
    sound = beeps(6)
    slow = encode(tmp_path / "slow.mp3", "libmp3lame", sound[:96_000], rate=44_100, bit_rate=32_000, options=BARE)
    fast = encode(tmp_path / "fast.mp3", "libmp3lame", sound[96_000:], rate=44_100, bit_rate=320_000, options=BARE)
    assert fast.stat().st_size > 9 * slow.stat().st_size
    assert_all(run(hear, write(tmp_path / "vbr.mp3", slow.read_bytes() + fast.read_bytes())), 6)


@ONCE
@pytest.mark.parametrize(
    ("suffix", "codec", "first", "second", "options"),
    [
        pytest.param("mp3", "libmp3lame", (44_100, "stereo"), (22_050, "mono"), BARE, id="mp3-bare"),
        pytest.param("mp3", "libmp3lame", (44_100, "stereo"), (22_050, "mono"), {}, id="mp3-tags"),
        pytest.param("ogg", "flac", (44_100, "stereo"), (16_000, "mono"), {}, id="ogg-flac"),
        pytest.param("ogg", "vorbis", (44_100, "stereo"), (44_100, "stereo"), {}, id="ogg-vorbis-same"),
        pytest.param("ogg", "vorbis", (44_100, "stereo"), (22_050, "stereo"), {}, id="ogg-vorbis"),
        pytest.param("ogg", "libopus", (48_000, "stereo"), (16_000, "mono"), {}, id="ogg-opus"),
    ],
)
def test_files_that_were_put_together_are_heard_whole(
    run: Run,
    tmp_path: Path,
    suffix: str,
    codec: str,
    first: tuple[int, str],
    second: tuple[int, str],
    options: dict[str, str],
) -> None:
    """Concatenated MP3, chained Ogg: another rate, other channels, timestamps from zero again."""
    sound, data = beeps(6), b""
    for part, (rate, layout) in ((sound[:96_000], first), (sound[96_000:], second)):
        data += encode(tmp_path / f"part.{suffix}", codec, part, rate=rate, layout=layout, options=options).read_bytes()
    assert_all(run(hear, write(tmp_path / f"whole.{suffix}", data)), 6)


@ONCE
def test_many_streams_of_all_codecs_that_were_chained_are_heard_whole(run: Run, tmp_path: Path) -> None:
    """As a radio station's recording, a stream for each song: each has a clock of its own."""
    sound, data = beeps(12), b""
    shapes = [
        ("libopus", 48_000, "mono"),
        ("flac", 44_100, "stereo"),
        ("vorbis", 44_100, "stereo"),
        ("libopus", 48_000, "stereo"),
    ]
    for second in range(12):
        codec, rate, layout = shapes[second % 4]
        part = sound[second * 32_000 : (second + 1) * 32_000]
        data += encode(tmp_path / "part.ogg", codec, part, rate=rate, layout=layout).read_bytes()
    assert_all(run(hear, write(tmp_path / "whole.ogg", data)), 12)


@ONCE
@pytest.mark.parametrize(
    ("name", "codec"), [("none.wav", "pcm_s16le"), ("none.flac", "flac"), ("none.aiff", "pcm_s16be")]
)
def test_no_samples_at_all_is_an_error(run: Run, tmp_path: Path, name: str, codec: str) -> None:
    """A header and nothing behind it is no silence."""
    with pytest.raises(mt.UnsupportedMediaError, match="it holds no samples"):
        run(hear, encode(tmp_path / name, codec, b""))


@pytest.mark.parametrize("count", [1, 160, 1_599])
def test_very_short_sounds_are_heard_exactly(run: Run, tmp_path: Path, count: int) -> None:
    """One sample, and under a tenth of a second."""
    samples = tone_samples(count / SAMPLE_RATE_HZ)
    heard = run(hear, write_wav(tmp_path / "short.wav", samples))
    assert heard.samples == samples
    assert (heard.seconds, heard.transcript.status) == (count / SAMPLE_RATE_HZ, "complete")


@ONCE
@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp3", "libmp3lame"), ("a.m4a", "aac"), ("a.ogg", "libopus"), ("a.flac", "flac")]
)
def test_very_short_files_are_heard(run: Run, tmp_path: Path, name: str, codec: str) -> None:
    """Shorter than a few of the codec's own frames."""
    heard = run(hear, encode(tmp_path / name, codec, tone_samples(0.05)))
    assert heard.seconds == pytest.approx(0.05, abs=0.05)
    assert max(map(abs, array("h", heard.samples))) > 4_000
    assert heard.transcript.status == "complete"


@pytest.mark.parametrize("extra", [-1, 0, 1])
@pytest.mark.parametrize("chunks", [1, 3])
def test_about_whole_chunks_nothing_is_lost_and_none_is_too_long(
    run: Run, tmp_path: Path, extra: int, chunks: int
) -> None:
    """Exactly as many samples as the engine takes at once, one more and one less."""
    samples = tone_samples(chunks + extra / SAMPLE_RATE_HZ)
    path, engine = write_wav(tmp_path / "sound.wav", samples), Listener(max_chunk_seconds=1.0)
    heard = run(hear, path, engine)
    assert heard.samples == samples
    assert heard.seconds == len(samples) / 32_000
    assert all(0 < chunk.duration_seconds <= 1.0 for chunk in heard.chunks)
    assert chunks > 1 or len(heard.chunks) == (2 if extra > 0 else 1)


HUSH = array("h", [1, -1] * 80_000).tobytes()  # the least that is not zero


@ONCE
@pytest.mark.parametrize(
    ("name", "codec", "samples"),
    [
        ("silence.wav", "pcm_s16le", bytes(320_000)),
        ("silence.wav", "pcm_s16le", HUSH),
        ("silence.mp3", "libmp3lame", bytes(320_000)),
        ("silence.m4a", "aac", bytes(320_000)),
        ("silence.ogg", "libopus", bytes(320_000)),
        ("short.wav", "pcm_s16le", bytes(320)),
    ],
)
def test_silence_is_not_sent_to_an_engine(run: Run, tmp_path: Path, name: str, codec: str, samples: bytes) -> None:
    """Nothing is paid for; the text is empty and the status says why."""
    heard = run(hear, encode(tmp_path / name, codec, samples, rate=48_000))
    assert heard.chunks == []
    assert (heard.transcript.status, heard.transcript.text, heard.transcript.gaps) == ("silent", "", ())
    assert heard.seconds == pytest.approx(len(samples) / 32_000, abs=0.1)


@ONCE
@pytest.mark.parametrize("count", [1, 159, 160, 161, 320])
def test_silence_of_a_few_samples_is_known_as_silence(run: Run, tmp_path: Path, count: int) -> None:
    """Though it is shorter than what a level is measured over."""
    heard = run(hear, write_wav(tmp_path / "short.wav", bytes(2 * count)))
    assert (heard.chunks, heard.transcript.status, heard.seconds) == ([], "silent", count / SAMPLE_RATE_HZ)


@ONCE
def test_subtitles_are_passed_over(run: Run, tmp_path: Path) -> None:
    """PyAV would load what it has for them when it meets them, and no file can be opened any more then."""
    sound = encode(tmp_path / "sound.mkv", "libopus", beeps(3))
    (tmp_path / "text.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n\n")
    film = tmp_path / "film.mkv"
    with (
        av.open(str(sound), "r") as audio,
        av.open(str(tmp_path / "text.srt"), "r") as text,
        av.open(str(film), "w") as target,
    ):
        for source in (text, audio):
            target.add_stream_from_template(source.streams[0])
        for stream, source in zip(target.streams, (text, audio), strict=True):
            for packet in source.demux():
                if packet.dts is not None:
                    packet.stream = stream
                    target.mux_one(packet)
    run(hear, film).assert_in_place(range(3))
