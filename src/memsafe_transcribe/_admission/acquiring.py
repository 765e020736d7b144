"""Waiting for a turn: by a task, and by a thread."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf
from types import TracebackType

import anyio
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from .._waking import TaskWaiter
from . import refusals
from .claims import CLOSED, WAITING, Claim
from .keeper import Keeper
from .reservation import Reservation, enter, leave
from .waiting import ThreadWaiter

ALONE_SECONDS = 60.0
_YIELD_EVERY = 64  # of some 10 us each


class Reserving(Reservation):
    """The `async with` of one `reserve`: the reservation itself, once it is entered.

    To enter is always a cancellation checkpoint, and a schedule point if it had to wait; where it need not, every
    sixty-fourth time, so that no loop of short reservations keeps other tasks from running for a millisecond.
    """

    __slots__ = ("_timeout_seconds",)

    _keeper: Keeper

    def __init__(self, keeper: Keeper, claim: Claim, timeout_seconds: float | None) -> None:
        self._keeper = keeper
        self._claim = claim
        self._timeout_seconds = timeout_seconds

    async def __aenter__(self) -> Reservation:
        keeper, claim = self._keeper, self._claim
        if claim.state is not WAITING or claim.is_queued:
            raise RuntimeError("what reserve() returns can be entered once")
        try:
            if keeper.take(claim):
                keeper.entered += 1
                await (checkpoint_if_cancelled() if keeper.entered % _YIELD_EVERY else checkpoint())
            else:
                await self._wait(keeper)
        except BaseException:
            keeper.close(claim)
            raise
        enter(self, claim)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        leave(self._claim)
        self._keeper.close(self._claim)

    async def _wait(self, keeper: Keeper) -> None:
        refusals.refuse_hopeless(keeper, self._claim)
        waiter = TaskWaiter()
        keeper.enqueue(self._claim, waiter)
        with anyio.move_on_after(self._timeout_seconds):
            await checkpoint()
            while (seconds := _look(keeper, self._claim)) is not None:
                await waiter.wait(None if seconds == inf else seconds)
        if self._claim.state is WAITING:
            raise refusals.timed_out(keeper, self._claim, self._timeout_seconds or 0.0)
        if self._claim.state is CLOSED:
            raise RuntimeError("given up for lost: its event loop could not be woken, or was taken along by a fork")


@asynccontextmanager
async def carving(reservation: Reservation, need_bytes: int) -> AsyncIterator[Reservation]:
    """The `async with` of a part of another reservation. It never waits; entering is a checkpoint."""
    await checkpoint()
    with reservation.carve(need_bytes) as part:
        yield part


def acquire_blocking(keeper: Keeper, claim: Claim, timeout_seconds: float | None) -> Reservation:
    """Wait for a turn in a thread.

    Raises:
        AdmissionError: as `AdmissionController.reserve` does.
    """
    give_up = inf if timeout_seconds is None else time.monotonic() + timeout_seconds
    try:
        if not keeper.take(claim):
            refusals.refuse_hopeless(keeper, claim)
            waiter = ThreadWaiter()
            keeper.enqueue(claim, waiter)
            while (seconds := _look(keeper, claim)) is not None:
                seconds = min(seconds, give_up - time.monotonic())
                if seconds <= 0:
                    raise refusals.timed_out(keeper, claim, timeout_seconds or 0.0)
                waiter.wait(None if seconds == inf else seconds)
    except BaseException:
        keeper.close(claim)
        raise
    return Reservation(keeper, claim)


def _look(keeper: Keeper, claim: Claim) -> float | None:
    """How long to sleep until the next look; None once granted."""
    seconds = keeper.look(claim)
    if seconds is not None and keeper.alone_seconds(claim) >= ALONE_SECONDS:
        raise refusals.timed_out(keeper, claim, ALONE_SECONDS, "while nothing ran that could make room")
    return seconds
