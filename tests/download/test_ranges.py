"""When a body that broke off may be continued. A small server, honest or not, stands for all of them."""

import hashlib
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime

import httpx
import pytest
from hypothesis import example, given, strategies as st

from memsafe_transcribe._download.ranges import (
    ContentRange,
    Continuation,
    date_seconds,
    judge,
    parse_content_range,
    request_headers,
    validator,
)

APPEND, REPLACE = Continuation.APPEND, Continuation.REPLACE
COMPLETE, START_OVER = Continuation.COMPLETE, Continuation.START_OVER
ETAG = '"v1"'
OLD, NEW = "Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:50:37 GMT"  # a minute between them
SIZES = st.integers(0, 10**18 - 1)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"etag": '"v1"'}, '"v1"'),
        ({"etag": '""'}, '""'),
        ({"etag": '"!#~\\"'}, '"!#~\\"'),
        ({"etag": '"v1"', "accept-ranges": "bytes", "content-encoding": "identity"}, '"v1"'),
        ({"etag": '"v1"', "accept-ranges": "items", "content-encoding": " Identity "}, '"v1"'),
        ({"etag": '"v1"', "accept-ranges": "none"}, None),
        ({"etag": '"v1"', "accept-ranges": "bytes, None"}, None),
        ({"etag": '"v1"', "content-encoding": "gzip"}, None),
        ({"last-modified": OLD, "date": NEW, "content-encoding": "identity, br"}, None),
        ({"last-modified": OLD, "date": NEW, "accept-ranges": "none"}, None),
        ({"etag": 'W/"v1"'}, None),
        ({"etag": 'w/"v1"'}, None),
        ({"etag": "v1"}, None),
        ({"etag": '"v1'}, None),
        ({"etag": '"v"1"'}, None),
        ({"etag": '"v 1"'}, None),
        ({"etag": '"v1", "v1"'}, None),
        ({"etag": '"é"'}, None),
        ({"etag": ""}, None),
        ({"etag": 'W/"v1"', "last-modified": OLD, "date": NEW}, None),
        ({"etag": '"v1"', "last-modified": OLD, "date": NEW}, '"v1"'),
        ({"last-modified": OLD, "date": NEW}, OLD),
        ({"last-modified": OLD, "date": "Mon, 07 Nov 1994 00:00:00 GMT"}, OLD),
        ({"last-modified": OLD, "date": "Sun, 06 Nov 1994 08:50:36 GMT"}, None),
        ({"last-modified": OLD, "date": OLD}, None),
        ({"last-modified": NEW, "date": OLD}, None),
        ({"last-modified": OLD}, None),
        ({"date": NEW}, None),
        ({"last-modified": OLD, "date": "yesterday"}, None),
        ({"last-modified": "yesterday", "date": NEW}, None),
        ({"last-modified": "Sunday, 06-Nov-94 08:49:37 GMT", "date": NEW}, None),
        ({"last-modified": "Sun Nov  6 08:49:37 1994", "date": NEW}, None),
        ({"last-modified": "Sun, 31 Feb 1994 08:49:37 GMT", "date": NEW}, None),
        ({}, None),
    ],
)
def test_only_a_strong_validator_allows_to_continue(headers: dict[str, str], expected: str | None) -> None:
    """A strong ETag, or a date where there is no ETag; neither of a body whose positions mean nothing."""
    assert validator(headers) == expected
    assert (
        validator(httpx.Headers([(name.title().encode(), value.encode()) for name, value in headers.items()]))
        == expected
    )


@given(
    st.dictionaries(st.sampled_from(["etag", "last-modified", "date", "accept-ranges", "content-encoding"]), st.text())
)
def test_any_headers_have_a_validator_or_none(headers: dict[str, str]) -> None:
    """Without an error; and what is found can be sent back as it is."""
    found = validator(headers)
    assert found is None or (found.isascii() and found.isprintable() and found in headers.values())


