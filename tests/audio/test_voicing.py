"""What is clearly heard: rules that hold for any levels, and sounds of which it is known."""

import pytest
from hypothesis import given, strategies as st

from memsafe_transcribe._audio.voicing import clear_seconds

from .test_chunker import AMBIENCE, NOISE, SPEECH, noise, seconds, speech

LEVELS = st.lists(st.floats(0, 1) | st.sampled_from([0.0, AMBIENCE, NOISE, SPEECH]), min_size=20, max_size=200)


@given(st.floats(1e-12, 0.1), st.lists(st.floats(1, 3.9), max_size=300))
def test_a_steady_noise_is_never_clear(level: float, factors: list[float]) -> None:
    """However loud: its frames are within 6 dB."""
    assert clear_seconds([level * factor for factor in factors]) == 0


@given(st.lists(st.floats(0, 9e-6), max_size=300))
def test_faint_noise_beside_digital_silence_is_not_clear(levels: list[float]) -> None:
    """Else each breath of a recording whose pauses were muted would be."""
    assert clear_seconds(levels) == 0


@given(LEVELS, LEVELS)
def test_more_audio_never_makes_less_of_it_clear(levels: list[float], more: list[float]) -> None:
    """The floor can only sink."""
    assert clear_seconds(levels + more) >= clear_seconds(levels) - 1e-9
    assert 0 <= clear_seconds(levels) <= len(levels) / 100


@given(st.integers(1, 9))
def test_clicks_do_not_count(frames: int) -> None:
    """A minute of typing is no speech."""
    quiet = [AMBIENCE] * 20
    assert clear_seconds((quiet + seconds(frames / 100, 1.0)) * 40) == 0


@pytest.mark.parametrize("floor", [0.0, AMBIENCE, NOISE])
def test_speech_is_clear_above_its_noise(floor: float) -> None:
    """All four seconds of it, and none of the noise before, between and behind."""
    levels = noise(3, floor) + speech(2) + noise(1, floor) + speech(2, 1) + noise(30, floor)
    assert clear_seconds(levels) == pytest.approx(4.0, abs=0.05)


@pytest.mark.parametrize("is_first", [True, False])
def test_ten_decibels_above_the_quietest_pause_are_clear(is_first: bool) -> None:
    """Wherever that pause is; a hair less is not."""
    pause, floor = seconds(1, NOISE), NOISE * 10
    for level, clear in ((floor * 0.99, 0.0), (floor * 1.01, 1.0)):
        sound = seconds(1, level)
        assert clear_seconds(sound + pause if is_first else pause + sound) == clear


def test_speech_that_noise_nearly_covers_is_not_clear() -> None:
    """Six decibels above it: nobody can tell it from a louder moment of the same noise."""
    assert clear_seconds(noise(3, SPEECH / 4) + noise(5, SPEECH)) == 0


@pytest.mark.parametrize("strange", [float("nan"), float("inf")])
def test_what_is_not_a_number_counts_as_sound(strange: float) -> None:
    """Wherever it stands; and nothing at all is nothing."""
    assert clear_seconds([*seconds(1, 0.0), *[strange] * 10]) == pytest.approx(0.1)
    assert clear_seconds([*[strange] * 10, *seconds(1, 0.0)]) == pytest.approx(0.1)
    assert clear_seconds([]) == 0
