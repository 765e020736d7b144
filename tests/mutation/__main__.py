"""What mutmut found, beside what was looked at: a survivor that nobody has looked at is an error.

    python -m tests.mutation            # after `mutmut run`, in the same folder
    python -m tests.mutation --note WHY # note all new survivors as equivalent, by this reason, one of REASONS

A survivor is known by its file, its function and its changed lines, so that the notes outlive other changes.
"""

import argparse
import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..support import proof

NOTES = Path(__file__).with_name("looked_at.json")
# Why a survivor is no missing test.
REASONS = {
    "wording": "a message in other words: tests ask for its figures and for the word that matters, not for sentences",
    "default": "a default that means the same: an absent header reads like any text that is none of its kind",
    "unreachable": "no input tells the two apart: what would is excluded just before, or just behind, or by the types",
    "instant": "a boundary of time or chance that no two readings of a clock, and no digest, hit exactly",
    "effort": "the same result by another effort: a counter, a bound or a hint that only saves work",
}
_RESULT = re.compile(r"\s*(?P<name>memsafe_transcribe\.\S+): (?P<status>.+)")


class Survivor(NamedTuple):
    """One change that no test noticed."""

    file: str
    function: str
    before: str
    after: str


def results() -> Iterator[tuple[str, str]]:
    """Each mutant's name and what became of it."""
    said = subprocess.run(["mutmut", "results", "--all", "true"], check=True, capture_output=True, text=True).stdout
    for line in said.splitlines():
        if found := _RESULT.fullmatch(line):
            yield found["name"], found["status"]


def survivor(name: str) -> Survivor:
    """What was changed."""
    said = subprocess.run(["mutmut", "show", name], check=True, capture_output=True, text=True).stdout
    lines = [line for line in said.splitlines()[3:] if line[:1] in "+-"]
    before, after = ("\n".join(line[1:].strip() for line in lines if line[0] == sign) for sign in "-+")
    return Survivor(file_of(name), function_of(name), before, after)


def file_of(name: str) -> str:
    return "/".join(name.split(".")[1:-1]) + ".py"


def function_of(name: str) -> str:
    """`x_judge__mutmut_3` is `judge`; `xǁLedgerǁgrow__mutmut_1` is `Ledger.grow`."""
    bare = name.rpartition(".")[2].rpartition("__mutmut_")[0]
    return bare[2:] if bare.startswith("x_") else bare[2:].replace("ǁ", ".")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation")
    parser.add_argument("--note", choices=REASONS, metavar="WHY", help=", ".join(REASONS))
    note = parser.parse_args().note
    notes = {Survivor(*each[:4]): each[4] for each in json.loads(NOTES.read_text())} if NOTES.exists() else {}
    files: dict[str, Counter[str]] = defaultdict(Counter)
    new: list[Survivor] = []
    for name, status in results():
        if status in ("survived", "no tests"):
            found = survivor(name)
            if found not in notes:
                new.append(found)
                if note is not None:
                    notes[found] = note
            status = f"equivalent ({notes[found]})" if found in notes else status
        files[file_of(name)][status] += 1
    if note is not None:
        rows = ",\n".join(json.dumps([*found, why], ensure_ascii=False) for found, why in sorted(notes.items()))
        NOTES.write_text(f"[\n{rows}\n]\n")
        return 0
    totals = sum(files.values(), Counter())
    for file, counts in sorted(files.items()):
        print(f"{file}: {_told(counts)}")
    print(f"in all {totals.total():,}: {_told(totals)}")
    proof.keep("mutation", {"files": {file: dict(counts) for file, counts in files.items()}, "all": dict(totals)})
    for each in new:
        print(f"\nsurvived: {each.file}, {each.function}\n- {each.before}\n+ {each.after}")
    return 1 if new else 0


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{status} {count}" for status, count in sorted(counts.items()))


if __name__ == "__main__":
    sys.exit(main())
