"""Answers and errors of Gemini, whichever way they come."""

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, strategies as st

import memsafe_transcribe as mt
from memsafe_transcribe.transcribers._gemini_answers import Reply, failure_of, question, redacted, result_of, schema

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["segments", "text", "start", "end"]), inner),
)


def heard(*times: tuple[Any, Any], seconds: float = 60.0) -> list[tuple[float, float]]:
    """The times that come of these, each with a word."""
    items = [{"text": f"word{number}", "start": start, "end": end} for number, (start, end) in enumerate(times)]
    result = result_of(Reply(True, json.dumps({"segments": items}), "STOP"), seconds)
    return [(segment.start_seconds, segment.end_seconds) for segment in result.segments]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ((0, 1.5), (0.0, 1.5)),
        (("0", "1.5"), (0.0, 1.5)),
        (("0:58", "01:05.5"), (58.0, 65.5)),
        (("00:00:58,250", "00:01:05,5"), (58.25, 65.5)),
        (("58s", "59.5 sec"), (58.0, 59.5)),
        (("58000ms", "59500 ms"), (58.0, 59.5)),
        ((70, 80), (70.0, 80.0)),  # beyond the recording: for the library to judge
        ((9, 3), (9.0, 3.0)),
        ((-1, 3), (-1.0, 3.0)),
    ],
)
def test_times_as_models_write_them(times: tuple[Any, Any], expected: tuple[float, float]) -> None:
    """In seconds, or as they are."""
    assert heard(times) == [expected]


@pytest.mark.parametrize(
    ("reply", "kind", "said"),
    [
        (Reply(True, "{}", block_reason="SAFETY"), mt.TranscriberError, "Gemini blocked the chunk: SAFETY"),
        (Reply(False), mt.TranscriberError, "Gemini answered without a candidate, and gave no reason"),
        (Reply(True, "{", "MAX_TOKENS"), mt.ChunkTooLargeError, "Gemini's answer was cut off: MAX_TOKENS"),
        (Reply(True, "[]", "RECITATION"), mt.TranscriberError, "before the end of its answer: RECITATION"),
        (Reply(True, " \n", "STOP"), mt.TranscriberError, "Gemini's candidate has no text; finish reason STOP"),
        (Reply(True, "Sorry.", "STOP"), mt.TranscriberError, "is not the JSON that it was asked for"),
        (Reply(True, '[{"text"', "STOP"), mt.ChunkTooLargeError, "is JSON that breaks off"),
        (Reply(True, ' {"segments"', "STOP"), mt.ChunkTooLargeError, "is JSON that breaks off"),
        (Reply(True, "5", "STOP"), mt.TranscriberError, "but without a list of segments"),
        (Reply(True, '{"segments": [5]}', "STOP"), mt.TranscriberError, "but without a list of segments"),
        (Reply(True, '[{"start": 0}]', "STOP"), mt.TranscriberError, "has a segment without text"),
    ],
)
def test_what_is_no_transcript_is_an_error(reply: Reply, kind: type[mt.TranscriberError], said: str) -> None:
    """With what has to be done about it in its class, and the service's own word in its message."""
    with pytest.raises(mt.TranscriberError) as caught:
        result_of(reply, 60.0)
    assert type(caught.value) is kind
    assert said in str(caught.value)


@pytest.mark.parametrize("finish_reason", [None, "STOP", "FINISH_REASON_UNSPECIFIED"])
def test_an_answer_that_ended_is_a_result(finish_reason: str | None) -> None:
    """However its end is named."""
    assert result_of(Reply(True, "[]", finish_reason), 60.0) == mt.ChunkResult()


def test_the_question_says_all_that_is_known() -> None:
    """The length, the language and the prompt; what is not known is not spoken of."""
    plain = question(12.34, mt.ChunkContext())
    assert "12.3 seconds" in plain
    assert "code" not in plain and "spelling" not in plain and "None" not in plain
    told = question(12.34, mt.ChunkContext(language="pt-BR", prompt="Ana, Zé"))
    assert told.startswith(plain)
    assert "pt-BR" in told and "Ana, Zé" in told
    assert question(12.34, mt.ChunkContext(prompt="")) == plain


def test_each_has_a_schema_of_its_own() -> None:
    """A client writes into what it is given."""
    first = schema()
    first["properties"].clear()
    assert set(schema()["properties"]) == {"language", "segments"}


