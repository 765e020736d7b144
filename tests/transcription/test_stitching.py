"""Results of chunks, put onto the clock of the whole audio."""

from itertools import pairwise

from hypothesis import given, strategies as st

import memsafe_transcribe as mt
from memsafe_transcribe._transcription.stitching import place

CHUNK = mt.AudioChunk(index=2, start_seconds=60.0, duration_seconds=30.0, sample_rate_hz=16_000, format="wav", data=b"")
TIMES = st.floats(-1e3, 1e3) | st.sampled_from([float("nan"), float("inf"), float("-inf")])
WORDS = st.lists(st.builds(mt.Word, st.text(st.characters(categories=["L"]), min_size=1, max_size=30), TIMES, TIMES))


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
        assert segment.text == " ".join(word.text for word in segment.words)
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


def test_impossible_times_are_marked() -> None:
    """Behind the chunk, backwards, and not a number."""
    words = (mt.Word("a", 5.0, 6.0), mt.Word("b", 2.0, 3.0), mt.Word("c", 40.0, 41.0), mt.Word("d", float("nan"), 1.0))
    (*_, last) = segments = place(CHUNK, mt.ChunkResult(words=words))
    assert [word.trusted for segment in segments for word in segment.words] == [True, False, False, False]
    assert last.words[-1].end_seconds == 90.0


def test_words_are_grouped_into_captions() -> None:
    """A pause, seven seconds, or two lines of text end a segment."""
    pause = place(CHUNK, mt.ChunkResult(words=(mt.Word("one", 0.0, 1.0), mt.Word("two", 1.8, 2.0))))
    assert [segment.text for segment in pause] == ["one", "two"]
    steady = tuple(mt.Word("word", second, second + 1.0) for second in range(20))
    assert all(s.end_seconds - s.start_seconds <= 7.0 for s in place(CHUNK, mt.ChunkResult(words=steady)))
    wordy = tuple(mt.Word("x" * 20, n / 10, n / 10 + 0.1) for n in range(20))
    assert all(len(segment.text) <= 84 for segment in place(CHUNK, mt.ChunkResult(words=wordy)))


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
