"""docs/observability.md says what the code does: each figure, each event of a download, each message."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import memsafe_transcribe as mt
from memsafe_transcribe.integrations._figures import FIGURES
from memsafe_transcribe.integrations.prometheus import MemsafeCollector

SOURCE = Path(mt.__file__).parent
PAGE = Path(__file__).parents[1] / "docs" / "observability.md"
LEVELS = {"info": "INFO", "warning": "WARNING", "error": "ERROR", "exception": "ERROR"}
Rows = set[tuple[str, ...]]


def rows(header: str) -> Rows:
    """The rows of the page's table that begins with this header."""
    _, _, after = PAGE.read_text().partition(f"\n{header}\n")
    lines = after.partition("\n\n")[0].splitlines()[1:]
    return {tuple(cell.strip().replace("`", "") for cell in line.strip("|").split("|")) for line in lines}


def calls() -> Iterator[tuple[Path, ast.Call, str]]:
    """Every call in the code, with the name of what is called."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield path, node, ast.unparse(node.func)


def test_every_message_is_on_the_page() -> None:
    """With its level, in the words of the code; and none that the code has no more."""
    found = {
        (LEVELS[name.rpartition(".")[2]], str(call.args[0].value).replace("`", ""))
        for path, call, name in calls()
        if re.fullmatch(r"(_LOG|logger)\.\w+", name) and isinstance(call.args[0], ast.Constant)
    }
    assert rows("| level | message |") == found
    assert not [path for path, _, name in calls() if re.fullmatch(r"(_LOG|logger)\.log", name)], "its level is not seen"


def test_every_event_of_a_download_is_on_the_page() -> None:
    """With the names of its figures."""
    found = {
        (call.args[0].value, ", ".join(str(keyword.arg) for keyword in call.keywords))
        for path, call, name in calls()
        if name == "log" and path.parent.name == "_download" and isinstance(call.args[0], ast.Constant)
    }
    assert rows("| event | figures |") == found


def test_every_figure_is_on_the_page() -> None:
    """Under both of its names."""
    shown = rows("| OpenTelemetry | Prometheus | kind | what it is |")
    scraped = {
        metric.name + ("_total" if metric.type == "counter" else "")
        for metric in MemsafeCollector(mt.AdmissionController(scope="process")).collect()
    }
    assert {row[1] for row in shown} == scraped
    assert {(row[0], *row[2:]) for row in shown if row[0]} == {
        (f"memsafe.{figure.name}", figure.kind, figure.text) for figure in FIGURES
    }
