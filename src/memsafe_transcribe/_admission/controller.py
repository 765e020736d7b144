"""AdmissionController: one limit over everything that a process runs at once."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import anyio
from anyio.lowlevel import EventLoopToken, current_token

from .._errors import AdmissionTimeoutError, MemoryPressureError, ReservationTooLargeError
from .._memory.guard import POLL_SECONDS, MemoryGuard, default_guard
from .._memory.pressure import MemoryRoom
from .._units import format_size
from .ledger import Claim, ClaimState, Ledger

ALONE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class AdmissionStatistics:
    """One look at a controller.

    Attributes:
        active: slots taken now.
        waiting: claims in the queue.
        reserved_bytes: promised to holders now, engines' resident models included.
        budget_bytes: what new work could still be promised now.
        granted: reservations granted so far.
        rejected: reservations refused so far, timeouts included.
        peak_active: most slots ever taken at once.
        peak_reserved_bytes: most bytes ever promised at once.
    """

    active: int
    waiting: int
    reserved_bytes: int
    budget_bytes: int
    granted: int
    rejected: int
    peak_active: int
    peak_reserved_bytes: int


class Reservation:
    """Bytes, and a slot, held until the `async with` that gave it ends."""

    def __init__(self, controller: "AdmissionController", claim: Claim) -> None:
        self._controller = controller
        self._claim = claim

    @property
    def need_bytes(self) -> int:
        """The bytes that were promised."""
        return self._claim.need_bytes

    def mark_used(self, used_bytes: int) -> None:
        """Say how much of the promise is resident by now, so that it is not counted a second time."""
        if used_bytes < 0:
            raise ValueError(f"used_bytes must not be negative, got {used_bytes}")
        self._controller._mark_used(self._claim, used_bytes)  # noqa: SLF001


class _Waiter:
    """Wakes one waiting task, from whatever thread or event loop the grant comes."""

    def __init__(self) -> None:
        self._token = current_token()
        self._event = anyio.Event()

    async def wait(self) -> None:
        await self._event.wait()
        self._event = anyio.Event()

    def wake(self) -> None:
        if _here() == self._token:
            self._event.set()
            return
        loop: Any = self._token.native_token
        call = loop.call_soon_threadsafe if hasattr(loop, "call_soon_threadsafe") else loop.run_sync_soon
        with suppress(RuntimeError):  # that loop has ended meanwhile: its task gave its claim up, or never will
            call(self._event.set)


def _here() -> EventLoopToken | None:
    try:
        return current_token()
    except anyio.NoEventLoopError:
        return None


class AdmissionController:
    """Lets work in while there is a slot and its memory fits; the rest waits in order of arrival.

    Make one and share it, or use `default_admission()`: each controller has a queue of its own. Inside a reservation,
    do not ask the same controller for another slot (`transcribe` and `fetch` do): with all slots taken by such holders,
    all would wait for each other.

    Args:
        guard: where limit and use come from; the process-wide one by default.
        max_concurrent: slots: downloads, and transcriptions, that run at once.
    """

    def __init__(self, *, guard: MemoryGuard | None = None, max_concurrent: int = 3) -> None:
        if max_concurrent < 1:
            raise ValueError(f"max_concurrent must be at least 1, got {max_concurrent}")
        self.guard = guard or default_guard()
        self._ledger = Ledger(max_concurrent)
        self._lock = threading.Lock()
        self._waiters: dict[Claim, _Waiter] = {}
        self._head: Claim | None = None
        self._granted = self._rejected = self._peak_active = self._peak_reserved_bytes = 0

    @asynccontextmanager
    async def reserve(
        self, need_bytes: int, *, timeout_seconds: float | None = None, slot: bool = True
    ) -> AsyncIterator[Reservation]:
        """`async with` this: wait for `need_bytes` and a slot, and hold them while the block runs.

        Args:
            need_bytes: the most that the work will add to this container's memory.
            timeout_seconds: give up after this time. None waits for as long as others run; when nothing runs here and
                it still does not fit, because of other memory in use, it gives up after a minute.
            slot: False for memory that stays, such as a loaded model: it is charged, but runs nothing.

        Raises:
            ReservationTooLargeError: at once, if it could not fit even alone.
            AdmissionTimeoutError: it did not get its turn in time.

        Cancellation: while waiting, the place in the queue is given up and the next one moves on; while holding,
        everything is given back.
        """
        claim = await self._acquire(need_bytes, timeout_seconds, takes_slot=slot)
        try:
            yield Reservation(self, claim)
        finally:
            self._close(claim)

    async def _acquire(self, need_bytes: int, timeout_seconds: float | None, *, takes_slot: bool) -> Claim:
        if need_bytes < 0:
            raise ValueError(f"need_bytes must not be negative, got {need_bytes}")
        room = self.guard.room()
        if need_bytes > room.largest_need_bytes:
            raise self._too_large(need_bytes, room)
        waiter = _Waiter()
        with self._lock:
            claim = self._ledger.enqueue(need_bytes, takes_slot=takes_slot)
            self._waiters[claim] = waiter
        try:
            self._pump()
            with anyio.move_on_after(timeout_seconds) as limit:
                await anyio.lowlevel.checkpoint()
                await self._wait_until_granted(claim, waiter)
            if claim.state is ClaimState.WAITING:
                waited = timeout_seconds if limit.cancelled_caught else ALONE_SECONDS
                raise self._timed_out(need_bytes, waited or 0.0)
        except BaseException:
            self._close(claim)
            raise
        return claim

    async def _wait_until_granted(self, claim: Claim, waiter: _Waiter) -> None:
        """Sleep until granted, or until nothing has run here for ALONE_SECONDS that could make room by ending.

        The head looks at memory now and then: nobody tells when other programs free some.
        """
        alone_since = None
        while claim.state is ClaimState.WAITING:
            with anyio.move_on_after(POLL_SECONDS if self._head is claim else None):
                await waiter.wait()
            self._pump()
            if self._head is not claim or self._ledger.slots_taken:
                alone_since = None
            elif alone_since is None:
                alone_since = anyio.current_time()
            elif anyio.current_time() - alone_since >= ALONE_SECONDS:
                return

    def _pump(self) -> None:
        """Grant as many heads as fit now, and wake them; wake a new head too, so that it begins to look."""
        woken = []
        with self._lock:
            try:
                while self._ledger.waiting and (claim := self._ledger.grant_head(self.guard.room())):
                    self._granted += 1
                    self._peak_active = max(self._peak_active, self._ledger.slots_taken)
                    self._peak_reserved_bytes = max(self._peak_reserved_bytes, self._ledger.reserved_bytes)
                    woken.append(self._waiters.pop(claim))
            finally:  # also when memory cannot be read: what is granted by then is granted, and somebody has to look
                head = self._ledger.waiting[0] if self._ledger.waiting else None
                if head is not None and head is not self._head:
                    woken.append(self._waiters[head])
                self._head = head
                for waiter in woken:  # under the lock, so that none of them can have closed and left its loop by now
                    waiter.wake()

    def _close(self, claim: Claim) -> None:
        with self._lock:
            self._ledger.close(claim)
            self._waiters.pop(claim, None)
        with suppress(Exception):  # if memory cannot be read now, the head will find out; to give back cannot fail
            self._pump()

    def _mark_used(self, claim: Claim, used_bytes: int) -> None:
        with self._lock:
            claim.used_bytes = used_bytes

    def _too_large(self, need_bytes: int, room: MemoryRoom) -> ReservationTooLargeError:
        with self._lock:
            self._rejected += 1
        limit = room.largest_need_limit
        return ReservationTooLargeError(
            f"{format_size(need_bytes)} can never fit: at most {format_size(room.largest_need_bytes)} of "
            f"{format_size(limit.limit_bytes)} may be used ({limit.binding}, {limit.source}); raise that limit or "
            "ceiling_percent",
            need_bytes=need_bytes,
            limit_bytes=limit.limit_bytes,
            ceiling_bytes=room.largest_need_bytes,
        )

    def _timed_out(self, need_bytes: int, timeout_seconds: float) -> AdmissionTimeoutError:
        with self._lock:
            self._rejected += 1
            taken, waiting, unused = self._ledger.slots_taken, len(self._ledger.waiting), self._ledger.unused_bytes
        why = f"{taken} of {self._ledger.max_concurrent} slots (max_concurrent) are taken, {waiting} waiting"
        try:
            self.guard.check(need_bytes + unused, admitted=taken == 0)
        except MemoryPressureError as error:
            why = f"{why}; {format_size(unused)} are promised to others, and with them {error}"
        return AdmissionTimeoutError(
            f"no turn for {format_size(need_bytes)} within timeout_seconds={timeout_seconds:g}: {why}",
            need_bytes=need_bytes,
            timeout_seconds=timeout_seconds,
        )

    def statistics(self) -> AdmissionStatistics:
        """A frozen look at the controller now."""
        room = self.guard.room()
        with self._lock:
            return AdmissionStatistics(
                active=self._ledger.slots_taken,
                waiting=len(self._ledger.waiting),
                reserved_bytes=self._ledger.reserved_bytes,
                budget_bytes=max(0, room.new_work_bytes - self._ledger.unused_bytes),
                granted=self._granted,
                rejected=self._rejected,
                peak_active=self._peak_active,
                peak_reserved_bytes=self._peak_reserved_bytes,
            )


_default: AdmissionController | None = None
_default_lock = threading.Lock()


def default_admission() -> AdmissionController:
    """The controller of this process, made at the first call and used wherever none is given."""
    global _default
    with _default_lock:
        if _default is None:
            _default = AdmissionController()
        return _default
