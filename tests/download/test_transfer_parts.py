"""The small decisions of a download: lengths, room, names, log lines; and the file that its user is given."""

import errno
import fcntl
import logging
import os
from collections.abc import Callable
from pathlib import Path

import anyio
import httpx
import pytest
from hypothesis import example, given, strategies as st

import memsafe_transcribe as mt
from memsafe_transcribe._download import publishing, spool
from memsafe_transcribe._download.files import suggested_filename
from memsafe_transcribe._download.logs import log
from memsafe_transcribe._download.transfer import Limits, check_size
from memsafe_transcribe._download.transport import length

from ..conftest import Run
from ..support.server import Server
from .test_downloader import ANY

WHERE = "http://h/a"
SPOOL = Path("/spool")
MOST_RESERVED = 64 * mt.MiB


def limits(max_bytes: int) -> Limits:
    return Limits(max_bytes, 4, False, SPOOL)


# -- the length


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("7", 7),
        ("007", 7),
        ("9" * 19, 10**19 - 1),
        ("9" * 20, None),
        ("9" * 5000, None),
        ("", None),
        ("-1", None),
        ("+1", None),
        ("1_0", None),
        ("1.0", None),
        ("1e3", None),
        ("0x10", None),
        (" 7", None),
        ("7 ", None),
        ("7, 7", None),
        ("seven", None),
        ("\u0667", None),
        ("\u00b2", None),
    ],
)
def test_a_length_is_a_plain_number(text: str, expected: int | None) -> None:
    """Everything else announces nothing; the body is counted in any case."""
    assert length(httpx.Headers([(b"Content-Length", text.encode())])) == expected
    assert length({"content-length": text}) == expected


def test_no_length_and_two_lengths_announce_nothing() -> None:
    """Even if both are the same."""
    assert length(httpx.Headers()) is None
    assert length(httpx.Headers([("Content-Length", "7"), ("content-length", "7")])) is None


@given(st.text())
def test_any_text_is_a_length_or_none(text: str) -> None:
    """Without another error."""
    found = length({"content-length": text})
    assert found is None or 0 <= found < 10**19


# -- the room for it


