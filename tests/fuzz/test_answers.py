"""What speech services answer, and what is stored of it: a result whose times can be placed, or an error of ours."""

import json
import math
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import anyio
import httpx
import pytest
from hypothesis import strategies as st

import memsafe_transcribe as mt
from memsafe_transcribe._audio.chunker import Span
from memsafe_transcribe._transcription.placing import ChunkSpan, pieces_of
from memsafe_transcribe._transcription.records import Answer, packed, packed_gaps, unpacked, unpacked_gaps
from memsafe_transcribe.transcribers._gemini_answers import Reply, failure_of, redacted, result_of
from memsafe_transcribe.transcribers.openai import OpenAITranscriber

from ..support.targets import damaged, fuzz, long_ones, mutated
from ..transcribers.openai_server import KEY, SAID, assert_no_key_in, chunk
from .times import NOW

KEYS = ("segments", "words", "word", "text", "start", "end", "language", "error", "details", "message", "code", "type")
SPAN = ChunkSpan(10.0, 70.0, 11.0, 69.0)
DEEP = ("[" * 100_000, '{"segments":' * 100_000, "[" * 900 + "]" * 900)
NUMBERS = st.sampled_from((-1, 0, 1.5, 10**5, 10**400, -(10**400), 1e308, math.nan, math.inf, -math.inf, 2**63, True))
TIMES = NUMBERS | st.sampled_from(
    ("0:58", "00:00:58,250", "58s", "59500 ms", "9" * 400 + ":00", "9" * 5_000 + ":00", "9" * 5_000, "\u0663s", None)
)
LEAVES = st.none() | st.booleans() | NUMBERS | TIMES | st.text(max_size=20)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=20,
)
ITEM = st.fixed_dictionaries({"text": st.text(max_size=10), "start": TIMES, "end": TIMES})
ITEMS = st.lists(ITEM, max_size=5) | st.lists(ITEM | JSON, max_size=5)


def dumped(document: Any) -> str:
    """JSON as a careless service writes it: NaN, and numbers of any length."""
    return json.dumps(document)


def assert_can_be_placed(result: mt.ChunkResult) -> None:
    """All that it says has times within what was heard, and can be stored."""
    for piece in pieces_of(SPAN, result):
        assert 10.0 <= piece.start_seconds <= piece.end_seconds <= 70.0
    again = unpacked(Span(0, 16_000, 0, 16_000), packed(result, None)).result
    assert repr(again) == repr(result)  # not a number is not equal to itself


def test_answers_of_gemini() -> None:
    """Replies and errors: a result that can be placed, or an error of ours, with a wait that ends, and without keys."""
    key = "AIzaSyA-secret_secret"

    def judge(case: tuple[str, int, str | None]) -> None:
        text, status, retry_after = case
        with suppress(mt.TranscriberError):
            assert_can_be_placed(result_of(Reply(True, text, "STOP"), 60.0))
        failure = redacted(failure_of(status, retry_after, text.encode("utf-8", "surrogatepass"), NOW), key)
        assert key not in str(failure)
        assert len(str(failure)) <= 500
        wait = getattr(failure, "retry_after_seconds", None)
        assert wait is None or 0 <= wait < math.inf

    good = dumped({"language": "en", "segments": [{"text": "One.", "start": 0, "end": "0:01.5"}]})
    retry_info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "30s"}
    error = dumped({"error": {"message": f"see https://h/?key={key} no", "details": [retry_info]}})
    whole = ITEMS.map(lambda items: dumped({"segments": items})) | ITEMS.map(dumped) | JSON.map(dumped)
    errors = JSON.map(lambda said: dumped({"error": said}))
    texts = (good, f"```json\n{good}\n```", error)
    statuses = st.sampled_from((400, 404, 408, 413, 429, 500, 503))
    longs = ((text, 429, None) for text in (*long_ones(*texts, "```json\n x ```"), *DEEP, *hard_for_expressions()))
    inputs = whole | errors | mutated(*texts) | st.sampled_from(DEEP)
    fuzz("answers of Gemini", st.tuples(inputs, statuses, st.none() | mutated("30", "Thu, 26 Nov 2026 12:00:30 GMT")),
         judge, longs)  # fmt: skip


