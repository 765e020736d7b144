"""The ledger of all processes in one container: a small file that they all keep open, and no server.

Who grants itself something holds the file's lock meanwhile; to give back takes no lock. Each member has a seat in the
file and holds, for as long as it lives, a lock on a byte that stands for that seat: the kernel drops it however the
process ends, so whoever finds a seat without its lock takes back what was held there. All locks are those of open file
descriptions: unlike POSIX locks they do not vanish when some other descriptor of the file is closed.

The file's name serves for finding it only. If a cleaner of temporary folders removes it, newcomers find the file
through the descriptors of those who still have it open.
"""

import errno
import os
import struct
import time
from contextlib import suppress
from pathlib import Path

from .._memory.kept import identified, leads_to
from . import finding, table
from .claims import Claim, Others
from .ledger import Ledger

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CHECK_SECONDS = 0.25  # how often a member looks for seats whose owner has died
_MUTEX_AT = 1 << 40  # byte ranges beyond the file's end can be locked like any other
_SEATS_AT = _MUTEX_AT + 1
_SPINS = 20
_FLOCK = struct.Struct("hhqqi4x")  # struct flock on 64-bit Linux


class LedgerUnavailableError(Exception):
    """There can be no common ledger here; the text says why. `members` are known to have one nevertheless."""

    def __init__(self, why: str, members: int = 0) -> None:
        super().__init__(why)
        self.members = members


class LedgerBusyError(Exception):
    """Somebody has the ledger locked: try again soon. `members` are those that may have."""

    def __init__(self, members: tuple[table.Member, ...]) -> None:
        super().__init__("the ledger is locked")
        self.members = members


