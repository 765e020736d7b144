"""`python -m audited_backend [FINDING...]`: every experiment with both backends, and a table of what was measured."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from .bench import Bench
from .findings import FINDINGS, Row

HEADER = ("finding", "old backend", "", "new backend", "")


def table(rows: list[Row]) -> str:
    """In Markdown, its columns aligned."""
    lines: list[tuple[str, ...]] = [HEADER]
    lines += [(row.finding, row.old.text, row.verdicts[0], row.new.text, row.verdicts[1]) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |" for line in lines
    )


def finding(text: str) -> int:
    """A finding's number, or a ValueError."""
    return list(FINDINGS)[list(map(str, FINDINGS)).index(text)]


def main() -> int:
    """Exit code 0 if every old one shows its defect and every new one is without; 1 if not; 2 for a wrong command."""
    parser = argparse.ArgumentParser(prog="python -m audited_backend", description=__doc__)
    parser.add_argument("findings", nargs="*", type=finding, help="all, if none is given")
    wanted = parser.parse_args().findings or list(FINDINGS)
    started, rows = time.monotonic(), list[Row]()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        with bench.server.running():
            for number in wanted:
                print(f"finding {number} ...", file=sys.stderr, flush=True)
                rows += FINDINGS[number](bench)
    print(table(rows), end="\n\n")
    told = set[str]()
    for row in rows:
        if row.old.is_bad is None:
            print(f"{row.finding}, the old one: {row.old.said}\n")
        if row.new.said and (row.finding[0] not in told or not row.is_as_said):
            print(f"{row.finding}, the new one: {row.new.said}\n")
            told.add(row.finding[0])
    wrong = [row.finding for row in rows if not row.is_as_said]
    print(f"{len(rows)} rows in {time.monotonic() - started:.0f} s; ", end="")
    print(f"not as said: {'; '.join(wrong)}" if wrong else "each as the audit says")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
