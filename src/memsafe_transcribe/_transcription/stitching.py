"""Pure: results of chunks, in order -> segments of the whole audio, in order.

Where chunks were cut in a pause there is nothing to reconcile. Where they were cut through sound, both heard what is
around the cut: the end of each result is held back until the next one is there, and `seams` says what to take of which.

With times for words that are off by less than half the shortest gap between words, what comes out is exactly what was
said, if no word is shorter than two such gaps (else only words that are said twice in a row can be mistaken), each side
of the overlap is longer than half the longest word, and the whole of it half as long again as the longest word.
Without times it is, if the overlap has three words in a row that are said only once near it; if not, nothing is lost,
but words may be doubled, and the segment after the seam is marked `unsure_seam`.
"""

from collections.abc import Iterable
from itertools import accumulate
from math import inf

from .._audio.chunker import OVERLAP_SAMPLES
from .._audio.words import SAMPLE_RATE_HZ
from .placing import ChunkSpan as ChunkSpan, Piece, Times, forwards, pieces_of, segments_of, split
from .protocol import ChunkResult
from .scripts import tokens_of
from .seams import Overlap, marked, reconcile
from .transcript import Segment

_OVERLAP_SECONDS = OVERLAP_SAMPLES / SAMPLE_RATE_HZ


class Stitcher:
    """Segments of one audio, from the results of its chunks.

    **Memory**: of the last result, what reaches into the next chunk's overlap: 2 s, and the rest of the engine's own
    segment there.
    """

    def __init__(self) -> None:
        self._held: list[Piece] = []
        self._left: ChunkSpan | None = None  # the last chunk in which something was heard
        self._earliest = -inf

    def push(self, span: ChunkSpan, result: ChunkResult) -> list[Segment]:
        """Take the next result.

        Args:
            span: its chunk; begins and ends no earlier than the last one.
            result: its times count from `span.start_seconds`.

        Returns:
            The segments that are now final.
        """
        pieces = pieces_of(span, result)
        if not pieces:
            return self.skip()
        if self._left is None or self._left.end_seconds <= span.start_seconds:
            pieces = self._held + pieces
        elif self._held:
            since = max(span.start_seconds, _held_since(self._left))
            pieces = reconcile(self._held, pieces, Overlap(since, span.core_start_seconds, self._left.end_seconds))
        elif any(piece.times is Times.NONE for piece in pieces):
            pieces = marked(pieces)
        else:  # what was said before that is out already
            since = min(_held_since(self._left), self._left.core_end_seconds)
            pieces = [piece for piece in pieces if piece.middle_seconds >= since]
        self._left = span
        done, self._held = _divided(pieces, span)
        return self._final(done)

    def skip(self) -> list[Segment]:
        """Take it that the next piece of the audio has no result: it is silent, or the engine failed.

        Returns:
            What was held back.
        """
        held, self._held = self._held, []
        self._left = None
        return self._final(held)

    def finish(self) -> list[Segment]:
        """Take the end: what was held back is final."""
        return self.skip()

    def _final(self, pieces: Iterable[Piece]) -> list[Segment]:
        segments = []
        for segment in segments_of(pieces):
            segment, self._earliest = forwards(segment, self._earliest)
            segments.append(segment)
        return segments


def _held_since(span: ChunkSpan) -> float:
    """From when on the next chunk may have heard the same, and what was said is held back; never, where this one did
    not reach behind the border. The next may reach farther before it than this one after it, of which silence was taken
    off.
    """
    if span.end_seconds <= span.core_end_seconds:
        return inf
    return span.core_end_seconds - max(_OVERLAP_SECONDS, span.end_seconds - span.core_end_seconds)


def _divided(pieces: list[Piece], span: ChunkSpan) -> tuple[list[Piece], list[Piece]]:
    """(what is final, what the next chunk may have heard too)."""
    since = _held_since(span)
    speech_seconds = Overlap(since, span.core_end_seconds, span.end_seconds).speech_seconds
    index = len(pieces)
    while index and since < inf:
        piece = pieces[index - 1]
        timed = piece.times is not Times.NONE
        if not timed or piece.end_seconds < since:
            if (timed and piece.trusted) or speech_seconds <= 0:
                break
            needs_seconds = sum(token.seconds for token in tokens_of(piece.text))  # its times may be a guess
            if not timed and not piece.word and needs_seconds > speech_seconds:
                return _split_text(pieces, index - 1, speech_seconds)
            speech_seconds -= needs_seconds
        index -= 1
    while 0 < index < len(pieces) and (source := pieces[index].source) and pieces[index - 1].source is source:
        index -= 1
    return pieces[:index], pieces[index:]


def _split_text(pieces: list[Piece], index: int, speech_seconds: float) -> tuple[list[Piece], list[Piece]]:
    """Divide within a text without times, before the last words that can be said in a time."""
    tokens = tokens_of(pieces[index].text)
    lasts = accumulate(token.seconds for token in reversed(tokens[1:]))  # if all could be said, nothing is divided
    fitting = sum(seconds <= speech_seconds for seconds in lasts)
    if fitting == 0:
        return pieces[: index + 1], pieces[index + 1 :]
    left, right = split(pieces[index], tokens[-fitting].start)
    return [*pieces[:index], left], [right, *pieces[index + 1 :]]
