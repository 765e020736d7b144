"""What is kept of a run: no more than so much, and never less than its peaks."""

from itertools import pairwise

from hypothesis import given, strategies as st

from memsafe_transcribe._timeline.run import Job, Jobs, Sample, Samples

SIZES = st.integers(0, 1 << 40)
STEPS = st.floats(0, 1000) | st.just(0.1)
LOOKS = st.lists(st.tuples(STEPS, SIZES, SIZES, st.none() | SIZES), min_size=1, max_size=200)


@given(looks=LOOKS, most=st.integers(1, 40))
def test_samples_are_bounded_and_no_peak_is_lost(looks: list[tuple[float, int, int, int | None]], most: int) -> None:
    """However far apart they come: never too many, in the order of time, each one peak at its own time."""
    samples, seen, now = Samples(0.1, most), [], 0.0
    for step, used, limit, reserved in looks:
        now += step
        seen.append(Sample(now, used, limit, reserved))
        samples.add(seen[-1])
        assert len(samples.kept) <= most
    kept = samples.kept
    assert all(before.seconds < each.seconds for before, each in pairwise(kept))
    assert {(each.seconds, each.used_bytes) for each in kept} <= {(each.seconds, each.used_bytes) for each in seen}
    assert max(each.used_bytes for each in kept) == max(each.used_bytes for each in seen)
    assert min(each.limit_bytes for each in kept) == min(each.limit_bytes for each in seen)
    promised = [[each.reserved_bytes for each in some if each.reserved_bytes is not None] for some in (kept, seen)]
    assert max(promised[0], default=None) == max(promised[1], default=None)


def test_of_two_peaks_that_are_equal_the_first_is_kept() -> None:
    """With the lower limit, and the higher promise."""
    samples = Samples(1.0)
    samples.add(Sample(0.1, 7, 100, 3))
    samples.add(Sample(0.2, 7, 90, 5))
    assert samples.kept == [Sample(0.1, 7, 90, 5)]


def test_spans_grow_no_longer_than_they_must() -> None:
    """Of a run that is looked at evenly, at least half of what may be kept is."""
    samples = Samples(1.0, 600)
    for number in range(36_000):
        samples.add(Sample(number, number, 1))
        assert len(samples.kept) >= min(number + 1, 300)
    assert samples.span_seconds == 64


@given(
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.floats(0, 100)), max_size=60), most=st.integers(1, 5)
)
def test_the_jobs_that_took_longest_are_kept(steps: list[tuple[bool, int, float]], most: int) -> None:
    """And all that run; all are counted."""
    jobs, now = Jobs(most), 0.0
    running: list[tuple[int, float]] = []
    took: dict[int, float] = {}
    for is_begun, which, step in steps:
        now += step
        if is_begun or not running:
            running.append((jobs.begin("job", now), now))
            jobs.enter(running[-1][0], "transcribing", now)
        else:
            number, began = running.pop(which % len(running))
            jobs.end(number, "complete", now)
            took[number] = now - began
    numbers = [job.number for job in jobs.kept]
    assert numbers == sorted(numbers)
    ended = [number for number in numbers if number in took]
    assert {number for number, _ in running} == set(numbers) - set(ended)
    assert len(ended) == min(most, len(took))
    assert sorted(took[number] for number in ended) == sorted(took.values())[len(took) - len(ended) :]
    assert (jobs.begun, sum(jobs.endings.values())) == (len(running) + len(took), len(took))


def test_a_job_is_kept_as_it_was_told() -> None:
    """From its number to the remark; of three that have ended, the shortest is forgotten, and of two the shorter."""
    jobs = Jobs(2)
    numbers = [jobs.begin(label, 0.0) for label in ("at once", "half a second")]
    jobs.enter(numbers[1], "downloading", 0.25)
    jobs.end(numbers[0], "complete", 0.0)
    jobs.end(numbers[1], "failed", 0.5, "why")
    late = jobs.begin("late", 10.0)
    jobs.end(late, "silent", 10.2)
    half = Job(2, "half a second", (("waiting", 0.0), ("downloading", 0.25)), 0.5, "failed", "why")
    assert jobs.kept == [half, Job(3, "late", (("waiting", 10.0),), 10.2, "silent")]
    jobs.end(jobs.begin("latest", 11.0), "stopped", 12.0)
    assert jobs.kept == [half, Job(4, "latest", (("waiting", 11.0),), 12.0, "stopped")]
    assert jobs.endings == {"complete": 1, "failed": 1, "silent": 1, "stopped": 1}
