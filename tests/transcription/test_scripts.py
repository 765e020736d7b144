"""Text as tokens: what two engines' texts are compared by."""

import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from memsafe_transcribe._transcription.scripts import key_of, tokens_of, writable

# Latin, Han, katakana, Thai, Khmer, Myanmar; with marks and punctuation.
SCRIPTS = st.text(
    st.sampled_from("aB1 -,\u00e9\u0301\u4e2d\u30ab\u3099\u3002\u0e17\u0e35\u0e48\u1780\u17b7\u1000\u1031 ")
)


def pieces_of(text: str) -> list[str]:
    """From each token to the next."""
    starts = [token.start for token in tokens_of(text)] + [len(text)]
    return [text[start:end] for start, end in pairwise(starts)]


@given(text=SCRIPTS)
def test_tokens_are_the_whole_text_cut_before_a_letter(text: str) -> None:
    """Nothing is between them; none begins with a mark that belongs to the letter before it."""
    pieces = pieces_of(text)
    assert "".join(pieces) == (text if pieces else "")
    assert (pieces == []) == (key_of(text) == "")
    assert not any(unicodedata.category(piece[0])[0] == "M" for piece in pieces[1:])
    assert all(token.key and token.seconds > 0 for token in tokens_of(text))


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("one two", ["one ", "two"]),
        (" - One, TWO - three!", [" - One, ", "TWO - ", "three!"]),
        ("\u4e2d\u6587\u3002yes \u662f", ["\u4e2d", "\u6587\u3002", "yes ", "\u662f"]),
        ("\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", ["\u0e2a", "\u0e27\u0e31", "\u0e2a", "\u0e14\u0e35"]),
        ("\u0e17\u0e35\u0e48", ["\u0e17\u0e35\u0e48"]),
        ("\u0e35\u0e48\u0e17", ["\u0e35\u0e48", "\u0e17"]),
        ("\uc548\ub155 \ud558\uc138\uc694", ["\uc548\ub155 ", "\ud558\uc138\uc694"]),
        (" -- ", []),
    ],
)
def test_a_token_is_a_word_or_a_character_with_its_marks(text: str, pieces: list[str]) -> None:
    """Latin, Han, Thai (a mark alone begins one only where there is no letter before it), Hangul."""
    assert pieces_of(text) == pieces


def test_a_character_is_told_from_another_by_its_marks() -> None:
    """They are in its key, and take no time of their own; case, width and punctuation are in none."""
    (plain,), (marked,) = tokens_of("\u0e14"), tokens_of("\u0e14\u0e35")
    assert (plain.key, marked.key) == ("\u0e14", "\u0e14\u0e35")
    assert plain.seconds == marked.seconds < tokens_of("di")[0].seconds
    wide = "".join(chr(ord(letter) + 0xFEE0) for letter in "River")
    assert [token.key for token in tokens_of(f"{wide}, RIVER -- \u201criver\u201d")] == ["river"] * 3


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("plain", "plain"),
        ("na\u00efve \u4e2d \U0001f600 \ufeff", "na\u00efve \u4e2d \U0001f600 \ufeff"),
        ("\ufeffmarked", "\ufeffmarked"),
        ("half \ud83d of it", "half \ufffd of it"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("\ud83d\ude00", "\U0001f600"),
    ],
)
def test_what_utf_8_cannot_say_is_replaced(text: str, written: str) -> None:
    """Half of a pair of surrogates; two halves that belong together are the letter that they mean."""
    assert writable(text) == written
