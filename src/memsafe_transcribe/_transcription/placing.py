"""Pure: what an engine heard in one chunk -> pieces on the clock of the whole audio -> segments."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from math import inf, isnan

from .protocol import ChunkResult
from .scripts import join_text, tokens_of, writable
from .transcript import Segment, Word

# A caption of two lines of 42 characters, on screen for 7 seconds at most: the usual subtitling limits.
_MAX_SEGMENT_CHARACTERS = 84
_MAX_SEGMENT_SECONDS = 7.0
_PAUSE_SECONDS = 0.7
_ROUNDING_SECONDS = 0.02  # an engine that counts in frames may end a word just behind the chunk
_SLIP_SECONDS = 0.5  # a word at the chunk's edge may stick out by a part of it: that alone makes no clock wrong


@dataclass(frozen=True, slots=True)
class ChunkSpan:
    """Where a chunk lies, in seconds of the whole audio.

    Attributes:
        core_start_seconds: where the part begins that this chunk alone answers for.
        core_end_seconds: where it ends.
        start_seconds: where the engine began to hear: before the core (overlap), or in it (trimmed silence).
        end_seconds: where it stopped.
    """

    core_start_seconds: float
    core_end_seconds: float
    start_seconds: float
    end_seconds: float


class Times(IntEnum):
    """How finely a piece's times can tell what was said before a moment and what after."""

    NONE = 0
    SEGMENT = 1
    WORD = 2


@dataclass(frozen=True, slots=True)
class Piece:
    """The least that a seam handles: a word, a segment without words, or text without times.

    Attributes:
        text: with white space folded.
        start_seconds: in the whole audio.
        end_seconds: the same.
        trusted: whether those times are the engine's.
        times: what they are good for. An engine whose times are mostly impossible has none.
        word: the word, if it is one; it cannot be cut.
        source: the engine's segment that the word stood in.
        unsure: whether it is the first after an unsure seam.
    """

    text: str
    start_seconds: float
    end_seconds: float
    trusted: bool
    times: Times
    word: Word | None = None
    source: Segment | None = None
    unsure: bool = False

    @property
    def middle_seconds(self) -> float:
        """Halfway through it."""
        return (self.start_seconds + self.end_seconds) / 2


def pieces_of(span: ChunkSpan, result: ChunkResult) -> list[Piece]:
    """Put what an engine heard onto the clock of the whole audio.

    Times outside what it heard, or running backwards, are moved to the nearest possible ones and marked untrusted.
    Text without times spans what was heard of the core. What is blank counts for nothing, where something else is said.

    Args:
        span: the chunk.
        result: its times count from `span.start_seconds`.
    """
    clock = _Clock(span)
    if segments := [segment for segment in map(_without_blanks, result.segments) if segment.text]:
        placed = (_placed_segment(segment, clock) for segment in segments)
        return _judged([piece for segment in placed for piece in _pieces_of_segment(segment)], clock)
    if words := _not_blank(result.words):
        return _judged([_piece_of_word(word, None) for word in _placed_words(words, clock)], clock)
    text = writable(" ".join(result.text.split()))
    start = max(span.start_seconds, span.core_start_seconds)
    end = max(start, min(span.end_seconds, span.core_end_seconds))
    return [Piece(text, start, end, trusted=False, times=Times.NONE)] if text else []


def _not_blank(words: Iterable[Word]) -> tuple[Word, ...]:
    return tuple(word for word in words if word.text.strip())


def _without_blanks(segment: Segment) -> Segment:
    """The same with white space folded, and with the text of its words where it has none of its own."""
    words = _not_blank(segment.words)
    text = " ".join(segment.text.split()) or join_text(word.text for word in words)
    return replace(segment, text=writable(text), words=words)


class _Clock:
    """Moves times from a chunk to the whole, forwards only and never out of what was heard.

    Attributes:
        impossible: how many pieces it found whose times are of no use.
    """

    def __init__(self, span: ChunkSpan) -> None:
        self.impossible = 0
        self._offset = self._latest = span.start_seconds
        self._end = max(span.start_seconds, span.end_seconds)

    def place(self, item: Word | Segment, *, is_piece: bool) -> tuple[float, float, bool]:
        """(start, end, whether they can be trusted, having been left as they were)."""
        wanted = _float(item.start_seconds) + self._offset, _float(item.end_seconds) + self._offset
        start = self._nearest(wanted[0], self._latest)
        end = self._nearest(wanted[1], start)
        self._latest = start
        moved = inf if any(map(isnan, wanted)) else max(abs(wanted[0] - start), abs(wanted[1] - end))
        self.impossible += is_piece and not (item.trusted and moved <= _SLIP_SECONDS)
        return start, end, item.trusted and moved <= _ROUNDING_SECONDS

    def _nearest(self, wanted_seconds: float, earliest_seconds: float) -> float:
        if isnan(wanted_seconds):
            return earliest_seconds
        return min(max(wanted_seconds, earliest_seconds), self._end)


def _float(seconds: float) -> float:
    """JSON has integers of any length."""
    try:
        return float(seconds)
    except OverflowError:
        return inf if seconds > 0 else -inf


