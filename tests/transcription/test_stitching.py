"""Results of chunks, put onto the clock of the whole audio."""

from itertools import combinations, pairwise

import pytest
from hypothesis import given, strategies as st

import memsafe_transcribe as mt
from memsafe_transcribe._transcription.scripts import join_text
from memsafe_transcribe._transcription.seams import nearest_chain
from memsafe_transcribe._transcription.stitching import ChunkSpan, Stitcher

CHUNK = ChunkSpan(60.0, 90.0, 60.0, 90.0)
TIMES = st.floats(-1e3, 1e3) | st.sampled_from([float("nan"), float("inf"), float("-inf"), 10**400, -(10**400)])
WORDS = st.lists(st.builds(mt.Word, st.text(st.characters(categories=["L"]), min_size=1, max_size=30), TIMES, TIMES))


def place(span: ChunkSpan, result: mt.ChunkResult) -> list[mt.Segment]:
    """One chunk alone."""
    stitcher = Stitcher()
    return stitcher.push(span, result) + stitcher.finish()


def words_of(segments: list[mt.Segment]) -> list[str]:
    return [word for segment in segments for word in segment.text.split()]


@given(words=WORDS)
def test_no_word_is_lost_and_no_time_leaves_the_chunk(words: list[mt.Word]) -> None:
    """Whatever times an engine gives: every word once, in order, within the chunk, never backwards."""
    segments = place(CHUNK, mt.ChunkResult(words=tuple(words)))
    placed = [word for segment in segments for word in segment.words]
    assert [word.text for word in placed] == [word.text for word in words]
    latest = CHUNK.start_seconds
    for word in placed:
        assert latest <= word.start_seconds <= word.end_seconds <= 90.0
        latest = word.start_seconds
    for segment in segments:
        assert segment.text == join_text(word.text for word in segment.words)
        assert segment.trusted == all(word.trusted for word in segment.words)


@given(cuts=st.lists(st.integers(0, 3000), min_size=2, max_size=40).map(sorted))
def test_possible_times_are_only_moved_to_the_whole(cuts: list[int]) -> None:
    """Times in order and inside the chunk keep their value, and are trusted."""
    words = tuple(mt.Word("w", start / 100, end / 100) for start, end in pairwise(cuts))
    placed = [word for segment in place(CHUNK, mt.ChunkResult(words=words)) for word in segment.words]
    assert all(word.trusted for word in placed)
    for before, after in zip(words, placed, strict=True):
        assert abs(after.start_seconds - before.start_seconds - 60.0) < 1e-9
        assert abs(after.end_seconds - before.end_seconds - 60.0) < 1e-9


def test_a_time_beyond_all_floats_is_moved_like_any_other() -> None:
    """JSON has integers of any length, and an engine may hand them on."""
    words = (mt.Word("a", -(10**400), 1.0), mt.Word("b", 2.0, 10**400))
    heard = [word for segment in place(CHUNK, mt.ChunkResult(words=words)) for word in segment.words]
    assert [(word.start_seconds, word.end_seconds, word.trusted) for word in heard] == [
        (60.0, 61.0, False),
        (62.0, 90.0, False),
    ]


def test_impossible_times_are_marked() -> None:
    """Behind the chunk, backwards, and not a number."""
    words = (mt.Word("a", 5.0, 6.0), mt.Word("b", 2.0, 3.0), mt.Word("c", 40.0, 41.0), mt.Word("d", float("nan"), 1.0))
    (*_, last) = segments = place(CHUNK, mt.ChunkResult(words=words))
    assert [word.trusted for segment in segments for word in segment.words] == [True, False, False, False]
    assert last.words[-1].end_seconds == 90.0


def test_an_end_that_is_no_number_is_marked() -> None:
    """Not only a start."""
    (segment,) = place(CHUNK, mt.ChunkResult(words=(mt.Word("a", 1.0, float("nan")),)))
    assert [(word.start_seconds, word.end_seconds, word.trusted) for word in segment.words] == [(61.0, 61.0, False)]


_BLANK_WORDS = (mt.Word(" ", 0.0, 1.0), mt.Word("", 1.0, 2.0))


@pytest.mark.parametrize(
    "result",
    [
        pytest.param(mt.ChunkResult(text="two words", segments=(mt.Segment(" ", 0.0, 1.0),)), id="blank segments"),
        pytest.param(mt.ChunkResult(text="two words", words=_BLANK_WORDS), id="blank words"),
        pytest.param(
            mt.ChunkResult(
                segments=(mt.Segment("", 0.0, 2.0, words=(mt.Word("two", 0.0, 1.0), mt.Word("words", 1.0, 2.0))),)
            ),
            id="a segment of words alone",
        ),
        pytest.param(
            mt.ChunkResult(
                segments=(mt.Segment("", 0.0, 2.0),), words=(mt.Word("two", 0.0, 1.0), mt.Word("words", 1.0, 2.0))
            ),
            id="blank segments beside words",
        ),
        pytest.param(
            mt.ChunkResult(segments=(mt.Segment("two words", 0.0, 2.0, words=_BLANK_WORDS),)),
            id="a segment of blank words",
        ),
    ],
)
@pytest.mark.parametrize("span", [CHUNK, ChunkSpan(60.0, 62.0, 60.0, 64.0)], ids=["alone", "with an overlap"])
def test_what_is_said_is_not_lost_behind_parts_that_say_nothing(span: ChunkSpan, result: mt.ChunkResult) -> None:
    """Some servers give a list of segments, or of words, with nothing in them."""
    segments = place(span, result)
    assert words_of(segments) == ["two", "words"]
    assert all(word.text.strip() for segment in segments for word in segment.words)


