"""The boxes and tables of MP4, M4A and MOV files (ISO/IEC 14496-12), a piece at a time: no size in them is trusted."""

import struct
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate, chain, islice, repeat
from typing import NamedTuple

Read = Callable[[int, int], bytes]  # (size, offset): fewer bytes at the end of the file, as `os.pread` gives them

_HEADER = struct.Struct(">I4s")
_LARGE_SIZE = struct.Struct(">Q")
_MOST_BOXES = 4_096  # that are looked at in one file
_MOST_COPIED_BYTES = 1 << 16
_PIECE_BYTES = 1 << 14
_RUN_SAMPLES, RUN_BYTES = 1_024, 1 << 18  # that are read at once
_MOST_SAMPLE_BYTES = 1 << 20
LATEST = 1 << 61  # two of such times still fit into 64 bits
_WRAP = 1 << 32
_LONGEST = 0xFFFF_FFFF - 480_000  # a longer sample is a negative correction, as FFmpeg has it


class UnusualError(Exception):
    """The file is not plainly what it seems to be."""


class BrokenError(Exception):
    """The sample tables do not go on; the message says why."""


class Box(NamedTuple):
    """Where a box is: its content, from `start` to `end`, lies within that of its parent."""

    kind: bytes
    start: int
    end: int


