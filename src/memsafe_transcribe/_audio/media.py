"""In the decoding process: a media file -> its decoded frames, with what is damaged or missing.

Errors are caught packet by packet, so that a damaged one loses itself and not the rest. Where the container's
timestamps can be trusted, what was lost is filled with silence, so that later times are right.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import av
from av.container import InputContainer

from . import claims
from .samples import SAMPLE_RATE_HZ, Samples, ShapeError

# Containers that hold audio and nothing but audio data of their own. Playlists (hls, dash, concat, sdp ...), images and
# devices are not among them; FFmpeg compares these names with what it recognized from the content.
_FORMATS = "aac,ac3,aiff,amr,ape,asf,au,avi,caf,eac3,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,tta,voc,w64,wav,webm,wv"
# Audio alone: neither pictures nor subtitles are ever decoded, not even to look what they are.
_CODECS = (
    "aac,aac_fixed,aac_latm,ac3,ac3_fixed,alac,amrnb,amrwb,ape,dca,eac3,flac,g722,gsm,gsm_ms,mp1,mp1float,mp2,"
    "mp2float,mp3,mp3float,mp3adu,mp3adufloat,nellymoser,opus,libopus,speex,libspeex,truehd,tta,vorbis,libvorbis,"
    "wavpack,wmalossless,wmapro,wmav1,wmav2,wmavoice,adpcm_ima_qt,adpcm_ima_wav,adpcm_ms,adpcm_swf,adpcm_yamaha,"
    "pcm_alaw,pcm_bluray,pcm_f16le,pcm_f24le,pcm_f32be,pcm_f32le,pcm_f64be,pcm_f64le,pcm_mulaw,pcm_s16be,"
    "pcm_s16be_planar,pcm_s16le,pcm_s16le_planar,pcm_s24be,pcm_s24le,pcm_s24le_planar,pcm_s32be,pcm_s32le,"
    "pcm_s32le_planar,pcm_s64be,pcm_s64le,pcm_s8,pcm_s8_planar,pcm_u16be,pcm_u16le,pcm_u24be,pcm_u24le,pcm_u32be,"
    "pcm_u32le,pcm_u8"
)
_OPTIONS = {
    "format_whitelist": _FORMATS,
    "protocol_whitelist": "none",
    "codec_whitelist": _CODECS,
    "enable_drefs": "0",
    "advanced_editlist": "0",  # with it, the index of an MP4 takes twice the memory
}
# Containers whose header knows the length; for bare streams it is a guess from the bit rate, but see MP3 in `claims`.
_KNOW_THEIR_LENGTH = frozenset({"asf", "caf", "flac", "matroska", "mov", "ogg", "w64", "wav"})
# Containers whose timestamps say when a packet is to be heard, whatever came before it.
_TELL_TIMES = frozenset({"asf", "avi", "caf", "flac", "flv", "matroska", "mov", "mpegts", "ogg"})
_BEGIN_AT_ZERO = frozenset({"matroska", "mov"})
_MISSING_SECONDS = 1.0  # an end that is missing by less may be an encoder's padding
_JUMP_SECONDS = 0.03  # timestamps may be as coarse as that; the shortest frame that can be lost is not much longer
_MAX_GAPS = 1_000
_TAGS = (b"ID3", b"TAG")  # between MP3s that were put together


class RefusalError(Exception):
    """What ends the decoding with a clear word to the parent. `kind` is "unsupported" or "limit"."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(slots=True)
class Damage:
    """A gap, in samples at 16 kHz. Where nobody can tell how much is missing, the end is the start."""

    start_samples: int
    end_samples: int
    reason: str


