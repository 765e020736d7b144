"""Why a reservation is refused, said with the figures and the settings."""

import time

from .._errors import (
    AdmissionRejectedError,
    AdmissionTimeoutError,
    MemoryPressureError,
    NestedReservationError,
    ReservationTooLargeError,
)
from .._memory.reading import process_state
from .._units import format_size
from .claims import Claim
from .keeper import Keeper
from .queueing import retry_after_seconds
from .reservation import entered_around


def refuse_hopeless(keeper: Keeper, claim: Claim) -> None:
    """Raise where waiting could not help, or too many wait already.

    Raises:
        ReservationTooLargeError, NestedReservationError, AdmissionRejectedError: which of these it is.
    """
    refuse_too_large(keeper, claim)
    refuse_nested(keeper, claim)
    if keeper.ledger.waiting >= keeper.max_waiting:
        raise rejected(keeper, claim, f"{keeper.max_waiting} wait already (max_waiting)")


def refuse_too_large(keeper: Keeper, claim: Claim) -> None:
    """Raise if the claim could not fit even alone.

    Raises:
        ReservationTooLargeError: with the limit that is too low.
    """
    room = keeper.room(exact=False)
    if claim.need_bytes <= room.largest_need_bytes:
        return
    keeper.rejected += 1
    limit = room.largest_need_limit
    raise ReservationTooLargeError(
        f"{format_size(claim.need_bytes)} can never fit: at most {format_size(room.largest_need_bytes)} of "
        f"{format_size(limit.limit_bytes)} may be used ({limit.binding}, {limit.source}); raise that limit or "
        "ceiling_percent" + ("" if keeper.scope.divisor == 1 else f"; {keeper.scope.describe()}"),
        need_bytes=claim.need_bytes,
        limit_bytes=limit.limit_bytes,
        ceiling_bytes=room.largest_need_bytes,
    )


def refuse_nested(keeper: Keeper, claim: Claim) -> None:
    """Raise if the claim would wait for what the waiting task itself holds, or stands within.

    A task that holds a slot must not wait in the queue that it holds from. One that merely runs within such a task may,
    unless it could not be granted even if everybody but those around it had released.

    Raises:
        NestedReservationError: with what is held.
    """
    around: dict[Claim, bool] = {}  # who holds a part stands on its root's slot
    for held, is_own in entered_around():
        if held.root in keeper.ledger.granted:
            around[held.root] = is_own or around.get(held.root, False)
    if not around:
        return
    held_bytes = sum(held.need_bytes for held in around)
    slots = sum(held.takes_slot for held in around)
    lane = keeper.ledger.lanes.get(claim.lane) if claim.lane is not None and claim.takes_slot else None
    room = keeper.room(exact=False)
    if any(is_own and held.takes_slot for held, is_own in around.items()):
        why = "this task holds a reservation, and would wait in the queue that it holds from"
    elif claim.takes_slot and slots >= keeper.ledger.max_concurrent:
        why = f"all {slots} slots (max_concurrent) are held around this task"
    elif lane is not None and sum(held.lane == claim.lane and held.takes_slot for held in around) >= lane.limit:
        why = f"all {lane.limit} slots of lane {claim.lane!r} are held around this task"
    elif claim.need_bytes + held_bytes > (room.largest_new_work_bytes if slots else room.largest_need_bytes):
        why = "with what is held around this task it could never fit"
    else:
        return
    keeper.rejected += 1
    raise NestedReservationError(
        f"{format_size(claim.need_bytes)} refused: {why}, so it could wait for ever. {format_size(held_bytes)} are "
        "held: carve out of them (`with reservation.carve(n)`, or reserve(n, reservation=...)), or reserve before",
        need_bytes=claim.need_bytes,
        held_bytes=held_bytes,
        left_bytes=sum(held.left_bytes for held in around),
    )


def rejected(keeper: Keeper, claim: Claim, why: str | None = None) -> AdmissionRejectedError:
    """It does not fit now and must not, or may not, wait."""
    keeper.rejected += 1
    retry = retry_after_seconds(keeper.ledger, keeper.others, time.monotonic())
    return AdmissionRejectedError(
        f"no room for {format_size(claim.need_bytes)} now: {why or _in_the_way(keeper, claim)}; "
        f"retry in about {retry} s",
        need_bytes=claim.need_bytes,
        waiting=keeper.ledger.waiting,
        retry_after_seconds=retry,
    )


def timed_out(
    keeper: Keeper, claim: Claim, timeout_seconds: float, why: str = "(timeout_seconds)"
) -> AdmissionTimeoutError:
    """It did not get its turn."""
    keeper.rejected += 1
    return AdmissionTimeoutError(
        f"no turn for {format_size(claim.need_bytes)} within {timeout_seconds:g} s {why}: {_in_the_way(keeper, claim)}",
        need_bytes=claim.need_bytes,
        timeout_seconds=timeout_seconds,
    )


def _in_the_way(keeper: Keeper, claim: Claim) -> str:
    """What keeps the claim out: slots, memory, and stopped processes that hold some."""
    ledger, others = keeper.ledger, keeper.others
    taken = ledger.slots_taken + others.slots_taken
    unused = ledger.unused_bytes + others.unused_bytes
    if keeper.scope.is_locked:
        return "the ledger is locked by another process" + _stopped(keeper)
    why = f"{taken} of {ledger.max_concurrent} slots (max_concurrent) are taken, {ledger.waiting} waiting"
    why += _stopped(keeper)
    try:
        keeper.guard.check(claim.need_bytes + unused, admitted=taken == 0)
    except OSError as error:
        why += f"; memory cannot be read: {error}"
    except MemoryPressureError as error:
        why += f"; {format_size(unused)} are promised already, and with them {error}"
    return why


def _stopped(keeper: Keeper) -> str:
    stopped = keeper.scope.stopped(process_state)
    return f"; process {', '.join(map(str, stopped))} holds some and is stopped" if stopped else ""
