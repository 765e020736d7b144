"""Boxes and sample tables at their limits: what is read of them, how much at once, and where it ends."""

import struct
import tracemalloc
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest

from memsafe_transcribe._audio.boxes import Box, Boxes, BrokenError, SampleTables, Table, UnusualError, make_box

_AT_ONCE, _MOST_BYTES = 1 << 18, 1 << 20  # that are read at once, and of a sample


def read_of(data: bytes) -> Callable[[int, int], bytes]:
    return lambda size, offset: data[offset : offset + size]


def rows(row: str, *numbers: tuple[int, ...]) -> Table:
    return Table(read_of(b"".join(struct.pack(row, *each) for each in numbers)), 0, len(numbers), row)


def test_sizes_have_32_or_64_bits_or_say_until_the_end() -> None:
    """ISO/IEC 14496-12, 4.2.2."""
    large = struct.pack(">I4sQ", 1, b"mdat", 16 + 20) + bytes(20)
    data = make_box(b"ftyp", bytes(4)) + large + struct.pack(">I4s", 0, b"moov") + bytes(30)
    boxes = Boxes(read_of(data), len(data))
    assert boxes.within(boxes.file) == [Box(b"ftyp", 8, 12), Box(b"mdat", 28, 48), Box(b"moov", 56, 86)]


def test_as_many_boxes_as_may_be_are_found_and_one_more_is_unusual() -> None:
    """In all that is looked at of one file."""
    most = 4_096
    data = make_box(b"free") * (most + 1)
    few, many = Boxes(read_of(data), 8 * most), Boxes(read_of(data), 8 * (most + 1))
    assert len(few.within(few.file)) == most
    with pytest.raises(UnusualError):
        many.within(many.file)


def test_what_lies_behind_a_box_is_not_its_content() -> None:
    """Though it is in the file."""
    boxes, box = Boxes(read_of(b"before" + b"content" + b"behind"), 19), Box(b"free", 6, 13)
    assert boxes.content(box, 3, 4) == b"ent"
    with pytest.raises(UnusualError):
        boxes.content(box, 4, 4)


def test_as_much_as_may_be_is_copied_and_not_a_byte_more() -> None:
    """64 KiB of a file, in however many boxes."""
    boxes = Boxes(lambda size, _: b"x" * size, 1 << 20)
    assert boxes.copy(Box(b"free", 0, 40_000)) == make_box(b"free", b"x" * 40_000)
    assert boxes.copy(Box(b"free", 0, 25_536)) == make_box(b"free", b"x" * 25_536)
    with pytest.raises(UnusualError):
        boxes.copy(Box(b"free", 0, 1))


def test_a_table_has_no_more_rows_than_its_box_has_room_for() -> None:
    """Also where more of the file comes behind it."""

    def table(count: int) -> Table:
        data = bytes(8) + struct.pack(">5I", 0, count, 7, 8, 9) + bytes(100)
        return Boxes(read_of(data), len(data)).table(Box(b"stco", 8, 28), ">I")

    assert list(table(3).rows()) == [(7,), (8,), (9,)]
    with pytest.raises(UnusualError):
        table(4)


def test_no_more_rows_are_read_than_are_asked_for() -> None:
    """Nor than there are."""
    table = rows(">I", (7,), (8,), (9,))
    assert [len(list(table.rows(most))) for most in (0, 2, 3, 4)] == [0, 2, 3, 3]


class Heard(NamedTuple):
    """The sizes and times of the samples that came, by which reads (size, offset), and why there are no more."""

    samples: list[tuple[int, int]]
    reads: list[tuple[int, int]]
    problem: str | None