def test_words_are_grouped_into_captions() -> None:
    """A pause, seven seconds, or two lines of text end a segment."""
    pause = place(CHUNK, mt.ChunkResult(words=(mt.Word("one", 0.0, 1.0), mt.Word("two", 1.8, 2.0))))
    assert [segment.text for segment in pause] == ["one", "two"]
    steady = tuple(mt.Word("word", second, second + 1.0) for second in range(20))
    assert all(s.end_seconds - s.start_seconds <= 7.0 for s in place(CHUNK, mt.ChunkResult(words=steady)))
    wordy = tuple(mt.Word("x" * 20, n / 10, n / 10 + 0.1) for n in range(20))
    assert all(len(segment.text) <= 84 for segment in place(CHUNK, mt.ChunkResult(words=wordy)))


FIRST = ChunkSpan(0.0, 30.0, 0.0, 30.0)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [([40, 43], [84]), ([40, 44], [40, 44]), ([84, 1], [84, 1]), ([20, 20, 20, 21, 40, 43], [84, 84])],
)
def test_a_caption_has_84_characters_at_most(lengths: list[int], expected: list[int]) -> None:
    """With the spaces between its words."""
    words = tuple(mt.Word("x" * length, n / 10, n / 10 + 0.1) for n, length in enumerate(lengths))
    assert [len(segment.text) for segment in place(FIRST, mt.ChunkResult(words=words))] == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([(0.0, 1.0), (1.7, 2.0)], 1),
        ([(0.0, 1.0), (1.75, 2.0)], 2),
        ([(0.0, 3.0), (3.0, 7.0)], 1),
        ([(0.0, 3.0), (3.0, 7.125)], 2),
    ],
)
def test_a_caption_ends_before_a_longer_pause_or_when_it_lasts_too_long(
    words: list[tuple[float, float]], expected: int
) -> None:
    """0.7 s of pause and 7 s in all are let pass."""
    result = mt.ChunkResult(words=tuple(mt.Word("word", start, end) for start, end in words))
    assert len(place(FIRST, result)) == expected


def test_text_without_times_spans_the_chunk_and_is_not_trusted() -> None:
    """White space is folded; no text makes no segment."""
    assert place(CHUNK, mt.ChunkResult(text=" all \n of it ")) == [mt.Segment("all of it", 60.0, 90.0, trusted=False)]
    assert place(CHUNK, mt.ChunkResult(text="  ")) == []


def test_segments_keep_their_words() -> None:
    """Segments of the engine's own are moved with the words in them."""
    segment = mt.Segment("a b", 1.0, 2.0, words=(mt.Word("a", 1.0, 1.5), mt.Word("b", 1.5, 2.0)))
    (placed,) = place(CHUNK, mt.ChunkResult(segments=(segment,)))
    assert (placed.start_seconds, placed.end_seconds, placed.trusted) == (61.0, 62.0, True)
    assert [word.start_seconds for word in placed.words] == [61.0, 61.5]


def test_two_spellings_of_one_word_are_taken_once() -> None:
    """Where nothing aligns, a word that the sides put on either side of the border is neither doubled nor lost."""
    left, right = ChunkSpan(0.0, 10.0, 0.0, 12.0), ChunkSpan(10.0, 20.0, 8.0, 20.0)

    def seam(left_start: float, right_start: float) -> list[mt.Segment]:
        stitcher = Stitcher()
        first = mt.Word("colour", left_start, left_start + 0.4)
        second = mt.Word("color", right_start - 8.0, right_start - 7.6)
        pushed = stitcher.push(left, mt.ChunkResult(words=(mt.Word("the", 9.2, 9.3), first)))
        return [*pushed, *stitcher.push(right, mt.ChunkResult(words=(second,))), *stitcher.finish()]

    assert words_of(seam(9.7, 9.85)) == ["the", "colour"]
    assert words_of(seam(9.85, 9.7)) == ["the", "color"]
    assert any(segment.unsure_seam for segment in seam(9.85, 9.7))


def test_text_joins_as_it_was_written() -> None:
    """Capitals and full stops that an engine puts at its text's ends are not taken into the middle of a sentence."""
    stitcher = Stitcher()
    left, right = ChunkSpan(0.0, 10.0, 0.0, 12.0), ChunkSpan(10.0, 20.0, 8.0, 20.0)
    segments = stitcher.push(left, mt.ChunkResult(text="We went down to the river and saw."))
    segments += stitcher.push(right, mt.ChunkResult(text="The river and saw a boat.")) + stitcher.finish()
    assert join_text(segment.text for segment in segments) == "We went down to the river and saw a boat."
    assert not any(segment.trusted for segment in segments)


