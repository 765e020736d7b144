"""What is installed from a wheel is the library, whole, without the tree that it was built from."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "memsafe_transcribe"


def test_the_wheel_holds_the_package_and_works_alone(tmp_path: Path) -> None:
    """Each file of the package is in it, `py.typed` and the demo's speech too; every public name can be had from it."""
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    alone = tmp_path / "alone"
    zipfile.ZipFile(wheel).extractall(alone)
    wanted = {path.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*") if path.is_file()}
    wanted = {path for path in wanted if path.suffix != ".pyc"}
    assert {path.relative_to(alone) for path in (alone / PACKAGE.name).rglob("*") if path.is_file()} == wanted
    script = "import memsafe_transcribe as mt; [getattr(mt, name) for name in mt.__all__]; print(mt.__file__)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        env={**os.environ, "PYTHONPATH": str(alone), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert Path(done.stdout.strip()).is_relative_to(alone)
