"""One body, however many attempts it takes: ask, judge the answer, take it in, and go on where it broke off."""

import errno
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio

from .._backoff import backoff_seconds
from .._errors import (
    DownloadConnectionError,
    DownloadError,
    DownloadProtocolError,
    DownloadTimeoutError,
    HTTPStatusError,
    SpoolError,
    TruncatedDownloadError,
)
from .._units import MiB, format_size
from . import policy as rules, ranges, retries, spool
from .gunzip import unpacked
from .incoming import Incoming, too_large
from .logs import log
from .ranges import Continuation
from .redirects import following
from .transport import Answer, Asking, length

_BACKOFF_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 3600.0  # whatever a server asks for, and without a deadline too
_HEAD_SECONDS = 10.0
_MOST_RESERVED_BYTES = 64 * MiB
_PROGRESS_BYTES = 1 * MiB  # an attempt that brought as much is not counted against the server


# What says nothing of GET: a server that answers HEAD badly, or not at all.
_ABOUT_HEAD_ALONE = DownloadConnectionError, DownloadTimeoutError, DownloadProtocolError


@dataclass(frozen=True, slots=True)
class Limits:
    """What one download is held to.

    Attributes:
        max_bytes: the cap on the body.
        max_attempts: how often it is begun or continued, without getting on in between.
        allow_gzip: ask for, and unpack, gzip.
        spool_dir: where there has to be room.
    """

    max_bytes: int
    max_attempts: int
    allow_gzip: bool
    spool_dir: Path


@dataclass(frozen=True, slots=True)
class Probe:
    """What a server says of a URL before it is downloaded.

    Attributes:
        final_url: where redirects lead, without query and credentials.
        status_code: the answer to HEAD, or None if there was none. Many servers know no HEAD: nothing but 200 to 299
            means anything.
        size_bytes: the length that it announces, or None.
        content_type: what it says it is, or None.
    """

    final_url: str
    status_code: int | None
    size_bytes: int | None
    content_type: str | None


async def preflight(asking: Asking, limits: Limits, url: str, headers: Mapping[str, str]) -> Probe:
    """Ask by HEAD. Only its length, its redirects and their addresses can refuse; the rest is for GET to say.

    Raises:
        UrlBlockedError, DownloadTooLargeError, SpoolError: what GET would be refused for, too.
    """
    probe = Probe(rules.shown(url), None, None, None)
    with anyio.move_on_after(_HEAD_SECONDS):
        try:
            async with following(asking, "HEAD", url, headers, {}) as answer:
                is_fine = 200 <= answer.status_code <= 299
                probe = Probe(
                    rules.shown(answer.url),
                    answer.status_code,
                    length(answer.headers) if is_fine else None,
                    answer.headers.get("content-type") if is_fine else None,
                )
        except _ABOUT_HEAD_ALONE:
            pass
    if probe.size_bytes is not None:
        check_size(rules.shown(url), probe.size_bytes, 0, limits)
    return probe