def test_an_empty_side_is_nothing() -> None:
    """Neither silence nor a failed chunk loses what its neighbours heard in the overlap, and no seam is unsure."""
    spans = [ChunkSpan(0.0, 10.0, 0.0, 12.0), ChunkSpan(10.0, 20.0, 8.0, 22.0), ChunkSpan(20.0, 30.0, 18.0, 30.0)]
    for failed in (True, False):
        stitcher = Stitcher()
        segments = stitcher.push(spans[0], mt.ChunkResult(words=(mt.Word("one", 11.0, 11.4),)))
        segments += stitcher.skip() if failed else stitcher.push(spans[1], mt.ChunkResult(text=" "))
        assert words_of(segments) == ["one"], "nothing is held back any more"
        segments += stitcher.push(spans[2], mt.ChunkResult(words=(mt.Word("two", 0.5, 0.9),))) + stitcher.finish()
        assert words_of(segments) == ["one", "two"]
        assert not any(segment.unsure_seam for segment in segments)


def test_times_in_another_unit_lose_no_word() -> None:
    """Milliseconds: no time is believed, the seam goes by text, and nothing is doubled either."""
    words = [f"w{index}" for index in range(24)]
    spans = [(ChunkSpan(0.0, 10.0, 0.0, 12.0), 0, 12), (ChunkSpan(10.0, 24.0, 8.0, 24.0), 8, 24)]
    stitcher, segments = Stitcher(), []
    for span, first, end in spans:
        heard = [mt.Word(words[n], (n - first) * 1e3, (n - first) * 1e3 + 800) for n in range(first, end)]
        segments += stitcher.push(span, mt.ChunkResult(words=tuple(heard)))
    segments += stitcher.finish()
    assert words_of(segments) == words
    assert not any(word.trusted for segment in segments for word in segment.words[1:])


def test_a_segment_that_is_cut_keeps_its_own_spelling() -> None:
    """Words without punctuation in segments with it: what is left of a segment is cut from its own text."""
    spans = [ChunkSpan(0.0, 10.0, 0.0, 12.0), ChunkSpan(10.0, 20.0, 8.0, 20.0)]
    words = tuple(
        mt.Word(text, second, second + 0.5) for text, second in (("hello", 9.0), ("my", 10.1), ("friend", 11.0))
    )
    again = tuple(mt.Word(word.text, word.start_seconds - 8, word.end_seconds - 8) for word in words)
    stitcher = Stitcher()
    segments = stitcher.push(
        spans[0], mt.ChunkResult(segments=(mt.Segment("Hello, my friend!", 9.0, 11.5, words=words),))
    )
    segments += stitcher.push(
        spans[1], mt.ChunkResult(segments=(mt.Segment("Hello, my friend!", 1.0, 3.5, words=again),))
    )
    segments += stitcher.finish()
    assert [segment.text for segment in segments] == ["Hello,", "my friend!"]


LEFT, RIGHT = ChunkSpan(0.0, 10.0, 0.0, 12.0), ChunkSpan(10.0, 20.0, 8.0, 20.0)


def seam(left: list[tuple[str, float, float]], right: list[tuple[str, float, float]]) -> list[mt.Segment]:
    """Words with their times in the whole audio, stitched at 10 s."""
    stitcher = Stitcher()
    segments = stitcher.push(LEFT, said(LEFT.start_seconds, left))
    segments += stitcher.push(RIGHT, said(RIGHT.start_seconds, right))
    return segments + stitcher.finish()


def said(start_seconds: float, words: list[tuple[str, float, float]]) -> mt.ChunkResult:
    """The same words on the clock of a chunk that begins there."""
    return mt.ChunkResult(
        words=tuple(mt.Word(text, begin - start_seconds, end - start_seconds) for text, begin, end in words)
    )


def test_pairs_that_lie_across_each_other_are_not_both_taken() -> None:
    """The nearer pair decides; the word that was said twice comes twice."""
    left = [("so", 9.5, 9.7), ("well", 9.8, 10.0)]
    assert words_of(seam(left, [("well", 9.85, 10.05), ("so", 10.2, 10.4)])) == ["so", "well", "so"]


@given(data=st.data(), lefts=st.sets(st.integers(0, 5), max_size=6).map(sorted))
def test_the_chain_is_the_longest_and_of_those_the_nearest(data: st.DataObject, lefts: list[int]) -> None:
    """As found by trying all of them."""
    pairs = [(i, data.draw(st.integers(0, 5))) for i in lefts]
    costs = {pair: data.draw(st.integers(0, 9)) for pair in pairs}

    def worth(chain: tuple[tuple[int, int], ...]) -> tuple[int, int]:
        return len(chain), -sum(costs[pair] for pair in chain)

    chains = [chain for size in range(len(pairs) + 1) for chain in combinations(pairs, size)]
    best = max(worth(chain) for chain in chains if all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(chain)))
    found = tuple(nearest_chain(pairs, lambda i, j: float(costs[i, j])))
    assert found in chains
    assert worth(found) == best


