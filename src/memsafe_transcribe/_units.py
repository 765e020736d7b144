"""Sizes and durations as people write them. All sizes in this library are whole bytes, all durations seconds."""

import re

KB, MB, GB = 10**3, 10**6, 10**9
KiB, GiB = 2**10, 2**30
MiB: int = 2**20

_FACTORS = {"": 1, "b": 1, "kb": KB, "mb": MB, "gb": GB, "kib": KiB, "mib": MiB, "gib": GiB}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE | re.ASCII)


def parse_size(text: str) -> int:
    """Read `"512MiB"`, `"1.5 GB"` or `"1048576"` as bytes.

    Raises:
        ValueError: if it is not a number with one of B, kB, MB, GB, KiB, MiB, GiB behind it.
    """
    match = _SIZE.fullmatch(text)
    factor = _FACTORS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ValueError(f"{text!r} is not a size; write bytes, or a number with kB, MB, GB, KiB, MiB or GiB")
    whole, _, part = match[1].partition(".")
    shift: int = 10 ** len(part)
    return int(whole + part) * factor // shift


def format_size(size_bytes: int) -> str:
    """Write bytes for people: `"512.0 MiB"`, `"-3.0 KiB"`, `"17 B"`."""
    for factor, name in ((GiB, "GiB"), (MiB, "MiB"), (KiB, "KiB")):
        if abs(size_bytes) >= factor:
            return f"{size_bytes / factor:.1f} {name}"
    return f"{size_bytes} B"


def format_duration(seconds: float) -> str:
    """Write seconds as a clock: `"0:07"`, `"1:02:03"`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
