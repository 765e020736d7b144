"""One SQLite file: opened with its first user, closed with the last; each transaction runs in a thread of its own."""

import errno
import logging
import os
import sqlite3
import threading
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
_CLOSE_SECONDS = 10.0
_FULL = (errno.ENOSPC, errno.EDQUOT)
_CACHE_KIB = 1024
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
_left_by_fork: list[sqlite3.Connection] = []  # SQLite forbids a child to touch these, even to close them


class Database:
    """A SQLite file, in WAL mode, each commit on disk before it returns. Safe for several threads and processes.

    Args:
        path: of the file, which is made if there is none, readable by its owner only.
        busy_timeout_seconds: how long to wait for another process's transaction.
    """

    def __init__(self, path: Path, busy_timeout_seconds: float) -> None:
        self.path = path
        self._busy_timeout_seconds = busy_timeout_seconds
        self._lock = threading.Lock()
        self._users = 0
        self._connection: sqlite3.Connection | None = None
        self._pid = os.getpid()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """`async with` this around whatever reads and writes."""
        await self.enter()
        try:
            yield
        finally:
            await self.leave()

    async def enter(self) -> None:
        """There is one more user.

        Raises:
            StoreError: it cannot be opened, or is of a later version.
        """
        with self._lock:
            self._users += 1
        try:
            await self.read(lambda _: None)
        except BaseException:
            await self.leave()
            raise

    async def leave(self) -> None:
        """There is one user less; after the last one, it is closed."""
        with self._lock:
            self._users -= 1
        with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
            await run_to_its_end(self._close_if_unused, anyio.CapacityLimiter(1))

    async def read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run a function that only reads, on one state of the file.

        Raises:
            StoreError: it could not be read.
        """
        return await run_to_its_end(lambda: self._transaction(function, "BEGIN"), anyio.CapacityLimiter(1))

    async def write(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run a function in a transaction of its own, and commit it. It may wait for other processes.

        Raises:
            StoreError: nothing of it was done.

        Cancellation: once it has begun, it is waited for.
        """
        return await run_to_its_end(lambda: self._transaction(function, "BEGIN IMMEDIATE"), anyio.CapacityLimiter(1))

    async def settle(self) -> int:
        """Give the space of what was deleted back to the file system; how many bytes."""
        return await run_to_its_end(self._settle, anyio.CapacityLimiter(1))

    def _transaction(self, function: Callable[[sqlite3.Connection], T], begin: str) -> T:
        with self._lock:
            try:
                connection = self._connected()
                connection.execute(begin)
                try:
                    result = function(connection)
                    connection.execute("COMMIT")
                except BaseException:
                    self._roll_back(connection)
                    raise
                return result
            except sqlite3.Error as error:
                raise self._store_error(error) from error

    def _settle(self) -> int:
        with self._lock:
            try:
                connection = self._connected()
                (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
                (free_pages,) = connection.execute("PRAGMA freelist_count").fetchone()
                connection.execute("PRAGMA incremental_vacuum").fetchall()
                (left_pages,) = connection.execute("PRAGMA freelist_count").fetchone()
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                return int((free_pages - left_pages) * page_bytes)
            except sqlite3.Error as error:
                raise self._store_error(error) from error

    def _connected(self) -> sqlite3.Connection:
        if self._connection is not None and self._pid != os.getpid():
            _left_by_fork.append(self._connection)
            self._connection = None
        if self._connection is None:
            self._connection, self._pid = self._connect(), os.getpid()
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            reason = "full" if error.errno in _FULL else "refused"
            raise StoreError(f"{self.path}: {error.strerror}", path=str(self.path), reason=reason) from error
        connection = sqlite3.connect(
            self.path, timeout=self._busy_timeout_seconds, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        # Before the first table, or it has no effect.
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        if mode != "wal":
            _LOG.warning("%s: its file system has no WAL, so that readers wait for writers (%s)", self.path, mode)
        connection.execute("PRAGMA synchronous=FULL")
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
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (owner,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and owner != APPLICATION_ID:
            raise self._version_error("it is a database of another program")
        if version > VERSION:
            raise self._version_error(
                f"its tables are of version {version}, and this release knows {VERSION}: update memsafe-transcribe"
            )
        return int(version)

    def _version_error(self, why: str) -> StoreError:
        return StoreError(f"{self.path}: {why}", path=str(self.path), reason="version")

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
            if self._users == 0 and self._connection is not None:
                connection, self._connection = self._connection, None
                if self._pid != os.getpid():
                    _left_by_fork.append(connection)
                    return
                with suppress(sqlite3.Error):  # what was committed is in the file all the same
                    connection.close()

    def _store_error(self, error: sqlite3.Error) -> StoreError:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        reason, why = _REASONS.get(code & 0xFF, ("failed", str(error)))
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        return StoreError(f"{self.path}: {why} ({name})", path=str(self.path), reason=reason)
