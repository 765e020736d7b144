"""Timeline: a picture of a run, made while it runs."""

import logging
import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from .._admission.controller import AdmissionController, default_admission, reserved_bytes_of
from .._drafts import opened_output
from .picture import drawn
from .run import Ending, Jobs, Phase, Run, Sample, Samples

_LOG = logging.getLogger("memsafe_transcribe")
_FIRST_SPAN_SECONDS, _RAREST_LOOK_SECONDS = 0.1, 0.5


class Timeline:
    """Draws memory used, memory reserved and the limit over time, and under it each job with what it did when.

    `with` this around the run, in plain code or on an event loop, and hand it to the transcriber:

        with mt.Timeline("run.svg") as timeline:
            transcriber = mt.ChunkedTranscriber("pocketsphinx", timeline=timeline)

    The picture is written when the block ends, also by an error, a cancellation or Ctrl-C; a process that is killed
    leaves none. It is one SVG that needs nothing else. Jobs are called by their number, and by the host and the name of
    the file: the rest of a URL, or of a path, is not in it. Every attempt of a batch is a job of its own.

    Args:
        path: the file, which is replaced; its folder exists.
        admission: whose memory and promises these are; the process-wide one by default. What it has reserved is what
            this process has, while use and limit are the container's.

    Memory: at most 600 samples, which stand for the longer a time each, with its peaks, the longer the run is; and of
    the jobs that have ended the 24 that took longest.

    Cost: a thread that looks ten times a second at first, and twice a second in a run of more than four minutes.
    """

    def __init__(self, path: str | os.PathLike[str], *, admission: AdmissionController | None = None) -> None:
        self._path = Path(path)
        self._admission = admission or default_admission()
        self._recorder = Recorder()
        self._is_over = threading.Event()
        self._looking = threading.Thread(target=self._look_on, name="memsafe-timeline", daemon=True)

    def __enter__(self) -> Self:
        """Begin.

        Raises:
            FileNotFoundError: there is no such folder.
            RuntimeError: this one was used before.
        """
        if self._recorder.was_used:
            raise RuntimeError("this Timeline was used before: one for each run")
        if not self._path.parent.is_dir():
            raise FileNotFoundError(f"{self._path}: there is no folder {self._path.parent}")
        self._recorder.begin()
        self._look()
        self._looking.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End, and write the picture; that takes some milliseconds.

        Raises:
            OSError: it cannot be written. Where the run itself has failed, that is only logged.
        """
        self._is_over.set()
        self._looking.join()
        self._look()
        self._recorder.is_on = False
        try:
            with opened_output(self._path) as file:
                file.write(self.to_svg())
        except OSError:
            if error is None:
                raise
            _LOG.exception("the picture of the run is not written")

    def to_svg(self) -> str:
        """The picture as it is now, at any time and in any thread."""
        return drawn(self._recorder.run())

    def _look_on(self) -> None:
        while not self._is_over.wait(min(self._recorder.span_seconds, _RAREST_LOOK_SECONDS)):
            self._look()

    def _look(self) -> None:
        try:
            seen = self._admission.guard.snapshot()
        except OSError:
            self._recorder.saw_nothing()
        else:
            self._recorder.saw(seen.used_bytes, seen.limit_bytes, reserved_bytes_of(self._admission))


class Recorder:
    """What is known of a run so far; any thread may tell and ask.

    Attributes:
        was_used: whether it has begun.
        is_on: whether jobs that begin now belong to it.
    """

    def __init__(self) -> None:
        self.was_used = self.is_on = False
        self._lock = threading.Lock()
        self._samples = Samples(_FIRST_SPAN_SECONDS)
        self._jobs = Jobs()
        self._unread = 0
        self._began, self._began_at = time.monotonic(), time.time()

    @property
    def span_seconds(self) -> float:
        """How long a time each look stands for by now."""
        return self._samples.span_seconds

    def begin(self) -> None:
        """From now on."""
        self._began, self._began_at = time.monotonic(), time.time()
        self.was_used = self.is_on = True

    def saw(self, used_bytes: int, limit_bytes: int, reserved_bytes: int) -> None:
        """One look at the memory."""
        with self._lock:
            self._samples.add(Sample(self._seconds(), used_bytes, limit_bytes, reserved_bytes))

    def saw_nothing(self) -> None:
        """It could not be read."""
        with self._lock:
            self._unread += 1

    def begin_job(self, label: str) -> int:
        """One more job; its number."""
        with self._lock:
            return self._jobs.begin(label, self._seconds())

    def enter(self, number: int, phase: Phase) -> None:
        """The job of this number has come to another phase."""
        with self._lock:
            self._jobs.enter(number, phase, self._seconds())

    def end_job(self, number: int, ending: Ending, remark: str) -> None:
        """It has ended."""
        with self._lock:
            self._jobs.end(number, ending, self._seconds(), remark)

    def run(self) -> Run:
        """All of it."""
        with self._lock:
            kept = self._jobs.kept
            return Run(
                f"memsafe-transcribe, {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(self._began_at))} UTC",
                self._seconds(),
                tuple(self._samples.kept),
                self._samples.span_seconds,
                tuple(kept),
                self._jobs.begun - len(kept),
                dict(self._jobs.endings),
                f"Memory could not be read {self._unread} times." if self._unread else "",
            )

    def _seconds(self) -> float:
        return time.monotonic() - self._began


class JobLine:
    """One job while it runs, as its timeline has it; without a timeline, or outside of its block, nothing is kept.

    Args:
        timeline: whose job it is.
        label: what it is called there.
    """

    def __init__(self, timeline: Timeline | None, label: str) -> None:
        recorder = None if timeline is None else timeline._recorder  # noqa: SLF001 - they belong together
        self._recorder = recorder if recorder is not None and recorder.is_on else None
        self._phase: Phase = "waiting"
        self._number = 0 if self._recorder is None else self._recorder.begin_job(label)

    def enter(self, phase: Phase) -> None:
        """It is in this phase now."""
        if self._recorder is not None and phase != self._phase:
            self._phase = phase
            self._recorder.enter(self._number, phase)

    def end(self, ending: Ending, remark: str) -> None:
        """It has ended."""
        if self._recorder is not None:
            self._recorder.end_job(self._number, ending, remark)
