"""How far one controller's limits reach: this process, or all processes of the container."""

import logging
import time
from collections.abc import Callable

from .. import _settings
from .._memory.guard import POLL_SECONDS
from .claims import NOBODY, Others
from .finding import default_folder
from .ledger import Ledger
from .shared import LedgerBusyError, LedgerUnavailableError, SharedLedger
from .table import Member

logger = logging.getLogger("memsafe_transcribe")

FIRST_POLL_SECONDS = 0.001
_BUSY_SECONDS = 0.0005  # a turn takes a tenth of that
_RETRY_SECONDS = 10.0  # where there was no common ledger, look again


class ProcessScope:
    """Nobody else counts."""

    first_poll_seconds = POLL_SECONDS
    divisor = 1
    is_locked = False  # by another member, at the last turn

    def begin(self, ledger: Ledger, tries: int = 1) -> Others | None:
        """Begin a turn: what others hold, or None if it cannot be had just now, try as often as one may."""
        return NOBODY

    def commit(self, ledger: Ledger, others: Others) -> None:
        """End the turn."""

    def publish(self, ledger: Ledger) -> None:
        """Let others know that less is held."""

    def know_lane(self, name: str) -> None:
        """There is a lane of this name."""

    def stopped(self, state_of: Callable[[int], str | None]) -> tuple[int, ...]:
        """Processes that hold slots and are stopped."""
        return ()

    def describe(self) -> str:
        """For people: how far this reaches, and what is wrong with it."""
        return "this process alone"

    def forget(self) -> None:
        """In a forked child: what the parent had is the parent's."""

    def leave(self) -> None:
        """Give back what was taken to take part."""


class ContainerScope(ProcessScope):
    """The container's ledger, joined at the first turn. Where there can be none, each process takes its share."""

    first_poll_seconds = FIRST_POLL_SECONDS

    def __init__(self, max_concurrent: int) -> None:
        self._max_concurrent = max_concurrent
        self._lanes: set[str] = set()
        self._shared: SharedLedger | None = None
        self._problem: str | None = None
        self._retry_at = 0.0
        self._present: tuple[Member, ...] = ()  # who was there when it could not be joined

    def begin(self, ledger: Ledger, tries: int = 1) -> Others | None:
        """Begin a turn; it locks the ledger."""
        while (others := self._begin(ledger)) is None and tries > 1:
            tries -= 1
            time.sleep(_BUSY_SECONDS)
        return others

    def _begin(self, ledger: Ledger) -> Others | None:
        if self._shared is None and time.monotonic() >= self._retry_at:
            self._join(ledger)
        if self._shared is None:
            return NOBODY if self._problem is not None else None
        try:
            others = self._shared.begin(ledger)
        except OSError as error:
            self._lose(error)
            return None
        self.is_locked = others is None
        return others

    def commit(self, ledger: Ledger, others: Others) -> None:
        """End the turn; it unlocks the ledger."""
        if self._shared is not None:
            try:
                self._shared.commit(ledger, others)
            except OSError as error:
                self._lose(error)

    def _lose(self, error: OSError) -> None:
        logger.warning("joining the container's ledger anew: %s", error.strerror)
        self.forget()  # without a word in that file, which may be somebody else's by now

    def publish(self, ledger: Ledger) -> None:
        """Let others know that less is held: anew, where it cannot be said, for they may be waiting for it."""
        if self._shared is not None:
            try:
                self._shared.publish(ledger)
            except OSError as error:
                self._lose(error)
                if (others := self._begin(ledger)) is not None:
                    self.commit(ledger, others)

    def know_lane(self, name: str) -> None:
        """There is a lane of this name."""
        self._lanes.add(name)
        if self._shared is not None:
            self._shared.know_lane(name)

    def stopped(self, state_of: Callable[[int], str | None]) -> tuple[int, ...]:
        """Processes that hold slots, or may hold the ledger's lock, and are stopped."""
        members = self._shared.present() if self._shared is not None else self._present
        in_the_way = {member.pid for member in members if member.slots_taken or self.is_locked}
        return tuple(pid for pid in sorted(in_the_way) if state_of(pid) in ("T", "t"))

    def describe(self) -> str:
        """For people: how far this reaches, and what is wrong with it."""
        if self._problem is not None:
            return self._problem
        if self._shared is None:
            return "not joined yet"
        return f"{self._shared.folder}, shared with {len(self._shared.members)} others"

    def forget(self) -> None:
        """In a forked child, and where the ledger cannot be used any more: join anew at the next turn."""
        shared, self._shared = self._shared, None
        if shared is not None:
            shared.close()

    def leave(self) -> None:
        """Give the seat back."""
        shared, self._shared = self._shared, None
        if shared is not None:
            shared.leave()

    def _join(self, ledger: Ledger) -> None:
        try:
            folder = default_folder()
            self._shared = SharedLedger(folder, self._max_concurrent)
        except LedgerBusyError as error:
            self.is_locked, self._present = True, error.members
            return
        except LedgerUnavailableError as error:
            self._divide(ledger, error)
            return
        except OSError as error:  # it cannot be found out where it is
            self._divide(ledger, LedgerUnavailableError(str(error)))
            return
        self.divisor, self._problem, self.is_locked = 1, None, False
        for name in self._lanes:
            self._shared.know_lane(name)
        ledger.max_concurrent = self._shared.max_concurrent
        if self._shared.max_concurrent != self._max_concurrent:
            logger.warning(
                "max_concurrent=%d is not used: the processes that came first to %s set it to %d",
                self._max_concurrent,
                folder,
                self._shared.max_concurrent,
            )

    def _divide(self, ledger: Ledger, error: LedgerUnavailableError) -> None:
        workers, setting = _workers()
        if error.members >= workers:
            workers, setting = error.members + 1, "as many as there are"
        self.divisor = workers
        ledger.max_concurrent = max(1, self._max_concurrent // workers)
        self._retry_at = time.monotonic() + _RETRY_SECONDS
        was_known = self._problem is not None
        self._problem = f"no common ledger ({error}); this process takes 1/{workers} of memory and slots ({setting})"
        if not was_known:
            logger.warning("%s", self._problem)


def _workers() -> tuple[int, str]:
    """How many processes share the container, as the host says, and where it says so."""
    for name in ("MEMSAFE_WORKERS", "WEB_CONCURRENCY"):
        if workers := _settings.count(name):
            return workers, f"{name}={workers}"
    return 1, "MEMSAFE_WORKERS is not set"
