"""In the decoding process: decoded frames of any shape -> blocks of 16 kHz mono samples with their levels.

Filter graphs of our own, because `av.AudioResampler` starts a thread per core, each with a stack of 8 MiB that counts
against RLIMIT_DATA: on a large host none could be made.
"""

from array import array
from collections.abc import Callable, Iterator
from fractions import Fraction

import av
from av.filter import Graph

from .chunker import FRAME_SAMPLES
from .words import SAMPLE_RATE_HZ

_LEVELS_HZ = SAMPLE_RATE_HZ // FRAME_SAMPLES
_SAMPLE_BYTES, _FULL_SCALE = 2, 32_768
_BLOCK_SAMPLES = SAMPLE_RATE_HZ
_FRAMES_AT_ONCE = 16  # pushed before the graph is asked for what it has: asking in vain costs as much as decoding
_MOST_RATE_HZ, _MOST_CHANNELS = 768_000, 64
_CANCELLED = 0.01  # of the power of one channel is left in the mix: they are of opposite phase

SendBlock = Callable[["array[float]", bytes], None]


class ShapeError(Exception):
    """A rate or a number of channels that no recording has."""


def check_shape(channels: int, rate_hz: int) -> None:
    """Raise a ShapeError if no recording has that."""
    if channels > _MOST_CHANNELS or not 0 < rate_hz <= _MOST_RATE_HZ:
        limits = f"{_MOST_RATE_HZ} Hz or {_MOST_CHANNELS} channels"
        raise ShapeError(f"it claims {rate_hz} Hz and {channels} channels, but no recording has more than {limits}")


