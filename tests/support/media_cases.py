"""Good and bad media files for tests: whole shapes that FFmpeg's encoders do not make, and damage of every kind.

The sound is `beeps`: each second has a tone of its own, so that what is heard tells which second it was.
"""

import io
import math
import struct
import wave
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import av

import memsafe_transcribe as mt

from .media import SAMPLE_RATE_HZ, encode, encoded_packets

_BEEPS = 12  # so many seconds differ from each other
_WINDOW = SAMPLE_RATE_HZ // 100
_LOUD = 1000


def _hertz(number: int) -> int:
    return 400 + 150 * number


def _beep(number: int) -> "array[int]":
    step = 2 * math.pi * _hertz(number) / SAMPLE_RATE_HZ
    tone = [round(16_000 * math.sin(step * at)) for at in range(SAMPLE_RATE_HZ // 2)]
    return array("h", tone + [0] * (SAMPLE_RATE_HZ // 2))


_SECONDS = [_beep(number) for number in range(_BEEPS)]


def beeps(seconds: float) -> bytes:
    """In each second a tone for the first half, then silence: 16 kHz mono signed 16-bit."""
    sound = array("h")
    for second in range(math.ceil(seconds)):
        sound += _SECONDS[second % _BEEPS]
    return sound.tobytes()[: int(seconds * SAMPLE_RATE_HZ) * 2]


class Beep(NamedTuple):
    """A tone that was heard: where, and which (the second, modulo 12, that it came from; -1 for none of them)."""

    start_seconds: float
    number: int


def beeps_in(samples: bytes) -> list[Beep]:
    """The tones of at least 0.3 s in 16 kHz mono samples."""
    sound = array("h", samples)
    loud = [
        max(max(window), -min(window)) > _LOUD
        for window in (sound[at : at + _WINDOW] for at in range(0, len(sound), _WINDOW))
    ]
    found, start = [], None
    for at, is_loud in enumerate([*loud, False]):
        if is_loud and start is None:
            start = at
        elif not is_loud and start is not None:
            if at - start >= 30:
                found.append(Beep(start / 100, _number(sound[(start + 5) * _WINDOW : (start + 25) * _WINDOW])))
            start = None
    return found


def _number(tone: "array[int]") -> int:
    crossings = sum((one < 0) != (other < 0) for one, other in pairwise(tone))
    number = round((crossings / 2 / (len(tone) / SAMPLE_RATE_HZ) - 400) / 150)
    return number if 0 <= number < _BEEPS else -1


class Listener:
    """An engine that keeps what it is given."""

    def __init__(self, max_chunk_seconds: float = 60.0) -> None:
        self.capabilities = mt.Capabilities(max_chunk_seconds=max_chunk_seconds, formats=("wav",))
        self.chunks: list[mt.AudioChunk] = []
        self._sound = bytearray()

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        self.chunks.append(chunk)
        start = round(chunk.start_seconds * SAMPLE_RATE_HZ) * 2
        self._sound += bytes(max(0, start - len(self._sound)))
        with wave.open(io.BytesIO(chunk.data)) as file:
            assert file.getparams()[:3] == (1, 2, SAMPLE_RATE_HZ)
            samples = file.readframes(file.getnframes())
        self._sound[start : start + len(samples)] = samples
        return mt.ChunkResult(text=f"chunk {chunk.index}")

    @property
    def samples(self) -> bytes:
        """All chunks, each in its place; silence where no chunk was."""
        return bytes(self._sound)


@dataclass(frozen=True)
class Heard:
    """What became of one file."""

    transcript: mt.Transcript
    chunks: list[mt.AudioChunk]
    samples: bytes

    @property
    def seconds(self) -> float:
        return self.transcript.duration_seconds

    @property
    def beeps(self) -> list[Beep]:
        return beeps_in(self.samples)

    def assert_in_place(self, numbers: Iterable[int], tolerance_seconds: float = 0.1) -> None:
        """These beeps, and perhaps others, were heard, and every one at the second that it came from."""
        beeps = self.beeps
        assert set(numbers) <= {beep.number for beep in beeps}
        for start_seconds, number in beeps:
            assert number < 0 or abs(start_seconds - number) <= tolerance_seconds, beeps


async def hear(path: Path, listener: Listener | None = None, **options: Any) -> Heard:
    """Transcribe a file by an engine that listens; what was reserved for it must be free again."""
    engine = listener or Listener()
    admission = mt.AdmissionController(scope="process")
    try:
        transcript = await mt.ChunkedTranscriber(engine, admission=admission, **options).transcribe(path)
    finally:
        assert (admission.statistics().active, admission.statistics().reserved_bytes) == (0, 0)
    return Heard(transcript, engine.chunks, engine.samples)


def pcm(
    samples: bytes,
    *,
    rate: int = SAMPLE_RATE_HZ,
    channels: int = 1,
    bits: int = 16,
    tag: int = 1,
    data_size: int | None = None,
) -> bytes:
    """A WAV file by hand, whose header may lie.

    Args:
        samples: as they are to stand in the file.
        rate: what the header says.
        channels: what the header says.
        bits: of one sample.
        tag: 1 for integers, 3 for floats.
        data_size: what the header says in place of the truth.
    """
    size = len(samples) if data_size is None else data_size
    align = channels * bits // 8
    fmt = struct.pack("<HHIIHH", tag, channels, rate, min(rate * align, 0xFFFF_FFFF), align & 0xFFFF, bits)
    head = b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt + b"data" + struct.pack("<I", size)
    return b"RIFF" + struct.pack("<I", min(size + len(head), 0xFFFF_FFFF)) + head + samples


def spread(samples: bytes, signs: tuple[int, ...]) -> bytes:
    """One channel to several, interleaved: each a copy, silent (0) or upside down (-1)."""
    one = array("h", samples)
    out = array("h", bytes(len(samples) * len(signs)))
    for channel, sign in enumerate(signs):
        out[channel :: len(signs)] = array("h", [sign * value for value in one])
    return out.tobytes()


def flac_silence(seconds: float, *, rate: int = 8_000, claims_samples: int | None = None) -> bytes:
    """Mono silence in FLAC, 14 bytes for 65 535 samples: more than 9 000 : 1.

    Args:
        seconds: of silence.
        rate: of the clock.
        claims_samples: what the header says of the length, of which 0 is "unknown"; by default the truth.
    """
    block = 0xFFFF
    count = math.ceil(seconds * rate / block)
    total = count * block if claims_samples is None else claims_samples
    info = struct.pack(">HH", block, block) + bytes(6) + (rate << 44 | 15 << 36 | total).to_bytes(8, "big") + bytes(16)
    frames = bytearray()
    for number in range(count):
        head = b"\xff\xf8\x70\x08" + chr(number).encode("utf-8", "surrogatepass") + struct.pack(">H", block - 1)
        body = head + bytes([_crc(head, 8, 0x07)]) + b"\x00\x00\x00"
        frames += body + _crc(body, 16, 0x8005).to_bytes(2, "big")
    return b"fLaC" + b"\x80" + len(info).to_bytes(3, "big") + info + frames


def flac_that_claims(path: Path, samples: int) -> Path:
    """Five seconds of sound whose header says another length: in the 36 last bits of 8 bytes."""
    data = bytearray(encode(path, "flac", beeps(5), rate=8_000).read_bytes())
    data[18:26] = (int.from_bytes(data[18:26], "big") >> 36 << 36 | samples).to_bytes(8, "big")
    path.write_bytes(data)
    return path


def m4a_that_claims(path: Path, seconds_a_second: int) -> Path:
    """Five seconds of sound whose header slows down its clock: in `mdhd`, by which all its times are read."""
    data = bytearray(encode(path, "aac", beeps(5)).read_bytes())
    at = data.index(b"mdhd") + 16
    assert int.from_bytes(data[at : at + 4], "big") == 48_000
    data[at : at + 4] = (48_000 // seconds_a_second).to_bytes(4, "big")
    path.write_bytes(data)
    return path


def vorbis_that_claims(path: Path, samples: bytes, rate: int) -> bytes:
    """Sound in Ogg whose header says another rate, with the checksum that belongs to it."""
    data = bytearray(encode(path, "vorbis", samples).read_bytes())
    at = data.index(b"\x01vorbis") + 12
    data[at : at + 4] = struct.pack("<I", rate)
    end = data.index(b"OggS", 1)
    data[22:26] = bytes(4)
    data[22:26] = struct.pack("<I", _crc(bytes(data[:end]), 32, 0x04C1_1DB7))
    return bytes(data)


def _crc(data: bytes, bits: int, polynomial: int) -> int:
    value, top = 0, 1 << bits - 1
    for byte in data:
        value ^= byte << bits - 8
        for _ in range(8):
            value = (value << 1 ^ (polynomial if value & top else 0)) & (1 << bits) - 1
    return value


def write_film(
    path: Path,
    *sounds: bytes,
    sound: str = "aac",
    picture: str = "mpeg4",
    size: tuple[int, int] = (64, 64),
    start_seconds: float = 0.0,
    default: int | None = None,
    broken_picture: bool = False,
) -> Path:
    """Three seconds of black picture at 10 frames/s, and as many streams of sound as are given.

    Args:
        path: its ending says the container.
        sounds: 16 kHz mono samples.
        sound: the codec.
        picture: the codec.
        size: width and height.
        start_seconds: when the sound begins.
        default: which of the sounds is marked as the default.
        broken_picture: from the second frame on, nonsense stands where the picture was.
    """
    with av.open(str(path), "w") as target:
        film = target.add_stream(picture, rate=10, options={"preset": "ultrafast"} if picture == "libx264" else {})
        assert isinstance(film, av.VideoStream)
        film.width, film.height = size
        tracks = []
        for number in range(len(sounds)):
            track = target.add_stream(sound, rate=48_000, layout="stereo")
            assert isinstance(track, av.AudioStream)
            tracks.append(track)
            if default is not None:
                track.disposition = av.stream.Disposition.default if number == default else av.stream.Disposition(0)
        frame = av.VideoFrame(*size, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        packets = []
        for number in range(30):
            frame.pts = number
            packets += film.encode(frame)
        packets += film.encode(None)
        if broken_picture:
            for packet in packets[1:]:
                packet.update(b"\xff" * packet.size)
        target.mux(packets)
        for track, samples in zip(tracks, sounds, strict=True):
            target.mux(encoded_packets(track, samples, start_seconds))
    return path


def picture(codec: str) -> bytes:
    """An image file: `png`, `mjpeg` (a JPEG) or `gif`."""
    file = io.BytesIO()
    with av.open(file, "w", format="gif" if codec == "gif" else "image2pipe") as target:
        stream = target.add_stream(codec, rate=1)
        assert isinstance(stream, av.VideoStream)
        stream.width = stream.height = 64
        stream.pix_fmt = {"png": "rgb24", "mjpeg": "yuvj420p", "gif": "rgb8"}[codec]
        target.mux(stream.encode(av.VideoFrame(64, 64, stream.pix_fmt)))
        target.mux(stream.encode(None))
    return file.getvalue()


def write_covered(path: Path, codec: str, samples: bytes) -> Path:
    """Sound with a JPEG as its cover art."""
    with av.open(str(path), "w", format="mp4" if path.suffix == ".m4a" else None) as target:
        track = target.add_stream(codec, rate=44_100, layout="stereo")
        assert isinstance(track, av.AudioStream)
        cover = target.add_stream("mjpeg", rate=1)
        assert isinstance(cover, av.VideoStream)
        cover.width = cover.height = 64
        cover.pix_fmt = "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        packets = cover.encode(av.VideoFrame(64, 64, "yuvj420p")) + cover.encode(None)
        target.mux(packets)
        target.mux(encoded_packets(track, samples))
    return path
