"""What hosts pin."""

import ast
import inspect
import pickle
from pathlib import Path

import pytest

import memsafe_transcribe as mt

ROOT = Path(mt.__file__)


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
