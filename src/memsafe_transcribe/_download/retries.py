"""Pure: what is worth asking again, when, and for how long a URL that failed is left alone."""

import re
from enum import Enum

from .ranges import date_seconds

_DELTA_SECONDS = re.compile(r"[0-9]+")
_MAX_RETRY_AFTER_SECONDS = 1e9  # 31 years: such a number is a mistake

# What RFC 9110, 8470 and 6585 describe as passing. 500 is not, but is what a server says when it stumbles, and reading
# is safe to repeat. 520 to 524 are Cloudflare's 502 and 504: the server behind it is down or slow. Not its 525, 526 and
# 530, the certificate or the name of that server, nor 509, a quota of the month: they outlast any deadline.
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})
_BRIEF = frozenset({421, 423})  # not worth a retry, but no verdict on the URL: another connection, or a lock
_MAY_BE_RENEWED = frozenset({401, 402, 403, 407})  # a signature that expired, a permission or a payment on its way

_PERMANENT_SECONDS = 7 * 86_400.0
_FEW_MINUTES_SECONDS = 300.0
_TRANSIENT_SECONDS = 60.0
_CONNECTION_SECONDS = 30.0
_MAX_SECONDS_AS_ASKED = 3_600.0


class Failure(Enum):
    """How a download failed where no status says it."""

    CONNECTION = "connection"  # the name has no address, or the connection was refused or reset
    TIMEOUT = "timeout"  # no answer, or too slow a one
    TRUNCATED = "truncated"  # the body ended early
    PROTOCOL = "protocol"  # broken HTTP, an empty or encoded body, redirects without end
    OURS = "ours"  # our own refusal: policy, cap, deadline, spool, admission, cancellation


_SECONDS = {
    Failure.CONNECTION: _CONNECTION_SECONDS,
    Failure.TIMEOUT: _CONNECTION_SECONDS,
    Failure.TRUNCATED: _CONNECTION_SECONDS,
    Failure.PROTOCOL: _FEW_MINUTES_SECONDS,  # a server that is set up wrong stays so for longer than one that stumbles
    Failure.OURS: None,  # the next caller may have another policy, cap or deadline
}


def is_transient_status(status_code: int) -> bool:
    """Whether the same request may well be answered better in a moment."""
    return status_code in _TRANSIENT


def retry_after_seconds(value: str | None, now_unix_seconds: float) -> float | None:
    """How long a server asks to be left alone (RFC 9110, section 10.2.3).

    Args:
        value: its Retry-After header: a number of seconds, or a date.
        now_unix_seconds: the time that a date is compared with.

    Returns:
        None where it asks for nothing that can be followed: no header, garbage, the past, or beyond 10**9 seconds.
    """
    text = (value or "").strip()
    if _DELTA_SECONDS.fullmatch(text):
        seconds = float(text)
    elif (until := date_seconds(text)) is not None:
        seconds = until - now_unix_seconds
    else:
        return None
    return seconds if 0 <= seconds <= _MAX_RETRY_AFTER_SECONDS else None


def remember_seconds(failure: Failure | int, retry_after_seconds: float | None = None) -> float | None:
    """For how long a URL that failed is not asked again.

    Args:
        failure: the status that the server answered with, or what went wrong where no status says it.
        retry_after_seconds: what the server asked for with a status that passes; followed for an hour at most.

    Returns:
        None if it is not remembered at all.
    """
    if isinstance(failure, Failure):
        return _SECONDS[failure]
    if is_transient_status(failure) or failure in _BRIEF:
        return _TRANSIENT_SECONDS if retry_after_seconds is None else min(retry_after_seconds, _MAX_SECONDS_AS_ASKED)
    if 400 <= failure <= 499 and failure not in _MAY_BE_RENEWED:
        return _PERMANENT_SECONDS
    return _FEW_MINUTES_SECONDS