def test_a_word_on_the_border_is_the_right_sides() -> None:
    """Going by the middle of both reports, whatever else was heard before."""
    (word,) = [word for segment in seam([("now", 9.5, 10.5)], [("now", 9.75, 10.25)]) for word in segment.words]
    assert (word.start_seconds, word.end_seconds) == (9.75, 10.25)
    left = [("so", 8.5, 8.75), ("then", 8.75, 9.0), ("now", 10.0, 10.25)]
    words = [word for segment in seam(left, [("now", 10.0, 10.5)]) for word in segment.words]
    assert [(word.text, word.end_seconds) for word in words] == [("so", 8.75), ("then", 9.0), ("now", 10.5)]


@pytest.mark.parametrize(("apart_seconds", "expected"), [(0.75, "so well then"), (0.875, "so well well then")])
def test_reports_of_one_word_are_no_farther_apart_than_a_third_of_the_overlap(
    apart_seconds: float, expected: str
) -> None:
    """Or a second, where that is less."""
    stitcher = Stitcher()
    left = [("so", 9.0, 9.25), ("well", 9.5, 9.75)]
    right = [("well", 9.5 + apart_seconds, 9.75 + apart_seconds), ("then", 13.0, 13.5)]
    segments = stitcher.push(ChunkSpan(0.0, 10.0, 0.0, 11.25), said(0.0, left))
    segments += stitcher.push(ChunkSpan(10.0, 20.0, 8.75, 20.0), said(8.75, right)) + stitcher.finish()
    assert " ".join(words_of(segments)) == expected


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (("colour", 9.0, 10.0), ("color", 9.78, 10.78), "colour color"),
        (("colour", 9.0, 10.0), ("color", 9.7, 10.7), "colour"),
        (("coloured", 8.5, 10.5), ("color", 10.2, 10.6), "coloured"),
    ],
)
def test_neighbours_that_share_a_quarter_of_the_shorter_one_are_one_word(
    left: tuple[str, float, float], right: tuple[str, float, float], expected: str
) -> None:
    """And is taken once, as the left side has it."""
    assert " ".join(words_of(seam([left], [right]))) == expected


def test_a_seam_in_silence_is_sure() -> None:
    """Nobody said anything near the border: nothing can be doubled there."""
    segments = seam([("so", 8.2, 8.5)], [("then", 12.5, 13.0)])
    assert words_of(segments) == ["so", "then"]
    assert not any(segment.unsure_seam for segment in segments)


def test_a_segment_across_the_border_stands_for_what_the_other_side_had_before_it() -> None:
    """The right side heard the end of it only, in other words."""
    left, right = mt.Segment("a long sentence", 7.0, 12.0), mt.Segment("some tents", 0.0, 1.5)
    segments = by_text(mt.ChunkResult(segments=(left,)), mt.ChunkResult(segments=(right,)))
    assert [segment.text for segment in segments] == ["a long sentence"]


def test_text_without_times_that_is_joined_lasts_as_long_as_both() -> None:
    """From the beginning of the first chunk to the end of the second."""
    left, right = mt.ChunkResult(text="one two three four"), mt.ChunkResult(text="two three four five")
    (segment,) = by_text(left, right)
    assert (segment.text, segment.start_seconds, segment.end_seconds) == ("one two three four five", 0.0, 20.0)


def test_a_word_that_both_heard_is_reported_by_the_side_that_answers_for_it() -> None:
    """The other one may have heard a part of it only, at the end of what it heard, and had to guess when it was."""
    parts = [(5.0, 10.0, 3.0, 12.0), (10.0, 14.0, 8.0, 16.0), (14.0, 20.0, 11.8, 20.0)]
    heard = [("wonderful", 11.8, 12.0)], [("wonderful", 11.8, 13.5)], [("wonderful", 11.8, 13.5), ("day", 14.2, 14.5)]
    stitcher, segments = Stitcher(), []
    for part, words in zip(parts, heard, strict=True):
        segments += stitcher.push(ChunkSpan(*part), said(part[2], words))
    segments += stitcher.finish()
    reports = [word for segment in segments for word in segment.words]
    assert [word.text for word in reports] == ["wonderful", "day"]
    assert [word.start_seconds for word in reports] == pytest.approx([11.8, 14.2])
    assert [word.end_seconds for word in reports] == pytest.approx([13.5, 14.5])
    before = seam([("so", 8.2, 8.5), ("well", 9.5, 9.9)], [("so", 8.3, 8.4), ("well", 9.6, 9.8), ("then", 10.4, 10.6)])
    assert [word.start_seconds for segment in before for word in segment.words] == pytest.approx([8.2, 9.5, 10.4])


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        # What the other side has nothing for is kept up to half way to the edge of the overlap, and no further.
        ([("so", 8.5, 8.9), ("well", 10.5, 11.0)], [("then", 12.5, 13.0)], "so well then"),
        ([("so", 8.5, 8.9), ("we", 10.1, 10.3), ("went", 10.9, 11.5)], [("then", 12.5, 13.0)], "so we then"),
        ([("so", 8.2, 8.5)], [("well", 9.0, 9.4), ("then", 12.5, 13.0)], "so well then"),
        ([("so", 8.2, 8.5)], [("well", 8.9, 9.4), ("then", 12.5, 13.0)], "so then"),
        # Also where the other side has said all it has; and not where it has something that begins there.
        ([("so", 9.0, 9.9), ("well", 10.1, 10.5)], [("sew", 9.3, 9.6)], "so well"),
        ([("so", 8.0, 8.4), ("two", 10.25, 10.75)], [("too", 10.5, 11.5)], "so too"),
    ],
)
def test_words_on_the_wrong_side_of_the_border_are_kept_where_the_other_side_has_none(
    left: list[tuple[str, float, float]], right: list[tuple[str, float, float]], expected: str
) -> None:
    """An engine may be late or early by a little; what is cut off at the edge is the other side's."""
    assert " ".join(words_of(seam(left, right))) == expected


