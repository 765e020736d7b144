"""The decoding process, on real files."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import av
import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._audio.decoder import BYTES_PER_SECOND, Decoder, data_limit_bytes, open_decoder, peak_bytes
from memsafe_transcribe._audio.words import DecodeGap

from ..conftest import Run
from ..support.media import SPEECH, encode, tone_samples, write_encoded, write_long_mp3, write_wav
from ..support.processes import gone_within, watch_opens


@contextmanager
def descriptor(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


@asynccontextmanager
async def opened(path: Path, max_audio_seconds: float = 60.0) -> AsyncIterator[Decoder]:
    """The decoder of a file."""
    with descriptor(path) as fd:
        async with open_decoder(
            fd, path.name, max_audio_seconds=max_audio_seconds, data_limit_bytes=data_limit_bytes(fd)
        ) as decoder:
            yield decoder


def process_of(decoder: Decoder) -> int:
    """The process that decodes."""
    assert decoder.pid is not None
    return decoder.pid


async def decode(path: Path, max_audio_seconds: float = 3600.0) -> bytes:
    """All samples of a file."""
    async with opened(path, max_audio_seconds) as decoder:
        return await read_all(decoder)


async def read_all(decoder: Decoder) -> bytes:
    samples = b""
    while (block := await decoder.read()) is not None:
        samples += block.samples
    return samples


def test_samples_come_out_exactly(run: Run, tmp_path: Path) -> None:
    """A 16 kHz mono WAV comes out as the samples that went in, to the last odd one."""
    samples = tone_samples(2.5) + b"\x01\x00"
    assert run(decode, write_wav(tmp_path / "tone.wav", samples)) == samples


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("speech.mp3", "libmp3lame"),
        ("speech.m4a", "aac"),
        ("speech.flac", "flac"),
        ("speech.ogg", "libopus"),
        ("speech.webm", "libopus"),
        ("speech.mkv", "aac"),
        ("speech.aiff", "pcm_s16be"),
    ],
)
def test_every_usual_format_keeps_its_length(run: Run, tmp_path: Path, name: str, codec: str) -> None:
    """Stereo at 48 kHz comes out as 16 kHz mono of the same length, but for an encoder's padding."""
    path = write_encoded(tmp_path / name, codec, seconds=3.0)
    assert len(run(decode, path)) / BYTES_PER_SECOND == pytest.approx(3.0, abs=0.15)


def test_a_rate_that_changes_on_the_way_is_followed(run: Run, tmp_path: Path) -> None:
    """Concatenated MP3s of 44.1 kHz stereo and 16 kHz mono: the clock stays right."""
    path = write_long_mp3(tmp_path / "chained.mp3", 5.0)
    path.write_bytes(path.read_bytes() + SPEECH.read_bytes())
    assert len(run(decode, path)) / BYTES_PER_SECOND == pytest.approx(5.0 + 31.57, abs=0.15)


def test_the_content_decides_and_not_the_name(run: Run, tmp_path: Path) -> None:
    """An MP3 that is called .jpg is an MP3."""
    path = tmp_path / "photo.jpg"
    shutil.copy(SPEECH, path)
    assert len(run(decode, path)) / BYTES_PER_SECOND == pytest.approx(31.57, abs=0.1)


def test_a_playlist_named_mp3_opens_no_other_file(run: Run, tmp_path: Path) -> None:
    """It is refused with an error that says what it is; the file that it names is never opened."""
    other = write_wav(tmp_path / "other.wav", tone_samples(1.0))
    playlist = tmp_path / "song.mp3"
    playlist.write_text("ffconcat version 1.0\nfile other.wav\n")
    with watch_opens(other) as watch:
        with pytest.raises(mt.UnsupportedMediaError, match=r"song\.mp3 is not audio: it is an ffconcat playlist"):
            run(decode, playlist)
        assert not watch.was_opened()
        other.read_bytes()
        assert watch.was_opened(), "the watch itself must work"


_OPEN_WITHOUT_LIMITS = """
import os, sys
from memsafe_transcribe._audio import files, media
media._OPTIONS = {name: media._OPTIONS[name] for name in sys.argv[2:]}
try:
    with media._open(files.FileView(os.open(sys.argv[1], os.O_RDONLY))) as container:
        next(container.decode(audio=0))
except media.RefusalError as refusal:
    print(refusal.kind)
"""


