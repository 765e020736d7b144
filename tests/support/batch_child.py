"""A batch in a process of its own that says what it does, and can be ended or troubled at any moment.

`nursery()` gives a process that has imported everything; it forks a batch for each order, which takes a millisecond.
"""

import ctypes
import gc
import hashlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import anyio
import psutil

import memsafe_transcribe as mt
from memsafe_transcribe._audio import decoding
from memsafe_transcribe._audio.chunks import ChunkReader, Cut
from memsafe_transcribe._audio.decoder import Decoder, open_decoder
from memsafe_transcribe._store.database import Database
from memsafe_transcribe._transcription import attempting, running

from .processes import gone_within

WAIT_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a batch is to do.

    Attributes:
        sources: URLs, and paths.
        trace: the file to which it appends what it does.
        result: the file that is there once it has ended by itself.
        spool_dir: where it downloads to.
        store: its database; None to do without.
        engine_seconds: the most that the engine takes for a chunk.
        isolation: of the decoder.
        kill_at: the phase, and which of its lines, but for those of an end, is the last thing that it does: a kill.
        fault: what `fault_arm` is told as the batch begins, and `fault_count` says at its end; see `faults.c`.
    """

    sources: list[str]
    trace: str
    result: str
    spool_dir: str
    store: str | None = None
    engine_seconds: float = 0.0
    isolation: str = "process"
    kill_at: tuple[str, int] | None = None
    fault: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of one source.

    Attributes:
        transcript: as JSON.
        is_stored: whether it says that all of it is in the store.
        error: the names of its classes.
        message: what it says.
    """

    source: str
    transcript: str | None = None
    is_stored: bool = False
    error: tuple[str, ...] = ()
    message: str = ""


@dataclass(frozen=True)
class Result:
    """What came of a batch that has ended by itself.

    Attributes:
        outcomes: in the order in which they came.
        raised: what it ended with; without classes if that is nothing.
        left: what it holds that it did not hold before: descriptors, children.
        count: of the operations that were counted, for a fault.
    """

    outcomes: list[Outcome]
    raised: Outcome
    left: list[str]
    count: int

    def transcripts(self) -> dict[str, str | None]:
        return {outcome.source: outcome.transcript for outcome in self.outcomes}


# -- the side of the test


class Child:
    """A batch that was begun."""

    def __init__(self, pid: int, result: Path) -> None:
        self._result = result
        self._pidfd: int | None = None
        with suppress(ProcessLookupError):  # it has ended already
            self._pidfd = os.pidfd_open(pid)

    def ends_within(self, seconds: float) -> bool:
        return self._pidfd is None or gone_within(self._pidfd, seconds)

    def kill(self) -> None:
        """Whatever it is doing, if it has not ended."""
        if self._pidfd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        assert self.ends_within(WAIT_SECONDS)

    def result(self) -> Result | None:
        """Once it has ended; None if that was by a kill."""
        assert self.ends_within(WAIT_SECONDS), "the batch hangs"
        try:
            text = self._result.read_text()
        except FileNotFoundError:
            return None
        outcomes, raised, left, count = json.loads(text)
        return Result([Outcome(**each) for each in outcomes], Outcome(**raised), left, count)

    def close(self) -> None:
        self.kill()
        if self._pidfd is not None:
            os.close(self._pidfd)


