"""The picture: one SVG that any parser reads, in which nothing is outside, on top of another, or of somebody else."""

import re
import unicodedata
from typing import get_args

import pytest
from hypothesis import given, strategies as st

from memsafe_transcribe._timeline.picture import Axes, axes_of, cut, drawn
from memsafe_transcribe._timeline.run import MOST_JOBS, Ending, Job, Phase, Run, Sample

from .kept import FOLDER, RUNS
from .shapes import Picture

MIB = 1 << 20
SECONDS = st.floats(0, 1e7)
SIZES = st.integers(0, 1 << 45)
ANY_TEXT = st.text(st.characters(), max_size=60) | st.just("</title><script>alert(1)</script>\0\ud800\u202e")


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    """One, as far as it got."""
    times = sorted(draw(st.lists(SECONDS, min_size=2, max_size=5)))
    phases = tuple((draw(st.sampled_from(get_args(Phase))), at) for at in times[:-1])
    is_running = draw(st.booleans())
    ending = None if is_running else draw(st.sampled_from(get_args(Ending)))
    return Job(draw(st.integers(1, 9999)), draw(ANY_TEXT), phases, None if is_running else times[-1], ending)


@st.composite
def runs(draw: st.DrawFn) -> Run:
    """Any."""
    times = sorted(draw(st.lists(SECONDS, max_size=30)))
    samples = tuple(Sample(at, draw(SIZES), draw(SIZES), draw(st.none() | SIZES)) for at in times)
    seconds = draw(st.floats(max(times, default=0), 2e7))
    kept = tuple(draw(st.lists(jobs(), max_size=40)))
    return Run(draw(ANY_TEXT), seconds, samples, 0.1, kept, draw(st.integers(0, 99)), {}, draw(ANY_TEXT))


@given(run=runs())
def test_any_run_gives_a_picture(run: Run) -> None:
    """Well formed, in UTF-8, with nothing from elsewhere and nothing that runs; at most so many bars; all inside."""
    text = drawn(run)
    picture = Picture(text.encode().decode())
    assert not re.search(r"<script|href|url\(|@import|javascript:|\son\w+=", re.sub(r">[^<]*<", "><", text))
    assert text.count("http") - run.title.count("http") <= 1 + str(run).count("http")  # its own namespace
    assert len(picture.bars) == min(len(run.jobs), MOST_JOBS)
    left_out = run.left_out + len(run.jobs) - len(picture.bars)
    assert (f"and {left_out} more jobs" in picture.said) == (left_out > 0)
    width, height = float(picture.root.get("width", 0)), float(picture.root.get("height", 0))
    for element in picture.root.iter():
        x, y = float(element.get("x", 0)), float(element.get("y", 0))
        assert 0 <= x <= width
        assert 0 <= y <= height
        assert x + float(element.get("width", 0)) <= width
    for parts in picture.lines.values():
        assert all(172 <= x <= 756.1 and 96 <= y <= 306.1 for part in parts for x, y in part)


@pytest.mark.parametrize("name", RUNS)
def test_a_picture_is_as_it_was_when_somebody_looked_at_it(name: str) -> None:
    """Each place, class and word of it."""
    assert drawn(RUNS[name]) == (FOLDER / f"{name}.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("seconds", "step_seconds"),
    [
        *((0.0, 0.1), (0.7, 0.1), (0.75, 0.2), (1.5, 0.5), (7, 1), (7.1, 2), (100, 15), (7 * 43_200, 43_200)),
        *((7 * 43_200 + 1, 86_400), (7 * 86_400, 86_400), (7 * 86_400 + 1, 2 * 86_400)),
    ],
)
def test_lines_of_time_are_at_round_figures(seconds: float, step_seconds: float) -> None:
    """No more than seven of them."""
    assert axes_of(Run("", seconds, (), 0.1)).step_seconds == step_seconds


@given(run=runs())
def test_the_axes_are_of_a_size_that_people_read(run: Run) -> None:
    """From one line of the grid to seven or so, none on top of another; all that was used has room."""
    axes = axes_of(run)
    assert 0 < axes.seconds / axes.step_seconds <= 7.001
    assert 2 <= axes.bytes // axes.step_bytes <= 8
    assert all(max(each.used_bytes, each.reserved_bytes or 0) <= axes.bytes for each in run.samples)


def one(limit_bytes: int, *used_bytes: int) -> Run:
    """A look each second."""
    return Run("t", len(used_bytes), tuple(Sample(at, used, limit_bytes) for at, used in enumerate(used_bytes)), 1.0)


def test_of_many_jobs_that_run_at_once_the_first_are_drawn() -> None:
    """And the others counted."""
    running = tuple(Job(number, "a.mp3", (("waiting", 0.0),)) for number in range(1, 41))
    picture = Picture(drawn(Run("t", 1.0, (), 0.1, running, 3)))
    assert [bar.label for bar in picture.bars] == [f"{number}  a.mp3" for number in range(1, MOST_JOBS + 1)]
    assert "and 19 more jobs" in picture.said
    assert "43 jobs: 43 still running." in picture.said


