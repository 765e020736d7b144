"""Pure: levels of a piece of audio -> how long something is clearly heard in it, speech or not.

A level is the mean square of one frame of 10 ms, full scale = 1.0. The noise floor is the quietest stretch as long as a
pause; a noise that is steady is its own floor, however loud. A frame is *clearly heard* if it is 10 dB above the floor:
those of a steady noise stay within 6 dB. Digital silence does not make faint noise clear: no floor is under -60 dBFS.
Only runs of a tenth of a second count. A syllable lasts two tenths on average (Greenberg, "Speaking in shorthand",
1999); what is shorter is the click of a key.

Not covered: speech less than 10 dB above the noise around it.
"""

from collections.abc import Sequence
from itertools import groupby, islice

from .chunker import MIN_PAUSE_FRAMES, SILENCE_LEVEL

FRAMES_PER_SECOND = 100
CLEAR_DECIBELS = 10
MIN_RUN_FRAMES = 10


def clear_seconds(levels: Sequence[float]) -> float:
    """How much of it is clearly heard.

    Args:
        levels: mean squares of its frames. One that is not a number counts as sound.

    Memory: none but the argument's.
    """
    clear = max(SILENCE_LEVEL, _floor(levels)) * 10 ** (CLEAR_DECIBELS / 10)
    runs = (sum(1 for _ in run) for is_clear, run in groupby(not level < clear for level in levels) if is_clear)
    return sum(frames for frames in runs if frames >= MIN_RUN_FRAMES) / FRAMES_PER_SECOND


def _floor(levels: Sequence[float]) -> float:
    """The mean of the quietest pause; of all, if that is shorter."""
    width = min(MIN_PAUSE_FRAMES, len(levels))
    lowest = total = sum(levels[:width])
    for entering, leaving in zip(islice(levels, width, None), levels, strict=False):
        total += entering - leaving
        lowest = min(lowest, total)
    return lowest / max(1, width)
