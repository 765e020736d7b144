"""What is learned from observed peaks, against the written rules, for any order of events."""

import math
import pickle
from collections.abc import Iterable
from fractions import Fraction

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from memsafe_transcribe._admission import estimates as module
from memsafe_transcribe._admission.estimates import (
    CAP,
    FALL,
    FLOOR,
    MARGIN,
    MAX_KINDS,
    MIN_OBSERVATIONS,
    OVERRUN_MARGIN,
    QUANTILE,
    WINDOW,
    Estimates,
)

# Long enough to fall from CAP to FLOOR, and for everything older to have left the window.
LONG = WINDOW + math.ceil(math.log(FLOOR / CAP, FALL))

needs = st.integers(1, 2**45)
observations = st.tuples(needs, st.integers(1, 2**48)) | st.integers(1, 1000).map(lambda percent: (100, percent))
histories = st.lists(observations, max_size=2 * WINDOW)


def learned(history: Iterable[tuple[int, int]]) -> Estimates:
    estimates = Estimates()
    for need, peak in history:
        estimates.observe("kind", need, peak)
    return estimates


def factor_of(estimates: Estimates) -> float:
    return estimates.factors().get("kind", 1.0)


def within_bounds(factor: float) -> float:
    return min(max(factor, FLOOR), CAP)


# -- the whole, against a slow and obvious model


def slow_quantile(ratios: list[float]) -> float:
    """By its definition; the newest ratio is the last."""
    recent = ratios[-WINDOW:]
    weights = [0.5 ** ((len(recent) - 1 - index) / 16) for index in range(len(recent))]
    for ratio in sorted(recent):
        if sum(w for r, w in zip(recent, weights, strict=True) if r <= ratio) >= QUANTILE * sum(weights):
            return ratio
    raise AssertionError("the largest carries all the weight")


def slow_factor(ratios: list[float]) -> float:
    """The factor after all of them, by its three rules."""
    factor = 1.0
    for count, ratio in enumerate(ratios, start=1):
        wanted = slow_quantile(ratios[:count]) * MARGIN if count >= MIN_OBSERVATIONS else 1.0
        bumped = ratio * OVERRUN_MARGIN if ratio > factor else ratio
        factor = within_bounds(max(wanted, bumped, factor * FALL))
    return factor


class EstimatesMachine(RuleBasedStateMachine):
    """Remembers everything that was ever observed of the kinds that are known, and works it all out anew each time."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(module, "MAX_KINDS", 3)
        self.estimates = Estimates()
        self.ratios: dict[str, list[float]] = {}  # the kind that was used last comes last

    def teardown(self) -> None:
        self.patch.undo()

    kinds = st.sampled_from("abcde")

    @rule(kind=kinds, observations=st.lists(observations, min_size=1, max_size=30))
    def observe(self, kind: str, observations: list[tuple[int, int]]) -> None:
        for need, peak in observations:
            self.estimates.observe(kind, need, peak)
        known = self.ratios.pop(kind, [])
        self.ratios[kind] = [*known, *(min(peak / need, CAP) for need, peak in observations)]
        if len(self.ratios) > 3:
            del self.ratios[next(iter(self.ratios))]

    @rule(kind=kinds, size=needs)
    def observe_nothing(self, kind: str, size: int) -> None:
        self.estimates.observe(kind, size, 0)
        self.estimates.observe(kind, 0, size)

    @rule(kind=kinds, need=st.integers(0, 2**80))
    def correct(self, kind: str, need: int) -> None:
        if kind in self.ratios:
            self.ratios[kind] = self.ratios.pop(kind)
        factor = slow_factor(self.ratios.get(kind, []))
        assert self.estimates.corrected(kind, need) == math.ceil(need * Fraction(factor))

    @invariant()
    def the_factors_agree(self) -> None:
        expected = [(kind, slow_factor(ratios)) for kind, ratios in self.ratios.items()]
        assert list(self.estimates.factors().items()) == expected


EstimatesMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
TestEstimates = EstimatesMachine.TestCase


# -- the rules, one by one


@given(
    st.lists(needs.flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))), max_size=MIN_OBSERVATIONS - 1), needs
)
def test_a_few_good_ends_teach_nothing_yet(history: list[tuple[int, int]], need: int) -> None:
    """With fewer than five observations the caller's estimate is used as it is."""
    assert learned(history).corrected("kind", need) == need


