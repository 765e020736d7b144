"""MP4 files changed box by box (ISO/IEC 14496-12), and one that is as long as is asked for."""

import struct
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import NamedTuple

import av

from memsafe_transcribe._audio.boxes import make_box

from .media import encode, tone_samples

STBL = "moov/trak/mdia/minf/stbl/"


class Sample(NamedTuple):
    """Where it is."""

    position: int
    size: int


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each box."""
    at = 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        yield kind, data[at + 8 : at + size]
        at += size


def content(data: bytes, path: str) -> bytes:
    """What is in the first box of this path, such as `moov/trak/tkhd`."""
    for kind in path.split("/"):
        data = next(inside for each, inside in boxes(data) if each == kind.encode())
    return data


def change(data: bytes, path: str, new: bytes | None) -> bytes:
    """Put something else into the first box of this path; where there is none it is added; None removes it.

    Chunk offsets stay as they are: what is changed has to stand behind the sound.
    """
    first, _, rest = path.partition("/")
    parts, is_found = [], False
    for kind, inside in boxes(data):
        if kind != first.encode() or is_found:
            parts.append(make_box(kind, inside))
            continue
        is_found = True
        changed = change(inside, rest, new) if rest else new
        parts += [] if changed is None else [make_box(kind, changed)]
    if not is_found:
        assert not rest and new is not None
        parts.append(make_box(first.encode(), new))
    return b"".join(parts)


def samples_of(path: Path) -> list[Sample]:
    """Of the first audio track, as FFmpeg finds them; those too that an edit list leaves out."""
    with av.open(str(path), container_options={"advanced_editlist": "0"}) as file:
        return [Sample(packet.pos or 0, packet.size) for packet in file.demux(audio=0) if packet.size]


def table(*rows: tuple[int, ...], row: str = "I") -> bytes:
    """The content of a box with a table."""
    return struct.pack(">II", 0, len(rows)) + b"".join(struct.pack(f">{row}", *each) for each in rows)


def with_tables(
    data: bytes,
    samples: Iterable[Sample],
    per_chunk: Iterable[int],
    durations: Iterable[int],
    *,
    wide: bool = False,
    size_bits: int = 32,
) -> bytes:
    """A file with other sample tables for the same sound: chunks of so many samples, and these durations."""
    left = iter(samples)
    chunks = [chunk for count in per_chunk if (chunk := list(islice(left, count)))]
    flat = [sample for chunk in chunks for sample in chunk]
    runs = [(number, len(chunk), 1) for number, chunk in enumerate(chunks, 1)]
    runs = [next(group) for _, group in groupby(runs, key=lambda run: run[1])]
    offsets = [(chunk[0].position,) for chunk in chunks]
    stts = [(len(list(group)), duration) for duration, group in groupby(durations)]
    sizes = struct.pack(f">{len(flat)}{ {8: 'B', 16: 'H', 32: 'I'}[size_bits] }", *(sample.size for sample in flat))
    data = change(data, STBL + "stts", table(*stts, row="II"))
    data = change(data, STBL + "stsc", table(*runs, row="III"))
    data = change(change(data, STBL + "stsz", None), STBL + "stco", None)
    data = change(data, STBL + ("co64" if wide else "stco"), table(*offsets, row="Q" if wide else "I"))
    stsz = struct.pack(">III", 0, size_bits if size_bits < 32 else 0, len(flat)) + sizes
    return change(data, STBL + ("stsz" if size_bits == 32 else "stz2"), stsz)


def write_long_m4a(path: Path, seconds: float) -> Path:
    """A tone as stereo AAC at 48 kHz, over and over: an hour has 168 750 packets and takes a quarter of a second."""
    encode(path, "aac", tone_samples(10), bit_rate=32_000)
    data, once = path.read_bytes(), samples_of(path)
    sound = b"".join(data[sample.position : sample.position + sample.size] for sample in once)
    times = int(seconds * 48_000 / 1024 / len(once)) + 1
    ftyp = make_box(b"ftyp", content(data, "ftyp"))
    count = times * len(once)
    moov = make_box(b"ftyp") + make_box(b"moov", content(data, "moov"))
    moov = change(moov, STBL + "stts", table((count, 1024), row="II"))
    moov = change(moov, STBL + "stsc", table((1, len(once), 1), row="III"))
    sizes = struct.pack(f">{len(once)}I", *(sample.size for sample in once)) * times
    moov = change(moov, STBL + "stsz", struct.pack(">III", 0, 0, count) + sizes)
    starts = ((len(ftyp) + 8 + number * len(sound),) for number in range(times))
    moov = change(moov, STBL + "stco", table(*starts))
    mdhd = bytearray(content(moov, "moov/trak/mdia/mdhd"))
    mdhd[16:20] = struct.pack(">I", count * 1024)
    moov = change(moov, "moov/trak/mdia/mdhd", bytes(mdhd))
    with path.open("wb") as file:
        file.write(ftyp + struct.pack(">I4s", 8 + len(sound) * times, b"mdat"))
        for _ in range(times):
            file.write(sound)
        file.write(moov[8:])
    return path
