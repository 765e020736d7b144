"""Jobs: what was heard of one audio with one engine, chunk by chunk, each stored before it is shown."""

import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

import anyio

from .._errors import StoreError
from .database import Database
from .locks import Lock, Locks

_POLL_SECONDS = 0.1
_REMOVED_AT_ONCE = 100  # in one transaction, for which others wait


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """What an engine answered to one chunk, or to a part of one; in samples of the whole audio.

    Attributes:
        core_start, core_end: what it alone answers for.
        start, end: what the engine heard.
        result: its answer, in whatever form the caller writes it.
    """

    core_start: int
    core_end: int
    start: int
    end: int
    result: bytes


@dataclass(frozen=True, slots=True)
class ChunkPlan:
    """How a job's audio is cut: what a core aims for, and the most that the engine hears at once, in samples."""

    wanted_samples: int
    longest_samples: int


@dataclass(frozen=True, slots=True)
class JobState:
    """What is known of a job.

    Attributes:
        plan: frozen by its first commit; None before.
        total_samples: the length of its audio, once all of it was heard; None before.
        gaps: what was damaged in it, in whatever form the caller writes it; set with `total_samples`.
    """

    plan: ChunkPlan | None = None
    total_samples: int | None = None
    gaps: str = "[]"

    @property
    def is_finished(self) -> bool:
        return self.total_samples is not None


class Job:
    """One job, while nobody else can work on it, or, once it is finished, remove it."""

    def __init__(self, database: Database, key: bytes, state: JobState) -> None:
        self.key = key
        self.state = state
        self._database = database

    async def find(self, core_start: int, core_end: int, start: int, end: int) -> bytes | None:
        """The answer to exactly this, if there is one."""

        def find(connection: sqlite3.Connection) -> bytes | None:
            row = connection.execute(
                "SELECT result FROM chunks JOIN jobs ON jobs.id = job_id"
                " WHERE key = ? AND core_start = ? AND core_end = ? AND heard_start = ? AND heard_end = ?",
                (self.key, core_start, core_end, start, end),
            ).fetchone()
            return None if row is None else bytes(row[0])

        return await self._database.read(find)

    async def first_from(self, sample: int) -> StoredChunk | None:
        """The first answer whose core begins there or later."""

        def find(connection: sqlite3.Connection) -> StoredChunk | None:
            row = connection.execute(
                "SELECT core_start, core_end, heard_start, heard_end, result FROM chunks JOIN jobs ON jobs.id = job_id"
                " WHERE key = ? AND core_start >= ? ORDER BY core_start LIMIT 1",
                (self.key, sample),
            ).fetchone()
            return None if row is None else StoredChunk(*row)

        return await self._database.read(find)

    async def keep(self, plan: ChunkPlan, chunk: StoredChunk) -> None:
        """Store an answer, instead of any other to a part of the same audio. The first one freezes the plan.

        Raises:
            StoreError: it is not stored.
        """

        def keep(connection: sqlite3.Connection) -> None:
            job_id = self._touched(connection, plan)
            connection.execute(
                "DELETE FROM chunks WHERE job_id = ? AND core_start < ? AND core_end > ?",
                (job_id, chunk.core_end, chunk.core_start),
            )
            connection.execute(
                "INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?)",
                (job_id, chunk.core_start, chunk.core_end, chunk.start, chunk.end, chunk.result),
            )

        await self._database.write(keep, is_durable=True)
        self.state = replace(self.state, plan=plan)

    async def finish(self, plan: ChunkPlan, total_samples: int, gaps: str) -> None:
        """Say that all of it was heard."""

        def finish(connection: sqlite3.Connection) -> None:
            job_id = self._touched(connection, plan)
            connection.execute(
                "UPDATE jobs SET total_samples = ?, gaps = ? WHERE id = ?", (total_samples, gaps, job_id)
            )

        await self._database.write(finish)
        self.state = JobState(plan, total_samples, gaps)

    async def forget(self) -> None:
        """Begin anew."""
        await self._database.write(lambda connection: connection.execute("DELETE FROM jobs WHERE key = ?", (self.key,)))
        self.state = JobState()

    def _touched(self, connection: sqlite3.Connection, plan: ChunkPlan) -> int:
        """The id of the job, which is made if there is none; with its activity.

        Raises:
            StoreError: whoever made it cuts it otherwise, so that chunks of both would leave holes. That needs somebody
                who removed the locks.
        """
        row = connection.execute(
            "INSERT INTO jobs (key, wanted_samples, longest_samples, active_at) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (key) DO UPDATE SET active_at = excluded.active_at"
            " WHERE (wanted_samples, longest_samples) = (excluded.wanted_samples, excluded.longest_samples)"
            " RETURNING id",
            (self.key, plan.wanted_samples, plan.longest_samples, time.time()),
        ).fetchone()
        if row is None:
            path = str(self._database.path)
            raise StoreError(f"{path}: the same audio is in work elsewhere, cut otherwise", path=path, reason="busy")
        return int(row[0])