@given(st.integers(0, 10**13), st.integers(0, 10**13), st.integers(1, 10**13), st.data())
def test_what_is_announced_has_to_fit(total: int, free: int, cap: int, data: st.DataObject) -> None:
    """Under the cap, and into what is free but a twentieth, 64 MiB at most; what is there already needs no room."""
    received = data.draw(st.integers(0, total))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(spool, "free_bytes", lambda folder: free)
        if total > cap:
            with pytest.raises(mt.DownloadTooLargeError) as large:
                check_size(WHERE, total, received, limits(cap))
            assert (large.value.size_bytes, large.value.max_bytes, large.value.url) == (total, cap, WHERE)
        elif total - received > free - min(MOST_RESERVED, free // 20):
            with pytest.raises(mt.SpoolError) as full:
                check_size(WHERE, total, received, limits(cap))
            assert (full.value.errno, full.value.spool_dir, full.value.url) == (errno.ENOSPC, str(SPOOL), WHERE)
        else:
            check_size(WHERE, total, received, limits(cap))


@pytest.mark.parametrize(("free", "most"), [(0, 0), (19, 19), (100, 95), (100 * mt.MiB, 95 * mt.MiB),
                                            (10_000 * mt.MiB, 9936 * mt.MiB)])  # fmt: skip
def test_the_room_is_used_to_the_last_byte(monkeypatch: pytest.MonkeyPatch, free: int, most: int) -> None:
    """And one more is refused, with all figures and the setting."""
    monkeypatch.setattr(spool, "free_bytes", lambda folder: free)
    check_size(WHERE, most, 0, limits(10**13))
    check_size(WHERE, most + 1, 1, limits(10**13))
    with pytest.raises(mt.SpoolError) as caught:
        check_size(WHERE, most + 1, 0, limits(10**13))
    for part in (WHERE, "announces", str(SPOOL), "free", "left to others", "spool_dir", "MEMSAFE_SPOOL_DIR"):
        assert part in str(caught.value)


def test_the_cap_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks at a disk for what is refused anyway; the cap itself is fine."""
    monkeypatch.setattr(spool, "free_bytes", lambda folder: 10**13)
    check_size(WHERE, 100, 0, limits(100))
    monkeypatch.setattr(spool, "free_bytes", lambda folder: pytest.fail("it was looked at"))
    with pytest.raises(mt.DownloadTooLargeError, match="max_bytes"):
        check_size(WHERE, 101, 0, limits(100))


# -- the name for it


@given(st.text(), st.text(alphabet="/.%2eE5cC\\0a\x00 \ud800é:~-"))
@example("a", "%2e%2e")
@example("a", "..%2f..%2fpasswd")
@example("a", "..%5c..%5cpasswd%00")
def test_a_suggested_name_is_one_part_of_a_path(path: str, last: str) -> None:
    """Whatever the URL ends in: joined to a folder it stays in it, and it can be printed."""
    name = suggested_filename(f"http://h/{path.replace('[', '').replace(']', '')}/{last}")
    assert name.isprintable()
    assert name not in ("", ".", "..")
    assert not set(name) & set("/\\\0")
    assert (SPOOL / name).parent == SPOOL


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://h/a/talk.mp3?name=other.mp3#part", "talk.mp3"),
        ("http://h/a/talk.mp3/", "talk.mp3"),
        ("http://h/my%20talk.mp3", "my talk.mp3"),
        ("http://h/%D0%B0.mp3", "\u0430.mp3"),
        ("http://h/%ff.mp3", "\ufffd.mp3"),
        ("http://h", "download"),
        ("http://h/", "download"),
        ("http://h/%2e", "download"),
        ("http://h/%00", "download"),
    ],
)
def test_a_suggested_name_is_what_people_would_call_it(url: str, name: str) -> None:
    """Decoded, and without the query."""
    assert suggested_filename(url) == name


@pytest.mark.parametrize("letter", ["x", "%D0%B0", "%F0%9F%8E%99"])
def test_a_suggested_name_can_be_a_files(tmp_path: Path, letter: str) -> None:
    """Also that of a URL whose last part is longer than a name may be; what it is stays at its end."""
    name = suggested_filename(f"http://h/{letter * 300}.mp3")
    (tmp_path / name).touch()
    assert name.endswith(".mp3")


# -- the file


def test_a_downloaded_file_can_be_saved(run: Run, server: Server, spool_dir: Path, tmp_path: Path) -> None:
    """By a path or a text, more than once, in place of what is there; it outlives the block."""
    server.routes["/talk.mp3"] = lambda exchange: exchange.answer(b"spoken")
    paths = [tmp_path / "a.mp3", tmp_path / "b.mp3"]
    paths[1].write_bytes(b"older")

    async def main() -> None:
        async with mt.SafeDownloader(policy=ANY, spool_dir=spool_dir).fetch(server.url("/talk.mp3")) as file:
            await file.save_as(paths[0])
            await file.save_as(str(paths[1]))
            assert file.path.read_bytes() == b"spoken"
            with pytest.raises(mt.SpoolError) as caught:
                await file.save_as(tmp_path / "missing" / "c.mp3")
            assert caught.value.errno == errno.ENOENT

    run(main)
    assert [path.read_bytes() for path in paths] == [b"spoken"] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp3", "b.mp3", "spool"]


def test_saving_is_finished_before_a_cancellation_is_heard(
    run: Run, spool_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no half of it."""
    publish, scopes = publishing.publish, list[anyio.CancelScope]()

    def cancelled_meanwhile(duplicate: Callable[[], int], path: Path) -> None:
        anyio.from_thread.run_sync(scopes[0].cancel)
        publish(duplicate, path)

    monkeypatch.setattr(publishing, "publish", cancelled_meanwhile)

    async def main() -> None:
        spooled = spool.open_spool_file(spool_dir, WHERE)
        file = mt.DownloadedFile(spooled, 0, None, "", WHERE, "a")
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            await file.save_as(tmp_path / "a")
        spooled.close()

    run(main)
    assert (tmp_path / "a").exists()


def test_a_file_whose_block_has_ended_is_neither_saved_nor_opened(
    run: Run, server: Server, spool_dir: Path, tmp_path: Path
) -> None:
    """Its number may be another file's by then."""
    server.routes["/a"] = lambda exchange: exchange.answer(b"spoken")

    async def main() -> None:
        downloader = mt.SafeDownloader(policy=mt.UrlPolicy(allow_private=True), spool_dir=spool_dir)
        async with downloader.fetch(server.url("/a")) as file:
            number = file.fd
            assert number >= 0
        assert file.fd == -1
        taken = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, number)
        assert not file.path.exists()
        os.close(taken)
        with pytest.raises(RuntimeError, match="save it inside"):
            await file.save_as(tmp_path / "a")

    run(main)
    assert not (tmp_path / "a").exists()


# -- the log


def test_an_event_is_one_line_and_its_figures(caplog: pytest.LogCaptureFixture) -> None:
    """For people and for programs alike."""
    caplog.set_level(logging.INFO, "memsafe_transcribe.download")
    log("answered", WHERE, status_code=200, total_bytes=None)
    (record,) = caplog.records
    assert record.getMessage() == f"download answered url={WHERE} status_code=200 total_bytes=None"
    assert (record.levelno, record.name) == (logging.INFO, "memsafe_transcribe.download")
    extra = record.__dict__
    assert (extra["event"], extra["url"]) == ("answered", WHERE)
    assert extra["figures"] == {"status_code": 200, "total_bytes": None}


def test_nothing_is_written_where_nobody_reads_it(caplog: pytest.LogCaptureFixture) -> None:
    """Not even made."""

    class Unprintable:
        def __str__(self) -> str:
            raise AssertionError("it was made into text")

    caplog.set_level(logging.WARNING, "memsafe_transcribe.download")
    log("started", WHERE, figure=Unprintable())
    assert caplog.records == []


def test_the_lines_of_a_download(run: Run, server: Server, spool_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """From its beginning to its end, be it good or bad; never with the query."""
    caplog.set_level(logging.INFO, "memsafe_transcribe.download")
    server.routes["/a"] = lambda exchange: exchange.answer(b"spoken")

    async def main() -> None:
        downloader = mt.SafeDownloader(policy=ANY, spool_dir=spool_dir)
        async with downloader.fetch(server.url("/a?key=secret")):
            pass
        with pytest.raises(mt.HTTPStatusError):
            async with downloader.fetch(server.url("/b?key=secret")):
                pytest.fail("the file was handed out")

    run(main)
    records = [record for record in caplog.records if record.name == "memsafe_transcribe.download"]
    assert [record.__dict__["event"] for record in records] == [
        "started", "answered", "finished", "started", "failed",
    ]  # fmt: skip
    assert records[-1].__dict__["figures"]["error"] == "HTTPStatusError"
    assert "secret" not in caplog.text
