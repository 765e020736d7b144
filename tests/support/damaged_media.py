"""Damage to media files, for tests: of every kind, and the same each time."""

import random
from pathlib import Path

import av


def damage(path: Path, *, at: float = 0.5, size: int = 3_000, noise: bool = True) -> Path:
    """Overwrite `size` bytes at this part of a file, by noise (the same each time) or zeros."""
    data = bytearray(path.read_bytes())
    start = int(len(data) * at)
    size = min(size, len(data) - start)
    data[start : start + size] = random.Random(7).randbytes(size) if noise else bytes(size)
    path.write_bytes(data)
    return path


def overwrite_packets(path: Path, packets: "dict[int, bytes]") -> Path:
    """Put these bytes in place of the packets of these numbers, and zeros up to their ends."""
    with av.open(str(path)) as source:
        places = [(packet.pos, packet.size) for packet in source.demux(audio=0) if packet.size]
    data = bytearray(path.read_bytes())
    for number, content in packets.items():
        at, size = places[number]
        assert at is not None and size >= len(content)
        data[at : at + size] = content.ljust(size, b"\0")
    path.write_bytes(data)
    return path


def break_fragment(path: Path, number: int, kind: bytes, offset: int, content: bytes) -> Path:
    """Overwrite something of a box in the header of one fragment of an MP4: of `moof` itself, or one within."""
    data = bytearray(path.read_bytes())
    at = -1
    for _ in range(number + 1):
        at = data.index(b"moof\x00\x00\x00\x10mfhd", at + 1)
    at = data.index(kind, at) - 4 + offset
    data[at : at + len(content)] = content
    path.write_bytes(data)
    return path


def aac_channels(first_lfe: int) -> bytes:
    """An AAC packet that announces 50 channel elements, as noise may do (ISO/IEC 14496-3, program_config_element).

    Args:
        first_lfe: the number of the first of its three low-frequency elements, of which there are 16.
    """
    single, pair = [(number, 5) for number in range(16)], [(16 | number, 5) for number in range(16)]
    lfe = [(first_lfe + number, 4) for number in range(3)]
    kind_and_rate = [(5, 3), (0, 4), (1, 2), (3, 4)]
    counts = [(15, 4), (15, 4), (2, 4), (3, 2), (0, 3), (15, 4), (0, 3)]
    elements = pair[:15] + single[:15] + [pair[15], single[15]] + lfe + single[:15]
    value = bits = 0
    for field, width in kind_and_rate + counts + elements:
        value, bits = value << width | field, bits + width
    return (value << -bits % 8).to_bytes((bits + 7) // 8, "big") + bytes(20)


def cut(path: Path, part: float) -> Path:
    """Keep this part of a file; or, from 1 on, so many bytes."""
    data = path.read_bytes()
    path.write_bytes(data[: int(part) if part >= 1 else int(len(data) * part)])
    return path
