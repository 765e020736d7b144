"""The examples are what they say: each is installed like any distribution, and its own tests pass."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import memsafe_transcribe as mt

from .support.plugin import install_plugin

ROOT = Path(__file__).parents[1]
SOURCE = str(Path(mt.__file__).parents[1])


def test_the_custom_engine_keeps_the_contract(tmp_path: Path) -> None:
    """Installed by pip into a folder, its tests run by pytest in a process that sees nothing else of it."""
    example = ROOT / "examples" / "custom_engine"
    env = install_plugin(tmp_path / "site", example)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-W", "error", "-p", "no:cacheprovider",
         "--rootdir", str(tmp_path), "-c", os.devnull, str(example / "tests")],
        env={**env, "PYTHONPATH": os.pathsep.join([env["PYTHONPATH"], SOURCE]), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "define speech" not in done.stdout  # nothing was skipped that it could have shown


AUDITED = ROOT / "examples" / "audited_backend"
Cells = list[tuple[str, ...]]


def cells(text: str) -> Cells:
    """The rows of the Markdown table in a text, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines[2:]]


@pytest.fixture(scope="module")
def audit() -> Cells:
    """The table that the command prints, run as its README says."""
    env = {**os.environ, "PYTHONPATH": SOURCE, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "audited_backend"]
    done = subprocess.run(command, env=env, cwd=AUDITED, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return cells(done.stdout)


def test_the_audit_finds_what_it_found_and_nothing_in_the_new_backend(audit: Cells) -> None:
    """Each finding has its rows, and what was measured is more than a verdict."""
    rows = {finding: (old, new) for finding, old, _, new, _ in audit}
    assert {finding[0] for finding in rows} == set("01234567")
    assert {(old, new) for _, _, old, _, new in audit} == {("works", "works"), ("defect", "holds")}
    for finding, (old, new) in rows.items():
        if finding.startswith("1"):
            assert "1 file of" in old and "nothing left" in new
        if finding.startswith("2"):
            assert "let in" in old and "refused" in new
    assert rows["4 batch(5) x chunks(2) + scheduler(2)"] == (
        "12 engine calls at once, all right",
        "3 engine calls at once, all right",
    )
    assert rows["0 a good file: transcribed"] == ("20 words, nothing left",) * 2


def test_the_audits_readme_shows_that_table_and_that_code(audit: Cells) -> None:
    """So that the tutorial cannot drift from what runs."""
    text = (AUDITED / "README.md").read_text()
    assert [(row[0], row[2], row[4]) for row in cells(text)] == [(row[0], row[2], row[4]) for row in audit]
    modules = [AUDITED / "audited_backend" / f"{side}_backend.py" for side in ("old", "new")]
    lines = {line.strip() for module in modules for line in module.read_text().splitlines()}
    for block in re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        shown = {line.strip() for line in block.splitlines() if not line.strip().startswith("#")}
        assert shown <= lines | {"...", ""}


def test_requests_a_batch_and_a_scheduler_stay_within_the_slots(tmp_path: Path) -> None:
    """In two processes of one container; the example notes each call, and says whether there were ever too many."""
    example = ROOT / "examples" / "schedules" / "schedules.py"
    done = subprocess.run(
        [sys.executable, str(example), "--processes", "2"],
        env={**os.environ, "PYTHONPATH": SOURCE},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    said = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if " " in line)
    assert said["calls"].startswith("30 in all, at most 3 at once")
    assert done.stdout.endswith("kept\n")
