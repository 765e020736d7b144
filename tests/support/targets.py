"""Fuzz targets: what parses a stranger's input is given whatever hypothesis thinks of, for as long as there is time.

Every day a target has as many inputs as any property. With `MEMSAFE_TEST_PROFILE=long` new ones are tried for
`MEMSAFE_FUZZ_SECONDS` over all targets. A failing input is made small and printed, with a blob that shows it again.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from hypothesis import Phase, given, settings, strategies as st

T = TypeVar("T")

TARGETS = (
    "addresses dialled",
    "answers of a server",
    "answers of Gemini",
    "answers of OpenAI",
    "gzip",
    "headers",
    "ledger file",
    "redirects",
    "store file",
    "stored answers",
    "URLs",
    "words of the decoder",
)
_IS_LONG = os.environ.get("MEMSAFE_TEST_PROFILE") == "long"
_LONG_SECONDS = float(os.environ.get("MEMSAFE_FUZZ_SECONDS", "600"))
_PHASES = (Phase.reuse, Phase.generate, Phase.shrink)  # not explain, which runs everything anew under a tracer
_MOST_CPU_SECONDS = 5.0  # of one input: what takes as long is no longer linear in what a stranger may send
_LONG_TEXT_CHARACTERS = 60_000  # nearly all that h11 takes in as headers

inputs_tried: Counter[str] = Counter()  # by target


def fuzz(
    target: str, inputs: st.SearchStrategy[T], judge: Callable[[T], object], long_inputs: Iterable[T] = ()
) -> None:
    """Have input after input judged, each in bounded processor time.

    Args:
        target: one of `TARGETS`.
        inputs: what a stranger may send.
        judge: raises if what became of an input is not allowed.
        long_inputs: which it is to be quick with, too.
    """
    assert target in TARGETS

    until = time.monotonic() + _LONG_SECONDS / len(TARGETS)
    has_failed = False

    def judge_one(value: T) -> None:
        nonlocal has_failed
        # What failed is made small, however long it takes.
        if _IS_LONG and time.monotonic() >= until and not has_failed:
            return
        inputs_tried[target] += 1
        began = time.thread_time()
        try:
            judge(value)
            taken = time.thread_time() - began
            assert taken < _MOST_CPU_SECONDS, f"{taken:.1f} s of processor time"
        except BaseException:
            has_failed = True
            raise

    judge_one.__name__ = judge_one.__qualname__ = target.replace(" ", "_")  # by which hypothesis keeps what failed
    judge_all = settings(phases=_PHASES)(given(value=inputs)(judge_one))
    for each in long_inputs:
        judge_one(each)
    judge_all()
    while _IS_LONG and time.monotonic() < until:
        judge_all()


def mutated(*texts: str, alphabet: str = "") -> st.SearchStrategy[str]:
    """These texts with pieces left out, repeated, and put in, from one another or from elsewhere."""
    letters = st.characters() | st.sampled_from(alphabet or "0 \t\n,;:/\"'-\u0660\u2100\ud800\x00")
    pieces = st.sampled_from([piece for text in texts for piece in _pieces(text)]) | letters
    lists = st.sampled_from([_pieces(text) for text in texts]).flatmap(lambda known: _edited(known, pieces))
    return lists.map("".join)


def _pieces(text: str) -> list[str]:
    """Words, and what stands between them."""
    pieces: list[str] = []
    for letter in text:
        if pieces and letter.isalnum() and pieces[-1][-1].isalnum():
            pieces[-1] += letter
        else:
            pieces.append(letter)
    return pieces


@st.composite
def _edited(draw: st.DrawFn, known: list[str], pieces: st.SearchStrategy[str]) -> list[str]:
    text = list(known)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(text)))
        how = draw(st.sampled_from(("put in", "leave out", "replace", "repeat")))
        if how == "repeat" and text:
            piece = text[at % len(text)]
            text[at:at] = [piece * draw(st.sampled_from((1, 2, 30, 400)))]
        else:
            text[at : at + (how != "put in")] = [] if how == "leave out" else [draw(pieces)]
    return text


def long_ones(*texts: str) -> Iterator[str]:
    """These texts, each with one piece of it repeated as often as headers can be long."""
    for text in texts:
        known = _pieces(text)
        for at, piece in enumerate(known):
            often = piece * (_LONG_TEXT_CHARACTERS // len(piece))
            yield "".join([*known[:at], often, *known[at:]])
            yield "".join([*known[:at], often])


def damaged(*data: bytes) -> st.SearchStrategy[bytes]:
    """These bytes with some others in their place, cut off, or with something behind them."""
    return st.sampled_from(data).flatmap(_damaged)


@st.composite
def _damaged(draw: st.DrawFn, data: bytes) -> bytes:
    changed = bytearray(data)
    numbers = st.sampled_from((0, 1, 2, 0x7F, 0x80, 0xFF, 0xFFFF, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, max(0, len(changed) - 1)))
        how = draw(st.sampled_from(("bit", "byte", "number", "cut", "more")))
        if how == "cut":
            del changed[at:]
        elif how == "more":
            changed[at:at] = draw(st.binary(max_size=30))
        elif how == "number":
            size = draw(st.sampled_from((1, 2, 4, 8)))
            changed[at : at + size] = (draw(numbers) % 256**size).to_bytes(
                size, draw(st.sampled_from(("big", "little")))
            )
        elif changed:
            changed[at] ^= 1 << draw(st.integers(0, 7)) if how == "bit" else draw(st.integers(0, 255))
    return _Data(changed)


class _Data(bytes):
    """Bytes that a failure shows the beginning of; the blob beside it has all."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes: {self[:60].hex(' ')}>"


def lines() -> Iterator[str]:
    """For people."""
    each = ", ".join(f"{target} {count:,}" for target, count in sorted(inputs_tried.items()))
    yield f"inputs of strangers tried: {inputs_tried.total():,} ({each})"
