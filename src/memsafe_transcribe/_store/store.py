"""JobStore: what was paid for is kept, and what failed is remembered, whatever happens to the process."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import TracebackType

from .._download import spool
from .._download.failures import FailedUrl
from .._tasks import background
from .batches import Batches
from .cleaning import Ages, Cleanup, clean, keep_clean
from .database import Database
from .failed_urls import StoredFailedUrls
from .jobs import Jobs
from .locks import Locks


class JobStore:
    """Keeps jobs, batches and failed URLs in one SQLite file, for any number of tasks, threads and processes.

    Give it to a `ChunkedTranscriber`: each chunk's result is on disk before it is shown, a job that was interrupted
    asks the engine only for what is missing, and one that is finished for nothing. Give it to a `SafeDownloader` as
    `failures`, too.

    The file is opened by whoever uses it and closed with its last user; as an async context manager it stays open until
    the block ends. Beside it lie `-wal` and `-shm` files while it is open, and a small `-locks` file. It holds
    transcripts, the names of batches, and of URLs and paths only hashes; its owner alone can read it.

    Args:
        path: of the file; its folder must exist, on a file system of this machine (SQLite's WAL needs shared memory).
        busy_timeout_seconds: how long to wait for another process's transaction.

    Raises:
        ValueError: the timeout is negative.
        StoreError: from whatever uses it: the file cannot be opened, is damaged, or of a later release; no space.

    Memory: 1 MiB of cache while it is open; a chunk's result at a time.
    """

    def __init__(self, path: str | os.PathLike[str], *, busy_timeout_seconds: float = 30.0) -> None:
        if not busy_timeout_seconds >= 0:
            raise ValueError(f"busy_timeout_seconds must be at least 0, got {busy_timeout_seconds}")
        self.path: Path = Path(path).absolute()
        self._inside = Inside(self.path, busy_timeout_seconds)
        self._entered: list[object] = []

    async def __aenter__(self) -> "JobStore":
        self._entered.append(await self._inside.database.enter())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._inside.database.leave(self._entered.pop())

    async def find(self, url: str) -> FailedUrl | None:
        """What is remembered of a URL that failed, unless its time is over."""
        return await self._inside.failed_urls.find(url)

    async def remember(self, url: str, failed: FailedUrl) -> None:
        """Keep this of a URL that failed, until its time is over."""
        await self._inside.failed_urls.remember(url, failed)

    async def forget(self, url: str) -> None:
        """A URL did not fail any more."""
        await self._inside.failed_urls.forget(url)

    async def cleanup(
        self,
        *,
        finished_seconds: float = 86_400.0,
        unfinished_seconds: float = 604_800.0,
        failed_url_seconds: float = 604_800.0,
        spool_dir: str | os.PathLike[str] | None = None,
    ) -> Cleanup:
        """Remove what nobody needs any more, and give the space back. What a live process is at work on stays.

        Args:
            finished_seconds: finished batches and jobs go after so long without activity.
            unfinished_seconds: unfinished ones; it is logged.
            failed_url_seconds: failed URLs.
            spool_dir: the folder in which dead processes may have left files; the system's temporary one by default.

        Raises:
            StoreError: the database cannot be used.

        Cancellation: what was removed so far is gone.
        """
        ages = Ages(
            finished_seconds=finished_seconds,
            unfinished_seconds=unfinished_seconds,
            failed_url_seconds=failed_url_seconds,
        )
        return await self._clean(ages, spool_dir)

    @asynccontextmanager
    async def cleaning(
        self,
        *,
        every_seconds: float = 3600.0,
        finished_seconds: float = 86_400.0,
        unfinished_seconds: float = 604_800.0,
        failed_url_seconds: float = 604_800.0,
        spool_dir: str | os.PathLike[str] | None = None,
    ) -> AsyncIterator[None]:
        """`async with` this: clean up now and every hour beside the block. Errors are logged, and it goes on.

        Arguments are those of `cleanup`.

        Cancellation: a cleanup that is under way is given up.
        """
        if not every_seconds > 0:
            raise ValueError(f"every_seconds must be more than 0, got {every_seconds}")
        ages = Ages(
            finished_seconds=finished_seconds,
            unfinished_seconds=unfinished_seconds,
            failed_url_seconds=failed_url_seconds,
        )
        async with background() as tasks:
            tasks.start_soon(keep_clean, partial(self._clean, ages, spool_dir), every_seconds)
            yield

    async def _clean(self, ages: Ages, spool_dir: str | os.PathLike[str] | None) -> Cleanup:
        inside = self._inside
        folder = spool.default_spool_dir() if spool_dir is None else Path(spool_dir)
        async with inside.database.opened():
            return await clean(inside.database, inside.jobs, inside.batches, inside.failed_urls, ages, folder)

    def __repr__(self) -> str:
        return f"JobStore({str(self.path)!r})"


class Inside:
    """What a store is made of, for the rooms above."""

    def __init__(self, path: Path, busy_timeout_seconds: float) -> None:
        locks = Locks(path)
        self.path = path
        self.database = Database(path, busy_timeout_seconds)
        self.jobs = Jobs(self.database, locks)
        self.batches = Batches(self.database, locks)
        self.failed_urls = StoredFailedUrls(self.database)


def inside(store: JobStore) -> Inside:
    """What a store is made of."""
    return store._inside  # noqa: SLF001 - this is the way in