def test_what_can_be_milliseconds() -> None:
    """Beyond ten times the recording, within a second of it, and begun in order, though they may overlap."""
    assert heard((0, 600)) == [(0.0, 600.0)]
    assert heard((0, 601)) == [(0.0, 0.601)]
    assert heard((0, 61_000)) == [(0.0, 61.0)]
    assert heard((0, 61_001)) == [(0.0, 61_001.0)]
    assert heard((0, 1500), (0, 59_000)) == [(0.0, 1.5), (0.0, 59.0)]
    assert heard((0, 1500), (1000, 59_000)) == [(0.0, 1.5), (1.0, 59.0)]


def test_hours_and_milliseconds_are_read_by_their_names() -> None:
    """Where the recording is long enough for either."""
    assert heard(("01:00:58", "1:01:05,5"), seconds=4000.0) == [(3658.0, 3665.5)]
    assert heard(("1500 ms", "2500ms"), seconds=4000.0) == [(1.5, 2.5)]


def test_text_without_times_has_its_language() -> None:
    """It is known all the same."""
    answer = {"language": "en", "segments": [{"text": "One.", "start": None, "end": 1}]}
    assert result_of(Reply(True, json.dumps(answer), "STOP"), 60.0) == mt.ChunkResult(text="One.", language="en")


def test_the_wait_that_is_asked_for_in_the_details_goes_before_the_header() -> None:
    """If it stands in a RetryInfo."""
    for kind, expected in (("type.googleapis.com/google.rpc.RetryInfo", 30.5), ("google.rpc.Help", 7.0)):
        body = json.dumps({"error": {"details": [{"@type": kind, "retryDelay": "30.5s"}]}}).encode()
        failure = failure_of(503, "7", body, NOW)
        assert isinstance(failure, mt.TranscriberUnavailableError)
        assert failure.retry_after_seconds == expected


def test_milliseconds_are_seen_as_such() -> None:
    """Where all of them together can be nothing else."""
    assert heard((0, 1500), (1500, 59_000)) == [(0.0, 1.5), (1.5, 59.0)]
    assert heard((1500, 59_000), (0, 1500)) == [(1500.0, 59_000.0), (0.0, 1500.0)]
    assert heard((0, 500_000)) == [(0.0, 500_000.0)]


def test_json_that_is_nested_without_end_is_json_that_breaks_off() -> None:
    """No parser goes that deep."""
    with pytest.raises(mt.ChunkTooLargeError, match="breaks off"):
        result_of(Reply(True, "[" * 200_000, "STOP"), 60.0)


def test_a_time_of_decades_is_none() -> None:
    """From a thousand million seconds on."""
    assert heard((0, 999_999_999)) == [(0.0, 999_999_999.0)]
    items = [{"text": "word", "start": 0, "end": 1_000_000_000}]
    result = result_of(Reply(True, json.dumps({"segments": items}), "STOP"), 60.0)
    assert (result.text, result.segments) == ("word", ())


@pytest.mark.parametrize(
    "time", [None, "soon", True, [1], float("nan"), float("inf"), 10**400, "", "9" * 400 + ":00", f"{'9' * 5000}:00:00"]
)
def test_a_time_that_is_none_leaves_the_text(time: Any) -> None:
    """All of it, in order, without times."""
    items = [{"text": "One.", "start": 0, "end": 1}, {"text": " Two. ", "start": time, "end": 2}, {"text": "  "}]
    result = result_of(Reply(True, json.dumps(items), "STOP"), 60.0)
    assert result == mt.ChunkResult(text="One. Two.")


def test_impossible_times_are_marked_by_the_library() -> None:
    """They reach it as they are; what it makes of them cannot be mistaken for true ones."""
    assert heard((70, 80), (5, 2)) == [(70.0, 80.0), (5.0, 2.0)]


@pytest.mark.parametrize(
    "text", ['```json\n{"segments": []}\n```', "```\n[]\n```", " []\n", '```json\n{"segments": []}']
)
def test_fences_are_taken_off(text: str) -> None:
    """Some models wrap JSON as in a chat."""
    assert result_of(Reply(True, text, "STOP"), 1.0) == mt.ChunkResult()


