"""For all tests of downloads."""

import pytest


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow one another at once."""
    monkeypatch.setattr("memsafe_transcribe._download.transfer._BACKOFF_SECONDS", 0.0)
