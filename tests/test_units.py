"""Sizes and durations as people write and read them."""

import pytest
from hypothesis import given, strategies as st

import memsafe_transcribe as mt
from memsafe_transcribe._units import GiB, KiB, MiB, format_duration, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("1048576", 2**20),
        ("17B", 17),
        ("512MiB", 512 * 2**20),
        ("512mib", 512 * 2**20),
        (" 1.5 GB ", 1_500_000_000),
        ("3kB", 3000),
        ("3KiB", 3072),
        ("2MB", 2_000_000),
        ("2 GiB", 2 * 2**30),
        ("0.5KiB", 512),
        ("1.001kB", 1001),
        ("0.3333333333333333333kB", 333),
    ],
)
def test_sizes_that_people_write(text: str, size_bytes: int) -> None:
    """Powers of 1000 and of 1024 are told apart, in any case and with any spaces around."""
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text", ["", " ", "MiB", "plenty", "-1", "1e9", "1,5GB", "1.", ".5GB", "5 M", "5 MiBs", "1 TB", "0x10", "5%", "٣"]
)
def test_what_is_no_size(text: str) -> None:
    """Anything else is an error that shows what was written and names the units."""
    with pytest.raises(ValueError, match=r"is not a size; .*kB, MB, GB, KiB, MiB or GiB") as caught:
        parse_size(text)
    assert repr(text) in str(caught.value)


@given(st.integers(0, 2**53))
def test_plain_bytes_are_read_exactly(size_bytes: int) -> None:
    """A number without a unit is that many bytes, to the last."""
    assert parse_size(str(size_bytes)) == parse_size(f"{size_bytes}B") == size_bytes


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (17, "17 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (-3 * KiB, "-3.0 KiB"),
        (MiB - 1, "1024.0 KiB"),
        (MiB, "1.0 MiB"),
        (512 * MiB, "512.0 MiB"),
        (GiB, "1.0 GiB"),
        (1536 * GiB, "1536.0 GiB"),
    ],
)
def test_sizes_for_people(size_bytes: int, text: str) -> None:
    """The largest unit that fits, with one decimal; whole bytes below that, and a sign where there is one."""
    assert format_size(size_bytes) == text


@given(st.integers(0, 2**45))
def test_what_is_written_can_be_read_again(size_bytes: int) -> None:
    """What format_size writes, parse_size reads, to the decimal that is shown."""
    unit = next((each for each in (GiB, MiB, KiB) if size_bytes >= each), 1)
    assert abs(parse_size(format_size(size_bytes)) - size_bytes) <= unit / 20 + 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (0.9, "0:00"), (7, "0:07"), (59.99, "0:59"), (60, "1:00"), (3599, "59:59"), (3600, "1:00:00"),
     (3723, "1:02:03"), (86_400, "24:00:00")],
)  # fmt: skip
def test_durations_for_people(seconds: float, text: str) -> None:
    """A clock: hours only where there are any, whole seconds that have gone by."""
    assert format_duration(seconds) == text


def test_public_units() -> None:
    """MB is a million bytes, as networks count; MiB is 2**20, as memory does."""
    assert (mt.MB, mt.MiB) == (10**6, 2**20)
