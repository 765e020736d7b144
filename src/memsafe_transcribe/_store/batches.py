"""Batches: which of their sources are done, which were tried in vain, and which job each led to."""

import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from hmac import digest as hmac_digest
from typing import Literal

from .database import Database
from .failed_urls import secret_of
from .locks import Locks
from .sealing import key_of, sealed, unsealed

MAX_DEATHS = 10  # of processes that were at work on a source, without another chunk in between

State = Literal["running", "working", "waiting", "done", "dead"]


@dataclass(frozen=True, slots=True)
class _Name:
    """What a source is found by, and what its errors are sealed with."""

    key: bytes
    text_key: bytes


@dataclass(frozen=True, slots=True)
class SourceState:
    """What is known of one source.

    Attributes:
        state: "running" from when it was begun; "working" from when its transcription was; "waiting" to be tried again;
            "done"; "dead" if it is given up.
        attempts: how often it failed.
        deaths: how often a process died while it transcribed it, since the last chunk was stored.
        job_key: of the job that it led to; None as long as that is not known.
        error: what it failed of last.
    """

    state: State
    attempts: int = 0
    deaths: int = 0
    job_key: bytes | None = None
    error: str | None = None


class BatchSource:
    """One source of a running batch, while nobody else is at work on it."""

    def __init__(self, database: Database, name: _Name, state: SourceState) -> None:
        self.state = state
        self._database = database
        self._name = name

    async def leads_to(self, job_key: bytes) -> None:
        """Remember the job, which is kept for as long as the batch is, and that work on it begins."""
        await self._database.write(
            lambda connection: connection.execute(
                "UPDATE sources SET state = 'working', job_key = ?,"
                " chunks_seen = CASE WHEN job_key = ? THEN chunks_seen ELSE 0 END WHERE key = ?",
                (job_key, job_key, self._name.key),
            )
        )

    async def done(self) -> None:
        """It is transcribed."""
        await self._database.write(partial(_ended, name=self._name, state="done", attempts=0, error=None))

    async def failed(self, attempts: int, error: str, *, is_final: bool) -> None:
        """It failed, so often in all; unless that is final, it is in work still."""
        state: State = "dead" if is_final else "running"
        await self._database.write(partial(_ended, name=self._name, state=state, attempts=attempts, error=error))

    async def interrupted(self, attempts: int) -> None:
        """It was given up for now, through no fault of its own. What had come of it by then stands."""
        await self._database.write(partial(_interrupted, name=self._name, attempts=attempts))


class Batches:
    """The batches of one store."""

    def __init__(self, database: Database, locks: Locks) -> None:
        self._database = database
        self._locks = locks

    @asynccontextmanager
    async def running(self, name: str) -> AsyncIterator["RunningBatch"]:
        """`async with` this: the unfinished batch of this name goes on, or a new one begins. Several runs may share it.

        Nothing of it is removed meanwhile.
        """
        while True:
            batch_id = await self._database.write(partial(_joined, name=name))
            lock = await self._locks.lock(_name(batch_id), shared=True)
            is_open = False
            try:
                is_open = await self._database.read(partial(_is_open, batch_id=batch_id))
            finally:
                if not is_open:
                    lock.release()
            if is_open:  # else it was removed, or finished, just now
                break
        batch = RunningBatch(self._database, self._locks, batch_id)
        try:
            yield batch
        finally:
            lock.release()
        if batch.is_at_its_end and (alone := self._locks.try_lock(_name(batch_id))) is not None:
            try:
                await self._database.write(partial(_finished, batch_id=batch_id))
            finally:
                alone.release()

    async def remove_old(self, finished_before: float, unfinished_before: float) -> list[tuple[str, bool]]:
        """Remove the batches that no process runs, and that were last active before those times (Unix clock).

        Returns:
            The name of each, and whether it was finished.
        """
        before, after, removed = (finished_before, unfinished_before), 0, []
        while (found := await self._database.read(partial(_next_old, after=after, before=before))) is not None:
            after, name, is_finished = found
            lock = self._locks.try_lock(_name(after))
            if lock is None:
                continue
            try:
                if await self._database.write(partial(_delete_old, batch_id=after, before=before)):
                    removed.append((name, is_finished))
            finally:
                lock.release()
        return removed


class RunningBatch:
    """A batch while it runs.

    Attributes:
        is_at_its_end: whether all of its sources were given, and none is in work any more.
    """

    def __init__(self, database: Database, locks: Locks, batch_id: int) -> None:
        self.is_at_its_end = False
        self._database = database
        self._locks = locks
        self._batch_id = batch_id

    @asynccontextmanager
    async def source(self, identity: str, *, again: bool) -> AsyncIterator[BatchSource]:
        """`async with` this: one source, once nobody else is at work on it; a second one that is the same waits.

        Args:
            identity: what it is told by, of which only a hash is kept that this database alone can make.
            again: forget that it was given up.
        """
        secret = await self._database.read(secret_of)
        key = hmac_digest(secret, identity.encode("utf-8", "surrogatepass"), "sha256")
        name = _Name(key, key_of(secret, identity))
        lock = await self._locks.lock(b"source " + key)
        try:
            state = await self._database.write(partial(_begun, name=name, batch_id=self._batch_id, again=again))
            yield BatchSource(self._database, name, state)
        finally:
            lock.release()

    async def owns(self, job_key: bytes) -> None:
        """Keep this job for as long as the batch is kept: it is one of a source that has no name."""
        await self._database.write(
            lambda connection: connection.execute(
                "INSERT INTO sources (key, batch_id, job_key, state) VALUES (?, ?, ?, 'done')"
                " ON CONFLICT (key) DO UPDATE SET batch_id = excluded.batch_id",
                (job_key, self._batch_id, job_key),
            )
        )


