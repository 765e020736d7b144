"""A picture, read back."""

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

_SVG = "{http://www.w3.org/2000/svg}"


@dataclass(frozen=True)
class Bar:
    """One job as it is drawn."""

    label: str
    ending: str
    phases: tuple[str, ...]
    told: str


class Picture:
    """What is in an SVG.

    Attributes:
        root: its element.
        bars: the jobs.
    """

    def __init__(self, text: str) -> None:
        self.root = ElementTree.fromstring(text)
        self.bars = [self._bar(group) for group in self.root.iter(f"{_SVG}g")]

    @property
    def said(self) -> list[str]:
        """Every text that is to be seen, from the top."""
        return [each.text or "" for each in self.root.iter(f"{_SVG}text")]

    @property
    def lines(self) -> dict[str, list[list[tuple[float, float]]]]:
        """The points of the lines of the memory; each may be in parts."""
        found: dict[str, list[list[tuple[float, float]]]] = {"used": [], "reserved": [], "limit": []}
        for path in self.root.iter(f"{_SVG}path"):
            name, line = path.get("class", ""), path.get("d", "")
            if name in found and "h" not in line:
                points = [point.split() for point in line[1:].split("L")]
                found[name].append([(float(x), float(y)) for x, y in points])
        return found

    @staticmethod
    def _bar(group: ElementTree.Element) -> Bar:
        title, label, *_, ending = group
        phases = tuple(rect.get("class", "") for rect in group.iter(f"{_SVG}rect"))
        return Bar(label.text or "", ending.text or "", phases, title.text or "")


def read(path: Path) -> Picture:
    """The picture in a file."""
    return Picture(path.read_text(encoding="utf-8"))
