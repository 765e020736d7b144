"""Everything this library raises on purpose, apart from `ValueError` and `TypeError` for bad arguments.

    MemsafeError
      MemoryPressureError (MemoryError)        a step would pass the memory limit
      AdmissionError
        ReservationTooLargeError               needs more than the limit can ever give
        AdmissionRejectedError                 does not fit now, and may not wait
          DrainingError                        this process is about to end, and lets nothing in
        AdmissionTimeoutError (TimeoutError)   did not get its turn in time
        NestedReservationError                 would wait for what its own task holds
      DownloadError
        DownloadTooLargeError                  more bytes than the cap
        UrlBlockedError                        scheme, host or address that the policy refuses
        DownloadConnectionError (ConnectionError)
        DownloadTimeoutError (TimeoutError)
        DownloadProtocolError                  the server does not speak HTTP as it should
          TruncatedDownloadError               the body ended early
        HTTPStatusError                        any answer but 200
        ChecksumMismatchError                  the body is not the expected one
        KnownBadUrlError                       failed a while ago, and is not asked again yet
        SpoolError (OSError)                   the disk said no
      AudioDecodeError
        UnsupportedMediaError                  not audio, or of a kind that is not let in
        AudioLimitError                        longer than allowed, or of a rate or channels that no recording has
        DecoderCrashedError                    the decoding process died; `reason` says of what
      TranscriberError
        TranscriberNotFoundError (LookupError)
        TranscriberFailedError                 the engine failed on one chunk
        TranscriberUnavailableError            raised by engines: it may answer in a moment
        TranscriberQuotaError                  raised by engines: it answers nothing more for long
        ChunkTooLargeError                     raised by engines: two halves may do
      StoreError                               the database of jobs said no
      DeadLetterError                          a batch's source that was tried in vain before, and is not tried again

The message is for people; the figures are attributes for programs. URLs appear in them without query, fragment and
credentials. Every error survives pickling, so it can cross processes.
"""

from math import inf, isfinite
from typing import Any

__all__ = [
    "AdmissionError",
    "AdmissionRejectedError",
    "AdmissionTimeoutError",
    "AudioDecodeError",
    "AudioLimitError",
    "ChecksumMismatchError",
    "ChunkTooLargeError",
    "DeadLetterError",
    "DecoderCrashedError",
    "DownloadConnectionError",
    "DownloadError",
    "DownloadProtocolError",
    "DownloadTimeoutError",
    "DownloadTooLargeError",
    "DrainingError",
    "HTTPStatusError",
    "KnownBadUrlError",
    "MemoryPressureError",
    "MemsafeError",
    "NestedReservationError",
    "ReservationTooLargeError",
    "SpoolError",
    "StoreError",
    "TranscriberError",
    "TranscriberFailedError",
    "TranscriberNotFoundError",
    "TranscriberQuotaError",
    "TranscriberUnavailableError",
    "TruncatedDownloadError",
    "UnsupportedMediaError",
    "UrlBlockedError",
]


class MemsafeError(Exception):
    """The root of this library's errors. Subclasses list the figures that they carry."""

    def __init__(self, message: str, **figures: Any) -> None:
        super().__init__(message)
        self._figures = figures
        for name, value in figures.items():
            setattr(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), str(self), self._figures)


def _rebuild(kind: type[MemsafeError], message: str, figures: dict[str, Any]) -> MemsafeError:
    return kind(message, **figures)


class MemoryPressureError(MemsafeError, MemoryError):
    """A step would pass the threshold, or admitted work the ceiling."""

    need_bytes: int
    used_bytes: int
    limit_bytes: int
    binding: str


class AdmissionError(MemsafeError):
    """Work was not let in."""

    need_bytes: int


class ReservationTooLargeError(AdmissionError):
    """The need is above what the limit can give even to a job that runs alone."""

    limit_bytes: int
    ceiling_bytes: int


class AdmissionRejectedError(AdmissionError):
    """It does not fit now, and was not to wait, or too many wait already."""

    waiting: int
    retry_after_seconds: float


class DrainingError(AdmissionRejectedError):
    """This process is about to end (`AdmissionController.drain`), and begins nothing more. What a job has done is in
    its store, if it has one; another process goes on with it.
    """


class AdmissionTimeoutError(AdmissionError, TimeoutError):
    """No slot or not enough memory came free within the time."""

    timeout_seconds: float


class NestedReservationError(AdmissionError):
    """It would wait for what its own task holds, or cannot be carved out of it."""

    held_bytes: int
    left_bytes: int


class DownloadError(MemsafeError):
    """A download failed. Nothing of it is left on disk. `retryable`: the same download may well succeed later."""

    url: str
    retryable: bool = False


