"""The test plugin as what it is: another distribution, installed by pip."""

import os
import subprocess
import sys
from pathlib import Path

PLUGIN = Path(__file__).parents[1] / "plugin"


def install_plugin(folder: Path, distribution: Path = PLUGIN) -> dict[str, str]:
    """Install a distribution into `folder`, by default that in tests/plugin.

    Returns:
        An environment in which it is found, beside what is found here.
    """
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation",
         "--no-cache-dir", "--target", str(folder), str(distribution)],
        check=True,
        capture_output=True,
    )  # fmt: skip
    path = filter(None, (str(folder), os.environ.get("PYTHONPATH")))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
