"""The picture of memory over length in the README, from the numbers that `benchmarks.memory_over_length` has kept.

    PYTHON -m benchmarks.picture [--json PATH] [--svg PATH]     (default: docs/memory_over_length.json and .svg)

PYTHON needs matplotlib, and nothing of ours: the peers' environment has it (`benchmarks/contenders.py`). The background
is left transparent and every colour is of a middle lightness, so that all can be read in GitHub's light and dark modes.
"""

import argparse
import importlib
import json
from pathlib import Path
from typing import Any, NamedTuple

_DOCS = Path(__file__).parents[1] / "docs"
_GREY = "#6e7a87"
_HOURS = {1 / 6: "10 min", 1: "1 h", 4: "4 h", 12: "12 h"}
_MIB = {16: "16 MiB", 64: "64 MiB", 256: "256 MiB", 1024: "1 GiB", 4096: "4 GiB", 16384: "16 GiB"}


class Line(NamedTuple):
    """How one contender is drawn: its label stands beside the point of `label_hours`, `offset` points away."""

    label: str
    colour: str
    mark: str
    label_hours: float
    offset: tuple[int, int]
    align: str


# By what the rows call it.
_LINES = {
    "ours": Line("memsafe-transcribe: {}, chunks and text", "#1873f6", "o", 1 / 6, (0, 9), "left"),
    "PyAV loop": Line("a PyAV loop that keeps nothing: {}", _GREY, "D", 1 / 6, (0, -17), "left"),
    "faster-whisper": Line("faster-whisper:\n{}", "#9b7211", "^", 4, (12, -26), "left"),
    "pydub": Line("pydub: {}", "#ca5430", "s", 4, (-9, -2), "right"),
}


def size(mib: float) -> str:
    return f"{mib:.0f} MiB" if mib < 1024 else f"{mib / 1024:.1f} GiB"


def draw(rows: list[dict[str, Any]], svg: Path) -> None:
    """Draw the rows of MP3; the same rows and matplotlib give the same file."""
    plt: Any = importlib.import_module("matplotlib.pyplot")
    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "memsafe-transcribe", "font.size": 12}
    plt.rcParams |= dict.fromkeys(("text.color", "xtick.color", "ytick.color"), _GREY)
    figure, axes = plt.subplots(figsize=(8, 3.9), layout="constrained")
    axes.set(xscale="log", yscale="log", xlim=(0.14, 14), ylim=(16, 16_384))
    axes.set_xticks(list(_HOURS), list(_HOURS.values()))
    axes.set_yticks(list(_MIB), list(_MIB.values()))
    axes.minorticks_off()
    axes.tick_params(length=0)
    axes.grid(color=_GREY, alpha=0.3, linewidth=0.8)
    axes.spines[:].set_visible(False)
    for what, line in _LINES.items():
        peaks = {row["hours"]: row["peak_mib"] for row in rows if (row["what"], row["format"]) == (what, "mp3")}
        style = {"linewidth": 3, "markersize": 7, "zorder": 3} if what == "ours" else {"linewidth": 1.8}
        axes.plot(list(peaks), list(peaks.values()), color=line.colour, marker=line.mark, **style)
        beside = min(peaks, key=lambda hours: abs(hours - line.label_hours))
        longest = max(peaks)
        axes.annotate(
            line.label.format(f"{size(peaks[longest])} for {longest:g} h"),
            (beside, peaks[beside]),
            line.offset,
            textcoords="offset points",
            ha=line.align,
            color=line.colour,
            weight="bold" if what == "ours" else "normal",
        )
    axes.set_title("Peak memory over the length of a stereo MP3", loc="left", fontsize=13)
    figure.savefig(svg, transparent=True, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=_DOCS / "memory_over_length.json")
    parser.add_argument("--svg", type=Path, default=_DOCS / "memory_over_length.svg")
    options = parser.parse_args()
    draw(json.loads(options.json.read_text())["rows"], options.svg)


if __name__ == "__main__":
    main()
