"""In the decoding process: a media file -> its decoded frames, with what is damaged or missing.

Errors are caught packet by packet, so that a damaged one loses itself and not the rest. Where the container's
timestamps can be trusted, what was lost is filled with silence, so that later times are right.
"""

import os
from collections.abc import Iterator
from typing import Any

import av
from av.container import InputContainer

from . import claims, files
from .codec import ALLOWED, Codec
from .damage import Gaps
from .isobmff import flat_track, fragments_begin
from .samples import Samples, ShapeError, check_shape
from .timestamps import Timestamps, formats_of
from .words import SAMPLE_RATE_HZ

# Containers that hold audio and nothing but audio data of their own. Playlists (hls, dash, concat, sdp ...), images and
# devices are not among them; FFmpeg compares these names with what it recognized from the content.
_FORMATS = "aac,ac3,aiff,amr,ape,asf,au,avi,caf,eac3,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,tta,voc,w64,wav,webm,wv"
_OPTIONS = {
    "format_whitelist": _FORMATS,
    "protocol_whitelist": "none",
    "codec_whitelist": ALLOWED,
    "enable_drefs": "0",
    "advanced_editlist": "0",  # with it, the index of an MP4 takes twice the memory
    "indexmem": "4096",  # what it notes for seeking, which is never done, would take a MiB
}
# Containers whose header knows the length; for bare streams it is a guess from the bit rate, but see MP3 in `claims`.
_KNOW_THEIR_LENGTH = frozenset({"asf", "caf", "flac", "matroska", "mov", "ogg", "w64", "wav", "wv"})
_MISSING_SECONDS = 1.0  # an end that is missing by less may be an encoder's padding
_MOST_ERRORS_IN_A_ROW = 50  # a demuxer may find its way again, or raise the same error for ever
_MOST_OUTGROWN = 500  # packets that want more memory than there is; each may take as long as a second of good sound
_MOST_REFUSED_FRAMES = 20  # at the beginning
_MOST_RESTARTS, _MOST_VAIN_RESTARTS = 2_000, 100  # in all, and one after another without any sound