class Samples:
    """Turns frames into blocks, and counts them: the clock of everything.

    Args:
        send: called with the levels (mean square per 10 ms, full scale is 1.0) and the samples (signed 16-bit) of each
            block. All blocks but the last have 16 000 samples and 100 levels.

    Of two channels that cancel each other in the mix (a miswired cable turns one around), the left is taken.
    """

    def __init__(self, send: SendBlock) -> None:
        self.count = 0  # that were put out, or will be by what has been put in
        self._send = send
        self._shape: tuple[str, str, int] | None = None
        self._resampler: _Graph | None = None
        self._source_samples = 0  # put into the present resampler
        self._before = 0  # the count when it began
        self._put_in = 0  # samples at 16 kHz that came out of resamplers
        self._unpulled = 0
        self._planes = bytearray(), bytearray()  # the mix, and the left channel
        self._levels = array("f"), array("f")
        self._meter = _meter()

    def add(self, frame: av.AudioFrame) -> None:
        """Put in the next frame.

        Raises:
            ShapeError: it is of an impossible shape.
            av.FFmpegError: it cannot be converted.
        """
        shape = (frame.format.name, frame.layout.name, frame.sample_rate)
        if shape != self._shape:  # chained and concatenated files change their rate on the way
            check_shape(frame.layout.nb_channels, frame.sample_rate)
            self._end_section()
            self._resampler, self._shape = _resampler(frame), shape
        assert self._resampler is not None
        frame.pts = None  # the filters would complain of jumps; the clock is the count of samples
        self._resampler.push(frame)
        self._source_samples += frame.samples
        self.count = self._before + self._source_samples * SAMPLE_RATE_HZ // frame.sample_rate
        self._unpulled += 1
        if self._unpulled >= _FRAMES_AT_ONCE:
            self._pull()

    def add_silence(self, samples: int) -> None:
        """Put in so many samples of silence, at 16 kHz."""
        self._end_section()
        while samples > 0:
            size = min(samples, _BLOCK_SAMPLES)
            frame = av.AudioFrame("s16p", "stereo", size)
            frame.sample_rate = SAMPLE_RATE_HZ
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            self._take(frame)
            samples -= size
        self._before = self.count

    def finish(self) -> None:
        """Put out all that is left."""
        self._end_section()
        self._meter.push(None)
        self._read_meter()
        self._complete_levels()
        self._put_out(last=True)

    def _complete_levels(self) -> None:
        """One for each 10 ms that has begun: the filter tells none of the last ones, nor of so short a file."""
        for plane, levels in zip(self._planes, self._levels, strict=True):
            samples = array("h", plane)
            del levels[-(-len(samples) // FRAME_SAMPLES) :]
            for at in range(len(levels) * FRAME_SAMPLES, len(samples), FRAME_SAMPLES):
                frame = samples[at : at + FRAME_SAMPLES]
                levels.append(sum(sample * sample for sample in frame) / len(frame) / _FULL_SCALE**2)

    def _end_section(self) -> None:
        """Flush the resampler; from here on the count goes on from what really came out."""
        if self._resampler is not None:
            self._resampler.push(None)
            self._pull()
        self._resampler = self._shape = None
        self._source_samples = 0
        self._before = self.count = self._put_in

    def _pull(self) -> None:
        assert self._resampler is not None
        self._unpulled = 0
        for frame in self._resampler.pull():
            self._take(frame)

    def _take(self, frame: av.AudioFrame) -> None:
        size = frame.samples * _SAMPLE_BYTES
        for kept, plane in zip(self._planes, frame.planes, strict=True):
            kept += memoryview(plane)[:size]
        self._put_in += frame.samples
        self.count = max(self.count, self._put_in)
        frame.pts = None
        self._meter.push(frame)
        self._read_meter()
        self._put_out(last=False)

    def _read_meter(self) -> None:
        for frame in self._meter.pull():
            for kept, plane in zip(self._levels, frame.planes, strict=True):
                kept.frombytes(memoryview(plane)[: frame.samples * kept.itemsize])

    def _put_out(self, *, last: bool) -> None:
        while True:
            whole = len(self._planes[0]) >= _BLOCK_SAMPLES * _SAMPLE_BYTES and len(self._levels[0]) >= _LEVELS_HZ
            if not whole and not (last and self._planes[0]):
                return
            is_left = _power(self._levels[0][:_LEVELS_HZ]) < _CANCELLED * _power(self._levels[1][:_LEVELS_HZ])
            samples, levels = self._planes[is_left], self._levels[is_left]
            self._send(levels[:_LEVELS_HZ], bytes(samples[: _BLOCK_SAMPLES * _SAMPLE_BYTES]))
            for plane, level in zip(self._planes, self._levels, strict=True):
                del plane[: _BLOCK_SAMPLES * _SAMPLE_BYTES], level[:_LEVELS_HZ]


def _power(levels: "array[float]") -> float:
    return sum(levels) + 1e-6  # silence is not louder than silence


class _Graph:
    """A chain of filters of one thread."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.graph.threads = 1

    def push(self, frame: av.AudioFrame | None) -> None:
        self.graph.push(frame)

    def pull(self) -> Iterator[av.AudioFrame]:
        while True:
            try:
                ready = self.graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return
            assert isinstance(ready, av.AudioFrame)
            yield ready


def _resampler(first: av.AudioFrame) -> _Graph:
    """Frames of one shape -> two channels at 16 kHz: the mix of all, and the first of two."""
    made = _Graph()
    add = made.graph.add
    rate = first.sample_rate
    source = made.graph.add_abuffer(
        sample_rate=rate, format=first.format.name, layout=first.layout.name, time_base=Fraction(1, rate)
    )
    if first.layout.nb_channels == 2:
        mix = [add("pan", "stereo|c0=0.5*c0+0.5*c1|c1=c0")]
    else:
        mix = [add("aformat", "channel_layouts=mono"), add("pan", "stereo|c0=c0|c1=c0")]
    target = add("aformat", f"sample_fmts=s16p:channel_layouts=stereo:sample_rates={SAMPLE_RATE_HZ}")
    made.graph.link_nodes(
        source, *mix, target, add("asetnsamples", f"n={_BLOCK_SAMPLES}:p=0"), add("abuffersink")
    ).configure()
    return made


def _meter() -> _Graph:
    """Two channels at 16 kHz -> the mean square around each 10 ms: squares, then a low-pass filter and decimation.

    The filter is the main lobe of a sinc alone: longer ones ring, and what is silent would not seem so.
    """
    made = _Graph()
    add = made.graph.add
    source = made.graph.add_abuffer(
        sample_rate=SAMPLE_RATE_HZ, format="s16p", layout="stereo", time_base=Fraction(1, SAMPLE_RATE_HZ)
    )
    as_float, twice, squared = add("aformat", "sample_fmts=fltp"), add("asplit"), add("amultiply")
    decimated, sink = add("aresample", f"{_LEVELS_HZ}:filter_size=2"), add("abuffersink")
    source.link_to(as_float)
    as_float.link_to(twice)
    twice.link_to(squared, 0, 0)
    twice.link_to(squared, 1, 1)
    squared.link_to(decimated)
    decimated.link_to(sink)
    made.graph.configure()
    return made
