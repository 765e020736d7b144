"""Failed URLs that are remembered for all processes, and across restarts."""

import sqlite3
import time
from functools import partial

from .._download.failures import FailedUrl, url_digest
from .database import Database
from .sealing import key_of, sealed, unsealed


class StoredFailedUrls:
    """A `FailedUrlStore` in a database. No URL is in it, only hashes under a key that the database has."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, url: str) -> FailedUrl | None:
        """What is remembered of this URL, unless its time is over."""
        async with self._database.opened():
            return await self._database.read(partial(_find, url=url))

    async def remember(self, url: str, failed: FailedUrl) -> None:
        """Keep this until its time is over."""
        async with self._database.opened():
            await self._database.write(partial(_remember, url=url, failed=failed))

    async def forget(self, url: str) -> None:
        """It did not fail any more."""
        async with self._database.opened():
            if await self._database.read(partial(_is_known, url=url)):
                await self._database.write(partial(_forget, url=url))

    async def remove_old(self, failed_before: float) -> int:
        """Remove those that failed before that time (Unix clock); how many."""
        return await self._database.write(
            lambda connection: (
                connection.execute("DELETE FROM failed_urls WHERE failed_at < ?", (failed_before,)).rowcount
            )
        )


def secret_of(connection: sqlite3.Connection) -> bytes:
    """The key under which this database hashes what it is not to show."""
    (secret,) = connection.execute("SELECT value FROM settings WHERE name = 'secret'").fetchone()
    return bytes(secret)


def _find(connection: sqlite3.Connection, url: str) -> FailedUrl | None:
    secret = secret_of(connection)
    row = connection.execute(
        "SELECT reason, status_code, until_seconds FROM failed_urls WHERE digest = ? AND until_seconds > ?",
        (url_digest(secret, url), time.time()),
    ).fetchone()
    if row is None:
        return None
    reason, status_code, until_seconds = row
    return FailedUrl(unsealed(reason, key_of(secret, url)), status_code, until_seconds)


def _remember(connection: sqlite3.Connection, url: str, failed: FailedUrl) -> None:
    secret = secret_of(connection)
    reason = sealed(failed.reason, key_of(secret, url))
    connection.execute(
        "INSERT OR REPLACE INTO failed_urls VALUES (?, ?, ?, ?, ?)",
        (url_digest(secret, url), reason, failed.status_code, failed.until_unix_seconds, time.time()),
    )


def _is_known(connection: sqlite3.Connection, url: str) -> bool:
    digest = url_digest(secret_of(connection), url)
    return bool(connection.execute("SELECT 1 FROM failed_urls WHERE digest = ?", (digest,)).fetchone())


def _forget(connection: sqlite3.Connection, url: str) -> None:
    connection.execute("DELETE FROM failed_urls WHERE digest = ?", (url_digest(secret_of(connection), url),))
