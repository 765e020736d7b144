"""What a container's environment says, where the program says nothing; and that docs/settings.md says just that."""

import ast
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._admission import controller
from memsafe_transcribe._download import spool
from memsafe_transcribe._memory import guard

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
ITS_OWN = {"MEMSAFE_WORKER_PATH"}  # what the library tells its own child processes


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable, and none of what is made once for the process, as in a process that has just begun."""
    for name in (*documented(), "WEB_CONCURRENCY"):
        if name != "MEMSAFE_LEDGER_DIR":
            monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(guard, "_default", None)
    monkeypatch.setattr(controller, "_default", None)


def made_by_default(**options: Any) -> mt.ChunkedTranscriber:
    return mt.ChunkedTranscriber(lambda chunk: "", **options)


def documented() -> dict[str, str]:
    """The variables in the first table of the page, and what it says of their defaults."""
    rows = re.findall(r"^\| `(MEMSAFE_\w+)` \| (.*?) \|", (ROOT / "docs" / "settings.md").read_text(), re.MULTILINE)
    return dict(rows)


def test_the_page_has_all_that_the_code_reads() -> None:
    """Each variable of ours in the code is in the table and the other way round; engines' ones are in the code."""
    texts = set()
    for path in SOURCES:
        nodes = ast.walk(ast.parse(path.read_text()))
        texts |= {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    read = {text for text in texts if re.fullmatch(r"MEMSAFE_\w+", text)}
    assert read - ITS_OWN == set(documented())
    others = (ROOT / "docs" / "settings.md").read_text().partition("## Of engines")[2]
    assert set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)`", others)) <= texts


def test_the_page_has_the_defaults_of_the_code() -> None:
    """Those that are figures."""
    table = documented()
    assert mt.default_guard().threshold_percent == float(table["MEMSAFE_THRESHOLD_PERCENT"])
    assert controller.default_admission().statistics().max_concurrent == int(table["MEMSAFE_MAX_CONCURRENT"])
    assert f"{mt.SafeDownloader().max_bytes // mt.MB} MB" == table["MEMSAFE_MAX_DOWNLOAD_BYTES"]


def test_they_are_heard_where_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the guard and the controller of the process, and by downloaders; what is said goes before."""
    monkeypatch.setenv("MEMSAFE_THRESHOLD_PERCENT", "42.5")
    monkeypatch.setenv("MEMSAFE_MAX_CONCURRENT", "7")
    monkeypatch.setenv("MEMSAFE_SPOOL_DIR", str(tmp_path))
    monkeypatch.setenv("MEMSAFE_MAX_DOWNLOAD_BYTES", "1.5 MB")
    assert mt.default_guard().threshold_percent == 42.5
    assert mt.default_admission().statistics().max_concurrent == 7
    assert mt.default_admission().guard is mt.default_guard()
    assert mt.SafeDownloader().spool_dir == spool.default_spool_dir() == tmp_path

    assert mt.MemoryGuard(threshold_percent=50).threshold_percent == 50
    assert mt.MemoryGuard().threshold_percent == 60
    assert mt.AdmissionController(max_concurrent=2, scope="process").statistics().max_concurrent == 2
    assert mt.SafeDownloader(spool_dir="/elsewhere").spool_dir == Path("/elsewhere")
    assert mt.SafeDownloader(max_bytes=1).max_bytes == 1


def test_an_empty_one_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a compose file leaves it when a variable of its own has no value."""
    for name in documented():
        monkeypatch.setenv(name, "")
    assert mt.default_guard().threshold_percent == 60
    assert mt.default_admission().statistics().max_concurrent == 3
    made_by_default()


@pytest.mark.parametrize(
    ("name", "values", "make"),
    [
        ("MEMSAFE_LIMIT", ("lots", "0", "-5MiB", "64 M"), mt.MemoryGuard),
        ("MEMSAFE_THRESHOLD_PERCENT", ("60%", "0", "-1", "91", "nan", "inf"), mt.default_guard),
        ("MEMSAFE_MAX_CONCURRENT", ("many", "0", "-1", "2.5", "²"), mt.default_admission),
        ("MEMSAFE_MAX_DOWNLOAD_BYTES", ("all", "0", "-1"), made_by_default),
        ("MEMSAFE_SPOOL_DIR", ("/dev/null", "/not/there"), mt.SafeDownloader),
    ],
)
def test_one_that_cannot_be_used_is_named_with_what_it_says(
    name: str, values: tuple[str, ...], make: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One error in one line, and none once it is mended: nothing half made stays."""
    for value in values:
        monkeypatch.setenv(name, value)
        with pytest.raises(ValueError, match="environment variable") as caught:
            make()
        assert f"{name}={value!r}: " in str(caught.value)
        assert "\n" not in str(caught.value)
    monkeypatch.delenv(name)
    make()


def test_what_an_argument_says_is_not_asked_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that cannot be used harms nobody who does not need it."""
    for name in ("LIMIT", "THRESHOLD_PERCENT", "MAX_CONCURRENT", "MAX_DOWNLOAD_BYTES", "SPOOL_DIR"):
        monkeypatch.setenv(f"MEMSAFE_{name}", "nonsense")
    own = mt.AdmissionController(guard=mt.MemoryGuard(limit_bytes=mt.MiB), scope="process")
    made_by_default(admission=own, downloader=mt.SafeDownloader(admission=own, spool_dir="."))


def test_the_system_s_temporary_folder_is_found_without_a_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`tempfile` writes a file to each that it tries, which stays where the process is killed just then."""
    here, gone, program = tmp_path / "here", tmp_path / "gone", tmp_path / "program"
    here.mkdir()
    program.touch()
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: pytest.fail("it was tried"))
    for name, value in {"TMPDIR": str(gone), "TEMP": str(program), "TMP": str(here)}.items():
        monkeypatch.setenv(name, value)
    assert spool.default_spool_dir() == here
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name)
    assert spool.default_spool_dir() == Path("/tmp")
    monkeypatch.undo()
    monkeypatch.setattr(tempfile, "tempdir", str(here))
    assert spool.default_spool_dir() == here, "what the host has told tempfile goes before"