def _name(batch_id: int) -> bytes:
    return b"batch %d" % batch_id


def _joined(connection: sqlite3.Connection, name: str) -> int:
    """The batch of this name that is not finished; a new one if there is none. That is activity."""
    (found,) = connection.execute("SELECT max(id) FROM batches WHERE name = ? AND NOT is_finished", (name,)).fetchone()
    (batch_id,) = connection.execute(
        "INSERT INTO batches (id, name, active_at) VALUES (?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET active_at = excluded.active_at RETURNING id",
        (found, name, time.time()),
    ).fetchone()
    return int(batch_id)


def _is_open(connection: sqlite3.Connection, batch_id: int) -> bool:
    return bool(connection.execute("SELECT 1 FROM batches WHERE id = ? AND NOT is_finished", (batch_id,)).fetchone())


def _finished(connection: sqlite3.Connection, batch_id: int) -> None:
    connection.execute("UPDATE batches SET is_finished = 1, active_at = ? WHERE id = ?", (time.time(), batch_id))


def _begun(connection: sqlite3.Connection, name: _Name, batch_id: int, again: bool) -> SourceState:
    """What is known of a source, which is of this batch from now on."""
    connection.execute("UPDATE batches SET active_at = ? WHERE id = ?", (time.time(), batch_id))
    row = connection.execute(
        "SELECT state, attempts, deaths, job_key, error, chunks_seen,"
        " (SELECT count(*) FROM chunks JOIN jobs ON jobs.id = job_id WHERE jobs.key = sources.job_key)"
        " FROM sources WHERE key = ?",
        (name.key,),
    ).fetchone()
    if row is None:
        connection.execute("INSERT INTO sources (key, batch_id, state) VALUES (?, ?, 'running')", (name.key, batch_id))
        return SourceState("running")
    state, attempts, deaths, job_key, hidden, chunks_seen, chunks = row
    error = None if hidden is None else unsealed(hidden, name.text_key)
    if state == "working":  # a process died at it, and not while it only waited for its turn
        state, deaths = "running", deaths + 1 if chunks == chunks_seen else 1
        if deaths >= MAX_DEATHS:
            state, error = "dead", f"{deaths} processes in a row died while they were at work on it"
            hidden = sealed(error, name.text_key)
    if state == "waiting" or (state == "dead" and again):
        attempts, deaths = (0, 0) if again else (attempts, deaths)
        state = "running"
    connection.execute(
        "UPDATE sources SET batch_id = ?, state = ?, attempts = ?, deaths = ?, error = ?, chunks_seen = ?"
        " WHERE key = ?",
        (batch_id, state, attempts, deaths, hidden, chunks, name.key),
    )
    return SourceState(state, attempts, deaths, job_key, error)


def _ended(connection: sqlite3.Connection, name: _Name, state: State, attempts: int, error: str | None) -> None:
    hidden = None if error is None else sealed(error, name.text_key)
    connection.execute(
        "UPDATE sources SET state = ?, attempts = ?, deaths = 0, error = ? WHERE key = ?",
        (state, attempts, hidden, name.key),
    )
    connection.execute(
        "UPDATE batches SET active_at = ? WHERE id = (SELECT batch_id FROM sources WHERE key = ?)",
        (time.time(), name.key),
    )


def _interrupted(connection: sqlite3.Connection, name: _Name, attempts: int) -> None:
    (state,) = connection.execute("SELECT state FROM sources WHERE key = ?", (name.key,)).fetchone()
    if state in ("running", "working"):  # else who was cancelled did not hear of it any more
        _ended(connection, name, "waiting", attempts, None)


_IS_OLD = "active_at < CASE WHEN is_finished THEN ? ELSE ? END"


def _next_old(connection: sqlite3.Connection, after: int, before: tuple[float, float]) -> tuple[int, str, bool] | None:
    row = connection.execute(
        f"SELECT id, name, is_finished FROM batches WHERE id > ? AND {_IS_OLD} ORDER BY id LIMIT 1",  # noqa: S608 - a constant
        (after, *before),
    ).fetchone()
    return None if row is None else (int(row[0]), str(row[1]), bool(row[2]))


def _delete_old(connection: sqlite3.Connection, batch_id: int, before: tuple[float, float]) -> bool:
    """Unless it was continued since it was found."""
    return connection.execute(f"DELETE FROM batches WHERE id = ? AND {_IS_OLD}", (batch_id, *before)).rowcount > 0  # noqa: S608