def test_the_fifth_good_end_is_the_first_to_count() -> None:
    """Then the estimate is lowered, slowly; before it, not at all."""
    assert learned([(100, 50)] * 4).corrected("kind", 1000) == 1000
    assert learned([(100, 50)] * 5).corrected("kind", 1000) == 950
    assert learned([(100, 50)] * 6).corrected("kind", 1000) == 903
    assert learned([(100, 50)] * LONG).corrected("kind", 1000) == 551  # 1.1 x 0.5, rounded up in its last binary digit


@given(histories, needs, st.data())
def test_what_was_just_seen_is_covered_next_time(
    history: list[tuple[int, int]], need: int, data: st.DataObject
) -> None:
    """Whatever came before, cold start included; an overrun with a margin, and it never lowers the factor."""
    estimates = learned(history)
    before = factor_of(estimates)
    peak = data.draw(st.integers(1, CAP * need))
    estimates.observe("kind", need, peak)
    assert estimates.corrected("kind", need) >= peak
    if peak / need > before:
        assert factor_of(estimates) >= within_bounds(peak / need * OVERRUN_MARGIN) >= before


@given(histories, observations)
def test_no_step_leaves_the_bounds_or_falls_far(history: list[tuple[int, int]], last: tuple[int, int]) -> None:
    """A kind that became lighter is believed only gradually, and no reservation becomes absurd."""
    before, after = factor_of(learned(history)), factor_of(learned([*history, last]))
    assert max(FLOOR, before * FALL) <= after <= CAP


@given(histories, observations)
def test_equal_observations_converge(history: list[tuple[int, int]], equal: tuple[int, int]) -> None:
    """Whatever came before: to their ratio times the margin, within the bounds."""
    need, peak = equal
    assert factor_of(learned([*history, *[equal] * LONG])) == within_bounds(peak / need * MARGIN)


@given(st.integers(120, 100 * CAP))
def test_an_outlier_decays_away(percent: int) -> None:
    """It raises the factor at once, holds for more than one good end, falls evenly, and then is as if it never was."""
    estimates = learned([(100, 100)] * WINDOW)
    estimates.observe("kind", 100, percent)
    assert factor_of(estimates) == within_bounds(percent / 100 * OVERRUN_MARGIN)
    for _ in range(WINDOW):
        before = factor_of(estimates)
        estimates.observe("kind", 100, 100)
        assert factor_of(estimates) == max(before * FALL, MARGIN)
    assert factor_of(estimates) == MARGIN == factor_of(learned([(100, 100)] * WINDOW))


def test_a_heavy_kind_is_not_soon_believed_to_be_light() -> None:
    """After many heavy works the quantile stays with them for dozens of light ones."""
    heavy, light = [(100, 100)] * WINDOW, (100, 30)
    assert factor_of(learned([*heavy, *[light] * 40])) == MARGIN
    assert factor_of(learned([*heavy, *[light] * LONG])) == pytest.approx(0.33)


def test_one_in_ten_that_need_more_are_covered_always() -> None:
    """The upper quantile is theirs, and not that of the many."""
    works = ([(100, 50)] * 9 + [(100, 90)]) * 20
    estimates = learned(works[:100])
    for need, peak in works[100:]:
        assert estimates.corrected("kind", need) >= peak
        estimates.observe("kind", need, peak)
    assert factor_of(estimates) == pytest.approx(0.99)


