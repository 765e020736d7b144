"""Unpacking gzip: whatever pieces it comes in, the same comes out, and never much at once."""

import gzip
import random
import tracemalloc
import zlib
from collections.abc import AsyncGenerator, Coroutine, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given, strategies as st

import memsafe_transcribe as mt
from memsafe_transcribe._download.gunzip import unpacked

from ..conftest import Run
from ..support.server import Exchange, Server
from .test_downloader import ANY, refusal

T = TypeVar("T")
URL = "http://h/a"
CAP = 1 << 40

contents = st.binary() | st.builds(lambda data, times: data * times, st.binary(max_size=9), st.integers(0, 300_000))
members = st.lists(contents, min_size=1, max_size=4)


def done(coroutine: Coroutine[None, None, T]) -> T:
    """Run what waits for nothing; no event loop is needed."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    raise AssertionError("it waits")


async def coming(parts: Iterable[bytes]) -> AsyncGenerator[bytes]:
    for part in parts:
        yield part


def unpack(parts: Iterable[bytes]) -> list[bytes]:
    """The pieces that come out."""
    return unpack_until_error(parts, None)


def unpack_until_error(parts: Iterable[bytes], error: type[Exception] | None) -> list[bytes]:
    """The pieces that come out before exactly this error."""
    pieces: list[bytes] = []

    async def main() -> None:
        async for piece in unpacked(coming(parts), URL, CAP):
            pieces.append(piece)  # noqa: PERF401 - what came before an error is wanted, too

    if error is None:
        done(main())
    else:
        with pytest.raises(error) as caught:
            done(main())
        assert type(caught.value) is error
    return pieces


def packed(each: Sequence[bytes], level: int = 9) -> bytes:
    """One member for each."""
    return b"".join(gzip.compress(content, level, mtime=0) for content in each)


def split(data: bytes, cuts: Iterable[float]) -> list[bytes]:
    """Cut at these fractions of the length; where two are the same, with an empty part in between."""
    places = [0, *sorted(int(cut * len(data)) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


@given(members, st.sampled_from([0, 1, 9]), st.lists(st.floats(0, 1)))
def test_any_bytes_come_out_as_they_were(each: list[bytes], level: int, cuts: list[float]) -> None:
    """Compressed well or only framed, in one member or several, split anywhere; in pieces of 1 MiB at most."""
    pieces = unpack(split(packed(each, level), cuts))
    assert b"".join(pieces) == b"".join(each)
    assert max(map(len, pieces)) <= mt.MiB


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=3))
def test_byte_by_byte_it_is_the_same(each: list[bytes]) -> None:
    """Also the headers and the checksums between members."""
    data = packed(each)
    assert b"".join(unpack(data[at : at + 1] for at in range(len(data)))) == b"".join(each)


def test_a_member_may_have_a_name_and_a_comment() -> None:
    """And whatever else RFC 1952 lets its header have, split anywhere."""
    body = zlib.compress(b"spoken")[2:-4]
    header = b"\x1f\x8b\x08\x1c" + bytes(6) + b"\x03\x00abc" + b"talk.mp3\x00" + b"said\x00"
    data = header + body + zlib.crc32(b"spoken").to_bytes(4, "little") + (6).to_bytes(4, "little")
    for at in range(len(data)):
        assert b"".join(unpack([data[:at], data[at:]])) == b"spoken"


@pytest.mark.parametrize("content", [b"", b"spoken", random.Random(1).randbytes(700), bytes(100_000)])
def test_what_ends_early_is_truncated(content: bytes) -> None:
    """At every single byte, be it of the header, the body or the checksum; what came before it is given out."""
    whole = packed([content])
    first = packed([b"first"])
    for length in range(1, len(whole)):
        assert content.startswith(b"".join(unpack_until_error([whole[:length]], mt.TruncatedDownloadError)))
        again = unpack_until_error([first + whole[:length]], mt.TruncatedDownloadError)
        assert b"first" in b"".join(again)


def test_the_error_says_that_it_may_be_tried_again() -> None:
    """A truncated stream may well come whole the next time; what is not gzip will not become it."""
    with pytest.raises(mt.TruncatedDownloadError, match="ends early") as early:
        unpack([packed([b"spoken"])[:-1]])
    with pytest.raises(mt.DownloadProtocolError, match="said to be gzip, and is not") as other:
        unpack([b"spoken"])
    assert [(each.value.url, each.value.retryable) for each in (early, other)] == [(URL, True), (URL, False)]
    assert other.value.__cause__ is None


def test_nothing_at_all_comes_out_as_nothing() -> None:
    """That the body is empty is for others to say."""
    assert unpack([]) == []
    assert unpack([b"", b""]) == []


def is_no_gzip(data: bytes) -> bool:
    """Also not behind zeros, with which a stream may be filled up."""
    return len(data.lstrip(b"\0")) >= 2 and not data.lstrip(b"\0").startswith(b"\x1f\x8b")


@given(st.binary().filter(is_no_gzip), st.lists(st.floats(0, 1)))
def test_what_is_not_gzip_is_a_protocol_error(data: bytes, cuts: list[float]) -> None:
    """Alone, or after a whole member."""
    unpack_until_error(split(data, cuts), mt.DownloadProtocolError)
    unpack_until_error([packed([b"spoken"]), *split(data, cuts)], mt.DownloadProtocolError)
    unpack_until_error([packed([b"spoken"]) + data], mt.DownloadProtocolError)


@pytest.mark.parametrize("form", [zlib.compress, lambda content: zlib.compress(content)[2:-4]], ids=["zlib", "deflate"])
def test_its_relatives_are_not_gzip(form: type[bytes]) -> None:
    """Only what was announced is read."""
    unpack_until_error([form(b"spoken" * 100)], mt.DownloadProtocolError)


@given(st.integers(0, 7), st.integers(1, 255))
def test_a_wrong_checksum_or_length_is_a_protocol_error(at: int, change: int) -> None:
    """One bit is enough."""
    data = bytearray(packed([b"spoken" * 100]))
    data[at - 8] ^= change
    unpack_until_error([bytes(data)], mt.DownloadProtocolError)


def test_a_bomb_takes_no_more_memory_than_its_pieces() -> None:
    """128 MiB come out of one part of 128 KiB, and no more than a few MiB of them exist at a time."""
    bomb = packed([bytes(128 * mt.MiB)])
    assert len(bomb) < 256 * 1024

    async def main() -> int:
        size = 0
        async for piece in unpacked(coming([bomb]), URL, CAP):
            assert len(piece) <= mt.MiB
            size += len(piece)
        return size

    tracemalloc.start()
    try:
        assert done(main()) == 128 * mt.MiB
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * mt.MiB


@pytest.mark.parametrize("ends", ["by an error", "by its reader"])
def test_the_packed_stream_is_closed_on_every_exit(run: Run, ends: str) -> None:
    """With the unpacked one, and not some time later."""
    closed = []

    async def parts() -> AsyncGenerator[bytes]:
        try:
            yield packed([b"spoken"])
            yield b"no gzip"
        finally:
            closed.append(True)

    async def main() -> None:
        stream = unpacked(parts(), URL, CAP)
        assert await anext(stream) == b"spoken"
        if ends == "by an error":
            with pytest.raises(mt.DownloadProtocolError):
                await anext(stream)
        else:
            await stream.aclose()
        assert closed == [True]

    run(main)


def test_what_unpacks_to_nothing_is_capped_too(run: Run, server: Server, spool_dir: Path) -> None:
    """Members without content, one after the other, could otherwise go on until the deadline."""
    cap = 10_000
    empty = packed([b""]) * (100 * cap // len(packed([b""])))

    def chunked(exchange: Exchange) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
        exchange.send(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(empty), empty))

    server.routes["/"] = chunked
    error = refusal(run, server.url("/"), spool_dir, allow_gzip=True, max_bytes=cap, policy=ANY)
    assert type(error) is mt.DownloadTooLargeError
