"""Where audio is cut, to the frame: what the rules of the chunker say at their own borders."""

import pytest

from memsafe_transcribe._audio.chunker import MIN_PAUSE_FRAMES, Chunker, Span, chunk_samples, halves

from .test_chunker import FRAME, SPEECH, spans_of

# 90 frames are wanted: a cut is in frames 60 to 90, and heard by 22 frames from both sides where there is no pause.
WANTED, LONGEST, OVERLAP = 90 * FRAME, 1000 * FRAME, 22 * FRAME


def first_cut(levels: list[float]) -> tuple[int, bool]:
    """The frame of the first cut, and whether it is in a pause; sound follows these levels."""
    levels = levels + [SPEECH] * 60
    left, right, *_ = spans_of(levels, len(levels) * FRAME, WANTED, LONGEST)
    cut, odd = divmod(left.core_end, FRAME)
    assert odd == 0
    is_in_pause = left.end <= left.core_end <= right.start
    assert is_in_pause or (left.end, right.start) == (left.core_end + OVERLAP, left.core_end - OVERLAP)
    return cut, is_in_pause


@pytest.mark.parametrize("begin", [60, 65])
def test_a_pause_has_twenty_frames_at_least(begin: int) -> None:
    """Also where it begins with the window."""
    just = [SPEECH] * begin + [0.0] * MIN_PAUSE_FRAMES
    assert first_cut(just) == (begin + 10, True)
    assert not first_cut(just[:-1])[1]


def test_one_frame_more_makes_a_pause_the_longer_one() -> None:
    """Of two, the first: the later is not as long."""
    levels = [SPEECH] * 180
    for frame in (*range(125, 146), *range(150, 170)):
        levels[frame] = 0.0
    spans = spans_of(levels + [SPEECH] * 100, 280 * FRAME, 2 * WANTED, LONGEST)
    assert spans[0].core_end == (125 + 146) // 2 * FRAME


def test_in_a_faint_recording_silence_is_a_pause_though_it_is_not_far_under_the_sound() -> None:
    """A frame under -60 dBFS is silent, one at it is not, whatever the floor is."""
    levels = [1e-4] * 60 + [0.0] * 20 + [5e-7] * 4 + [1e-6] * 6
    spans = spans_of(levels + [1e-4] * 60, 150 * FRAME, WANTED, LONGEST)
    assert spans[0].core_end == (60 + 84) // 2 * FRAME


@pytest.mark.parametrize("quiet_from", [20, 91])
def test_the_floor_is_that_of_where_a_cut_may_be(quiet_from: int) -> None:
    """A pause in noise is found, however quiet it was for a moment before, or is behind."""
    levels = [0.5] * 60 + [1e-3] * 25 + [0.5] * 40
    levels[quiet_from : quiet_from + 21] = [0.0] * 21
    assert first_cut(levels) == (72, True)


def test_what_is_not_known_is_as_loud_as_can_be() -> None:
    """Levels that never came are of full scale: what is a pause is judged by that, and not by more."""
    levels = ([3e-4] * 9 + [3e-3]) * 10
    left, right, *_ = spans_of(levels, 300 * FRAME, WANTED, LONGEST)
    assert (left.end - left.core_end, right.core_start - right.start) == (OVERLAP, OVERLAP)


def test_levels_that_are_missing_are_like_the_last_also_where_chunks_are_as_short_as_they() -> None:
    """None of them passes for silence."""
    spans = spans_of([SPEECH, SPEECH], 6 * FRAME, FRAME, LONGEST)
    assert [span.core_end for span in spans] == [frame * FRAME for frame in range(1, 7)]
    assert not any(span.is_silent for span in spans)


def test_sound_that_fades_is_cut_at_its_end_and_a_silent_core_is_not_heard_for_its_overlap() -> None:
    """What sounds is the core before it."""
    levels = [SPEECH * (2 - frame / 90) for frame in range(90)] + [0.0] * 110
    assert spans_of(levels, 200 * FRAME, WANTED, LONGEST) == [
        Span(0, 90 * FRAME, 0, 90 * FRAME + OVERLAP),
        Span(90 * FRAME, 200 * FRAME, 200 * FRAME, 200 * FRAME),
    ]


def test_silence_before_a_cut_is_not_sent_whichever_cut_it_is() -> None:
    """What sounds behind it is no reason to hear all of the pause."""
    levels = ([SPEECH] * 300 + [0.0] * 150) * 5
    spans = spans_of(levels, len(levels) * FRAME, 600 * FRAME, LONGEST)
    assert [span.core_end // FRAME for span in spans[:3]] == [425, 862, 1306]
    assert [span.end // FRAME for span in spans[:3]] == [330, 780, 1230]


def test_after_a_long_silence_its_last_frames_are_heard_with_the_sound_and_are_silent() -> None:
    """Each of them where it was: the pad before the sound, and behind it."""
    levels = [0.0] * 600 + [SPEECH] * 100 + [0.0] * 100
    begin, end = 570 * FRAME, 800 * FRAME
    heard = Span(begin, end, begin, 730 * FRAME)
    assert spans_of(levels, end, 400 * FRAME, LONGEST) == [Span(0, begin, begin, begin), heard]
    short = spans_of(levels, end, 10 * FRAME, LONGEST)
    assert all(span.is_silent for span in short if span.core_end <= 600 * FRAME)
    assert not all(span.is_silent for span in short)


def test_where_one_frame_begins_in_the_last_third_the_cut_is_there() -> None:
    """And not at the wanted length."""
    chunker = Chunker(200, 400)
    assert chunker.push([SPEECH] * 20)[0].core_end == FRAME


@pytest.mark.parametrize("level", [1.0, 1e-14, 1e-30])
def test_halves_are_cut_at_the_quietest_point_however_faint_they_are(level: float) -> None:
    """Levels are told apart by their ratio."""
    span = Span(0, 48 * FRAME, 0, 48 * FRAME)
    assert halves(span, [level] * 24 + [level / 2] * 10 + [level] * 14)[0].core_end == 29 * FRAME


@pytest.mark.parametrize(("wanted", "samples"), [(60.0, 960_000), (0.25, 4_000), (1e-5, 1)])
def test_a_wish_is_a_number_of_samples(wanted: float, samples: int) -> None:
    """One at least."""
    assert chunk_samples(wanted, 60.0, 16_000) == samples
