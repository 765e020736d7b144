"""How the command shows progress: a bar on a terminal, a plain line now and then elsewhere. On standard error only."""

import sys
import time
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING

from ._transcription.outcomes import BatchProgress
from ._transcription.progress import Progress
from ._units import format_duration, format_size

if TYPE_CHECKING:
    from rich.progress import Progress as Bar, TaskID

_LINE_EVERY_SECONDS = 10.0
_VERBS = {"waiting": "waiting for its turn", "downloading": "downloading", "transcribing": "transcribing"}


class ProgressDisplay:
    """Shows the progress of one source while its `with` block runs; call it with each `Progress`."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._next_line = time.monotonic() + _LINE_EVERY_SECONDS

    def __enter__(self) -> "ProgressDisplay":
        if sys.stderr.isatty():
            self._bar = _new_bar()
            self._task = self._bar.add_task(self._source, total=None, doing="", figures="")
            self._bar.start()
        return self

    def __call__(self, progress: Progress) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(
                self._task,
                total=progress.total,
                completed=progress.done,
                doing=_VERBS[progress.phase],
                figures=_figures(progress),
            )
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _LINE_EVERY_SECONDS
            print(f"{self._source}: {_VERBS[progress.phase]} {_figures(progress)}", file=sys.stderr)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


class BatchDisplay:
    """Shows the progress of a batch while its `with` block runs: a bar for the whole and one for each running job.

    Args:
        total: how many sources there are; None if nobody knows.
    """

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._bar: Bar | None = None
        self._whole: TaskID | None = None
        self._running: dict[int, TaskID] = {}
        self._next_line = time.monotonic() + _LINE_EVERY_SECONDS

    def __enter__(self) -> "BatchDisplay":
        if sys.stderr.isatty():
            self._bar = _new_bar()
            self._whole = self._bar.add_task("all", total=self._total, doing="", figures="")
            self._bar.start()
        return self

    def __call__(self, progress: BatchProgress) -> None:
        progress = replace(progress, total=self._total)  # which the batch cannot know of a list that it reads
        if self._bar is not None and self._whole is not None:
            self._show(self._bar, self._whole, progress)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _LINE_EVERY_SECONDS
            print(_batch_figures(progress), file=sys.stderr)

    def _show(self, bar: "Bar", whole: "TaskID", progress: BatchProgress) -> None:
        ended = progress.done + progress.failed
        bar.update(whole, completed=ended, figures=_batch_figures(progress))
        now = {each.index: each for each in progress.running}
        for index in self._running.keys() - now.keys():
            bar.remove_task(self._running.pop(index))
        for index, each in now.items():
            if index not in self._running:
                self._running[index] = bar.add_task(each.name, total=None, doing="", figures="")
            bar.update(
                self._running[index],
                total=each.progress.total,
                completed=each.progress.done,
                doing=_VERBS[each.progress.phase],
                figures=_figures(each.progress),
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def _batch_figures(progress: BatchProgress) -> str:
    of = f" of {progress.total}" if progress.total is not None else ""
    parts = [f"{progress.done + progress.failed}{of} done", f"{progress.failed} failed"]
    if progress.sources_per_second:
        parts.append(f"{progress.sources_per_second * 3600:.0f} an hour")
    if progress.seconds_left is not None:
        parts.append(f"{format_duration(progress.seconds_left)} left")
    return ", ".join(parts)


def _new_bar() -> "Bar":
    from rich.console import Console
    from rich.progress import BarColumn, Progress as Bar, TextColumn, TimeElapsedColumn

    columns = ("{task.description}", "{task.fields[doing]}", "{task.fields[figures]}")
    return Bar(
        *(TextColumn(column, markup=False) for column in columns),
        BarColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def _figures(progress: Progress) -> str:
    if progress.phase == "waiting":
        return ""
    done, total = (
        (f"{format_size(int(value))}" if progress.phase == "downloading" else format_duration(value))
        if value is not None
        else None
        for value in (progress.done, progress.total)
    )
    return f"{done} of {total}" if total else f"{done}"
