"""Frames of any shape to blocks of 16 kHz mono and their levels, in this process."""

from array import array

import av
import pytest

from memsafe_transcribe._audio.samples import Samples

from ..support.media import tone_samples

_RATE_HZ = 16_000


def blocks(
    samples: bytes, *, layout: str = "mono", at_once: int = 1000, silence: int = 0
) -> "tuple[array[float], bytes]":
    """What comes out of interleaved 16-bit samples at 16 kHz, and of so much silence after them."""
    levels, out = array("f"), bytearray()

    def send(some: "array[float]", more: bytes) -> None:
        levels.extend(some)
        out.extend(more)

    made = Samples(send)
    width = 2 * (2 if layout == "stereo" else 1)
    for at in range(0, len(samples), at_once * width):
        part = samples[at : at + at_once * width]
        frame = av.AudioFrame("s16", layout, len(part) // width)
        frame.sample_rate = _RATE_HZ
        frame.planes[0].update(part.ljust(frame.planes[0].buffer_size, b"\0"))
        made.add(frame)
    made.add_silence(silence)
    made.finish()
    assert made.count == len(out) // 2
    return levels, bytes(out)


def test_levels_are_the_mean_square_of_each_ten_milliseconds() -> None:
    """A square wave of a quarter of full scale, then silence: 1/16, then nothing, on the right frame."""
    levels, out = blocks(tone_samples(1.0), silence=_RATE_HZ)
    assert out == tone_samples(1.0) + bytes(2 * _RATE_HZ)
    assert len(levels) == pytest.approx(200, abs=2)
    assert list(levels[:100]) == pytest.approx([1 / 16] * 100, rel=0.01)
    assert max(levels[102:]) < 1e-9
    assert min(levels) >= 0


@pytest.mark.parametrize("count", [*range(1, 4), 159, 160, 161, 319, 320, 321, 480, 1_599, 16_000, 16_001])
def test_each_ten_milliseconds_that_have_begun_have_a_level(count: int) -> None:
    """Also in files that are too short for the filter: what is silent is known as silent, and what is not is not."""
    assert [len(blocks(samples)[0]) for samples in (bytes(2 * count), tone_samples(count / _RATE_HZ))] == [
        -(-count // 160)
    ] * 2
    assert max(blocks(bytes(2 * count))[0]) == 0
    assert blocks(tone_samples(count / _RATE_HZ))[0][-1] == pytest.approx(1 / 16, rel=0.5)


def test_channels_that_cancel_each_other_are_heard() -> None:
    """A miswired cable turns one around: the mix would be silent, so the left channel is taken."""
    left = array("h", tone_samples(2.0))
    right = array("h", (-sample for sample in left))
    both = array("h", bytes(4 * len(left)))
    both[0::2], both[1::2] = left, right
    levels, out = blocks(both.tobytes(), layout="stereo")
    assert out == left.tobytes()
    assert levels[50] == pytest.approx(1 / 16, rel=0.05)


def test_of_two_channels_both_are_heard() -> None:
    """As in a call that is recorded with a speaker on each: the mix is half of each."""
    tone = array("h", tone_samples(1.0))
    for first in (0, 1):
        both = array("h", bytes(4 * len(tone)))
        both[first::2] = tone
        _, out = blocks(both.tobytes(), layout="stereo")
        assert array("h", out) == array("h", (sample // 2 for sample in tone))


def test_blocks_do_not_depend_on_how_frames_are_cut() -> None:
    """The same samples and levels from frames of 10 ms and of a second."""
    assert blocks(tone_samples(3.3), at_once=160) == blocks(tone_samples(3.3), at_once=16_000)