def test_the_rest_is_asked_for_on_a_condition() -> None:
    """From the first byte that is missing, to the end, if nothing has changed."""
    assert request_headers(7, ETAG) == {"Range": "bytes=7-", "If-Range": '"v1"'}
    assert request_headers(7, OLD) == {"Range": "bytes=7-", "If-Range": OLD}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes 0-9/100", ContentRange(0, 9, 100)),
        ("Bytes 0-0/1", ContentRange(0, 0, 1)),
        ("bytes 5-9/*", ContentRange(5, 9, None)),
        ("bytes */100", ContentRange(None, None, 100)),
        ("bytes */0", ContentRange(None, None, 0)),
        ("bytes */*", None),
        ("bytes 9-5/100", None),
        ("bytes 0-100/100", None),
        ("bytes 0-0/0", None),
        ("items 0-9/100", None),
        ("bytes=0-9/100", None),
        ("bytes  0-9/100", None),
        ("bytes 0-9/100 ", None),
        ("bytes 0-9/100\n", None),
        ("bytes 0 - 9/100", None),
        ("bytes 0-9", None),
        ("bytes 0-/100", None),
        ("bytes -9/100", None),
        ("bytes +0-9/100", None),
        ("bytes 0--9/100", None),
        ("bytes 0-9/-1", None),
        ("bytes 0-1_0/100", None),
        ("bytes \u0660-\u0669/100", None),
        ("bytes 0-9/100, bytes 0-9/100", None),
        ("bytes 0-9/1000000000000000000", None),
        ("bytes 0-9/" + "9" * 5000, None),
        ("bytes " + "9" * 5000 + "-9/10", None),
        ("bytes 0-" + "9" * 5000 + "/10", None),
        ("", None),
    ],
)
def test_a_content_range_is_read_strictly(text: str, expected: ContentRange | None) -> None:
    """One space, digits of ASCII, in order, within the whole."""
    assert parse_content_range(text) == expected


@given(SIZES, SIZES, SIZES | st.none())
def test_a_content_range_is_read_as_it_was_written(first: int, last: int, total: int | None) -> None:
    """If it does not contradict itself."""
    consistent = first <= last and (total is None or last < total)
    written = f"bytes {first}-{last}/{'*' if total is None else total}"
    assert parse_content_range(written) == (ContentRange(first, last, total) if consistent else None)


@given(st.text(alphabet="bytes 019-/*,", max_size=20) | st.text())
def test_any_text_is_a_content_range_or_none(text: str) -> None:
    """Without an error."""
    parse_content_range(text)


def rest(**changed: str) -> dict[str, str]:
    """The headers of a 206 that is right after 4 of 10 bytes, but for what is changed; "" takes a header away."""
    headers = {"content-range": "bytes 4-9/10", "etag": ETAG, "content-length": "6", "content-type": "audio/mpeg"}
    headers |= {name.replace("_", "-"): value for name, value in changed.items()}
    return {name: value for name, value in headers.items() if value}


@pytest.mark.parametrize(
    ("headers", "total_bytes", "expected"),
    [
        (rest(), 10, APPEND),
        (rest(), None, APPEND),
        (rest(content_length=""), 10, APPEND),
        (rest(content_type=""), 10, APPEND),
        (rest(content_encoding="identity"), 10, APPEND),
        (rest(content_range="bytes 4-9/*"), 10, APPEND),
        (rest(content_range="bytes 4-9/*"), None, START_OVER),
        (rest(content_range=""), 10, START_OVER),
        (rest(content_range="4-9/10"), 10, START_OVER),
        (rest(content_range="bytes */10"), 10, START_OVER),
        (rest(content_range="bytes */4"), None, START_OVER),
        (rest(content_range="bytes 3-9/10", content_length="7"), 10, START_OVER),
        (rest(content_range="bytes 5-9/10", content_length="5"), 10, START_OVER),
        (rest(content_range="bytes 0-9/10", content_length="10"), 10, START_OVER),
        (rest(content_range="bytes 4-8/10", content_length="5"), 10, START_OVER),
        (rest(content_range="bytes 4-8/*", content_length="5"), 10, START_OVER),
        (rest(content_range="bytes 4-8/10", content_length="5"), None, START_OVER),
        (rest(content_range="bytes 4-8/10", content_length=""), 10, START_OVER),
        (rest(content_range="bytes 4-9/11"), 10, START_OVER),
        (rest(content_range="bytes 4-10/11", content_length="7"), 10, START_OVER),
        (rest(content_range="bytes 4-10/*", content_length="7"), 10, START_OVER),
        (rest(content_length="5"), 10, START_OVER),
        (rest(content_length="x"), 10, START_OVER),
        (rest(content_encoding="gzip"), 10, START_OVER),
        (rest(content_type="multipart/byteranges; boundary=x"), 10, START_OVER),
        (rest(content_type="Multipart/ByteRanges"), 10, START_OVER),
        (rest(etag='"v2"'), 10, START_OVER),
        (rest(etag='W/"v1"'), 10, START_OVER),
        (rest(etag=""), 10, START_OVER),
    ],
)
def test_only_exactly_the_rest_is_appended(
    headers: dict[str, str], total_bytes: int | None, expected: Continuation
) -> None:
    """From the first missing byte to the last of the same whole, under the same ETag, as it is."""
    assert judge(206, headers, 4, total_bytes, ETAG) is expected
    assert (
        judge(206, httpx.Headers({name.upper(): text for name, text in headers.items()}), 4, total_bytes, ETAG)
        is expected
    )


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"etag": ""}, APPEND),
        ({"etag": "", "last_modified": OLD}, APPEND),
        ({"etag": "", "last_modified": NEW}, START_OVER),
        ({"last_modified": OLD}, START_OVER),
    ],
)
def test_a_date_is_as_good_as_no_other_validator_appears(changed: dict[str, str], expected: Continuation) -> None:
    """A 206 need not repeat it; an ETag where there was none is of another server, or another file."""
    assert judge(206, rest(**changed), 4, 10, OLD) is expected


