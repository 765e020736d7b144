"""What is no sound at all, and what was sound once: refused or heard as far as it goes, and never silently less."""

import urllib.request
from contextlib import suppress
from pathlib import Path

import anyio
import psutil
import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._audio.isobmff import index_bytes

from ..conftest import Run
from ..support.damaged_media import cut
from ..support.media import encode, write_wav
from ..support.media_cases import (
    Heard,
    Listener,
    beeps,
    flac_silence,
    flac_that_claims,
    hear,
    m4a_that_claims,
    pcm,
    picture,
    write_film,
)
from ..support.processes import watch_opens
from ..support.server import Server

# How the loop runs does not matter to the shape of a file: one backend is enough where only that is asked.
ONCE = pytest.mark.parametrize("run", ["asyncio"], indirect=True)

HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\n{url}\n#EXTINF:1,\n{path}\n#EXT-X-ENDLIST\n"
CONCAT = "ffconcat version 1.0\nfile {path}\nfile {url}\n"
DASH = """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S"
 profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet mimeType="audio/mp4">
<Representation id="1" bandwidth="1000"><BaseURL>{url}</BaseURL></Representation></AdaptationSet></Period></MPD>"""
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 49170 RTP/AVP 0\n"


@ONCE
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("song.mp3", HLS),
        ("song.m3u8", HLS),
        ("song.wav", HLS),
        ("song.mp3", DASH),
        ("song.mpd", DASH),
        ("song.mp3", CONCAT),
        ("song.ffconcat", CONCAT),
        ("song.sdp", SDP),
    ],
)
def test_a_playlist_is_refused_and_what_it_names_is_left_alone(
    run: Run, tmp_path: Path, server: Server, name: str, text: str
) -> None:
    """Whatever it is called: neither the file nor the address in it is touched."""
    other = write_wav(tmp_path / "other.wav", beeps(1))
    server.routes["/other.wav"] = lambda exchange: exchange.answer(other.read_bytes())
    playlist = tmp_path / name
    playlist.write_text(text.format(url=server.url("/other.wav"), path=other))
    with watch_opens(other) as watch:
        with pytest.raises(mt.UnsupportedMediaError, match="is not audio"):
            run(hear, playlist)
        assert server.accepted == 0
        assert not watch.was_opened()
        with urllib.request.urlopen(server.url("/other.wav")) as answer:
            answer.read()
        assert server.accepted == 1 and watch.was_opened(), "what it names can be had, and the watches work"


