"""How slow a server may be, for any pattern in which its bytes come."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, strategies as st

import memsafe_transcribe as mt
from memsafe_transcribe._download import transport
from memsafe_transcribe._download.pace import MAX_HEAD_BYTES, Pace, Patience

from ..conftest import Run

URL = "http://h/a"
RATE, WINDOW = 1000, 8  # bytes a second, seconds
PATIENCE = Patience(
    connect_seconds=10.0, read_seconds=30.0, low_speed_bytes_per_second=RATE, low_speed_seconds=float(WINDOW)
)
TICKS = 64  # a second; so sums of times are exact

ticks = st.integers(0, 2 * WINDOW * TICKS)
short_ticks = st.integers(1, TICKS)
Readings = Sequence[tuple[int, int]]  # bytes, and the ticks that they were waited for


def paced() -> Pace:
    """A connection whose head is in."""
    pace = Pace(URL, PATIENCE)
    pace.head_is_in()
    return pace


def ticks_until_failure(pace: Pace, readings: Readings) -> int | None:
    """How much was waited until it was too slow; None if it never was."""
    waited = 0
    for size_bytes, each in readings:
        waited += each
        try:
            pace.note(size_bytes, each / TICKS)
        except mt.DownloadTimeoutError:
            return waited
    return None


def enough(each: int) -> int:
    """As many bytes as have to come in within a time."""
    return -(-each * RATE // TICKS)


def test_a_window_begins_with_nothing() -> None:
    """One that was just fast enough is no credit to the next."""
    pace = paced()
    pace.note(RATE * WINDOW, WINDOW)
    with pytest.raises(mt.DownloadTimeoutError, match=f"only {RATE * WINDOW - 1} bytes in"):
        pace.note(RATE * WINDOW - 1, WINDOW)


@given(st.lists(st.tuples(ticks, st.integers(0, 3) | st.integers(0, 10**7))))
def test_at_the_limit_or_above_nothing_is_too_slow(pattern: Readings) -> None:
    """In large pieces after long silences or in small ones, by a hair or by far."""
    assert ticks_until_failure(paced(), [(enough(each) + more, each) for each, more in pattern]) is None


@given(st.lists(st.tuples(st.integers(0, 3 * RATE), short_ticks), max_size=200))
def test_whatever_fails_was_slow_for_a_whole_window(readings: Readings) -> None:
    """Of anything: somewhere there is a stretch as long as a window, with fewer bytes than it should have had."""
    failed = ticks_until_failure(paced(), readings)
    slow = [
        (end - start)
        for start in range(len(readings))
        for end in range(start + 1, len(readings) + 1)
        if (waited := sum(each for _, each in readings[start:end])) >= WINDOW * TICKS
        and sum(size for size, _ in readings[start:end]) * TICKS < RATE * waited
    ]
    assert failed is None or slow


@given(
    st.lists(st.tuples(st.integers(0, 10**7), ticks), max_size=20),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), short_ticks), min_size=1),
)
def test_below_the_limit_it_fails_within_two_windows(before: Readings, slow: list[tuple[float, int]]) -> None:
    """Whatever came before: a burst at the beginning buys no more than the rest of its window."""
    pace = paced()
    if ticks_until_failure(pace, before) is None:
        longest = 2 * (WINDOW + 1) * TICKS  # a reading of a second's waiting may begin just before a window ends
        pattern = [(int(part * enough(each)), each) for part, each in slow]
        failed = ticks_until_failure(pace, pattern * longest)
        assert failed is not None
        assert failed <= longest


@given(st.lists(st.integers(0, 10**6)))
def test_time_that_was_not_spent_waiting_does_not_count(sizes: list[int]) -> None:
    """What lay ready is counted, however little it is."""
    assert ticks_until_failure(paced(), [(size, 0) for size in sizes]) is None


def test_nothing_is_too_slow_before_a_window_is_over() -> None:
    """And then it is told with both figures, and with the setting."""
    pace = paced()
    pace.note(0, WINDOW - 1)
    with pytest.raises(mt.DownloadTimeoutError) as caught:
        pace.note(WINDOW * RATE - 1, 1)
    error = caught.value
    assert (error.url, error.retryable, error.deadline_seconds) == (URL, True, None)
    assert "only 7999 bytes in 8 s" in str(error)
    assert "1000 a second" in str(error)
    assert "low_speed_bytes_per_second" in str(error)


def test_a_limit_of_nothing_lets_all_through() -> None:
    """Who sets it to 0 has turned it off."""
    pace = Pace(URL, Patience(10.0, 30.0, 0, 1.0))
    pace.head_is_in()
    for _ in range(1000):
        pace.note(0, 100.0)


# -- the head


@pytest.mark.parametrize("size", [1, 1000, MAX_HEAD_BYTES])
def test_a_head_without_end_fails(size: int) -> None:
    """Whatever pieces it comes in, as soon as more has come than any head needs and it goes on."""
    pace = Pace(URL, PATIENCE)
    with pytest.raises(mt.DownloadProtocolError) as caught:
        for number in range(MAX_HEAD_BYTES + 2):
            came_in = number * size
            pace.note(size, 0.0)
    assert MAX_HEAD_BYTES < came_in <= MAX_HEAD_BYTES + size
    assert (type(caught.value), caught.value.url, caught.value.retryable) == (mt.DownloadProtocolError, URL, False)
    assert "256.0 KiB of headers" in str(caught.value)


def test_a_head_that_comes_with_its_body_is_fine() -> None:
    """One large reading may bring both; so may a second one, if the head was just not whole in the first."""
    pace = Pace(URL, PATIENCE)
    pace.note(MAX_HEAD_BYTES, 0.0)
    pace.note(mt.MiB, 0.0)
    pace.head_is_in()
    for _ in range(100):
        pace.note(mt.MiB, 0.0)


def test_a_head_that_comes_too_slowly_fails() -> None:
    """A byte now and then, before the body: the time is counted from the connection on."""
    pace = Pace(URL, PATIENCE)
    with pytest.raises(mt.DownloadTimeoutError):
        for _ in range(WINDOW):
            pace.note(1, 1.0)


# -- on a connection


class SlowStream:
    """Gives a few bytes after a time of its own, on a clock of its own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.takes_seconds = 0.0

    def monotonic(self) -> float:
        return self.now

    async def receive(self, max_bytes: int) -> bytes:
        self.now += self.takes_seconds
        return b"few"


def test_a_slow_disk_is_not_held_against_the_server(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the time within a reading counts, not that between two of them."""
    stream = SlowStream()
    monkeypatch.setattr(transport, "time", stream)

    async def main() -> None:
        backend: Any = SimpleNamespace(pace=paced())
        guarded = transport._GuardedStream(stream, backend)  # type: ignore[arg-type]  # noqa: SLF001
        for _ in range(10):
            assert await guarded.read(1) == b"few"
            stream.now += 1000.0
        stream.takes_seconds = float(WINDOW)
        with pytest.raises(mt.DownloadTimeoutError):
            await guarded.read(1)

    run(main)
