"""What a store no longer needs is removed: once, or again and again beside the host's own work."""

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import anyio

from .._download import spool
from .._errors import SpoolError
from .._threads import run_to_its_end
from .batches import Batches
from .database import Database
from .failed_urls import StoredFailedUrls
from .jobs import Jobs

_LOG = logging.getLogger("memsafe_transcribe")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ages:
    """How long after its last activity something is kept.

    Attributes:
        finished_seconds: finished batches, and finished jobs that are of no batch any more.
        unfinished_seconds: those that are not finished, and can be resumed until then.
        failed_url_seconds: failed URLs.

    Raises:
        ValueError: one is negative, or no number.
    """

    finished_seconds: float
    unfinished_seconds: float
    failed_url_seconds: float

    def __post_init__(self) -> None:
        for name in ("finished_seconds", "unfinished_seconds", "failed_url_seconds"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleanup:
    """What a cleanup removed.

    Attributes:
        batches: of finished ones and of those that could have been resumed.
        jobs: with the chunks that were stored of them; of both kinds likewise.
        failed_urls: that failed too long ago.
        spool_files: that dead processes had left.
        freed_bytes: by which the database's file got smaller.
    """

    batches: int
    jobs: int
    failed_urls: int
    spool_files: int
    freed_bytes: int


async def clean(
    database: Database, jobs: Jobs, batches: Batches, failed_urls: StoredFailedUrls, ages: Ages, spool_dir: Path
) -> Cleanup:
    """Remove what is older than that, and what nobody owns; nothing that a live process is at work on.

    Raises:
        StoreError: the database cannot be used. What was removed before is gone.
    """
    now = time.time()
    finished_before, unfinished_before = now - ages.finished_seconds, now - ages.unfinished_seconds
    removed_batches = await batches.remove_old(finished_before, unfinished_before)
    for name, is_finished in removed_batches:
        if not is_finished:
            _LOG.warning(
                "batch %r was not finished, and is removed: %g s without activity", name, ages.unfinished_seconds
            )
    removed_jobs = await jobs.remove_old(finished_before, unfinished_before)
    if removed_jobs.unfinished:
        _LOG.warning(
            "%d unfinished jobs are removed: %g s without activity", removed_jobs.unfinished, ages.unfinished_seconds
        )
    removed_urls = await failed_urls.remove_old(now - ages.failed_url_seconds)
    spool_files = await run_to_its_end(lambda: _reaped(spool_dir))
    freed_bytes = await database.settle()
    done = Cleanup(
        batches=len(removed_batches),
        jobs=removed_jobs.finished + removed_jobs.unfinished,
        failed_urls=removed_urls,
        spool_files=spool_files,
        freed_bytes=freed_bytes,
    )
    _LOG.info("cleanup: %s", done)
    return done


async def keep_clean(once: Callable[[], Awaitable[Cleanup]], every_seconds: float) -> None:
    """Clean at once and then again and again. An error is logged, and is no reason to stop."""
    while True:
        try:
            await once()
        except Exception:
            _LOG.exception("the cleanup failed; the next one is in %g s", every_seconds)
        await anyio.sleep(every_seconds)


def _reaped(spool_dir: Path) -> int:
    try:
        return spool.reap(spool_dir)
    except SpoolError as error:  # it is not the database's
        _LOG.warning("the cleanup leaves the spool alone: %s", error)
        return 0
