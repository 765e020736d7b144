"""A batch once more: what has changed since, and what must not be forgotten."""

import errno
import fcntl
import os
import sqlite3
from contextlib import closing
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._store import batches, cleaning, jobs
from memsafe_transcribe._store.store import inside

from ..conftest import Run
from ..support.media import tone_samples, write_wav
from .engines import Teller


async def outcomes_of(source: Path, engine: Teller, store: mt.JobStore) -> list[mt.Outcome]:
    transcriber = mt.ChunkedTranscriber(engine, chunk_seconds=1.0, store=store)
    async with mt.BatchTranscriber(transcriber).run([source]) as outcomes:
        return [outcome async for outcome in outcomes]


def test_a_file_that_was_written_to_is_transcribed_anew(run: Run, tmp_path: Path) -> None:
    """Its path does not tell what is in it: a batch that is run again gives the transcript of what is there now."""
    path, store = tmp_path / "file.wav", mt.JobStore(tmp_path / "jobs.sqlite")
    seconds = []
    for length in (3.0, 5.0, 5.0):
        if length not in seconds:
            write_wav(path, tone_samples(length))
        (outcome,) = run(outcomes_of, path, engine := Teller(), store)
        assert outcome.transcript is not None
        seconds.append(outcome.transcript.duration_seconds)
        asked = engine.asked
    assert seconds == [3.0, 5.0, 5.0]
    assert asked == [], "the third time, nothing was new"


def test_a_file_that_was_given_up_and_then_mended_is_tried_again(run: Run, tmp_path: Path) -> None:
    """It was given up for what was in it."""
    path, store = tmp_path / "file.wav", mt.JobStore(tmp_path / "jobs.sqlite")
    path.write_bytes(b"no audio")
    (first,) = run(outcomes_of, path, Teller(), store)
    (second,) = run(outcomes_of, path, Teller(), store)
    assert isinstance(first.error, mt.UnsupportedMediaError)
    assert isinstance(second.error, mt.DeadLetterError)
    write_wav(path, tone_samples(3.0))
    (third,) = run(outcomes_of, path, Teller(), store)
    assert third.error is None


@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_lock_that_fails_is_the_stores_error(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """That of the batch, of its source, of the job: no descriptor is held by whoever keeps the error."""
    path, store, set_lock = (
        write_wav(tmp_path / "file.wav", tone_samples(2.0)),
        mt.JobStore(tmp_path / "s"),
        fcntl.fcntl,
    )
    calls = count(1)
    errors: list[Exception | None] = []

    def fail_at_call(fd: int, command: int, argument: Any = 0) -> Any:
        is_ours = command == fcntl.F_OFD_SETLK and os.readlink(f"/proc/self/fd/{fd}").endswith("s-locks")
        if is_ours and next(calls) == call:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        return set_lock(fd, command, argument)

    async def main() -> None:
        try:
            errors.extend(outcome.error for outcome in await outcomes_of(path, Teller(), store))
        except mt.StoreError as error:
            errors.append(error)

    monkeypatch.setattr(fcntl, "fcntl", fail_at_call)
    run(main)
    assert [type(error) for error in errors] == [mt.StoreError]


@pytest.mark.parametrize("refused", ["UPDATE ON sources WHEN new.state = 'done'", "INSERT ON chunks"])
def test_what_the_store_refuses_comes_out_all_the_same(run: Run, tmp_path: Path, refused: str) -> None:
    """The transcript was paid for. It says that it is not stored; the next run goes on from what is."""
    path, store = write_wav(tmp_path / "file.wav", tone_samples(3.0)), mt.JobStore(tmp_path / "jobs.sqlite")

    async def make() -> None:
        async with store:
            pass

    run(make)
    with closing(sqlite3.connect(store.path)) as connection:
        connection.execute(f"CREATE TRIGGER refusal BEFORE {refused} BEGIN SELECT RAISE(FAIL, 'no'); END")
    (first,) = run(outcomes_of, path, Teller(), store)
    assert first.transcript is not None and first.error is None
    assert isinstance(first.transcript.store_error, mt.StoreError)
    with closing(sqlite3.connect(store.path)) as connection:
        connection.execute("DROP TRIGGER refusal")
    (second,) = run(outcomes_of, path, engine := Teller(), store)
    assert second.transcript == first.transcript
    assert second.transcript.store_error is None
    assert bool(engine.asked) == ("chunks" in refused)


def test_what_is_begun_again_is_active(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch and a job that are gone on with after six days are kept for seven more, though nothing came of it."""
    path, store = write_wav(tmp_path / "file.wav", tone_samples(5.0)), mt.JobStore(tmp_path / "jobs.sqlite")
    days = 0.0
    for module in (batches, cleaning, jobs):
        monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: 86_400 * (20_000 + days)))

    async def go_on(fails_at: int) -> None:
        with pytest.raises(mt.TranscriberFailedError):
            await mt.ChunkedTranscriber(Teller(fails_at={fails_at}), chunk_seconds=1.0, store=store).transcribe(path)
        async with inside(store).database.opened(), inside(store).batches.running("batch") as batch:
            async with batch.source("one of which nothing is heard any more", again=False):
                pass

    async def removed() -> tuple[int, int]:
        done = await store.cleanup(spool_dir=tmp_path)
        return done.batches, done.jobs

    run(go_on, 2)
    days = 6.0
    run(go_on, 0)
    days = 12.9
    assert run(removed) == (0, 0)
    days = 13.1
    assert run(removed) == (1, 1)


@pytest.mark.parametrize(("is_stored", "state"), [(False, "waiting"), (True, "done")])
def test_cancelled_just_when_it_is_done_it_is_no_death(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_stored: bool, state: str
) -> None:
    """Before that it is done is stored, it waits to be gone on with; afterwards it stays done."""
    path, store = write_wav(tmp_path / "file.wav", tone_samples(2.0)), mt.JobStore(tmp_path / "jobs.sqlite")
    done = batches.BatchSource.done

    async def cancelled(scope: anyio.CancelScope) -> None:
        with scope:
            await outcomes_of(path, Teller(), store)

    async def main() -> None:
        scope = anyio.CancelScope()

        async def done_in_vain(source: batches.BatchSource) -> None:
            if is_stored:
                await done(source)
            scope.cancel()
            await anyio.lowlevel.checkpoint()

        monkeypatch.setattr(batches.BatchSource, "done", done_in_vain)
        await cancelled(scope)

    run(main)
    with closing(sqlite3.connect(store.path)) as connection:
        assert connection.execute("SELECT state FROM sources").fetchall() == [(state,)]
