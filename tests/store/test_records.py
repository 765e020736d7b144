"""What is stored of an answer is what was answered, and no two jobs have the same key."""

import math
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, strategies as st

import memsafe_transcribe as mt
from memsafe_transcribe._audio.chunker import Span
from memsafe_transcribe._errors import StoreError
from memsafe_transcribe._transcription.records import job_key, packed, packed_gaps, unpacked, unpacked_gaps

SPAN = Span(0, 16_000, 0, 16_000)

texts = st.text(st.characters() | st.characters(categories=["Cs"]))  # lone surrogates, too
times = st.floats() | st.integers(-(2**70), 2**70) | st.just(-0.0)
words = st.builds(mt.Word, texts, times, times, st.booleans())
some_words = st.lists(words, max_size=4).map(tuple)
segments = st.builds(mt.Segment, texts, times, times, st.booleans(), some_words, st.booleans())
results = st.builds(
    mt.ChunkResult,
    text=texts,
    words=some_words,
    segments=st.lists(segments, max_size=3).map(tuple),
    language=st.none() | texts,
)


@given(results, st.none() | texts)
def test_what_was_packed_comes_back(result: mt.ChunkResult, suspicion: str | None) -> None:
    """To the last digit, with the same types: an int stays one, and what is no number is none afterwards."""
    answer = unpacked(SPAN, packed(result, suspicion))
    assert repr(answer.result) == repr(result)
    assert (answer.span, answer.suspicion) == (SPAN, suspicion)


@given(st.lists(st.builds(mt.Gap, st.floats(allow_nan=False), st.floats(allow_nan=False), texts), max_size=5))
def test_gaps_come_back(gaps: list[mt.Gap]) -> None:
    """Whatever their reasons say."""
    assert unpacked_gaps(packed_gaps(gaps)) == tuple(gaps)


def test_what_is_no_number_is_still_none_of_the_same_kind() -> None:
    """NaN and both infinities, and the sign of zero."""
    result = mt.ChunkResult(words=(mt.Word("a", math.nan, -0.0), mt.Word("b", -math.inf, math.inf)))
    found = unpacked(SPAN, packed(result, None)).result
    assert isinstance(found, mt.ChunkResult)
    assert math.isnan(found.words[0].start_seconds)
    assert math.copysign(1, found.words[0].end_seconds) == -1
    assert (found.words[1].start_seconds, found.words[1].end_seconds) == (-math.inf, math.inf)


def test_what_is_stored_stays_readable_to_later_releases() -> None:
    """Short, in UTF-8, with what is no character at all, too."""
    words = (mt.Word("\ud800", 0.5, 1), mt.Word("\u00e9", 1.0, 1.5, trusted=False))
    segment = mt.Segment("a b", 0.0, 1.5, words=words[1:], unsure_seam=True)
    data = packed(mt.ChunkResult(text="\u00e9", words=words, segments=(segment,), language="fr"), "why")
    word = b'["\xc3\xa9",1.0,1.5,false]'
    told = (
        b'"\xc3\xa9","fr",[["\xed\xa0\x80",0.5,1,true],',
        word,
        b'],[["a b",0.0,1.5,true,[',
        word,
        b'],true]],"why"',
    )
    assert data == b"[" + b"".join(told) + b"]"
    answer = unpacked(SPAN, data)
    assert isinstance(answer.result, mt.ChunkResult)
    assert (answer.result.words, answer.suspicion) == (words, "why")


KEY: dict[str, Any] = {
    "source_sha256": "0" * 64, "cache_key": "engine", "language": None, "prompt": None, "chunk_seconds": None
}  # fmt: skip
CHANGES: list[dict[str, Any]] = [
    {},
    {"source_sha256": "1" + "0" * 63},
    {"cache_key": ""},
    {"cache_key": "engine2"},
    *({name: value} for name in ("language", "prompt") for value in ("", "en", "null", "\ud800", "None")),
    *({"chunk_seconds": value} for value in (60.0, 60.000001, 0.5)),
    {"language": "a", "prompt": "b"},
    {"language": "a, b"},
    {"language": 'a", "b'},
    {"cache_key": 'engine", "en'},
]


def test_each_part_of_a_key_counts() -> None:
    """Nothing and an empty text differ, and no text can be taken for two."""
    for one, other in combinations(CHANGES, 2):
        assert job_key(**{**KEY, **one}) != job_key(**{**KEY, **other}), (one, other)
    assert job_key(**KEY) == job_key(**KEY)
    assert len(job_key(**KEY)) == 32


@given(*[st.tuples(texts, texts, st.none() | texts, st.none() | texts, st.none() | st.floats(0.001, 1e6))] * 2)
def test_other_parts_have_another_key(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    """And the same have the same."""
    assert (job_key(*one) == job_key(*other)) == (one == other)


def test_whole_seconds_are_the_same_however_they_are_written() -> None:
    """60 and 60.0 are one setting: the job is not paid for again."""
    assert job_key(**{**KEY, "chunk_seconds": 60}) == job_key(**{**KEY, "chunk_seconds": 60.0})


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"[1,2]", b"\xff", b'["a",null,[[1]],[],null]', b'["a",null,[],[],5]', b"[[[[" * 10_000]
)
def test_what_is_no_record_is_a_damaged_store(data: bytes) -> None:
    """It is told as such, whatever the bytes are."""
    with pytest.raises(StoreError, match=r"what is stored of a chunk cannot be read: .") as caught:
        unpacked(SPAN, data)
    assert caught.value.reason == "corrupt"


@pytest.mark.parametrize(
    "data", ["", "5", "[5]", "[[1, 2]]", '[["a", 2, "x"]]', "[[1, 2, 5]]", f'[[1, 1{"0" * 400}, "x"]]', "[" * 10_000]
)
def test_what_are_no_gaps_is_a_damaged_store(data: str) -> None:
    """So it is for the gaps of a job."""
    with pytest.raises(StoreError, match="gaps cannot be read") as caught:
        unpacked_gaps(data)
    assert caught.value.reason == "corrupt"
