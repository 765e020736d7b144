"""Pure: damage of every kind to a real media file, decided by a seed alone, so that each mutant can be made again."""

from collections.abc import Callable, Mapping
from functools import reduce
from random import Random

_HEAD_BYTES = 512
# What stands before or around sizes, counts, rates and offsets in the containers that are let in.
_MARKS = (
    *(b"ftyp", b"moov", b"mvhd", b"trak", b"tkhd", b"mdhd", b"hdlr", b"stsd", b"mp4a", b"esds", b"alac", b"elst"),
    *(b"stts", b"stsc", b"stsz", b"stco", b"co64", b"sbgp", b"mdat", b"moof", b"mvex", b"trex", b"tfhd", b"tfdt"),
    *(b"trun", b"RIFF", b"RF64", b"ds64", b"fmt ", b"data", b"fact", b"LIST", b"strh", b"strf", b"idx1", b"FORM"),
    *(b"COMM", b"SSND", b"OggS", b"vorbis", b"OpusHead", b"fLaC", b"wvpk", b"ID3", b"Xing", b"Info", b"caff"),
    *(b"desc", b"pakt", b"kuki", b"TTA1", b"FLV", b"onMetaData", b".snd", b"Creative Voice File"),
    *(b"\x1aE\xdf\xa3", b"\x16T\xaek", b"\x1fC\xb6u", b"\xa3", b"\x63\xa2", b"\xb5", b"\x9f", b"\x44\x89"),
    *(b"\xff\xfb", b"\xff\xf1", b"\xff\xf8", b"\x0b\x77", b"\x47\x40", b"\x00\x00\x01\xba", b"\x00\x00\x01\xc0"),
)
_VALUES = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    2**63 - 1,
    2**64 - 1,
)


def mutant(bases: Mapping[str, bytes], name: str, seed: int) -> bytes:
    """A damaged copy of the file `name`: one to eight mutations, which may take from the others, too."""
    random = Random(f"{name} {seed}")
    data = bytearray(bases[name])
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 5, 8))):
        if len(data) > 1:
            random.choice(_MUTATIONS)(random, data, bases)
    if random.random() < 0.7:  # else nothing behind the first damaged page would be looked at
        repair_ogg(data)
    return bytes(data)


def repair_ogg(data: bytearray) -> None:
    """Give each Ogg page, as far as it is whole, the checksum that belongs to it."""
    at = data.find(b"OggS")
    while at >= 0 and at + 27 <= len(data):
        end = at + 27 + data[at + 26] + sum(data[at + 27 : at + 27 + data[at + 26]])
        if end <= len(data):
            data[at + 22 : at + 26] = bytes(4)
            data[at + 22 : at + 26] = _crc(data[at:end]).to_bytes(4, "little")
        at = data.find(b"OggS", at + 4)


def _crc_of_byte(byte: int) -> int:
    return reduce(
        lambda value, _: (value << 1 ^ (0x04C1_1DB7 if value >> 31 else 0)) & 0xFFFF_FFFF, range(8), byte << 24
    )


_CRC = [_crc_of_byte(byte) for byte in range(256)]


def _crc(data: bytes | bytearray) -> int:
    value = 0
    for byte in data:
        value = (value << 8 & 0xFFFF_FFFF) ^ _CRC[value >> 24 ^ byte]
    return value


def _place(random: Random, data: bytearray) -> int:
    """Somewhere: as often in the header, and near a mark, as anywhere."""
    kind = random.randrange(3)
    if kind == 0:
        return random.randrange(min(_HEAD_BYTES, len(data)))
    if kind == 1 and (marks := [mark for mark in _MARKS if mark in data]):
        mark = random.choice(marks)
        places: list[int] = []
        at = data.find(mark)
        while at >= 0 and len(places) < 1000:
            places.append(at)
            at = data.find(mark, at + 1)
        return min(max(0, random.choice(places) + random.randrange(-8, 40)), len(data) - 1)
    return random.randrange(len(data))


def _length(random: Random, data: bytearray) -> int:
    """Of a piece: as often short as long."""
    return min(int(2 ** random.uniform(0, 14)), len(data) // 2 + 1)


def _flip_bits(random: Random, data: bytearray, bases: Mapping[str, bytes]) -> None:
    for _ in range(random.choice((1, 1, 2, 8, 32))):
        data[_place(random, data)] ^= 1 << random.randrange(8)


def _write_value(random: Random, data: bytearray, bases: Mapping[str, bytes]) -> None:
    """A number that is at the edge of what its field holds, in either byte order."""
    at, size = _place(random, data), random.choice((1, 2, 3, 4, 4, 4, 8))
    value = (random.choice(_VALUES) + random.choice((-1, 0, 0, 0, 1))) % (1 << 8 * size)
    data[at : at + size] = value.to_bytes(size, random.choice(("big", "little")))


def _overwrite(random: Random, data: bytearray, bases: Mapping[str, bytes]) -> None:
    at, size = _place(random, data), _length(random, data)
    size = min(size, len(data) - at)
    data[at : at + size] = random.choice((bytes(size), b"\xff" * size, b"\x7f" * size, random.randbytes(size)))


def _delete(random: Random, data: bytearray, bases: Mapping[str, bytes]) -> None:
    at = _place(random, data)
    del data[at : at + min(_length(random, data), len(data) - 1)]


def _duplicate(random: Random, data: bytearray, bases: Mapping[str, bytes]) -> None:
    at = _place(random, data)
    piece = data[at : at + _length(random, data)]
    data[at:at] = bytes(piece) * random.choice((1, 1, 2, 5))


def _swap(random: Random, data: bytearray, bases: Mapping[str, bytes]) -> None:
    one, other, size = _place(random, data), _place(random, data), _length(random, data)
    one, other = min(one, other), max(one, other)
    size = min(size, other - one, len(data) - other)
    data[one : one + size], data[other : other + size] = data[other : other + size], data[one : one + size]


def _insert(random: Random, data: bytearray, bases: Mapping[str, bytes]) -> None:
    at = _place(random, data)
    data[at:at] = random.randbytes(_length(random, data))


def _truncate(random: Random, data: bytearray, bases: Mapping[str, bytes]) -> None:
    del data[max(1, _place(random, data)) :]


def _splice(random: Random, data: bytearray, bases: Mapping[str, bytes]) -> None:
    """Go on with another file, or have a piece of one in the middle."""
    other = bases[random.choice(sorted(bases))]
    at, start = _place(random, data), random.choice((0, random.randrange(len(other))))
    if random.random() < 0.5:
        data[at:] = other[start:]
    else:
        piece = other[start : start + int(2 ** random.uniform(4, 14))]
        data[at : at + len(piece)] = piece


_MUTATIONS: tuple[Callable[[Random, bytearray, Mapping[str, bytes]], None], ...] = (
    _flip_bits,
    _flip_bits,
    _write_value,
    _write_value,
    _write_value,
    _overwrite,
    _delete,
    _duplicate,
    _swap,
    _insert,
    _truncate,
    _splice,
)
