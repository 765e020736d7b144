"""Batches over a few files in any order of running, cancelling, failing, dying, cleaning up, waiting and changing.

Each step is a run of a batch or a cleanup, on a real database. A process that dies is a real one. Then what is in the
database is compared with what must, and what must not, be there.
"""

import gc
import hashlib
import os
import shutil
import signal
import sqlite3
import tempfile
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
from hypothesis import settings, strategies as st
from hypothesis.stateful import initialize, invariant, rule

import memsafe_transcribe as mt
from memsafe_transcribe._store import batches, cleaning, failed_urls, jobs
from memsafe_transcribe._store.store import inside
from memsafe_transcribe._transcription import asking, attempting

from ..conftest import open_descriptors
from ..support.media import tone_samples, write_wav
from ..support.steps import CountedMachine
from .watching import WATCHED, chunk_of, chunks_in

LONG = os.environ.get("MEMSAFE_TEST_PROFILE") == "long"
FILES, CONTENTS, MAX_ATTEMPTS = 3, 5, 2
HOUR, DAY = 3600.0, 86_400.0
_CALLS = 5  # for one chunk, before it is given up
_FAR = 30 * DAY

Act = Callable[[], Awaitable[None]]


class Clock:
    """In place of `time` in the modules of the store."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def time(self) -> float:
        return self.now


class Actor:
    """An engine that tells what it answers, and does something else at some of its calls."""

    def __init__(self, told: Callable[[str], object], acts_at: range, act: Act) -> None:
        self.capabilities = mt.Capabilities(max_chunk_seconds=60.0, timestamps="word", cache_key="actor", concurrency=2)
        self._told = told
        self._acts_at = acts_at
        self._act = act
        self._calls = 0

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        self._calls += 1
        if self._calls in self._acts_at:
            await self._act()
        name = f"{hashlib.sha256(chunk.data).hexdigest()[:16]}@{chunk.start_seconds:.4f}"
        self._told(name)
        middle = chunk.duration_seconds / 2
        return mt.ChunkResult(words=(mt.Word(name, middle - 0.1, middle + 0.1),), language="en")


async def nothing() -> None:
    pass


async def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _write_line(fd: int, text: str) -> None:
    os.write(fd, f"{text}\n".encode())


def samples(content: int) -> bytes:
    return tone_samples(1.5 + content / 4, 8000 // (8 + content))


def transcriber(engine: Actor, store: mt.JobStore | None) -> mt.ChunkedTranscriber:
    return mt.ChunkedTranscriber(engine, chunk_seconds=1.0, isolation="thread", store=store)


@cache
def expected(content: int) -> str:
    """The transcript, without a store."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_wav(Path(folder) / "file.wav", samples(content))
        engine = Actor(lambda name: None, range(0), nothing)
        return anyio.run(transcriber(engine, None).transcribe, path).to_json()


def names(content: int) -> set[str]:
    """Its chunks."""
    return chunks_in(expected(content))


