"""AdmissionController: one limit over everything that a container runs at once."""

import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal

import anyio

from .. import _settings
from .._memory.guard import POLL_SECONDS, MemoryGuard, default_guard, replace_default_guard
from . import refusals
from .acquiring import Reserving, acquire_blocking, carving
from .claims import Claim
from .keeper import BUSY_TRIES, Keeper
from .queueing import retry_after_seconds
from .reservation import Reservation, entered_around, not_negative
from .scope import ContainerScope, ProcessScope
from .table import MAX_LANES
from .waiting import is_on_event_loop

_MAX_CONCURRENT = 3


@dataclass(frozen=True, slots=True)
class AdmissionStatistics:
    """One look at a controller.

    Attributes:
        active: slots taken now through this controller.
        waiting: claims in its queue.
        reserved_bytes: promised to its holders now, engines' resident models included.
        budget_bytes: what new work could still be promised now.
        granted: reservations granted so far.
        rejected: reservations refused so far, timeouts included.
        orphaned: reservations that were dropped without being released, and taken back, so far.
        peak_active: most slots ever taken at once.
        peak_reserved_bytes: most bytes ever promised at once.
        others_active: slots taken in other processes of the container.
        others_reserved_bytes: promised in other processes of the container.
        max_concurrent: the slots that hold now: in a container, those of the process that came first.
        scope: how far this controller's limits reach, and what is wrong with it if something is.
        retry_after_seconds: about when the queue of now will have passed: a good value for an HTTP `Retry-After`.
    """

    active: int
    waiting: int
    reserved_bytes: int
    budget_bytes: int
    granted: int
    rejected: int
    orphaned: int
    peak_active: int
    peak_reserved_bytes: int
    others_active: int
    others_reserved_bytes: int
    max_concurrent: int
    scope: str
    retry_after_seconds: int


