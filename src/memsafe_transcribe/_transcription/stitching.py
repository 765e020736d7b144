"""Pure: results of chunks -> segments on the clock of the whole audio."""

import math
from collections.abc import Iterable, Iterator

from .protocol import AudioChunk, ChunkResult
from .transcript import Segment, Word

# A caption of two lines of 42 characters, on screen for 7 seconds at most: the usual subtitling limits.
_MAX_SEGMENT_CHARACTERS = 84
_MAX_SEGMENT_SECONDS = 7.0
_PAUSE_SECONDS = 0.7
_ROUNDING_SECONDS = 0.02  # an engine that counts in frames may end a word just behind the chunk


def place(chunk: AudioChunk, result: ChunkResult) -> list[Segment]:
    """Put what an engine heard in a chunk onto the clock of the whole audio.

    Times outside the chunk, or running backwards, are moved to the nearest possible ones and marked untrusted. Words
    without segments are grouped by pauses and by the length of a caption. Text without times spans the whole chunk
    and is untrusted.
    """
    clock = _Clock(chunk)
    if result.segments:
        return [_placed_segment(segment, clock) for segment in result.segments if segment.text.strip()]
    if result.words:
        return list(_group(_placed_words(result.words, clock)))
    text = " ".join(result.text.split())
    end = chunk.start_seconds + chunk.duration_seconds
    return [Segment(text, chunk.start_seconds, end, trusted=False)] if text else []


class _Clock:
    """Moves times from a chunk to the whole, forwards only and never out of the chunk."""

    def __init__(self, chunk: AudioChunk) -> None:
        self._offset = self._latest = chunk.start_seconds
        self._end = chunk.start_seconds + chunk.duration_seconds

    def place(self, start_seconds: float, end_seconds: float) -> tuple[float, float, bool]:
        """(start, end, whether they could be left as they were)."""
        start = self._nearest(start_seconds + self._offset, self._latest)
        end = self._nearest(end_seconds + self._offset, start)
        self._latest = start
        moved = max(abs(start_seconds + self._offset - start), abs(end_seconds + self._offset - end))
        return start, end, moved <= _ROUNDING_SECONDS

    def _nearest(self, wanted_seconds: float, earliest_seconds: float) -> float:
        if math.isnan(wanted_seconds):
            return earliest_seconds
        return min(max(wanted_seconds, earliest_seconds), self._end)


def _placed_words(words: Iterable[Word], clock: _Clock) -> list[Word]:
    placed = []
    for word in words:
        start, end, possible = clock.place(word.start_seconds, word.end_seconds)
        placed.append(Word(word.text, start, end, word.trusted and possible))
    return placed


def _placed_segment(segment: Segment, clock: _Clock) -> Segment:
    start, end, possible = clock.place(segment.start_seconds, segment.end_seconds)
    words = tuple(_placed_words(segment.words, clock)) if segment.words else ()
    return Segment(" ".join(segment.text.split()), start, end, segment.trusted and possible, words)


def _group(words: list[Word]) -> Iterator[Segment]:
    group: list[Word] = []
    characters = 0
    for word in words:
        if group and (
            word.start_seconds - group[-1].end_seconds > _PAUSE_SECONDS
            or word.end_seconds - group[0].start_seconds > _MAX_SEGMENT_SECONDS
            or characters + 1 + len(word.text) > _MAX_SEGMENT_CHARACTERS
        ):
            yield _segment(group)
            group, characters = [], 0
        group.append(word)
        characters += 1 + len(word.text)
    if group:
        yield _segment(group)


def _segment(words: list[Word]) -> Segment:
    text = " ".join(" ".join(word.text for word in words).split())
    trusted = all(word.trusted for word in words)
    return Segment(text, words[0].start_seconds, words[-1].end_seconds, trusted, tuple(words))
