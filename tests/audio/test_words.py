"""What the decoding process says, read without a process: exactly what it means, or nothing of it."""

import json
import struct
from array import array
from typing import Any

import pytest

from memsafe_transcribe._audio.words import (
    Block,
    DecodeGap,
    MediaInfo,
    block_of,
    gaps_of,
    info_of,
    refusal_of,
    samples_of,
)

INFO = {"format": "mov,mp4", "codec": "aac", "duration_seconds": 1.5, "is_confined": True}
NONSENSE = (ValueError, TypeError, LookupError, ArithmeticError, RecursionError, struct.error)


def said(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize(("levels", "samples"), [(1, 1), (1, 160), (2, 161), (2, 320), (3, 321)])
def test_a_block_has_a_level_for_each_ten_milliseconds_that_have_begun(levels: int, samples: int) -> None:
    """And its samples behind them, as they are."""
    payload = struct.pack("<I", levels) + array("f", range(levels)).tobytes() + b"\1\2" * samples
    assert block_of(payload) == Block(array("f", range(levels)), b"\1\2" * samples)
    for other in levels - 1, levels + 1:
        with pytest.raises(NONSENSE):
            block_of(struct.pack("<I", other) + array("f", range(other)).tobytes() + b"\1\2" * samples)
    with pytest.raises(ValueError, match=f"^{len(payload) + 1} bytes with {levels} levels are no block$"):
        block_of(payload + b"\1")


@pytest.mark.parametrize("payload", [b"", b"\0\0\0", bytes(4), struct.pack("<I", 1) + bytes(4), b"\xff" * 4 + bytes(9)])
def test_no_samples_are_no_block(payload: bytes) -> None:
    """Nor is a count beyond the payload."""
    with pytest.raises(NONSENSE):
        block_of(payload)


@pytest.mark.parametrize("seconds", [None, 0, 7, 1.5])
def test_what_a_file_says_of_itself(seconds: float | None) -> None:
    """With a length that can be one, or none."""
    found = info_of(said({**INFO, "duration_seconds": seconds}))
    assert found == MediaInfo("mov,mp4", "aac", seconds, is_confined=True)


@pytest.mark.parametrize(
    "changed",
    [
        {"duration_seconds": -1},
        {"duration_seconds": -0.001},
        {"duration_seconds": float("nan")},
        {"duration_seconds": float("inf")},
        {"duration_seconds": "1"},
        {"duration_seconds": True},
        {"format": 5},
        {"codec": None},
    ],
)
def test_what_no_file_can_say_of_itself(changed: dict[str, Any]) -> None:
    """Is nonsense."""
    with pytest.raises(NONSENSE):
        info_of(said({**INFO, **changed}))


@pytest.mark.parametrize("left_out", INFO)
def test_all_of_it_has_to_be_said(left_out: str) -> None:
    """Nothing is made up."""
    with pytest.raises(NONSENSE):
        info_of(said({name: value for name, value in INFO.items() if name != left_out}))


@pytest.mark.parametrize("is_confined", [False, 1, "true", None])
def test_only_what_says_that_it_is_confined_is_taken_to_be(is_confined: Any) -> None:
    """Nothing that merely looks like yes."""
    assert not info_of(said({**INFO, "is_confined": is_confined})).is_confined


def test_gaps_are_in_order_and_within_the_audio() -> None:
    """Empty ones, and ones that touch or lie in one another, too."""
    payload = said({"gaps": [[0, 0, "a"], [0, 16_000, "b"], [8_000, 8_000, "c"], [32_000, 32_000, "d"]]})
    assert gaps_of(payload, 32_000) == (
        DecodeGap(0.0, 0.0, "a"),
        DecodeGap(0.0, 1.0, "b"),
        DecodeGap(0.5, 0.5, "c"),
        DecodeGap(2.0, 2.0, "d"),
    )
    assert gaps_of(said({"gaps": []}), 0) == ()


@pytest.mark.parametrize(
    "gaps",
    [
        5,
        [5],
        [[1, 2]],
        [[1, 2, 3]],
        [[2, 1, "x"]],
        [[-1, 1, "x"]],
        [[1.0, 2, "x"]],
        [[1, 2.0, "x"]],
        [[True, 2, "x"]],
        [[0, 11, "x"]],
        [[5, 6, "x"], [4, 6, "x"]],
    ],
)
def test_gaps_that_cannot_be_are_nonsense(gaps: Any) -> None:
    """Out of order, beyond the end, or no numbers of samples."""
    with pytest.raises(NONSENSE):
        gaps_of(said({"gaps": gaps}), 10)


def test_samples_are_a_whole_number() -> None:
    """Nothing that merely is equal to one."""
    assert samples_of(said({"samples": 3})) == 3
    for value in [{}, {"samples": None}, {"samples": 3.0}, {"samples": True}, {"samples": "3"}]:
        with pytest.raises(NONSENSE):
            samples_of(said(value))


def test_a_refusal_is_a_kind_and_a_message() -> None:
    """Both are texts, and cut where they are long."""
    assert refusal_of(said({"kind": "limit", "message": "m" * 501})) == ("limit", "m" * 500)
    for value in [{"kind": "limit"}, {"message": "m"}, {"kind": 5, "message": "m"}, {"kind": "limit", "message": 5}]:
        with pytest.raises(NONSENSE):
            refusal_of(said(value))


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"5", b"\xff", b"[" * 100_000])
def test_what_is_no_object_says_nothing(payload: bytes) -> None:
    """Whatever was to be read from it."""
    for read in (info_of, refusal_of, samples_of, lambda data: gaps_of(data, 10)):
        with pytest.raises(NONSENSE):
            read(payload)
