"""The decoding process: any audio file in, 16 kHz mono signed 16-bit samples out. Run by `decoder.py`, never imported.

Frames out: I (JSON: what the file says of itself), P (samples), then D (JSON: what was damaged) or E (JSON: why not).
"""

import io
import os
import sys
import wave
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from memsafe_transcribe._worker import inside

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

SAMPLE_RATE_HZ = 16_000
_SAMPLE_BYTES = 2
_SEND_BYTES = 1 << 15
_MAX_GAPS = 1_000

# Containers that hold audio and nothing but audio data of their own. Playlists (hls, dash, concat, sdp ...), images and
# devices are not among them; FFmpeg compares these names with what it recognized from the content.
_FORMATS = "aac,ac3,aiff,amr,ape,asf,au,avi,caf,eac3,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,tta,voc,w64,wav,webm,wv"
# Containers whose header knows the length; for bare streams it is a guess from the bit rate, but see MP3 below.
_KNOWS_ITS_LENGTH = frozenset({"asf", "caf", "flac", "matroska", "mov", "ogg", "w64", "wav"})
_MISSING_SECONDS = 1.0  # an end that is missing by less may be an encoder's padding
_OPTIONS = {"format_whitelist": _FORMATS, "protocol_whitelist": "none", "enable_drefs": "0"}


class _RefusalError(Exception):
    """What ends the decoding with a clear word to the parent."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class _File(io.RawIOBase):
    """A descriptor read at a position of our own: several workers may share one open file."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        data = os.pread(self._fd, size, self._at)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at}.get(whence, os.fstat(self._fd).st_size)
        return self._at

    def tell(self) -> int:
        return self._at

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


class _Samples:
    """Turns decoded frames into 16 kHz mono, sends them in batches, and counts them: the clock of everything."""

    def __init__(self, max_samples: int) -> None:
        self.count = 0
        self._max_samples = max_samples
        self._pending = bytearray()
        self._resampler: _Resampler | None = None
        self._shape: tuple[str, str, int] | None = None

    def add(self, frame: "av.AudioFrame") -> None:
        shape = (frame.format.name, frame.layout.name, frame.sample_rate)
        if shape != self._shape:  # chained and concatenated files change their rate on the way
            self._flush_resampler()
            self._resampler, self._shape = _Resampler(frame), shape
        assert self._resampler is not None
        frame.pts = None  # the filters would complain of jumps; the clock is the count of samples
        self._take(self._resampler.push(frame))

    def finish(self) -> None:
        self._flush_resampler()
        self._send()

    def _flush_resampler(self) -> None:
        if self._resampler is not None:
            self._take(self._resampler.push(None))

    def _take(self, frames: "Iterator[av.AudioFrame]") -> None:
        for frame in frames:
            self._pending += memoryview(frame.planes[0])[: frame.samples * _SAMPLE_BYTES]
            self.count += frame.samples
            if self.count > self._max_samples:
                raise _RefusalError(
                    "limit", f"more than {self._max_samples / SAMPLE_RATE_HZ:g} s of audio came out of it"
                )
            if len(self._pending) >= _SEND_BYTES:
                self._send()

    def _send(self) -> None:
        if self._pending:
            inside.send(b"P", self._pending)
            self._pending.clear()


class _Resampler:
    """Frames of one shape -> 16 kHz mono signed 16-bit.

    A filter graph of our own, because `av.AudioResampler` starts a thread per core, each with a stack of 8 MiB that
    counts against RLIMIT_DATA: on a large host none could be made.
    """

    def __init__(self, first: "av.AudioFrame") -> None:
        from av.filter import Graph

        self._graph = Graph()
        self._graph.threads = 1
        source = self._graph.add_abuffer(
            sample_rate=first.sample_rate,
            format=first.format.name,
            layout=first.layout.name,
            time_base=Fraction(1, first.sample_rate),
        )
        target = f"sample_fmts=s16:channel_layouts=mono:sample_rates={SAMPLE_RATE_HZ}"
        self._graph.link_nodes(source, self._graph.add("aformat", target), self._graph.add("abuffersink")).configure()

    def push(self, frame: "av.AudioFrame | None") -> "Iterator[av.AudioFrame]":
        """Take in one frame, or None for the end; yield what is ready."""
        import av

        self._graph.push(frame)
        while True:
            try:
                ready = self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return
            assert isinstance(ready, av.AudioFrame)
            yield ready


def _open(fd: int) -> "InputContainer":
    import av

    try:
        # Before version 19, PyAV fails over tags that are no UTF-8 unless it is told otherwise; now it cannot be told.
        tags: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
        container: InputContainer = av.open(_File(fd), "r", container_options=_OPTIONS, **tags)
        return container
    except MemoryError:
        raise
    except av.FFmpegError as error:
        raise _RefusalError("unsupported", f"FFmpeg finds no audio container in it ({error.strerror})") from None


