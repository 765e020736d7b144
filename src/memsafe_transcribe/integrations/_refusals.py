"""Which status an error has in HTTP, and what is said to the client."""

import logging
from dataclasses import dataclass
from math import ceil

from .. import _errors as errors
from .._admission.controller import AdmissionController
from .._transcription.sources import is_url

_LOG = logging.getLogger("memsafe_transcribe.asgi")


class BadRequestError(ValueError):
    """What a client asked for makes no sense: a string that is no URL, a language that the engine does not know."""


# The first that fits. Where there is a phrase, the message is the operator's: it may name folders, or quote an engine.
_STATUS: tuple[tuple[type[Exception], int, str | None], ...] = (
    (errors.ReservationTooLargeError, 413, None),
    (errors.AdmissionError, 503, None),
    (errors.MemoryPressureError, 503, None),
    (errors.DownloadTooLargeError, 413, None),
    (errors.AudioLimitError, 413, None),
    (errors.UnsupportedMediaError, 415, None),
    (errors.AudioDecodeError, 422, None),
    (errors.UrlBlockedError, 400, None),
    (BadRequestError, 400, None),
    (errors.SpoolError, 507, "there is no room on the disk"),
    (errors.DownloadTimeoutError, 504, None),
    (errors.DownloadError, 502, None),
    (errors.TranscriberFailedError, 502, "the engine failed"),
    (errors.StoreError, 503, "the store is busy"),
    (TimeoutError, 504, "it took too long"),
)
_UPLOAD_STATUS = {502: 400, 504: 408}  # of those: here the client itself is the other side


@dataclass(frozen=True, slots=True)
class Refusal:
    """What is said to a client.

    Attributes:
        status: of HTTP.
        error: the name of its class.
        message: for people; never with what only the operator is to know.
        retry_after_seconds: when to come back; None where nobody knows.
    """

    status: int
    error: str
    message: str
    retry_after_seconds: int | None


def refusal_of(error: Exception, admission: AdmissionController) -> Refusal | None:
    """What a client is told of this error; None if it is the host's fault, and for its own handlers and logs."""
    if isinstance(error, errors.NestedReservationError):
        return None
    if isinstance(error, errors.StoreError) and error.reason not in ("busy", "locked"):
        return None
    found = next((row for row in _STATUS if isinstance(error, row[0])), None)
    if found is None:
        return None
    _, status, phrase = found
    if isinstance(error, errors.DownloadError) and not is_url(error.url):
        status = _UPLOAD_STATUS.get(status, status)
    if isinstance(error, errors.TranscriberFailedError) and error.retryable:
        status = 503
    seconds = getattr(error, "retry_after_seconds", None)
    if seconds is None and status == 503:
        seconds = admission.statistics().retry_after_seconds
    if phrase is None:
        _LOG.info("answered %d: %s", status, error)
    else:
        _LOG.warning("answered %d, without the reason: %s", status, error)
    rounded = None if seconds is None else max(1, ceil(seconds))
    return Refusal(status, type(error).__name__, phrase or str(error), rounded)
