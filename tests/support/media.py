"""Media files for tests, made on the spot with PyAV."""

import io
import wave
from pathlib import Path

import av

SAMPLE_RATE_HZ = 16_000
SPEECH = Path(__file__).parents[2] / "src" / "memsafe_transcribe" / "_demo" / "alice.mp3"


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
    rate, layout = 48_000, "stereo"
    with av.open(str(path), "w") as target, av.open(_wav_in_memory(tone_samples(seconds)), "r") as tone:
        target.metadata["title"] = title
        stream = target.add_stream(codec, rate=rate, layout=layout)
        assert isinstance(stream, av.AudioStream)
        codec_context = stream.codec_context
        codec_context.open()
        resampler = av.AudioResampler(codec_context.format, layout, rate, codec_context.frame_size or None)
        for frame in (*tone.decode(audio=0), None):
            for resampled in resampler.resample(frame):
                target.mux(stream.encode(resampled))
        target.mux(stream.encode(None))
    return path


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
