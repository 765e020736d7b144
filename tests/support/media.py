"""Media files for tests, made on the spot with PyAV."""

import io
import wave
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

import memsafe_transcribe as mt

SAMPLE_RATE_HZ = 16_000
SPEECH = Path(mt.__file__).with_name("_demo") / "alice.mp3"


def tone_samples(seconds: float, hertz: int = 400) -> bytes:
    """A square wave, loud enough not to be silence: 16 kHz mono signed 16-bit."""
    half = SAMPLE_RATE_HZ // hertz // 2
    period = (b"\x00\x20" * half) + (b"\x00\xe0" * half)
    size = int(seconds * SAMPLE_RATE_HZ) * 2
    return (period * (size // len(period) + 1))[:size]


def write_wav(path: Path, samples: bytes) -> Path:
    """A WAV file of 16 kHz mono 16-bit samples."""
    path.write_bytes(_wav_in_memory(samples).getvalue())
    return path


def write_encoded(path: Path, codec: str, seconds: float, title: str = "") -> Path:
    """A stereo tone at 48 kHz, encoded with `codec` into the container that the file's name says."""
    return encode(path, codec, tone_samples(seconds), title=title)


def encode(
    path: Path,
    codec: str,
    samples: bytes,
    *,
    rate: int = 48_000,
    layout: str = "stereo",
    format: str | None = None,  # noqa: A002 - the word of PyAV and of FFmpeg
    options: dict[str, str] | None = None,
    bit_rate: int | None = None,
    title: str = "",
) -> Path:
    """16 kHz mono samples, encoded with `codec` into the container that `format`, or else the file's name, says."""
    tags = {"title": title} if title else {}
    with av.open(str(path), "w", format=format, options=options or {}) as target:
        target.metadata.update(tags)
        stream = target.add_stream(codec, rate=rate, layout=layout, options={"strict": "experimental"})
        assert isinstance(stream, av.AudioStream)
        if bit_rate:
            stream.bit_rate = bit_rate
        target.start_encoding()  # so that there is a header even where there is no sound
        for packet in encoded_packets(stream, samples):
            target.mux(packet)
    return path


def encoded_packets(stream: av.AudioStream, samples: bytes, start_seconds: float = 0.0) -> list[Any]:
    """16 kHz mono samples as the packets of an output stream, whose clock says `start_seconds` at the first."""
    context = stream.codec_context
    if not context.is_open:
        context.open()
    resampler = av.AudioResampler(context.format, context.layout, context.sample_rate, context.frame_size or None)
    packets = []
    with av.open(_wav_in_memory(samples), "r") as sound:
        clock = int(start_seconds * context.sample_rate)
        for frame in (*sound.decode(audio=0), None):
            for resampled in resampler.resample(frame):
                resampled.pts, resampled.time_base = clock, Fraction(1, context.sample_rate)
                clock += resampled.samples
                packets += stream.encode(resampled)
    return [*packets, *stream.encode(None)]


def _wav_in_memory(samples: bytes) -> io.BytesIO:
    file = io.BytesIO()
    with wave.open(file, "wb") as target:
        target.setparams((1, 2, SAMPLE_RATE_HZ, 0, "NONE", ""))
        target.writeframes(samples)
    file.seek(0)
    return file


def write_long_mp3(path: Path, seconds: float) -> Path:
    """Stereo MP3 at 44.1 kHz and a constant 128 kbit/s: the demo's speech over and over, cut to length.

    MP3 frames stand for themselves, so the speech is encoded once and repeated: four hours take a second to make.
    """
    speech = _stereo_speech()
    left = int(seconds * 128_000 / 8)
    with path.open("wb") as file:
        while left > 0:
            left -= file.write(speech[:left])
    return path


def _stereo_speech() -> bytes:
    """The demo's speech as bare MP3 frames, without a header that would tell a length."""
    encoded = io.BytesIO()
    options = {"write_xing": "0", "id3v2_version": "0"}
    with av.open(encoded, "w", format="mp3", options=options) as target, av.open(str(SPEECH), "r") as speech:
        stream = target.add_stream("mp3", rate=44_100, layout="stereo")
        stream.bit_rate = 128_000
        resampler = av.AudioResampler(format="s16p", layout="stereo", rate=44_100, frame_size=1152)
        for frame in speech.decode(audio=0):
            for resampled in resampler.resample(frame):
                target.mux(stream.encode(resampled))
        target.mux(stream.encode(None))
    return encoded.getvalue()
