"""A run as a picture: one SVG that needs nothing else, neither scripts nor fonts, for light and for dark pages."""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from itertools import pairwise
from typing import NamedTuple, get_args

from .._units import format_duration, format_size
from .run import MOST_JOBS, Job, Phase, Run, Sample

_WIDTH, _LEFT, _RIGHT, _TOP, _PLOT_HEIGHT, _ROW = 840, 172, 756, 96, 210, 20
_LABEL_CELLS = 23  # that fit to the left of the bars
_MOST_TICKS = 7
_FAR = 8  # a limit so many times as high as what is used is not shown
_GAP_SPANS = 5  # where nothing was seen for so long, the line is broken
_STEPS_SECONDS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200)
_DAY_SECONDS = 86_400

# Each class with its colours in the light and in the dark, and what is coloured.
_COLOURS = {
    "page": ("#ffffff", "#0d1117", "fill"),
    "text": ("#1f2328", "#e6edf3", "fill"),
    "soft": ("#59636e", "#9198a1", "fill"),
    "bad": ("#b35900", "#f0883e", "fill"),
    "grid": ("#d8dee4", "#2b323b", "stroke"),
    "used": ("#1873f6", "#4c9aff", "stroke"),
    "area": ("#1873f6", "#4c9aff", "fill"),
    "reserved": ("#9b7211", "#d6a531", "stroke"),
    "limit": ("#ca3030", "#ff7b72", "stroke"),
    "waiting": ("#c3cad2", "#48515c", "fill"),
    "downloading": ("#1b9e8a", "#2fbfa8", "fill"),
    "transcribing": ("#7a5af5", "#9d86ff", "fill"),
}
_STYLE = (
    "text{font:12px system-ui,-apple-system,'Segoe UI',sans-serif}.title{font-size:15px;font-weight:600}"
    ".grid{stroke-width:1}.used{fill:none;stroke-width:2;stroke-linejoin:round}.area{fill-opacity:.14}"
    ".reserved{fill:none;stroke-width:1.6}.limit{fill:none;stroke-width:1.6;stroke-dasharray:6 4}"
)


class Axes(NamedTuple):
    """How far the axes go, and how far apart their lines are."""

    seconds: float
    bytes: int
    step_seconds: float
    step_bytes: int


