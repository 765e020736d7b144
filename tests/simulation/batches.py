"""Batches, their store and the admission together: processes that share a store come, are cancelled, are killed, and
go on, over an engine that fails in every way, until the last of them is let be.

All of the library runs that a batch runs, but the decoding process: in its place stands one that gives samples at once.
Threads run when the schedule says. SQLite, its file and the locks beside it are real; a process that is killed leaves
there what it had written, and its locks are dropped, as the kernel would.
"""

# ruff: noqa: SLF001 - to be killed, a process needs to be taken apart

import json
import os
import sqlite3
import tempfile
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from contextvars import copy_context
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Literal

import anyio
from anyio.abc import TaskGroup

import memsafe_transcribe as mt
from memsafe_transcribe import MiB
from memsafe_transcribe._admission.claims import Claim
from memsafe_transcribe._audio.words import Block, MediaInfo
from memsafe_transcribe._store.locks import Lock
from memsafe_transcribe._store.store import inside
from memsafe_transcribe._transcription import attempting, running
from memsafe_transcribe.testing import FakeGuard

from .schedulers import Process, Schedule, running_process

LIMIT = 160 * MiB
MOST_SECONDS = 4000.0
MAX_ATTEMPTS = 3
_RATE = 16_000
_FRAME = 160
_ASKS = 5  # of one chunk, in one attempt on its source
_PAUSES = (0.0, 0.0, 0.0, 0.01, 0.2, 3.0)

Fate = Literal["good", "busy", "weak", "large", "broken", "crash", "no audio", "gone"]


@dataclass
class Audio:
    """What one source is, and what becomes of it.

    Attributes:
        name: told to the engine by its samples.
        fate: "busy": the engine is, for a moment, at some of its chunks; "weak": at one, for so long that `trouble`
            attempts are in vain; "large": its chunks are too large for the engine; "broken": one fails for ever;
            "crash": so many decoders do; "gone": there is no file.
    """

    number: int
    seconds: float
    fate: Fate
    trouble: int
    transcript: str | None = None
    asked: Counter[int] = field(default_factory=Counter)

    @property
    def bad_chunk(self) -> int:
        """The second of which the engine will not hear."""
        return int(self.seconds / 2)


class Life:
    """One process, from its start to its end.

    Attributes:
        ending: how it is to end: by itself, cancelled, or killed.
        steps_left: until it is.
    """

    def __init__(self, world: "World", name: str, ending: Literal["itself", "cancelled", "killed"]) -> None:
        random = world.random
        self.name = name
        self.process = Process()
        self.scope = anyio.CancelScope()
        self.ending = ending
        self.steps_left = int(2 ** random.uniform(0, 12)) if ending != "itself" else 0
        self.locks: list[Lock] = []
        self.calls = 0
        self.seen: set[Claim] = set()
        self.has_ended = False
        self.slots = random.choice((1, 2, 3, 5))
        self.guard = FakeGuard(limit_bytes=LIMIT, used_bytes=world.foreign)
        self.admission = mt.AdmissionController(guard=self.guard, scope="process", max_concurrent=self.slots)
        self.store = mt.JobStore(world.path)
        self._keep_locks()

    def _keep_locks(self) -> None:
        locks = inside(self.store).jobs._locks
        try_lock = locks.try_lock

        def kept(name: bytes, *, shared: bool = False) -> Lock | None:
            self.process.check()
            lock = try_lock(name, shared=shared)
            if lock is not None:
                self.locks.append(lock)
            return lock

        setattr(locks, "try_lock", kept)  # noqa: B010

    def kill(self) -> None:
        """As SIGKILL: nothing of it reaches the world outside any more, and what the kernel drops is dropped."""
        self.process.is_dead = True
        for lock in self.locks:
            lock.release()
        inside(self.store).database._close()
        self.scope.cancel()

    def check(self) -> None:
        """What its admission says is the sum of what it has granted; within its slots and its room."""
        ledger = self.admission._keeper.ledger
        granted = ledger.granted
        slots = sum(claim.takes_slot for claim in granted)
        unused = sum(claim.unused_bytes for claim in granted)
        assert ledger.slots_taken == slots <= self.slots, (self.name, "slots", ledger.slots_taken, slots, self.slots)
        assert ledger.unused_bytes == unused, (self.name, "unused", ledger.unused_bytes, unused)
        assert ledger.reserved_bytes == sum(claim.need_bytes for claim in granted), (self.name, "reserved")
        assert self.calls <= slots, f"{self.name} asks for {self.calls} chunks on {slots} slots"
        if news := granted - self.seen:
            room = self.guard.room()
            is_alone = not any(claim.takes_slot for claim in granted & self.seen)
            assert unused <= (room.admitted_work_bytes if is_alone else room.new_work_bytes), (self.name, unused, room)
            self.seen |= news

    def check_end(self) -> None:
        """It has ended in order: nothing is left of it."""
        now, database = self.admission.statistics(), inside(self.store).database
        assert (now.active, now.waiting, now.reserved_bytes, now.orphaned) == (0, 0, 0, 0), (self.name, now)
        assert not self.calls, f"{self.name} is still asking"
        assert not database._users and database._connection is None, f"{self.name} left its database open"
        assert all(lock._fd < 0 for lock in self.locks), f"{self.name} has left locks"


