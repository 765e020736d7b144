"""What is kept of a run, and no more than that: its memory over time, thinned, and the jobs that took longest."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

MOST_SAMPLES = 600
MOST_JOBS = 24

Phase = Literal["waiting", "downloading", "transcribing"]
Ending = Literal["complete", "partial", "silent", "failed", "stopped", "killed"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the memory.

    Attributes:
        seconds: since the run began.
        used_bytes: what counts against the limit.
        limit_bytes: the limit that had the least headroom.
        reserved_bytes: what was promised; None where nobody promises.
    """

    seconds: float
    used_bytes: int
    limit_bytes: int
    reserved_bytes: int | None = None

    def merged(self, other: "Sample") -> "Sample":
        """The worse of both in everything: a peak is never lost, and stands where it was."""
        higher = self if self.used_bytes >= other.used_bytes else other
        reserved = [each.reserved_bytes for each in (self, other) if each.reserved_bytes is not None]
        return replace(
            higher,
            limit_bytes=min(self.limit_bytes, other.limit_bytes),
            reserved_bytes=max(reserved, default=None),
        )


class Samples:
    """At most so many samples of a run of any length: of each span of time, the worst.

    When they are too many, the spans get twice as long.

    Args:
        span_seconds: of each, to begin with.
        most: how many are kept.

    Attributes:
        span_seconds: of each now.
        kept: in the order of time.
    """

    def __init__(self, span_seconds: float, most: int = MOST_SAMPLES) -> None:
        self.span_seconds = span_seconds
        self.kept: list[Sample] = []
        self._most = most

    def add(self, sample: Sample) -> None:
        """One that is later than all before."""
        self._put(sample)
        while len(self.kept) > self._most:
            self.span_seconds *= 2
            before, self.kept = self.kept, []
            for each in before:
                self._put(each)

    def _put(self, sample: Sample) -> None:
        if self.kept and self._span_of(self.kept[-1]) == self._span_of(sample):
            self.kept[-1] = self.kept[-1].merged(sample)
        else:
            self.kept.append(sample)

    def _span_of(self, sample: Sample) -> int:
        return int(sample.seconds / self.span_seconds)


@dataclass(frozen=True, slots=True)
class Job:
    """One job, as far as it got.

    Attributes:
        number: from 1, in the order in which they began.
        label: what it was a job of.
        phases: each with when it began, in seconds of the run.
        end_seconds: when it ended; None while it runs.
        ending: how.
        remark: for whoever wants to know more.
    """

    number: int
    label: str
    phases: tuple[tuple[Phase, float], ...]
    end_seconds: float | None = None
    ending: Ending | None = None
    remark: str = ""

    @property
    def began_seconds(self) -> float:
        return self.phases[0][1]

    def spans(self, now_seconds: float) -> Iterable[tuple[Phase, float, float]]:
        """Each phase with its begin and its end; the last one goes on until now if the job does."""
        ends = [began for _, began in self.phases[1:]]
        end = now_seconds if self.end_seconds is None else self.end_seconds
        return [(phase, began, until) for (phase, began), until in zip(self.phases, [*ends, end], strict=True)]


class Jobs:
    """Those that run, and of the others the ones that took longest.

    Args:
        most: how many of the others.

    Attributes:
        begun: how many there were in all.
        endings: how many of them ended how.
    """

    def __init__(self, most: int = MOST_JOBS) -> None:
        self.begun = 0
        self.endings: dict[Ending, int] = {}
        self._most = most
        self._running: dict[int, Job] = {}
        self._ended: list[Job] = []

    @property
    def kept(self) -> list[Job]:
        """In the order in which they began."""
        return sorted([*self._ended, *self._running.values()], key=lambda job: job.number)

    def begin(self, label: str, seconds: float) -> int:
        """One more, which waits; its number."""
        self.begun += 1
        self._running[self.begun] = Job(self.begun, label, (("waiting", seconds),))
        return self.begun

    def enter(self, number: int, phase: Phase, seconds: float) -> None:
        """This one has come to another phase."""
        job = self._running[number]
        self._running[number] = replace(job, phases=(*job.phases, (phase, seconds)))

    def end(self, number: int, ending: Ending, seconds: float, remark: str = "") -> None:
        """This one has ended; where there are too many, the one that took least is forgotten."""
        job = self._running.pop(number)
        self.endings[ending] = self.endings.get(ending, 0) + 1
        self._ended.append(replace(job, end_seconds=seconds, ending=ending, remark=remark))
        if len(self._ended) > self._most:
            self._ended.remove(min(self._ended, key=lambda each: (each.end_seconds or 0.0) - each.began_seconds))


@dataclass(frozen=True, slots=True)
class Run:
    """What a picture shows.

    Attributes:
        title: in one line.
        seconds: how long it took.
        samples: in the order of time.
        span_seconds: how far apart they are, about.
        jobs: in the order in which they began.
        left_out: how many jobs are not among them.
        endings: of all jobs.
        note: what else is to be said.
    """

    title: str
    seconds: float
    samples: tuple[Sample, ...]
    span_seconds: float
    jobs: tuple[Job, ...] = ()
    left_out: int = 0
    endings: dict[Ending, int] = field(default_factory=dict)
    note: str = ""
