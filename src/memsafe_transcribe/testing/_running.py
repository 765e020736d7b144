"""The part of the contract about calls in time: cancelled, side by side, beside the event loop."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import anyio
import pytest

from .._errors import TranscriberFailedError
from .._transcription.protocol import AudioChunk, ChunkResult
from . import _sounds
from ._base import ContractBase
from ._bench import Asked, broken

_PROMPT_SECONDS = 3.0
_MIDST_SECONDS = 0.05
_LOOP_SECONDS = 1.0
_TRIES = 3  # a busy machine fails once; an engine, each time
_TELLING_SECONDS = 0.2
_AT_ONCE = 3  # jobs ask the same engine at once, unless the host says otherwise
_LONG_SECONDS = 60.0
_LOOKED_ON_SECONDS = 10.0


class RunningContract(ContractBase):
    """Cancellation, concurrency, threads, the event loop."""

    def test_a_cancelled_call_ends_promptly(self, backend: str) -> None:
        """An async call within 3 s, a sync one within call_seconds; the engine then answers as before."""

        async def main(asked: Asked) -> None:
            limit_seconds = _PROMPT_SECONDS if asked.is_async else self.call_seconds
            for which in ("first", "third"):
                seconds = await _cancel_midway(asked, self._longest(asked.capabilities, _LONG_SECONDS))
                if seconds > limit_seconds:
                    broken(
                        f"cancelled in its midst, the {which} call went on for {seconds:.1f} s, longer than "
                        f"{limit_seconds:g} s. Do not shield what may take long, or swallow cancellation; a plain "
                        "method needs a timeout of its own"
                    )
                await asked.ask(self._short(asked.capabilities), what="a chunk after a cancelled call")

        self._run(main, backend)

    def test_calls_at_once_do_not_mix_up(self, backend: str) -> None:
        """Each chunk gets its own answer while others are asked for, as several jobs do. For async engines."""

        async def main(asked: Asked) -> None:
            if not asked.is_async:
                pytest.skip("transcribe is not async: test_is_thread_safe_as_declared looks at its threads")
            await self._compare_at_once(asked, "keep what belongs to a call in local variables, not on self")

        self._run(main, backend)

    def test_is_thread_safe_as_declared(self) -> None:
        """Several threads in it at once get their own answers. For engines that are not async and say that they are."""

        async def main(asked: Asked) -> None:
            if asked.is_async or not asked.capabilities.is_thread_safe:
                pytest.skip("async, or is_thread_safe=False: it is never in several threads at once")
            with _restless_threads():
                for _ in range(_TRIES):
                    await self._compare_at_once(asked, "declare is_thread_safe=False, or keep calls apart")

        self._run(main)

    def test_declared_concurrency_is_real(self, backend: str) -> None:
        """As many calls as `concurrency` says are under way at one time. Skipped where it is 1, or cannot be seen."""

        async def main(asked: Asked) -> None:
            count = asked.capabilities.concurrency
            if count == 1:
                pytest.skip("concurrency=1")
            if not asked.is_async and not asked.capabilities.is_thread_safe:
                pytest.skip("not async and not thread-safe: test_capabilities_are_sane_and_stable speaks of that")
            samples = self._samples(_sounds.short_samples(asked.capabilities, 10.0))
            await asked.ask(_sounds.chunk_of(samples))
            started = monotonic()
            await asked.ask(_sounds.chunk_of(samples))
            seconds = monotonic() - started
            is_telling = seconds > _TELLING_SECONDS  # else one may end before the next can begin
            most = max([await _under_way(asked, samples, count) for _ in range(_TRIES if is_telling else 1)])
            if not is_telling:
                pytest.skip(
                    f"a call took {seconds:.2g} s: calls shorter than {_TELLING_SECONDS:g} s cannot be seen side by "
                    "side; let your test server wait 0.3 s before it answers, to have concurrency checked"
                )
            if most == 0:
                pytest.skip("no call looked at chunk.data, so that none could be seen")
            if most < count:
                broken(
                    f"concurrency={count}, and at most {most} calls looked at their chunks before another had ended: "
                    f"declare concurrency={most}, or let them run side by side (no lock, a pool as large)"
                )

        self._run(main, backend)

    def test_the_event_loop_goes_on(self, backend: str) -> None:
        """Other tasks never wait a second for it, in its first call or a later one."""
        waits = [self._run(self._longest_wait, backend)]
        while waits[-1] > _LOOP_SECONDS and len(waits) < _TRIES:
            waits.append(self._run(self._longest_wait, backend))
        if waits[-1] > _LOOP_SECONDS:
            broken(
                f"while the engine worked, the event loop stood still for {min(waits):.1f} s and more. Make "
                "`transcribe` a plain method, which runs in a thread, or await a thread or a process in it; code that "
                "holds the interpreter's lock for long needs a process"
            )

    async def _longest_wait(self, asked: Asked) -> float:
        longest = 0.0

        async def tick() -> None:
            nonlocal longest
            last = monotonic()
            while True:
                await anyio.sleep(0.01)
                last, before = monotonic(), last
                longest = max(longest, last - before)

        chunk = _sounds.chunk_of(self._longest(asked.capabilities, _LOOKED_ON_SECONDS))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tick)
            await anyio.sleep(0.05)
            await asked.ask(self._short(asked.capabilities))
            await asked.ask(chunk)
            await anyio.sleep(0.05)  # for the tick that was waiting
            tasks.cancel_scope.cancel()
        return longest

    async def _compare_at_once(self, asked: Asked, advice: str) -> None:
        count = max(_AT_ONCE, asked.capabilities.concurrency)
        chunks = [self._numbered(asked, number) for number in range(count)]
        alone = [await asked.ask(chunk) for chunk in chunks]
        again = [await asked.ask(chunk) for chunk in chunks]
        together = await _together(asked, chunks)
        for chunk, first, second, answer in zip(chunks, alone, again, together, strict=True):
            if first == second != answer:  # else it answers differently each time, and nothing can be compared
                broken(
                    f"chunk {chunk.index} was answered {_brief(answer)} among {count} calls at once, and "
                    f"{_brief(first)} alone: {advice}"
                )

    def _numbered(self, asked: Asked, number: int) -> AudioChunk:
        """One of several that differ in length, place and sound."""
        samples = _sounds.short_samples(asked.capabilities, 2.0 + number % 8 / 4)
        sound = self._samples(samples + number * 4_000)[number * 8_000 :]
        return _sounds.chunk_of(sound, index=number, start_seconds=60.0 * number)


async def _together(asked: Asked, chunks: list[AudioChunk]) -> list[ChunkResult]:
    answers: dict[int, ChunkResult] = {}

    async def one(number: int, chunk: AudioChunk) -> None:
        answers[number] = await asked.ask(chunk, what=f"a chunk among {len(chunks)} at once")

    async with anyio.create_task_group() as tasks:
        for number, chunk in enumerate(chunks):
            tasks.start_soon(one, number, chunk)
    return [answers[number] for number in range(len(chunks))]


async def _under_way(asked: Asked, samples: bytes, count: int) -> int:
    """How many of `count` calls had looked at their chunk, and not ended, at one time."""
    lock = threading.Lock()
    running = most = 0

    def begun() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)

    async def one() -> None:
        nonlocal running
        has_begun = threading.Event()

        def on_read() -> None:
            has_begun.set()
            begun()

        await asked.ask(_sounds.watched_chunk(samples, on_read), what=f"a chunk among {count} at once")
        with lock:
            running -= has_begun.is_set()

    async with anyio.create_task_group() as tasks:
        for _ in range(count):
            tasks.start_soon(one)
    return most


async def _cancel_midway(asked: Asked, samples: bytes) -> float:
    """Cancel a call once it has looked at its chunk; how many seconds it then still took."""
    read, ended = threading.Event(), anyio.Event()

    async def call() -> None:
        try:
            await asked.call(_sounds.watched_chunk(samples, read.set))
        except TranscriberFailedError:
            pass  # what it makes of being cancelled, or of babble: other checks look at that
        finally:
            ended.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        with anyio.move_on_after(_PROMPT_SECONDS):
            while not read.is_set() and not ended.is_set():  # noqa: ASYNC110 - a thread sets the one
                await anyio.sleep(0.005)
        await anyio.sleep(_MIDST_SECONDS)
        tasks.cancel_scope.cancel()
        started = monotonic()
    return monotonic() - started


@contextmanager
def _restless_threads() -> Iterator[None]:
    """Threads take turns as often as they can, so that what can go wrong does."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def _brief(result: ChunkResult) -> str:
    text = repr(result)
    return text if len(text) <= 200 else f"{text[:200]}..."