def test_blanks_without_end_take_no_time() -> None:
    """Models fall into that; what tries each blank as the beginning of the last ones takes minutes for these."""
    began = time.thread_time()
    with pytest.raises(mt.ChunkTooLargeError):
        result_of(Reply(True, "```json\n[" + "\n" * 100_000 + '{"text": "', "STOP"), 1.0)
    assert time.thread_time() - began < 5


@pytest.mark.parametrize(
    ("language", "expected"),
    [("en", "en"), (" pt-BR ", "pt-BR"), ("unknown", None), ("English, I think", None), ("", None), (7, None)],
)
def test_a_language_is_a_code_or_nothing(language: Any, expected: str | None) -> None:
    """What is no code would only mislead."""
    text = json.dumps({"language": language, "segments": [{"text": "Yes.", "start": 0, "end": 1}]})
    assert result_of(Reply(True, text, "STOP"), 1.0).language == expected


@given(JSON)
def test_whatever_json_comes(document: Any) -> None:
    """A result, or an error that says what is to be done."""
    for text in (json.dumps(document), json.dumps({"segments": document}), json.dumps([document])):
        for cut in (text, text[: len(text) // 2]):
            try:
                result = result_of(Reply(True, cut, "STOP"), 60.0)
            except mt.TranscriberError:
                continue
            assert isinstance(result, mt.ChunkResult)


@given(st.integers(201, 599), st.text() | st.none(), st.binary() | JSON.map(lambda each: json.dumps(each).encode()))
def test_whatever_error_comes(status: int, retry_after: str | None, body: bytes) -> None:
    """One of ours, with a wait that can be waited."""
    failure = failure_of(status, retry_after, body, NOW)
    wait_seconds = getattr(failure, "retry_after_seconds", None)
    assert wait_seconds is None or wait_seconds >= 0
    assert str(status) in str(failure)


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (408, "x", mt.TranscriberUnavailableError),
        (429, "slow down", mt.TranscriberUnavailableError),
        (429, "the daily limit is reached", mt.TranscriberQuotaError),
        (500, "x", mt.TranscriberUnavailableError),
        (503, "x", mt.TranscriberUnavailableError),
        (413, "x", mt.ChunkTooLargeError),
        (400, "Request payload size exceeds the limit: 20971520 bytes.", mt.ChunkTooLargeError),
        (400, "x", mt.TranscriberError),
        (403, "Request payload size exceeds the limit: 20971520 bytes.", mt.TranscriberError),
        (404, "x", mt.TranscriberError),
        (409, "x", mt.TranscriberError),
        (499, "x", mt.TranscriberError),
    ],
)
def test_what_each_status_means(status: int, message: str, expected: type[mt.TranscriberError]) -> None:
    """To be tried again, to be cut in two, or neither; each with what was said."""
    failure = failure_of(status, None, json.dumps({"error": {"message": message}}).encode(), NOW)
    assert (type(failure), str(failure)) == (expected, f"Gemini answered {status}: {message}")


@pytest.mark.parametrize("error", [{"details": 5}, {"details": ["x", None]}, {"message": 5}, [], "x"])
@pytest.mark.parametrize("status", [400, 429])
def test_errors_of_another_shape(status: int, error: Any) -> None:
    """Are errors all the same."""
    assert str(status) in str(failure_of(status, None, json.dumps({"error": error}).encode(), NOW))


def test_an_error_in_a_list_is_the_first_of_it() -> None:
    """As streams are answered, and as some proxies always answer."""
    body = json.dumps([{"error": {"message": "one"}}, {"error": {"message": "two"}}]).encode()
    assert str(failure_of(400, None, body, NOW)) == "Gemini answered 400: one"
    assert str(failure_of(400, None, b"[]", NOW)) == "Gemini answered 400: 2 bytes that are no error of its own"


