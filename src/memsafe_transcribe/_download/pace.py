"""Pure: how long a server may take, and how slow it may be.

A server that sends a byte now and then is never silent for long, and never done. So bytes are counted against the time
that was spent waiting for them; the time that we take to write them is ours, and is not held against it.
"""

from dataclasses import dataclass

from .._errors import DownloadProtocolError, DownloadTimeoutError
from .._units import format_size

MAX_HEAD_BYTES = 256 * 1024  # of everything before the body, and so of 1xx answers without end


@dataclass(frozen=True, slots=True)
class Patience:
    """What a server is given.

    Attributes:
        connect_seconds: to be resolved, connected to, and greeted by TLS: each.
        read_seconds: of silence.
        low_speed_bytes_per_second: fewer than that, over `low_speed_seconds` of waiting, is too slow.
        low_speed_seconds: the time that the speed is averaged over.
    """

    connect_seconds: float
    read_seconds: float
    low_speed_bytes_per_second: int
    low_speed_seconds: float


class Pace:
    """What came in on one connection, and how long that took.

    Args:
        url: for messages.
        patience: what is allowed.
    """

    def __init__(self, url: str, patience: Patience) -> None:
        self._url = url
        self._patience = patience
        self._head_bytes: int | None = 0
        self._window_bytes = 0
        self._window_seconds = 0.0

    def head_is_in(self) -> None:
        """From here on it is the body that comes."""
        self._head_bytes = None

    def note(self, size_bytes: int, waited_seconds: float) -> None:
        """Count what one reading brought.

        Raises:
            DownloadProtocolError: more came before the body than any head needs.
            DownloadTimeoutError: it comes too slowly.
        """
        if self._head_bytes is not None:
            # One reading may bring a good part of the body along: only what came before it counts.
            if self._head_bytes > MAX_HEAD_BYTES:
                raise DownloadProtocolError(
                    f"{self._url}: more than {format_size(MAX_HEAD_BYTES)} of headers", url=self._url, retryable=False
                )
            self._head_bytes += size_bytes
        patience = self._patience
        self._window_bytes += size_bytes
        self._window_seconds += waited_seconds
        if self._window_seconds < patience.low_speed_seconds:
            return
        if self._window_bytes < patience.low_speed_bytes_per_second * self._window_seconds:
            raise DownloadTimeoutError(
                f"{self._url}: only {self._window_bytes} bytes in {self._window_seconds:.3g} s, at least "
                f"{patience.low_speed_bytes_per_second} a second are expected (low_speed_bytes_per_second)",
                url=self._url,
                retryable=True,
            )
        self._window_bytes, self._window_seconds = 0, 0.0
