"""The design's arrows and its "only file that touches" rules, checked on the code as it stands."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "memsafe_transcribe"
FILES = sorted(SOURCE.rglob("*.py"))

# What each room may import of ours, besides itself. Rooms that are not named may import anything.
ARROWS = {
    "_errors": set(),
    "_backoff": set(),
    "_units": set(),
    "_settings": {"_units"},
    "_version": set(),
    "_tasks": set(),
    "_threads": set(),
    "_waking": set(),
    "_worker": {"_tasks", "_threads"},
    "_memory": {"_errors", "_settings", "_units", "_tasks"},
    "_admission": {"_errors", "_settings", "_units", "_waking", "_memory"},
    "_download": {"_backoff", "_errors", "_settings", "_units", "_threads", "_waking"},
    "_audio": {"_errors", "_units", "_tasks", "_worker"},
    "_store": {"_errors", "_tasks", "_threads", "_download"},
    "_drafts": set(),
    "_timeline": {"_drafts", "_units", "_memory", "_admission"},
    "_transcription": {
        "_backoff",
        "_errors",
        "_units",
        "_tasks",
        "_threads",
        "_memory",
        "_admission",
        "_download",
        "_audio",
        "_store",
        "_timeline",
    },
    "testing": {"_errors", "_units", "_memory", "_audio", "_transcription"},
    "transcribers": {"_errors", "_units", "_worker", "_transcription"},
    "integrations": {
        "_version",
        "_errors",
        "_units",
        "_tasks",
        "_threads",
        "_memory",
        "_admission",
        "_download",
        "_audio",
        "_store",
        "_transcription",
        "_blocking",
        "_portal",
    },
}
PYPROJECT = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text())
PURE = {str(Path(name).relative_to("src/memsafe_transcribe")) for name in PYPROJECT["tool"]["mutmut"]["only_mutate"]}
IMPURE_MODULES = {
    "anyio",
    "asyncio",
    "av",
    "httpx",
    "os",
    "psutil",
    "random",
    "socket",
    "subprocess",
    "threading",
    "time",
}
ONLY = {"httpx": {"_download/transport.py"}, "httpcore": {"_download/transport.py"}, "psutil": {"_memory/reading.py"},
        "av": {f"_audio/{name}.py" for name in ("codec", "damage", "media", "samples", "timestamps", "worker")},
        "google": {f"transcribers/{name}.py" for name in ("gemini", "google_genai")},
        **{name: {"transcribers/_faster_whisper_worker.py"} for name in ("ctranslate2", "faster_whisper", "numpy")},
        "openai": {"transcribers/openai.py"},
        "sqlite3": {f"_store/{name}.py" for name in ("batches", "database", "failed_urls", "jobs")},
        "pocketsphinx": {"transcribers/_pocketsphinx_worker.py"},
        "starlette": {"integrations/asgi.py"}, "celery": {"integrations/celery.py"},
        "ray": {"integrations/ray.py"}, "pyarrow": {"integrations/_ray_rows.py"},
        "opentelemetry": {"integrations/opentelemetry.py"},
        "prometheus_client": {"integrations/prometheus.py"}}  # fmt: skip


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at the top or inside; ours from the package's root, as "_memory.guard"."""
    found = set()
    package = path.relative_to(SOURCE).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join([*base, *([node.module] if node.module else [])])
            found |= {stem} if node.module else {f"{stem}.{alias.name}".lstrip(".") for alias in node.names}
    return {module.removeprefix("memsafe_transcribe.") for module in found}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_run_one_way(path: Path) -> None:
    """A room imports only the rooms below it. (The public root may be asked for its process-wide defaults.)"""
    room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if room not in ARROWS:
        return
    rooms = {each.name.removesuffix(".py") for each in SOURCE.iterdir()}
    foreign = {module.split(".")[0] for module in imports(path)} & rooms - {room}
    assert foreign <= ARROWS[room]


def test_a_file_that_calls_itself_pure_is_on_the_list() -> None:
    """In its first word, so that it is measured and mutated."""
    assert {name_of(path) for path in FILES if path.read_text().startswith('"""Pure')} <= PURE


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_rooms_import_no_clock_and_no_io(name: str) -> None:
    """So that they can be driven by the hundred thousand."""
    assert not {module.split(".")[0] for module in imports(SOURCE / name)} & IMPURE_MODULES


@pytest.mark.parametrize("library", sorted(ONLY))
def test_a_library_is_touched_in_one_file_only(library: str) -> None:
    """The rest of the code does not know it."""
    assert {name_of(path) for path in FILES if library in {m.split(".")[0] for m in imports(path)}} == ONLY[library]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_file_is_too_long_to_read(path: Path) -> None:
    """Near 300 lines."""
    assert len(path.read_text().splitlines()) <= 320


def test_fakes_need_no_pytest_and_the_library_needs_no_fakes() -> None:
    """Hosts test with what they like, and run without any of it."""
    script = (
        "import sys, memsafe_transcribe as mt, memsafe_transcribe.cli\n"
        "[getattr(mt, name) for name in mt.__all__]\n"
        "assert 'memsafe_transcribe.testing' not in sys.modules\n"
        "from memsafe_transcribe.testing import BadServer, FakeEngine, FakeGuard, Reply\n"
        "print(*sys.modules, sep='\\n')"
    )
    modules = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "memsafe_transcribe.testing._engine" in modules
    assert not {"pytest", "hypothesis"} & set(modules)


def test_importing_the_package_loads_nothing() -> None:
    """Neither ours nor what we depend on."""
    script = "import sys, memsafe_transcribe; print(*sys.modules, sep='\\n')"
    modules = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    loaded = {module for module in modules if module.startswith("memsafe_transcribe.")}
    assert loaded == set()
    assert not {"anyio", "httpx", "psutil", "av", "rich"} & set(modules)


def test_the_library_never_loads_the_decoder_nor_the_terminal() -> None:
    """PyAV lives in its own process; rich is the command's. Nor is any engine's library loaded.

    Where click is installed, httpx imports its own command, and with it rich: that is not this library's doing.
    """
    script = (
        "import sys\n"
        "sys.modules['click'] = None\n"
        "import memsafe_transcribe as mt\n"
        "[getattr(mt, name) for name in mt.__all__]\n"
        "print(*sys.modules, sep='\\n')"
    )
    modules = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "httpx" in modules
    # Where packages of Google are installed, a .pth file loads the namespace that they share, and nothing in it.
    never = {"rich", "google.auth", "google.ai", "google.genai", *ONLY} - {
        "httpx",
        "httpcore",
        "psutil",
        "google",
        "sqlite3",
    }
    assert not never & set(modules)
