"""Which URLs failed, so that they are left alone for a while; and one request at a time for each.

A URL is remembered by a keyed hash: what is kept, in memory or in a file, shows neither the URL nor its secrets.
"""

import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import anyio
from anyio.lowlevel import EventLoopToken, current_token

from .._errors import (
    DownloadConnectionError,
    DownloadError,
    DownloadProtocolError,
    DownloadTimeoutError,
    HTTPStatusError,
    KnownBadUrlError,
    TruncatedDownloadError,
)
from .policy import shown
from .retries import Failure, remember_seconds

_KINDS: tuple[tuple[type[DownloadError], Failure], ...] = (
    (TruncatedDownloadError, Failure.TRUNCATED),
    (DownloadProtocolError, Failure.PROTOCOL),
    (DownloadConnectionError, Failure.CONNECTION),
    (DownloadTimeoutError, Failure.TIMEOUT),
)


@dataclass(frozen=True, slots=True)
class FailedUrl:
    """What is remembered of a URL that failed.

    Attributes:
        reason: the message, without query and credentials.
        status_code: what the server answered, if it did.
        until_unix_seconds: from when on it is asked again.
    """

    reason: str
    status_code: int | None
    until_unix_seconds: float


class FailedUrlStore(Protocol):
    """Where failed URLs are remembered. A store keeps no URL in the clear, and forgets what has run out."""

    async def find(self, url: str) -> FailedUrl | None:
        """What is remembered of this URL, unless its time is over."""

    async def remember(self, url: str, failed: FailedUrl) -> None:
        """Keep this until its time is over."""

    async def forget(self, url: str) -> None:
        """It did not fail any more."""


class FailedUrls:
    """Remembers failed URLs in memory, for as long as the process lives.

    Args:
        max_entries: how many; of more, the oldest are forgotten.

    **Memory**: some 500 bytes each.
    """

    def __init__(self, *, max_entries: int = 10_000) -> None:
        if max_entries < 1:
            raise ValueError(f"max_entries must be at least 1, got {max_entries}")
        self._max_entries = max_entries
        self._key = secrets.token_bytes(32)
        self._failed: OrderedDict[bytes, FailedUrl] = OrderedDict()

    async def find(self, url: str) -> FailedUrl | None:
        """What is remembered of this URL, unless its time is over."""
        failed = self._failed.get(url_digest(self._key, url))
        return None if failed is None or failed.until_unix_seconds <= time.time() else failed

    async def remember(self, url: str, failed: FailedUrl) -> None:
        """Keep this until its time is over."""
        key = url_digest(self._key, url)
        self._failed.pop(key, None)
        self._failed[key] = failed
        while len(self._failed) > self._max_entries:
            self._failed.popitem(last=False)

    async def forget(self, url: str) -> None:
        """It did not fail any more."""
        self._failed.pop(url_digest(self._key, url), None)


def url_digest(key: bytes, url: str) -> bytes:
    """HMAC-SHA256 of the whole URL: a renewed presigned URL is another one."""
    return hmac.digest(key, url.encode("utf-8", "surrogatepass"), "sha256")


def failed_url(error: DownloadError, now_unix_seconds: float) -> FailedUrl | None:
    """What to remember of an error; None for what is our own refusal, and says nothing of the URL."""
    status_code = error.status_code if isinstance(error, HTTPStatusError) else None
    if isinstance(error, DownloadTimeoutError) and error.deadline_seconds is not None:
        return None  # another caller may have more time
    if isinstance(error, HTTPStatusError):
        seconds = remember_seconds(error.status_code, error.retry_after_seconds)
    else:
        kind = next((kind for known, kind in _KINDS if isinstance(error, known)), Failure.OURS)
        seconds = remember_seconds(kind)
    if seconds is None:
        return None
    # The message may speak of this caller's deadline.
    reason = str(error) if status_code is None else f"{error.url}: the server answered {status_code}"
    return FailedUrl(reason, status_code, now_unix_seconds + seconds)


class _Flight:
    """The first of several downloads of one URL."""

    def __init__(self) -> None:
        self.has_ended = anyio.Event()
        self.is_good = False


class Flights:
    """Lets one download of a URL find out for all others that want it at the same time whether it is bad.

    While the first is under way, the rest waits. If it fails for a reason that is remembered, so do they; if it
    succeeds, they all go on; if it is given up, the next one is the first.
    """

    def __init__(self, store: FailedUrlStore) -> None:
        self._store = store
        self._under_way: dict[tuple[EventLoopToken, str], _Flight] = {}

    @asynccontextmanager
    async def flight(self, url: str, *, ask_anyway: bool, keep: bool, may_wait: bool = True) -> AsyncIterator[None]:
        """`async with` this around a download of `url`.

        Args:
            url: the whole URL.
            ask_anyway: do not look whether it failed before, and wait for nobody.
            keep: remember how it ended.
            may_wait: else it goes on beside the first.

        Raises:
            KnownBadUrlError: it failed a while ago, or just now.
        """
        key, first = (current_token(), url), None
        while not ask_anyway:
            if (failed := await self._store.find(url)) is not None:
                raise _known_bad(url, failed)
            if (before := self._under_way.get(key)) is None:
                first = self._under_way[key] = _Flight()
                break
            if may_wait:
                await before.has_ended.wait()
            if before.is_good or not may_wait:
                break
        try:
            yield
            if first is not None:
                first.is_good = True
            if keep:
                await self._store.forget(url)
        except DownloadError as error:
            if keep and (failed := failed_url(error, time.time())) is not None:
                await self._store.remember(url, failed)
            raise
        finally:
            if first is not None:
                del self._under_way[key]
                first.has_ended.set()


def _known_bad(url: str, failed: FailedUrl) -> KnownBadUrlError:
    left = max(0.0, failed.until_unix_seconds - time.time())
    return KnownBadUrlError(
        f"{failed.reason} (known; it is asked again in {left:.0f} s, or at once with ask_anyway=True)",
        url=shown(url),
        status_code=failed.status_code,
        retry_after_seconds=left,
    )