class Jobs:
    """The jobs of one store."""

    def __init__(self, database: Database, locks: Locks) -> None:
        self._database = database
        self._locks = locks

    @asynccontextmanager
    async def working_on(self, key: bytes, *, may_wait: bool) -> AsyncIterator[Job]:
        """`async with` this: the job of this key, when nobody else is at work on it.

        Args:
            key: 32 bytes.
            may_wait: else an error says that somebody is.

        Raises:
            StoreError: see there; or the store cannot be used.
        """
        while (claimed := await self._claim(key)) is None:
            if not may_wait:
                raise StoreError(
                    f"{self._database.path}: the same audio is in work elsewhere, and cannot be waited for on a "
                    "reservation that is held already",
                    path=str(self._database.path),
                    reason="busy",
                )
            await anyio.sleep(_POLL_SECONDS)
        lock, state = claimed
        try:
            yield Job(self._database, key, state)
        finally:
            lock.release()

    @asynccontextmanager
    async def finished(self, key: bytes) -> AsyncIterator[Job | None]:
        """`async with` this: the job of this key, if it is finished; it is not removed meanwhile."""
        lock, state = self._locks.try_lock(_name(key), shared=True), JobState()
        try:
            if lock is not None:
                state = await self._database.write(partial(_used, key=key))
            yield Job(self._database, key, state) if state.is_finished else None
        finally:
            if lock is not None:
                lock.release()

    async def _claim(self, key: bytes) -> tuple[Lock, JobState] | None:
        """Its lock, shared where it is finished, alone where it is not; None while somebody else has that."""
        is_finished = (await self._database.read(partial(_read, key=key))).is_finished
        while (lock := self._locks.try_lock(_name(key), shared=is_finished)) is not None:
            try:
                state = await self._database.write(partial(_used, key=key))
            except BaseException:
                lock.release()
                raise
            if state.is_finished == is_finished:
                return lock, state
            lock.release()  # it was finished, or removed, just now
            is_finished = state.is_finished
        return None

    async def remove_old(self, finished_before: float, unfinished_before: float) -> "Removed":
        """Remove the jobs that no batch knows, that nobody is at work on, and that were last active before those times.

        Args:
            finished_before, unfinished_before: in seconds of the Unix clock.
        """
        before = (unfinished_before, finished_before)
        removed, after = Removed(), 0
        while (page := await self._database.write(partial(self._remove_page, after=after, before=before))) is not None:
            after, finished, unfinished = page
            removed = Removed(removed.finished + finished, removed.unfinished + unfinished)
        return removed

    def _remove_page(
        self, connection: sqlite3.Connection, after: int, before: tuple[float, float]
    ) -> tuple[int, int, int] | None:
        """Of the next old ones: the last id, and how many finished and unfinished ones were removed; None at the end.

        Whoever takes such a job's lock looks at it in a transaction of its own before it relies on it. So the locks
        need not be held beyond the deletion.
        """
        rows = connection.execute(
            f"SELECT id, key, total_samples IS NOT NULL FROM jobs WHERE id > ? AND {_IS_OLD} ORDER BY id LIMIT ?",  # noqa: S608 - a constant
            (after, *before, _REMOVED_AT_ONCE),
        ).fetchall()
        if not rows:
            return None
        removed = [0, 0]
        for job_id, key, is_finished in rows:
            if (lock := self._locks.try_lock(_name(key))) is not None:
                try:
                    connection.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
                    removed[not is_finished] += 1
                finally:
                    lock.release()
        return rows[-1][0], removed[0], removed[1]


@dataclass(frozen=True, slots=True)
class Removed:
    """How many jobs were removed."""

    finished: int = 0
    unfinished: int = 0


def _name(key: bytes) -> bytes:
    return b"job " + key


def _used(connection: sqlite3.Connection, key: bytes) -> JobState:
    """What is known of it; that it is looked at counts as its activity."""
    connection.execute("UPDATE jobs SET active_at = ? WHERE key = ?", (time.time(), key))
    return _read(connection, key)


def _read(connection: sqlite3.Connection, key: bytes) -> JobState:
    row = connection.execute(
        "SELECT wanted_samples, longest_samples, total_samples, gaps FROM jobs WHERE key = ?", (key,)
    ).fetchone()
    if row is None:
        return JobState()
    wanted_samples, longest_samples, total_samples, gaps = row
    return JobState(ChunkPlan(wanted_samples, longest_samples), total_samples, gaps)


_IS_OLD = (
    "active_at < CASE WHEN total_samples IS NULL THEN ? ELSE ? END"
    " AND NOT EXISTS (SELECT 1 FROM sources WHERE job_key = jobs.key)"
)