class RefusalError(Exception):
    """What ends the decoding with a clear word to the parent. `kind` is "unsupported", "limit" or "shape"."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Media:
    """One file that has been recognized.

    Args:
        file: to read from.
        fd: the same as a regular file, for what FFmpeg does not tell; None for a pipe.
        max_samples: at 16 kHz; a header that claims more is refused at once.

    Raises:
        RefusalError: it holds no audio, or none that is let in.
    """

    def __init__(self, file: files.Readable, fd: int | None, max_samples: int) -> None:
        self.gaps = Gaps()
        self._fd = fd
        self._max_samples = max_samples
        self._last_at = 0  # where in the file the last packet stands
        self._gave_up = False  # the demuxer, before the end of the file
        self._is_heard = False
        self._refusal: Exception | None = None
        self._refused_frames = self._outgrown = self._restarts = self._vain_restarts = 0
        self._check_shape()
        self._track = None if fd is None else flat_track(fd)  # once it is there, the file is not opened whole any more
        self._first_pts: int | None = None
        if fd is not None and os.pread(fd, 4, 0) == b"OggS":
            file = files.ogg_link(fd)
        self._begin(file if self._track is None else files.InMemory(self._track.head()))
        self._claimed_samples = self._claim()
        if self._claimed_samples is not None and self._claimed_samples > max_samples:
            seconds = self._claimed_samples / SAMPLE_RATE_HZ
            raise RefusalError("limit", f"its header says that it is {seconds:.0f} s long")

    def _check_shape(self) -> None:
        """Of what FFmpeg would call no sound at all, and not say why."""
        channels, rate_hz = claims.wav_shape(self._fd) if self._fd is not None else (0, 0)
        if channels and rate_hz:
            try:
                check_shape(channels, rate_hz)
            except ShapeError as error:
                raise RefusalError("shape", str(error)) from None

    def _begin(self, file: files.Readable | files.InMemory) -> None:
        """Open a file, or a part of one: containers, streams and codecs that are not let in are refused."""
        self._file = file
        try:
            self._container = _open(file)
        except (RefusalError, MemoryError):
            # FFmpeg looks at all fragments of an MP4 at once, where it can: then each must be good.
            if not isinstance(file, files.FileView) or fragments_begin(file.fd) is None:
                raise
            self._file = file.forwards()
            self._container = _open(self._file)
        audio = self._container.streams.best("audio")
        if audio is None:
            raise RefusalError(
                "unsupported", f"it is a {self._container.format.long_name} file without an audio stream"
            )
        assert isinstance(audio, av.AudioStream)
        name = audio.codec_context.name if audio.codec_context is not None else "unknown"
        if name not in ALLOWED.split(","):
            raise RefusalError("unsupported", f"its sound is coded as {name}, which is not let in")
        self._stream = audio
        self._formats = formats_of(self._container)
        self._codec = Codec(audio, is_in_ogg="ogg" in self._formats)

    @property
    def info(self) -> dict[str, Any]:
        """What it says of itself."""
        seconds = self._container.duration / av.time_base if self._container.duration else None
        return {"format": self._container.format.name, "codec": self._codec.name, "duration_seconds": seconds}

    def _claim(self) -> int | None:
        """How many samples at 16 kHz its header says there are; None where it does not know, but guesses."""
        is_known = self._formats & _KNOW_THEIR_LENGTH or (
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
        """Put everything that can be heard into `samples`; `gaps` is what could not be.

        Raises:
            RefusalError: it is longer than allowed, or of a shape that no recording has.
            MemoryError: so much of it needs more memory than there is that it cannot be good.
        """
        clock = None
        while True:
            clock = Timestamps(
                self._container, self._stream, samples, self.gaps.report, self._most_samples(samples.count), clock
            )
            with self._container:
                before = samples.count
                for frame in self._frames(samples):
                    self._put_in(frame, clock, samples)
                self._vain_restarts = 0 if samples.count > before else self._vain_restarts + 1
            if not self._begin_again(samples.count):
                break
            if "ogg" in self._formats:
                clock = None  # each stream has a clock of its own
        if not self._is_heard and (self._refusal or self._outgrown):
            raise self._refusal or MemoryError
        samples.finish()
        self._look_at_the_end(samples.count)

    def _most_samples(self, count: int) -> int:
        """Where the last sample is at most: timestamps from beyond are wrong."""
        if not self._file.seekable():
            return self._max_samples
        length = int((self._container.duration or 0) / av.time_base * SAMPLE_RATE_HZ) + SAMPLE_RATE_HZ
        if self._track is not None:  # FFmpeg sees no picture that begins earlier
            length += int((self._container.start_time or 0) / av.time_base * SAMPLE_RATE_HZ)
        return count + length if "ogg" in self._formats else max(length, self._claimed_samples or 0)

    def _put_in(self, frame: av.AudioFrame, clock: Timestamps, samples: Samples) -> None:
        try:
            clock.fill_before(frame)
            samples.add(frame)
            self._is_heard = True
        except ShapeError as error:
            self._refuse_frame(RefusalError("shape", str(error)), samples.count)
        except av.FFmpegError as error:
            what = f"its samples cannot be converted ({error.strerror})"
            is_too_large = isinstance(error, MemoryError)
            self._refuse_frame(error if is_too_large else RefusalError("unsupported", what), samples.count)
        if samples.count > self._max_samples:
            seconds = self._max_samples / SAMPLE_RATE_HZ
            raise RefusalError("limit", f"more than {seconds:g} s of audio came out of it")

    def _refuse_frame(self, error: Exception, count: int) -> None:
        """A frame of a shape that cannot be is damage; where all are like that, so is the file."""
        self._refused_frames += 1
        if not self._is_heard and self._refused_frames == _MOST_REFUSED_FRAMES:
            raise error
        self._refusal = error
        self.gaps.report_error(error, count)

    def _frames(self, samples: Samples) -> Iterator[av.AudioFrame]:
        for packet in self._packets(samples):
            try:
                yield from self._codec.decode(packet)
            except (av.FFmpegError, MemoryError) as error:
                self._outgrown += isinstance(error, MemoryError)
                if self._outgrown > _MOST_OUTGROWN:
                    raise
                self.gaps.report_error(error, samples.count)

    def _packets(self, samples: Samples) -> "Iterator[av.Packet[av.AudioStream]]":
        packets, errors = self._demux(), 0
        self._gave_up = False
        while errors < (_MOST_ERRORS_IN_A_ROW if "wv" not in self._formats else 1):
            try:
                packet = next(packets, None)
            except (av.FFmpegError, MemoryError) as error:
                self.gaps.report_error(error, samples.count)
                errors += 1
                packets = self._demux()  # that which raised is at its end
                continue
            except IndexError:
                packet = None  # at the end, PyAV 18 stumbles over streams that it did not see at the beginning
            if packet is None:
                return
            errors = 0
            if packet.pos is not None:
                self._last_at = self._file.start + packet.pos
            yield packet
        self._gave_up = True

    def _demux(self) -> "Iterator[av.Packet[av.AudioStream]]":
        """The packets of the stream, and last an empty one, which ends the decoding."""
        for packet in self._container.demux(self._stream):
            if self._first_pts is None:
                self._first_pts = packet.pts
            if packet.size or self._track is None:
                yield packet
        if self._track is None:
            return
        for data, pts in self._track.packets(self._first_pts or 0):
            if data:
                made: Any = av.Packet(len(data))  # not of the bytes: FFmpeg reads a little beyond the end
                made.update(data)
                made.pts, made.time_base = pts, self._stream.time_base
                yield made
        end: Any = av.Packet()
        yield end

    def _begin_again(self, count: int) -> bool:
        """Open what lies behind the place at which the demuxer gave up, if something does."""
        while self._restarts < _MOST_RESTARTS and self._vain_restarts < _MOST_VAIN_RESTARTS:
            found = self._find_the_next_part()
            if found is None:
                return False
            self._last_at, view = found
            self._restarts += 1
            try:
                self._begin(view)
            except (RefusalError, MemoryError) as error:
                self._vain_restarts += 1
                self.gaps.report_error(error, count)
            else:
                return True
        if self._gave_up or "mov" not in self._formats:  # behind the last fragment with sound may come some without
            self.gaps.report(count, count, "it is in too many pieces")
        return False

    def _find_the_next_part(self) -> tuple[int, files.FileView] | None:
        if not isinstance(self._file, files.FileView):
            return None
        fd, end = self._file.fd, self._file.end
        if "ogg" in self._formats and end < os.fstat(fd).st_size:
            return end, files.ogg_link(fd, end)
        if "mov" in self._formats:
            return files.next_fragment(fd, self._last_at)
        if "wv" in self._formats and self._gave_up:
            return files.next_wavpack_block(fd, self._last_at)
        return None

    def _look_at_the_end(self, count: int) -> None:
        """A file that ends before its header says so was cut off, or broken beyond what the demuxer can find again."""
        if self._claimed_samples is not None and self._claimed_samples - count > _MISSING_SECONDS * SAMPLE_RATE_HZ:
            self.gaps.report(count, self._claimed_samples, "the file ends before its header says so")
        elif self._track is not None and self._track.problem is not None:
            self.gaps.report(count, count, self._track.problem)
        elif self._fd is not None and (share := claims.missing_share(self._fd)):
            end = min(count + round(share * count), self._max_samples)
            self.gaps.report(count, end, "the file was cut off: its header says that it is longer")
        elif self._fd is not None and claims.ogg_is_cut_off(self._fd):
            self.gaps.report(count, count, "the file was cut off: its end is missing")


def _open(file: files.Readable | files.InMemory) -> InputContainer:
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