class Transfer:
    """The download of one URL into one file.

    Args:
        asking: how requests are sent.
        limits: what it is held to.
        url: where to begin, each time.
        headers: the caller's own.
        on_progress: called with (bytes so far, announced bytes or None).
        give_up_at: the end of its time, on anyio's clock.
    """

    def __init__(
        self,
        asking: Asking,
        limits: Limits,
        url: str,
        headers: Mapping[str, str],
        incoming: Incoming,
        on_progress: Callable[[int, int | None], None],
        give_up_at: float,
    ) -> None:
        self.final_url = url
        self.content_type: str | None = None
        self.last_error: DownloadError | None = None
        self._asking = asking
        self._limits = limits
        self._url = url
        self._where = rules.shown(url)
        self._headers = headers
        self._incoming = incoming
        self._on_progress = on_progress
        self._give_up_at = give_up_at
        self._total_bytes: int | None = None
        self._validator: str | None = None
        self._furthest_bytes = 0
        self._attempts = 0

    async def run(self) -> None:
        """Try until the body is whole.

        Raises:
            DownloadError: the last attempt's, once there have been too many without progress, or for what no other
                attempt can change, or where the server asks for more time than is left.
        """
        while True:
            try:
                await self._attempt()
            except DownloadError as error:
                self.last_error = error
                pause_seconds = self._pause_seconds(error)
                log("retry", self._where, seconds=round(pause_seconds, 3), received_bytes=self._incoming.size_bytes,
                    reason=str(error))  # fmt: skip
                await anyio.sleep(pause_seconds)
            else:
                return

    def _pause_seconds(self, error: DownloadError) -> float:
        """How long to wait after this error: as the server asks, or else by `backoff_seconds`.

        Raises:
            DownloadError: this one, if there is to be no further attempt.
        """
        if not error.retryable or self._attempts >= self._limits.max_attempts:
            raise error
        left = min(_LONGEST_PAUSE_SECONDS, self._give_up_at - anyio.current_time())
        if isinstance(error, HTTPStatusError) and error.retry_after_seconds is not None:
            pause = error.retry_after_seconds
            if pause > left:
                raise HTTPStatusError(
                    f"{error}, and asks to be left alone for {pause:.0f} s; {max(0, left):.0f} s can be waited "
                    "(deadline_seconds)",
                    url=error.url,
                    status_code=error.status_code,
                    retry_after_seconds=pause,
                    retryable=True,
                ) from None
            return pause
        pause = backoff_seconds(self._attempts, _BACKOFF_SECONDS)
        if pause > left > 0:  # else it is for the deadline to say
            raise error
        return pause

    async def _attempt(self) -> None:
        self._attempts += 1
        try:
            if not await self._try():
                await self._try()
        finally:
            if self._incoming.size_bytes >= self._furthest_bytes + _PROGRESS_BYTES:
                self._furthest_bytes, self._attempts = self._incoming.size_bytes, 0

    async def _try(self) -> bool:
        """One request. False if what it answered is of no use, and the whole is to be asked for instead."""
        own = {"Accept-Encoding": "gzip"} if self._limits.allow_gzip else {}
        asked_with = self._validator if self._incoming.size_bytes else None
        if asked_with is not None:
            own |= ranges.request_headers(self._incoming.size_bytes, asked_with)
        async with following(self._asking, "GET", self._url, self._headers, own) as answer:
            if asked_with is not None:
                verdict = ranges.judge(
                    answer.status_code, answer.headers, self._incoming.size_bytes, self._total_bytes, asked_with
                )
                if verdict is Continuation.COMPLETE:
                    return True
                if verdict is Continuation.APPEND:
                    rest = ranges.parse_content_range(answer.headers["content-range"])
                    assert rest is not None and rest.last_byte is not None  # judged just now
                    self._total_bytes = rest.last_byte + 1
                    await self._take_in(answer, is_rest=True)
                    return True
                if verdict is Continuation.START_OVER:
                    self._forget()
                    return False
            self._check_status(answer)
            self._forget()
            await self._take_in(answer, is_rest=False)
            return True

    def _forget(self) -> None:
        """What came in so far is of another body."""
        if self._incoming.size_bytes:
            self._incoming.rewind()
        self._total_bytes = self._validator = None

    def _check_status(self, answer: Answer) -> None:
        status_code = answer.status_code
        if status_code == 200:
            return
        is_transient = retries.is_transient_status(status_code)
        asked = answer.headers.get("retry-after") if is_transient else None
        raise HTTPStatusError(
            f"{rules.shown(answer.url)}: the server answered {status_code}",
            url=rules.shown(answer.url),
            status_code=status_code,
            retry_after_seconds=retries.retry_after_seconds(asked, time.time()),
            retryable=is_transient,
        )

    async def _take_in(self, answer: Answer, *, is_rest: bool) -> None:
        where = rules.shown(answer.url)
        coding = answer.headers.get("content-encoding", "identity").strip().lower()
        is_gzip = coding in ("gzip", "x-gzip") and self._limits.allow_gzip
        if coding != "identity" and not is_gzip:
            raise DownloadProtocolError(f"{where}: sent as {coding!r}, which was not asked for", url=where)
        incoming = self._incoming
        if not is_rest:
            self.final_url, self.content_type = answer.url, answer.headers.get("content-type")
            self._validator = ranges.validator(answer.headers)
            self._total_bytes = None if is_gzip else length(answer.headers)
        if self._total_bytes is not None:
            check_size(where, self._total_bytes, incoming.size_bytes, self._limits)
            await incoming.cover(self._total_bytes)
        log("answered", where, status_code=answer.status_code, total_bytes=self._total_bytes,
            from_byte=incoming.size_bytes)  # fmt: skip
        body = unpacked(answer.body, where, self._limits.max_bytes) if is_gzip else answer.body
        await incoming.receive(body, lambda size_bytes: self._on_progress(size_bytes, self._total_bytes))
        if self._total_bytes is not None and incoming.size_bytes != self._total_bytes:
            raise TruncatedDownloadError(
                f"{where}: {incoming.size_bytes} of {self._total_bytes} bytes came in", url=where, retryable=True
            )
        if incoming.size_bytes == 0:
            raise DownloadProtocolError(f"{where}: the answer is empty", url=where)


def check_size(where: str, total_bytes: int, received_bytes: int, limits: Limits) -> None:
    """Refuse a body that is announced to be above the cap, or larger than what the spool has room for.

    A twentieth of that, 64 MiB at most, is left to others.

    Raises:
        DownloadTooLargeError, SpoolError: with the figures.
    """
    if total_bytes > limits.max_bytes:
        raise too_large(where, total_bytes, limits.max_bytes, "announces")
    free = spool.free_bytes(limits.spool_dir)
    reserve = min(_MOST_RESERVED_BYTES, free // 20)
    if total_bytes - received_bytes > free - reserve:
        raise SpoolError(
            f"{where} announces {format_size(total_bytes)}; {limits.spool_dir} has {format_size(free)} free, of which "
            f"{format_size(reserve)} are left to others (spool_dir, or MEMSAFE_SPOOL_DIR, names another)",
            url=where,
            spool_dir=str(limits.spool_dir),
            errno=errno.ENOSPC,
        )
