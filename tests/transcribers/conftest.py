"""Fixtures for the tests of engines, and which checks of the contract may be passed over."""

import os
from collections.abc import Generator
from typing import Any

import pytest

# What does not apply to an engine by its nature. Every other reason means that a proof could not run.
_DOES_NOT_APPLY = ("transcribe is not async", "async, or is_thread_safe=False", "concurrency=1", "trusts_times=False")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, Any, Any]:
    """In CI, a check that could not run is a failure."""
    try:
        return (yield)
    except pytest.skip.Exception as skipped:
        if os.environ.get("CI") and not str(skipped).startswith(_DOES_NOT_APPLY):
            pytest.fail(f"skipped in CI: {skipped}")
        raise


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the developer's own."""
    for name in [name for name in os.environ if name.startswith("OPENAI_")]:
        monkeypatch.delenv(name)
