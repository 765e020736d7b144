"""The file: whatever is wrong with it is a clear error, and no other process, thread or fork harms what is in it."""

import os
import re
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._store import database as database_module, schema

from ..conftest import Run, open_descriptors
from ..support.media import tone_samples, write_wav
from ..support.needs import tmpfs
from .engines import Teller
from .other_program import other_program

FOR_EVER = mt.FailedUrl("gone", 404, 1e12)
URL = "https://example.com/secret-path?token=abc"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the store is to be."""
    return tmp_path / "jobs.sqlite"


@contextmanager
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    """The file as another program sees it."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as connection:
        yield connection


async def remember(path: Path, url: str = URL, **options: Any) -> None:
    await mt.JobStore(path, **options).remember(url, FOR_EVER)


async def find(path: Path, url: str = URL) -> mt.FailedUrl | None:
    return await mt.JobStore(path).find(url)


def refusal(run: Run, path: Path, **options: Any) -> mt.StoreError:
    """What the store says of a file that it cannot use."""
    with pytest.raises(mt.StoreError) as caught:
        run(lambda: remember(path, **options))
    assert caught.value.path == str(path)
    assert str(path) in str(caught.value)
    return caught.value


# -- files that are not as they should be


def test_a_file_of_a_later_version_is_refused_and_left_as_it_is(run: Run, path: Path) -> None:
    """The message says which version it is, and what to do."""
    run(remember, path)
    with raw(path) as connection:
        connection.execute("PRAGMA user_version=99")
    before = path.read_bytes()
    error = refusal(run, path)
    assert error.reason == "version"
    assert re.search("version 99, and this release knows 1: update memsafe-transcribe", str(error))
    assert path.read_bytes() == before


@pytest.mark.parametrize("application_id", [0, 7])
def test_a_database_of_another_program_is_refused_and_left_as_it_is(run: Run, path: Path, application_id: int) -> None:
    """Not a byte of it is changed: neither its journal's mode nor its tables."""
    with raw(path) as connection:
        connection.execute("CREATE TABLE theirs (a)")
        connection.execute(f"PRAGMA application_id={application_id}")
    before = path.read_bytes()
    error = refusal(run, path)
    assert (error.reason, path.read_bytes()) == ("version", before)
    assert "another program" in str(error)


def test_a_file_that_is_no_database_is_refused(run: Run, path: Path) -> None:
    """And left as it is."""
    path.write_bytes(b"no database at all" * 100)
    before = path.read_bytes()
    error = refusal(run, path)
    assert (error.reason, path.read_bytes()) == ("corrupt", before)
    assert "no SQLite database" in str(error)