def axes_of(run: Run, least_seconds: float = 0.0) -> Axes:
    """Room for all that was used and promised, and for the limit if that is not far above; time to its next line.

    Args:
        run: what is to be seen.
        least_seconds: make the picture no shorter than this.
    """
    seconds = max(run.seconds, least_seconds, 0.1)
    step_seconds = next((step for step in _STEPS_SECONDS if seconds / step <= _MOST_TICKS), 0)
    if not step_seconds:
        step_seconds = _DAY_SECONDS * -(-seconds // (_DAY_SECONDS * _MOST_TICKS))
    highest = max((max(each.used_bytes, each.reserved_bytes or 0) for each in run.samples), default=0)
    limit = max((each.limit_bytes for each in run.samples), default=0)
    top = max(highest, limit) if limit <= _FAR * highest else highest
    top = max(top * 13 // 12, 1024)
    return Axes(seconds, top, step_seconds, 1 << (top // 4).bit_length() - 1)


def drawn(run: Run, axes: Axes | None = None) -> str:
    """The picture of a run.

    Args:
        run: what happened.
        axes: by default those that fit it.
    """
    axes = axes or axes_of(run)
    jobs = run.jobs[:MOST_JOBS]
    left_out = run.left_out + len(run.jobs) - len(jobs)
    below = _TOP + _PLOT_HEIGHT
    first_row = below + 68
    end = first_row + len(jobs) * _ROW if jobs else below + 24
    height = end + (26 if left_out else 10)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" role="img" aria-labelledby="t d" data-seconds="{axes.seconds:.3f}">',
        f'<title id="t">{_clean(run.title)}</title><desc id="d">{_clean(" ".join(_told(run)))}</desc>',
        f"<style>{_style()}</style>",
        f'<rect class="page" width="{_WIDTH}" height="{height}" rx="6"/>',
        _text(16, 26, run.title, "text title"),
        *(_text(16, 46 + 16 * line, said, "soft") for line, said in enumerate(_told(run))),
        *_frame(axes, below, end if jobs else below),
        *_memory(run, axes),
    ]
    if jobs:
        parts += _legend(_LEFT, below + 44, get_args(Phase))
        for row, job in enumerate(jobs):
            parts.append(_bar(job, axes, first_row + row * _ROW, run.seconds))
    if left_out:
        parts.append(_text(_LEFT, end + 14, f"and {left_out} more jobs", "soft"))
    return "\n".join([*parts, "</svg>", ""])


def _told(run: Run) -> list[str]:
    """What is to be said of it, for those who cannot see it, too: memory, and jobs."""
    if run.samples:
        peak = max(run.samples, key=lambda each: each.used_bytes)
        limit = format_short(run.samples[-1].limit_bytes)
        memory = f"Used at most {format_short(peak.used_bytes)} of {limit}, in {format_duration(run.seconds)}."
    else:
        memory = f"Memory could not be read, in {format_duration(run.seconds)}."
    count = len(run.jobs) + run.left_out
    endings = [f"{number} {ending}" for ending, number in run.endings.items()]
    running = count - sum(run.endings.values())
    if running > 0:
        endings.append(f"{running} still running")
    jobs = f"{count} job{'s' * (count != 1)}: {', '.join(endings)}. " if count else ""
    return [memory, f"{jobs}{run.note}".strip()]


def _style() -> str:
    def rules(which: int) -> str:
        return "".join(f".{name}{{{each[2]}:{each[which]}}}" for name, each in _COLOURS.items())

    return f"{_STYLE}{rules(0)}@media(prefers-color-scheme:dark){{{rules(1)}}}"


def _frame(axes: Axes, below: int, end: int) -> Iterator[str]:
    """The lines of both axes, and what each stands for."""
    for value in range(0, axes.bytes + 1, axes.step_bytes):
        y = _y(value, axes)
        yield f'<path class="grid" d="M{_LEFT} {y:.1f}H{_RIGHT}"/>'
        yield _text(_LEFT - 8, y + 4, format_short(value), "soft", "end")
    tick = 0
    while (seconds := tick * axes.step_seconds) <= axes.seconds:
        x = _x(seconds, axes)
        yield f'<path class="grid" d="M{x:.1f} {_TOP}V{end}"/>'
        shown = f"{seconds:g} s" if axes.step_seconds < 1 else format_duration(seconds)
        yield _text(x, below + 17, shown, "soft", "middle")
        tick += 1


def _memory(run: Run, axes: Axes) -> Iterator[str]:
    """What was used and promised, under the limit."""
    for part in _unbroken(run.samples, run.span_seconds):
        xs = [_x(each.seconds, axes) for each in part]
        used = _line(xs, [_y(each.used_bytes, axes) for each in part])
        floor = _y(0, axes)
        yield f'<path class="area" d="{used}V{floor:.1f}H{xs[0]:.1f}Z"/>'
        promised = [(x, each.reserved_bytes) for x, each in zip(xs, part, strict=True)]
        if known := [(x, value) for x, value in promised if value is not None]:
            line = _line([x for x, _ in known], [_y(value, axes) for _, value in known])
            yield f'<path class="reserved" d="{line}"/>'
        yield f'<path class="used" d="{used}"/>'
        if max(each.limit_bytes for each in part) <= axes.bytes:
            yield f'<path class="limit" d="{_line(xs, [_y(each.limit_bytes, axes) for each in part])}"/>'
    lines = ["used"] if run.samples else []
    if any(each.reserved_bytes is not None for each in run.samples):
        lines.append("reserved")
    if any(each.limit_bytes <= axes.bytes for each in run.samples):
        lines.append("limit")
    yield from _legend(_LEFT, _TOP - 10, lines, is_line=True)


def _unbroken(samples: Sequence[Sample], span_seconds: float) -> Iterator[list[Sample]]:
    """The samples without the times at which there are none."""
    part: list[Sample] = list(samples[:1])
    for before, each in pairwise(samples):
        if each.seconds - before.seconds > _GAP_SPANS * span_seconds:
            yield part
            part = []
        part.append(each)
    if part:
        yield part


def _bar(job: Job, axes: Axes, y: int, now_seconds: float) -> str:
    spans = list(job.spans(now_seconds))
    said = [f"{phase} {format_duration(until - began)}" for phase, began, until in spans]
    ending = job.ending or "running"
    title = f"{job.number} {job.label}: {', '.join([*said, ending])}{f'; {job.remark}' if job.remark else ''}"
    rects = [
        f'<rect class="{phase}" x="{_x(began, axes):.1f}" y="{y - 11}" height="13" '
        f'width="{max(0.6, _x(until, axes) - _x(began, axes)):.1f}"/>'
        for phase, began, until in spans
    ]
    style = "bad" if job.ending in ("failed", "killed", "stopped") else "soft"
    return "".join([
        f"<g><title>{_clean(title)}</title>",
        _text(_LEFT - 8, y, cut(f"{job.number}  {job.label}", _LABEL_CELLS), "text", "end"),
        *rects,
        _text(_x(spans[-1][2], axes) + 6, y, ending, style),
        "</g>",
    ])  # fmt: skip


def _legend(x: float, y: float, names: Iterable[str], *, is_line: bool = False) -> Iterator[str]:
    for name in names:
        if is_line:
            yield f'<path class="{name}" d="M{x:.1f} {y - 4:.1f}h16"/>'
        else:
            yield f'<rect class="{name}" x="{x:.1f}" y="{y - 9:.1f}" width="12" height="10"/>'
        yield _text(x + (22 if is_line else 18), y, name, "soft")
        x += 44 + 7 * len(name)


def _text(x: float, y: float, said: str, style: str, anchor: str = "start") -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{_clean(said)}</text>'


def _line(xs: Sequence[float], ys: Sequence[float]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in zip(xs, ys, strict=True))


def _x(seconds: float, axes: Axes) -> float:
    return _LEFT + (_RIGHT - _LEFT) * min(seconds, axes.seconds) / axes.seconds


def _y(value: int, axes: Axes) -> float:
    return _TOP + _PLOT_HEIGHT * (1 - min(value, axes.bytes) / axes.bytes)


def _clean(said: str) -> str:
    """Text as it may stand in XML, whatever was in it: no letter that is not to be seen gets through."""
    return escape("".join(letter if letter.isprintable() else "\ufffd" for letter in said))


def cut(said: str, cells: int) -> str:
    """The text, or as much of it as so many cells have room for; a letter of Chinese takes two."""
    wide = [2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in said]
    if sum(wide) <= cells:
        return said
    kept, room = 0, cells - 1
    while wide[kept] <= room:
        room -= wide[kept]
        kept += 1
    return f"{said[:kept]}…"


def format_short(value: int) -> str:
    """A size in no more letters than it needs: "512 MiB", "1.5 GiB"."""
    return format_size(value).replace(".0 ", " ")
