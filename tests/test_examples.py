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
