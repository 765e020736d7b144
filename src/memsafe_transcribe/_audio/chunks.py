"""The samples of one chunk after the other, as the decoder gives them and the chunker cuts them."""

from collections import deque
from typing import Protocol

from .chunker import Chunker, Span
from .decoder import Block

_SAMPLE_BYTES = 2


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
        self._first = 0  # the sample that `_samples` begins with
        self._ended = False

    async def read(self) -> tuple[Span, bytes] | None:
        """The next span and what the engine is to hear of it, nothing if it is silent; None at the end.

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
                self._spans.extend(self._chunker.push(block.levels))
            if not self._spans:
                self._forget(self._chunker.needed_from)
        span = self._spans.popleft()
        begin, end = ((sample - self._first) * _SAMPLE_BYTES for sample in (span.start, span.end))
        samples = bytes(memoryview(self._samples)[begin:end])
        if not self._spans:
            self._forget(self._chunker.needed_from)
        return span, samples

    def _forget(self, before: int) -> None:
        """Levels may run ahead of the samples by a few: no more is forgotten than there is."""
        samples = min(before - self._first, len(self._samples) // _SAMPLE_BYTES)
        if samples > 0:
            del self._samples[: samples * _SAMPLE_BYTES]
            self._first += samples