@pytest.mark.parametrize("harm", ["truncated", "overwritten"])
def test_a_damaged_file_is_said_to_be_damaged(run: Run, path: Path, harm: str) -> None:
    """With what mends it."""
    run(remember, path)
    with path.open("r+b") as file:
        if harm == "truncated":
            file.truncate(path.stat().st_size // 4096 // 2 * 4096)
        else:
            file.seek(4096)
            file.write(os.urandom(path.stat().st_size - 4096))
    error = refusal(run, path)
    assert error.reason == "corrupt"
    assert "damaged" in str(error)
    assert ".recover" in str(error)


@pytest.mark.parametrize(
    "harm",
    [
        "DELETE FROM settings",
        "UPDATE settings SET value = 5e300",
        "UPDATE settings SET value = 'a text'",
        "UPDATE failed_urls SET reason = 5",
        "UPDATE failed_urls SET reason = 'a text that is longer than a nonce'",
    ],
)
def test_rows_that_are_not_as_they_were_written_are_damage(run: Run, path: Path, harm: str) -> None:
    """SQLite reads them all the same; the library says the same of them as of a page that cannot be read."""
    run(remember, path)
    with raw(path) as connection:
        connection.execute(harm)
    with pytest.raises(mt.StoreError, match="damaged") as caught:
        run(find, path)
    assert (caught.value.path, caught.value.reason) == (str(path), "corrupt")


def test_a_missing_folder_is_refused(run: Run, tmp_path: Path) -> None:
    """It is not made: it may be a disk that is not mounted."""
    error = refusal(run, tmp_path / "missing" / "jobs.sqlite")
    assert error.reason == "refused"
    assert "No such file or directory" in str(error)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_its_place_is_refused(run: Run, path: Path) -> None:
    """Of that name there is something else already."""
    path.mkdir()
    assert refusal(run, path).reason == "refused"


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_may_not_be_written_is_refused(run: Run, tmp_path: Path, what: str) -> None:
    """A file that is there already, and a folder in which none can be made: on a disk that is read-only."""
    with tmpfs(tmp_path / "disk", "size=4m") as disk:
        path = disk / "jobs.sqlite"
        if what == "file":
            run(remember, path)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert refusal(run, path).reason == "refused"


def test_a_disk_that_is_full_from_the_beginning_is_said_to_be_full(run: Run, tmp_path: Path) -> None:
    """Before anything is asked for."""
    with tmpfs(tmp_path / "disk", "size=64k") as disk:
        (disk / "rest").write_bytes(bytes(64 * 1024))
        assert refusal(run, disk / "jobs.sqlite").reason == "full"


@pytest.mark.parametrize("begin", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_one_that_another_process_keeps_locked_says_which_setting_to_change(run: Run, path: Path, begin: str) -> None:
    """As soon as its time is over."""

    async def main() -> None:
        await remember(path)
        with other_program(path) as other:
            other.execute(begin)
            with pytest.raises(mt.StoreError, match=f"{path}: .*busy_timeout_seconds") as caught:
                await remember(path, busy_timeout_seconds=0.05)
        assert (caught.value.reason, caught.value.path) == ("locked", str(path))
        await remember(path)

    run(main)


# -- a file that breaks while a job runs


class Hook(Teller):
    """Does something before it answers for the nth time, from 0."""

    def __init__(self, at: int, does: Callable[[], object]) -> None:
        super().__init__()
        self._at = at
        self._does = does

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        if len(self.asked) == self._at:
            self._does()
        return await super().transcribe(chunk, context)


async def transcribed(engine: Teller, store: mt.JobStore | None, audio: Path) -> mt.Transcript:
    transcriber = mt.ChunkedTranscriber(engine, chunk_seconds=1.0, store=store, isolation="thread")
    return await transcriber.transcribe(audio)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if "not stored" in record.message]


def fill(disk: Path) -> None:
    with (disk / "rest").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))


_NO_TABLE = (
    "PRAGMA writable_schema=ON; UPDATE sqlite_master SET rootpage = 2 WHERE name = 'chunks'; PRAGMA schema_version=9"
)


@pytest.mark.parametrize("reason", ["locked", "full", "corrupt", "failed"])
def test_a_store_that_breaks_in_between_costs_no_transcript(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture, reason: str
) -> None:
    """It is whole, says why it is not all stored, and the log says so once; the chunks before are not lost."""
    audio = write_wav(tmp_path / "tone.wav", tone_samples(6.0))

    async def main(disk: Path) -> None:
        path = disk / "jobs.sqlite"
        await remember(path)
        with other_program(path) as other:
            breaks: dict[str, Callable[[], object]] = {
                "locked": lambda: other.execute("BEGIN IMMEDIATE"),
                "full": lambda: fill(disk),
                "corrupt": lambda: other.execute(_NO_TABLE),
                "failed": lambda: other.execute("DROP TABLE chunks"),
            }
            engine = Hook(2, breaks[reason])
            found = await transcribed(engine, mt.JobStore(path, busy_timeout_seconds=0.05), audio)
        assert found == await transcribed(Teller(), None, audio)
        assert found.store_error is not None
        assert (found.store_error.reason, found.store_error.path) == (reason, str(path))
        assert len(said(caplog)) == 1
        if reason in ("locked", "full"):
            (disk / "rest").unlink(missing_ok=True)
            resumed = Teller()
            assert await transcribed(resumed, mt.JobStore(path), audio) == found
            assert resumed.asked == engine.asked[2:]

    with tmpfs(tmp_path / "disk", "size=1m") as disk:
        run(main, disk)