class Engine:
    """Answers each chunk with what it is, after some failures."""

    def __init__(self, world: "World", life: Life) -> None:
        random = world.random
        self.capabilities = mt.Capabilities(
            cache_key="simulated",
            concurrency=random.choice((1, 2, 4)),
            resident_bytes=random.choice((0, 20 * MiB)),
        )
        self._world = world
        self._life = life

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        world, life = self._world, self._life
        number = int.from_bytes(chunk.data[44:46], "little")
        text = f"<{number} {round(chunk.start_seconds * 100)} {round(chunk.duration_seconds * 100)}>"
        life.process.check()
        world.check_asked(number, chunk.start_seconds, chunk.duration_seconds)
        life.calls += 1
        try:
            await anyio.sleep(world.random.choice(_PAUSES))
        finally:
            life.calls -= 1
        life.process.check()
        world.fail_at(world.audios[number], chunk)
        return mt.ChunkResult(text=text)


class Decoder:
    """Gives the samples of one source, as fast as they are read."""

    pid = None
    gaps = ()

    def __init__(self, world: "World", audio: Audio) -> None:
        self.info = MediaInfo("wav", "pcm", audio.seconds, False)
        self._world = world
        self._audio = audio
        self._at = 0

    async def read(self) -> Block | None:
        """Two seconds. Each second ends with a pause, so that no two chunks overlap in what is heard."""
        await anyio.sleep(self._world.random.choice((0.0, 0.0, 0.0, 0.05)))
        samples = min(2 * _RATE, int(self._audio.seconds * _RATE) - self._at)
        if samples <= 0:
            return None
        frames = -(-samples // _FRAME)
        levels = array("f", [0.01 if frame % 100 < 70 else 1e-9 for frame in range(frames)])
        self._at += samples
        return Block(levels, self._audio.number.to_bytes(2, "little") * samples)


class World:
    """The store, the sources, and all processes that were."""

    def __init__(self, random: Random, folder: Path) -> None:
        self.random = random
        self.schedule = Schedule(random, self)
        self.path = folder / "jobs.sqlite"
        self.lives: list[Life] = []
        self.foreign = 0
        self.quota_until = 0.0
        self.notes: list[str] = []
        self.reports: Counter[str] = Counter()
        self.audios = [self._audio(number) for number in range(random.randint(1, 5))]
        self.sources = [self._source(folder, audio) for audio in self.audios]
        self.sources += random.choices(self.sources, k=random.choice((0, 0, 1)))
        self._observer: sqlite3.Connection | None = None

    def note(self, what: str) -> None:
        self.notes.append(f"{self.schedule.clock.now - 1000:10.6f}  {what}")

    def _audio(self, number: int) -> Audio:
        random = self.random
        fates: tuple[Fate, ...] = ("good", "good", "busy", "weak", "large", "broken", "crash", "no audio", "gone")
        return Audio(number, random.choice((0.5, 3.0, 7.0, 16.0)), random.choice(fates), random.choice((1, 2, 3)))

    def _source(self, folder: Path, audio: Audio) -> Path:
        path = folder / f"source {audio.number}"
        if audio.fate != "gone":
            path.write_bytes(b"%d" % audio.number)
        return path

    @asynccontextmanager
    async def open_decoder(self, fd: int, name: str, **options: Any) -> AsyncIterator[Decoder]:
        """In place of the library's own."""
        running_process.get().check()
        audio = self.audios[int(os.pread(fd, 10, 0))]
        await anyio.sleep(self.random.choice(_PAUSES))
        running_process.get().check()
        if audio.fate == "crash" and audio.asked[0] < audio.trouble:
            audio.asked[0] += 1
            raise mt.DecoderCrashedError(f"{name}: it died", reason="simulated")
        if audio.fate == "no audio":
            raise mt.UnsupportedMediaError(f"{name} is not audio")
        yield Decoder(self, audio)

    def fail_at(self, audio: Audio, chunk: mt.AudioChunk) -> None:
        """Raise what the engine says to this chunk, if it does not answer."""
        if self.schedule.clock.now < self.quota_until:
            raise mt.TranscriberQuotaError("nothing more today")
        at = round(chunk.start_seconds)
        audio.asked[at] += 1
        if audio.fate == "busy" and audio.asked[at] <= audio.trouble:
            raise mt.TranscriberUnavailableError("busy", retry_after_seconds=self.random.choice((None, 0.0, 5.0)))
        if audio.fate == "large" and chunk.duration_seconds > 3:
            raise self.random.choice((mt.ChunkTooLargeError("too large"), MemoryError()))
        is_bad = chunk.start_seconds <= audio.bad_chunk < chunk.start_seconds + chunk.duration_seconds
        if audio.fate == "weak" and is_bad and audio.asked[at] <= _ASKS * audio.trouble:
            raise self.random.choice((mt.TranscriberUnavailableError("down"), ConnectionError("down")))
        if audio.fate == "broken" and is_bad:
            raise ValueError("what is this?")

    # -- what must hold

    @property
    def observer(self) -> sqlite3.Connection:
        """Somebody else who looks into the file."""
        if self._observer is None:
            self._observer = sqlite3.connect(self.path, isolation_level=None)
        return self._observer

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        return self.observer.execute(query, values).fetchall()

    def close(self) -> None:
        if self._observer is not None:
            self._observer.close()

    def check_asked(self, number: int, start_seconds: float, duration_seconds: float) -> None:
        """Whose middle is stored is not asked for again, be it whole or in part."""
        middle = (start_seconds + duration_seconds / 2) * _RATE
        stored = self.rows("SELECT result FROM chunks WHERE core_start < ? AND ? < core_end", middle, middle)
        for text in [json.loads(result)[0] for (result,) in stored]:
            if int(text.strip("<").split()[0]) == number:
                # By itself: the library would take it for an error of the engine.
                again = f"<{number} {start_seconds:g} {duration_seconds:g}>"
                self.schedule.fail(AssertionError(f"{again} is asked for again, though {text} is stored"))

    def stepped(self) -> None:
        for life in self.lives:
            if life.has_ended or life.process.is_dead:
                continue
            life.check()
            if life.steps_left:
                life.steps_left -= 1
                if not life.steps_left:
                    self.note(f"{life.name} is {life.ending}")
                    if life.ending == "killed":
                        life.kill()
                    else:
                        life.scope.cancel()

    def rested(self) -> None:
        """Time goes on. That it must not do so for ever, is all that can be said."""

    def reported(self, report: mt.JobReport) -> None:
        running_process.get().check()
        if report.error_type is not None:
            self.reports[report.error_type] += 1

    def check_outcome(self, outcome: mt.Outcome, given: list[mt.Outcome], ordered: bool) -> None:
        """One for each source, and what is known of it by all that was seen before."""
        assert self.sources[outcome.index] == outcome.source, outcome
        assert all(outcome.index != each.index for each in given), f"source {outcome.index} has ended twice"
        assert not ordered or outcome.index == len(given), f"source {outcome.index} is not the next"
        assert (outcome.transcript is None) != (outcome.error is None), outcome
        audio = self.audios[int(Path(str(outcome.source)).name.split()[1])]
        if outcome.transcript is not None:
            assert audio.fate not in ("broken", "no audio", "gone"), outcome
            assert outcome.transcript.status == "complete", outcome.transcript.status
            assert outcome.transcript.duration_seconds == audio.seconds, outcome
            assert outcome.transcript.store_error is None, outcome.transcript.store_error
            text = outcome.transcript.text
            assert audio.transcript in (None, text), f"it was {audio.transcript}, and is {text}"
            audio.transcript = text
        elif isinstance(outcome.error, mt.DeadLetterError):
            assert outcome.error.attempts >= MAX_ATTEMPTS or audio.fate in ("broken", "no audio"), outcome
        assert outcome.attempts <= MAX_ATTEMPTS, outcome

    def check_rows(self, is_whole: bool) -> None:
        """The tables agree with each other, and with all that was seen.

        Args:
            is_whole: the last process has ended in its own time.
        """
        if not self.path.exists() or not self.rows("SELECT 1 FROM sqlite_master WHERE name = 'sources'"):
            assert not is_whole
            return
        assert self.rows("PRAGMA foreign_key_check") == []
        assert self.rows("PRAGMA integrity_check") == [("ok",)]
        overlapping = self.rows(
            "SELECT * FROM chunks a JOIN chunks b USING (job_id)"
            " WHERE a.core_start < b.core_start AND b.core_start < a.core_end"
        )
        assert overlapping == [], overlapping
        beyond = self.rows("SELECT * FROM chunks JOIN jobs ON jobs.id = job_id WHERE core_end > total_samples")
        assert beyond == [], beyond
        states = Counter(state for (state,) in self.rows("SELECT state FROM sources"))
        if is_whole or not any(life.process.is_dead for life in self.lives):
            assert not states["running"] and not states["working"], states
        deaths = sum(life.process.is_dead for life in self.lives)
        assert self.rows("SELECT * FROM sources WHERE deaths > ? OR attempts > ?", deaths, MAX_ATTEMPTS) == []
        if is_whole:
            assert self.rows("SELECT max(is_finished) FROM batches") == [(1,)], self.rows("SELECT * FROM batches")
            undone = self.rows(
                "SELECT * FROM sources LEFT JOIN jobs ON jobs.key = job_key"
                " WHERE state = 'done' AND total_samples IS NULL"
            )
            assert undone == [], undone
        (attempts,) = self.rows("SELECT coalesce(sum(attempts), 0) FROM sources")[0]
        counted = sum(self.reports.values())
        assert attempts <= counted, f"{attempts} attempts are counted, and {counted} were made: {self.reports}"


async def _live(world: World, life: Life, *, is_last: bool) -> None:
    """One process: a batch over all sources, read to its end unless it is ended before."""
    random = world.random
    running_process.set(life.process)
    world.note(f"{life.name} begins, to end {life.ending} ({life.steps_left})")
    try:
        with life.scope:
            await _run_batch(world, life, is_last=is_last)
    except BaseException:
        if not life.process.is_dead:
            raise
    life.has_ended = True
    world.note(f"{life.name} has ended")
    if not life.process.is_dead:
        life.check_end()
    await anyio.sleep(random.choice(_PAUSES))


async def _run_batch(world: World, life: Life, *, is_last: bool) -> None:
    random = world.random
    transcriber = mt.ChunkedTranscriber(
        Engine(world, life),
        admission=life.admission,
        store=life.store,
        chunk_seconds=4,
        on_job=world.reported,
        queue_timeout_seconds=None if is_last else random.choice((None, 2.0)),
    )
    batch = mt.BatchTranscriber(transcriber, max_batch_size=random.choice((1, 2, 5)), max_attempts=MAX_ATTEMPTS)
    ordered, given = random.random() < 0.3, list[mt.Outcome]()
    most = len(world.sources) if is_last else random.choice((1, 99, 99, 99))
    sources = world.sources if random.random() < 0.7 else _one_by_one(world)
    deadline_seconds = random.choice((None, None, 400.0))
    try:
        async with batch.run(sources, ordered=ordered, deadline_seconds=deadline_seconds) as outcomes:
            async for outcome in outcomes:
                if life.process.is_dead:
                    return
                world.note(f"{life.name}: {outcome.index} {_shown(outcome)}")
                world.check_outcome(outcome, given, ordered)
                given.append(outcome)
                if len(given) >= most and not is_last:
                    return
                await anyio.sleep(random.choice(_PAUSES))
    except (mt.TranscriberFailedError, mt.AdmissionError) as error:  # the latter of its engine's own memory
        world.note(f"{life.name}: {error!r}")
        if is_last or not (isinstance(error, mt.AdmissionError) or attempting.ends_batch(error)):
            raise
        return
    assert len(given) == len(world.sources), f"{len(given)} of {len(world.sources)} sources have ended"
    if is_last:
        for audio in world.audios:
            assert (
                audio.transcript is not None
                or audio.fate not in ("good", "busy", "large")
                or any(
                    isinstance(
                        each.error, mt.DeadLetterError | mt.AdmissionError | mt.MemoryPressureError | TimeoutError
                    )
                    for each in given
                )
            ), f"nothing came of {audio}"


def _shown(outcome: mt.Outcome) -> str:
    return outcome.transcript.text if outcome.transcript is not None else repr(outcome.error)


async def _one_by_one(world: World) -> AsyncIterator[Path]:
    for source in world.sources:
        await anyio.sleep(world.random.choice(_PAUSES))
        yield source


async def _happen(world: World, seconds: float) -> None:
    """Something happens that nobody has asked for."""
    await anyio.sleep(seconds)
    random = world.random
    what = random.choice(("memory", "memory", "quota", "jump", "drain"))
    world.note(what)
    if what == "memory":
        world.foreign = random.choice((0, 40, 80, 110, 150)) * MiB
        for life in world.lives:
            life.guard.used_bytes = world.foreign
    elif what == "quota":
        world.quota_until = world.schedule.clock.now + random.choice((0.5, 5.0))
    elif what == "jump":
        world.schedule.clock.now += random.choice((0.5, 20.0))
        world.schedule.clock.wall_offset += random.uniform(-20_000, 20_000)
    elif what == "drain":
        for life in world.lives:
            if life.ending != "itself" and random.random() < 0.5:
                life.admission.drain()


async def _play(world: World) -> None:
    random = world.random
    for generation in range(random.randint(0, 4)):
        async with anyio.create_task_group() as tasks:
            for number in range(random.choice((1, 1, 1, 2))):
                _start(world, tasks, f"process {generation}.{number}", random.choice(("killed", "killed", "cancelled")))
            for _ in range(random.choice((0, 0, 1, 3))):
                tasks.start_soon(_happen, world, random.uniform(0, 10))
        world.check_rows(is_whole=False)
    world.foreign = 0
    world.quota_until = 0.0
    last = Life(world, "the last process", "itself")
    world.lives.append(last)
    await _live(world, last, is_last=True)
    world.check_rows(is_whole=True)


def _start(world: World, tasks: TaskGroup, name: str, ending: Literal["killed", "cancelled"]) -> None:
    life = Life(world, name, ending)
    world.lives.append(life)

    async def live() -> None:
        try:
            await _live(world, life, is_last=False)
        except Exception as error:
            world.schedule.fail(error)

    start: Callable[..., object] = copy_context().run
    start(tasks.start_soon, live)


def run(random: Random, backend: str) -> World:
    """Run one schedule to its end, and see that nothing is left.

    Raises:
        AssertionError: what did not hold, with what happened until then.
    """
    own_decoder = vars(running)["open_decoder"]
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        world = World(random, Path(folder))
        setattr(running, "open_decoder", world.open_decoder)  # noqa: B010
        try:
            with closing(world):
                world.schedule.run(backend, lambda: _play(world), MOST_SECONDS)
        except BaseException as error:
            error.add_note("\n".join(world.notes[-60:]))
            raise
        finally:
            setattr(running, "open_decoder", own_decoder)  # noqa: B010
    return world
