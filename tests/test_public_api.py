"""What hosts pin."""

import ast
import difflib
import inspect
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import memsafe_transcribe as mt

from . import public_api

ROOT = Path(mt.__file__)


def test_the_public_api_is_the_one_that_was_written_down() -> None:
    """No name, argument, default, type, base, field or attribute has come, gone or changed unseen."""
    written = public_api.SNAPSHOT.read_text().splitlines()
    changes = list(difflib.unified_diff(written, public_api.lines(), "written down", "found", n=0, lineterm=""))
    assert not changes, "\n".join(
        [
            *changes,
            "If that is meant: python -m tests.public_api, an entry in CHANGELOG.md, and what docs/versioning.md says.",
        ]
    )


def test_each_type_that_a_host_sees_is_known() -> None:
    """To every type checker: none has to be guessed, which they do differently. `py.typed` says that they may look.

    Celery has no types, and its task class is a base of ours.
    """
    assert ROOT.with_name("py.typed").is_file()
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--verifytypes", mt.__name__, "--ignoreexternal", "--outputjson"],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT.parents[1]),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
    )
    symbols = json.loads(done.stdout)["typeCompleteness"]["symbols"]
    unknown = {each["name"] for each in symbols if each["isExported"] and not each["isTypeKnown"]}
    assert len(symbols) > 100
    assert unknown == {"memsafe_transcribe.integrations.celery.TranscriptionTask"}


def test_the_names_for_type_checkers_are_the_names_at_run_time() -> None:
    """The two lists in the root agree, and each name can be had."""
    (block,) = (node for node in ast.parse(ROOT.read_text()).body if isinstance(node, ast.If))
    typed = {alias.asname for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert typed == set(mt.__all__)
    assert all(getattr(mt, name) is not None for name in mt.__all__)
    assert set(mt.__all__) <= set(dir(mt))
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        mt.nope  # noqa: B018


def test_signatures_are_what_the_design_fixed() -> None:
    """Defaulted parameters are keyword-only; sizes and times carry their unit."""
    assert str(inspect.signature(mt.MemoryGuard)) == (
        "(*, threshold_percent: float = 60.0, ceiling_percent: float = 90.0, limit_bytes: int | None = None) -> None"
    )
    functions = (
        mt.AdmissionController,
        mt.AdmissionController.reserve,
        mt.SafeDownloader,
        mt.SafeDownloader.fetch,
        mt.SafeDownloader.receive,
        mt.ChunkedTranscriber,
        mt.ChunkedTranscriber.transcribe,
        mt.ChunkedTranscriber.stream,
    )
    for function in functions:
        for parameter in inspect.signature(function).parameters.values():
            has_default = parameter.default is not parameter.empty
            assert has_default == (parameter.kind is parameter.KEYWORD_ONLY), (function, parameter)


def test_a_transcript_has_what_hosts_make_and_read() -> None:
    """In this order, which they may have written down; what came later has a default."""
    assert list(inspect.signature(mt.Transcript).parameters) == [
        "segments",
        "language",
        "duration_seconds",
        "gaps",
        "is_silent",
        "suspects",
        "store_error",
    ]
    assert list(mt.Transcript((), None, 0.0).to_dict()) == [
        "task",
        "text",
        "language",
        "duration",
        "status",
        "segments",
        "words",
        "gaps",
        "suspects",
    ]


ERRORS = [value for name in mt.__all__ if isinstance(value := getattr(mt, name), type) and issubclass(value, Exception)]


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_is_ours_and_can_cross_processes(error: type[mt.MemsafeError]) -> None:
    """With its message and its figures; named as users import it."""
    figures = {"url": "http://example.com/", "errno": 28, "limit_bytes": 7}
    back = pickle.loads(pickle.dumps(error("what was wrong", **figures)))
    assert type(back) is error
    assert str(back) == "what was wrong"
    assert {name: getattr(back, name) for name in figures} == figures
    assert issubclass(error, mt.MemsafeError)
    assert error.__module__ == "memsafe_transcribe"
