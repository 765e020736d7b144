"""What the torture came to, as `MEMSAFE_PROOF_DIR` got it, held against what it has to come to.

    python -m tests.torture FOLDER

One reason why sites of awaiting or of I/O are not hit is an error: a new one needs a use that comes to it.
"""

import json
import sys
from pathlib import Path

_LEAST_POINTS = 5000


def misses(folder: Path) -> list[str]:
    """What is not as the page says."""
    found = json.loads((folder / "torture.json").read_text())
    missed = [f"not cancelled at, though a task waits there: {site}" for site in found["waited_but_not_cancelled_at"]]
    missed += [f"not refused, though it is asked: {site}" for site in found["reached_but_not_refused"]]
    missed += [f"not hit: {site}" for kind in ("await_sites", "io_sites") for site in found[kind]["not_hit"]]
    if found["points"] < _LEAST_POINTS:
        missed.append(f"{found['points']} points, fewer than {_LEAST_POINTS}")
    return missed


if __name__ == "__main__":
    sys.exit("\n".join(misses(Path(sys.argv[1]))) or 0)
