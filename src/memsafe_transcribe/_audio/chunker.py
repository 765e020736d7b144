"""Pure: where the audio is cut, as its levels come in. Cores tile it exactly, on the clock of its samples at 16 kHz.

A level is the mean square of one frame of 10 ms, full scale = 1.0. The rules, in the order in which they are asked:

  1. A frame under -60 dBFS is *silence*. From SILENT_SPAN_FRAMES of it on it is a span of its own, however long, and
     what sounds before and after is in spans of their own, each with PAD_FRAMES of the silence.
  2. Else a core ends in the last third of the wanted length: in the middle of the longest *pause* there, a run of
     MIN_PAUSE_FRAMES or more that is silent or far quieter than the loud parts of the window (`_pause_level`).
  3. Where there is no pause: at the quietest point, and the engine hears both sides of it twice, by the overlap.
  4. Silence at the outer ends of what the engine is to hear is taken off, but for the pad.

A cut is decided only when the audio is known to go on after it for the overlap, and not within a silence, which may yet
become a long one: so no overlap can reach past the next core.

Not covered: speech under -60 dBFS, which is not sent at all; a sound that rises to -60 dBFS over more than the pad.
"""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, repeat
from operator import sub

DEFAULT_CHUNK_SECONDS = 60.0
FRAME_SAMPLES = 160
OVERLAP_SAMPLES = 2 * 16_000  # longer than most words; a quarter of the wanted length where that is less
PAD_FRAMES = 30  # a soft onset begins below what counts as sound
SILENCE_LEVEL = 1e-6  # -60 dBFS
SILENT_SPAN_FRAMES = 500
MIN_PAUSE_FRAMES = 20  # the closure of a plosive is shorter
SMOOTHING_FRAMES = 10

_FAR_QUIETER = 10**-2.8  # 28 dB under the loud parts: a pause, whatever the floor is
_CONTRAST = 10**-1.8  # a floor that is 18 dB under the loud parts is one of noise, and not the sound's own
_FLOOR_RANGE = 4.0  # 6 dB: the frames of a steady noise stay within it
_LOUD_QUANTILE = 0.9
# How many frames the levels may run ahead of the audio's real end, or lag behind: they come from a filter.
_SLACK_FRAMES = 4


@dataclass(frozen=True, slots=True)
class Span:
    """One chunk of the audio, in samples from the audio's beginning; both ends are exclusive.

    Attributes:
        core_start: where the part begins that this span alone answers for: where the last core ended, or 0.
        core_end: where that part ends.
        start: where the engine begins to hear: at the core, later if that begins with silence, earlier if its
            beginning is a cut through sound.
        end: where the engine stops hearing, likewise.
    """

    core_start: int
    core_end: int
    start: int
    end: int

    @property
    def is_silent(self) -> bool:
        """Whether the core is all silence, so that nothing is to be sent. Both `start` and `end` are its end then."""
        return self.start == self.end


