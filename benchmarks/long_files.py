"""Recordings of any length for the other benchmarks: the demo's speech over and over, in each format that is measured.

All but WAV are stereo. Packets of speech that was encoded once are put into the container again and again, with the
times of their place there; FLAC alone is encoded anew, because its frames are numbered and carry a checksum. Twelve
hours take from a second (MP3) to a minute.
"""

import wave
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from tests.support.media import SAMPLE_RATE_HZ, SPEECH, encode, write_long_mp3

# Format -> the file's ending, the codec, its sampling rate, and bits per second.
_REPEATED = {
    "vorbis": ("ogg", "vorbis", 44_100, 128_000),
    "opus": ("ogg", "libopus", 48_000, 64_000),
    "m4a": ("m4a", "aac", 48_000, 128_000),
}
_FLAC_RATE_HZ = 44_100
FORMATS = ("mp3", "vorbis", "opus", "flac", "wav", "m4a")


def write_long(folder: Path, kind: str, seconds: float) -> Path:
    """Write a recording of that length and one of `FORMATS` into `folder`."""
    if kind == "mp3":
        return write_long_mp3(folder / "long.mp3", seconds)
    if kind == "wav":
        return _write_wav(folder / "long.wav", seconds)
    if kind == "flac":
        return _write_flac(folder / "long.flac", seconds)
    return _write_repeated(folder, kind, seconds)


def _speech() -> bytes:
    """The demo's speech as 16 kHz mono signed 16-bit samples."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ)
    with av.open(str(SPEECH), "r") as file:
        frames = [out for frame in (*file.decode(audio=0), None) for out in resampler.resample(frame)]
    return b"".join(bytes(memoryview(frame.planes[0])[: frame.samples * 2]) for frame in frames)


def _write_wav(path: Path, seconds: float) -> Path:
    speech = _speech()
    left = int(seconds * SAMPLE_RATE_HZ) * 2
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE_HZ, left // 2, "NONE", ""))
        while left > 0:
            file.writeframesraw(speech[:left])
            left -= len(speech)
    return path


def _write_flac(path: Path, seconds: float) -> Path:
    resampler = av.AudioResampler(format="s16", layout="stereo", rate=_FLAC_RATE_HZ, frame_size=4096)
    with av.open(str(SPEECH), "r") as file:
        frames = [out for frame in file.decode(audio=0) for out in resampler.resample(frame)]
    with av.open(str(path), "w") as target:
        stream = target.add_stream("flac", rate=_FLAC_RATE_HZ, layout="stereo", options={"compression_level": "0"})
        assert isinstance(stream, av.AudioStream)
        at = 0
        while at < seconds * _FLAC_RATE_HZ:
            for frame in frames:
                frame.pts, frame.time_base = at, Fraction(1, _FLAC_RATE_HZ)
                at += frame.samples
                target.mux(stream.encode(frame))
                if at >= seconds * _FLAC_RATE_HZ:
                    break
        target.mux(stream.encode(None))
    return path


def _write_repeated(folder: Path, kind: str, seconds: float) -> Path:
    ending, codec, rate_hz, bit_rate = _REPEATED[kind]
    once = encode(folder / f"once.{ending}", codec, _speech(), rate=rate_hz, bit_rate=bit_rate)
    path = folder / f"long.{ending}"
    with av.open(str(once), "r") as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for data, at, samples in _endless(source, rate_hz):
            if at >= seconds * rate_hz:
                break
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, Fraction(1, rate_hz)
            packet.pts = packet.dts = at
            packet.duration = samples
            target.mux_one(packet)
    once.unlink()
    return path


def _endless(source: InputContainer, rate_hz: int) -> Iterator[tuple[bytes, int, int]]:
    """Packets in an endless row: their bytes, where they begin, and how many samples they give there.

    The first and the last of a file are special (an encoder's delay, the padding): they do not come again.
    """
    row = []
    for packet in list(source.demux(audio=0))[2:-3]:  # the very last has no bytes
        assert packet.duration is not None
        assert packet.time_base is not None
        row.append((bytes(packet), round(packet.duration * packet.time_base * rate_hz)))
    at = 0
    while True:
        for data, samples in row:
            yield data, at, samples
            at += samples
