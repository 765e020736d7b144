"""The code in README and docs compiles and runs; what it defines is what its readers will copy."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import memsafe_transcribe as mt

from .support.media import tone_samples, write_wav

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ELSEWHERE = {"ray.md"}  # run by tests/integrations/test_ray.py, where Ray is


def blocks(page: Path) -> list[str]:
    """All that is Python in it, in order."""
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in ELSEWHERE], ids=lambda page: page.name)
def test_every_block_of_code_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after another in one namespace, as a reader would; only the call that needs the internet is left out."""
    module = ModuleType("my_package")
    namespace: dict[str, Any] = vars(module)
    namespace["mt"] = mt
    monkeypatch.setitem(sys.modules, "my_package", module)
    for block in blocks(page):
        exec(compile(block.replace("anyio.run(main)\n", ""), page.name, "exec"), namespace)
    for name in [name for name in namespace if name.startswith("test_")]:
        namespace[name]()
    if page.name == "plugins.md":
        assert isinstance(namespace["MyEngine"](model="large"), mt.Transcriber)
        waits = [namespace["wanted_wait_seconds"](text) for text in ("7", "", "soon", "Wed, 21 Oct 2015 07:28:00 GMT")]
        assert waits[:3] == [7.0, None, None]
        assert waits[3] < 0


def test_the_engine_of_the_guide_keeps_the_contract(tmp_path: Path) -> None:
    """Copied from the page into the two files that it names, and run as it says."""
    engine: list[str] = []
    tests: list[str] = []
    for block in blocks(ROOT / "docs" / "plugins.md"):
        (tests if ".testing import" in block else engine).append(block)
    (tmp_path / "my_package.py").write_text("\n".join(engine))
    (tmp_path / "test_engine.py").write_text("\n".join(tests))
    write_wav(tmp_path / "hello.wav", tone_samples(2.0))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-W", "error", "-p", "no:cacheprovider",
         "-W", "ignore:Async generator 'httpx:ResourceWarning",  # httpx leaves it to trio if an upload is cancelled
         "--rootdir", str(tmp_path), "-c", os.devnull, "test_engine.py"],
        env={**os.environ, "PYTHONPATH": str(Path(mt.__file__).parents[1]), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    reasons = {line.partition(": ")[2] for line in done.stdout.splitlines() if line.startswith("SKIPPED")}
    assert reasons == {
        "concurrency=1",
        "the engine has no aclose: nothing to close",
        "async, or is_thread_safe=False: it is never in several threads at once",
    }


def test_the_readme_has_one_command_for_the_demo_and_one_for_the_tests() -> None:
    """.ci/run takes the second out of it."""
    lines = [line for line in PAGES[0].read_text().splitlines() if line.startswith("python3 -m venv")]
    assert [line.rsplit(" ", 2)[-1] for line in lines] == ["demo", "pytest"]


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """Every link leads somewhere, every page is in its index, and each public name is in the reference."""
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", tmp_path / "read", ROOT / "docs",
         tmp_path / "site"],
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = "".join(page.read_text() for page in (tmp_path / "site" / "reference").glob("*.html"))
    absent = [name for name in mt.__all__ if f'id="memsafe_transcribe.{name}"' not in shown]
    assert absent == ["MB", "MiB", "__version__"]
    names = {line.split(":")[0] for line in (ROOT / "tests/public_api.txt").read_text().splitlines()}
    of_integrations = {name for name in names if re.fullmatch(r"memsafe_transcribe\.integrations\.\w+\.\w+", name)}
    assert {name for name in of_integrations if f'id="{name}"' not in shown} == set()
    assert len(of_integrations) >= 10
