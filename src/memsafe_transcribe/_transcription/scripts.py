"""Pure: text as tokens that can be compared: words, or characters where a script has no spaces between its words."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace

# Nobody speaks faster: what can have been said in a time, for sizing windows.
_SECONDS_PER_WORD = 1 / 6
_SECONDS_PER_CHARACTER = 1 / 15

_LETTERS = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"  # Myanmar
    "\u1780-\u17ff\u19e0-\u19ff"  # Khmer
    "\u3005-\u3007\u3021-\u3029\u3031-\u3035\u303b\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff"  # kana, bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"  # Han, half-width kana
)
_PUNCTUATION = "\u3000-\u303f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"  # as wide as a Han character
_TOKEN = re.compile(rf"[{_LETTERS}{_PUNCTUATION}]|[^\s{_LETTERS}{_PUNCTUATION}]+")
_WITHOUT_SPACES = re.compile(rf"[{_LETTERS}{_PUNCTUATION}]")


@dataclass(frozen=True, slots=True)
class Token:
    """A word, or one character with its marks in a script without spaces.

    Attributes:
        key: what it is compared by.
        start: where it begins in its text; it reaches to the next one, punctuation and all.
        seconds: the least that it takes to say.
    """

    key: str
    start: int
    seconds: float


def key_of(text: str) -> str:
    """What is left of a word without case, width and punctuation; may be nothing."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return "".join(character for character in folded if unicodedata.category(character)[0] in "LMN")


def tokens_of(text: str) -> list[Token]:
    """The tokens of a text, in order. The first reaches back to the text's beginning."""
    tokens: list[Token] = []
    for match in _TOKEN.finditer(text):
        key = key_of(match[0])
        if not key:
            continue  # punctuation alone: part of the token before it
        if tokens and unicodedata.category(match[0][0])[0] == "M":  # a vowel sign: the same
            tokens[-1] = replace(tokens[-1], key=tokens[-1].key + key)
            continue
        is_character = _WITHOUT_SPACES.match(match[0]) is not None
        seconds = _SECONDS_PER_CHARACTER if is_character else _SECONDS_PER_WORD
        tokens.append(Token(key, match.start() if tokens else 0, seconds))
    return tokens


def writable(text: str) -> str:
    """The text, or what of it UTF-8 can say: JSON may have half of a pair of surrogates, which no file takes."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def join_text(pieces: Iterable[str]) -> str:
    """One text of several: with spaces, except between characters of scripts without."""
    joiner = Joiner()
    return "".join(joiner.add(piece) for piece in pieces)


class Joiner:
    """The same, as the pieces come."""

    def __init__(self) -> None:
        self._last = ""

    def add(self, piece: str) -> str:
        """What the next piece adds to the text."""
        piece = " ".join(piece.split())
        last, self._last = self._last, piece[-1:] or self._last
        glued = _WITHOUT_SPACES.match(last) and _WITHOUT_SPACES.match(piece)
        return piece if glued or not last or not piece else " " + piece