class Nursery:
    """Forks batches, and is the parent of what they leave."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    @contextmanager
    def child(self, order: Order) -> Iterator[Child]:
        for left in (order.result, order.trace):
            Path(left).unlink(missing_ok=True)
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(asdict(order)), file=self._process.stdin, flush=True)
        child = Child(int(self._process.stdout.readline()), Path(order.result))
        try:
            yield child
        finally:
            child.close()

    def run(self, order: Order) -> Result | None:
        with self.child(order) as child:
            return child.result()

    def orphans(self) -> list[psutil.Process]:
        """What is alive of the batches that have ended, after a while for it to notice."""
        left = psutil.Process(self._process.pid).children(recursive=True)
        return psutil.wait_procs(left, timeout=WAIT_SECONDS)[1] if left else []


@contextmanager
def nursery(environment: Mapping[str, str] = {}) -> Iterator[Nursery]:
    """A process that forks batches."""
    with nursing(__name__, environment) as process:
        yield Nursery(process)


@contextmanager
def nursing(module: str, environment: Mapping[str, str] = {}) -> Iterator["subprocess.Popen[str]"]:
    """Run a module that obeys what it is told line by line, until its stdin ends."""
    command = [sys.executable, "-m", module]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    ) as process:
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(WAIT_SECONDS)


@dataclass(frozen=True)
class Line:
    """One line of a trace: "+" where something begins, "-" where it has ended, "." in the middle of it."""

    phase: str
    sign: str
    what: str


def read_trace(path: str) -> list[Line]:
    """Empty if it was killed before it did anything."""
    if not Path(path).exists():
        return []
    return [Line(*line.split(" ", 2)) for line in Path(path).read_text().splitlines()]


def open_phases(trace: list[Line]) -> Counter[str]:
    """What had begun and not ended."""
    begun = Counter(line.phase for line in trace if line.sign == "+")
    begun.subtract(Counter(line.phase for line in trace if line.sign == "-"))
    return +begun


def asked(trace: list[Line]) -> list[str]:
    """Which chunks the engine was asked for."""
    return [line.what for line in trace if (line.phase, line.sign) == ("engine", "+")]


# -- the side of the batch


class Trace:
    """What the batch does, in a file that outlives it."""

    def __init__(self, path: str, kill_at: tuple[str, int] | None) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC)
        self._kill_at = tuple(kill_at) if kill_at else None
        self._counts: Counter[str] = Counter()

    def tell(self, phase: str, sign: str, what: str = "") -> None:
        os.write(self._fd, f"{phase} {sign} {what}\n".encode())
        self._counts[phase] += sign != "-"
        if (phase, self._counts[phase]) == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


class TellingEngine:
    """Answers with a word that stands for the very chunk."""

    def __init__(self, trace: Trace, most_seconds: float) -> None:
        self.capabilities = mt.Capabilities(
            max_chunk_seconds=60.0, timestamps="word", cache_key="telling", concurrency=2
        )
        self._trace = trace
        self._most_seconds = most_seconds

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        name = f"{hashlib.sha256(chunk.data).hexdigest()[:16]}@{chunk.start_seconds:.4f}"
        self._trace.tell("engine", "+", name)
        await anyio.sleep(random.uniform(0, self._most_seconds))
        self._trace.tell("engine", "-", name)
        middle = chunk.duration_seconds / 2
        return mt.ChunkResult(words=(mt.Word(name, middle - 0.1, middle + 0.1),), language="en")


class TellingDownloader(mt.SafeDownloader):
    """Says when it fetches."""

    def __init__(self, trace: Trace, spool_dir: str) -> None:
        super().__init__(policy=mt.UrlPolicy(allow_private=True), spool_dir=spool_dir)
        self._trace = trace

    @asynccontextmanager
    async def fetch(self, url: str, **options: Any) -> AsyncIterator[mt.DownloadedFile]:
        self._trace.tell("download", "+")
        async with super().fetch(url, **options) as file:
            self._trace.tell("download", "-")
            yield file


def _tell_of_decodes_and_commits(trace: Trace) -> None:
    opened, read, transact = open_decoder, ChunkReader.read, Database._transaction  # noqa: SLF001

    @asynccontextmanager
    async def telling_open(*arguments: Any, **options: Any) -> AsyncIterator[Decoder]:
        trace.tell("decode", "+")
        async with opened(*arguments, **options) as decoder:
            trace.tell("decode", "-")
            yield decoder

    async def telling_read(self: ChunkReader) -> Cut | None:
        trace.tell("decode", "+")
        cut = await read(self)
        trace.tell("decode", "-")
        return cut

    def telling_transact(self: Database, function: Callable[[Any], Any], begin: str, *rest: Any) -> Any:
        if begin == "BEGIN":
            return transact(self, function, begin, *rest)

        def telling_function(connection: Any) -> Any:
            result = function(connection)
            trace.tell("commit", ".")
            return result

        trace.tell("commit", "+")
        result = transact(self, telling_function, begin, *rest)
        trace.tell("commit", "-")
        return result

    setattr(running, "open_decoder", telling_open)  # noqa: B010
    setattr(ChunkReader, "read", telling_read)  # noqa: B010 - mypy would refuse an assignment
    setattr(Database, "_transaction", telling_transact)  # noqa: B010


def _outcome(source: str, transcript: mt.Transcript | None, error: BaseException | None) -> Outcome:
    classes = () if error is None else tuple(kind.__name__ for kind in type(error).__mro__)
    text = None if transcript is None else transcript.to_json()
    is_stored = transcript is not None and transcript.store_error is None
    return Outcome(source, text, is_stored, classes, "" if error is None else repr(error))


async def _batch(order: Order, trace: Trace, outcomes: list[Outcome], count: list[int]) -> None:
    store = mt.JobStore(order.store) if order.store else None
    transcriber = mt.ChunkedTranscriber(
        TellingEngine(trace, order.engine_seconds),
        downloader=TellingDownloader(trace, order.spool_dir),
        store=store,
        chunk_seconds=1.0,
        isolation=order.isolation,  # type: ignore[arg-type]
    )
    sources = [source if source.startswith("http") else Path(source) for source in order.sources]
    with _fault(order, count):
        async with mt.BatchTranscriber(transcriber).run(sources) as found:
            async for outcome in found:
                outcomes.append(_outcome(str(outcome.source), outcome.transcript, outcome.error))  # noqa: PERF401 - kept if it raises


@contextmanager
def _fault(order: Order, count: list[int]) -> Iterator[None]:
    """While this lasts, what was ordered goes wrong; then `count` has the number of operations."""
    shim = ctypes.CDLL(None)
    if order.fault is not None:
        shim.fault_arm(*order.fault)
    try:
        yield
    finally:
        if order.fault is not None:
            count[0] = shim.fault_count()


def _descriptors() -> set[str]:
    """With what they lead to; the directory's own is gone by the time that this returns."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except FileNotFoundError:
            continue
    return found