@pytest.mark.parametrize(
    ("options", "opened"), [(["format_whitelist"], False), (["protocol_whitelist"], False), ([], True)]
)
def test_each_defence_against_playlists_holds_alone(tmp_path: Path, options: list[str], opened: bool) -> None:
    """Where the kernel would let the decoder open files, and without the other option; without both, it is opened."""
    other = write_wav(tmp_path / "other.wav", tone_samples(1.0))
    playlist = tmp_path / "song.mp3"
    playlist.write_text("ffconcat version 1.0\nfile other.wav\n")
    command = [sys.executable, "-c", _OPEN_WITHOUT_LIMITS, str(playlist), *options]
    with watch_opens(other) as watch:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert watch.was_opened() == opened
        assert done.stdout == ("" if opened else "unsupported\n")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "empty"),
        (b"only some words\n" * 50, "plain text"),
        (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/x.ts\n", "an HLS or M3U playlist"),
        (b"<?xml version='1.0'?><MPD></MPD>", "a DASH playlist"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "a PNG image"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "a JPEG image"),
        (bytes(10_000), "FFmpeg finds no audio"),
    ],
)
def test_what_is_not_audio_is_named(run: Run, tmp_path: Path, content: bytes, what: str) -> None:
    """The error says what the file is instead."""
    path = tmp_path / "upload.mp3"
    path.write_bytes(content)
    with pytest.raises(mt.UnsupportedMediaError, match=what):
        run(decode, path)


def test_a_video_gives_its_audio_and_one_without_says_so(run: Run, tmp_path: Path) -> None:
    """Video frames are not decoded."""
    silent = tmp_path / "film.mp4"
    with av.open(str(silent), "w") as target:
        stream = target.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 64, 64
        for _ in range(10):
            target.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        target.mux(stream.encode(None))
    with pytest.raises(mt.UnsupportedMediaError, match="without an audio stream"):
        run(decode, silent)


