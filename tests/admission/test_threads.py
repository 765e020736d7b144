"""One controller under several event loops, each in a thread of its own: grants wake whoever waits, wherever."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

import memsafe_transcribe as mt

from .room import ToldGuard

BACKENDS = ["asyncio", "trio"]
SECONDS = 10


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
    admission = mt.AdmissionController(guard=ToldGuard(100))
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
    admission = mt.AdmissionController(guard=guard)
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
    """A release whose waiter's event loop has closed meanwhile does not raise, and wakes the ones behind it."""
    admission = mt.AdmissionController(guard=ToldGuard(100))

    async def deafen() -> None:
        def call_soon_threadsafe(*_: object, **__: object) -> None:
            raise RuntimeError("Event loop is closed")

        asyncio.get_running_loop().call_soon_threadsafe = call_soon_threadsafe  # type: ignore[assignment]

    with ThreadPoolExecutor(3) as threads:
        holder, second = (Loop(threads, "trio", admission, need) for need in (100, 50))
        deaf = Loop(threads, "asyncio", admission, 50)
        deaf.before = deafen
        deaf.leave.set()  # it can hear of nothing later on
        for loop in (holder, deaf, second):
            loop.start()
        holder.end()
        assert second.is_in.wait(SECONDS)
        second.end()
        assert deaf.is_in.wait(SECONDS)
    assert admission.statistics().active == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_many_loops_at_once(backend: str) -> None:
    """Eight loops of ten tasks each under one controller: never past slots or bytes, and everybody gets through."""
    admission = mt.AdmissionController(guard=ToldGuard(25), max_concurrent=3)
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
