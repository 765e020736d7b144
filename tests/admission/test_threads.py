"""One controller under several event loops, each in a thread of its own: grants wake whoever waits, wherever."""

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from anyio.abc import TaskGroup
from anyio.lowlevel import current_token

import memsafe_transcribe as mt
from memsafe_transcribe._admission import acquiring
from memsafe_transcribe._admission.waiting import ThreadWaiter

from ..conftest import Run
from .room import NOTHING, SECONDS, ToldGuard, holds, in_time, told

BACKENDS = ["asyncio", "trio"]


class Loop:
    """A thread with an event loop, in which one reservation is waited for, held and given back."""

    def __init__(self, threads: ThreadPoolExecutor, backend: str, admission: mt.AdmissionController, need: int) -> None:
        self._admission = admission
        self._need = need
        self.is_in = threading.Event()
        self.leave = threading.Event()
        self.before: Callable[[], Awaitable[None]] | None = None
        self._end: Future[None] | None = None
        self._threads, self._backend = threads, backend

    def start(self) -> None:
        before = self._admission.statistics()
        self._end = self._threads.submit(lambda: anyio.run(self._main, backend=self._backend))
        while (now := self._admission.statistics()).waiting + now.granted == before.waiting + before.granted:
            assert not self._end.done(), self._end.result()

    async def _main(self) -> None:
        with anyio.fail_after(3 * SECONDS):
            if self.before is not None:
                await self.before()
            async with self._admission.reserve(self._need):
                self.is_in.set()
                if not self.leave.is_set():
                    await anyio.to_thread.run_sync(self.leave.wait, 3 * SECONDS)

    def end(self) -> None:
        self.leave.set()
        assert self._end is not None
        self._end.result(3 * SECONDS)