def damage(path: Path) -> Path:
    """Overwrite some of the middle of a file."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    path.write_bytes(data)
    return path


def test_damage_in_the_middle_loses_itself_and_is_reported(run: Run, tmp_path: Path) -> None:
    """What can be heard before and after comes out; the place is named. MP3 has no timestamps that tell how much."""
    path = damage(write_encoded(tmp_path / "speech.mp3", "libmp3lame", seconds=10.0))
    seconds, gaps = run(decode_with_gaps, path)
    assert 9.5 < seconds < 10.0
    assert gaps[0].start_seconds == gaps[0].end_seconds == pytest.approx(5.0, abs=0.5)
    assert gaps[0].reason.startswith("damaged data")


@pytest.mark.parametrize(
    ("name", "codec"),
    [("speech.m4a", "aac"), ("speech.webm", "libopus"), ("speech.ogg", "libopus"), ("speech.flac", "flac")],
)
def test_what_is_lost_in_the_middle_is_filled_with_silence(run: Run, tmp_path: Path, name: str, codec: str) -> None:
    """Where timestamps tell how much it was: later times are right, and the gap has its length. FLAC says nothing of
    damage but by its checksums."""
    path = damage(write_encoded(tmp_path / name, codec, seconds=10.0))
    seconds, gaps = run(decode_with_gaps, path)
    assert seconds == pytest.approx(10.0, abs=0.05)
    (gap,) = gaps
    assert 4.0 < gap.start_seconds < gap.end_seconds <= seconds


def test_a_title_that_is_no_utf8_does_not_matter(run: Run, tmp_path: Path) -> None:
    """As old taggers write it."""
    path = write_encoded(tmp_path / "tagged.flac", "flac", seconds=1.0, title="Cafe")
    data = path.read_bytes()
    assert b"Cafe" in data
    path.write_bytes(data.replace(b"Cafe", b"Caf\xe9"))
    assert len(run(decode, path)) / BYTES_PER_SECOND == pytest.approx(1.0, abs=0.01)


def test_a_picture_that_goes_on_longer_is_no_gap(run: Run, tmp_path: Path) -> None:
    """The length that counts is that of the sound."""
    path = tmp_path / "film.mkv"
    with av.open(str(path), "w") as target:
        sound, picture = target.add_stream("pcm_s16le", rate=16_000, layout="mono"), target.add_stream("mpeg4", rate=10)
        picture.width, picture.height = 64, 64
        frame = av.AudioFrame("s16", "mono", 16_000)
        frame.sample_rate = 16_000
        frame.planes[0].update(tone_samples(1.0))
        target.mux(sound.encode(frame))
        for _ in range(50):
            target.mux(picture.encode(av.VideoFrame(64, 64, "yuv420p")))
        target.mux([*sound.encode(None), *picture.encode(None)])
    assert run(decode_with_gaps, path) == (1.0, ())


@pytest.mark.parametrize(
    ("name", "codec", "end"),
    [
        ("speech.flac", "flac", 10.0),
        ("speech.webm", "libopus", 10.0),
        ("speech.ogg", "libopus", None),
        ("speech.wav", "pcm_s16le", 10.0),
        ("law.wav", "pcm_mulaw", 10.0),
        ("speech.m4a", "aac", 10.0),
    ],
)
def test_an_end_that_is_missing_is_reported(run: Run, tmp_path: Path, name: str, codec: str, end: float | None) -> None:
    """By the header's length; an Ogg's last page is marked as the last, and a WAV says how long its data is."""
    options = {"movflags": "faststart"} if name.endswith("m4a") else {}
    path = encode(tmp_path / name, codec, tone_samples(10.0), options=options)
    assert run(decode_with_gaps, path)[1] == ()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    seconds, gaps = run(decode_with_gaps, path)
    assert 4.0 < seconds < 6.0
    (gap,) = gaps
    assert gap.start_seconds == pytest.approx(seconds, abs=0.03)
    assert gap.end_seconds == pytest.approx(end or seconds, abs=0.1)


def test_a_truncated_mp3_is_reported_where_its_header_tells_the_length(run: Run, tmp_path: Path) -> None:
    """As encoders write it, behind tags of any size; a bare stream of frames cannot know."""
    cut = SPEECH.read_bytes()[:100_000]
    path = tmp_path / "cut.mp3"
    path.write_bytes(cut)
    seconds, gaps = run(decode_with_gaps, path)
    assert seconds == pytest.approx(12.4, abs=0.2)
    assert [(gap.start_seconds, round(gap.end_seconds, 1)) for gap in gaps] == [(seconds, 31.6)]
    bare = write_long_mp3(tmp_path / "bare.mp3", 5.0)
    assert run(decode_with_gaps, bare)[1] == ()


async def decode_with_gaps(path: Path) -> tuple[float, tuple[DecodeGap, ...]]:
    """How many seconds came out, and what is missing."""
    async with opened(path) as decoder:
        samples = await read_all(decoder)
        return len(samples) / BYTES_PER_SECOND, decoder.gaps


def test_more_audio_than_allowed_is_refused_whatever_the_header_says(run: Run, tmp_path: Path) -> None:
    """The limit counts decoded samples."""
    path = write_wav(tmp_path / "long.wav", tone_samples(3.0))
    with pytest.raises(mt.AudioLimitError, match="max_audio_seconds=2") as caught:
        run(decode, path, 2.0)
    assert caught.value.max_audio_seconds == 2.0


def test_an_exception_in_the_block_ends_the_process(run: Run) -> None:
    """`run` finds neither child nor descriptor afterwards."""

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            async with opened(SPEECH) as decoder:
                await decoder.read()
                raise ZeroDivisionError

    run(main)


def test_cancellation_while_reading_ends_the_process(run: Run) -> None:
    """A reader that waits for a stopped decoder can be cancelled, and both are gone."""

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            async with opened(SPEECH) as decoder:
                os.kill(process_of(decoder), signal.SIGSTOP)
                tasks.start_soon(read_all, decoder)
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()

    run(main)


def test_a_decoder_that_is_killed_says_of_what(run: Run) -> None:
    """The job fails with the signal's name; the host goes on."""

    async def main() -> None:
        async with opened(SPEECH) as decoder:
            os.kill(process_of(decoder), signal.SIGSEGV)
            with pytest.raises(mt.DecoderCrashedError, match="killed by SIGSEGV") as caught:
                await read_all(decoder)
            assert caught.value.reason == "killed by SIGSEGV"

    run(main)


@pytest.mark.parametrize(
    "sent",
    [
        r"P\377\377\377\377",  # a frame of 4 GiB
        r"I\002\000\000\000{]",  # JSON that is none
        r"D\002\000\000\000{}",  # JSON without what must be in it
        r"E\001\000\000\0003",
    ],
)
def test_a_decoder_that_sends_nonsense_is_an_error_of_its_own(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: str
) -> None:
    """As one would that a media file has taken over."""
    impostor = tmp_path / "python"
    impostor.write_text(f"#!/bin/sh\nprintf '{sent}'\nexec sleep 1000\n")
    impostor.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(impostor))
    with pytest.raises(mt.DecoderCrashedError, match="does not speak its protocol"):
        run(decode, SPEECH)