def heard(sizes: Sequence[int], chunks: Sequence[tuple[int, int]], file_bytes: int) -> Heard:
    """What comes of samples of these sizes, each one tick long, in chunks (offset, samples)."""
    tables = SampleTables(
        durations=rows(">II", (len(sizes), 1)),
        chunks=rows(">I", *((offset,) for offset, _ in chunks)),
        per_chunk=rows(">III", *((number, samples, 1) for number, (_, samples) in enumerate(chunks, 1))),
        sizes=rows(">I", *((size,) for size in sizes)),
        size=0,
        count=len(sizes),
    )
    result = Heard([], [], None)

    def read(size: int, offset: int) -> bytes:
        assert 0 < size <= file_bytes - offset
        result.reads.append((size, offset))
        return bytes(size)

    try:
        result.samples.extend((len(data), time) for data, time in tables.samples(read, file_bytes))
    except BrokenError as error:
        return result._replace(problem=str(error))
    return result


@pytest.mark.parametrize(
    ("sizes", "chunks", "reads"),
    [
        ([100] * 300, [(1_000, 100), (11_000, 100), (21_000, 100)], [(30_000, 1_000)]),
        ([100] * 200, [(1_000, 100), (11_001, 100)], [(10_000, 1_000), (10_000, 11_001)]),
        ([1] * 3_000, [(0, 3_000)], [(1_024, 0), (1_024, 1_024), (952, 2_048)]),
        ([_AT_ONCE // 4] * 6, [(0, 6)], [(_AT_ONCE, 0), (_AT_ONCE // 2, _AT_ONCE)]),
        ([_AT_ONCE + 1, 9], [(0, 2)], [(_AT_ONCE + 1, 0), (9, _AT_ONCE + 1)]),
    ],
)
def test_samples_that_stand_one_behind_the_other_are_read_together(
    sizes: list[int], chunks: list[tuple[int, int]], reads: list[tuple[int, int]]
) -> None:
    """Across chunks too: at most 1,024 samples at once, and 256 KiB, or one that is larger."""
    assert heard(sizes, chunks, 1 << 20) == (list(zip(sizes, range(len(sizes)), strict=True)), reads, None)


def test_a_sample_of_the_greatest_size_is_heard_and_a_larger_one_is_lost() -> None:
    """With those behind it in its chunk; the next chunk is at its time."""
    sizes = [_MOST_BYTES, _MOST_BYTES, _MOST_BYTES + 1, 5, 6]
    chunks = [(0, 1), (0, 3), (0, 1)]
    assert heard(sizes, chunks, 1 << 22)[::2] == ([(_MOST_BYTES, 0), (_MOST_BYTES, 1), (6, 4)], None)


def test_a_sample_that_ends_with_the_file_is_heard() -> None:
    """And what should come behind it is missing."""
    assert heard([60, 40], [(0, 2)], 100)[::2] == ([(60, 0), (40, 1)], None)
    assert heard([60, 40, 1], [(0, 3)], 100)[::2] == ([(60, 0), (40, 1)], "the file ends before its index says so")


def test_of_a_file_twice_as_much_is_read_as_it_has_and_a_mebibyte() -> None:
    """Chunks may overlap, by mistake; not for ever."""
    for times, problem in ((3, None), (4, "its index has more data than the file")):
        result = heard([_MOST_BYTES] * times, [(0, 1)] * times, _MOST_BYTES)
        assert (len(result.samples), result.problem) == (3, problem)


def test_the_sizes_of_a_lost_chunk_are_not_kept() -> None:
    """Two hundred thousand of them."""
    count = 200_000
    sizes = rows(">I", (_MOST_BYTES + 1,), *[(0,)] * (count - 1), (7,))
    tables = SampleTables(
        rows(">II", (1, 1)), rows(">I", (0,), (0,)), rows(">III", (1, count, 1), (2, 1, 1)), sizes, 0, count + 1
    )
    tracemalloc.start()
    assert list(tables.samples(lambda size, _: bytes(size), 1 << 20)) == [(bytes(7), count)]
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < count


def test_without_the_lengths_of_chunks_nothing_is_heard() -> None:
    """They may be gone when it comes to reading them: the file has become shorter."""
    gone = Table(read_of(b""), 0, 1, ">III")
    tables = SampleTables(rows(">II", (9, 1)), rows(">I", (0,), (4,)), gone, None, 4, 9)
    with pytest.raises(BrokenError, match="its index ends early"):
        next(tables.samples(lambda size, _: bytes(size), 100))
