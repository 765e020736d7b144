"""What a batch gives out, and how far it is."""

from collections.abc import Callable
from dataclasses import dataclass

from .progress import Progress
from .sources import Source
from .transcript import Transcript


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one source: one of `transcript` and `error`.

    Attributes:
        index: its place among the sources, from 0.
        source: as it was given.
        transcript: all of it.
        error: why there is none; that of the last attempt.
        attempts: how often it failed, over all runs of the batch.
    """

    index: int
    source: Source
    transcript: Transcript | None = None
    error: Exception | None = None
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class RunningSource:
    """A source that is in work.

    Attributes:
        index: its place among the sources, from 0.
        name: what it is called: a URL without its query, a path, or the type of anything else.
        progress: how far it is.
    """

    index: int
    name: str
    progress: Progress


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """How far a batch is.

    Attributes:
        done: sources that have a transcript.
        failed: sources that have none.
        total: how many there will be; None if the iterable does not say.
        running: those in work.
        elapsed_seconds: since it began.
    """

    done: int
    failed: int
    total: int | None
    running: tuple[RunningSource, ...]
    elapsed_seconds: float

    @property
    def sources_per_second(self) -> float:
        """Over all of the run; 0 before the first has ended."""
        return (self.done + self.failed) / self.elapsed_seconds if self.elapsed_seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """As it went so far; None before the first source has ended, and where `total` is not known."""
        if self.total is None or not self.sources_per_second:
            return None
        return max(0, self.total - self.done - self.failed) / self.sources_per_second


OnBatchProgress = Callable[[BatchProgress], None]
