"""In the decoding process: what the times in a file say of what is missing in it."""

from collections.abc import Callable

import av
from av.container import InputContainer

from .samples import Samples
from .words import SAMPLE_RATE_HZ

# Containers whose timestamps say when a packet is to be heard, whatever came before it.
_TELL_TIMES = frozenset({"asf", "avi", "caf", "flac", "flv", "matroska", "mov", "mpegts", "ogg", "wv"})
_BEGIN_AT_ZERO = frozenset({"matroska", "mov", "wv"})
_JUMP_SECONDS = 0.03  # timestamps may be as coarse as that; the shortest frame that can be lost is not much longer


def formats_of(container: InputContainer) -> frozenset[str]:
    """FFmpeg's names of the container, of which some formats have several."""
    return frozenset(container.format.name.split(","))


class Timestamps:
    """Finds by the frames' timestamps what is missing between them, and fills it with silence.

    Args:
        container: whose frames these are.
        stream: of the container.
        samples: where frames go, and silence.
        report: called with what is missing: its start, its end, and a word on it.
        most_samples: where the last sample is at most: timestamps from beyond are wrong.
        before: of the same file, up to a place from which on it was opened again; its clock goes on.
    """

    def __init__(
        self,
        container: InputContainer,
        stream: av.AudioStream,
        samples: Samples,
        report: Callable[[int, int, str], None],
        most_samples: int,
        before: "Timestamps | None" = None,
    ) -> None:
        formats = formats_of(container)
        self._report = report
        self._samples = samples
        self._are_trusted = bool(formats & _TELL_TIMES) and stream.time_base is not None
        self._most_samples = most_samples
        self._zero_seconds = 0.0 if formats & _BEGIN_AT_ZERO else (container.start_time or 0) / av.time_base
        # Of the timestamps from the count, as the first frame has it.
        self.offset: int | None = before.offset if before is not None else None

    def fill_before(self, frame: av.AudioFrame) -> None:
        """Put in the silence that belongs before this frame."""
        if not self._are_trusted or frame.pts is None or frame.time_base is None:
            return
        at = int((float(frame.pts * frame.time_base) - self._zero_seconds) * SAMPLE_RATE_HZ)
        count = self._samples.count
        is_first, self.offset = self.offset is None, self.offset or 0
        if is_first and at <= _JUMP_SECONDS * SAMPLE_RATE_HZ:
            self.offset = at - count
        missing = at - self.offset - count
        if missing < -_JUMP_SECONDS * SAMPLE_RATE_HZ or count + missing > self._most_samples:
            self._are_trusted = False  # they run backwards, or beyond the end: another stream begins (chained Ogg)
        elif missing > _JUMP_SECONDS * SAMPLE_RATE_HZ:
            if not is_first:  # sound that begins later than the picture is no gap
                self._report(count, count + missing, "audio is missing, say the timestamps")
            self._samples.add_silence(missing)


def flac_sample_number(frame: bytes, block_samples: int) -> int | None:
    """Which sample of its stream a FLAC frame begins with (RFC 9639, 9.1.5); None where that cannot be read.

    In Ogg, FFmpeg counts frames instead, and is early behind a page that was lost, until the end of the next one.

    Args:
        frame: the first 11 bytes of it, or more.
        block_samples: of each frame but the last, as the stream's header says.
    """
    if len(frame) < 5 or frame[0] != 0xFF or frame[1] & 0xFE != 0xF8:
        return None
    number, more = frame[4], 0
    if number >= 0x80:  # in the manner of UTF-8, with up to six bytes behind the first
        more = 7 - (number ^ 0xFF).bit_length()
        number &= 0x3F >> more
        if not 1 <= more <= 6 or len(frame) < 5 + more:
            return None
    for byte in frame[5 : 5 + more]:
        number = number << 6 | byte & 0x3F
    return number if frame[1] & 1 else number * block_samples