@pytest.mark.parametrize("violations", [5, [5], [{"quotaId": 5}], [{}]])
def test_quotas_of_another_shape(violations: Any) -> None:
    """Are limits in rate."""
    detail = {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": violations}
    body = json.dumps({"error": {"message": "x", "details": [detail]}}).encode()
    assert type(failure_of(429, None, body, NOW)) is mt.TranscriberUnavailableError


@pytest.mark.parametrize(
    "message",
    ["Quota exceeded: requests per day", "Your daily limit is reached", "Your prepayment credits are depleted."],
)
def test_quotas_that_are_named_in_words_only(message: str) -> None:
    """Proxies leave the details out."""
    body = json.dumps({"error": {"message": message}}).encode()
    assert type(failure_of(429, "30", body, NOW)) is mt.TranscriberQuotaError


def test_a_date_to_come_back_at() -> None:
    """As RFC 9110 has it; one that is past says nothing."""
    for seconds, expected in ((90, 90.0), (-90, None)):
        date = (NOW + timedelta(seconds=seconds)).strftime("%a, %d %b %Y %H:%M:%S GMT")
        failure = failure_of(503, date, b"", NOW)
        assert isinstance(failure, mt.TranscriberUnavailableError)
        assert failure.retry_after_seconds == expected


def test_no_key_and_no_page_of_text_in_a_message() -> None:
    """The caller's key in any spelling, and what looks like one of Google's; a figure is kept."""
    key = "a/key+1"
    said = f"{key} a%2Fkey%2B1 AIzaSyA-0123456789_abcdefghijklmnopqrst {'x' * 5000}{key}"
    failure = redacted(mt.TranscriberUnavailableError(said, retry_after_seconds=5.0), key)
    assert str(failure).startswith("[key] [key] [key] xxx")
    upload = mt.TranscriberError('at "https://h/upload?upload_id=s3cret&x=1" and http://h/a?b, no')
    assert str(redacted(upload, key)) == 'at "https://h/upload" and http://h/a no'
    assert len(str(failure)) < 500
    assert isinstance(failure, mt.TranscriberUnavailableError)
    assert failure.retry_after_seconds == 5.0


def quota(*violations: dict[str, str], kind: str = "type.googleapis.com/google.rpc.QuotaFailure") -> Any:
    return {"@type": kind, "violations": list(violations)}


@pytest.mark.parametrize(
    ("details", "message", "is_for_long"),
    [
        ([quota({"quotaId": "RequestsPerDayPerProject"})], "slow down", True),
        ([quota({"description": "Requests per day"})], "slow down", True),
        ([quota({"quotaId": "RequestsPerMinute"}, {"quotaId": "RequestsPerDay"})], "slow down", True),
        ([quota({"quotaId": "RequestsPerMinute"})], "so many per day are free", False),  # what is named counts
        ([quota({"quotaId": "RequestsPerDay"}, kind="google.rpc.Help")], "slow down", False),
        ([{"violations": [{"quotaId": "RequestsPerDay"}]}], "slow down", False),
        ([], "the daily limit is reached", True),
        ([], "slow down", False),
    ],
)
def test_a_quota_of_the_day_is_not_waited_for(details: list[Any], message: str, is_for_long: bool) -> None:
    """By what is named, or else by the message; one of the minute is."""
    body = json.dumps({"error": {"message": message, "details": details}}).encode()
    expected = mt.TranscriberQuotaError if is_for_long else mt.TranscriberUnavailableError
    assert type(failure_of(429, None, body, NOW)) is expected


def test_a_message_is_cut_at_a_fair_length() -> None:
    """Not one that has just that; and of a URL nothing stays from its first question mark on, nor any form of a key."""
    for length, shown in ((400, "m" * 400), (401, "m" * 400 + "...")):
        assert str(redacted(mt.TranscriberError("m" * length), "key")) == shown
    assert str(redacted(mt.TranscriberError("at http://h/a?b=c?d=e ."), "key")) == "at http://h/a ."
    assert str(redacted(mt.TranscriberError("a/XX and a%2FXX"), "a/XX")) == "[key] and [key]"


@pytest.mark.parametrize("delay", ["9" * 400 + "s", "1e9s", "-1s", "soon", 5, None])
def test_a_delay_that_is_none_is_not_waited_for(delay: Any) -> None:
    """What the header asks for is."""
    detail = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}
    body = json.dumps({"error": {"details": [detail]}}).encode()
    failure = failure_of(503, "7", body, NOW)
    assert isinstance(failure, mt.TranscriberUnavailableError)
    assert failure.retry_after_seconds == 7.0


def test_a_message_of_many_urls_takes_no_time() -> None:
    """A proxy may write what it likes; and what follows a question mark in the last of them is not shown either."""
    began = time.thread_time()
    message = "http://" * 50_000 + "h/upload?key=abc"
    assert "abc" not in str(redacted(mt.TranscriberError(message), "key"))
    assert str(redacted(mt.TranscriberError("see http://http://h/upload?key=abc now"), "key")).endswith("h/upload now")
    assert time.thread_time() - began < 5
