"""Where the sessions of `nox` that prove something leave their figures, for docs/proof.md."""

import json
import os
from pathlib import Path
from typing import Any


def keep(name: str, figures: dict[str, Any]) -> None:
    """Write them as NAME.json into the folder that MEMSAFE_PROOF_DIR names; nowhere without it."""
    folder = os.environ.get("MEMSAFE_PROOF_DIR")
    if folder:
        path = Path(folder) / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n")
