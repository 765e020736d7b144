"""What is asked again, when, and what is not for a while."""

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import example, given, strategies as st

from memsafe_transcribe._download.retries import Failure, is_transient_status, remember_seconds, retry_after_seconds

NOW = 784_111_777.0  # Sun, 06 Nov 1994 08:49:37 GMT
WEEK = 604_800
STATUSES = range(100, 1000)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("120", 120.0),
        (" 120 ", 120.0),
        ("0", 0.0),
        ("007", 7.0),
        ("1000000000", 1e9),
        ("Sun, 06 Nov 1994 08:50:37 GMT", 60.0),
        ("Sunday, 06-Nov-94 08:50:37 GMT", 60.0),
        ("Sun Nov  6 08:50:37 1994", 60.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
        ("Sun, 06 Nov 1994 08:49:36 GMT", None),
        ("Thu, 01 Jan 1970 00:00:00 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", None),
        ("Sun, 31 Feb 1995 08:49:37 GMT", None),
        ("1000000001", None),
        ("9" * 5000, None),
        ("-1", None),
        ("+1", None),
        ("1.5", None),
        ("1e3", None),
        ("1_0", None),
        ("\u0661", None),
        ("120, 120", None),
        ("120 s", None),
        ("soon", None),
        ("nan", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, expected: float | None) -> None:
    """In any form of RFC 9110; what cannot be followed is as if it were not there."""
    assert retry_after_seconds(value, NOW) == expected


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_a_number_and_the_date_it_means_are_the_same(now_unix_seconds: int, seconds: int) -> None:
    """Whenever it is now."""
    until = format_datetime(datetime.fromtimestamp(now_unix_seconds + seconds, UTC), usegmt=True)
    assert retry_after_seconds(str(seconds), now_unix_seconds) == seconds
    assert retry_after_seconds(until, now_unix_seconds) == seconds


@given(st.text() | st.integers().map(str) | st.floats().map(str), st.floats(0, 4e9))
@example("99999 99999 99999 99:99 GMT", 0.0)
def test_any_text_gives_a_time_that_can_be_waited_or_none(value: str, now_unix_seconds: float) -> None:
    """Never negative, never without end."""
    seconds = retry_after_seconds(value, now_unix_seconds)
    assert seconds is None or 0 <= seconds <= 1e9


def test_the_statuses_that_pass() -> None:
    """No others: each retry is a burden on a server that has said no."""
    expected = [408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524]
    assert [status for status in STATUSES if is_transient_status(status)] == expected


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (404, WEEK),
        (410, WEEK),
        (451, WEEK),
        (400, WEEK),
        (405, WEEK),
        (416, WEEK),
        (499, WEEK),
        (401, 300),
        (402, 300),
        (403, 300),
        (407, 300),
        (408, 60),
        (421, 60),
        (423, 60),
        (425, 60),
        (429, 60),
        (500, 60),
        (503, 60),
        (504, 60),
        (522, 60),
        (501, 300),
        (509, 300),
        (526, 300),
        (599, 300),
        (204, 300),
        (304, 300),
        (Failure.CONNECTION, 30),
        (Failure.TIMEOUT, 30),
        (Failure.TRUNCATED, 30),
        (Failure.PROTOCOL, 300),
        (Failure.OURS, None),
    ],
)
def test_a_failed_url_is_remembered_by_kind(failure: Failure | int, expected: float | None) -> None:
    """A week for what stays, minutes or less for what passes, and not at all for refusals of our own."""
    assert remember_seconds(failure) == expected


@pytest.mark.parametrize(("retry_after", "expected"), [(0.0, 0), (5.0, 5), (3600.0, 3600), (3601.0, 3600), (1e9, 3600)])
def test_a_server_that_says_when_is_believed(retry_after: float, expected: float) -> None:
    """For an hour at most, and only with a status that passes."""
    for status in (429, 503, 500, 423):
        assert remember_seconds(status, retry_after) == expected
    for failure in (404, 403, 501, 304, *Failure):
        assert remember_seconds(failure, retry_after) == remember_seconds(failure)


@given(st.sampled_from([*Failure, *STATUSES]), st.none() | st.floats(0, 1e9))
def test_nothing_is_remembered_for_longer_than_a_week(failure: Failure | int, retry_after: float | None) -> None:
    """What is transient no longer than an hour, and what is ours never."""
    seconds = remember_seconds(failure, retry_after)
    assert (seconds is None) == (failure is Failure.OURS)
    limit = 3600 if isinstance(failure, Failure) or is_transient_status(failure) else WEEK
    assert 0 <= (seconds or 0) <= limit