def hard_for_expressions() -> Iterable[str]:
    """What an expression that tries many ways would take minutes for."""
    yield "```json" + "\n" * 100_000 + "x"
    yield "```json\n[]" + " `" * 50_000
    yield dumped({"error": {"message": "http://" * 50_000}})
    yield dumped({"error": {"message": "AIza" * 50_000}})
    yield dumped({"error": {"message": "credits " * 50_000}})
    yield dumped({"segments": [{"text": "x", "start": "1" * 100_000 + "x", "end": ("1:" * 50_000) + "x"}]})


def test_answers_of_openai(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the SDK, with whatever status: a result that can be placed, or an error of ours without the key."""
    said: list[Any] = []

    async def send(_: object, request: httpx.Request) -> httpx.Response:
        await request.aread()
        status, headers, body = said[0]
        return httpx.Response(status, headers=headers, content=body, request=request)

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", send)

    async def ask() -> mt.ChunkResult:
        engine = OpenAITranscriber(api_key=KEY, base_url="http://127.0.0.1:9/v1")
        try:
            return await engine.transcribe(chunk(0.2), mt.ChunkContext())
        finally:
            await engine.aclose()

    def judge(case: tuple[int, str, bytes]) -> None:
        status, retry_after, body = case
        headers = [(b"Content-Type", b"application/json"), (b"Retry-After", retry_after.encode("utf-8", "ignore"))]
        said[:] = [(status, headers, body)]
        try:
            result = anyio.run(ask)
        except mt.TranscriberError as error:
            assert_no_key_in(error)
            wait = getattr(error, "retry_after_seconds", None)
            assert wait is None or 0 <= wait < math.inf
        else:
            assert_can_be_placed(result)

    word = st.fixed_dictionaries({"word": st.text(max_size=5), "start": NUMBERS, "end": NUMBERS})
    words = st.lists(word, max_size=5) | st.lists(word | JSON, max_size=5)
    documents = st.fixed_dictionaries({"text": st.text(max_size=20)}, optional={"words": words, "segments": ITEMS})
    bodies = (documents | JSON).map(lambda document: dumped(document).encode()) | damaged(json.dumps(SAID).encode())
    statuses = st.sampled_from((200, 200, 200, 200, 400, 401, 413, 429, 500))
    waits = mutated("30", "Thu, 26 Nov 2026 12:00:30 GMT")
    longs = ((status, "1", text.encode()) for text in DEEP for status in (200, 429))
    fuzz("answers of OpenAI", st.tuples(statuses, waits, bodies), judge, longs)


def test_stored_answers() -> None:
    """What a damaged store says was answered: a result, or a `StoreError`."""
    span = Span(0, 16_000, 0, 16_000)
    words = (mt.Word("one", 0.0, 0.5), mt.Word("two", 0.5, 1.0))
    good = packed(mt.ChunkResult(text="one two", words=words, language="en"), None)
    gaps = packed_gaps([mt.Gap(1.0, 2.0, "damaged")])

    def judge(data: bytes) -> None:
        for read in (lambda: unpacked(span, data), lambda: unpacked_gaps(data.decode("utf-8", "replace"))):
            found: Answer | tuple[mt.Gap, ...] | mt.StoreError
            try:
                found = read()
            except mt.StoreError as error:
                found = error
            if isinstance(found, mt.StoreError):
                assert found.reason == "corrupt"
            elif isinstance(found, tuple):
                assert all(isinstance(gap.start_seconds + gap.end_seconds, float) for gap in found)
                assert all(isinstance(gap.reason, str) for gap in found)
            else:
                assert isinstance(found.result, mt.ChunkResult)
                assert found.suspicion is None or isinstance(found.suspicion, str)
                assert_can_be_placed(found.result)

    shapes = st.tuples(LEAVES, LEAVES, JSON, JSON, LEAVES) | st.lists(st.tuples(TIMES, TIMES, LEAVES)) | JSON
    inputs = damaged(good, gaps.encode()) | shapes.map(lambda shape: dumped(shape).encode())
    fuzz("stored answers", inputs, judge, (text.encode() for text in DEEP))