class Chunker:
    """Spans of one audio, from its levels. The same levels give the same spans, in whatever portions they come.

    A core that is not silent is at most as long as wanted plus one overlap: a rest that short is no chunk of its own.

    **Memory**: 8 bytes a level, of at most the wanted length, two overlaps and 5.05 s; 50 while a cut is chosen.

    Args:
        wanted_samples: the length of a core to aim for; at least 1.
        longest_samples: the most that the engine takes, overlaps included. They come out of the core if need be.

    Raises:
        ValueError: more is wanted than the engine takes, or nothing.
    """

    def __init__(self, wanted_samples: int, longest_samples: int) -> None:
        if not 1 <= wanted_samples <= longest_samples:
            raise ValueError(f"wanted_samples must be from 1 to {longest_samples} (longest); got {wanted_samples}")
        self._wanted = wanted_samples
        self._longest = longest_samples
        # In whole frames, so that what is heard begins with a frame wherever cores are longer than some frames.
        self._overlap = min(OVERLAP_SAMPLES, wanted_samples // 4) // FRAME_SAMPLES * FRAME_SAMPLES
        self._frames = 0  # how many were seen
        self._silent_frames = 0  # the length of the silence that the last of them is part of
        self._levels = array("d")  # of the last of them, those of the core to come; none in a long silence
        self._begin_core(0, 0)

    @property
    def needed_from(self) -> int:
        """The sample before which no span still to come reaches."""
        return (self._frames - PAD_FRAMES) * FRAME_SAMPLES if self._in_long_silence else self._heard_from

    def push(self, levels: Iterable[float]) -> list[Span]:
        """Take the levels of the next frames.

        Args:
            levels: mean squares, full scale = 1.0, in order. One that is not a number counts as sound.

        Returns:
            The spans that are now decided, in order.
        """
        spans: list[Span] = []
        if isinstance(levels, Sequence) and self._is_all_sound(levels):
            self._frames += len(levels)
            self._silent_frames = 0
            self._levels.extend(iter(levels))
            return spans
        for level in levels:
            self._frames += 1
            if level < SILENCE_LEVEL:
                self._silent_frames += 1
                if self._silent_frames < SILENT_SPAN_FRAMES:
                    self._levels.append(level)
                elif self._silent_frames == SILENT_SPAN_FRAMES:
                    spans += self._begin_long_silence()
                continue
            if self._in_long_silence:
                spans.append(self._end_long_silence())
            self._silent_frames = 0
            self._levels.append(level)
            while self._frames > self._cut_after_frames:
                spans.append(self._cut())
        return spans

    def finish(self, total_samples: int) -> list[Span]:
        """Take the audio's end.

        Args:
            total_samples: its exact length. A few levels too many are dropped. A few that are missing are like the
                last one; if many are, nothing is known, and that counts as sound.

        Returns:
            The remaining spans.

        Raises:
            ValueError: there were levels of more audio than that.
        """
        missing = -(-total_samples // FRAME_SAMPLES) - self._frames
        if missing < -_SLACK_FRAMES:
            raise ValueError(f"there were levels of {self._frames} frames, but {total_samples} samples have fewer")
        last_level = self._levels[-1] if self._levels else 0.0
        spans = self.push(repeat(1.0 if missing > _SLACK_FRAMES or self._frames == 0 else last_level, missing))
        if self._in_long_silence:
            spans.append(Span(self._heard_from, total_samples, total_samples, total_samples))
        else:
            spans += self._close(total_samples)
        self._silent_frames = 0
        self._begin_core(total_samples, 0)
        return spans

    def _is_all_sound(self, levels: Sequence[float]) -> bool:
        """Whether there is nothing to decide, as most of the time: that need not be asked of each frame."""
        is_far = self._frames + len(levels) <= self._cut_after_frames and not self._in_long_silence
        return is_far and len(levels) > 0 and min(levels) >= SILENCE_LEVEL

    @property
    def _in_long_silence(self) -> bool:
        return self._silent_frames >= SILENT_SPAN_FRAMES

    def _begin_core(self, start: int, overlap: int) -> None:
        self._core_start = start
        self._heard_from = start - overlap
        self._first_frame = self._heard_from // FRAME_SAMPLES  # whose level is the first in _levels
        # The latest possible cut and its overlap are before this, even if the last frames prove to be too many.
        self._cut_after_frames = (start + self._wanted + self._overlap) // FRAME_SAMPLES + _SLACK_FRAMES

    def _begin_long_silence(self) -> list[Span]:
        """Close what came before. From now on no level is kept until a frame sounds."""
        sounding = self._frames - SILENT_SPAN_FRAMES
        spans = self._close((sounding + PAD_FRAMES) * FRAME_SAMPLES) if sounding else []
        self._levels = array("d")
        return spans

    def _end_long_silence(self) -> Span:
        """The silence; the next core begins with the pad before the frame that sounds."""
        begin, end = self._core_start, (self._frames - 1 - PAD_FRAMES) * FRAME_SAMPLES
        self._levels = array("d", [0.0] * PAD_FRAMES)
        self._begin_core(end, 0)
        return Span(begin, end, end, end)

    def _close(self, end: int) -> list[Span]:
        """All spans up to `end`, where a core has to end."""
        spans = []
        while end - self._core_start > self._wanted + self._overlap or end - self._heard_from > self._longest:
            spans.append(self._cut())
        if end > self._core_start:
            spans.append(self._take(end, end, 0))
        return spans

    def _cut(self) -> Span:
        """The next span. More than its overlap is known to follow, be it for the wanted length or for the longest."""
        latest = min(self._core_start + self._wanted, self._heard_from + self._longest - self._overlap)
        earliest = self._core_start + max(1, (latest - self._core_start) * 2 // 3)
        cut, in_pause = _choose_cut(self._levels, self._first_frame * FRAME_SAMPLES, earliest, latest)
        overlap = 0 if in_pause else self._overlap
        return self._take(cut, cut + overlap, overlap)

    def _take(self, core_end: int, heard_to: int, overlap: int) -> Span:
        """The span whose core ends at `core_end`, which could hear up to `heard_to`; its outer silence is taken off."""
        first = self._first_frame
        core = range(self._core_start // FRAME_SAMPLES, -(-core_end // FRAME_SAMPLES))
        heard = self._levels[: -(-heard_to // FRAME_SAMPLES) - first]
        sounding = [frame for frame, level in enumerate(heard, first) if not level < SILENCE_LEVEL]
        start = end = core_end
        if any(frame in core for frame in sounding):
            start = max((sounding[0] - PAD_FRAMES) * FRAME_SAMPLES, self._heard_from)
            end = min((sounding[-1] + 1 + PAD_FRAMES) * FRAME_SAMPLES, heard_to)
        span = Span(self._core_start, core_end, start, end)
        self._begin_core(core_end, overlap)
        del self._levels[: self._first_frame - first]
        return span


def halves(span: Span, levels: Sequence[float]) -> tuple[Span, Span]:
    """Cut one span in two near its middle, for an engine that says that it is too large.

    Args:
        span: what to cut. Its outer ends are kept.
        levels: mean squares of its frames, full scale = 1.0; the first frame begins at `span.start`.

    Raises:
        ValueError: less than two samples of the core are heard.
    """
    begin, end = max(span.core_start, span.start), min(span.core_end, span.end)
    if end - begin < 2:
        raise ValueError(f"a span of whose core {max(0, end - begin)} samples are heard cannot be cut in two")
    third = (end - begin) // 3
    cut, in_pause = (begin + end) // 2, False
    if FRAME_SAMPLES <= third <= len(levels) * FRAME_SAMPLES:
        cut, in_pause = _choose_cut(levels, span.start, begin + third, end - third)
    overlap = 0 if in_pause else min(OVERLAP_SAMPLES, (end - begin) // 8) // FRAME_SAMPLES * FRAME_SAMPLES
    left = Span(span.core_start, cut, span.start, cut + overlap)
    return left, Span(cut, span.core_end, cut - overlap, span.end)


def _choose_cut(levels: Sequence[float], origin: int, earliest: int, latest: int) -> tuple[int, bool]:
    """Where to cut, in samples from `earliest` to `latest`, and whether that is in a pause.

    Args:
        levels: of the whole window, by which loud and quiet are told. The first frame begins at sample `origin`.
        earliest: the first sample that may begin the right part; after `origin`.
        latest: the last one. It is taken where no frame begins between them.
    """
    low, high = -(-(earliest - origin) // FRAME_SAMPLES), (latest - origin) // FRAME_SAMPLES
    if low > high:
        return latest, False
    pause = _longest_run(levels[low:high], _pause_level(levels, low, high))
    if len(pause) >= MIN_PAUSE_FRAMES:
        return origin + (low + (pause.start + pause.stop) // 2) * FRAME_SAMPLES, True
    half = SMOOTHING_FRAMES // 2
    first = max(0, low - half)
    smoothed = _moving_means(levels[first : high + half], SMOOTHING_FRAMES)
    quietest = first + smoothed.index(min(smoothed)) + half
    return origin + min(max(quietest, low), high) * FRAME_SAMPLES, False


def _pause_level(levels: Sequence[float], low: int, high: int) -> float:
    """Below which a frame from `low` to `high` may be part of a pause.

    The floor is the quietest stretch there that is as long as a pause. If it is of noise, it is far under the loud
    parts of the window, and the frames of all pauses are near it.
    """
    loud = sorted(levels)[int(len(levels) * _LOUD_QUANTILE)]
    floor = min(_moving_means(levels[low:high], MIN_PAUSE_FRAMES))
    noise = floor * _FLOOR_RANGE if floor < loud * _CONTRAST else 0.0
    return max(SILENCE_LEVEL, loud * _FAR_QUIETER, noise)


def _longest_run(levels: Sequence[float], below: float) -> range:
    """The longest run of frames below a level; the last of those that are equally long."""
    longest, begin = range(0), 0
    for index, level in enumerate(levels):
        if not level < below:
            begin = index + 1
        elif index + 1 - begin >= len(longest):
            longest = range(begin, index + 1)
    return longest


def _moving_means(levels: Sequence[float], width: int) -> list[float]:
    """Of each `width` neighbours; of all, if there are fewer."""
    sums = list(accumulate(levels, initial=0.0))
    width = max(1, min(width, len(levels)))
    return [total / width for total in map(sub, sums[width:], sums)] or [0.0]


def window_samples(wanted_samples: int) -> int:
    """How much audio a chunker decides on at once, beside the little by which levels lag: at most so much of it has to
    be kept for spans still to come."""
    return wanted_samples + 2 * OVERLAP_SAMPLES + SILENT_SPAN_FRAMES * FRAME_SAMPLES


def chunk_samples(wanted_seconds: float | None, longest_seconds: float, sample_rate_hz: int) -> int:
    """How many samples a chunk's core is to have.

    Args:
        wanted_seconds: what the caller asked for; None lets the engine's limit and the default decide.
        longest_seconds: the longest chunk that the engine takes.
        sample_rate_hz: the clock.

    Raises:
        ValueError: the caller asks for more than the engine takes, or for nothing.
    """
    if wanted_seconds is None:
        return int(min(DEFAULT_CHUNK_SECONDS, longest_seconds) * sample_rate_hz)
    if not 0 < wanted_seconds <= longest_seconds:
        raise ValueError(
            f"chunk_seconds must be more than 0 and at most {longest_seconds:g}, the longest chunk that the engine "
            f"takes (max_chunk_seconds); got {wanted_seconds:g}"
        )
    return max(1, int(wanted_seconds * sample_rate_hz))