@pytest.mark.parametrize(
    ("headers", "total_bytes", "validator", "expected"),
    [
        ({"content-range": "bytes */4"}, 4, ETAG, COMPLETE),
        ({"content-range": "bytes */4"}, None, ETAG, COMPLETE),
        ({"content-range": "bytes */4", "etag": ETAG}, None, ETAG, COMPLETE),
        ({"content-range": "bytes */4"}, None, OLD, COMPLETE),
        ({"content-range": "bytes */4", "etag": '"v2"'}, 4, ETAG, START_OVER),
        ({"content-range": "bytes */4", "etag": ETAG}, 4, OLD, START_OVER),
        ({"content-range": "bytes */4", "last-modified": NEW}, 4, OLD, START_OVER),
        ({"content-range": "bytes */4"}, 10, ETAG, START_OVER),
        ({"content-range": "bytes */10"}, 10, ETAG, START_OVER),
        ({"content-range": "bytes */3"}, None, ETAG, START_OVER),
        ({"content-range": "bytes 0-3/4"}, 4, ETAG, START_OVER),
        ({"content-range": "*/4"}, 4, ETAG, START_OVER),
        ({}, 4, ETAG, START_OVER),
    ],
)
def test_no_rest_means_complete_only_if_all_is_there(
    headers: dict[str, str], total_bytes: int | None, validator: str, expected: Continuation
) -> None:
    """A 416 that names the length that there is, and no other validator."""
    assert judge(416, headers, 4, total_bytes, validator) is expected


def test_a_whole_body_replaces_what_there_is() -> None:
    """Whatever its headers say: they are judged as a first answer's are."""
    for headers in ({}, rest(), {"etag": '"v2"'}, {"content-encoding": "gzip"}):
        assert judge(200, headers, 4, 10, ETAG) is REPLACE


@given(st.integers(100, 599).filter(lambda status_code: status_code not in (200, 206, 416)))
def test_other_statuses_are_not_judged(status_code: int) -> None:
    """They are ordinary errors, whatever headers they carry."""
    assert judge(status_code, rest(), 4, 10, ETAG) is None
    assert judge(status_code, {"content-range": "bytes */4"}, 4, 4, ETAG) is None


def served(body: bytes, etag: str, asked: Mapping[str, str]) -> tuple[int, dict[str, str], bytes]:
    """What a server that keeps to RFC 9110 answers."""
    first = int(asked["Range"].removeprefix("bytes=").removesuffix("-"))
    if asked["If-Range"] != etag:
        return 200, {"etag": etag, "content-length": str(len(body))}, body
    if first >= len(body):
        return 416, {"content-range": f"bytes */{len(body)}"}, b""
    headers = {"content-range": f"bytes {first}-{len(body) - 1}/{len(body)}", "etag": etag}
    return 206, headers | {"content-length": str(len(body) - first)}, body[first:]


