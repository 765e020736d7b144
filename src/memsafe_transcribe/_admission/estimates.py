"""Pure: what works of one kind really took corrects what their callers think that they need.

What is learned is a ratio, observed peak by estimated need, so that short and long works of a kind teach one another.
A reservation is the caller's estimate times the factor of its kind, which is

    the 0.95 quantile of the last WINDOW ratios, each weighing less than the next newer one, times MARGIN;

and 1 until there are MIN_OBSERVATIONS of them. Three rules move it from its value in force:

  - Up at once: after a ratio above it, it is that ratio times OVERRUN_MARGIN, or more.
  - Down slowly: by no more than the part 1 - FALL per observation, be it from a bump or from what has become outdated.
  - Never under the newest ratio, and always from FLOOR to CAP.

The quantile is the weighted one, without interpolation: the smallest ratio such that it and all smaller ones carry
0.95 of the weight. So while there are few observations, it is their maximum. Quantile, margin and bump are those of
Kubernetes' Vertical Pod Autoscaler; it weighs by time, and here, without a clock, age is a count of observations.

Not covered: a cost that does not grow with the estimate (its ratio is large for short works, and long ones are charged
for it too); works rarer than one in twenty that need more than the rest, once their bump has fallen; holders that
report only a part of what they use, or that end early. A correction may be more than can ever fit: its caller must not
refuse a work for that, else no work of the kind would run, and nothing better would be learned.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from types import MappingProxyType

MIN_OBSERVATIONS = 5
WINDOW = 64
MAX_KINDS = 256
QUANTILE = 0.95
MARGIN = 1.1
OVERRUN_MARGIN = 1.2
FALL = 0.95
FLOOR = 0.25  # works that happened to stay small must not open the door wide
CAP = 8  # an estimate that is wrong by more than this is none, and a multiple of it is none either

# Halved every 16 observations. The newest has 0.045 of a full window's weight: alone it does not make the quantile.
_WEIGHTS = [0.5 ** (age / 16) for age in range(WINDOW)]


@dataclass(slots=True)
class _Kind:
    factor: float = 1.0
    ratios: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))  # the newest first


class Estimates:
    """The factors of all kinds of work.

    **Memory**: at most WINDOW ratios of MAX_KINDS kinds; that which was not used for the longest time is forgotten.
    """

    def __init__(self) -> None:
        self._kinds: OrderedDict[str, _Kind] = OrderedDict()

    def corrected(self, kind: str, need_bytes: int) -> int:
        """What to reserve for a work whose caller estimates `need_bytes`, rounded up; for 0 it is 0."""
        if kind not in self._kinds:
            return need_bytes
        self._kinds.move_to_end(kind)
        numerator, denominator = self._kinds[kind].factor.as_integer_ratio()  # exact, however large the need
        return -(-need_bytes * numerator // denominator)

    def observe(self, kind: str, need_bytes: int, peak_bytes: int) -> None:
        """Learn from a work that has ended.

        Args:
            kind: what sort of work it was.
            need_bytes: its caller's own estimate, not the corrected one. From 0 nothing can be learned.
            peak_bytes: the most that its holder reported, RssAnon + RssShmem. 0 means that it never did, and nothing
                is learned: to take it for a work without memory would let too much in.
        """
        if need_bytes <= 0 or peak_bytes <= 0:
            return
        known = self._kinds.setdefault(kind, _Kind())
        self._kinds.move_to_end(kind)
        if len(self._kinds) > MAX_KINDS:
            self._kinds.popitem(last=False)
        ratio = min(peak_bytes, CAP * need_bytes) / need_bytes
        known.ratios.appendleft(ratio)
        aim = MARGIN * _upper_quantile(known.ratios) if len(known.ratios) >= MIN_OBSERVATIONS else 1.0
        newest = ratio * OVERRUN_MARGIN if ratio > known.factor else ratio
        known.factor = min(max(aim, newest, known.factor * FALL, FLOOR), float(CAP))

    def factors(self) -> Mapping[str, float]:
        """The factor of each kind, as it is now; the kind that was used last comes last."""
        return MappingProxyType({kind: known.factor for kind, known in self._kinds.items()})


def _upper_quantile(ratios: deque[float]) -> float:
    """The weighted quantile of ratios that stand in order of age: the first one, from above, past 1 - QUANTILE."""
    falling = sorted(zip(ratios, _WEIGHTS, strict=False), reverse=True)
    reached = accumulate(weight for _, weight in falling)
    beyond = (1 - QUANTILE) * math.fsum(_WEIGHTS[: len(ratios)])
    return next(ratio for (ratio, _), weight in zip(falling, reached, strict=True) if weight > beyond)
