"""Pure: when a body that broke off may be continued (RFC 9110, sections 8.8, 13.1.5, 14 and 15.3.7).

Two halves of different files look like one file, so the rule is: continue only what the server proves to be the same
bytes, by a strong validator that it gave with the first half; in every other case begin again.

Headers are read by their names in lower case; that other cases are found, too, is up to the mapping (`httpx.Headers`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import Enum

_STRONG_ETAG = re.compile(r'"[!\x23-\x7e]*"')  # ASCII only: httpx would not send anything else back
_HTTP_DATE = re.compile(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} GMT", re.ASCII)
_CONTENT_RANGE = re.compile(r"bytes (?:([0-9]{1,18})-([0-9]{1,18})|\*)/([0-9]{1,18}|\*)", re.IGNORECASE)

# RFC 9110 asks for a second, or more where two clocks may be at work; RFC 7232 said 60. Behind a proxy they are two.
_STRONG_DATE_SECONDS = 60


class Continuation(Enum):
    """What to do with the answer to a request for the rest of a body."""

    APPEND = "append"  # the body is the rest: write it after what there is
    REPLACE = "replace"  # the body is the whole, and perhaps another: drop what there is, judge it like a first answer
    COMPLETE = "complete"  # there is no rest: what there is was all
    START_OVER = "start over"  # the body is of no use: drop it and what there is, ask again without a range


@dataclass(frozen=True, slots=True)
class ContentRange:
    """What a Content-Range header says.

    Attributes:
        first_byte: the position of the body's first byte in the whole, from 0; None in an answer that has no range.
        last_byte: the position of its last byte, itself included; None like `first_byte`.
        total_bytes: the length of the whole; None if the server does not know it.
    """

    first_byte: int | None
    last_byte: int | None
    total_bytes: int | None


def validator(headers: Mapping[str, str]) -> str | None:
    """What proves that a later answer is of the same bytes; None if they may not be continued.

    A strong ETag. Where there is no ETag at all, a Last-Modified that was a minute old: what changes twice in a second
    can have one date for two contents. A weak ETag forbids the date as well (RFC 9110, section 13.1.5).

    Args:
        headers: of the 200 whose body broke off.
    """
    if _is_encoded(headers) or "none" in re.split(r"[\s,]+", headers.get("accept-ranges", "").lower()):
        return None
    if (etag := headers.get("etag")) is not None:
        return etag if _STRONG_ETAG.fullmatch(etag) else None
    modified = headers.get("last-modified", "")
    modified_seconds, sent_seconds = date_seconds(modified), date_seconds(headers.get("date", ""))
    if modified_seconds is None or sent_seconds is None or not _HTTP_DATE.fullmatch(modified):
        return None
    return modified if sent_seconds - modified_seconds >= _STRONG_DATE_SECONDS else None


def request_headers(received_bytes: int, validator: str) -> dict[str, str]:
    """The headers that ask for the rest, or for the whole if it has changed since.

    Args:
        received_bytes: how much there is; at least 1.
        validator: what `validator()` found in the headers that came with it.
    """
    return {"Range": f"bytes={received_bytes}-", "If-Range": validator}


def judge(
    status_code: int, headers: Mapping[str, str], received_bytes: int, total_bytes: int | None, validator: str
) -> Continuation | None:
    """What to do with the answer to `request_headers()`.

    Args:
        status_code: of the answer.
        headers: of the answer.
        received_bytes: how much there is.
        total_bytes: the length of the whole as the first answer had it, or None.
        validator: what was asked with.

    Returns:
        None for every status but 200, 206 and 416: an ordinary error, which has nothing to do with ranges.
    """
    if status_code == 200:
        return Continuation.REPLACE
    if status_code not in (206, 416):
        return None
    content_range = parse_content_range(headers.get("content-range", ""))
    if content_range is None or _is_of_another(status_code, headers, validator):
        return Continuation.START_OVER
    if status_code == 416:
        is_all = content_range == ContentRange(None, None, received_bytes) and total_bytes in (None, received_bytes)
        return Continuation.COMPLETE if is_all else Continuation.START_OVER
    # Less than the rest is allowed to servers; it is begun anew instead of asking for the rest of the rest.
    total_bytes = content_range.total_bytes if total_bytes is None else total_bytes
    is_rest = (
        total_bytes is not None
        and content_range.total_bytes in (None, total_bytes)
        and (content_range.first_byte, content_range.last_byte) == (received_bytes, total_bytes - 1)
        and headers.get("content-length") in (None, str(total_bytes - received_bytes))
        and not _is_encoded(headers)
        and not headers.get("content-type", "").lower().startswith("multipart/byteranges")
    )
    return Continuation.APPEND if is_rest else Continuation.START_OVER


def parse_content_range(text: str) -> ContentRange | None:
    """Read `bytes 0-9/100`, `bytes 0-9/*` or `bytes */100`; None for anything else, or if it contradicts itself."""
    match = _CONTENT_RANGE.fullmatch(text)
    if match is None:
        return None
    first, last, total = (int(digits) if digits and digits != "*" else None for digits in match.groups())
    if first is None or last is None:
        return None if total is None else ContentRange(None, None, total)
    if first > last or (total is not None and last >= total):
        return None
    return ContentRange(first, last, total)


def date_seconds(text: str) -> float | None:
    """An HTTP date, in any of its three forms, as seconds since 1970; None if it is none."""
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()


def _is_encoded(headers: Mapping[str, str]) -> bool:
    """Whether the bytes are compressed: each time perhaps in another way, so positions in them mean nothing."""
    return headers.get("content-encoding", "").strip().lower() not in ("", "identity")


def _is_of_another(status_code: int, headers: Mapping[str, str], validator: str) -> bool:
    """Whether the answer carries another validator than the one asked with. Some servers do not look at If-Range.

    A 206 must repeat the ETag (RFC 9110, section 15.3.7); a date, and either in a 416, may be left away.
    """
    if validator.startswith('"'):
        return headers.get("etag", validator if status_code == 416 else "") != validator
    return "etag" in headers or headers.get("last-modified", validator) != validator