def test_chunks_at_once_that_cannot_be_stored_are_said_once(
    run: Run, tmp_path: Path, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two that are answered at once both fail to be stored; the log has one line of it."""
    audio = write_wav(tmp_path / "tone.wav", tone_samples(4.0))
    asked = 0

    async def main() -> mt.Transcript:
        await remember(path)
        together = anyio.Event()

        class Pair(Teller):
            def __init__(self) -> None:
                super().__init__()
                self.capabilities = mt.Capabilities(concurrency=2, cache_key="pair", timestamps="word")

            async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
                nonlocal asked
                asked += 1
                if asked == 2:
                    other.execute("BEGIN IMMEDIATE")
                    together.set()
                await together.wait()
                return await super().transcribe(chunk, context)

        store = mt.JobStore(path, busy_timeout_seconds=0.05)
        admission = mt.AdmissionController(scope="process")
        transcriber = mt.ChunkedTranscriber(
            Pair(), admission=admission, chunk_seconds=1.0, store=store, isolation="thread"
        )
        with other_program(path) as other:
            return await transcriber.transcribe(audio)

    found = run(main)
    assert found.store_error is not None
    assert len(said(caplog)) == 1


def test_an_event_loop_goes_on_while_the_store_waits(run: Run, path: Path) -> None:
    """One task waits for another process's lock; another opens the same store, and gives up on it at once."""

    async def main() -> None:
        store = mt.JobStore(path, busy_timeout_seconds=30.0)
        async with store:
            with raw(path) as connection:
                connection.execute("BEGIN IMMEDIATE")
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(store.remember, URL, FOR_EVER)
                    await anyio.wait_all_tasks_blocked()
                    started = time.monotonic()
                    tasks.start_soon(store.find, URL)
                    await anyio.wait_all_tasks_blocked()
                    assert time.monotonic() - started < 5
                    connection.execute("ROLLBACK")
            assert await store.find(URL) == FOR_EVER

    run(main)


# -- several at once


class Watched(sqlite3.Connection):
    """Lets something happen before, or after, the first statement that has this in it."""

    word = ""
    before = after = staticmethod(lambda: None)

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        if Watched.word not in arguments[0]:
            return super().execute(*arguments)
        Watched.word = "no more"
        Watched.before()
        rows = super().execute(*arguments).fetchall()
        Watched.after()
        return cast(sqlite3.Cursor, _Rows(rows))


class _Rows:
    def __init__(self, rows: list[Any]) -> None:
        self.fetchone = lambda: rows[0]


def watch(monkeypatch: pytest.MonkeyPatch, word: str, **moments: Callable[[], object]) -> None:
    """Let something happen `before` or `after` the first statement with this word in it, of whatever connection."""
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **{**k, "factory": Watched}))
    monkeypatch.setattr(Watched, "word", word)
    for moment, does in moments.items():
        monkeypatch.setattr(Watched, moment, staticmethod(does))


