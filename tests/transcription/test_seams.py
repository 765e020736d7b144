"""Which words are held back for the next chunk, and where the seam to it is."""

import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._transcription.stitching import ChunkSpan, Stitcher

from .test_stitching import LEFT, by_text, said, segments_of, texts, words_of


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("tick tack tick tack", "tack tick tack tick", "tick tack tick tack tick"),
        ("山水水山水", "山水水水山水", "山水水山水"),
    ],
)
def test_of_two_runs_that_both_sides_agree_on_the_one_that_drops_less_is_the_seam(
    left: str, right: str, expected: str
) -> None:
    """Of those that drop equally much, the longer one."""
    segments = by_text(mt.ChunkResult(text=left), mt.ChunkResult(text=right))
    assert [(segment.text, segment.unsure_seam) for segment in segments] == [(expected, False)]


def test_where_text_without_times_is_joined_what_follows_is_kept() -> None:
    """The right side may be in several pieces."""
    right = segments_of(("two three four five", 500.0, 600.0), ("and six", 700.0, 800.0))
    segments = by_text(mt.ChunkResult(text="one two three four"), right)
    assert [segment.text for segment in segments] == ["one two three four five", "and six"]


def test_an_engines_own_segment_is_marked_where_words_may_be_doubled() -> None:
    """Like words that stand in none."""
    then = mt.Segment("then", 2.125, 2.5, words=(mt.Word("then", 2.125, 2.5),))
    segments = by_text(said(0.0, [("so", 9.25, 9.5)]), mt.ChunkResult(segments=(then,)))
    assert [(segment.text, segment.unsure_seam) for segment in segments] == [("so", False), ("then", True)]


def test_a_word_that_ends_where_the_overlap_begins_is_held_back() -> None:
    """The next chunk may have heard it too."""
    left = said(0.0, [("so", 7.0, 7.5), ("one", 7.5, 8.0)])
    assert texts(left, said(8.0, [("then", 12.0, 12.5)])) == (["so"], ["one", "then"])


def test_a_word_half_of_which_is_before_what_the_left_side_would_have_held_back_is_kept() -> None:
    """The left side has said nothing there."""
    stitcher = Stitcher()
    segments = stitcher.push(LEFT, said(0.0, [("one", 7.25, 7.5)]))
    segments += stitcher.push(ChunkSpan(10.0, 20.0, 7.0, 20.0), said(7.0, [("two", 7.75, 8.25)]))
    assert words_of(segments + stitcher.finish()) == ["one", "two"]


def test_a_segment_whose_time_is_a_guess_is_held_back_wherever_it_ends() -> None:
    """It may have been said in the overlap."""
    known = [mt.Segment(f"l{second}", second, second + 0.5) for second in range(1, 5)]
    guessed = mt.Segment("so it goes", 6.0, 7.0, trusted=False)
    assert Stitcher().push(LEFT, mt.ChunkResult(segments=(*known, guessed))) == known


PHRASES = [(f"a{number} b{number} c{number}", 500.0 + number, 501.0 + number) for number in range(10)]


@pytest.mark.parametrize(
    "result",
    [
        pytest.param(mt.ChunkResult(segments=tuple(mt.Segment(*each) for each in PHRASES)), id="segments"),
        pytest.param(mt.ChunkResult(words=tuple(mt.Word(*each) for each in PHRASES)), id="words"),
    ],
)
def test_without_times_as_many_phrases_are_held_back_as_can_be_said(result: mt.ChunkResult) -> None:
    """Of three words each there are nine in four and a half seconds, all of them whole."""
    first, rest = texts(result, mt.ChunkResult(text="then"))
    assert first == [PHRASES[0][0]]
    assert " ".join(rest) == " ".join([*(phrase for phrase, *_ in PHRASES[1:]), "(?) then"])
