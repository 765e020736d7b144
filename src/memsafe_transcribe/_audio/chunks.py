"""The samples of one chunk after the other, as the decoder gives them and the chunker cuts them."""

from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from .chunker import FRAME_SAMPLES, Chunker, Span, halves
from .decoder import SAMPLE_RATE_HZ, Block
from .encoding import WAV_HEADER_BYTES, wav

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

    def halves(self) -> Iterator["Cut"]:
        """The two parts of it, in order, for an engine that says that it is too large.

        Raises:
            ValueError: it is shorter than two samples.
        """
        for span in halves(self.span, self.levels):
            begin, end = span.start - self.span.start, span.end - self.span.start
            samples = memoryview(self.wav)[WAV_HEADER_BYTES:][begin * _SAMPLE_BYTES : end * _SAMPLE_BYTES]
            levels = self.levels[begin // FRAME_SAMPLES : -(-end // FRAME_SAMPLES)]
            yield Cut(span, wav(samples, SAMPLE_RATE_HZ), levels)


class Blocks(Protocol):
    """What a reader needs of a decoder."""

    async def read(self) -> Block | None:
        """The next block; None at the end."""


class ChunkReader:
    """Spans, in order, each with its samples.

    Memory: the samples that a span still to come may need: those of the chunker's window, and one block.
    """

    def __init__(self, decoder: Blocks, chunker: Chunker) -> None:
        self._decoder = decoder
        self._chunker = chunker
        self._spans: deque[Span] = deque()
        self._samples = bytearray()
        self._levels = array("f")
        self._first = 0  # the sample that `_samples` begins with; `_levels` with the frame that it lies in
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
                self._spans.extend(self._chunker.finish(self._first + len(self._samples) // _SAMPLE_BYTES))
            else:
                self._samples += block.samples
                self._levels += block.levels
                self._spans.extend(self._chunker.push(block.levels))
            if not self._spans:
                self._forget(self._chunker.needed_from)
        cut = self._cut(self._spans.popleft())
        if not self._spans:
            self._forget(self._chunker.needed_from)
        return cut

    def _cut(self, span: Span) -> Cut:
        begin, end = ((sample - self._first) * _SAMPLE_BYTES for sample in (span.start, span.end))
        first = self._first // FRAME_SAMPLES
        levels = self._levels[span.start // FRAME_SAMPLES - first : -(-span.end // FRAME_SAMPLES) - first]
        with memoryview(self._samples) as samples, samples[begin:end] as heard:
            return Cut(span, wav(heard, SAMPLE_RATE_HZ), levels)

    def _forget(self, before: int) -> None:
        """Levels may run ahead of the samples by a few: no more is forgotten than there is."""
        samples = min(before - self._first, len(self._samples) // _SAMPLE_BYTES)
        if samples > 0:
            del self._samples[: samples * _SAMPLE_BYTES]
            self._first, first = self._first + samples, self._first // FRAME_SAMPLES
            del self._levels[: self._first // FRAME_SAMPLES - first]