def etag_of(body: bytes) -> str:
    """A strong one: of the content."""
    return f'"{hashlib.sha256(body).hexdigest()}"'


@given(st.binary(min_size=1), st.binary(min_size=1), st.data(), st.booleans())
@example(b"ab", b"ac", None, True)
def test_what_comes_together_is_one_of_the_files(
    before: bytes, after: bytes, data: st.DataObject | None, knows_total: bool
) -> None:
    """However far the first answer came, and whether or not the file changed then: never a mixture."""
    received = before[: 1 if data is None else data.draw(st.integers(1, len(before)))]
    asked = request_headers(len(received), etag_of(before))
    status, headers, body = served(after, etag_of(after), asked)
    verdict = judge(status, headers, len(received), len(before) if knows_total else None, etag_of(before))
    whole = {APPEND: received + body, REPLACE: body, COMPLETE: received}.get(verdict or START_OVER)
    assert whole == after


@given(st.binary(min_size=1), st.binary(min_size=1), st.integers(1, 8))
@example(b"abc", b"xbc", 1)
def test_a_server_that_does_not_look_at_if_range_is_found_out(before: bytes, after: bytes, received_bytes: int) -> None:
    """It sends the rest of the file as it is now; that is appended only to the same file."""
    asked = request_headers(received_bytes, etag_of(before)) | {"If-Range": etag_of(after)}
    status, headers, _ = served(after, etag_of(after), asked)
    verdict = judge(status, headers, received_bytes, None, etag_of(before))
    assert (verdict is APPEND) == (before == after and received_bytes < len(after))


@given(
    st.sampled_from([206, 416]),
    st.dictionaries(
        st.sampled_from(["content-range", "etag", "last-modified", "content-length", "content-type"]),
        st.sampled_from([ETAG, '"v2"', OLD, "6", "bytes 4-9/10", "bytes 3-9/10", "bytes */4", "bytes 4-9/*", ""]),
    ),
    st.sampled_from([None, 4, 10]),
    st.sampled_from([ETAG, OLD]),
)
def test_any_answer_to_a_range_gets_a_verdict(
    status_code: int, headers: dict[str, str], total_bytes: int | None, validator: str
) -> None:
    """To append, or that it is complete, needs a range that says so; anything else is begun again."""
    verdict = judge(status_code, headers, 4, total_bytes, validator)
    if verdict is APPEND:
        assert status_code == 206 and headers["content-range"] in ("bytes 4-9/10", "bytes 4-9/*") and total_bytes != 4
    elif verdict is COMPLETE:
        assert status_code == 416 and headers["content-range"] == "bytes */4" and total_bytes != 10
    else:
        assert verdict is START_OVER


@pytest.mark.parametrize("text", [OLD, "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"])
@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_the_three_forms_of_a_date_are_one_moment(monkeypatch: pytest.MonkeyPatch, zone: str, text: str) -> None:
    """In UTC, also the one that does not say so, and whatever the machine's own time zone is."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", zone)
        time.tzset()
        found = date_seconds(text), date_seconds(text.replace("GMT", "-0000"))
    time.tzset()
    assert found == (784_111_777, 784_111_777)


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31)))
def test_a_date_is_read_as_it_was_written(moment: datetime) -> None:
    """To the second."""
    moment = moment.replace(microsecond=0, tzinfo=UTC)
    assert date_seconds(format_datetime(moment, usegmt=True)) == moment.timestamp()


WORDS = [
    "Sun,",
    "Sun",
    "Nov",
    "06",
    "6",
    "1994",
    "94",
    "99999",
    "08:49:37",
    "99:99",
    "GMT",
    "+9999",
    "-",
    ":",
    ",",
    "é",
]


@given(st.text() | st.lists(st.sampled_from(WORDS), max_size=7).map(" ".join))
@example("Sun, 31 Feb 1994 08:49:37 GMT")
@example("Sun, 06 Nov 1994 08:49:37 +99999999999999999999")
def test_any_text_is_a_date_or_none(text: str) -> None:
    """Without an error."""
    date_seconds(text)
