"""All comparisons in one run, as a page and pictures.

    python -m benchmarks [--quick] [--only NAME ...] [--folder DIR] [--peers-python PATH]

Each is a module here and has a command of its own, which says more. What they print goes into DIR/benchmarks.md, a part
for each with the date, the load and the machine; their pictures lie beside it. All of them take an hour and a half on
two quiet cores; with --only, the other parts of the page stay, so that it can be made in pieces. --quick takes a minute
or two, and its figures say nothing but that the code works. One that fails is named, and the others go on; then the
exit code is 1.

Some want more than is in the project's own environment, and say what: root (memory groups), nginx, curl, the ffmpeg
command, and an environment with the peers, which --peers-python names (`benchmarks/contenders.py`).
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

_DOCS = Path(__file__).parents[1] / "docs"
_PEERS, _FOLDER = "{peers}", "{folder}"  # what the arguments below stand for
_TIMEOUT_SECONDS = 4 * 3600
_HEAD = "# Benchmarks\n\nMade by `python -m benchmarks`; the modules it runs say what each figure is.\n"


@dataclass(frozen=True)
class Comparison:
    """One of the modules here.

    Attributes:
        name: of the module.
        full: its arguments.
        quick: the same, for a run that takes seconds.
    """

    name: str
    full: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()


COMPARISONS = (
    Comparison(
        "memory_over_length",
        ("--json", f"{_FOLDER}/memory_over_length.json", "--peers-python", _PEERS),
        ("--hours", "0.02", "--formats", "mp3", "m4a"),
    ),
    Comparison(
        "picture", ("--json", f"{_FOLDER}/memory_over_length.json", "--svg", f"{_FOLDER}/memory_over_length.svg")
    ),
    Comparison("plan_accuracy", (), ("0.02",)),
    Comparison("decode", ("--peers-python", _PEERS), ("--rounds", "1", "--hours", "0.02")),
    Comparison("download", (), ("--rounds", "1", "--mib", "8")),
    Comparison("guard_and_admission", (), ("--rounds", "1", "--crowds", "100", "300")),
    Comparison("many_sources", (), ("--sources", "20")),
    Comparison("batch_in_group", (), ("--jobs", "4", "--hours", "0.02", "--limit-mib", "256")),
    Comparison(
        "fastapi_in_group",
        (),
        ("--requests", "24", "--seconds", "60", "--limit-mib", "320", "--workers", "2"),
    ),
    Comparison(
        "two_pictures",
        ("--folder", _FOLDER),
        ("--folder", _FOLDER, "--jobs", "2", "--hours", "0.05", "--limit-mib", "128"),
    ),
    Comparison(
        "container_matrix", ("--most-hours", "48"), ("--limit-mib", "128", "--jobs", "1", "4", "--audio", "1min")
    ),
)


def run(comparison: Comparison, *, quick: bool, folder: Path, peers_python: str) -> tuple[bool, str]:
    """Run it to its end: whether it was well, and its part of the page."""
    arguments = comparison.quick if quick else comparison.full
    command = [sys.executable, "-m", f"benchmarks.{comparison.name}"]
    command += [each.replace(_FOLDER, str(folder)).replace(_PEERS, peers_python) for each in arguments]
    if comparison.name == "picture":
        command[0] = peers_python  # it needs matplotlib alone
    shown = " ".join(["python", *command[1:]]).replace(str(folder), "DIR").replace(peers_python, "PATH")
    print(f"+ {shown}", file=sys.stderr, flush=True)
    began, load = time.monotonic(), os.getloadavg()[0]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=_TIMEOUT_SECONDS)
        said, code = done.stdout, str(done.returncode)
    except subprocess.TimeoutExpired as error:
        said, code = str(error.stdout or ""), f"no end within {_TIMEOUT_SECONDS} s"
    took = f"Ended with {code} after {time.monotonic() - began:.0f} s. Load when it began: {load:.1f}. {machine()}"
    title = comparison.name.replace("_", " ").capitalize()
    return code == "0", f"## {title}\n\n`{shown}`\n\n```text\n{said.rstrip()}\n```\n\n{took}\n"


def parts_of(page: str) -> dict[str, str]:
    """The parts of a page that was written before, by the names of their modules."""
    parts = [f"## {part}" for part in f"\n{page}".split("\n## ")[1:]]
    return {part.partition("\n")[0][3:].lower().replace(" ", "_"): part for part in parts}


def machine() -> str:
    """What the figures are of."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = models[0].partition(":")[2].strip() if models else platform.machine()
    names = ("memsafe-transcribe", "av", "anyio", "httpx", "psutil")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return (
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores ({model}), "
        f"Linux {platform.release()}, CPython {platform.python_version()}, {versions}."
    )


def main() -> None:
    names = [each.name for each in COMPARISONS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--folder", type=Path, default=_DOCS)
    parser.add_argument("--peers-python", default=sys.executable, metavar="PATH")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    page = options.folder / "benchmarks.md"
    parts = parts_of(page.read_text()) if page.exists() and options.only is not names else {}
    failed = []
    for comparison in COMPARISONS:
        if comparison.name not in options.only or (options.quick and comparison.name == "picture"):
            continue
        is_well, parts[comparison.name] = run(
            comparison, quick=options.quick, folder=options.folder, peers_python=options.peers_python
        )
        failed += [] if is_well else [comparison.name]
        page.write_text("\n".join([_HEAD, *(parts[name] for name in names if name in parts)]))
    print(page.read_text())
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
