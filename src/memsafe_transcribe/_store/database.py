"""One SQLite file: opened with its first user, closed with the last; each transaction runs in a thread of its own.

A child that is forked would inherit what SQLite believes of this process's locks, and lose what it commits: there is no
connection at the moment of a fork.
"""

import errno
import logging
import os
import sqlite3
import stat
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

import anyio

from .._errors import StoreError
from .._threads import run_to_its_end
from .schema import APPLICATION_ID, MIGRATIONS, VERSION

T = TypeVar("T")

_LOG = logging.getLogger("memsafe_transcribe")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_CACHE_KIB = 1024
_PAGES_AT_ONCE = 1000  # given back to the file system
_RETRY_SECONDS = 0.01
_REASONS = {
    sqlite3.SQLITE_BUSY: ("locked", "another process has held its lock for longer than busy_timeout_seconds"),
    sqlite3.SQLITE_LOCKED: ("locked", "another connection of this process holds its lock"),
    sqlite3.SQLITE_FULL: ("full", "its disk is full"),
    sqlite3.SQLITE_CORRUPT: ("corrupt", "it is damaged: move it away, or mend it with sqlite3's .recover"),
    sqlite3.SQLITE_NOTADB: ("corrupt", "it is no SQLite database"),
    sqlite3.SQLITE_READONLY: ("refused", "it may not be written"),
    sqlite3.SQLITE_PERM: ("refused", "it may not be opened"),
    sqlite3.SQLITE_CANTOPEN: ("refused", "it cannot be opened"),
}
# What comes of reading a row that is missing, or of other types: SQLite does not notice a byte that has changed.
_NOT_AS_WRITTEN = (TypeError, ValueError, OverflowError)
_databases: "weakref.WeakSet[Database]" = weakref.WeakSet()
_forking = threading.Lock()
_locked_by_fork: "list[Database]" = []