def test_a_decoder_that_sends_too_much_is_stopped(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent counts, too."""
    impostor = tmp_path / "python"
    info = '{"format": "mp3", "codec": "mp3", "duration_seconds": 1, "is_confined": true}'
    impostor.write_text(
        f"#!{sys.executable}\nimport os, struct\n"
        f"os.write(1, struct.pack('<cI', b'I', {len(info)}) + {info.encode()!r})\n"
        "while True: os.write(1, struct.pack('<cII', b'P', 32404, 100) + bytes(32400))\n"
    )
    impostor.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(impostor))
    with pytest.raises(mt.AudioLimitError, match="more audio came out of it than was asked for"):
        run(decode, SPEECH, 3.0)


_HOST = """
import os, sys, anyio
from memsafe_transcribe._audio.decoder import data_limit_bytes, open_decoder

async def main():
    fd = os.open(sys.argv[1], os.O_RDONLY)
    async with open_decoder(fd, "speech", max_audio_seconds=60, data_limit_bytes=data_limit_bytes(fd)) as decoder:
        await decoder.read()
        print(decoder.pid, flush=True)
        await anyio.sleep_forever()

anyio.run(main, backend=sys.argv[2])
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_sigkill_of_the_host_takes_the_decoder_with_it(backend: str) -> None:
    """Even one that is stopped, and so cannot notice anything by itself."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOST, str(SPEECH), backend], stdout=subprocess.PIPE, text=True
    ) as host:
        assert host.stdout is not None
        decoder_pid = int(host.stdout.readline())
        decoder = os.pidfd_open(decoder_pid)
        try:
            os.kill(decoder_pid, signal.SIGSTOP)
            host.kill()
            assert gone_within(decoder, seconds=30)
        finally:
            os.close(decoder)


def test_the_worker_cannot_open_files_and_gets_no_secret(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel refuses it any descriptor, any file size and more data; the host's environment does not reach it."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")

    async def main() -> None:
        async with opened(SPEECH) as decoder:
            limits = Path(f"/proc/{decoder.pid}/limits").read_text()
            for name in ("Max open files", "Max file size", "Max core file size"):
                (line,) = (line for line in limits.splitlines() if line.startswith(name))
                assert line.removeprefix(name).split()[:2] == ["0", "0"]
            (line,) = (line for line in limits.splitlines() if line.startswith("Max data size"))
            assert int(line.removeprefix("Max data size").split()[0]) < 64 * mt.MiB
            # A thread per core, with 8 MiB of stack each, would eat the allowance on a large host.
            status = Path(f"/proc/{decoder.pid}/status").read_text()
            assert "Threads:\t1\n" in status
            assert decoder.info.is_confined == ("Seccomp:\t2\n" in status)
            (line,) = (line for line in limits.splitlines() if line.startswith("Max cpu time"))
            assert 66 <= int(line.removeprefix("Max cpu time").split()[0]) <= 70
            assert b"sk-secret" not in Path(f"/proc/{decoder.pid}/environ").read_bytes()

    run(main)


def test_the_peak_is_known_beforehand_and_an_mp4_index_is_charged(tmp_path: Path) -> None:
    """Where FFmpeg loads it, as of fragments. Where it stays in the file, or there is none, the sum is fixed."""
    plain = write_encoded(tmp_path / "speech.mp3", "libmp3lame", seconds=60.0)
    flat = write_encoded(tmp_path / "speech.m4a", "aac", seconds=60.0)
    fragments = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    indexed = encode(tmp_path / "speech.mp4", "aac", tone_samples(60.0), options=fragments)
    with descriptor(plain) as fd_plain, descriptor(flat) as fd_flat, descriptor(indexed) as fd_indexed:
        assert peak_bytes(data_limit_bytes(fd_plain)) == 37 * mt.MiB
        assert data_limit_bytes(fd_flat) == data_limit_bytes(fd_plain)
        assert data_limit_bytes(fd_indexed) - data_limit_bytes(fd_plain) > 60 * 48_000 / 1024 * 36
