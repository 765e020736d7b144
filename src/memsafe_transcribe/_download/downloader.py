"""SafeDownloader: bytes from the internet onto disk, never more than the cap, and gone when they are done with."""

import os
import re
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import anyio

from .._errors import ChecksumMismatchError, DownloadTimeoutError, MemsafeError
from . import policy as rules, spool
from .admitting import Admission, Admitting, Guard
from .failures import FailedUrls, FailedUrlStore, Flights
from .files import DownloadedFile, suggested_filename
from .holding import Dropped, InMemory
from .incoming import MAX_BYTES, Incoming
from .logs import log
from .pace import Patience
from .redirects import checked_headers
from .transfer import Limits, Probe, Transfer, preflight
from .transport import Asking, HostTransport
from .uploads import KeptInMemory, Part, Upload

_SHA256 = re.compile(r"[0-9a-f]{64}")


class SafeDownloader:
    """Downloads what strangers name.

    Args:
        max_bytes: the cap on a body; it is kept while the body comes in, whatever was announced.
        policy: which URLs and addresses are allowed; public ones only by default.
        guard: at its ceiling no download begins or goes on; by default the guard of `admission`.
        admission: a download takes one of its slots while it runs; the process-wide one by default.
        spool_dir: where files are put; MEMSAFE_SPOOL_DIR, else the system's temporary folder by default. Where that is
            memory (tmpfs), each file's bytes are reserved from `admission` before they are written, until it closes.
        failures: where failed URLs are remembered; by default in memory, by this downloader.
        transport: an httpx transport of the host's own, for proxies and tests, which stays the host's to close. It
            resolves and connects by itself, so of `policy` only what the URL's text shows is kept.
        connect_timeout_seconds: for the resolver, the connection, and TLS: each.
        read_timeout_seconds: for a server's silence.
        low_speed_bytes_per_second: fewer than that, averaged over `low_speed_seconds` of waiting, is too slow.
        low_speed_seconds: see there.
        max_attempts: how often a download that fails for what may pass is tried, or goes on where it broke off,
            without another MiB in between.
        allow_gzip: ask for compressed bodies, and unpack them; the cap is that of what comes out.

    Raises:
        ValueError: for a cap, a time, a speed or a number of attempts that lets nothing through.
    """

    def __init__(
        self,
        *,
        max_bytes: int = MAX_BYTES,
        policy: rules.UrlPolicy | None = None,
        guard: Guard | None = None,
        admission: Admission | None = None,
        spool_dir: str | os.PathLike[str] | None = None,
        failures: FailedUrlStore | None = None,
        transport: HostTransport | None = None,
        connect_timeout_seconds: float = 10.0,
        read_timeout_seconds: float = 30.0,
        low_speed_bytes_per_second: int = 1024,
        low_speed_seconds: float = 30.0,
        max_attempts: int = 4,
        allow_gzip: bool = False,
    ) -> None:
        for name, value in (
            ("max_bytes", max_bytes),
            ("connect_timeout_seconds", connect_timeout_seconds),
            ("read_timeout_seconds", read_timeout_seconds),
            ("low_speed_seconds", low_speed_seconds),
            ("max_attempts", max_attempts),
        ):
            if not value > 0:
                raise ValueError(f"{name} must be more than 0, got {value}")
        if low_speed_bytes_per_second < 0:
            raise ValueError(f"low_speed_bytes_per_second must not be negative, got {low_speed_bytes_per_second}")
        self.max_bytes = max_bytes
        self.policy: rules.UrlPolicy = policy or rules.UrlPolicy()
        self.spool_dir: Path = Path(spool_dir) if spool_dir is not None else spool.default_spool_dir()
        self._admitting = Admitting(guard, admission)
        patience = Patience(
            connect_timeout_seconds, read_timeout_seconds, low_speed_bytes_per_second, low_speed_seconds
        )
        self._asking = Asking(self.policy, patience, transport)
        self._limits = Limits(max_bytes, max_attempts, allow_gzip, self.spool_dir)
        self._flights = Flights(FailedUrls() if failures is None else failures)

    async def probe(self, url: str, *, headers: Mapping[str, str] | None = None) -> Probe:
        """The preflight alone: what the policy and HEAD say of a URL. Takes no slot.

        Raises:
            UrlBlockedError, DownloadTooLargeError, SpoolError: `fetch` would refuse it.
        """
        rules.check_url(url, self.policy)
        return await preflight(self._asking, self._limits, url, checked_headers(headers))

    @asynccontextmanager
    async def fetch(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        expected_sha256: str | None = None,
        deadline_seconds: float | None = 3600.0,
        reservation: Any = None,
        queue_timeout_seconds: float | None = None,
        ask_anyway: bool = False,
        on_progress: Callable[[int, int | None], None] | None = None,
    ) -> AsyncIterator[DownloadedFile]:
        """`async with` this: download `url` to a file that lives as long as the block.

        The slot is given back before the block begins.

        Args:
            url: http or https.
            headers: of the caller's own. They stay with the origin of `url`; with them, the URL is neither looked up
                among those that failed, nor remembered.
            expected_sha256: of the whole body, as 64 hexadecimal digits.
            deadline_seconds: for everything from the moment it has its slot: redirects, attempts, and pauses between.
            reservation: download on this reservation's slot and bytes instead of queueing for others; by default on
                that which the running task holds, if it does.
            queue_timeout_seconds: how long to wait for a slot; None for as long as it takes.
            ask_anyway: also a URL that failed before, and although another task is just finding out.
            on_progress: called with (bytes so far, announced bytes or None) after each MiB.

        Raises:
            UrlBlockedError, DownloadTooLargeError, HTTPStatusError, KnownBadUrlError, ChecksumMismatchError,
            SpoolError, or another `DownloadError`.
            AdmissionError: no slot or no memory in time, or too little left in the reservation.
            MemoryPressureError: memory was at the guard's ceiling until the deadline.

        Cancellation: the connection is closed and the file is gone.

        Memory: at most 6 MiB, whatever the size of the body; where the spool is memory, the body, too.
        """
        rules.check_url(url, self.policy)
        own_headers = checked_headers(headers)
        if expected_sha256 is not None:
            expected_sha256 = expected_sha256.lower()
            if not _SHA256.fullmatch(expected_sha256):
                raise ValueError(f"expected_sha256 must be 64 hexadecimal digits, got {expected_sha256!r}")
        wanted = _Wanted(
            url,
            own_headers,
            expected_sha256,
            inf if deadline_seconds is None else deadline_seconds,
            reservation or self._admitting.admission.current_reservation(),
            queue_timeout_seconds,
            on_progress or _untold,
        )
        async with AsyncExitStack() as opened:
            async with self._flights.flight(
                url,
                ask_anyway=ask_anyway or bool(own_headers),
                keep=not own_headers,
                # The first may be queueing for the very slot that is held here.
                may_wait=wanted.held is None,
            ):
                with _logged(rules.shown(url)):
                    file = await self._fetched(wanted, opened)
            yield file

    @asynccontextmanager
    async def receive(
        self,
        parts: AsyncIterable[Part],
        *,
        name: str = "upload",
        deadline_seconds: float | None = 3600.0,
        reservation: Any = None,
        queue_timeout_seconds: float | None = None,
        on_progress: Callable[[int, int | None], None] | None = None,
    ) -> AsyncIterator[DownloadedFile]:
        """`async with` this: what a host receives itself, such as a request's body, as a file like `fetch`'s.

        The same cap, spool, queue and time limits hold; the slot is given back before the block begins.

        Args:
            parts: bytes-like, of any size, as they come. They are closed, if they can be, before the block begins.
            name: what messages, logs and `final_url` call it; `suggested_filename` is made from it.
            deadline_seconds, reservation, queue_timeout_seconds, on_progress: as in `fetch`.

        Raises:
            DownloadTooLargeError, SpoolError: nothing above the cap is written.
            DownloadTimeoutError: it is silent, too slow, or not done by the deadline.
            DownloadProtocolError: it is empty.
            AdmissionError: as in `fetch`.
            MemoryPressureError: where the spool is memory, there is no room for more: unlike a download, it is not
                dropped for others, and cannot be begun anew.
            TypeError: a part is not bytes-like. What `parts` raises comes out as it is.

        Cancellation: `parts` are closed and the file is gone.

        Memory: that of `fetch`, beside the parts themselves: a large one is copied in pieces.
        """
        upload = Upload(parts, name, self._asking.patience, inf if deadline_seconds is None else deadline_seconds)
        async with AsyncExitStack() as opened:
            async with upload.closing(), AsyncExitStack() as tried:
                with _logged(upload.name):
                    held = reservation or self._admitting.admission.current_reservation()
                    kept = partial(KeptInMemory, name=upload.name, guard=self._admitting.admission.guard)
                    in_memory = await self._admitting.room_in_memory(
                        self.spool_dir, 0, queue_timeout_seconds, tried, kept
                    )
                    async with self._admitting.slot(held, queue_timeout_seconds):
                        incoming = self._incoming(upload.name, in_memory, tried)
                        file = await upload.fill(incoming, self._admitting.guard, on_progress or _untold)
                        if in_memory is not None:
                            in_memory.settle(file.size_bytes)
                opened.push_async_exit(tried.pop_all())
            yield file

    async def _fetched(self, wanted: "_Wanted", opened: AsyncExitStack) -> DownloadedFile:
        """Download, again if it has to make room for older ones; what the file needs is left in `opened`."""
        need_bytes = 0
        while True:
            try:
                async with AsyncExitStack() as tried:
                    in_memory = await self._admitting.room_in_memory(
                        self.spool_dir, need_bytes, wanted.queue_timeout_seconds, tried
                    )
                    async with self._admitting.slot(wanted.held, wanted.queue_timeout_seconds):
                        incoming = self._incoming(rules.shown(wanted.url), in_memory, tried)
                        with nullcontext() if in_memory is None else in_memory.under_way():
                            file = await self._filled(wanted, incoming)
                        if in_memory is not None:
                            in_memory.settle(file.size_bytes)
                    opened.push_async_exit(tried.pop_all())
                    return file
            except Dropped as dropped:
                need_bytes = dropped.need_bytes
                log("dropped", rules.shown(wanted.url), need_bytes=need_bytes)
                if dropped.is_served is not None:
                    await dropped.is_served.wait()

    def _incoming(self, shown: str, in_memory: InMemory | None, opened: AsyncExitStack) -> Incoming:
        incoming = Incoming(self.spool_dir, shown, self.max_bytes, in_memory, self._admitting.haste)
        opened.callback(incoming.close)
        return incoming

    async def _filled(self, wanted: "_Wanted", incoming: Incoming) -> DownloadedFile:
        """The file as its user sees it, once all has come in."""
        where, deadline_seconds = rules.shown(wanted.url), wanted.deadline_seconds
        give_up_at = anyio.current_time() + deadline_seconds
        patience = None if deadline_seconds == inf else deadline_seconds
        await self._admitting.guard.wait_until_ok(admitted=True, timeout_seconds=patience)
        transfer = Transfer(
            self._asking, self._limits, wanted.url, wanted.headers, incoming, wanted.on_progress, give_up_at
        )
        with anyio.CancelScope(deadline=give_up_at) as scope:
            await preflight(self._asking, self._limits, wanted.url, wanted.headers)
            await transfer.run()
        if scope.cancelled_caught:
            raise DownloadTimeoutError(
                f"{where}: not done within {deadline_seconds:g} s (deadline_seconds)"
                + (f"; before that: {transfer.last_error}" if transfer.last_error else ""),
                url=where,
                deadline_seconds=deadline_seconds,
            ) from transfer.last_error
        if wanted.expected_sha256 is not None and incoming.sha256 != wanted.expected_sha256:
            raise ChecksumMismatchError(
                f"{where}: SHA-256 is {incoming.sha256}, not {wanted.expected_sha256}",
                url=where,
                sha256=incoming.sha256,
                expected_sha256=wanted.expected_sha256,
            )
        return DownloadedFile(
            incoming.file,
            size_bytes=incoming.size_bytes,
            content_type=transfer.content_type,
            sha256=incoming.sha256,
            final_url=rules.shown(transfer.final_url),
            suggested_filename=suggested_filename(transfer.final_url),
        )


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What one `fetch` was asked for."""

    url: str
    headers: Mapping[str, str]
    expected_sha256: str | None
    deadline_seconds: float
    held: Any  # the reservation to download on, if there is one
    queue_timeout_seconds: float | None
    on_progress: Callable[[int, int | None], None]


def _untold(done: int, total: int | None) -> None:
    """For whom progress is nothing."""


@contextmanager
def _logged(url: str) -> Iterator[None]:
    log("started", url)
    started = time.monotonic()
    try:
        yield
    except MemsafeError as error:
        seconds = round(time.monotonic() - started, 3)
        log("failed", url, seconds=seconds, error=type(error).__name__, reason=str(error))
        raise
    log("finished", url, seconds=round(time.monotonic() - started, 3))