def _placed_words(words: Iterable[Word], clock: _Clock) -> Iterator[Word]:
    for word in words:
        yield Word(writable(word.text), *clock.place(word, is_piece=True))


def _placed_segment(segment: Segment, clock: _Clock) -> Segment:
    start, end, trusted = clock.place(segment, is_piece=not segment.words)
    words = tuple(_placed_words(segment.words, clock))
    return Segment(segment.text, start, end, trusted, words)


def _pieces_of_segment(segment: Segment) -> list[Piece]:
    if segment.words:
        return [_piece_of_word(word, segment) for word in segment.words]
    return [Piece(segment.text, segment.start_seconds, segment.end_seconds, segment.trusted, Times.SEGMENT)]


def _piece_of_word(word: Word, source: Segment | None) -> Piece:
    return Piece(word.text, word.start_seconds, word.end_seconds, word.trusted, Times.WORD, word, source)


def _judged(pieces: list[Piece], clock: _Clock) -> list[Piece]:
    """Without any belief in the times of an engine of whose times more than a slip, or a tenth, are impossible."""
    forgiven = max(len(pieces) > 3, len(pieces) // 10)
    return pieces if clock.impossible <= forgiven else [replace(piece, times=Times.NONE) for piece in pieces]


def split(piece: Piece, offset: int) -> tuple[Piece, Piece]:
    """Cut a piece in two before a token of its text; when that was said is guessed by the length of both."""
    tokens = tokens_of(piece.text)
    before = sum(token.seconds for token in tokens if token.start < offset)
    share = before / sum(token.seconds for token in tokens)
    cut = piece.start_seconds + (piece.end_seconds - piece.start_seconds) * share
    left = replace(piece, text=piece.text[:offset].rstrip(), end_seconds=cut, trusted=False)
    right = replace(piece, text=piece.text[offset:], start_seconds=cut, trusted=False, unsure=False)
    return left, right


def segments_of(pieces: Iterable[Piece]) -> Iterator[Segment]:
    """Segments: the engine's own where they are whole, what is left of them where they were cut, or captions."""
    run: list[Piece] = []
    for piece in pieces:
        if run and (piece.unsure or not (piece.word and run[-1].word and piece.source is run[-1].source)):
            yield from _segments_of_run(run)
            run = []
        run.append(piece)
    if run:
        yield from _segments_of_run(run)


def _segments_of_run(run: list[Piece]) -> Iterator[Segment]:
    first = run[0]
    words = [piece.word for piece in run if piece.word]
    if not words:
        yield Segment(
            first.text, first.start_seconds, first.end_seconds, trusted=first.trusted, unsure_seam=first.unsure
        )
    elif first.source:
        yield replace(_kept_of(first.source, words), unsure_seam=first.unsure)
    else:
        for number, segment in enumerate(_group(words)):
            yield replace(segment, unsure_seam=first.unsure and number == 0)


def _kept_of(source: Segment, words: list[Word]) -> Segment:
    """A segment cut down to some of its words: its text too, if that has the same words."""
    if len(words) == len(source.words):
        return source
    first = next(index for index, word in enumerate(source.words) if word is words[0])
    counts = [len(tokens_of(word.text)) for word in source.words]
    tokens = tokens_of(source.text)
    if [token.key for token in tokens] != [token.key for word in source.words for token in tokens_of(word.text)]:
        return _segment(words)
    starts = [token.start for token in tokens] + [len(source.text)]
    begin, end = sum(counts[:first]), sum(counts[: first + len(words)])
    return replace(_segment(words), text=source.text[starts[begin] : starts[end]].strip())


def _group(words: list[Word]) -> Iterator[Segment]:
    group: list[Word] = []
    characters = 0  # with the space before the next word
    for word in words:
        if group and (
            word.start_seconds - group[-1].end_seconds > _PAUSE_SECONDS
            or word.end_seconds - group[0].start_seconds > _MAX_SEGMENT_SECONDS
            or characters + len(word.text) > _MAX_SEGMENT_CHARACTERS
        ):
            yield _segment(group)
            group, characters = [], 0
        group.append(word)
        characters += len(word.text) + 1
    yield _segment(group)


def _segment(words: list[Word]) -> Segment:
    trusted = all(word.trusted for word in words)
    text = join_text(word.text for word in words)
    return Segment(text, words[0].start_seconds, max(w.end_seconds for w in words), trusted, tuple(words))


def forwards(segment: Segment, earliest_seconds: float) -> tuple[Segment, float]:
    """A segment that does not begin before the last one, and the earliest that the next may begin."""
    start, end, trusted = _not_before(segment, earliest_seconds)
    latest = start
    words = []
    for word in segment.words:
        latest, word_end, possible = _not_before(word, latest)
        words.append(Word(word.text, latest, word_end, possible))
    return replace(segment, start_seconds=start, end_seconds=end, trusted=trusted, words=tuple(words)), latest


def _not_before(item: Word | Segment, earliest_seconds: float) -> tuple[float, float, bool]:
    start = max(item.start_seconds, earliest_seconds)
    moved = start - item.start_seconds
    return start, max(item.end_seconds, start), item.trusted and moved <= _ROUNDING_SECONDS
