"""Where audio is cut: rules that hold for any levels, and cuts in audio whose pauses are known."""

import random
from collections.abc import Sequence
from itertools import groupby, pairwise, repeat
from typing import NamedTuple

import pytest
from hypothesis import given, strategies as st

from memsafe_transcribe._audio.chunker import Chunker, Span, chunk_samples, halves, window_samples

FRAME = 160
SECOND = 16_000
PAD = 3 * SECOND // 10
MINUTE = 60 * SECOND
SPEECH, NOISE, AMBIENCE = 1e-2, 1e-4, 1e-5  # -20, -40 and -50 dBFS


class Audio(NamedTuple):
    levels: list[float]
    total: int
    wanted: int
    longest: int

    @property
    def overlap(self) -> int:
        """The most that a span may hear of its neighbour."""
        return min(2 * SECOND, self.wanted // 4)

    @property
    def spans(self) -> list[Span]:
        return spans_of(self.levels, self.total, self.wanted, self.longest)

    def sounds(self, begin: int, end: int) -> bool:
        """Whether any frame that has a sample in this range is not silent."""
        return any(level >= 1e-6 for level in self.levels[begin // FRAME : -(-end // FRAME)])


def spans_of(levels: Sequence[float], total: int, wanted: int, longest: int) -> list[Span]:
    chunker = Chunker(wanted, longest)
    return chunker.push(levels) + chunker.finish(total)


def seconds(duration: float, level: float) -> list[float]:
    """The levels of a steady sound."""
    return [level] * round(duration * 100)


def speech(duration: float, seed: int = 0) -> list[float]:
    """Levels around -20 dBFS that rise and fall by some 10 dB."""
    source = random.Random(seed)
    return [SPEECH * source.uniform(0.3, 3) for _ in range(round(duration * 100))]


def noise(duration: float, level: float) -> list[float]:
    """Levels of a steady noise, whose frames differ by some dB."""
    source = random.Random(1)
    return [level * source.uniform(0.6, 1.6) for _ in range(round(duration * 100))]


RUNS = st.tuples(
    st.sampled_from([0.0, 9.9e-7, 1e-6, AMBIENCE, NOISE, SPEECH, 0.5]),
    st.one_of(st.integers(1, 5), st.integers(1, 70), st.integers(450, 700)),
    st.integers(0, 2**32),
)


@st.composite
def audios(draw: st.DrawFn, exact: bool = False) -> Audio:
    """Sound, noise and silence by turns; the count of levels is off by up to two frames, unless it is to be exact."""
    wanted = draw(st.one_of(st.integers(1, 800), st.integers(800, 20_000), st.integers(20_000, 200_000)))
    longest = wanted + draw(st.one_of(st.just(0), st.integers(0, wanted), st.integers(0, 10 * wanted)))
    levels: list[float] = []
    for level, frames, seed in draw(st.lists(RUNS, max_size=12)):
        vary = random.Random(seed).uniform
        levels += [level * vary(0.8, 1.25) if AMBIENCE <= level < 0.5 else level for _ in range(frames)]
    levels = levels[: max(20, wanted // 8)]  # or else tiny spans would be too many
    off = draw(st.integers(1 - FRAME, 0) if exact else st.integers(-2 * FRAME, 2 * FRAME))
    return Audio(levels, max(0, len(levels) * FRAME + off), wanted, longest)


@given(audio=audios())
def test_cores_tile_the_audio(audio: Audio) -> None:
    """From its first sample to its last, none empty; so no word is left out, and none has two places."""
    edges = [0, *(span.core_end for span in audio.spans)]
    assert edges[-1] == audio.total
    assert [span.core_start for span in audio.spans] == edges[:-1]
    assert all(left < right for left, right in pairwise(edges))


@given(audio=audios())
def test_a_span_is_never_longer_than_the_engine_takes(audio: Audio) -> None:
    """Overlaps included; and where something sounds, a core is at most one overlap longer than wanted."""
    for span in audio.spans:
        assert span.end - span.start <= audio.longest
        assert span.is_silent or span.core_end - span.core_start <= audio.wanted + audio.overlap


@given(audio=audios())
def test_a_span_hears_no_more_than_an_overlap_of_its_direct_neighbours(audio: Audio) -> None:
    """It stays within the audio and within the two cores beside its own."""
    spans = audio.spans
    for span in spans:
        assert 0 <= span.start <= span.end <= audio.total
        assert span.is_silent or span.core_start - audio.overlap <= span.start < span.end
        assert span.is_silent or span.end <= span.core_end + audio.overlap
    for left, right in pairwise(spans):
        assert left.end <= right.core_end
        assert right.start >= left.core_start


@given(audio=audios(), sizes=st.lists(st.integers(0, 300)))
def test_spans_do_not_depend_on_how_levels_come(audio: Audio, sizes: list[int]) -> None:
    """All at once, one by one or in any portions: the same spans."""
    chunker, spans, rest = Chunker(audio.wanted, audio.longest), [], audio.levels
    for size in sizes:
        spans += chunker.push(rest[:size])
        rest = rest[size:]
    for level in rest:
        spans += chunker.push([level])
    assert spans + chunker.finish(audio.total) == audio.spans


@given(audio=audios())
def test_every_frame_that_sounds_is_heard(audio: Audio) -> None:
    """Each of its samples lies between the start and the end of a span: no sound is dropped."""
    heard = 0
    spans = sorted((span.start, span.end) for span in audio.spans if not span.is_silent)
    for start, end in [*spans, (audio.total, audio.total)]:
        assert start <= heard or not audio.sounds(heard, start)
        heard = max(heard, end)


@given(audio=audios(exact=True))
def test_outer_silence_is_taken_off_but_for_the_pad(audio: Audio) -> None:
    """A silent core is not sent. Else what is sent begins and ends at most the pad, and if there is room the whole
    pad, from a frame that sounds."""
    for span in audio.spans:
        assert span.is_silent == (not audio.sounds(span.core_start, span.core_end))
        if span.is_silent:
            continue
        assert audio.sounds(span.start, min(span.end, span.start + PAD + FRAME))
        assert audio.sounds(max(span.start, span.end - PAD - FRAME), span.end)
        assert not audio.sounds(span.core_start, min(span.start + PAD, span.core_end)) or span.start <= span.core_start
        assert not audio.sounds(max(span.end - PAD, span.core_start), span.core_end) or span.end >= span.core_end


@given(audio=audios(exact=True))
def test_each_long_silence_is_one_span(audio: Audio) -> None:
    """Every run of 5 s or more, less the pad of what sounds before and after; whatever the length that is wanted."""
    begin, cores = 0, {(span.core_start, span.core_end) for span in audio.spans if span.is_silent}
    for is_silent, run in groupby(audio.levels, key=lambda level: level < 1e-6):
        end = begin + len(list(run)) * FRAME
        if is_silent and end - begin >= 5 * SECOND:
            is_last = end == len(audio.levels) * FRAME
            assert (begin + PAD if begin else 0, audio.total if is_last else end - PAD) in cores
        begin = end


@given(audio=audios())
def test_what_is_no_longer_needed_is_said_early_and_truly(audio: Audio) -> None:
    """No span begins before it, it never goes back, and it stays behind by a bounded length: so is the memory."""
    chunker, before = Chunker(audio.wanted, audio.longest), 0
    for count, level in enumerate(audio.levels, 1):
        spans = chunker.push([level])
        assert all(span.start >= before for span in spans)
        assert chunker.needed_from >= before
        before = chunker.needed_from
        assert count * FRAME - before <= audio.wanted + 2 * audio.overlap + 505 * FRAME
    assert all(span.start >= before for span in chunker.finish(audio.total))
    assert chunker.needed_from == audio.total


@pytest.mark.parametrize("level", [0.0, SPEECH], ids=["silence", "sound"])
def test_an_hour_needs_no_more_than_a_minute(level: float) -> None:
    """The samples and levels that are kept do not grow with the audio, be it silent or without a pause."""
    chunker = Chunker(MINUTE, MINUTE)
    for minute in range(1, 61):
        chunker.push(repeat(level, 6000))
        assert minute * MINUTE - chunker.needed_from <= (PAD if level == 0 else MINUTE + 4 * SECOND + 5 * FRAME)


def test_a_cut_is_in_the_middle_of_the_longest_pause() -> None:
    """Of the last third; an even longer one earlier would make the chunk too short. Nothing is heard twice."""
    levels = seconds(20, SPEECH) + seconds(3, AMBIENCE) + seconds(22, SPEECH) + seconds(0.3, AMBIENCE)
    levels += seconds(4.7, SPEECH) + seconds(0.8, AMBIENCE) + seconds(6.2, SPEECH) + seconds(0.4, AMBIENCE)
    cut = round(50.4 * SECOND)
    left, right = spans_of(levels + seconds(20, SPEECH), round(77.4 * SECOND), MINUTE, 2 * MINUTE)
    assert left == Span(0, cut, 0, cut)
    assert right == Span(cut, round(77.4 * SECOND), cut, round(77.4 * SECOND))


def test_silence_beside_a_cut_is_not_sent() -> None:
    """A pause of 2 s without any sound: each side has 0.3 s of it."""
    left, right = spans_of(seconds(50, SPEECH) + seconds(2, 0) + seconds(28, SPEECH), 80 * SECOND, MINUTE, 2 * MINUTE)
    assert left == Span(0, 51 * SECOND, 0, 50 * SECOND + PAD)
    assert right == Span(51 * SECOND, 80 * SECOND, 52 * SECOND - PAD, 80 * SECOND)


def test_the_later_of_two_equal_pauses_is_taken() -> None:
    """So there are fewer chunks."""
    levels = seconds(45, SPEECH) + seconds(0.4, 0) + seconds(6, SPEECH) + seconds(0.4, 0) + seconds(30, SPEECH)
    assert spans_of(levels, len(levels) * FRAME, MINUTE, MINUTE)[0].core_end == round(51.6 * SECOND)


def test_without_a_pause_the_cut_is_at_the_quietest_point_and_heard_from_both_sides() -> None:
    """By 2 s each. The closure of a plosive is no quiet point, though its frames are the quietest."""
    levels = seconds(48, SPEECH) + seconds(0.1, SPEECH / 2) + seconds(3.9, SPEECH) + seconds(0.04, 0)
    levels += seconds(27.96, SPEECH)
    cut = round(48.05 * SECOND)
    left, right = spans_of(levels, 80 * SECOND, MINUTE, 2 * MINUTE)
    assert left == Span(0, cut, 0, cut + 2 * SECOND)
    assert right == Span(cut, 80 * SECOND, cut - 2 * SECOND, 80 * SECOND)


@pytest.mark.parametrize("floor", [NOISE, AMBIENCE, 1e-7])
def test_a_pause_is_found_in_any_noise(floor: float) -> None:
    """Speech at -20 dBFS over a floor of -40 dBFS, which is far from silent; and over quieter ones."""
    pause = noise(0.6, floor)
    levels = speech(50) + pause + speech(29.4, seed=2)
    left, right = spans_of(levels, 80 * SECOND, MINUTE, 2 * MINUTE)
    assert left.core_end == round(50.3 * SECOND)
    assert left.end <= left.core_end <= right.start


def test_the_floor_of_a_noise_does_not_hide_other_pauses_in_it() -> None:
    """A short quieter moment of the noise is the floor; the pause is the longest, all the same."""
    levels = speech(45) + noise(0.3, NOISE / 2) + speech(4.7, seed=2) + noise(1, NOISE) + speech(29, seed=3)
    assert spans_of(levels, 80 * SECOND, MINUTE, 2 * MINUTE)[0].core_end == round(50.5 * SECOND)


def test_a_pause_is_far_quieter_than_speech_whatever_the_floor_is() -> None:
    """One moment of a muted microphone is the floor; the pause is in the ambience, 30 dB under the speech."""
    levels = speech(45) + seconds(0.3, 1e-7) + speech(4.7, seed=2) + noise(1, AMBIENCE) + speech(29, seed=3)
    assert spans_of(levels, 80 * SECOND, MINUTE, 2 * MINUTE)[0].core_end == round(50.5 * SECOND)


@pytest.mark.parametrize("level", [SPEECH, NOISE], ids=["loud", "low"])
def test_a_steady_sound_has_no_pause(level: float) -> None:
    """Music or noise all through, with passages that are 10 dB softer: every cut is heard from both sides."""
    levels = [each for _ in range(20) for each in [*noise(7, level), *noise(2, level / 10)]]
    spans = spans_of(levels, 180 * SECOND, MINUTE, 2 * MINUTE)
    assert len(spans) >= 3
    for left, right in pairwise(spans):
        assert (left.end - left.core_end, right.core_start - right.start) == (2 * SECOND, 2 * SECOND)


def test_overlaps_come_out_of_the_core_where_the_engine_takes_no_more_than_is_wanted() -> None:
    """Cores of an inner span are two overlaps shorter, and each span still fits."""
    spans = spans_of(seconds(300, SPEECH), 300 * SECOND, MINUTE, MINUTE)
    assert max(span.end - span.start for span in spans) <= MINUTE
    assert all(36 * SECOND <= span.core_end - span.core_start <= 58 * SECOND for span in spans[:-1])


def test_what_is_heard_begins_with_a_frame() -> None:
    """Where a quarter of what is wanted is no whole number of frames, the overlap is rounded down to one."""
    spans = spans_of(speech(60), MINUTE, SECOND + 100, 2 * SECOND)
    assert {span.core_start - span.start for span in spans[1:]} == {4000}
    assert {span.core_start % FRAME for span in spans} == {0}


@pytest.mark.parametrize("wanted", [FRAME, SECOND, MINUTE])
def test_digital_silence_all_through_is_one_silent_span(wanted: int) -> None:
    """Two hours of it, or less than a second: nothing is sent, and nothing is kept."""
    chunker, total = Chunker(wanted, wanted), 2 * 3600 * SECOND
    assert chunker.push(repeat(0.0, 2 * 3600 * 100)) == []
    assert total - chunker.needed_from == PAD
    assert chunker.finish(total) == [Span(0, total, total, total)]
    assert spans_of([0.0], 160, wanted, wanted) == [Span(0, 160, 160, 160)]


def test_a_long_silence_is_a_span_of_its_own() -> None:
    """Of 2 h as of 5 s: one span; what sounds before and after has the pad, so a soft onset is not clipped."""
    for silence in (5, 7200):
        end = (10 + silence) * SECOND
        levels = seconds(10, SPEECH) + seconds(silence, 0) + seconds(10, SPEECH)
        assert spans_of(levels, end + 10 * SECOND, MINUTE, MINUTE) == [
            Span(0, 10 * SECOND + PAD, 0, 10 * SECOND + PAD),
            Span(10 * SECOND + PAD, end - PAD, end - PAD, end - PAD),
            Span(end - PAD, end + 10 * SECOND, end - PAD, end + 10 * SECOND),
        ]


def test_a_silence_of_less_than_5_s_is_none_of_its_own() -> None:
    """One frame less, and the whole is one span."""
    levels = seconds(10, SPEECH) + seconds(4.99, 0) + seconds(10, SPEECH)
    assert spans_of(levels, len(levels) * FRAME, MINUTE, MINUTE) == [Span(0, 24_99 * FRAME, 0, 24_99 * FRAME)]


def test_a_long_silence_at_the_wanted_length_is_not_cut() -> None:
    """What begins before the cut is due and proves to be long is one silent span, even where the cut would be in it."""
    levels = seconds(58, SPEECH) + seconds(20, 0) + seconds(5, SPEECH)
    assert [span.core_end for span in spans_of(levels, 83 * SECOND, MINUTE, MINUTE)] == [
        58 * SECOND + PAD,
        78 * SECOND - PAD,
        83 * SECOND,
    ]


def test_an_overlap_ends_with_what_sounds() -> None:
    """A cut through sound just before a long silence: the overlap has its pad, and reaches no further."""
    levels = seconds(57, SPEECH) + seconds(0.1, SPEECH / 2) + seconds(0.9, SPEECH) + seconds(10, 0)
    left, middle, silence = spans_of(levels, 68 * SECOND, 57 * SECOND, 57 * SECOND)
    assert left.end - left.start <= 57 * SECOND
    assert left.end <= middle.core_end == silence.core_start == 58 * SECOND + PAD
    assert middle.start == middle.core_start - 2 * SECOND


@pytest.mark.parametrize("more", [-1, 0, 1])
@pytest.mark.parametrize("wanted", [1, FRAME, 1600, MINUTE])
def test_about_the_wanted_length(wanted: int, more: int) -> None:
    """One sample less, none, one more: one chunk, except for what the engine does not take."""
    total = wanted + more
    levels = [SPEECH] * -(-total // FRAME)
    spans = spans_of(levels, total, wanted, wanted)
    assert len(spans) == (2 if more == 1 else 0 if total == 0 else 1)
    assert spans_of(levels, total, wanted, 2 * wanted + 1) == spans[:1] or more == 1


def test_a_short_rest_goes_with_the_last_chunk_if_the_engine_takes_it() -> None:
    """As far as an overlap; from then on it is a chunk."""
    assert len(spans_of(seconds(62, SPEECH), 62 * SECOND, MINUTE, 62 * SECOND)) == 1
    assert len(spans_of(seconds(62, SPEECH), 62 * SECOND, MINUTE, 61 * SECOND)) == 2
    assert len(spans_of(seconds(62.01, SPEECH), 62 * SECOND + FRAME, MINUTE, 2 * MINUTE)) == 2


def test_one_sample_is_a_chunk() -> None:
    """With its level, and even without: what is not known counts as sound. No sample is none."""
    assert spans_of([SPEECH], 1, MINUTE, MINUTE) == [Span(0, 1, 0, 1)]
    assert spans_of([], 1, MINUTE, MINUTE) == [Span(0, 1, 0, 1)]
    assert spans_of([], 0, MINUTE, MINUTE) == []


def test_missing_levels_are_like_the_last_if_they_are_few_and_else_sound() -> None:
    """A filter's delay does not make silence audible, and lost levels do not make sound silent."""
    assert [span.is_silent for span in spans_of([0.0] * 98, SECOND, MINUTE, MINUTE)] == [True]
    assert [span.is_silent for span in spans_of([0.0] * 998, 10 * SECOND, MINUTE, MINUTE)] == [True]
    assert [span.is_silent for span in spans_of([0.0] * 50, SECOND, MINUTE, MINUTE)] == [False]
    assert spans_of([0.0] * 50 + [SPEECH] * 48, SECOND, MINUTE, MINUTE)[-1].end == SECOND


def test_levels_of_more_audio_than_there_is_are_refused() -> None:
    """A few too many are a filter's; more are a mistake, and spans may lie beyond the end already."""
    assert spans_of([SPEECH] * 104, SECOND, MINUTE, MINUTE) == [Span(0, SECOND, 0, SECOND)]
    with pytest.raises(ValueError, match="105 frames"):
        spans_of([SPEECH] * 105, SECOND, MINUTE, MINUTE)


def test_a_level_that_is_not_a_number_is_sound() -> None:
    """It is sent, and the cuts go on."""
    spans = spans_of([float("nan")] * 20_000, 200 * SECOND, MINUTE, MINUTE)
    assert spans[0].start == 0
    assert spans[-1].end == 200 * SECOND
    assert not any(span.is_silent for span in spans)


@pytest.mark.parametrize(("wanted", "longest"), [(0, 10), (-1, 10), (11, 10)])
def test_a_length_that_cannot_be_is_refused(wanted: int, longest: int) -> None:
    """Nothing, less, and more than the engine takes."""
    with pytest.raises(ValueError, match="wanted_samples"):
        Chunker(wanted, longest)


@given(audio=audios(exact=True), data=st.data())
def test_halves_are_one_span_cut_in_two(audio: Audio, data: st.DataObject) -> None:
    """Same outer ends, cores that tile, nothing unheard between, no more than 2 s heard twice on a side, and each is
    at most four fifths of it."""
    spans = [span for span in audio.spans if min(span.core_end, span.end) - max(span.core_start, span.start) > 1]
    if not spans:
        return
    span = data.draw(st.sampled_from(spans))
    left, right = halves(span, audio.levels[span.start // FRAME : -(-span.end // FRAME)])
    assert (left.core_start, left.start, right.core_end, right.end) == (
        span.core_start,
        span.start,
        span.core_end,
        span.end,
    )
    assert left.core_start < left.core_end == right.core_start < right.core_end
    assert 0 <= left.end - left.core_end == right.core_start - right.start <= 2 * SECOND
    assert left.start < left.end <= right.core_end
    assert left.core_start <= right.start < right.end
    begin, end = max(span.core_start, span.start), min(span.core_end, span.end)
    assert max(left.end - begin, end - right.start) <= (end - begin) * 4 // 5 + 1


def test_halves_are_cut_at_a_pause_or_the_quietest_point_near_the_middle() -> None:
    """In a pause nothing is heard twice; without one, an eighth, and 2 s at most. A pause near an end does not help."""
    span = Span(SECOND, 13 * SECOND, SECOND, 13 * SECOND)
    paused = seconds(1, SPEECH) + seconds(2, 0) + seconds(2, SPEECH) + seconds(0.5, AMBIENCE) + seconds(6.5, SPEECH)
    cut = round(6.25 * SECOND)
    assert halves(span, paused) == (Span(SECOND, cut, SECOND, cut), Span(cut, 13 * SECOND, cut, 13 * SECOND))
    steady = seconds(7, SPEECH) + seconds(0.1, SPEECH / 2) + seconds(4.9, SPEECH)
    left, right = halves(span, steady)
    assert left == Span(SECOND, round(8.05 * SECOND), SECOND, round(9.55 * SECOND))
    assert right == Span(round(8.05 * SECOND), 13 * SECOND, round(6.55 * SECOND), 13 * SECOND)


def test_halves_take_levels_from_where_the_span_is_heard() -> None:
    """Which is before its core, if that begins at a cut through sound. The middle is that of the core."""
    levels = seconds(5, SPEECH) + seconds(0.5, 0) + seconds(2, SPEECH) + seconds(0.4, 0) + seconds(6.1, SPEECH)
    left, right = halves(Span(12 * SECOND, 24 * SECOND, 10 * SECOND, 24 * SECOND), levels)
    assert left == Span(12 * SECOND, round(17.7 * SECOND), 10 * SECOND, round(17.7 * SECOND))
    assert right == Span(round(17.7 * SECOND), 24 * SECOND, round(17.7 * SECOND), 24 * SECOND)


def test_halves_need_not_have_all_levels() -> None:
    """What is known decides: the quietest point before they end, else a point near the middle."""
    span = Span(0, 12 * SECOND, 0, 12 * SECOND)
    assert halves(span, seconds(5, SPEECH) + seconds(0.1, NOISE))[0].core_end == round(5.05 * SECOND)
    assert 4 * SECOND <= halves(span, seconds(4, SPEECH))[0].core_end <= 8 * SECOND


def test_halves_of_what_has_no_levels_meet_in_the_middle() -> None:
    """Of less than some frames, and where the levels are lost."""
    assert halves(Span(0, 3, 0, 3), [SPEECH]) == (Span(0, 1, 0, 1), Span(1, 3, 1, 3))
    left, right = halves(Span(0, 32_000, 0, 32_000), [])
    assert (left.core_end, left.end, right.start) == (16_000, 20_000, 12_000)


def test_halves_are_cut_between_frames_as_soon_as_there_are_three() -> None:
    """A third of one frame is enough, and so are the levels of its first third."""
    span = Span(0, 3 * FRAME, 0, 3 * FRAME)
    assert halves(span, [SPEECH, SPEECH, NOISE]) == (Span(0, 320, 0, 320), Span(320, 480, 320, 480))
    assert halves(Span(0, 9 * FRAME, 0, 9 * FRAME), [SPEECH] * 3)[0].core_end == 5 * FRAME


def test_what_halves_hear_twice_is_in_whole_frames() -> None:
    """An eighth of any core."""
    left, right = halves(Span(0, 98_765, 0, 98_765), [SPEECH] * 618)
    overlap = left.end - left.core_end
    assert (overlap, right.core_start - right.start, type(overlap)) == (77 * FRAME, 77 * FRAME, int)


@pytest.mark.parametrize(("span", "heard"), [(Span(0, 1, 0, 1), 1), (Span(0, 100, 100, 100), 0), (Span(7, 8, 5, 9), 1)])
def test_what_cannot_be_cut_in_two_says_so(span: Span, heard: int) -> None:
    """A single sample, also where more is heard, and a span of which nothing is sent."""
    with pytest.raises(ValueError, match=f"core {heard} samples are heard cannot be cut in two"):
        halves(span, [SPEECH])


@given(wanted=st.floats(0.001, 1e5), longest=st.floats(0.001, 1e5))
def test_a_chunk_is_as_long_as_asked_for_or_refused(wanted: float, longest: float) -> None:
    """Never longer than the engine takes, never empty."""
    if wanted <= longest:
        assert 1 <= chunk_samples(wanted, longest, 16_000) <= max(1, longest * 16_000)
    else:
        with pytest.raises(ValueError, match="max_chunk_seconds"):
            chunk_samples(wanted, longest, 16_000)


@pytest.mark.parametrize("wanted", [0.0, -1.0, float("nan")])
def test_a_chunk_length_that_is_none_is_refused(wanted: float) -> None:
    """Zero, negative, not a number."""
    with pytest.raises(ValueError, match="chunk_seconds must be more than 0"):
        chunk_samples(wanted, 60.0, 16_000)


def test_a_chunker_decides_on_the_chunk_two_overlaps_and_a_silence_at_once() -> None:
    """Which is what its memory is planned by."""
    assert window_samples(MINUTE) == MINUTE + 2 * 2 * SECOND + 5 * SECOND


@pytest.mark.parametrize(("missing", "end"), [(4, SECOND + PAD), (5, 2 * SECOND + 5 * FRAME)])
def test_a_few_levels_that_are_missing_at_the_end_are_like_the_last_one(missing: int, end: int) -> None:
    """Of more than four frames nothing is known, and that counts as sound."""
    total = 2 * SECOND + missing * FRAME
    assert spans_of(seconds(1, SPEECH) + seconds(1, 0), total, MINUTE, MINUTE) == [Span(0, total, 0, end)]


def test_without_a_wish_the_engine_and_the_default_decide() -> None:
    """60 s, or what the engine takes."""
    assert chunk_samples(None, 300.0, 16_000) == 60 * 16_000
    assert chunk_samples(None, 30.0, 16_000) == 30 * 16_000