@given(histories, st.integers(0, 40))
def test_works_of_any_size_teach_one_another(history: list[tuple[int, int]], shift: int) -> None:
    """Only the ratio counts: the same history at another scale teaches the same."""
    scaled = [(need << shift, peak << shift) for need, peak in history]
    assert learned(scaled).factors() == learned(history).factors()


@given(histories, st.integers(0, 2**60), st.integers(0, 2**60))
def test_more_is_never_corrected_to_less(history: list[tuple[int, int]], need: int, more: int) -> None:
    """A whole number in the order of the needs; nothing needs nothing."""
    estimates = learned(history)
    assert 0 == estimates.corrected("kind", 0) <= estimates.corrected("kind", need)
    assert estimates.corrected("kind", need) <= estimates.corrected("kind", need + more)
    assert isinstance(estimates.corrected("kind", need), int)


@given(st.lists(st.tuples(st.sampled_from("abc"), observations), max_size=60))
def test_kinds_do_not_mix(works: list[tuple[str, tuple[int, int]]]) -> None:
    """In whatever order works of several kinds end, each kind learns from its own alone."""
    together, apart = Estimates(), Estimates()
    for kind, (need, peak) in works:
        together.observe(kind, need, peak)
    for kind, (need, peak) in sorted(works, key=lambda work: work[0]):
        apart.observe(kind, need, peak)
    assert dict(together.factors()) == dict(apart.factors())


@given(histories, needs)
def test_what_was_not_measured_teaches_nothing(history: list[tuple[int, int]], size: int) -> None:
    """A holder that never reported used some memory all the same, and no ratio can be had of an estimate of nothing."""
    estimates = learned(history)
    before = pickle.dumps(estimates)
    estimates.observe("kind", size, 0)
    estimates.observe("kind", 0, size)
    assert pickle.dumps(estimates) == before


@pytest.mark.parametrize(("need", "peak", "factor"), [(1, 10**400, float(CAP)), (10**400, 1, 1.0)])
def test_a_report_of_any_size_does_no_harm(need: int, peak: int, factor: float) -> None:
    """What a holder says is learned from when it gives back, and giving back must never fail."""
    estimates = learned([(need, peak)])
    assert factor_of(estimates) == factor
    assert estimates.corrected("kind", need) == need * int(factor)


# -- its own memory


def test_a_kind_keeps_no_more_than_a_window() -> None:
    """However many works end."""
    full = len(pickle.dumps(learned((100, 50 + n % 10) for n in range(WINDOW))))
    assert len(pickle.dumps(learned((100, 50 + n % 10) for n in range(100 * WINDOW)))) == full


def test_kinds_that_are_out_of_use_are_forgotten() -> None:
    """A host that takes URLs for kinds leaks nothing; a kind that is asked for is in use, and stays."""
    estimates = Estimates()
    estimates.observe("asked", 100, 300)
    estimates.observe("ended", 100, 300)
    estimates.observe("idle", 100, 300)
    for number in range(2 * MAX_KINDS):
        assert estimates.corrected(f"https://example.com/{number}", 7) == 7
        estimates.observe(f"https://example.com/{number}", 100, 200)
        assert estimates.corrected("asked", 100) > 300
        estimates.observe("ended", 100, 300)
    assert len(estimates.factors()) == MAX_KINDS
    assert {"asked", "ended"} < set(estimates.factors())
    assert estimates.corrected("idle", 100) == 100


def test_asking_takes_no_place() -> None:
    """A kind is known from its first observation on, not from a first question."""
    estimates = learned([(100, 200)])
    for number in range(2 * MAX_KINDS):
        estimates.corrected(str(number), 1)
    assert list(estimates.factors()) == ["kind"]


def test_statistics_are_frozen() -> None:
    """A view that was taken neither changes later nor can be changed."""
    estimates = learned([(100, 200)])
    factors = estimates.factors()
    estimates.observe("kind", 100, 500)
    assert factors == {"kind": 2.0 * OVERRUN_MARGIN}
    with pytest.raises(TypeError):
        factors["kind"] = 1.0  # type: ignore[index]