class StoreMachine(CountedMachine):
    """One database, and a model of when what was last in use.

    A content is what a file has at one time; two files may have the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self._patched: list[tuple[ModuleType, str, object]] = []
        for module in (batches, cleaning, failed_urls, jobs):
            self._patch(module, "time", self.clock)
        self._patch(asking, "_BACKOFF_SECONDS", 0.0)
        self._patch(attempting, "_BACKOFF_SECONDS", 0.0)
        self.folder = Path(tempfile.mkdtemp())
        self.store = mt.JobStore(self.folder / "jobs.sqlite")
        self.files = [self.folder / f"{index}.wav" for index in range(FILES)]
        self.contents = list(range(FILES))
        self.used: dict[int, float] = {}  # when each content was last in use
        self.in_open_batch: set[int] = set()  # what an unfinished batch is known to have
        self.batch_used = 0.0
        self.deaths = 0
        self.failed: set[tuple[int, int]] = set()  # a file, and the content with which it failed

    def _patch(self, module: ModuleType, name: str, value: object) -> None:
        self._patched.append((module, name, getattr(module, name)))
        setattr(module, name, value)

    def teardown(self) -> None:
        for module, name, value in self._patched:
            setattr(module, name, value)
        shutil.rmtree(self.folder)

    @initialize()
    def begin(self) -> None:
        for content in range(CONTENTS):
            expected(content)
        for path, content in zip(self.files, self.contents, strict=True):
            write_wav(path, samples(content))

        async def make() -> None:
            async with self.store:
                pass

        anyio.run(make)
        self._sql(WATCHED)
        gc.collect()
        self.descriptors = open_descriptors()

    # -- what can happen

    @rule(files=st.sets(st.integers(0, FILES - 1), min_size=1), again=st.booleans())
    def run_to_its_end(self, files: set[int], again: bool) -> None:
        self._check_run(files, *self._run(files, range(0), nothing, retry_failed=again), is_whole=True, again=again)

    @rule(files=st.sets(st.integers(0, FILES - 1), min_size=1), call=st.integers(1, 6))
    def cancel(self, files: set[int], call: int) -> None:
        outcomes, answered = self._run(files, range(call, 100), self._cancel)
        self._check_run(files, outcomes, answered, is_whole=not self._scope.cancel_called)

    @rule(
        files=st.sets(st.integers(0, FILES - 1), min_size=1),
        call=st.integers(1, 6),
        times=st.sampled_from([1, _CALLS, MAX_ATTEMPTS * _CALLS]),
        is_retryable=st.booleans(),
    )
    def fail(self, files: set[int], call: int, times: int, is_retryable: bool) -> None:
        async def act() -> None:
            raise mt.TranscriberUnavailableError("busy") if is_retryable else ValueError("broken")

        outcomes, answered = self._run(files, range(call, call + times), act)
        self._check_run(files, outcomes, answered, is_whole=True, may_fail=True)

    @rule(files=st.sets(st.integers(0, FILES - 1), min_size=1), call=st.integers(1, 6))
    def die(self, files: set[int], call: int) -> None:
        reader, writer = os.pipe()
        self._before, self._happened_before = self._stored(), self._happened()
        if (pid := os.fork()) == 0:
            try:
                told = partial(_write_line, writer)
                self._run(files, range(call, 100), die, told=told)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        os.close(writer)
        with open(reader) as lines:
            answered = lines.read().split()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code in (0, -signal.SIGKILL)
        self.deaths += code != 0
        self._check_run(files, None, answered, is_whole=code == 0)

    @rule(files=st.sets(st.integers(0, FILES - 1), min_size=1), call=st.integers(1, 6))
    def clean_up_meanwhile(self, files: set[int], call: int) -> None:
        """Long after, as another process would: what is in work stays."""
        answered: list[str] = []

        async def act() -> None:
            kept = self._stored() & set(answered)
            self.clock.now += _FAR
            await mt.JobStore(self.store.path).cleanup(spool_dir=self.folder)
            assert kept <= self._stored()

        outcomes, _ = self._run(files, range(call, call + 1), act, told=answered.append)
        self._check_run(files, outcomes, answered, is_whole=True)

    @rule(hours=st.sampled_from([1, 20, 30, 24 * 6, 24 * 8]))
    def clean_up(self, hours: int) -> None:
        before, finished = self._stored(), self._finished()
        self.clock.now += hours * HOUR
        anyio.run(lambda: self.store.cleanup(spool_dir=self.folder))
        for name in before - self._stored():
            (content,) = (content for content in range(CONTENTS) if name in names(content))
            idle = self.clock.now - self.used[content]
            assert idle > (DAY if content in finished else 7 * DAY), (content, idle)
            assert content not in self.in_open_batch or self.clock.now - self.batch_used > 7 * DAY, content

    @rule(file=st.integers(0, FILES - 1), content=st.integers(0, CONTENTS - 1))
    def change(self, file: int, content: int) -> None:
        self.contents[file] = content
        write_wav(self.files[file], samples(content))

    # -- what must be so

    @invariant()
    def nothing_is_held(self) -> None:
        """Neither a descriptor nor a lock."""
        if not hasattr(self, "descriptors"):
            return
        gc.collect()
        assert open_descriptors() == self.descriptors
        locks = inside(self.store).batches._locks  # noqa: SLF001
        lock_names = [b"batch %d" % row[0] for row in self._sql("SELECT id FROM batches")]
        lock_names += [b"job " + row[0] for row in self._sql("SELECT key FROM jobs")]
        lock_names += [b"source " + row[0] for row in self._sql("SELECT key FROM sources")]
        for name in lock_names:
            lock = locks.try_lock(name)
            assert lock is not None, name
            lock.release()

    @invariant()
    def attempts_are_bounded(self) -> None:
        if hasattr(self, "descriptors"):
            assert all(attempts <= MAX_ATTEMPTS for (attempts,) in self._sql("SELECT attempts FROM sources"))

    # -- how

    async def _cancel(self) -> None:
        self._scope.cancel()
        await anyio.sleep_forever()

    def _run(
        self,
        files: set[int],
        acts_at: range,
        act: Act,
        *,
        told: Callable[[str], object] | None = None,
        retry_failed: bool = False,
    ) -> tuple[dict[int, mt.Outcome], list[str]]:
        """A batch over these files: what came of each, and what the engine answered."""
        outcomes: dict[int, mt.Outcome] = {}
        answered: list[str] = []
        engine = Actor(told or answered.append, acts_at, act)

        async def main() -> None:
            with anyio.CancelScope() as self._scope:
                batch = mt.BatchTranscriber(transcriber(engine, self.store), max_attempts=MAX_ATTEMPTS)
                sources = [self.files[file] for file in sorted(files)]
                async with batch.run(sources, retry_failed=retry_failed) as found:
                    async for outcome in found:
                        outcomes[sorted(files)[outcome.index]] = outcome

        self._before, self._happened_before = self._stored(), self._happened()
        anyio.run(main)
        return outcomes, answered

    def _check_run(
        self,
        files: set[int],
        outcomes: dict[int, mt.Outcome] | None,
        answered: list[str],
        *,
        is_whole: bool,
        may_fail: bool = False,
        again: bool = False,
    ) -> None:
        """What came of a run; None for the outcomes where nobody is left to tell."""
        stored, happened = self._stored(), self._happened()
        removed = {name for what, name in happened - self._happened_before if what == "removed"}
        assert not set(answered) & self._before - removed, "asked for again"
        assert may_fail or len(answered) == len(set(answered))
        assert self._before - stored <= removed
        for content in range(CONTENTS):
            for name in names(content):
                assert happened["stored", name] - happened["removed", name] == (name in stored)
        assert not any(what == "changed" for what, _ in happened)
        for file, outcome in (outcomes or {}).items():
            content = self.contents[file]
            if outcome.transcript is not None:
                assert outcome.transcript.to_json() == expected(content)
                assert names(content) <= stored
            elif isinstance(outcome.error, mt.DeadLetterError):
                assert not again
                assert (file, content) in self.failed or self.deaths >= batches.MAX_DEATHS
                others = {self.contents[other] for other in files if other != file}
                assert content in others or not set(answered) & names(content)
            else:
                assert may_fail and isinstance(outcome.error, mt.TranscriberFailedError), outcome.error
                self.failed.add((file, content))
        assert not is_whole or outcomes is None or outcomes.keys() == files
        touched = {self.contents[file] for file, outcome in (outcomes or {}).items() if outcome.transcript is not None}
        touched |= {content for content in range(CONTENTS) if names(content) & set(answered)}
        self.used |= dict.fromkeys(touched, self.clock.now)
        if is_whole:
            self.in_open_batch.clear()
        elif touched:
            self.in_open_batch |= touched
            self.batch_used = self.clock.now

    def _sql(self, script: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.store.path)) as connection:
            if script is WATCHED:
                connection.executescript(script)
                return []
            return connection.execute(script).fetchall()

    def _stored(self) -> set[str]:
        return {chunk_of(result) for (result,) in self._sql("SELECT result FROM chunks")}

    def _happened(self) -> Counter[tuple[str, str]]:
        return Counter((what, chunk_of(result)) for what, result in self._sql("SELECT what, result FROM happened"))

    def _finished(self) -> set[int]:
        """The contents of finished jobs."""
        rows = self._sql("SELECT result FROM chunks JOIN jobs ON jobs.id = job_id WHERE total_samples IS NOT NULL")
        return {content for content in range(CONTENTS) if any(chunk_of(row[0]) in names(content) for row in rows)}


TestStore = StoreMachine.TestCase
TestStore.settings = (
    settings(max_examples=200, stateful_step_count=50) if LONG else settings(max_examples=10, stateful_step_count=12)
)
