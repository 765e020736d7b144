"""The site: Sphinx reads the pages of this folder, which stand in the repository as they are, and the docstrings."""

import os
import re
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT / "src"))

import memsafe_transcribe as mt  # noqa: E402

project = "memsafe-transcribe"
author = "The memsafe-transcribe authors"
release = mt.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"{project} {release}"

myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
napoleon_custom_sections = [("Cancellation", "returns_style"), ("Memory", "returns_style")]

# Pages of the site that are files elsewhere in the repository: their text is read from there.
PAGES = {
    "project/readme": "README.md",
    "project/changelog": "CHANGELOG.md",
    **{f"project/{path.parent.name}": str(path.relative_to(ROOT)) for path in ROOT.glob("examples/*/README.md")},
}
_PAGE_OF = {file: page for page, file in PAGES.items()}
_LINK = re.compile(r"(?<=\]\()([^)#:\s]+)(?=[)#])")


def read(app: Any, page: str, source: list[str]) -> None:
    """Links work where the file lies in the repository; here they lead to the page that it has on the site."""
    file = ROOT / PAGES.get(page, f"docs/{page}.md")
    here = (DOCS / page).parent

    def led(link: re.Match[str]) -> str:
        target = os.path.relpath((file.parent / link[1]).resolve(), ROOT)
        target = target if Path(target).suffix else f"{target}/README.md"
        found = DOCS / f"{_PAGE_OF[target]}.md" if target in _PAGE_OF else ROOT / target
        return os.path.relpath(found, here)

    source[0] = _LINK.sub(led, file.read_text())


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", read)
