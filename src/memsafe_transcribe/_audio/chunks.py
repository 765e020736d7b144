"""The samples of one chunk after the other, as the decoder gives them and the chunker cuts them."""

from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from .chunker import FRAME_SAMPLES, Chunker, Span, halves
from .encoding import WAV_HEADER_BYTES, wav
from .voicing import clear_seconds
from .words import SAMPLE_RATE_HZ, Block

_SAMPLE_BYTES = 2


@dataclass(frozen=True, slots=True)
class Cut:
    """One span with what is to be heard of it.

    Attributes:
        span: where it lies in the whole.
        wav: its samples from `span.start` to `span.end` as a WAV file; without any, if the span is silent.
        levels: mean squares of its frames of 10 ms, from `span.start` on.
    """

    span: Span
    wav: bytes
    levels: "array[float]"

    @property
    def clear_seconds(self) -> float:
        """How much of its core is clearly heard above the noise floor."""
        begin, end = max(self.span.core_start, self.span.start), min(self.span.core_end, self.span.end)
        first, last = (begin - self.span.start) // FRAME_SAMPLES, -((self.span.start - end) // FRAME_SAMPLES)
        return clear_seconds(self.levels[first:last])

    def padded_wav(self, samples: int) -> bytes:
        """The same with silence behind it up to so many samples, if it has fewer."""
        missing_bytes = (samples - (self.span.end - self.span.start)) * _SAMPLE_BYTES
        if missing_bytes <= 0:
            return self.wav
        return wav([memoryview(self.wav)[WAV_HEADER_BYTES:], bytes(missing_bytes)], SAMPLE_RATE_HZ)

    def halves(self) -> Iterator["Cut"]:
        """The two parts of it, in order, for an engine that says that it is too large.

        Raises:
            ValueError: it is shorter than two samples.
        """
        for span in halves(self.span, self.levels):
            begin, end = span.start - self.span.start, span.end - self.span.start
            samples = [memoryview(self.wav)[WAV_HEADER_BYTES:][begin * _SAMPLE_BYTES : end * _SAMPLE_BYTES]]
            levels = self.levels[begin // FRAME_SAMPLES : -(-end // FRAME_SAMPLES)]
            yield Cut(span, wav(samples, SAMPLE_RATE_HZ), levels)


class Blocks(Protocol):
    """What a reader needs of a decoder."""

    async def read(self) -> Block | None:
        """The next block; None at the end."""


class ChunkReader:
    """Spans, in order, each with its samples.

    Memory: the samples that a span still to come may need: those of the chunker's window, and two blocks. They stay in
    the blocks that they came in; one that grew would be copied as it grows.
    """

    def __init__(self, decoder: Blocks, chunker: Chunker) -> None:
        self._decoder = decoder
        self._chunker = chunker
        self._spans: deque[Span] = deque()
        self._samples: deque[bytes] = deque()
        self._begin = self._end = 0  # the samples that they reach from and to
        self._levels = array("f")
        self._first_frame = 0  # whose level is the first of them
        self._ended = False

    async def read(self) -> Cut | None:
        """The next span; None at the end.

        Raises:
            AudioDecodeError: what came before has been read already and is good.
        """
        while not self._spans:
            if self._ended:
                return None
            block = await self._decoder.read()
            if block is None:
                self._ended = True
                self._spans.extend(self._chunker.finish(self._end))
            else:
                self._samples.append(block.samples)
                self._end += len(block.samples) // _SAMPLE_BYTES
                self._levels += block.levels
                self._spans.extend(self._chunker.push(block.levels))
            if not self._spans:
                self._forget(self._chunker.needed_from)
        cut = self._cut(self._spans.popleft())
        if not self._spans:
            self._forget(self._chunker.needed_from)
        return cut

    def _cut(self, span: Span) -> Cut:
        first, last = span.start // FRAME_SAMPLES, -(-span.end // FRAME_SAMPLES)
        levels = self._levels[first - self._first_frame : last - self._first_frame]
        return Cut(span, wav(self._between(span.start, span.end), SAMPLE_RATE_HZ), levels)

    def _between(self, start: int, end: int) -> Iterator[memoryview]:
        at = self._begin
        for block in self._samples:
            samples = memoryview(block).cast("h")
            yield samples[max(0, start - at) : max(0, end - at)].cast("B")
            at += len(samples)

    def _forget(self, before: int) -> None:
        """Levels may run ahead of the samples by a few: no more is forgotten than there is."""
        while self._samples and self._begin + len(self._samples[0]) // _SAMPLE_BYTES <= before:
            self._begin += len(self._samples.popleft()) // _SAMPLE_BYTES
        frames = min(before // FRAME_SAMPLES - self._first_frame, len(self._levels))
        del self._levels[:frames]
        self._first_frame += frames
