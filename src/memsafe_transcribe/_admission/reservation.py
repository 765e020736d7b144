"""Reservation: the handle of what was granted; and which reservations a task holds or stands within."""

import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from types import TracebackType
from typing import Protocol
from weakref import ref

from .._errors import NestedReservationError
from .._units import format_size
from .claims import GRANTED, WAITING, Claim


class Keeper(Protocol):
    """What a reservation asks of the controller that gave it. All of it is safe from any thread."""

    def carve(self, claim: Claim, need_bytes: int) -> Claim | None: ...
    def grow(self, claim: Claim, more_bytes: int) -> bool: ...
    def shrink(self, claim: Claim, fewer_bytes: int) -> bool: ...
    def mark_used(self, claim: Claim, used_bytes: int) -> None: ...
    def close(self, claim: Claim) -> None: ...
    def drop(self, claim: Claim) -> None: ...


class Reservation:
    """Bytes, and perhaps a slot, until it is released: by the end of its `with`, or by `release()`.

    Whoever has the handle owns it: any task and any thread may use and release it. One that is dropped without being
    released says so in a `ResourceWarning`, and what it held is taken back. In a forked child it holds nothing.
    """

    __slots__ = ("__weakref__", "_claim", "_keeper")

    def __init__(self, keeper: Keeper, claim: Claim) -> None:
        self._keeper = keeper
        self._claim = claim

    @property
    def need_bytes(self) -> int:
        """The bytes that are promised."""
        return self._claim.need_bytes

    @property
    def left_bytes(self) -> int:
        """What of them is not carved out."""
        return self._claim.left_bytes

    def carve(self, need_bytes: int) -> "Reservation":
        """`with` this: a part of these bytes for a child, on the same slot. Never waits.

        Raises:
            NestedReservationError: not that much is left, or the reservation is released.
        """
        part = self._keeper.carve(self._claim, not_negative("need_bytes", need_bytes))
        if part is None:
            raise NestedReservationError(
                f"{format_size(need_bytes)} cannot be carved out of a reservation of {format_size(self.need_bytes)} "
                f"with {format_size(self.left_bytes)} left"
                + ("" if self._claim.is_held else ", which is released")
                + "; reserve more (need_bytes), or try_grow first",
                need_bytes=need_bytes,
                held_bytes=self.need_bytes,
                left_bytes=self.left_bytes,
            )
        return Reservation(self._keeper, part)

    def try_grow(self, more_bytes: int) -> bool:
        """Ask for more without waiting: up to the ceiling, or for a part, what its parent has left."""
        return self._keeper.grow(self._claim, not_negative("more_bytes", more_bytes))

    def shrink(self, fewer_bytes: int) -> None:
        """Give some of the bytes back.

        Raises:
            ValueError: that much is not left.
        """
        if not self._keeper.shrink(self._claim, not_negative("fewer_bytes", fewer_bytes)):
            raise ValueError(f"fewer_bytes={fewer_bytes} is more than the {self.left_bytes} that are left")

    def mark_used(self, used_bytes: int) -> None:
        """Say how much of the promise is resident by now, so that it is not counted a second time.

        What its parts are used for, they say themselves. The highest figure is what estimates learn from.
        """
        self._keeper.mark_used(self._claim, not_negative("used_bytes", used_bytes))

    def release(self) -> None:
        """Give everything back, and wake whoever fits now. Doing it twice does nothing."""
        self._keeper.close(self._claim)

    def __enter__(self) -> "Reservation":
        if not self._claim.is_held:
            raise RuntimeError(f"{self!r} holds nothing; what reserve() returns is to be entered by `async with`")
        enter(self, self._claim)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        leave(self._claim)
        self.release()

    def __del__(self) -> None:
        claim = self._claim
        if claim.state is GRANTED and claim.is_held and not claim.is_leaving:
            # A finalizer may run while any lock is held: it leaves a note, and takes none.
            self._keeper.drop(claim)
            warnings.warn(f"{self!r} was dropped without being released", ResourceWarning, source=self, stacklevel=1)

    def __repr__(self) -> str:
        state = "" if self._claim.is_held else ", not granted yet" if self._claim.state is WAITING else ", released"
        return f"<Reservation of {format_size(self.need_bytes)}{state}>"


def not_negative(name: str, size_bytes: int) -> int:
    """The size, or a ValueError or TypeError that names it."""
    if not isinstance(size_bytes, int):
        raise TypeError(f"{name} must be a whole number of bytes, got {size_bytes!r}")
    if size_bytes < 0:
        raise ValueError(f"{name} must not be negative, got {size_bytes}")
    return size_bytes


# What the running task has entered, or inherited from the task that started it.
_entered: ContextVar[tuple[Claim, ...]] = ContextVar("memsafe_transcribe_entered", default=())


def enter(reservation: Reservation, claim: Claim) -> None:
    """Note that the running task or thread holds this from now on."""
    # Weakly: an abandoned task is to be collected, which drops what it holds.
    claim.handle = ref(reservation)
    around = _entered.get()
    # What was left in another task meanwhile must not pile up here.
    claim.token = _entered.set((*(each for each in around if each.is_held), claim) if around else (claim,))


def leave(claim: Claim) -> None:
    """Note that it does no longer. In another task than the one that entered it there is nothing to note."""
    claim.token = None
    entered = _entered.get()
    if entered and entered[-1] is claim:
        _entered.set(entered[:-1])
    elif claim in entered:
        _entered.set(tuple(each for each in entered if each.is_held and each is not claim))


def entered_around() -> Iterator[tuple[Claim, bool]]:
    """The claims that are held by the code that runs here, or around it, innermost first.

    With each, whether the running task or thread itself holds it, and did not merely inherit the context.
    """
    for claim in reversed(_entered.get()):
        if claim.is_held:
            yield claim, _is_own(claim)


def _is_own(claim: Claim) -> bool:
    """Whether it was entered in this very context: every task and thread has one of its own.

    A token tells by where it can be reset, once; so it is renewed.
    """
    if claim.token is None:
        return False
    entered = _entered.get()
    try:
        _entered.reset(claim.token)
    except ValueError:  # it was made in another context
        return False
    claim.token = _entered.set(entered)
    return True
