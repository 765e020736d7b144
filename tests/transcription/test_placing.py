"""Times of an engine, and whether they are believed."""

import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._transcription.placing import ChunkSpan, Times, forwards, pieces_of


@pytest.mark.parametrize(
    ("words", "impossible", "times"),
    [(3, 1, Times.NONE), (4, 1, Times.WORD), (19, 2, Times.NONE), (20, 2, Times.WORD), (20, 3, Times.NONE)],
)
def test_an_engine_is_believed_but_for_one_slip_or_a_tenth(words: int, impossible: int, times: Times) -> None:
    """Of three words and fewer all must be possible."""
    starts = [500.0 if words - number <= impossible else float(number) for number in range(words)]
    result = mt.ChunkResult(words=tuple(mt.Word("w", start, start + 0.5) for start in starts))
    assert {piece.times for piece in pieces_of(ChunkSpan(0.0, 30.0, 0.0, 30.0), result)} == {times}


@pytest.mark.parametrize(
    ("earliest_seconds", "expected"),
    [
        (-1.0, (0.0, 1.0, True)),
        (0.02, (0.02, 1.0, True)),
        (0.03, (0.03, 1.0, False)),
        (3.0, (3.0, 3.0, False)),
    ],
)
def test_a_segment_that_is_moved_does_not_end_before_it_begins(
    earliest_seconds: float, expected: tuple[float, float, bool]
) -> None:
    """And is not trusted, if it was moved by more than engines round."""
    segment, latest = forwards(mt.Segment("a", 0.0, 1.0), earliest_seconds)
    assert (segment.start_seconds, segment.end_seconds, segment.trusted) == expected
    assert latest == segment.start_seconds