def _obey(order: Order) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    logging.getLogger("memsafe_transcribe").propagate = False
    mt.default_admission().reserve_nowait(0, slot=False).release()  # opens what the process keeps open
    trace = Trace(order.trace, order.kill_at)
    _tell_of_decodes_and_commits(trace)
    before, raised = _descriptors(), None
    outcomes: list[Outcome] = []
    count = [0]
    try:
        anyio.run(_batch, order, trace, outcomes, count)
    except BaseException as error:
        raised = error.with_traceback(None)
    gc.collect()
    left = sorted(_descriptors() - before) + [str(child) for child in psutil.Process().children()]
    result = [asdict(outcome) for outcome in outcomes], asdict(_outcome("", None, raised)), left, count[0]
    unfinished = Path(order.result + ".part")
    unfinished.write_text(json.dumps(result))
    unfinished.rename(order.result)


def _nurse() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: what a killed batch leaves is given to this one
    attempting._BACKOFF_SECONDS = 0.01  # noqa: SLF001
    assert decoding.__name__ and all(getattr(mt, name) for name in mt.__all__)  # all is loaded that a fork needs
    anyio.run(anyio.lowlevel.checkpoint)
    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            try:
                _obey(Order(**json.loads(line)))
            finally:
                sys.stderr.flush()
                os._exit(0)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _nurse()
