"""A body on its way onto disk: what is counted, written and hashed, and when; and who stops when something fails."""

import asyncio
import errno
import hashlib
import os
import random
import threading
import tracemalloc
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._download import incoming as module, writeback
from memsafe_transcribe._download.incoming import BLOCK_BYTES, Incoming
from memsafe_transcribe._download.writeback import Haste

from ..conftest import Run, open_descriptors

URL = "http://h/a"
DATA = random.Random(1).randbytes(3 * mt.MiB)
_WAIT_SECONDS = 30.0


def ignored(_: int) -> None:
    """No progress is told."""


def broken_off() -> mt.DownloadError:
    return mt.TruncatedDownloadError(f"{URL}: it broke off", url=URL, retryable=True)


@contextmanager
def opened(
    spool_dir: Path, max_bytes: int = 100 * mt.MiB, in_memory: Any = None, *, haste: Haste = Haste.NONE
) -> Iterator[Incoming]:
    """A new file, and its end."""
    incoming = Incoming(spool_dir, URL, max_bytes, in_memory, lambda: haste)
    try:
        yield incoming
    finally:
        incoming.close()


class Body:
    """Parts that come in, and how far they were read."""

    def __init__(self, parts: Iterable[bytes], then: BaseException | None = None, *, for_ever: bool = False) -> None:
        self._parts = parts
        self._then = then
        self._for_ever = for_ever
        self.read_bytes = 0
        self.is_closed = False

    async def coming(self) -> AsyncGenerator[bytes]:
        try:
            for part in self._parts:
                await anyio.lowlevel.checkpoint()
                self.read_bytes += len(part)
                yield part
            if self._for_ever:
                await anyio.sleep_forever()
            if self._then is not None:
                raise self._then
        finally:
            self.is_closed = True


def cut(data: bytes, *sizes: int) -> list[bytes]:
    """Pieces of these sizes over and over, until there is no more."""
    pieces, at = [], 0
    while at < len(data):
        for size in sizes:
            pieces.append(data[at : at + size])
            at += size
    return pieces


def on_disk(incoming: Incoming) -> bytes:
    return os.pread(incoming.file.fd, 10**9, 0)


def check_holds(incoming: Incoming, data: bytes) -> None:
    """The file is this, its hash is of this, and so is its length."""
    assert on_disk(incoming) == data
    assert incoming.sha256 == hashlib.sha256(data).hexdigest()
    assert incoming.size_bytes == len(data)


# -- a body that comes in well


@pytest.mark.parametrize(
    "sizes",
    [
        (len(DATA),),
        (65_536,),
        (BLOCK_BYTES,),
        (BLOCK_BYTES - 1, 1, 0),
        (BLOCK_BYTES - 1, BLOCK_BYTES),
        (1, 100_000, 0, 7, BLOCK_BYTES + 1),
    ],
)
def test_whatever_pieces_it_comes_in_it_is_whole(run: Run, spool_dir: Path, sizes: tuple[int, ...]) -> None:
    """In order and hashed; progress is told after each MiB, and at the end when all is on disk."""

    async def main() -> None:
        told: list[int] = []

        def on_block(size_bytes: int) -> None:
            if size_bytes == len(DATA):
                on_disk_then.append(os.fstat(incoming.file.fd).st_size)
            told.append(size_bytes)

        on_disk_then: list[int] = []
        with opened(spool_dir) as incoming:
            await incoming.receive(Body(cut(DATA, *sizes)).coming(), on_block)
            check_holds(incoming, DATA)
        assert on_disk_then[-1] == told[-1] == len(DATA)
        assert all(after - before >= mt.MiB for before, after in pairwise([0, *told[:-1]]))

    run(main)


def test_an_empty_body_writes_nothing(run: Run, spool_dir: Path) -> None:
    """Its end is told all the same."""

    async def main() -> None:
        with opened(spool_dir) as incoming:
            for parts in ([], [b"", b""]):
                told: list[int] = []
                await incoming.receive(Body(parts).coming(), told.append)
                check_holds(incoming, b"")
                assert told == [0]

    run(main)