def _decode(fd: int, samples: _Samples) -> list[dict[str, Any]]:
    """Send everything that can be heard; return what could not be, as {start_samples, end_samples, reason}."""
    import av

    with _open(fd) as container:
        if not container.streams.audio:
            raise _RefusalError("unsupported", f"it is a {container.format.long_name} file without an audio stream")
        stream = container.streams.audio[0]
        inside.send_json(
            b"I",
            {
                "format": container.format.name,
                "codec": stream.codec_context.name if stream.codec_context else "unknown",
                "duration_seconds": container.duration / 1_000_000 if container.duration else None,
            },
        )
        gaps: list[dict[str, Any]] = []
        for frame in _frames(container, stream, samples, gaps):
            try:
                samples.add(frame)
            except av.FFmpegError as error:
                raise _RefusalError("unsupported", f"its samples cannot be converted ({error.strerror})") from None
        samples.finish()
        return [*gaps, *_missing_end(container, samples, fd)]


def _mp3_tells_its_length(fd: int) -> bool:
    """Whether an MP3's first frame, behind the ID3v2 tag, is a Xing, Info or VBRI header with the number of frames."""
    tag = os.pread(fd, 10, 0)
    sizes = tag[6:] if tag.startswith(b"ID3") else b""
    start = sum(size << shift for size, shift in zip(sizes, (21, 14, 7, 0), strict=False)) + (10 if sizes else 0)
    first = os.pread(fd, 64, start)
    return first.startswith(b"\xff") and any(name in first for name in (b"Xing", b"Info", b"VBRI"))


def _missing_end(container: "InputContainer", samples: _Samples, fd: int) -> "Iterator[dict[str, Any]]":
    """A file that ends before its header says so was cut off, or broken beyond what the demuxer can find again."""
    known = _KNOWS_ITS_LENGTH.intersection(container.format.name.split(",")) or _mp3_tells_its_length(fd)
    stream = container.streams.audio[0]
    seconds = 0.0
    if stream.duration and stream.time_base:
        seconds = float(stream.duration * stream.time_base)
    elif container.duration and len(container.streams) == 1:  # that of the picture may be longer
        seconds = container.duration / 1_000_000
    if known:
        expected = int(seconds * SAMPLE_RATE_HZ)
        if expected - samples.count > _MISSING_SECONDS * SAMPLE_RATE_HZ:
            reason = "the file ends before its header says so"
            yield {"start_samples": samples.count, "end_samples": expected, "reason": reason}


def _frames(
    container: "InputContainer", stream: "av.AudioStream", samples: _Samples, gaps: list[dict[str, Any]]
) -> "Iterator[av.AudioFrame]":
    """Decoded frames. Errors are caught packet by packet, so that a damaged one loses itself and not the rest."""
    import av

    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            yield from packet.decode()
        except MemoryError:
            raise
        except av.FFmpegError as error:
            if len(gaps) < _MAX_GAPS:
                reason = f"damaged data ({error.strerror})"
                gaps.append({"start_samples": samples.count, "end_samples": samples.count, "reason": reason})


def _warm_up() -> None:
    """Decode a moment of silence, so that everything PyAV imports on first use is there before files are forbidden."""
    import av

    silence = io.BytesIO()
    with wave.open(silence, "wb") as file:
        file.setparams((1, _SAMPLE_BYTES, SAMPLE_RATE_HZ, 0, "NONE", ""))
        file.writeframes(bytes(SAMPLE_RATE_HZ))
    silence.seek(0)
    with av.open(silence, "r") as container:
        for frame in container.decode(audio=0):
            for _ in _Resampler(frame).push(frame):
                return


def main() -> None:
    lifeline, fd, data_limit_bytes, max_samples = map(int, sys.argv[1:])
    inside.die_with_parent(lifeline)
    samples = _Samples(max_samples)
    try:
        import av

        av.logging.set_level(None)
        _warm_up()
        inside.limit_resources(data_limit_bytes)
        gaps = _decode(fd, samples)
        if samples.count == 0:
            raise _RefusalError("unsupported", "no sample of it could be decoded" if gaps else "it holds no samples")
        inside.send_json(b"D", {"samples": samples.count, "gaps": gaps})
    except _RefusalError as refusal:
        inside.send_json(b"E", {"kind": refusal.kind, "message": str(refusal)})
    except MemoryError:
        inside.send_json(b"E", {"kind": "memory", "message": f"needs more than data_limit_bytes={data_limit_bytes}"})