def test_a_fresh_file_that_is_locked_for_a_moment_is_waited_for(
    run: Run, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite does not wait for who writes just when the file is to become a WAL file: the store tries again."""
    with raw(path) as connection:
        watch(monkeypatch, "journal_mode", before=lambda: connection.execute("BEGIN IMMEDIATE"))
        monkeypatch.setattr(time, "sleep", lambda seconds: connection.execute("ROLLBACK"))
        run(remember, path)
        assert not connection.in_transaction
    assert run(find, path) == FOR_EVER


def test_a_fresh_file_that_is_made_meanwhile_is_not_another_programs(
    run: Run, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tables, its version and its owner are looked at in one moment."""
    watch(monkeypatch, "application_id", after=lambda: anyio.run(remember, path, f"{URL}2"))
    run(remember, path)
    assert Watched.word == "no more"
    assert run(find, path) == run(find, path, f"{URL}2") == FOR_EVER


_FRESH = """
import multiprocessing, pathlib, sys
import anyio, memsafe_transcribe as mt
CHILDREN, FILES = 8, 6

def work(number, together, errors):
    for file in range(FILES):
        together.wait()
        store = mt.JobStore(pathlib.Path(sys.argv[1]) / str(file), busy_timeout_seconds=20)
        try:
            anyio.run(store.remember, f"https://a/{number}", mt.FailedUrl("x", None, 1e12))
        except BaseException as error:
            errors.put(repr(error))

fork = multiprocessing.get_context("fork")
together, errors = fork.Barrier(CHILDREN), fork.Queue()
children = [fork.Process(target=work, args=(number, together, errors)) for number in range(CHILDREN)]
for child in children:
    child.start()
for child in children:
    child.join()
assert errors.empty(), errors.get()

async def count(file):
    store = mt.JobStore(pathlib.Path(sys.argv[1]) / str(file))
    return sum([await store.find(f"https://a/{number}") is not None for number in range(CHILDREN)])

assert [anyio.run(count, file) for file in range(FILES)] == [CHILDREN] * FILES
"""


def test_many_processes_open_a_fresh_file_at_once(tmp_path: Path) -> None:
    """None finds it locked or half made, and what each writes is there."""
    subprocess.run([sys.executable, "-c", _FRESH, str(tmp_path)], check=True, timeout=60)


_FORK = """
import os, sys, threading
import anyio, memsafe_transcribe as mt
store = mt.JobStore(sys.argv[1])
to_child, from_child = os.pipe(), os.pipe()

async def remember(name):
    await store.remember(f"https://a/{name}", mt.FailedUrl(name, None, 1e12))

async def child():
    async with store:
        await remember("two")
        os.write(from_child[1], b"x")
        os.read(to_child[0], 1)
        await remember("three")

def child_process():
    try:
        anyio.run(child)
        os._exit(0)
    finally:
        os._exit(1)

async def parent():
    async with store:
        await remember("one")
        pid = os.fork()
        if pid == 0:
            thread = threading.Thread(target=child_process)
            thread.start()
            thread.join()
        await remember("four")
        assert os.read(from_child[0], 1)
    os.write(to_child[1], b"x")  # it was the last that the parent knows of
    return pid

assert os.waitpid(anyio.run(parent), 0)[1] == 0

async def all_of_them():
    return [await store.find(f"https://a/{name}") is not None for name in ("one", "two", "three", "four")]

assert anyio.run(all_of_them) == [True] * 4
"""


def test_a_fork_while_it_is_open_loses_nothing(path: Path) -> None:
    """The child writes before and after its parent has closed the file; all of it is there."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", _FORK, str(path)], check=True, timeout=60)


_VISITOR = """
import sys, anyio, memsafe_transcribe as mt
async def main():
    async with mt.JobStore(sys.argv[1]) as store:
        await store.remember("https://a/visitor", mt.FailedUrl("x", None, 1e12))
anyio.run(main)
"""


def test_two_stores_of_one_process_keep_their_locks(run: Run, path: Path) -> None:
    """A second one is opened; another process comes and goes, and must not take itself for the last."""

    async def main() -> None:
        async with mt.JobStore(path) as store, mt.JobStore(path) as other:
            await other.remember(URL, FOR_EVER)
            await anyio.run_process([sys.executable, "-c", _VISITOR, str(path)])
            assert path.with_name(f"{path.name}-wal").exists()
            await store.remember(f"{URL}2", FOR_EVER)

    run(main)
    for url in (URL, f"{URL}2", "https://a/visitor"):
        assert run(find, path, url) is not None


def test_many_threads_share_one_store(run: Run, path: Path) -> None:
    """Each with an event loop of its own; all that they write is there."""
    store = mt.JobStore(path)

    def work(number: int) -> None:
        async def main() -> None:
            for each in range(5):
                await store.remember(f"https://a/{number}/{each}", FOR_EVER)
                assert await store.find(f"https://a/{number}/{each}") == FOR_EVER

        anyio.run(main, backend="trio" if number % 2 else "asyncio")

    async def main() -> None:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await anyio.to_thread.run_sync(thread.join)
        assert [await store.find(f"https://a/{number}/4") for number in range(6)] == [FOR_EVER] * 6

    run(main)


# -- what is in it, and what is not


def test_only_its_owner_can_read_it(run: Run, path: Path) -> None:
    """Neither the file nor those beside it, whatever the umask."""

    async def main() -> None:
        async with mt.JobStore(path) as store:
            await store.remember(URL, FOR_EVER)
            batch = mt.BatchTranscriber(mt.ChunkedTranscriber(Teller(), store=store))
            async with batch.run([]) as outcomes:
                assert [each async for each in outcomes] == []
            modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
            suffixes = ("", "-wal", "-shm", "-locks")
            assert modes == {f"{path.name}{suffix}": 0o600 for suffix in suffixes}

    before = os.umask(0)
    try:
        run(main)
    finally:
        os.umask(before)


def test_descriptors_are_closed_with_the_last_user(run: Run, path: Path) -> None:
    """While two blocks are open, one connection is; after the first it stays, after the second it is gone."""
    store = mt.JobStore(path)

    def opened() -> int:
        return sum(name == str(path) for name in open_descriptors().values())

    async def main() -> None:
        async with store:
            assert opened() == 1
            assert await store.find(URL) is None
            assert opened() == 1
        assert opened() == 0
        assert {each.name for each in path.parent.iterdir()} == {path.name}

    run(main)


def test_a_store_that_could_not_be_opened_can_be_later(run: Run, tmp_path: Path) -> None:
    """Nothing of the failure stays."""
    store = mt.JobStore(tmp_path / "folder" / "jobs.sqlite")

    async def main() -> None:
        with pytest.raises(mt.StoreError):
            await store.find(URL)
        store.path.parent.mkdir()
        await store.remember(URL, FOR_EVER)
        assert await store.find(URL) == FOR_EVER

    run(main)


# -- versions


def test_a_file_of_an_earlier_version_is_migrated(run: Run, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only by what it lacks, and what is in it stays: here the next release's version finds one of this."""
    run(remember, path)
    later = "CREATE TABLE more (a); INSERT INTO more VALUES (7);"
    monkeypatch.setattr(database_module, "MIGRATIONS", (*schema.MIGRATIONS, later))
    monkeypatch.setattr(database_module, "VERSION", schema.VERSION + 1)
    for _ in range(2):
        assert run(find, path) == FOR_EVER
    with raw(path) as connection:
        assert connection.execute("SELECT a FROM more").fetchall() == [(7,)]
        assert connection.execute("PRAGMA user_version").fetchone() == (schema.VERSION + 1,)


def test_a_migration_that_breaks_off_leaves_what_was(run: Run, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it happens, or nothing; the same file still works with the release that made it."""
    run(remember, path)
    with monkeypatch.context() as patch:
        patch.setattr(database_module, "MIGRATIONS", (*schema.MIGRATIONS, "CREATE TABLE more (a); no SQL at all"))
        patch.setattr(database_module, "VERSION", schema.VERSION + 1)
        assert refusal(run, path).reason == "failed"
    assert run(find, path) == FOR_EVER
    with raw(path) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'more'").fetchone() == (0,)
