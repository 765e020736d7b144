"""What is told of a job when it has ended, for metrics and traces; never what it was a job of."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from .._timeline.timeline import JobLine
from .._units import format_duration
from .progress import OnProgress, Progress
from .stream import SegmentStream, standing

_LOG = logging.getLogger("memsafe_transcribe")


@dataclass(frozen=True, slots=True)
class JobReport:
    """How one job ended. Neither a URL nor a word of it is in here.

    Attributes:
        engine: the name of the engine.
        status: of the transcript, "complete", "partial" or "silent"; or "failed"; or "stopped", by cancellation, a
            deadline, or a reader that left.
        duration_seconds: of the audio that is done.
        chunks: that had something to be heard: sent to the engine, or found in the store.
        began_at: seconds since the epoch.
        took_seconds: from then on, waiting and downloading included.
        error_type: the name of the error's class if it failed.
    """

    engine: str
    status: Literal["complete", "partial", "silent", "failed", "stopped"]
    duration_seconds: float
    chunks: int
    began_at: float
    took_seconds: float
    error_type: str | None = None


OnJob = Callable[[JobReport], object]


class Reported:
    """A job while it runs.

    Args:
        line: where its phases are told of, too.
    """

    def __init__(self, line: JobLine) -> None:
        self.stream: SegmentStream | None = None
        self._line = line

    def telling(self, report: OnProgress) -> OnProgress:
        """`report`, with the timeline told first."""

        def tell(progress: Progress) -> None:
            self._line.enter(progress.phase)
            report(progress)

        return tell

    def opened(self, stream: SegmentStream) -> SegmentStream:
        """This is its stream."""
        self.stream = stream
        return stream


@contextmanager
def reported(on_job: OnJob | None, line: JobLine, engine: str) -> Iterator[Reported]:
    """`with` this around a job: it is told of at the end, in the job's own task. A callback that fails is logged."""
    job, began_at, began = Reported(line), time.time(), time.monotonic()
    error: BaseException | None = None
    try:
        yield job
    except BaseException as raised:
        error = raised
        raise
    finally:
        report = _report(job.stream, engine, began_at, time.monotonic() - began, error)
        line.end(report.status, _remark(report))
        if on_job is not None:
            try:
                on_job(report)
            except Exception:
                _LOG.exception("a callback on_job failed")


def _remark(report: JobReport) -> str:
    done = f"{format_duration(report.duration_seconds)} of audio in {report.chunks} chunks"
    return f"{done}; {report.error_type}" if report.error_type else done


def _report(
    stream: SegmentStream | None, engine: str, began_at: float, took_seconds: float, error: BaseException | None
) -> JobReport:
    status, chunks = (None, 0) if stream is None else standing(stream)
    has_failed = isinstance(error, Exception)  # else it was cancelled
    return JobReport(
        engine=engine,
        status="failed" if has_failed else status or "stopped",
        duration_seconds=0.0 if stream is None else stream.duration_seconds,
        chunks=chunks,
        began_at=began_at,
        took_seconds=took_seconds,
        error_type=type(error).__name__ if has_failed else None,
    )
