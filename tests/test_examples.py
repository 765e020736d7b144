"""The examples are what they say: each is installed like any distribution, and its own tests pass."""

import os
import subprocess
import sys
from pathlib import Path

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
