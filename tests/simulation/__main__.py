"""Schedules by hand; the kinds are queue, members and batch.

`python -m tests.simulation KIND SEED` shows what happens in one. `... KIND FIRST COUNT` runs many, and says how fast.
`... breaks` says which schedule is the first to find each thing that is broken on purpose.
"""

import os
import sys
import tempfile
import time

from . import sessions
from .breaks import BREAKS, MOST_SEEDS


def main(arguments: list[str]) -> None:
    kinds = {str(kind): kind for kind in sessions.KINDS}
    if arguments == ["breaks"]:
        for each in BREAKS:
            with each.done():
                found = sessions.find(each.kind, range(MOST_SEEDS))
            sys.stdout.write(f"{each.what} | {each.kind} | {found and f'{found[0]} | {str(found[1])[:100]}'}\n")
            sys.stdout.flush()
    elif len(arguments) == 2:
        with sessions.session():
            world, backend = sessions.played(kinds[arguments[0]], int(arguments[1]))
        sys.stdout.write("\n".join((*world.notes, f"{world.schedule.steps} steps on {backend}; all held", "")))
    else:
        kind, first, count = kinds[arguments[0]], int(arguments[1]), int(arguments[2])
        began = time.process_time()
        sessions.run_all(kind, range(first, first + count))
        seconds = time.process_time() - began
        sys.stdout.write(f"{sessions.tally.line()}\n{count / seconds:.0f} a second of processor time\n")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="memsafe-simulation-") as folder:
        os.environ["MEMSAFE_LEDGER_DIR"] = folder  # not the one of this container
        main(sys.argv[1:])
