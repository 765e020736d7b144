"""The code in README and docs compiles and runs; what it defines is what its readers will copy."""

import re
from pathlib import Path
from typing import Any

import pytest

import memsafe_transcribe as mt

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_code_runs(page: Path) -> None:
    """One after another in one namespace, as a reader would; only the call that needs the internet is left out."""
    namespace: dict[str, Any] = {"mt": mt}
    for block in re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE):
        exec(compile(block.replace("anyio.run(main)\n", ""), page.name, "exec"), namespace)
    for name in [name for name in namespace if name.startswith("test_")]:
        namespace[name]()
    if page.name == "plugins.md":
        assert isinstance(namespace["MyEngine"](model="large"), mt.Transcriber)


def test_the_readme_has_one_command_for_the_demo_and_one_for_the_tests() -> None:
    """.ci/run takes the second out of it."""
    lines = [line for line in PAGES[0].read_text().splitlines() if line.startswith("python3 -m venv")]
    assert [line.rsplit(" ", 2)[-1] for line in lines] == ["demo", "pytest"]