class Database:
    """A SQLite file, in WAL mode: what is committed outlives the process. Safe for several threads and processes.

    Args:
        path: of the file, which is made if there is none, readable by its owner only.
        busy_timeout_seconds: how long to wait for another process's transaction.
    """

    def __init__(self, path: Path, busy_timeout_seconds: float) -> None:
        self.path = path
        self._busy_timeout_seconds = busy_timeout_seconds
        self._lock = threading.Lock()  # never waited for on an event loop: a transaction may take its time
        self._users: set[object] = set()
        self._connection: sqlite3.Connection | None = None
        self._has_wal = False
        with _forking:
            _databases.add(self)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """`async with` this around whatever reads and writes. Raises what `enter` does."""
        user = await self.enter()
        try:
            yield
        finally:
            await self.leave(user)

    async def enter(self) -> object:
        """There is one more user, which is to be handed to `leave`.

        Raises:
            StoreError: it cannot be opened, or is of a later version.
        """
        user = object()
        self._users.add(user)
        try:
            if self._connection is None:
                await self.read(lambda _: None)
        except BaseException:
            await self.leave(user)
            raise
        return user

    async def leave(self, user: object) -> None:
        """There is one user less; after the last one, it is closed."""
        self._users.discard(user)
        if self._users:
            return
        try:
            with anyio.CancelScope(shield=True):  # for as long as another's transaction takes
                await run_to_its_end(self._close_if_unused, anyio.CapacityLimiter(1))
        except BaseException:  # asyncio's own Task.cancel() breaks through the shield, before the thread has begun
            if self._lock.acquire(blocking=False):  # else somebody is at work with it, and closes it
                try:
                    self._close_if_unused_locked()
                finally:
                    self._lock.release()
            raise

    async def read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run a function that only reads, on one state of the file.

        Raises:
            StoreError: it could not be read.
        """
        return await run_to_its_end(lambda: self._transaction(function, "BEGIN"), anyio.CapacityLimiter(1))

    async def write(self, function: Callable[[sqlite3.Connection], T], *, is_durable: bool = False) -> T:
        """Run a function in a transaction of its own, and commit it. It may wait for other processes.

        Args:
            function: what to run.
            is_durable: it is on disk when this returns, with all that was committed before; else the machine's end (not
                the process's) may still undo it, with all that was committed after.

        Raises:
            StoreError: nothing of it was done.

        Cancellation: once it has begun, it is waited for.
        """
        return await run_to_its_end(
            lambda: self._transaction(function, "BEGIN IMMEDIATE", is_durable), anyio.CapacityLimiter(1)
        )

    async def settle(self) -> int:
        """Give the space of what was deleted back to the file system; how many bytes."""
        return await run_to_its_end(self._settle, anyio.CapacityLimiter(1))

    def _transaction(self, function: Callable[[sqlite3.Connection], T], begin: str, is_durable: bool = False) -> T:
        with self._lock:
            try:
                connection = self._connected()
                connection.execute(f"PRAGMA synchronous={'FULL' if is_durable or not self._has_wal else 'NORMAL'}")
                connection.execute(begin)
                try:
                    result = function(connection)
                    connection.execute("COMMIT")
                except BaseException:
                    self._roll_back(connection)
                    raise
                return result
            except (sqlite3.Error, *_NOT_AS_WRITTEN) as error:
                raise self._store_error(error) from error

    def _settle(self) -> int:
        with self._lock:
            try:
                connection = self._connected()
                (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
                (free_pages,) = connection.execute("PRAGMA freelist_count").fetchone()
                for _ in range(-(-free_pages // _PAGES_AT_ONCE)):  # others may write in between
                    # Not by execute: a row that has no columns ends it, and each page is one.
                    connection.executescript(f"PRAGMA incremental_vacuum({_PAGES_AT_ONCE})")
                (left_pages,) = connection.execute("PRAGMA freelist_count").fetchone()
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                return max(0, int(free_pages) - int(left_pages)) * int(page_bytes)
            except sqlite3.Error as error:
                raise self._store_error(error) from error

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        try:  # without a descriptor: to close one would drop the locks of this process's other connections
            os.mknod(os.path.realpath(self.path), stat.S_IFREG | 0o600)
        except FileExistsError:
            pass
        except OSError as error:
            reason = "full" if error.errno in _FULL else "refused"
            raise self._error(reason, f"it cannot be made: {error.strerror}") from error
        connection = sqlite3.connect(
            self.path, timeout=self._busy_timeout_seconds, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare_patiently(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare_patiently(self, connection: sqlite3.Connection) -> None:
        """Several processes make the file at once: whoever is to wait while it becomes a WAL file is told at once."""
        until = time.monotonic() + self._busy_timeout_seconds
        while True:
            try:
                self._prepare(connection)
                return
            except sqlite3.OperationalError as error:
                if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                    raise
            time.sleep(_RETRY_SECONDS)

    def _prepare(self, connection: sqlite3.Connection) -> None:
        self._version(connection)  # what is not ours is left as it is
        # Before the first table, or it has no effect.
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        self._has_wal = mode == "wal"
        if not self._has_wal:
            _LOG.warning("%s: its file system has no WAL, so that readers wait for writers (%s)", self.path, mode)
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        if self._version(connection) == VERSION:
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            for migration in MIGRATIONS[self._version(connection) :]:
                for statement in migration.split(";"):
                    connection.execute(statement)
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={VERSION}")
            connection.execute("COMMIT")
        except BaseException:
            self._roll_back(connection)
            raise

    def _version(self, connection: sqlite3.Connection) -> int:
        """Of the tables in the file; 0 if there are none yet.

        Raises:
            StoreError: they are not this library's, or a later one's.
        """
        version, owner, tables = connection.execute(  # in one look: another process may be making them
            "SELECT user_version, application_id, (SELECT count(*) FROM sqlite_master)"
            " FROM pragma_user_version, pragma_application_id"
        ).fetchone()
        if tables and owner != APPLICATION_ID:
            raise self._error("version", "it is a database of another program")
        if version > VERSION:
            known = f"and this release knows {VERSION}: update memsafe-transcribe"
            raise self._error("version", f"its tables are of version {version}, {known}")
        return int(version)

    def _error(self, reason: str, why: str) -> StoreError:
        return StoreError(f"{self.path}: {why}", path=str(self.path), reason=reason)

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        """End the transaction, whatever state it is in; a connection that cannot is given up."""
        if not connection.in_transaction:
            return  # SQLite has done it
        try:
            connection.execute("ROLLBACK")
        except sqlite3.Error:
            if connection is self._connection:
                self._connection = None
            with suppress(sqlite3.Error):
                connection.close()

    def _close_if_unused(self) -> None:
        with self._lock:
            self._close_if_unused_locked()

    def _close_if_unused_locked(self) -> None:
        if not self._users:
            self._close()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):  # what was committed is in the file all the same
                connection.close()

    def before_fork(self) -> None:
        """Let its transaction end, and no other begin."""
        self._lock.acquire()
        self._close()

    def after_fork(self) -> None:
        """Go on, in either process."""
        self._lock.release()

    def forget_users(self) -> None:
        """In a child: those are its parent's."""
        self._users.clear()

    def _store_error(self, error: Exception) -> StoreError:
        if not isinstance(error, sqlite3.Error):
            return self._error("corrupt", f"it is damaged: what is in it is not what was written: {error}")
        reason, why = _REASONS.get(_code(error), ("failed", str(error)))
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        return self._error(reason, f"{why} ({name})")


def _code(error: sqlite3.Error) -> int:
    """What SQLite calls it, without the details."""
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)) & 0xFF


def _before_fork() -> None:
    _forking.acquire()
    for database in list(_databases):
        database.before_fork()
        _locked_by_fork.append(database)


def _after_fork() -> None:
    while _locked_by_fork:
        _locked_by_fork.pop().after_fork()
    _forking.release()


def _after_fork_in_child() -> None:
    for database in _locked_by_fork:
        database.forget_users()
    _after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
