"""The test plugin as what it is: another distribution, installed by pip."""

import os
import subprocess
import sys
from pathlib import Path

PLUGIN = Path(__file__).parents[1] / "plugin"


def install_plugin(folder: Path) -> dict[str, str]:
    """Install the distribution in tests/plugin into `folder`; return an environment in which it is found."""
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation",
         "--no-cache-dir", "--target", str(folder), str(PLUGIN)],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return {**os.environ, "PYTHONPATH": str(folder)}
