"""Pages of a file: on their way to a real disk, out of memory once they are there, and no failure of that is lost."""

import ctypes
import errno
import mmap
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._download import spool, writeback
from memsafe_transcribe.testing import FakeGuard

from ..conftest import Run
from ..support.needs import cannot, tmpfs
from ..support.server import Server

STRETCH = 8 * mt.MiB
DATA = random.Random(1).randbytes(mt.MiB)
_SLACK_BYTES = 512 * 1024  # pages that lie on a processor's own list at that moment stay a while

_libc = ctypes.CDLL(None, use_errno=True)


def resident_bytes(fd: int, start: int, end: int) -> int:
    """How much of a stretch of a file is in memory, whoever put it there."""
    with mmap.mmap(fd, end) as mapped:
        view = (ctypes.c_char * end).from_buffer(mapped)
        pages = (end + mmap.PAGESIZE - 1) // mmap.PAGESIZE
        found = (ctypes.c_ubyte * pages)()
        failed = _libc.mincore(ctypes.c_void_p(ctypes.addressof(view)), ctypes.c_size_t(end), found)
        del view
    assert not failed, os.strerror(ctypes.get_errno())
    return sum(each & 1 for each in found[start // mmap.PAGESIZE :]) * mmap.PAGESIZE


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    """A file on a real disk."""
    if spool.is_memory(tmp_path):
        cannot("needs a folder for temporary files that is not in memory")
    with spool_file(tmp_path) as fd:
        yield fd


@contextmanager
def spool_file(folder: Path) -> Iterator[int]:
    file = spool.open_spool_file(folder, "http://h/")
    try:
        yield file.fd
    finally:
        file.close()


def write(fd: int, start: int, end: int) -> None:
    for at in range(start, end, len(DATA)):
        os.pwrite(fd, DATA, at)


def check_content(fd: int, size_bytes: int) -> None:
    assert os.fstat(fd).st_size == size_bytes
    assert all(os.pread(fd, len(DATA), at) == DATA for at in range(0, size_bytes, len(DATA)))


class Flush:
    """Stands in for sync_file_range: notes its calls, and fails those of one kind."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails_with_flags: int = 0, number: int = errno.EIO) -> None:
        self.calls: list[tuple[int, int, int]] = []
        self._fails_with_flags = fails_with_flags
        self._number = number
        monkeypatch.setattr(writeback, "_sync_file_range", lambda: self.flush)

    def flush(self, fd: int, offset: int, size_bytes: int, flags: int) -> int:
        self.calls.append((offset, size_bytes, flags))
        if flags == self._fails_with_flags:
            ctypes.set_errno(self._number)
            return -1
        return 0


def test_what_lies_behind_is_out_of_memory(fd: int) -> None:
    """However long the file becomes, only its last stretch stays; and it reads as it was written."""
    for number in range(6):
        start, end = number * STRETCH, (number + 1) * STRETCH
        write(fd, start, end)
        assert resident_bytes(fd, start, end) == STRETCH
        writeback.flush_behind(fd, start, end)
        if start:
            assert resident_bytes(fd, 0, start) <= _SLACK_BYTES
    assert resident_bytes(fd, 0, end) <= STRETCH + _SLACK_BYTES
    check_content(fd, end)


def test_a_stretch_is_begun_and_those_before_it_are_waited_for(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call of the system as it should be: the new stretch is not waited for."""
    flush = Flush(monkeypatch)
    writeback.flush_behind(fd, STRETCH, 3 * STRETCH)
    assert flush.calls == [(STRETCH, 2 * STRETCH, 2), (0, STRETCH, 1 | 2 | 4)]


def test_the_first_stretch_is_not_waited_for(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing before it; and to the system, a length of 0 means all to the end of the file."""
    flush, dropped = Flush(monkeypatch), []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, offset, size_bytes, advice: dropped.append(size_bytes))
    writeback.flush_behind(fd, 0, STRETCH)
    assert [call for call in flush.calls if call[2] & 4] == []
    assert dropped in ([], [STRETCH])


def test_a_stretch_is_sent_without_waiting(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even to be told that it failed: the file stays as it is, and fsync will tell."""
    write(fd, 0, 2 * STRETCH)
    flush = Flush(monkeypatch, fails_with_flags=2)
    writeback.send(fd, STRETCH, 2 * STRETCH)
    assert flush.calls == [(STRETCH, STRETCH, 2)]
    monkeypatch.setattr(writeback, "_sync_file_range", lambda: None)
    writeback.send(fd, 0, STRETCH)
    monkeypatch.undo()
    writeback.send(fd, 0, 2 * STRETCH)
    check_content(fd, 2 * STRETCH)


@pytest.mark.parametrize("number", [None, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ESPIPE])
def test_without_sync_file_range_the_file_is_synchronized(
    fd: int, monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    """All of it, and all of it leaves memory; whether there is none, or it is refused."""
    if number is None:
        monkeypatch.setattr(writeback, "_sync_file_range", lambda: None)
    else:
        Flush(monkeypatch, 2, number)
    synced: list[int] = []
    fsync = os.fsync

    def noted(fd: int) -> None:
        synced.append(fd)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    for number in range(3):
        write(fd, number * STRETCH, (number + 1) * STRETCH)
        writeback.flush_behind(fd, number * STRETCH, (number + 1) * STRETCH)
        assert resident_bytes(fd, 0, (number + 1) * STRETCH) <= _SLACK_BYTES
    assert synced == [fd] * 3
    check_content(fd, 3 * STRETCH)


def test_a_system_that_drops_no_pages_writes_all_the_same(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As macOS."""
    monkeypatch.delattr(os, "posix_fadvise")
    write(fd, 0, STRETCH)
    writeback.flush_behind(fd, 0, STRETCH)
    check_content(fd, STRETCH)


def no_library(_: Any) -> Any:
    raise OSError("static")


def no_such_function(_: Any) -> Any:
    return object()


def no_library_of_its_own(_: Any) -> Any:
    raise TypeError("as on Windows")


@pytest.mark.parametrize("load", [no_library, no_such_function, no_library_of_its_own])
def test_a_system_may_lack_the_function(monkeypatch: pytest.MonkeyPatch, load: Any) -> None:
    """Or the library that it would be in."""
    monkeypatch.setattr(ctypes, "CDLL", load)
    assert writeback._sync_file_range.__wrapped__() is None  # noqa: SLF001


@pytest.mark.parametrize("flags", [2, 1 | 2 | 4])
def test_a_failure_is_told(fd: int, monkeypatch: pytest.MonkeyPatch, flags: int) -> None:
    """The kernel tells it once for each open file: what was waited for and is not told here, no later fsync tells."""
    Flush(monkeypatch, flags)
    with pytest.raises(OSError, match="error") as caught:
        writeback.flush_behind(fd, STRETCH, 2 * STRETCH)
    assert caught.value.errno == errno.EIO


@contextmanager
def disk_that_fills_up(folder: Path) -> Iterator[tuple[Path, Path]]:
    """A disk of 200 MB whose own medium takes 6 MiB only, and that medium, which can be made larger."""
    with tmpfs(folder / "medium", "size=6m") as medium:
        image, disk = medium / "image", folder / "disk"
        disk.mkdir()
        with image.open("wb") as file:
            file.truncate(200 * mt.MB)
        if shutil.which("mkfs.ext4") is None:
            cannot("needs mkfs.ext4")
        subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", str(image)], check=True, capture_output=True)
        mounted = subprocess.run(["mount", "-o", "loop", str(image), str(disk)], capture_output=True, text=True)
        if mounted.returncode:
            cannot(f"needs a loop device: {mounted.stderr}")
        try:
            yield disk, medium
        finally:
            subprocess.run(["umount", str(disk)], check=True)


def test_bytes_that_a_real_disk_has_lost_are_not_passed_over(tmp_path: Path) -> None:
    """It fails while the file is written, and works again by its end: then the end must not look like success."""
    with disk_that_fills_up(tmp_path) as (disk, medium), spool_file(disk) as fd:
        failed = None
        try:
            for number in range(6):
                if number == 3:
                    subprocess.run(["mount", "-o", "remount,size=300m", str(medium)], check=True)
                write(fd, number * STRETCH, (number + 1) * STRETCH)
                writeback.flush_behind(fd, number * STRETCH, (number + 1) * STRETCH)
            os.fsync(fd)
        except OSError as error:
            failed = error
        assert failed is not None, "bytes are lost, and nobody was told"


class HostGuard(FakeGuard):
    """It sees no limit but the machine's own."""

    def snapshot(self) -> mt.MemorySnapshot:
        return replace(super().snapshot(), binding="host")


@pytest.mark.parametrize(
    ("used_bytes", "names"),
    [(0, {"send"}), (95 * mt.MiB, {"flush_behind"}), (None, set())],
    ids=["room", "short", "host"],
)
def test_how_a_download_treats_its_pages(
    run: Run, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, used_bytes: int | None, names: set[str]
) -> None:
    """In a container they are sent to the disk as they come, and waited for where it is full; a host has time."""
    if spool.is_memory(tmp_path):
        cannot("needs a folder for temporary files that is not in memory")
    called: set[str] = set()
    for name in ("send", "flush_behind"):
        monkeypatch.setattr(writeback, name, lambda *_, name=name: called.add(name))
    kind = HostGuard if used_bytes is None else FakeGuard
    guard = kind(limit_bytes=100 * mt.MiB, used_bytes=used_bytes or 0, ceiling_percent=99.0)
    server.routes["/"] = lambda exchange: exchange.answer(DATA * 20)
    downloader = mt.SafeDownloader(
        policy=mt.UrlPolicy(allow_private=True),
        guard=guard,
        admission=mt.AdmissionController(guard=FakeGuard(limit_bytes=1 << 40), scope="process"),
        spool_dir=tmp_path,
    )

    async def main() -> None:
        async with downloader.fetch(server.url("/")) as file:
            assert file.size_bytes == 20 * len(DATA)

    run(main)
    assert called == names
