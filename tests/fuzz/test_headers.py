"""What a server sends: headers, ranges, dates, gzip, and whole answers that are broken; nothing but errors of ours."""

import gzip
import math
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import anyio
import pytest
from hypothesis import strategies as st

import memsafe_transcribe as mt
from memsafe_transcribe._download.gunzip import unpacked
from memsafe_transcribe._download.ranges import Continuation, date_seconds, judge, parse_content_range, validator
from memsafe_transcribe._download.retries import retry_after_seconds
from memsafe_transcribe._download.transport import length
from memsafe_transcribe.transcribers._gemini_answers import failure_of

from ..support.server import Exchange, Server
from ..support.targets import damaged, fuzz, long_ones, mutated
from .times import NOW

NAMES = (
    "accept-ranges", "content-encoding", "content-length", "content-range", "content-type", "date", "etag",
    "last-modified", "retry-after",
)  # fmt: skip
TEXTS = (
    "bytes 4-9/10", "bytes */4", "bytes 4-9/*", "6", "120", "identity", "gzip, br", "none", '"v1"', 'W/"v1"',
    "Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994", "audio/mpeg",
    "Thu, 01 Jan 99999 00:00:00 +9999", "multipart/byteranges; boundary=x",
)  # fmt: skip
RECEIVED, TOTAL = 4, 10
PACKED = gzip.compress(b"here and there" * 100, mtime=0), gzip.compress(bytes(300_000), mtime=0) * 2
BODY = b"whole " * 100
ANSWERS = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 600\r\nETag: \"a\"\r\n\r\n" + BODY,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n258\r\n" + BODY + b"\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(PACKED[0]) + PACKED[0],
    b"HTTP/1.1 206 Partial Content\r\nETag: \"a\"\r\nContent-Range: bytes 4-599/600\r\n\r\n" + BODY[4:],
    b"HTTP/1.1 416 X\r\nContent-Range: bytes */4\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 503 X\r\nRetry-After: 0\r\nContent-Length: 4\r\n\r\nbusy",
    b"HTTP/1.1 103 X\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 600\r\n\r\n" + BODY,
)  # fmt: skip


def test_headers() -> None:
    """Each is read or is none, without another error; a continuation needs a range that says where it goes on."""

    def judge_these(headers: dict[str, str]) -> None:
        found = validator(headers)
        assert found is None or found in headers.values()
        size = length(headers)
        assert size is None or 0 <= size < 10**19
        wait = retry_after_seconds(headers.get("retry-after"), NOW.timestamp())
        assert wait is None or 0 <= wait <= 1e9
        for text in headers.values():
            at = date_seconds(text)
            assert at is None or math.isfinite(at)
        failure = failure_of(503, headers.get("retry-after"), b"", NOW)
        wait = getattr(failure, "retry_after_seconds", None)
        assert wait is None or 0 <= wait < math.inf
        for status in (200, 206, 416):
            for total in (None, TOTAL):
                verdict = judge(status, headers, RECEIVED, total, found or '"v1"')
                if verdict is Continuation.APPEND:
                    said = parse_content_range(headers["content-range"])
                    assert said is not None and said.first_byte == RECEIVED
                    assert said.last_byte == (total or said.total_bytes or 0) - 1

    values = mutated(*TEXTS)
    longs = ({name: text} for text in long_ones(*TEXTS) for name in ("content-range", "retry-after", "etag", "date"))
    fuzz("headers", st.dictionaries(st.sampled_from(NAMES), values), judge_these, longs)


def test_gzip() -> None:
    """What is packed comes out, in pieces of bounded size; or one of two errors does."""

    async def unpack(parts: list[bytes]) -> None:
        async def sent() -> AsyncIterator[bytes]:
            for part in parts:
                yield part

        async for piece in unpacked(sent(), "http://example.com/", 1 * mt.MiB):  # type: ignore[arg-type]
            assert len(piece) <= 1 * mt.MiB

    def judge_one(case: tuple[bytes, int]) -> None:
        data, every = case
        with suppress(mt.DownloadProtocolError, mt.TruncatedDownloadError):
            anyio.run(unpack, [data[at : at + every] for at in range(0, len(data), every)])

    fuzz("gzip", st.tuples(damaged(*PACKED), st.sampled_from((1, 7, 100, 1 << 20))), judge_one)


def test_answers_of_a_server(server: Server, spool_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file, with bytes that the server sent and no more than it may, or a `DownloadError`; nothing is left."""
    monkeypatch.setattr("memsafe_transcribe._download.transfer._BACKOFF_SECONDS", 1e-6)
    sends: list[bytes] = []

    def route(exchange: Exchange) -> None:
        exchange.send(sends.pop(0) if len(sends) > 1 else sends[0])

    server.routes["/"] = server.routes["/other"] = route

    async def ask() -> None:
        downloader = mt.SafeDownloader(
            policy=mt.UrlPolicy(allow_private=True), spool_dir=spool_dir, max_bytes=1000, max_attempts=2,
            allow_gzip=True, read_timeout_seconds=5,
        )  # fmt: skip
        async with downloader.fetch(server.url("/"), deadline_seconds=20) as file:
            assert 0 < file.size_bytes <= 1000 or b"gzip" in b"".join(said)

    said: list[bytes] = []

    def judge_one(answers: list[bytes]) -> None:
        sends[:], said[:] = answers, answers
        with suppress(mt.DownloadError):
            anyio.run(ask)
        assert list(spool_dir.iterdir()) == []

    fuzz("answers of a server", st.lists(damaged(*ANSWERS), min_size=2, max_size=4), judge_one)