def test_a_disk_that_takes_a_part_at_a_time_is_given_the_rest(
    run: Run, spool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `pwrite` may."""
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:300_000], offset))

    async def main() -> None:
        with opened(spool_dir) as incoming:
            await incoming.receive(Body(cut(DATA, 400_000)).coming(), ignored)
            check_holds(incoming, DATA)

    run(main)


def check_follow_on(stretches: list[tuple[int, int]], size_bytes: int) -> None:
    """Each begins where the one before it ends, and what is left is no longer than one; give or take a block."""
    most = module._WRITE_BACK_BYTES + 2 * BLOCK_BYTES  # noqa: SLF001
    ends = [0, *(end for _, end in stretches)]
    assert stretches == list(pairwise(ends))
    assert all(end - start <= most for start, end in pairwise([*ends, size_bytes]))


def test_every_few_mib_are_sent_on_their_way_to_the_disk(
    run: Run, spool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where memory is short: stretch follows on stretch, also across a body that broke off; a new body begins anew."""
    stretches: list[tuple[int, int]] = []
    monkeypatch.setattr(module, "_WRITE_BACK_BYTES", 2 * mt.MiB)
    monkeypatch.setattr(writeback, "flush_behind", lambda fd, start, end: stretches.append((start, end)))

    async def main() -> None:
        with opened(spool_dir, haste=Haste.WAIT) as incoming:
            with pytest.raises(mt.TruncatedDownloadError):
                await incoming.receive(Body(cut(DATA, 65_536), broken_off()).coming(), ignored)
            await incoming.receive(Body(cut(DATA, 65_536)).coming(), ignored)
            check_follow_on(stretches, 2 * len(DATA))
            stretches.clear()
            incoming.rewind()
            await incoming.receive(Body(cut(DATA, 65_536)).coming(), ignored)
            check_follow_on(stretches, len(DATA))

    run(main)


@pytest.mark.parametrize(("name", "haste"), [("flush_behind", Haste.WAIT), ("send", Haste.SEND)])
def test_where_there_is_no_haste_the_kernel_is_left_to_itself(
    run: Run, spool_dir: Path, monkeypatch: pytest.MonkeyPatch, name: str, haste: Haste
) -> None:
    """It is asked now and then; what was left waiting is sent on its way when there is; and waited for if need be."""
    stretches: list[tuple[int, int]] = []
    asked: list[int] = []
    monkeypatch.setattr(module, "_WRITE_BACK_BYTES", 1 * mt.MiB)
    for each in ("flush_behind", "send"):
        monkeypatch.setattr(writeback, each, lambda *_: pytest.fail("the other one"))
    monkeypatch.setattr(writeback, name, lambda fd, start, end: stretches.append((start, end)))

    def now_and_then() -> Haste:
        asked.append(1)
        return haste if len(asked) == 2 else Haste.NONE

    async def main() -> None:
        incoming = Incoming(spool_dir, URL, 10 * mt.MiB, haste=now_and_then)
        await incoming.receive(Body(cut(DATA, 65_536)).coming(), ignored)
        await incoming.receive(Body(cut(DATA, 65_536)).coming(), ignored)
        incoming.close()
        assert 2 <= len(asked) <= 2 * len(DATA) // mt.MiB
        ((start, end),) = stretches
        assert start == 0
        assert 2 * mt.MiB <= end <= 3 * mt.MiB

    run(main)


class Covered:
    """Stands in for what reserves memory: what is in the file by then has been reserved before."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.written_bytes: Callable[[], int] = lambda: 0
        self.refusal: Exception | None = None

    async def cover(self, size_bytes: int, *, used_bytes: int) -> None:
        await anyio.lowlevel.checkpoint()
        assert used_bytes <= self.written_bytes() <= max([0, *self.asked])
        self.asked.append(size_bytes)
        if self.refusal is not None:
            raise self.refusal


def test_in_memory_each_block_is_reserved_before_it_is_written(
    run: Run, spool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is sent to a disk that there is not. What is refused is not written."""
    monkeypatch.setattr(module, "_WRITE_BACK_BYTES", 0)
    for each in ("flush_behind", "send"):
        monkeypatch.setattr(writeback, each, lambda *_: pytest.fail("there is no disk"))

    async def main() -> None:
        covered = Covered()
        with opened(spool_dir, in_memory=covered, haste=Haste.WAIT) as incoming:
            covered.written_bytes = lambda: os.fstat(incoming.file.fd).st_size
            await incoming.receive(Body(cut(DATA, BLOCK_BYTES)).coming(), ignored)
            assert covered.asked == list(range(BLOCK_BYTES, len(DATA) + 1, BLOCK_BYTES))
            covered.refusal = ValueError("no room")
            with pytest.raises(ValueError, match="no room"):
                await incoming.receive(Body(cut(DATA, BLOCK_BYTES)).coming(), ignored)
            assert on_disk(incoming) == DATA
            with pytest.raises(ValueError, match="no room"):
                await incoming.cover(10**9)

    run(main)


def test_on_a_disk_nothing_has_to_be_reserved(run: Run, spool_dir: Path) -> None:
    """`cover` is for memory."""

    async def main() -> None:
        with opened(spool_dir) as incoming:
            await incoming.cover(10**15)

    run(main)


# -- a body that does not


@pytest.mark.parametrize("size", [1, 65_536, 3 * BLOCK_BYTES])
@pytest.mark.parametrize("cap", [1, BLOCK_BYTES, BLOCK_BYTES + 5])
def test_what_is_above_the_cap_is_counted_and_never_written(run: Run, spool_dir: Path, size: int, cap: int) -> None:
    """The body is closed with the part that passed the cap; the error has the figures."""
    longest: list[int] = []
    start = cap // size * size - size if cap > size else 0  # parts of one byte take their time

    async def main() -> None:
        body = Body([DATA[:start], *cut(DATA[start : start + 4 * size], size)])
        with opened(spool_dir, cap) as incoming:
            with pytest.raises(mt.DownloadTooLargeError) as caught:
                await incoming.receive(body.coming(), longest.append)
            assert body.is_closed
            assert cap < body.read_bytes <= cap + size
            assert (caught.value.size_bytes, caught.value.max_bytes, caught.value.url) == (body.read_bytes, cap, URL)
            assert "max_bytes" in str(caught.value)
            data = on_disk(incoming)
            assert len(data) <= cap
            assert data == DATA[: len(data)]
        assert all(size_bytes <= cap for size_bytes in longest)

    run(main)


def test_the_cap_itself_is_fine(run: Run, spool_dir: Path) -> None:
    """And also counts over several bodies that are continued."""

    async def main() -> None:
        with opened(spool_dir, 10) as incoming:
            await incoming.receive(Body([b"12345"]).coming(), ignored)
            await incoming.receive(Body([b"67890"]).coming(), ignored)
            check_holds(incoming, b"1234567890")
            with pytest.raises(mt.DownloadTooLargeError):
                await incoming.receive(Body([b"x"]).coming(), ignored)
            assert on_disk(incoming) == b"1234567890"

    run(main)


@pytest.mark.parametrize("came_in", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES - 1])
def test_what_came_before_a_break_is_kept(run: Run, spool_dir: Path, came_in: int) -> None:
    """On disk and hashed when the error is raised, so that the rest can be put after it."""

    async def main() -> None:
        with opened(spool_dir) as incoming:
            error = broken_off()
            with pytest.raises(mt.TruncatedDownloadError) as caught:
                await incoming.receive(Body(cut(DATA[:came_in], 65_536), error).coming(), ignored)
            assert caught.value is error
            check_holds(incoming, DATA[:came_in])
            await incoming.receive(Body(cut(DATA[came_in:], 65_536)).coming(), ignored)
            check_holds(incoming, DATA)

    run(main)