@ONCE
@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("zero.mp3", b"", "empty"),
        ("text.mp3", b"Dear diary,\n" * 1000, "plain text"),
        ("text.wav", b"Dear diary,\n", "plain text"),
        ("zeros.mp3", bytes(100_000), "no audio"),
        ("cover.mp3", picture("png"), "a PNG image"),
        ("cover.m4a", picture("mjpeg"), "a JPEG image"),
        ("cover.ogg", picture("gif"), "a GIF image"),
    ],
)
def test_what_holds_no_sound_is_refused(run: Run, tmp_path: Path, name: str, content: bytes, what: str) -> None:
    """The error says what it is instead."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(mt.UnsupportedMediaError, match=f"is not audio: .*{what}"):
        run(hear, path)


@ONCE
@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.ts", "film.mp3"])
def test_a_film_without_sound_is_refused(run: Run, tmp_path: Path, name: str) -> None:
    """Also where it is called a song."""
    film = write_film(tmp_path / f"silent{'.mp4' if name == 'film.mp3' else name[4:]}")
    with pytest.raises(mt.UnsupportedMediaError, match="without an audio stream"):
        run(hear, film.rename(tmp_path / name))


FASTSTART = {"movflags": "faststart"}
FORMATS = [
    pytest.param("speech.mp3", "libmp3lame", {}, id="mp3"),
    pytest.param("speech.m4a", "aac", FASTSTART, id="m4a"),
    pytest.param("speech.flac", "flac", {}, id="flac"),
    pytest.param("speech.wav", "pcm_s16le", {}, id="wav"),
    pytest.param("speech.ogg", "libopus", {}, id="ogg-opus"),
    pytest.param("speech.ogg", "vorbis", {}, id="ogg-vorbis"),
    pytest.param("speech.oga", "flac", {}, id="ogg-flac"),
    pytest.param("speech.webm", "libopus", {}, id="webm"),
    pytest.param("speech.mkv", "aac", {}, id="mkv"),
    pytest.param("speech.wv", "wavpack", {}, id="wavpack"),
]
each_format = pytest.mark.parametrize(("name", "codec", "options"), FORMATS)


@ONCE
@pytest.mark.parametrize("content", [b"I", b"\xff", b"f", b"R", b"O", b"\x1a", b"\0"])
def test_a_single_byte_is_no_sound(run: Run, tmp_path: Path, content: bytes) -> None:
    """That which each of the usual formats begins with."""
    path = tmp_path / "cut.mp3"
    path.write_bytes(content)
    with pytest.raises(mt.UnsupportedMediaError, match="is not audio"):
        run(hear, path)


@ONCE
@each_format
def test_a_file_that_is_cut_off_in_its_header_is_refused(
    run: Run, tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    """Before anything of it could be decoded: an error, not an empty transcript."""
    path = cut(encode(tmp_path / name, codec, beeps(1), options=options), 20)
    with pytest.raises(mt.UnsupportedMediaError, match="is not audio"):
        run(hear, path)


@ONCE
@each_format
def test_the_half_of_a_file_is_heard_and_the_rest_is_a_gap(
    run: Run, tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    """Everything up to the cut, each sound in its place; the gap begins there, and ends where the file would have."""
    heard: Heard = run(hear, cut(encode(tmp_path / name, codec, beeps(12), options=options), 0.5))
    assert 4.9 < heard.seconds < 6.1
    heard.assert_in_place(range(int(heard.seconds - 0.5)))
    assert heard.transcript.status == "partial"
    gap = heard.transcript.gaps[-1]
    assert gap.start_seconds == pytest.approx(heard.seconds, abs=0.05)
    if not name.endswith((".ogg", ".oga")):  # the others' headers know the length
        assert gap.end_seconds == pytest.approx(12.0, abs=0.1)
    assert len(heard.transcript.gaps) == 1


@ONCE
def test_half_of_a_fragmented_mp4_is_heard_and_known_to_be_half(run: Run, tmp_path: Path) -> None:
    """Its fragments stand for themselves."""
    options = {"movflags": "frag_keyframe+empty_moov", "frag_duration": "1000000"}
    heard = run(hear, cut(encode(tmp_path / "speech.mp4", "aac", beeps(12), options=options), 0.5))
    heard.assert_in_place(range(5))
    assert heard.transcript.status == "partial"
    assert heard.transcript.gaps[-1].start_seconds == pytest.approx(heard.seconds, abs=0.05)


@ONCE
@pytest.mark.parametrize("part", [0.5, 0.97], ids=["before it", "within it"])
def test_an_m4a_without_its_moov_says_what_is_missing(run: Run, tmp_path: Path, part: float) -> None:
    """An interrupted recording or upload: the index stands at the end."""
    path = cut(encode(tmp_path / "speech.m4a", "aac", beeps(3)), part)
    with pytest.raises(mt.UnsupportedMediaError, match=r"is not audio: .*moov"):
        run(hear, path)


@ONCE
@pytest.mark.parametrize("first", [b"wide", b"skip", b"free", b"pnot", b"uuid", b"PICT"])
@pytest.mark.parametrize("index", [b"moov", b"free", b"hoov"])
def test_an_mp4_of_another_kind_is_heard_and_its_index_is_charged(
    run: Run, tmp_path: Path, first: bytes, index: bytes
) -> None:
    """Old QuickTime has no `ftyp`; and FFmpeg looks for an index in boxes that are said to be free."""
    path = encode(tmp_path / "sound.m4a", "aac", beeps(3))
    data = path.read_bytes()
    charged = len(data) - data.index(b"moov") + 4
    path.write_bytes(data.replace(b"ftyp", first, 1).replace(b"moov", index, 1))
    with path.open("rb") as file:
        assert index_bytes(file.fileno()) == charged
    heard = run(hear, path)
    heard.assert_in_place(range(3))
    assert heard.transcript.status == "complete"


def peak_of_children() -> int:
    """The highest VmHWM that any child process of this one has now, in bytes."""
    peak = 0
    for child in psutil.Process().children():
        with suppress(OSError):
            for line in Path(f"/proc/{child.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    peak = max(peak, int(line.split()[1]) * 1024)
    return peak


@ONCE
def test_hours_of_silence_in_a_few_bytes_are_stopped(run: Run, tmp_path: Path) -> None:
    """9 000 : 1, and the header does not tell: the decoded seconds are counted, and none of them is kept."""
    path = tmp_path / "bomb.flac"
    path.write_bytes(flac_silence(4 * 3600, claims_samples=0))
    assert path.stat().st_size < 30_000
    engine, peaks = Listener(), [0]

    async def watch() -> None:
        while True:
            peaks.append(peak_of_children())
            await anyio.sleep(0.005)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            with pytest.raises(mt.AudioLimitError, match="max_audio_seconds=1800") as caught:
                await hear(path, engine, max_audio_seconds=1800.0)
            assert caught.value.max_audio_seconds == 1800.0
            tasks.cancel_scope.cancel()

    run(main)
    assert engine.chunks == []
    assert 10 * mt.MiB < max(peaks) < 80 * mt.MiB, "half an hour of samples alone is 55 MiB"


@ONCE
@pytest.mark.parametrize("kind", ["flac", "m4a"])
def test_an_absurd_length_in_the_header_is_refused_at_once(run: Run, tmp_path: Path, kind: str) -> None:
    """Before anything is decoded, sent or paid for."""
    path = tmp_path / f"long.{kind}"
    flac_that_claims(path, 1000 * 3600 * 8_000) if kind == "flac" else m4a_that_claims(path, 48_000)
    engine = Listener()
    with pytest.raises(mt.AudioLimitError, match=r"says that it is \d{6,} s long; raise max_audio_seconds=86400"):
        run(lambda: hear(path, engine, chunk_seconds=1.0))
    assert engine.chunks == []


@ONCE
@pytest.mark.parametrize(
    ("rate", "channels", "error", "says"),
    [
        (2_000_000_000, 1, mt.AudioLimitError, r"claims 2000000000 Hz and 1 channels.* 64 channels$"),
        (16_000, 512, mt.AudioLimitError, r"claims 16000 Hz and 512 channels.* 64 channels$"),
        (16_000, 65, mt.AudioLimitError, r"claims 16000 Hz and 65 channels.* 64 channels$"),
        (
            16_000,
            60_000,
            mt.AudioLimitError,
            r"claims 16000 Hz and 60000 channels.* 64 channels$",
        ),  # no audio to FFmpeg
        (0xFFFF_FFFF, 1, mt.AudioLimitError, r"claims 4294967295 Hz and 1 channels.* 64 channels$"),  # negative to it
        (0, 1, mt.UnsupportedMediaError, "is not audio"),
        (1, 1, mt.AudioLimitError, "max_audio_seconds=60"),  # each sample becomes a second
    ],
)
def test_an_absurd_rate_or_number_of_channels_is_refused(
    run: Run, tmp_path: Path, rate: int, channels: int, error: type[Exception], says: str
) -> None:
    """By an error of the library's own, and not by running out of memory."""
    path = tmp_path / "absurd.wav"
    path.write_bytes(pcm(beeps(30), rate=rate, channels=channels))
    engine = Listener()
    with pytest.raises(error, match=says):
        run(lambda: hear(path, engine, max_audio_seconds=60.0))
    assert engine.chunks == []