class AdmissionController:
    """Lets work in while there is a slot and its memory fits; the rest waits for its turn.

    Turns are in order of arrival, a step of `priority` counting like ten seconds. What does not fit may be passed by
    smaller work a few times, then room is saved up for it.

    Args:
        guard: where limit and use come from; the process-wide one by default.
        max_concurrent: slots: downloads, and transcriptions, that run at once.
        scope: "container" for one common queue of all processes of this user in the container; "process" for a queue
            of this controller's own.
        max_waiting: how many may wait in this controller; more are refused, with a time after which to retry.

    Raises:
        ValueError: for limits below 1, or another scope.
    """

    def __init__(
        self,
        *,
        guard: MemoryGuard | None = None,
        max_concurrent: int = _MAX_CONCURRENT,
        scope: Literal["container", "process"] = "container",
        max_waiting: int = 10_000,
    ) -> None:
        if max_concurrent < 1:
            raise ValueError(f"max_concurrent must be at least 1, got {max_concurrent}")
        if max_waiting < 0:
            raise ValueError(f"max_waiting must not be negative, got {max_waiting}")
        if scope not in ("container", "process"):
            raise ValueError(f'scope must be "container" or "process", got {scope!r}')
        self.guard: MemoryGuard = guard or default_guard()
        reach = ContainerScope(max_concurrent) if scope == "container" else ProcessScope()
        self._keeper = Keeper(self.guard, max_concurrent, max_waiting, reach)
        weakref.finalize(self._keeper, reach.leave)

    def reserve(
        self,
        need_bytes: int,
        *,
        priority: int = 0,
        timeout_seconds: float | None = None,
        lane: str | None = None,
        slot: bool = True,
        kind: str | None = None,
        reservation: Reservation | None = None,
    ) -> AbstractAsyncContextManager[Reservation]:
        """`async with` this: wait for `need_bytes` and a slot, and hold them while the block runs.

        Args:
            need_bytes: the most that the work will add to this container's memory.
            priority: higher goes first; a step is worth ten seconds of waiting.
            timeout_seconds: give up after this time. None waits for as long as others run; when nothing runs in scope
                and it still does not fit, because of other memory in use, it gives up after a minute.
            lane: the lane whose limit holds too.
            slot: False for memory that stays, such as a loaded model: it is charged, but runs nothing.
            kind: the kind of work that this is. What such reservations were seen to use (`mark_used`) corrects the
                `need_bytes` of those that follow.
            reservation: take it out of this one, without waiting, instead of queueing.

        Raises:
            ReservationTooLargeError: at once, if it could not fit even alone.
            NestedReservationError: at once, if it would wait for what the waiting task itself holds.
            AdmissionRejectedError: at once, if `max_waiting` wait already.
            AdmissionTimeoutError: it did not get its turn in time.
            ValueError: for a negative size, or an undeclared lane.

        Cancellation: while waiting, the place in the queue is given up and the next one moves on; while holding,
        everything is given back.
        """
        if reservation is not None:
            return carving(reservation, not_negative("need_bytes", need_bytes))
        return Reserving(self._keeper, self._claim(need_bytes, priority, lane, slot, kind), timeout_seconds)

    @contextmanager
    def reserve_blocking(
        self,
        need_bytes: int,
        *,
        priority: int = 0,
        timeout_seconds: float | None = None,
        lane: str | None = None,
        slot: bool = True,
        kind: str | None = None,
    ) -> Iterator[Reservation]:
        """`reserve` for threads: `with` this.

        Raises:
            RuntimeError: on the thread of an event loop, which it would block.
        """
        claim = self._claim(need_bytes, priority, lane, slot, kind)
        if is_on_event_loop():
            raise RuntimeError("reserve_blocking() would block this event loop; use `async with reserve(...)` there")
        with acquire_blocking(self._keeper, claim, timeout_seconds) as held:
            yield held

    def reserve_nowait(
        self,
        need_bytes: int,
        *,
        priority: int = 0,
        lane: str | None = None,
        slot: bool = True,
        kind: str | None = None,
    ) -> Reservation:
        """Reserve now or not at all, from a task or a thread. Use it by `with`, or `release()` it.

        Raises:
            AdmissionRejectedError: it does not fit now, or others wait; its `retry_after_seconds` is an estimate.
            ReservationTooLargeError: it could not fit even alone.
        """
        claim = self._claim(need_bytes, priority, lane, slot, kind)
        try:
            if not self._keeper.take(claim, tries=BUSY_TRIES):
                refusals.refuse_too_large(self._keeper, claim)
                raise refusals.rejected(self._keeper, claim)
            return Reservation(self._keeper, claim)
        except BaseException:
            self._keeper.close(claim)
            raise

    def lane(self, name: str, *, max_concurrent: int) -> None:
        """Declare a lane, for `reserve(lane=name)`: no more than `max_concurrent` of its work at once.

        In a container that counts over all processes. Declaring it again changes the limit.
        """
        if max_concurrent < 1:
            raise ValueError(f"max_concurrent must be at least 1, got {max_concurrent}")
        if name not in self._keeper.ledger.lanes and len(self._keeper.ledger.lanes) >= MAX_LANES:
            raise ValueError(f"a controller has at most {MAX_LANES} lanes")
        self._keeper.set_lane(name, max_concurrent)

    def safe_batch_size(self, max_batch_size: int, bytes_per_item: int) -> int:
        """How many items of `bytes_per_item` the memory that is free now has room for: from 1 to `max_batch_size`."""
        if max_batch_size < 1 or bytes_per_item < 1:
            raise ValueError(
                "max_batch_size and bytes_per_item must be at least 1, got "
                f"max_batch_size={max_batch_size}, bytes_per_item={bytes_per_item}"
            )
        return max(1, min(max_batch_size, self.statistics().budget_bytes // bytes_per_item))

    def drain(self) -> None:
        """Let nothing in any more, and send away whoever waits: the process is about to end.

        Jobs that run begin no further chunk, and end with `DrainingError` when those that are in work are done, and
        stored. For good; safe from any thread (of a signal's handler, call it in a thread).
        """
        self._keeper.drain()

    @property
    def is_draining(self) -> bool:
        """Whether `drain` was called."""
        return self._keeper.is_draining

    async def wait_until_drained(self, *, timeout_seconds: float | None = None) -> bool:
        """Wait until nothing holds a slot here any more; False if the time was over before."""
        with anyio.move_on_after(timeout_seconds):
            while self._keeper.ledger.slots_taken:  # noqa: ASYNC110 - whoever gives one back may be a thread
                await anyio.sleep(POLL_SECONDS)
            return True
        return False

    def current_reservation(self) -> Reservation | None:
        """The reservation that the running task holds from this controller, with a slot; None if it holds none."""
        for claim, is_own in entered_around():
            root = claim.root
            if is_own and root.takes_slot and root in self._keeper.ledger.granted:
                return claim.handle() if claim.handle is not None else None
        return None

    def statistics(self) -> AdmissionStatistics:
        """A frozen look at the controller now."""
        keeper = self._keeper
        keeper.turn()
        room, ledger, others = keeper.room(), keeper.ledger, keeper.others
        return AdmissionStatistics(
            active=ledger.slots_taken,
            waiting=ledger.waiting,
            reserved_bytes=ledger.reserved_bytes,
            budget_bytes=max(0, room.new_work_bytes - ledger.unused_bytes - others.unused_bytes),
            granted=keeper.granted,
            rejected=keeper.rejected,
            orphaned=keeper.orphaned,
            peak_active=ledger.peak_slots_taken,
            peak_reserved_bytes=ledger.peak_reserved_bytes,
            others_active=others.slots_taken,
            others_reserved_bytes=others.reserved_bytes,
            max_concurrent=ledger.max_concurrent,
            scope=keeper.scope.describe(),
            retry_after_seconds=retry_after_seconds(ledger, others, time.monotonic()),
        )

    def _claim(self, need_bytes: int, priority: int, lane: str | None, slot: bool, kind: str | None) -> Claim:
        if type(need_bytes) is not int or need_bytes < 0:
            not_negative("need_bytes", need_bytes)
        claim = Claim(need_bytes)
        if lane is None and kind is None and slot and not priority:
            return claim
        if lane is not None and lane not in self._keeper.ledger.lanes:
            raise ValueError(f"lane {lane!r} is not declared; call lane({lane!r}, max_concurrent=...) first")
        claim.lane, claim.priority, claim.takes_slot = lane, priority, slot
        if kind is not None:
            claim.kind, claim.asked_bytes = kind, need_bytes
            claim.need_bytes = self._keeper.corrected(kind, need_bytes)
        return claim


def reserved_bytes_of(admission: AdmissionController) -> int:
    """What its holders in this process are promised now.

    Unlike `statistics` it takes no turn in the container's ledger, which would say that this process's queue moves on;
    a thread that looks now and then does not know that.
    """
    return admission._keeper.ledger.reserved_bytes  # noqa: SLF001 - this is the way in


_default: AdmissionController | None = None
_default_lock = threading.Lock()


def default_admission() -> AdmissionController:
    """The controller of this process, made at the first call and used wherever none is given.

    The environment variable MEMSAFE_MAX_CONCURRENT sets its slots.

    Raises:
        ValueError: for a variable that cannot be used.
    """
    global _default
    with _default_lock:
        if _default is None:
            slots = _settings.count("MEMSAFE_MAX_CONCURRENT")
            _default = AdmissionController(max_concurrent=slots or _MAX_CONCURRENT)
        return _default


def replace_default(admission: AdmissionController) -> None:
    """Have this controller, and its guard, used wherever none is given: in a process that is there for one purpose."""
    global _default
    with _default_lock:
        _default = admission
    replace_default_guard(admission.guard)