class DownloadTooLargeError(DownloadError):
    """The body is, or says it is, above the cap. `size_bytes` is what was announced or had come in by then."""

    size_bytes: int
    max_bytes: int


class UrlBlockedError(DownloadError):
    """The policy refuses this URL, or an address that its host resolves to."""

    reason: str


class DownloadConnectionError(DownloadError, ConnectionError):
    """The host could not be resolved or reached, or it hung up."""


class DownloadTimeoutError(DownloadError, TimeoutError):
    """The server did not answer, or was silent or too slow for longer than the time allowed; or the download did not
    end within the caller's own `deadline_seconds`.
    """

    deadline_seconds: float | None = None


class DownloadProtocolError(DownloadError):
    """The server broke HTTP, or answered in a way that is not accepted (compressed, empty)."""


class TruncatedDownloadError(DownloadProtocolError):
    """The body could not be read to its end."""


class HTTPStatusError(DownloadError):
    """The server answered with another status than 200. It may have said when to come back."""

    status_code: int
    retry_after_seconds: float | None = None


class ChecksumMismatchError(DownloadError):
    """The body came in whole, and is not the one that was expected."""

    sha256: str
    expected_sha256: str


class KnownBadUrlError(DownloadError):
    """This URL failed a while ago, with `status_code` if a server answered; `retry_after_seconds` from now it is asked
    again.
    """

    status_code: int | None
    retry_after_seconds: float


class SpoolError(DownloadError, OSError):
    """The spool folder refused: no space, no permission, no such folder."""

    spool_dir: str
    errno: int | None


class AudioDecodeError(MemsafeError):
    """The media file could not be turned into samples."""


class UnsupportedMediaError(AudioDecodeError):
    """The file holds no audio, or is of a container or codec that is not let in (playlists, images)."""


class AudioLimitError(AudioDecodeError):
    """More audio than `max_audio_seconds` came out or is claimed; or a rate, or number of channels, of no recording."""

    max_audio_seconds: float


class DecoderCrashedError(AudioDecodeError):
    """The decoding process died. The host is unharmed."""

    reason: str


class TranscriberError(MemsafeError):
    """An engine could not be had, or failed."""


class TranscriberNotFoundError(TranscriberError, LookupError):
    """No installed plugin has this name, or what it needs is missing."""

    name: str
    available: tuple[str, ...]


class TranscriberFailedError(TranscriberError):
    """The engine failed on one chunk; its own error is the `__cause__`.

    `retryable` says whether the same job may well succeed later. What was worth a retry has had it already.
    """

    chunk_index: int
    start_seconds: float
    retryable: bool


class TranscriberUnavailableError(TranscriberError):
    """Raised by engines: busy, limited in rate, or out of reach. The chunk is tried again.

    `retry_after_seconds` is what the engine asks for, if it asks for anything. What is negative has passed: it is 0.

    Raises:
        TypeError: it is no number, such as the text of a header.
        ValueError: it is no finite number.
    """

    retry_after_seconds: float | None = None

    def __init__(self, message: str, *, retry_after_seconds: float | None = None, **figures: Any) -> None:
        super().__init__(message, retry_after_seconds=checked_wait_seconds(retry_after_seconds), **figures)


def checked_wait_seconds(value: object) -> float | None:
    """`retry_after_seconds` as it can be waited, whatever an engine has put there.

    Raises:
        TypeError: it is no number.
        ValueError: it is no finite number.
    """
    if value is None:
        return None
    if not isinstance(value, int | float):
        raise TypeError(f"retry_after_seconds must be a number of seconds or None, got {value!r}")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = inf
    if not isfinite(seconds):
        raise ValueError(f"retry_after_seconds must be a finite number of seconds or None, got {seconds}")
    return max(0.0, seconds)


class TranscriberQuotaError(TranscriberError):
    """Raised by engines: a quota is used up, and it answers nothing for so long that no job can wait for it."""


class ChunkTooLargeError(TranscriberError):
    """Raised by engines: it cannot take, or cannot answer, so much at once. The chunk is cut in two."""


class StoreError(MemsafeError):
    """The store of jobs could not be opened, read or written. What was committed before is safe.

    `reason`: "full", "locked", "corrupt", "version", "refused", "busy" (the same audio is in work elsewhere, and cannot
    be waited for), or "failed" for anything else, such as an I/O error.
    """

    path: str
    reason: str


class DeadLetterError(MemsafeError):
    """This source of a batch was given up in an earlier run, for the `reason` that its last error gave, and is not
    tried again without `retry_failed=True`.
    """

    reason: str
    attempts: int


for _name in __all__:
    globals()[_name].__module__ = "memsafe_transcribe"  # what a user imports, in tracebacks and pickles