def test_when_the_words_of_a_segment_that_is_cut_were_said_is_guessed_by_its_length() -> None:
    """Four of six words are two thirds of its time."""
    left = mt.Segment("one two three four five six", 6.0, 12.0)
    right = mt.Segment("three four five six seven", 0.0, 5.0)
    segments = by_text(mt.ChunkResult(segments=(left,)), mt.ChunkResult(segments=(right,)))
    assert [segment.text for segment in segments] == ["one two three four", "five six seven"]
    times = [(segment.start_seconds, segment.end_seconds, segment.trusted) for segment in segments]
    assert times == [(6.0, pytest.approx(10.0), False), (pytest.approx(10.0), 13.0, False)]


def test_segments_that_end_and_begin_at_the_border_need_no_comparing() -> None:
    """Neither is across it."""
    stitcher = Stitcher()
    heard = mt.Segment("We went down.", 0.0, 10.0), mt.Segment("And saw a boat.", 2.0, 8.0)
    segments = stitcher.push(LEFT, mt.ChunkResult(segments=heard[:1]))
    segments += stitcher.push(RIGHT, mt.ChunkResult(segments=heard[1:])) + stitcher.finish()
    assert [segment.text for segment in segments] == ["We went down.", "And saw a boat."]
    assert not any(segment.unsure_seam for segment in segments)


def test_a_long_word_around_a_short_one_loses_it_not() -> None:
    """Times may lie within each other: no seam is put before what was said before the overlap."""
    heard = said(0.0, [("aah", 7.6, 12.0), ("yes", 7.65, 7.9), ("now", 9.5, 9.8)])
    stitcher = Stitcher()
    segments = stitcher.push(LEFT, mt.ChunkResult(segments=(mt.Segment("aah yes now", 7.6, 12.0, words=heard.words),)))
    segments += stitcher.push(RIGHT, said(8.0, [("aah", 8.0, 12.6), ("no", 14.5, 15.0)])) + stitcher.finish()
    assert words_of(segments) == ["aah", "yes", "now", "no"]


def test_a_sliver_at_the_edge_is_not_taken_for_a_word() -> None:
    """The right chunk heard only the end of a word; the left one heard it all."""
    left = [("hello", 7.5, 8.02)]
    assert words_of(seam(left, [("oh", 8.03, 8.05), ("there", 11.9, 12.3)])) == ["hello", "there"]


def test_a_run_that_would_drop_what_only_one_side_has_is_no_seam() -> None:
    """The same words before and after the overlap, too few in it: all is kept, and flagged."""
    stitcher = Stitcher()
    segments = stitcher.push(LEFT, mt.ChunkResult(text="all you need is love d e"))
    segments += stitcher.push(RIGHT, mt.ChunkResult(text="d e f g all you need is love h")) + stitcher.finish()
    assert " ".join(words_of(segments)) == "all you need is love d e d e f g all you need is love h"
    assert [segment.unsure_seam for segment in segments] == [False, True]


RUN = "the river and saw"


def by_text(left: mt.ChunkResult, right: mt.ChunkResult) -> list[mt.Segment]:
    stitcher = Stitcher()
    segments = stitcher.push(LEFT, left)
    return [*segments, *stitcher.push(RIGHT, right), *stitcher.finish()]


def test_the_shortest_run_is_cut_behind_its_first_word() -> None:
    """Three words are enough; of two places that are equally near to the middle the first is taken."""
    segments = by_text(mt.ChunkResult(text="We went to THE RIVER AND"), mt.ChunkResult(text="the river and back."))
    assert join_text(segment.text for segment in segments) == "We went to THE river and back."


def test_of_two_runs_the_longer_one_is_the_seam() -> None:
    """What lies between them is the left side's then."""
    left, right = mt.ChunkResult(text="a b c x d e f g"), mt.ChunkResult(text="a b c y d e f g then")
    assert " ".join(words_of(by_text(left, right))) == "a b c x d e f g then"
    left, right = mt.ChunkResult(text="a b c d x e f g"), mt.ChunkResult(text="a b c d y e f g then")
    assert " ".join(words_of(by_text(left, right))) == "a b c d y e f g then"


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (
            ["so", "alpha beta gamma", "delta"],
            ["alpha", "beta", "gamma", "delta", "then"],
            "so|alpha beta gamma|delta|then",
        ),
        (
            ["so", "alpha", "beta", "gamma", "delta"],
            ["alpha beta gamma", "delta", "then"],
            "so|alpha|beta|gamma|delta|then",
        ),
        (
            ["alpha beta", "gamma delta"],
            ["alpha", "beta gamma", "delta", "then"],
            "alpha beta|gamma delta|alpha|beta gamma|delta|then",
        ),
    ],
)
def test_no_word_is_cut_in_two_where_its_text_has_several(left: list[str], right: list[str], expected: str) -> None:
    """The seam lies where both sides begin a word; where they never do, all is kept. The times are in milliseconds."""

    def result(words: list[str]) -> mt.ChunkResult:
        return mt.ChunkResult(words=tuple(mt.Word(text, n * 1e6, n * 1e6 + 1) for n, text in enumerate(words)))

    words = [word.text for segment in by_text(result(left), result(right)) for word in segment.words]
    assert "|".join(words) == expected