def test_another_error_of_the_body_comes_out_as_it_is(run: Run, spool_dir: Path) -> None:
    """Not in a group of errors."""

    async def main() -> None:
        with opened(spool_dir) as incoming:
            with pytest.raises(ZeroDivisionError):
                await incoming.receive(Body([b"x"], ZeroDivisionError()).coming(), ignored)

    run(main)


def test_a_rewound_file_is_as_new(run: Run, spool_dir: Path) -> None:
    """A shorter body leaves nothing of the longer one."""

    async def main() -> None:
        with opened(spool_dir) as incoming:
            await incoming.receive(Body([DATA]).coming(), ignored)
            incoming.rewind()
            check_holds(incoming, b"")
            await incoming.receive(Body([b"another"]).coming(), ignored)
            check_holds(incoming, b"another")

    run(main)


class Disk:
    """Each write to a file of the spool waits until it is let go, or fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, spool_dir: Path) -> None:
        self._spool_dir = spool_dir
        self.writing, self.go_on = threading.Event(), threading.Event()
        self.fails_with: OSError | None = None
        self.written_bytes = 0
        self.was_open: list[bool] = []
        self._pwrite = os.pwrite
        monkeypatch.setattr(os, "pwrite", self._slow_pwrite)

    def _slow_pwrite(self, fd: int, data: bytes, offset: int) -> int:
        if not open_descriptors()[fd].startswith(f"{self._spool_dir}/"):
            return self._pwrite(fd, data, offset)
        self.writing.set()
        assert self.go_on.wait(_WAIT_SECONDS)
        self.was_open.append(fd in open_descriptors())
        if self.fails_with is not None:
            raise self.fails_with
        written = self._pwrite(fd, data, offset)
        self.written_bytes += written
        return written

    async def until_writing(self) -> None:
        assert await anyio.to_thread.run_sync(self.writing.wait, _WAIT_SECONDS)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, spool_dir: Path) -> Disk:
    """A disk that waits."""
    return Disk(monkeypatch, spool_dir)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("reader", ["waits for more", "has more than fits", "is done", "broke off"])
def test_a_disk_that_refuses_is_one_error_and_stops_the_reader(
    run: Run, spool_dir: Path, disk: Disk, number: int, reader: str
) -> None:
    """Whatever it is doing: a `SpoolError`, and no group of errors."""
    bodies = {
        "waits for more": lambda: Body([DATA], for_ever=True),
        "has more than fits": lambda: Body(DATA for _ in iter(int, 1)),
        "is done": lambda: Body([DATA]),
        "broke off": lambda: Body([DATA, b"more"], broken_off()),
    }

    async def main() -> None:
        body = bodies[reader]()
        disk.fails_with = OSError(number, os.strerror(number))
        with opened(spool_dir) as incoming:

            async def let_go() -> None:
                await disk.until_writing()
                await anyio.wait_all_tasks_blocked()
                disk.go_on.set()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(let_go)
                with anyio.fail_after(_WAIT_SECONDS), pytest.raises(mt.SpoolError) as caught:
                    await incoming.receive(body.coming(), ignored)
            assert body.is_closed
            assert body.read_bytes <= 3 * len(DATA)
        error = caught.value
        assert (error.errno, error.spool_dir, error.url) == (number, str(spool_dir), URL)

    run(main)


def test_the_cause_of_an_error_is_not_lost(run: Run, spool_dir: Path, disk: Disk) -> None:
    """Neither that of the disk's, nor that of one which the host's own callback raises."""
    disk.go_on.set()

    def on_block(size_bytes: int) -> None:
        raise ValueError("of the host's own") from KeyError("why")

    async def main() -> None:
        with opened(spool_dir) as incoming:
            with pytest.raises(ValueError, match="own") as caught:
                await incoming.receive(Body([DATA], for_ever=True).coming(), on_block)
            assert isinstance(caught.value.__cause__, KeyError)
            disk.fails_with = OSError(errno.ENOSPC, "full")
            with pytest.raises(mt.SpoolError) as refused:
                await incoming.receive(Body([DATA]).coming(), ignored)
            assert refused.value.__cause__ is disk.fails_with

    run(main)


def test_an_error_of_the_way_to_the_disk_is_one_of_the_disk(
    run: Run, spool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written may turn out not to be on it."""

    def flush_behind(*_: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(module, "_WRITE_BACK_BYTES", 0)
    monkeypatch.setattr(writeback, "flush_behind", flush_behind)

    async def main() -> None:
        with opened(spool_dir, haste=Haste.WAIT) as incoming:
            with pytest.raises(mt.SpoolError, match="broken"):
                await incoming.receive(Body([b"x"]).coming(), ignored)

    run(main)


@pytest.mark.parametrize("at_the_end", [False, True])
def test_an_error_of_the_hosts_own_callback_stops_all(run: Run, spool_dir: Path, at_the_end: bool) -> None:
    """It comes out as it is; the body is closed, and is not read on."""

    def on_block(size_bytes: int) -> None:
        raise ZeroDivisionError(size_bytes)

    async def main() -> None:
        body = Body([DATA[: mt.MiB]], for_ever=not at_the_end)
        with opened(spool_dir) as incoming:
            with anyio.fail_after(_WAIT_SECONDS), pytest.raises(ZeroDivisionError, match=str(mt.MiB)):
                await incoming.receive(body.coming(), on_block)
            assert body.is_closed

    run(main)


# -- a disk that is slower than the network


@pytest.mark.parametrize("size", [1, 65_536, BLOCK_BYTES, mt.MiB])
def test_a_fast_body_waits_for_a_slow_disk(run: Run, spool_dir: Path, disk: Disk, size: int) -> None:
    """Of an endless body three blocks are in memory: one is written, one is handed over, one waits for that.

    Whatever the parts: of small ones a block holds fewer bytes, for each is an object of its own.
    """
    parts_of_a_block = min(module._MAX_PARTS, max(1, BLOCK_BYTES // size))  # noqa: SLF001

    async def main() -> None:
        body = Body(bytes(size) for _ in iter(int, 1))
        with opened(spool_dir, max_bytes=10 * parts_of_a_block * size) as incoming:

            async def receive() -> None:
                with pytest.raises(mt.DownloadTooLargeError):
                    await incoming.receive(body.coming(), ignored)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(receive)
                await disk.until_writing()
                await anyio.wait_all_tasks_blocked()
                assert body.read_bytes <= 3 * parts_of_a_block * size
                disk.go_on.set()

    run(main)


def test_memory_is_bounded_by_three_blocks(run: Run, spool_dir: Path) -> None:
    """However long the body is. (A block is full with the part that fills it, so it may be nearly twice as long.)"""

    async def main() -> None:
        parts = (bytes(BLOCK_BYTES - 1) for _ in range(128))
        with opened(spool_dir) as incoming:
            tracemalloc.start()
            try:
                await incoming.receive(Body(parts).coming(), ignored)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert incoming.size_bytes == 128 * (BLOCK_BYTES - 1)
        assert peak < 3 * 2 * BLOCK_BYTES + BLOCK_BYTES

    run(main)


# -- the end of the file


def test_a_closed_file_is_gone_and_can_be_closed_again(run: Run, spool_dir: Path) -> None:
    """Its descriptor is free."""

    async def main() -> None:
        before = open_descriptors()
        with opened(spool_dir) as incoming:
            assert open_descriptors() != before
            incoming.close()
            assert open_descriptors() == before

    run(main)


def test_a_file_that_is_closed_while_a_thread_writes_is_closed_by_that(run: Run, spool_dir: Path, disk: Disk) -> None:
    """When it is done; its descriptor could otherwise be another file's by then. What comes after it is dropped."""

    async def main() -> None:
        incoming = Incoming(spool_dir, URL, 10 * mt.MiB)
        fd = incoming.file.fd
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(incoming.receive, Body([DATA[:BLOCK_BYTES], DATA[:BLOCK_BYTES]]).coming(), ignored)
            await disk.until_writing()
            incoming.close()
            incoming.close()
            assert fd in open_descriptors()
            disk.go_on.set()
        assert incoming.file.fd == -1
        assert (disk.was_open, disk.written_bytes) == ([True], BLOCK_BYTES)

    run(main)


def test_a_write_that_fails_after_the_file_was_left_closes_it_too(run: Run, spool_dir: Path, disk: Disk) -> None:
    """The descriptor is free either way."""

    async def main() -> None:
        disk.fails_with = OSError(errno.EIO, "broken")
        incoming = Incoming(spool_dir, URL, 10 * mt.MiB)

        async def receive() -> None:
            with pytest.raises(mt.SpoolError):
                await incoming.receive(Body([DATA]).coming(), ignored)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            await disk.until_writing()
            incoming.close()
            disk.go_on.set()
        assert incoming.file.fd == -1

    run(main)


def test_cancelled_while_a_thread_writes(run: Run, spool_dir: Path, disk: Disk) -> None:
    """By a scope: the thread is waited for, the body is closed, and the file is closed after them."""

    async def main() -> None:
        body = Body([DATA], for_ever=True)

        async def receive() -> None:
            with opened(spool_dir) as incoming:
                await incoming.receive(body.coming(), ignored)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            await disk.until_writing()
            tasks.cancel_scope.cancel()
            disk.go_on.set()
        assert body.is_closed
        assert disk.was_open == [True]

    run(main)


@pytest.mark.parametrize("run", ["asyncio"], indirect=True)
@pytest.mark.parametrize("times", [1, 2])
def test_cancelled_by_asyncio_itself_while_a_thread_writes(run: Run, spool_dir: Path, disk: Disk, times: int) -> None:
    """No scope shields from `Task.cancel()`, and still no file is closed under the thread."""

    async def main() -> None:
        async def receive() -> None:
            with opened(spool_dir) as incoming:
                await incoming.receive(Body([DATA], for_ever=True).coming(), ignored)

        task = asyncio.create_task(receive())
        await disk.until_writing()
        for _ in range(times):
            task.cancel()
            await anyio.wait_all_tasks_blocked()
        disk.go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main)
    assert disk.was_open
    assert all(disk.was_open)