class Media:
    """One file that has been recognized.

    Args:
        file: to read from.
        fd: the same as a regular file, for what FFmpeg does not tell; None for a pipe.
        max_samples: at 16 kHz; a header that claims more is refused at once.

    Raises:
        RefusalError: it holds no audio, or none that is let in.
    """

    def __init__(self, file: io.RawIOBase, fd: int | None, max_samples: int) -> None:
        self.gaps: list[Damage] = []
        self._fd = fd
        self._max_samples = max_samples
        self._container = _open(file)
        audio = self._container.streams.best("audio")
        if audio is None:
            raise RefusalError(
                "unsupported", f"it is a {self._container.format.long_name} file without an audio stream"
            )
        assert isinstance(audio, av.AudioStream)
        self._stream = audio
        codec = audio.codec_context
        self.codec = codec.name if codec is not None else "unknown"
        if codec is None or self.codec not in _CODECS.split(","):
            raise RefusalError("unsupported", f"its sound is coded as {self.codec}, which is not let in")
        codec.thread_count = 1  # a thread could not be started
        if self.codec == "flac":  # its frames carry checksums: silent damage elsewhere, none here
            codec.options = {"err_detect": "crccheck+explode"}
        self._claimed_samples = self._claim()
        if self._claimed_samples is not None and self._claimed_samples > max_samples:
            seconds = self._claimed_samples / SAMPLE_RATE_HZ
            raise RefusalError("limit", f"its header says that it is {seconds:.0f} s long")

    @property
    def info(self) -> dict[str, Any]:
        """What it says of itself."""
        seconds = self._container.duration / av.time_base if self._container.duration else None
        return {"format": self._container.format.name, "codec": self.codec, "duration_seconds": seconds}

    def _claim(self) -> int | None:
        """How many samples at 16 kHz its header says there are; None where it does not know, but guesses."""
        is_known = _formats_of(self._container) & _KNOW_THEIR_LENGTH or (
            self._fd is not None and claims.mp3_tells_its_length(self._fd)
        )
        if not is_known:
            return None
        stream, seconds = self._stream, 0.0
        if stream.duration and stream.time_base:
            seconds = float(stream.duration * stream.time_base)
        elif self._container.duration and len(self._container.streams) == 1:  # that of the picture may be longer
            seconds = self._container.duration / av.time_base
        return int(seconds * SAMPLE_RATE_HZ) or None

    def decode(self, samples: Samples) -> None:
        """Put everything that can be heard into `samples`; `gaps` is what could not be."""
        with self._container:
            clock = _Timestamps(self._container, self._stream, samples, self.report)
            for frame in self._frames(samples):
                try:
                    clock.fill_before(frame)
                    samples.add(frame)
                except ShapeError as error:
                    raise RefusalError("limit", f"no recording has {error}") from None
                except av.FFmpegError as error:
                    raise RefusalError("unsupported", f"its samples cannot be converted ({error.strerror})") from None
                if samples.count > self._max_samples:
                    raise RefusalError(
                        "limit", f"more than {self._max_samples / SAMPLE_RATE_HZ:g} s of audio came out of it"
                    )
            samples.finish()
            self._look_at_the_end(samples.count)

    def _frames(self, samples: Samples) -> Iterator[av.AudioFrame]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                if self.codec.startswith("mp3") and bytes(memoryview(packet)[:3]) in _TAGS:
                    continue  # no frame begins like that
                yield from packet.decode()
            except MemoryError:
                raise
            except av.FFmpegError as error:
                self.report(samples.count, samples.count, f"damaged data ({error.strerror})")

    def report(self, start_samples: int, end_samples: int, reason: str) -> None:
        """Note what is missing; damage at one place is one gap."""
        if self.gaps and self.gaps[-1].end_samples == start_samples:
            self.gaps[-1].end_samples = end_samples
        elif len(self.gaps) < _MAX_GAPS:
            self.gaps.append(Damage(start_samples, end_samples, reason))

    def _look_at_the_end(self, count: int) -> None:
        """A file that ends before its header says so was cut off, or broken beyond what the demuxer can find again."""
        claimed = self._claimed_samples or 0
        if claimed - count > _MISSING_SECONDS * SAMPLE_RATE_HZ:
            self.report(count, claimed, "the file ends before its header says so")
        elif self._fd is not None and (claims.missing_bytes(self._fd) or claims.ogg_is_cut_off(self._fd)):
            self.report(count, count, "the file was cut off: its end is missing")


class _Timestamps:
    """Finds by the frames' timestamps what is missing between them, and fills it with silence."""

    def __init__(
        self,
        container: InputContainer,
        stream: av.AudioStream,
        samples: Samples,
        report: Callable[[int, int, str], None],
    ) -> None:
        formats = _formats_of(container)
        self._report = report
        self._samples = samples
        self._are_trusted = bool(formats & _TELL_TIMES) and stream.time_base is not None
        self._most_samples = int((container.duration or 0) / av.time_base * SAMPLE_RATE_HZ) + SAMPLE_RATE_HZ
        self._zero_seconds = 0.0 if formats & _BEGIN_AT_ZERO else (container.start_time or 0) / av.time_base
        self._offset: int | None = None  # of the timestamps from the count, as the first frame has it

    def fill_before(self, frame: av.AudioFrame) -> None:
        """Put in the silence that belongs before this frame."""
        if not self._are_trusted or frame.pts is None or frame.time_base is None:
            return
        at = int((float(frame.pts * frame.time_base) - self._zero_seconds) * SAMPLE_RATE_HZ)
        count = self._samples.count
        is_first, self._offset = self._offset is None, self._offset or 0
        if is_first and at <= _JUMP_SECONDS * SAMPLE_RATE_HZ:
            self._offset = at - count
        missing = at - self._offset - count
        if missing < -_JUMP_SECONDS * SAMPLE_RATE_HZ or count + missing > self._most_samples:
            self._are_trusted = False  # they run backwards, or beyond the end: another stream begins (chained Ogg)
        elif missing > _JUMP_SECONDS * SAMPLE_RATE_HZ:
            if not is_first:  # sound that begins later than the picture is no gap
                self._report(count, count + missing, "audio is missing, say the timestamps")
            self._samples.add_silence(missing)


def _formats_of(container: InputContainer) -> frozenset[str]:
    """FFmpeg's names of the container, of which some formats have several."""
    return frozenset(container.format.name.split(","))


def _open(file: io.RawIOBase) -> InputContainer:
    try:
        # Before version 19, PyAV fails over tags that are no UTF-8 unless it is told otherwise; now it cannot be told.
        tags: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
        container: InputContainer = av.open(file, "r", container_options=_OPTIONS, **tags)
        return container
    except MemoryError:
        raise
    except av.FFmpegError as error:
        what = f"FFmpeg finds no audio container in it ({error.strerror})"
        if file.seekable() and file.seek(0) == 0 and file.read(8)[4:] == b"ftyp":
            what = "it is an MP4 whose index (moov) is missing or broken: it was cut off, or never finished"
        raise RefusalError("unsupported", what) from None