@pytest.mark.parametrize(
    ("before", "after", "has_seam"),
    [
        (("", ""), ("one big boats", "one many boats passing"), True),
        (("", ""), ("big white boats", "many boats passing by"), False),
        (("", ""), ("grey boats", "many old wide boats"), False),
        (("", ""), ("grey river", "many birds passing"), False),
        (("many boats then", "big boats"), ("", ""), True),
        (("far boats went by", "big white boats"), ("", ""), False),
        (("boats many old wide", "grey boats"), ("", ""), False),
        (("boats", "boats white"), ("", ""), True),
        (("old grey boats", "grey boats white"), ("", ""), True),
        (("a zebra cat", "lonely silent night"), ("big boats", "many boats passing"), False),
        (("many boats then", "big boats"), ("a zebra cat", "lonely silent night"), False),
    ],
)
def test_a_run_is_a_seam_if_most_of_what_it_drops_is_on_the_other_side(
    before: tuple[str, str], after: tuple[str, str], has_seam: bool
) -> None:
    """Near it, in about as many words; of both that the left side has after it, and the right side before it."""
    left, right = (f"{before[side]} {RUN} {after[side]}".strip() for side in (0, 1))
    segments = by_text(mt.ChunkResult(text=left), mt.ChunkResult(text=right))
    together = f"{before[0]} {RUN} {after[1]}".strip() if has_seam else f"{left} {right}"
    assert " ".join(words_of(segments)) == together
    assert [segment.unsure_seam for segment in segments] == [False, True]


def test_a_word_heard_differently_within_the_overlap_is_taken_once() -> None:
    """Most of what the left side has after the run is on the right side too: spliced, and flagged."""
    stitcher = Stitcher()
    segments = stitcher.push(LEFT, mt.ChunkResult(text="then one two three fore five"))
    segments += stitcher.push(RIGHT, mt.ChunkResult(text="one two three four five six")) + stitcher.finish()
    assert " ".join(words_of(segments)) == "then one two three four five six"
    assert any(segment.unsure_seam for segment in segments)


def test_times_never_run_backwards_over_a_seam() -> None:
    """The right chunk's clock is early by more than a word: its first words are moved, and say so."""
    left = [("one", 9.0, 9.3), ("two", 9.9, 10.1)]
    segments = seam(left, [("two", 9.2, 9.4), ("three", 9.5, 9.7), ("four", 11.0, 11.2)])
    words = [word for segment in segments for word in segment.words]
    assert [word.text for word in words] == ["one", "two", "three", "four"]
    assert [word.trusted for word in words] == [True, True, False, True]
    assert [word.start_seconds for word in words] == [9.0, 9.9, 9.9, 11.0]


def test_text_is_joined_as_its_script_is_written() -> None:
    """No space between Han, kana or Thai, and their punctuation; spaces where either side has words."""
    assert join_text(["東京", "です。", "はい", "yes", "是"]) == "東京です。はい yes 是"
    assert join_text(["สวัส", "ดี", "", " so  far "]) == "สวัสดี so far"
    assert join_text(["안녕", "하세요"]) == "안녕 하세요"


def test_punctuation_is_neither_a_word_nor_a_difference() -> None:
    """Dashes that stand alone, quotes, case and width."""
    wide = "".join(chr(ord(letter) + 0xFEE0) for letter in "river")
    stitcher = Stitcher()
    segments = stitcher.push(LEFT, mt.ChunkResult(text="and we — WENT “down” to — the river"))
    segments += stitcher.push(RIGHT, mt.ChunkResult(text=f"went down - to the {wide}, by boat")) + stitcher.finish()
    assert join_text(segment.text for segment in segments) == f"and we — WENT “down” to the {wide}, by boat"
    assert not any(segment.unsure_seam for segment in segments)


def test_a_wide_full_stop_stands_with_what_it_ends() -> None:
    """It is not doubled where a Latin word follows it, with a space or without."""
    for left, right in (
        ("我说中文。 Yes we can", "说中文。Yes we can too"),
        ("我说中文。Yes we can", "说中文。 Yes we can too"),
    ):
        stitcher = Stitcher()
        segments = stitcher.push(LEFT, mt.ChunkResult(text=left))
        segments += stitcher.push(RIGHT, mt.ChunkResult(text=right)) + stitcher.finish()
        text = join_text(segment.text for segment in segments)
        assert text.replace(" ", "") == "我说中文。Yeswecantoo"
        assert not any(segment.unsure_seam for segment in segments)