class Boxes:
    """The boxes of a file of `file_bytes`.

    Raises (all methods):
        UnusualError: contradictory sizes, more boxes than any real file has, or more to copy.
    """

    def __init__(self, read: Read, file_bytes: int) -> None:
        self.file = Box(b"", 0, file_bytes)
        self._read = read
        self._looks_left = _MOST_BOXES
        self._copied_bytes_left = _MOST_COPIED_BYTES

    def within(self, parent: Box, skip: int = 0) -> list[Box]:
        """The boxes in the content of another, which begins with `skip` bytes of something else."""
        found, at = [], parent.start + skip
        while parent.end - at >= _HEADER.size:  # QuickTime ends some lists with four zeros
            self._looks_left -= 1
            head = self._read(_HEADER.size + _LARGE_SIZE.size, at)
            if self._looks_left < 0 or len(head) < _HEADER.size:
                raise UnusualError
            size, kind = _HEADER.unpack_from(head)
            start = at + _HEADER.size
            if size == 1:
                (size,) = _LARGE_SIZE.unpack_from(head, _HEADER.size)
                start += _LARGE_SIZE.size
            end = at + size if size else parent.end
            if end > parent.end and kind == b"mdat":  # the file was cut off: what there is of it can be heard
                end = parent.end
            if not start <= end <= parent.end:
                raise UnusualError
            found.append(Box(kind, start, end))
            at = end
        return found

    def content(self, box: Box, size: int, skip: int = 0) -> bytes:
        """So many bytes of a box."""
        data = self._read(size, box.start + skip) if box.start + skip + size <= box.end else b""
        if len(data) < size:
            raise UnusualError
        return data

    def copy(self, box: Box) -> bytes:
        """All of a box, with its header."""
        size = box.end - box.start
        self._copied_bytes_left -= size
        if self._copied_bytes_left < 0:
            raise UnusualError
        return make_box(box.kind, self.content(box, size))

    def table(self, box: Box, row: str, *, count_at: int = 4) -> "Table":
        """The table behind the 32-bit number of its rows, each of this `struct` format."""
        (count,) = struct.unpack(">I", self.content(box, 4, count_at))
        start = box.start + count_at + 4
        if count * struct.calcsize(row) > box.end - start:
            raise UnusualError
        return Table(self._read, start, count, row)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of big-endian numbers that stay in the file."""

    read: Read
    start: int
    count: int
    row: str

    def rows(self, most: int | None = None) -> Iterator[tuple[int, ...]]:
        """The rows, or the first of them. Where the file has become shorter, they end early.

        Memory: one piece of 16 KiB.
        """
        row = struct.Struct(self.row)
        left = self.count if most is None else min(most, self.count)
        at = self.start
        while left:
            piece = min(left, _PIECE_BYTES // row.size)
            data = self.read(piece * row.size, at)
            if len(data) < piece * row.size:
                return
            yield from row.iter_unpack(data)
            left -= piece
            at += piece * row.size


def only(boxes: list[Box], *kinds: bytes) -> Box:
    """The one box that is of one of these kinds.

    Raises:
        UnusualError: there is none, or another.
    """
    found = [box for box in boxes if box.kind in kinds]
    if len(found) != 1:
        raise UnusualError
    return found[0]


def make_box(kind: bytes, *parts: bytes) -> bytes:
    """A box with this content."""
    content = b"".join(parts)
    return _HEADER.pack(_HEADER.size + len(content), kind) + content


@dataclass(frozen=True, slots=True)
class SampleTables:
    """Where the samples of a track are, and when (ISO/IEC 14496-12, 8.6.1.2 and 8.7). Each table has a row at least."""

    durations: Table  # stts: for how many samples, how long each is
    chunks: Table  # stco, co64: offset
    per_chunk: Table  # stsc: from which chunk on, how many samples, by which sample entry
    sizes: Table | None  # stsz, stz2; None where all samples have `size`
    size: int
    count: int

    def samples(self, read: Read, file_bytes: int) -> Iterator[tuple[bytes, int]]:
        """What each sample holds, which may be nothing, and its time; the first has 0.

        A sample whose size or place is impossible is lost, with those behind it in the same chunk. Nothing is done for
        a count that only the file asserts: each step reads bytes, and in all not much more than there are.

        Raises:
            BrokenError: the last samples are missing.

        Memory: one read of 256 KiB, or one sample of at most 1 MiB.
        """
        durations = self._durations()
        left = duration = time = 0
        is_missing = False
        for sizes, data, lost in self._reads(read, file_bytes):
            start = 0
            for size in sizes:
                while not left:
                    left, duration = next(durations)
                yield data[start : start + size], time
                start += size
                time += duration
                left -= 1
            is_missing = lost > 0
            while lost:
                while not left:
                    left, duration = next(durations)
                passed = min(left, lost)
                time += passed * duration
                left -= passed
                lost -= passed
            if time > LATEST:
                raise BrokenError("its index gives impossible times")
        if is_missing:
            raise BrokenError("the file ends before its index says so")

    def _durations(self) -> Iterator[tuple[int, int]]:
        """For how many samples how long each is; the last one goes on for ever.

        What is too long is negative, in the files of some writers: the time goes back by so much. FFmpeg's goes on by 1
        instead, and the samples behind are shortened until it is where it should be, or until one of no length, which
        becomes 1 in its unsigned 32 bits; so it is here.
        """
        ahead = duration = 0
        for count, duration in self.durations.rows():
            if duration > _LONGEST:
                ahead += count * (1 + _WRAP - duration)
                duration = 1
            if ahead > 0:
                less = ahead // max(1, count)
                less = less if less < duration else (duration - 1) % _WRAP
                ahead -= less * count
                duration = (duration - less) % _WRAP
            yield count, duration
        yield from repeat((self.count, duration))

    def _reads(self, read: Read, file_bytes: int) -> Iterator[tuple[list[int], bytes, int]]:
        """The sizes of some samples, what they hold, and how many behind them are lost."""
        unread_bytes = 2 * file_bytes + _MOST_SAMPLE_BYTES  # damaged sizes may make some of it be read twice
        for offset, sizes, lost in self._runs(file_bytes):
            ends = list(accumulate(sizes, initial=0))
            first = 0
            while first < len(sizes):
                last = max(first + 1, bisect_right(ends, ends[first] + RUN_BYTES) - 1)
                at = offset + ends[first]
                data = read(ends[last] - ends[first], at)
                unread_bytes -= len(data)
                if unread_bytes < 0:
                    raise BrokenError("its index has more data than the file")
                yield sizes[first:last], data, 0
                first = last
            if lost:
                yield [], b"", lost

    def _runs(self, file_bytes: int) -> Iterator[tuple[int, list[int], int]]:
        """The offset and the sizes of samples that stand one behind the other, and how many behind them are lost."""
        all_sizes = chain.from_iterable(self.sizes.rows()) if self.sizes else repeat(self.size)
        missing = self.count
        run: list[int] = []
        start = end = 0
        for offset, samples in self._chunks():
            samples = min(samples, missing)
            missing -= samples
            if run and offset != end:
                yield start, run, 0
                run = []
            if not run:
                start = end = offset
            while samples:
                some = list(islice(all_sizes, min(samples, _RUN_SAMPLES)))
                if not some:
                    yield start, run, 0
                    raise BrokenError("its index is cut off")
                samples -= len(some)
                good = _good(some, end, file_bytes)
                run += some[:good]
                end += sum(some[:good])
                lost = len(some) - good
                if lost:
                    lost += samples
                    if self.sizes:
                        deque(islice(all_sizes, samples), maxlen=0)
                    samples = 0
                if lost or len(run) >= _RUN_SAMPLES:
                    yield start, run, lost
                    run, start = [], end
            if not missing:
                break
        yield start, run, 0
        if missing:
            raise BrokenError("its index ends early")

    def _chunks(self) -> Iterator[tuple[int, int]]:
        """The offset of each chunk, and how many samples it has."""
        per_chunk = self.per_chunk.rows()
        samples, following = 0, next(per_chunk, None)
        for number, (offset,) in enumerate(self.chunks.rows(), 1):
            if following is not None and number >= following[0]:
                first, samples, entry = following
                following = next(per_chunk, None)
                if number != first or samples == 0 or entry != 1:
                    return
            yield offset, samples


def _good(sizes: list[int], start: int, file_bytes: int) -> int:
    """How many samples there are in the file, up to the first that is not, or is of an impossible size."""
    if max(sizes) <= _MOST_SAMPLE_BYTES and start + sum(sizes) <= file_bytes:
        return len(sizes)
    good = 0
    while sizes[good] <= _MOST_SAMPLE_BYTES and start + sizes[good] <= file_bytes:
        start += sizes[good]
        good += 1
    return good
