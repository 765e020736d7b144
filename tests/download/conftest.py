"""For all tests of downloads."""

import logging
import threading
from collections.abc import Iterator

import pytest


class Told(logging.Handler):
    """Waits for an event that a download logs."""

    def __init__(self, event: str) -> None:
        super().__init__(logging.INFO)
        self._event = event
        self.has_come = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "event", None) == self._event:
            self.has_come.set()


@pytest.fixture
def dropped() -> Iterator[threading.Event]:
    """Is set when a download is dropped."""
    logger, told_of_it = logging.getLogger("memsafe_transcribe.download"), Told("dropped")
    level = logger.level
    logger.addHandler(told_of_it)
    logger.setLevel(logging.INFO)
    yield told_of_it.has_come
    logger.removeHandler(told_of_it)
    logger.setLevel(level)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow one another at once."""
    monkeypatch.setattr("memsafe_transcribe._download.transfer._BACKOFF_SECONDS", 0.0)