def test_a_segment_across_the_border_is_kept_from_both_sides() -> None:
    """Segments without words whose texts do not align: nothing that only a straddling one has is lost."""
    stitcher = Stitcher()
    left = (mt.Segment("a b", 8.2, 9.7), mt.Segment("x y z", 9.85, 11.9))
    right = (mt.Segment("a q x", 0.2, 1.98), mt.Segment("r z", 2.05, 4.0))
    segments = stitcher.push(LEFT, mt.ChunkResult(segments=left))
    segments += stitcher.push(RIGHT, mt.ChunkResult(segments=right)) + stitcher.finish()
    assert [(segment.text, segment.unsure_seam) for segment in segments] == [
        ("a b", False),
        ("x y z", False),
        ("r z", True),
    ]


def test_a_segment_that_reaches_into_the_overlap_is_not_torn() -> None:
    """It is held back whole, and comes out whole where the seam is behind it."""
    words = tuple(mt.Word(f"w{second}", second, second + 0.5) for second in range(5, 10))
    whole = mt.Segment("W5, w6, w7, w8, w9.", 5.0, 9.5, words=words)
    before = mt.Segment("So.", 1.0, 1.5, words=(mt.Word("so", 1.0, 1.5),))
    stitcher = Stitcher()
    assert stitcher.push(LEFT, mt.ChunkResult(segments=(before, whole))) == [before]
    segments = stitcher.push(RIGHT, mt.ChunkResult(words=(mt.Word("w9", 1.0, 1.5), mt.Word("w10", 2.1, 2.5))))
    assert [segment.text for segment in segments + stitcher.finish()] == [whole.text, "w10"]


def test_a_segment_whose_time_is_a_guess_does_not_decide_by_its_middle() -> None:
    """It ends somewhere near the border: a word may be on both sides of it, so the seam is unsure."""
    left = [mt.Segment(f"l{second}", second, second + 0.5) for second in range(1, 5)]
    right = [mt.Segment(f"r{second}", second, second + 0.5) for second in range(5, 8)]
    stitcher = Stitcher()
    segments = stitcher.push(LEFT, mt.ChunkResult(segments=(*left, mt.Segment("so it goes", 9.0, 9.9, trusted=False))))
    segments += stitcher.push(RIGHT, mt.ChunkResult(segments=(mt.Segment("goes on", 2.05, 2.6), *right)))
    segments += stitcher.finish()
    assert "so it goes goes on" in " ".join(segment.text for segment in segments)
    assert [segment.text for segment in segments if segment.unsure_seam] == ["goes on"]


def test_a_word_that_only_one_side_heard_is_kept_on_either_side_of_the_border() -> None:
    """If the other one heard nothing in that time; where it did, they are two reports of one word."""
    one, there = ("one", 9.0, 9.3), ("there", 10.6, 11.0)
    assert words_of(seam([one, ("lost", 10.1, 10.4)], [there])) == ["one", "lost", "there"]
    assert words_of(seam([one], [("lost", 9.5, 9.8), there])) == ["one", "lost", "there"]
    assert words_of(seam([one, ("colour", 9.5, 9.8)], [("color", 9.55, 9.85), there])) == ["one", "colour", "there"]
    assert words_of(seam([one, ("colour", 10.2, 10.5)], [("color", 10.15, 10.45), there])) == ["one", "color", "there"]


def texts(*results: mt.ChunkResult) -> tuple[list[str], list[str]]:
    """What is final when the right one of two results at 10 s is not there yet, and what comes after it."""
    stitcher = Stitcher()
    first = stitcher.push(LEFT, results[0])
    rest = [*stitcher.push(RIGHT, results[1]), *stitcher.finish()]
    marks = {False: "", True: "(?) "}
    return [segment.text for segment in first], [marks[segment.unsure_seam] + segment.text for segment in rest]


def segments_of(*segments: tuple[str, float, float]) -> mt.ChunkResult:
    return mt.ChunkResult(segments=tuple(mt.Segment(*segment) for segment in segments))


def test_segments_beside_the_border_go_by_their_middles() -> None:
    """Where none lies across it, whatever their texts are: one is taken from the side that it is on."""
    left = segments_of(("a b", 8.2, 9.7), ("p q", 10.2, 11.5))
    assert texts(left, segments_of(("c d", 0.4, 1.6), ("r s", 2.3, 3.8))) == ([], ["a b", "r s"])


def test_segments_across_the_border_are_joined_by_their_text() -> None:
    """Each word comes once; when a segment that was cut begins and ends is a guess."""
    left = segments_of(("and so we went", 2.0, 7.9), ("down to the river", 8.5, 11.5))
    stitcher = Stitcher()
    segments = stitcher.push(LEFT, left)
    segments += stitcher.push(RIGHT, segments_of(("down to the river and on", 0.6, 5.0))) + stitcher.finish()
    assert " ".join(words_of(segments)) == "and so we went down to the river and on"
    assert [segment.trusted for segment in segments] == [True, False, False]
    assert not any(segment.unsure_seam for segment in segments)