@pytest.mark.parametrize("waiting", BACKENDS)
@pytest.mark.parametrize("releasing", BACKENDS)
def test_a_release_wakes_waiters_in_other_loops(releasing: str, waiting: str) -> None:
    """Also the second in the queue, which does not look by itself, wakes when another loop frees enough for two."""
    admission = told(100)
    with ThreadPoolExecutor(3) as threads:
        holder = Loop(threads, releasing, admission, 100)
        first, second = (Loop(threads, waiting, admission, 50) for _ in range(2))
        for loop in (holder, first, second):
            loop.start()
        assert holder.is_in.wait(SECONDS)
        assert (admission.statistics().active, admission.statistics().waiting) == (1, 2)
        holder.end()
        assert first.is_in.wait(SECONDS)
        assert second.is_in.wait(SECONDS)
        first.end()
        second.end()
    assert (admission.statistics().active, admission.statistics().granted) == (0, 3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_new_head_in_another_loop_begins_to_look(backend: str) -> None:
    """When a head is let in, the next one, in another loop, looks at memory from then on."""
    guard = ToldGuard(-10)
    admission = mt.AdmissionController(guard=guard, scope="process")
    with ThreadPoolExecutor(2) as threads:
        first, second = (Loop(threads, backend, admission, 50) for _ in range(2))
        first.start()
        second.start()
        guard.say(60)
        assert first.is_in.wait(SECONDS)
        assert not second.is_in.is_set()
        guard.say(100)
        assert second.is_in.wait(SECONDS)
        first.end()
        second.end()
    assert admission.statistics().active == 0


def test_a_loop_that_cannot_be_woken_harms_nobody_else() -> None:
    """A release whose waiter's loop cannot be called does not raise, and its turn goes to the one behind it.

    Should its task come to life after all, it is told that it was given up for lost: it must not run without a slot.
    """
    admission = told(100, max_concurrent=1)

    async def deafen() -> None:
        def call_soon_threadsafe(*_: object, **__: object) -> None:
            raise RuntimeError("Event loop is closed")

        asyncio.get_running_loop().call_soon_threadsafe = call_soon_threadsafe  # type: ignore[assignment]

    with ThreadPoolExecutor(3) as threads:
        holder, second = (Loop(threads, "trio", admission, need) for need in (100, 50))
        deaf = Loop(threads, "asyncio", admission, 50)
        deaf.before = deafen
        for loop in (holder, deaf, second):
            loop.start()
        holder.end()
        assert second.is_in.wait(SECONDS)
        second.end()
        with pytest.raises(RuntimeError, match="given up for lost"):
            deaf.end()
        assert not deaf.is_in.is_set()
    assert holds(admission) == NOTHING


@pytest.mark.parametrize("backend", BACKENDS)
def test_many_loops_at_once(backend: str) -> None:
    """Eight loops of ten tasks each under one controller: never past slots or bytes, and everybody gets through."""
    admission = told(25, max_concurrent=3)
    lock = threading.Lock()
    inside: list[int] = []
    most: list[tuple[int, int]] = []

    async def task(need: int) -> None:
        async with admission.reserve(need):
            with lock:
                inside.append(need)
                most.append((len(inside), sum(inside)))
            await anyio.lowlevel.checkpoint()
            with lock:
                inside.remove(need)

    async def main() -> None:
        with anyio.fail_after(3 * SECONDS):
            async with anyio.create_task_group() as tasks:
                for need in range(1, 11):
                    tasks.start_soon(task, need)

    with ThreadPoolExecutor(8) as threads:
        for future in [threads.submit(lambda: anyio.run(main, backend=backend)) for _ in range(8)]:
            future.result(4 * SECONDS)
    assert len(most) == 80
    assert max(count for count, _ in most) <= 3
    assert max(need for _, need in most) <= 25
    statistics = admission.statistics()
    assert (statistics.active, statistics.waiting, statistics.reserved_bytes) == (0, 0, 0)
    assert (statistics.granted, statistics.rejected) == (80, 0)


# -- threads that wait


@pytest.mark.parametrize("how", ["plain", "anyio"])
def test_threads_and_tasks_stand_in_one_queue(run: Run, how: str) -> None:
    """In order of arrival, whichever they are."""
    admission = told(100, max_concurrent=1)
    order: list[int] = []

    def blocking(number: int) -> None:
        with admission.reserve_blocking(number, timeout_seconds=SECONDS) as held:
            assert (held.need_bytes, holds(admission)[0]) == (number, 1)
            assert admission.current_reservation() is held
            order.append(number)

    async def task(number: int) -> None:
        if number % 2 == 0:
            async with admission.reserve(number):
                order.append(number)
        elif how == "anyio":
            await anyio.to_thread.run_sync(blocking, number)
        else:
            threads.append(threading.Thread(target=blocking, args=(number,)))
            threads[-1].start()

    threads: list[threading.Thread] = []

    async def test(tasks: TaskGroup) -> None:
        hold = admission.reserve_nowait(1)
        for number in range(1, 9):
            tasks.start_soon(task, number)
            while admission.statistics().waiting < number:
                await anyio.lowlevel.checkpoint()
        hold.release()

    in_time(run, test)
    for thread in threads:
        thread.join(SECONDS)
    assert order == list(range(1, 9))
    assert holds(admission) == NOTHING


def test_a_thread_that_waits_too_long() -> None:
    """The same error, with the same figures, as for a task; and nothing is left of it."""
    admission = told(100, max_concurrent=1)
    with admission.reserve_nowait(1):
        with ThreadPoolExecutor(1) as threads:

            def wait(timeout_seconds: float) -> None:
                with admission.reserve_blocking(7, timeout_seconds=timeout_seconds):
                    pytest.fail("let in")

            for timeout_seconds in (0, 0.05):
                with pytest.raises(mt.AdmissionTimeoutError, match=r"1 of 1 slots .* are taken, 1 waiting") as caught:
                    threads.submit(wait, timeout_seconds).result(SECONDS)
                assert (caught.value.need_bytes, caught.value.timeout_seconds) == (7, timeout_seconds)
        assert holds(admission) == (1, 0, 1)
    assert admission.statistics().rejected == 2


def test_a_thread_that_waits_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives up after a bounded time, as a task does; and finds out by itself when memory comes free before that."""
    monkeypatch.setattr(acquiring, "ALONE_SECONDS", 0.15)
    guard = ToldGuard(5)
    admission = mt.AdmissionController(guard=guard, scope="process")
    with pytest.raises(mt.AdmissionTimeoutError, match="0 of 3 slots"):
        with admission.reserve_blocking(7):
            pytest.fail("let in")
    monkeypatch.undo()
    with ThreadPoolExecutor(1) as threads:

        def wait() -> int:
            with admission.reserve_blocking(7) as held:
                return held.need_bytes

        waiting = threads.submit(wait)
        while admission.statistics().waiting == 0:
            assert not waiting.done()
        guard.say(7)
        assert waiting.result(SECONDS) == 7
    assert holds(admission) == NOTHING


def test_a_thread_is_refused_as_a_task_is() -> None:
    """Too large, or too many waiting: at once."""
    admission = told(100, largest=200, max_concurrent=1, max_waiting=0)
    with admission.reserve_nowait(1):
        for need_bytes, error in ((201, mt.ReservationTooLargeError), (1, mt.AdmissionRejectedError)):
            with ThreadPoolExecutor(1) as threads, pytest.raises(error):
                threads.submit(admission.reserve_blocking(need_bytes).__enter__).result(SECONDS)
    assert holds(admission) == NOTHING


@pytest.mark.parametrize("when", ["waiting", "holding"])
def test_an_interrupted_thread_leaves_nothing(monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """Ctrl-C raises wherever the main thread stands: its place in the queue, or what it holds, is given back."""
    admission = told(100, max_concurrent=1)

    def interrupted(*_: object) -> None:
        assert holds(admission) == (1, 1, 1)
        raise KeyboardInterrupt

    hold = admission.reserve_nowait(1) if when == "waiting" else None
    monkeypatch.setattr(ThreadWaiter, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        with admission.reserve_blocking(1):
            assert when == "holding"
            raise KeyboardInterrupt
    if hold is not None:
        assert holds(admission) == (1, 0, 1)
        hold.release()
    assert (holds(admission), admission.statistics().orphaned) == (NOTHING, 0)


def test_not_on_the_thread_of_an_event_loop(run: Run) -> None:
    """It would block the loop, in a task as in a callback, so it is refused, free slots or not; in a worker it may."""
    admission = told(100)
    refused: list[str] = []

    def try_it() -> None:
        with pytest.raises(RuntimeError, match=r"use `async with reserve\(\.\.\.\)` there"):
            with admission.reserve_blocking(1):
                pytest.fail("let in")
        refused.append("")

    def allowed() -> None:
        with admission.reserve_blocking(1, timeout_seconds=SECONDS):
            assert holds(admission) == (1, 0, 1)

    async def test(tasks: TaskGroup) -> None:
        try_it()
        loop: Any = current_token().native_token
        (loop.call_soon if hasattr(loop, "call_soon") else loop.run_sync_soon)(try_it)
        while len(refused) < 2:
            await anyio.lowlevel.checkpoint()
        await anyio.to_thread.run_sync(allowed)

    in_time(run, test)
    assert (len(refused), holds(admission), admission.statistics().granted) == (2, NOTHING, 1)


def test_threads_at_random() -> None:
    """Sixteen threads reserve in all ways, and give up at times: never past slots or bytes; nothing is left."""
    guard = ToldGuard(25)
    admission = mt.AdmissionController(guard=guard, scope="process", max_concurrent=3)
    lock = threading.Lock()
    inside: list[int] = []
    most: list[tuple[int, int]] = []

    def work(need: int) -> None:
        with lock:
            inside.append(need)
            most.append((len(inside), sum(inside)))
        with lock:
            inside.remove(need)

    def thread(seed: int) -> int:
        numbers = random.Random(seed)
        refused = 0
        for _ in range(40):
            need = numbers.randint(1, 15)
            try:
                if numbers.random() < 0.5:
                    with admission.reserve_blocking(need, timeout_seconds=numbers.choice([0, 0.001, SECONDS])):
                        work(need)
                else:
                    with admission.reserve_nowait(need) as held, held.carve(need):
                        work(need)
            except (mt.AdmissionRejectedError, mt.AdmissionTimeoutError):
                refused += 1
        return refused

    with ThreadPoolExecutor(16) as threads:
        refused = sum(threads.map(thread, range(16)))
    statistics = admission.statistics()
    assert max(count for count, _ in most) <= 3
    assert max(need for _, need in most) <= 25
    assert (holds(admission), statistics.orphaned) == (NOTHING, 0)
    assert (statistics.granted, statistics.rejected) == (16 * 40 - refused, refused)
