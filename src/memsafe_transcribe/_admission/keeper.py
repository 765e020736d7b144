"""The keeper of one ledger: does under a lock what the pure ledger decides, and wakes whom it concerns."""

import os
import threading
import time
import weakref
from collections import deque
from contextlib import suppress
from math import inf

from .._memory.guard import POLL_SECONDS, MemoryGuard
from .._memory.pressure import MemoryRoom
from .claims import CLOSED, GRANTED, NOBODY, WAITING, Claim, Others
from .draining import draining_error
from .estimates import Estimates
from .ledger import Ledger
from .queueing import averaged
from .scope import ProcessScope
from .waiting import Waiter

BUSY_TRIES = 5  # of what must not wait, while another process has the ledger locked for a moment


class Keeper:
    """All methods are safe from any thread. None waits, but for 2 ms at most while another process has the ledger
    locked. Each is a turn: look, decide, write, wake.
    """

    def __init__(self, guard: MemoryGuard, max_concurrent: int, max_waiting: int, scope: ProcessScope) -> None:
        self.guard = guard
        self.max_waiting = max_waiting
        self.scope = scope
        self.ledger = Ledger(max_concurrent)
        self.estimates = Estimates()
        self.others = NOBODY
        self.granted = self.rejected = self.orphaned = 0
        self.entered = 0  # by tasks that did not have to wait
        self.is_draining = False
        self._lock = threading.RLock()
        # Whether this very thread is in the middle of a turn: the garbage collector ran there, and left a `with`.
        self._is_in_turn = self._lock._is_owned  # type: ignore[attr-defined]  # noqa: SLF001
        self._waiters: dict[Claim, Waiter] = {}
        self._head: Claim | None = None
        self._poll_seconds = scope.first_poll_seconds
        self._alone_since: float | None = None
        self._dropped: deque[Claim] = deque()
        _keepers.add(self)

    # -- taking

    def take(self, claim: Claim, *, tries: int = 1) -> bool:
        """Grant a new claim on the spot, if nobody waits who could go; whether it was granted.

        Raises:
            DrainingError: nothing is let in any more.
        """
        if self.is_draining:
            raise draining_error(claim.need_bytes, self.ledger.waiting)
        with self._lock:
            if self._dropped:
                self._collect()
            ledger, scope = self.ledger, self.scope
            if (others := scope.begin(ledger, tries)) is None:
                return False
            try:
                room = self.guard.room(exact=False)
                taken = ledger.take(claim, room if scope.divisor == 1 else room.part(scope.divisor), others) or (
                    ledger.is_open(claim, others) and ledger.take(claim, self.room(), others)
                )
                if taken:
                    self.granted += 1
                    claim.granted_at = time.monotonic()
            finally:
                scope.commit(ledger, others)
            return taken

    def enqueue(self, claim: Claim, waiter: Waiter) -> None:
        """Let a new claim wait for its turn."""
        with self._lock:
            claim.enqueued_at = time.monotonic()
            self.ledger.enqueue(claim, claim.enqueued_at)
            self._waiters[claim] = waiter
            self._pump()

    def look(self, claim: Claim) -> float | None:
        """Grant what fits by now, and say how long `claim` may sleep until it looks again; None once it is granted.

        Only the first of all that wait looks by itself, since nobody tells when other programs free memory; the rest
        is woken when its time comes, and may sleep for ever (inf).
        """
        with self._lock:
            if claim is self._head:
                self._pump()
            if claim.state is not WAITING:
                return None
            if self.is_draining:
                raise draining_error(claim.need_bytes, self.ledger.waiting)
            if claim is not self._head:
                return inf
            self._poll_seconds = min(POLL_SECONDS, self._poll_seconds * 1.5)
            return self._poll_seconds

    def drain(self) -> None:
        """Let nothing in any more, and send away whoever waits."""
        with self._lock:
            self.is_draining = True
            for waiter in self._waiters.values():
                waiter.wake()

    def alone_seconds(self, claim: Claim) -> float:
        """How long `claim` has waited, and is the first now, while nothing ran that could make room by ending."""
        with self._lock:
            if claim is not self._head or self._alone_since is None:
                return 0.0
            return time.monotonic() - max(self._alone_since, claim.enqueued_at)

    def room(self, *, exact: bool = True) -> MemoryRoom:
        """What memory has left, before promises; this process's share of it, where there is no common ledger."""
        room = self.guard.room(exact=exact)
        return room if self.scope.divisor == 1 else room.part(self.scope.divisor)

    def corrected(self, kind: str, need_bytes: int) -> int:
        """What work of this kind needs by all that was seen of it; never so much more that it could not fit."""
        largest = max(need_bytes, self.room(exact=False).largest_need_bytes)
        with self._lock:
            return min(self.estimates.corrected(kind, need_bytes), largest)

    # -- holding

    def carve(self, claim: Claim, need_bytes: int) -> Claim | None:
        """See `Ledger.carve`."""
        with self._lock:
            if self._dropped:
                self._collect()
            return self.ledger.carve(claim, need_bytes)

    def grow(self, claim: Claim, more_bytes: int) -> bool:
        """See `Ledger.grow`."""
        with self._lock:
            if self._dropped:
                self._collect()
            if (others := self.scope.begin(self.ledger, BUSY_TRIES)) is None:
                return False
            try:
                return self.ledger.grow(claim, more_bytes, self.room(), others)
            finally:
                self.scope.commit(self.ledger, others)

    def shrink(self, claim: Claim, fewer_bytes: int) -> bool:
        """See `Ledger.shrink`."""
        with self._lock:
            shrunk = self.ledger.shrink(claim, fewer_bytes)
            self._less_is_held()
            return shrunk

    def mark_used(self, claim: Claim, used_bytes: int) -> None:
        """See `Ledger.mark_used`."""
        with self._lock:
            before = self.ledger.unused_bytes
            self.ledger.mark_used(claim, used_bytes)
            if self.ledger.unused_bytes < before:
                self._less_is_held()
            elif self.ledger.unused_bytes > before:
                self.scope.publish(self.ledger)

    def close(self, claim: Claim) -> None:
        """Give back what a claim holds, or its place in the queue. Never fails."""
        if self._is_in_turn():
            claim.is_leaving = True
            self._dropped.append(claim)
            return
        with self._lock:
            self._close(claim)
            if self._dropped or self._waiters:
                self._less_is_held()
            else:  # the everyday case
                self.scope.publish(self.ledger)

    def drop(self, claim: Claim) -> None:
        """Note that nobody has the claim's handle any more; it is taken back at the next turn. Takes no lock."""
        self._dropped.append(claim)

    # -- the rest

    def set_lane(self, name: str, limit: int) -> None:
        """Declare a lane or change its limit."""
        with self._lock:
            self.ledger.set_lane(name, limit)
            self.scope.know_lane(name)
            self._less_is_held()

    def turn(self) -> None:
        """Take back what was dropped, and see what others hold; join them, if that was not done yet."""
        if self._is_in_turn():  # a log handler asks for statistics
            return
        with self._lock:
            if self._dropped:
                self._less_is_held()
            if (others := self.scope.begin(self.ledger)) is not None:
                self.scope.commit(self.ledger, others)
                self.others = others

    def _close(self, claim: Claim) -> None:
        if claim.state is GRANTED:
            if claim.takes_slot:
                held_seconds = time.monotonic() - claim.granted_at
                self.ledger.hold_seconds = averaged(self.ledger.hold_seconds, held_seconds)
            if claim.kind is not None and claim.peak_bytes:
                self.estimates.observe(claim.kind, claim.asked_bytes, claim.peak_bytes)
        elif claim.state is WAITING:
            self._waiters.pop(claim, None)
        self.ledger.close(claim)

    def _less_is_held(self) -> None:
        """Tell the other members, and hand over what came free. That somebody gives back must never fail."""
        if self._dropped:
            self._collect()
        self.scope.publish(self.ledger)
        if self._waiters:
            with suppress(Exception):  # if memory cannot be read now, the head will find out
                self._pump()

    def _collect(self) -> None:
        while self._dropped:
            claim = self._dropped.popleft()
            self.orphaned += claim.is_held and not claim.is_leaving
            self._close(claim)

    def _pump(self) -> None:
        """Grant as many as fit now, and wake them; wake a new head too, so that it begins to look."""
        self._grant_and_wake()
        while self._dropped:  # by loops that have ended, or meanwhile by the garbage collector
            self._grant_and_wake()

    def _grant_and_wake(self) -> None:
        self._collect()
        if self.is_draining:
            return
        woken: list[Claim] = []
        waiters: list[Waiter] = []
        ledger, scope = self.ledger, self.scope
        try:
            while (others := scope.begin(ledger)) is not None:
                try:
                    claim = self._next(others)
                finally:
                    scope.commit(ledger, others)
                self._see(others)
                if claim is None:
                    break
                woken.append(claim)
                waiters.append(self._waiters.pop(claim))
        finally:  # also when memory cannot be read: what is granted by then is granted, and somebody has to look
            if (head := self._renew_head()) is not None:
                woken.append(head)
                waiters.append(self._waiters[head])
            # Under the lock, so that none of them can have closed and left its loop by now.
            self._dropped += [claim for claim, waiter in zip(woken, waiters, strict=True) if not waiter.wake()]

    def _next(self, others: Others) -> Claim | None:
        """Grant the next one, by the cheaper reading if that is enough."""
        if not self.ledger.has_candidate(others):
            return None
        claim = self.ledger.grant_next(self.room(exact=False), others, may_pass=False)
        if claim is None:
            claim = self.ledger.grant_next(self.room(), others, now_seconds=time.monotonic())
        if claim is not None:
            self.granted += 1
            claim.granted_at = time.monotonic()
        return claim

    def _see(self, others: Others) -> None:
        """While others come and go, look often: the more so, the fewer of them are to have their turns before."""
        if others != self.others and self._head is not None:
            before = sum(head.order_seconds < self._head.order_seconds for head in others.heads)
            self._poll_seconds = min(POLL_SECONDS, self.scope.first_poll_seconds * (1 + before))
        self.others = others

    def _renew_head(self) -> Claim | None:
        """Look who is the first now; who it is if that has changed."""
        head = self.ledger.head() if self.ledger.waiting else None
        if is_new := head is not self._head:
            self._head = head
            self._poll_seconds = self.scope.first_poll_seconds
        if head is None:
            self._alone_since = None
        else:
            if self.ledger.slots_taken + self.others.slots_taken:
                self._alone_since = None
            elif self._alone_since is None:
                self._alone_since = time.monotonic()
        return head if is_new else None

    def _after_fork(self) -> None:
        """In a forked child: all that is held and waited for is the parent's."""
        for claim in (*self.ledger.granted, *self._waiters, *self._dropped):
            claim.state = CLOSED
        lanes = self.ledger.lanes
        self.ledger = Ledger(self.ledger.max_concurrent)
        for name, lane in lanes.items():
            self.ledger.set_lane(name, lane.limit)
        self._lock = threading.RLock()
        self._is_in_turn = self._lock._is_owned  # type: ignore[attr-defined]  # noqa: SLF001
        self._waiters, self._head, self._alone_since = {}, None, None
        self._dropped.clear()
        self.is_draining = False
        self.scope.forget()


_keepers: "weakref.WeakSet[Keeper]" = weakref.WeakSet()


def _forget_in_child() -> None:
    for keeper in list(_keepers):
        keeper._after_fork()  # noqa: SLF001


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