def test_of_long_texts_only_the_ends_are_held_back_and_compared() -> None:
    """Six words a second is the most that is said in the four seconds of the overlap, and a little besides."""
    words = [f"w{number}" for number in range(120)]
    first, rest = texts(mt.ChunkResult(text=" ".join(words[:70])), mt.ChunkResult(text=" ".join(words[55:])))
    assert " ".join([*first, *rest]).split() == words
    assert 70 - 4.5 * 6 <= len(" ".join(first).split()) <= 70 - 4 * 6
    river = "down to the river"
    left, right = f"{river} {' '.join(words)} we went {river}", f"{river} {' '.join(words)} and {river}"
    first, rest = texts(mt.ChunkResult(text=left), mt.ChunkResult(text=right))
    assert " ".join([*first, *rest]) == left + right.removeprefix(river)


def test_of_several_texts_without_times_as_many_are_held_back_as_can_be_said() -> None:
    """Of one that has no room any more, nothing: it is out, whole; one that has some room is divided."""
    chunk = " ".join(f"w{number}" for number in range(26)) + "\u4e2d"
    no_times = [("alpha beta", 500.0, 600.0), (chunk, 700.0, 800.0)]
    assert texts(segments_of(*no_times), mt.ChunkResult(text="\u6587")) == (["alpha beta"], [chunk, "(?) \u6587"])
    before = ("one two", 400.0, 450.0)
    assert texts(segments_of(before, *no_times), mt.ChunkResult(text="\u6587")) == (
        ["one two", "alpha beta"],
        [chunk, "(?) \u6587"],
    )
    few = "w0 w1 w2"
    no_times = [("so " * 30, 500.0, 600.0), (few, 700.0, 800.0)]
    first, rest = texts(segments_of(*no_times), mt.ChunkResult(text="then"))
    assert (len(first[0].split()), len(rest[0].split())) in [(6, 24), (7, 23)]
    assert rest[1:] == [few, "(?) then"]


def test_where_the_left_side_was_silent_in_the_overlap_nothing_was_held_back() -> None:
    """Text without times may begin with what is out already; words and segments tell that by their times."""
    left = mt.ChunkResult(words=(mt.Word("one", 7.2, 7.6),))
    assert texts(left, mt.ChunkResult(text="two three")) == (["one"], ["(?) two three"])
    assert texts(left, segments_of(("two three", 0.5, 1.5))) == (["one"], ["two three"])
    early = ChunkSpan(10.0, 20.0, 7.0, 20.0)
    again = mt.ChunkResult(words=(mt.Word("one", 0.2, 0.6), mt.Word("two", 1.4, 1.8)))
    stitcher = Stitcher()
    segments = stitcher.push(LEFT, left) + stitcher.push(early, again) + stitcher.finish()
    assert [(segment.text, segment.start_seconds, segment.unsure_seam) for segment in segments] == [
        ("one", 7.2, False),
        ("two", pytest.approx(8.4), False),
    ]


def test_a_chunk_that_reaches_back_into_one_that_did_not_reach_forwards_keeps_its_words() -> None:
    """So chunks of less than a second are cut where silence begins just before the border."""
    before = ChunkSpan(1.45, 1.76, 1.24, 1.76)
    behind = ChunkSpan(1.76, 2.07, 1.7, 2.28)
    one, two = mt.Word("one", 0.1, 0.4), mt.Word("two", 0.2, 0.4)
    stitcher = Stitcher()
    segments = stitcher.push(before, mt.ChunkResult(words=(one,)))
    segments += stitcher.push(behind, mt.ChunkResult(words=(mt.Word("one", 0.0, 0.02), two))) + stitcher.finish()
    assert words_of(segments) == ["one", "two"]


def test_words_whose_times_are_not_believed_are_not_cut() -> None:
    """An engine that calls a whole phrase a word, with times in another unit: nothing is lost, and it is flagged."""
    left = mt.ChunkResult(words=(mt.Word("down to the river", 9_000.0, 9_900.0),))
    right = mt.ChunkResult(words=(mt.Word("down to the river", 500.0, 900.0), mt.Word("now", 1_000.0, 1_100.0)))
    first, rest = texts(left, right)
    assert [*first, *rest] == ["down to the river", "(?) down to the river now"]


def test_a_segment_that_is_cut_and_has_other_words_than_its_text_is_made_of_them() -> None:
    """Where each word stands in the text cannot be told then."""
    words = tuple(
        mt.Word(text, second, second + 0.5) for text, second in (("you", 9.0), ("are", 9.5), ("friend", 11.0))
    )
    left = mt.ChunkResult(segments=(mt.Segment("You're, my friend!", 9.0, 11.5, words=words),))
    right = mt.ChunkResult(words=(mt.Word("are", 1.5, 2.0), mt.Word("my", 2.3, 2.6), mt.Word("friend", 3.0, 3.5)))
    assert texts(left, right) == ([], ["you are", "my friend"])


def test_a_seam_cuts_no_letter_from_its_marks() -> None:
    """Thai is written without spaces, and its vowels above and below the letters."""
    left, right = "ฉันไปที่แม่น้ำใหญ่", "ที่แม่น้ำใหญ่มากกับพี่"
    first, rest = texts(mt.ChunkResult(text=left), mt.ChunkResult(text=right))
    assert [*first, *rest] == ["ฉันไปที่แม่น้ำใหญ่มากกับพี่"]