def test_a_limit_that_is_far_above_does_not_flatten_what_is_used() -> None:
    """It is said in words instead; one that is near is drawn."""
    near, far = (Picture(drawn(one(limit, 100 * MIB, 200 * MIB))) for limit in (512 * MIB, 24 * 1024 * MIB))
    assert (len(near.lines["limit"]), "limit" in near.said) == (1, True)
    assert (len(far.lines["limit"]), "limit" in far.said) == (0, False)
    assert "Used at most 200 MiB of 24 GiB, in 0:02." in far.said
    top = min(y for _, y in far.lines["used"][0])
    assert top < 96 + 210 / 8


def test_a_limit_eight_times_as_high_as_what_is_used_is_drawn() -> None:
    """And none that is higher."""
    limits = 800 * MIB, 800 * MIB + 1
    assert ["limit" in Picture(drawn(one(limit, 100 * MIB))).said for limit in limits] == [True, False]


def test_no_line_of_the_grid_is_above_the_axis() -> None:
    """Not by a byte."""
    said = Picture(drawn(one(MIB, 100), Axes(1.0, 1023, 1, 256))).said
    assert [text for text in said if re.fullmatch(r"[\d.]+ \w+", text)] == ["0 B", "256 B", "512 B", "768 B"]


def test_a_letter_that_cannot_be_seen_is_one_that_says_so() -> None:
    """Each by one."""
    assert "a\ufffd\ufffdb" in Picture(drawn(Run("a\0\u202eb", 1.0, (), 0.1))).said


def test_a_limit_at_the_very_top_is_drawn() -> None:
    """And what is used from the floor up, be it a few bytes."""
    text = drawn(one(1024, 100, 200), Axes(2.0, 1024, 1, 256))
    picture = Picture(text)
    assert (picture.lines["limit"], "limit" in picture.said) == ([[(172.0, 96.0), (464.0, 96.0)]], True)
    assert "V306.0H172.0Z" in text
    assert [said for said in picture.said if said.startswith("0:0")] == ["0:00", "0:01", "0:02"]


def test_where_nothing_was_seen_there_is_no_line() -> None:
    """A process that was stopped for a while has not used what a line across would say."""
    samples = [Sample(at, MIB, 2 * MIB, MIB) for at in (0.0, 0.1, 0.2, 5.0, 5.1)]
    picture = Picture(drawn(Run("t", 6, tuple(samples), 0.1)))
    assert [len(part) for part in picture.lines["used"]] == [3, 2]
    assert [len(part) for part in picture.lines["reserved"]] == [3, 2]


def test_two_runs_may_have_the_same_axis() -> None:
    """The shorter one ends where it ended."""
    short, long = one(MIB, *[MIB] * 2), one(MIB, *[MIB] * 20)
    axes = axes_of(short, least_seconds=20)
    assert axes == axes_of(long)
    assert 'data-seconds="20.000"' in drawn(short, axes)
    assert Picture(drawn(short, axes)).lines["used"][0][-1][0] < 220


def test_a_bar_says_what_its_job_did_and_for_how_long() -> None:
    """In colours, and in words for those who point at it or cannot see it."""
    job = Job(7, "talk.mp3", (("waiting", 0.0), ("downloading", 5.0), ("transcribing", 65.0)), 70.0, "failed", "why")
    running = Job(8, "b.mp3", (("waiting", 60.0),))
    picture = Picture(drawn(Run("t", 90.0, (), 0.1, (job, running), 0, {"failed": 1})))
    assert picture.bars[0].told == "7 talk.mp3: waiting 0:05, downloading 1:00, transcribing 0:05, failed; why"
    assert picture.bars[0].phases == ("waiting", "downloading", "transcribing")
    assert (picture.bars[1].ending, picture.bars[1].told) == ("running", "8 b.mp3: waiting 0:30, running")
    assert "2 jobs: 1 failed, 1 still running." in picture.said
    assert picture.root.findtext("{http://www.w3.org/2000/svg}desc", "").endswith("1 failed, 1 still running.")


def test_light_and_dark_have_the_same_classes() -> None:
    """Every class that is used has a colour, in both."""
    text = drawn(one(2 * MIB, MIB, MIB))
    light, _, dark = text.partition("@media(prefers-color-scheme:dark)")
    coloured = [set(re.findall(r"\.(\w+)\{(?:fill|stroke):#", part)) for part in (light, dark)]
    used = {name for names in re.findall(r'class="([\w ]+)"', text) for name in names.split()}
    assert coloured[0] == coloured[1]
    assert used - {"title"} <= coloured[0]


@given(said=st.text(st.characters(), max_size=60), cells=st.integers(2, 30))
def test_a_label_has_no_more_cells_than_there_are(said: str, cells: int) -> None:
    """A letter of Chinese takes two; what fits is left alone."""
    shown = cut(said, cells)
    width = sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in shown)
    assert width <= cells
    assert shown == said or (shown.endswith("…") and said.startswith(shown[:-1]))


def test_a_label_that_just_fits_is_left_alone() -> None:
    """To the last cell."""
    assert [cut("abc", cells) for cells in (3, 2)] == ["abc", "a…"]
    assert [cut("会議", cells) for cells in (4, 3)] == ["会議", "会…"]