class SharedLedger:
    """One member's view of the container's ledger.

    Raises:
        LedgerUnavailableError: when it is made, if there can be none.
        LedgerBusyError: when it is made, if it is locked just now.
    """

    def __init__(self, folder: Path, max_concurrent: int) -> None:
        if not hasattr(fcntl, "F_OFD_SETLK") or struct.calcsize("P") != 8:
            raise LedgerUnavailableError("it takes Linux's locks on open file descriptions")
        self.folder = folder
        self.max_concurrent = max_concurrent
        self.members: tuple[table.Member, ...] = ()
        self._pid = os.getpid()
        self._fd = -1
        self._file: tuple[int, int] | None = None
        self._seat: int | None = None
        self._seats = 0
        self._checked_at = -CHECK_SECONDS
        self._lane_names: dict[int, str] = {}
        self._passes: tuple[int, ...] = ()
        self._own_passes = 0
        self._submitted: Claim | None = None
        self._may_be_locked = False
        try:
            while not self._join():
                time.sleep(0)
        except finding.FolderRefusedError as error:
            raise LedgerUnavailableError(str(error)) from error
        except OSError as error:
            self._close()
            raise LedgerUnavailableError(f"{folder}: {error.strerror}") from error
        except BaseException:
            self._close()
            raise

    # -- a turn: lock, look, decide, write, unlock

    def begin(self, ledger: Ledger) -> Others | None:
        """Lock the file and see what the other members hold; None while another member has it locked.

        Raises:
            OSError: the file can no longer be used; this member has to join anew.
        """
        if not self._is_open():
            raise OSError(errno.EBADF, "the ledger's descriptor was closed by somebody else")
        try:
            if not self._lock():
                return None
            others = self._look()
            self._passes = tuple(head.passes for head in others.heads)
            if self._submitted is not None:  # though another one may be the first by now
                self._submitted.passes = max(self._submitted.passes, self._own_passes)
            return others
        except BaseException:  # a signal handler may raise anywhere
            self._unlock()
            raise

    def commit(self, ledger: Ledger, others: Others) -> None:
        """Write what this member holds and waits for, and whom it passed; unlock."""
        assert self._seat is not None
        try:
            for head, before in zip(others.heads, self._passes, strict=True):
                if head.passes != before:
                    os.pwrite(self._fd, table.pack_passes(head.passes), table.passes_at(head.member))
            record = table.pack_front(self._pid, time.monotonic_ns()) + self._held(ledger)
            os.pwrite(self._fd, record + self._head(ledger, others), table.record_at(self._seat))
        finally:
            self._unlock()

    def _head(self, ledger: Ledger, others: Others) -> bytes:
        head = ledger.head(others) if ledger.waiting else None
        self._submitted = head
        if head is None:
            return table.NO_HEAD
        if head.lane is None:
            return table.pack_head(head, 0, 0)
        return table.pack_head(head, table.lane_digest(head.lane), ledger.lanes[head.lane].limit)

    def publish(self, ledger: Ledger) -> None:
        """Write what this member holds, without the lock: for what has become less, or is used no more."""
        if self._is_open():
            os.pwrite(self._fd, self._held(ledger) + (b"" if ledger.waiting else table.NO_HEAD), self._held_at)
            if self._may_be_locked:  # a turn that a signal handler broke off just before its end
                self._unlock()

    def _held(self, ledger: Ledger) -> bytes:
        lanes = {table.lane_digest(name): lane.taken for name, lane in ledger.lanes.items() if lane.taken}
        return table.pack_held(
            ledger.slots_taken, ledger.reserved_bytes, ledger.unused_bytes, ledger.waiting, ledger.hold_seconds, lanes
        )

    def know_lane(self, name: str) -> None:
        self._lane_names[table.lane_digest(name)] = name

    def _look(self) -> Others:
        now = time.monotonic()
        if now - self._checked_at >= CHECK_SECONDS:
            self._checked_at = now
            self._clear_the_dead()
        seen = table.read(self._read(), self._seat, self._lane_names, time.monotonic_ns())
        self.members, self.max_concurrent, self._own_passes = seen.members, seen.max_concurrent, seen.own_passes
        return seen.others

    def present(self) -> tuple[table.Member, ...]:
        """All other members, read without the lock."""
        try:
            return table.read(self._read(), self._seat, {}, 0).members
        except OSError:
            return ()

    def _read(self) -> bytes:
        while True:
            data = os.pread(self._fd, table.record_at(self._seats), 0)
            seats = table.seats_in_use(data)
            is_seated = self._seat is None or self._seat < seats
            if seats < 0 or len(data) < table.record_at(self._seats) or not is_seated:
                raise OSError(errno.EBADMSG, f"the file {finding.NAME} is damaged")
            if seats <= self._seats:
                return data
            self._seats = seats

    def _clear_the_dead(self) -> None:
        """Free the seats of members that live no more, and so all that they held."""
        for member in table.read(self._read(), self._seat, {}, 0).members:
            if not _is_leased(self._fd, member.seat):
                os.pwrite(self._fd, bytes(table.RECORD_BYTES), table.record_at(member.seat))

    # -- coming and going

    def _join(self) -> bool:
        """Open the ledger and take a seat. False to begin anew: the file has ceased to be the one."""
        self._opened(finding.open_named(self.folder))
        self._lock_or_leave()
        if not os.pread(self._fd, table.HEADER_BYTES, 0).strip(b"\0"):  # new, or its maker was killed before it wrote
            if (lost := _find_lost(self.folder)) is not None:
                self._close()
                self._opened(lost)
                self._lock_or_leave()
            else:
                os.posix_fallocate(self._fd, 0, table.FILE_BYTES)  # so that no later write can fail for want of space
                os.pwrite(self._fd, table.pack_header(self.max_concurrent, 0), 0)
        self._seats = 0
        self._take_seat()
        self._clear_the_dead()
        # From here on we are found by whoever looks for a lost ledger, so that nobody can begin another one.
        if not table.read(self._read(), self._seat, {}, 0).members:
            if os.fstat(self._fd).st_nlink == 0:
                self._close()
                return False
            os.pwrite(self._fd, table.pack_header(self.max_concurrent, self._seats), 0)
        self.max_concurrent = table.max_concurrent(self._read())
        self._unlock()
        return True

    def _take_seat(self) -> None:
        data = self._read()
        for seat in range(table.SEATS):
            if self._set_lock(fcntl.F_WRLCK, _SEATS_AT + seat):
                break
        else:
            raise LedgerUnavailableError(f"{self.folder} has no more than {table.SEATS} seats", table.SEATS)
        self._seat, self._held_at = seat, table.held_at(seat)
        os.pwrite(self._fd, table.pack_front(self._pid, 0).ljust(table.RECORD_BYTES, b"\0"), table.record_at(seat))
        if seat >= self._seats:
            self._seats = seat + 1
            os.pwrite(self._fd, table.pack_header(table.max_concurrent(data), self._seats), 0)

    def leave(self) -> None:
        """Give the seat back; the last one takes the file away. In a forked child it does nothing but close."""
        try:
            if os.getpid() == self._pid and self._seat is not None and self._is_open():
                os.pwrite(self._fd, bytes(table.RECORD_BYTES), table.record_at(self._seat))
                if self._lock():
                    self._clear_the_dead()
                    if not table.read(self._read(), self._seat, {}, 0).members:
                        finding.remove(self.folder, self._fd)
        except OSError:  # a leftover file that nobody holds is taken over or away by the next one
            pass
        finally:
            self._close()

    def close(self) -> None:
        """In a forked child: the seat is the parent's, and stays."""
        self._close()

    def _close(self) -> None:
        is_open, fd = self._is_open(), self._fd
        self._fd, self._seat = -1, None
        if is_open:
            with suppress(OSError):  # it is closed all the same, and a finalizer has nobody to tell
                os.close(fd)

    def _opened(self, fd: int) -> None:
        self._fd, self._file = identified(fd)

    def _is_open(self) -> bool:
        """Whether the descriptor still is the ledger's: a host that closes all descriptors may have reused it."""
        return self._fd >= 0 and leads_to(self._fd, self._file)

    # -- locks

    def _lock(self) -> bool:
        self._may_be_locked = True
        for _ in range(_SPINS):
            if self._set_lock(fcntl.F_WRLCK, _MUTEX_AT):
                return True
            os.sched_yield()
        self._may_be_locked = False
        return False

    def _lock_or_leave(self) -> None:
        if not self._lock():
            raise LedgerBusyError(self.present())

    def _unlock(self) -> None:
        if not self._set_lock(fcntl.F_UNLCK, _MUTEX_AT):
            raise OSError(errno.EACCES, "the ledger cannot be unlocked")  # whoever gives it up for that, unlocks it
        self._may_be_locked = False

    def _set_lock(self, kind: int, at: int) -> bool:
        try:
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, at, 1, 0))
        except (BlockingIOError, PermissionError):
            return False
        return True


def _is_leased(fd: int, seat: int) -> bool:
    """Whether the member on this seat lives: the kernel drops its lock with its last descriptor."""
    question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _SEATS_AT + seat, 1, 0)
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, question)
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _find_lost(folder: Path) -> int | None:
    """The ledger whose name was removed while others have it open; None if nobody has."""
    for fd in finding.open_lost(folder):
        is_ours = False
        try:
            found = os.fstat(fd)
            is_ours = (
                found.st_size == table.FILE_BYTES
                and found.st_uid == os.geteuid()
                and any(_is_leased(fd, seat) for seat in range(table.SEATS))
            )
        finally:
            if not is_ours:
                os.close(fd)
        if is_ours:
            return fd
    return None
