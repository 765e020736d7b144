"""The one seam of these tests, a guard that says the room that it is told; and tasks that reserve, without a clock."""

from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

import memsafe_transcribe as mt
from memsafe_transcribe._memory.pressure import Term

from ..conftest import Run

SECONDS = 10


class ToldGuard(mt.MemoryGuard):
    """A real guard in all but `room()`."""

    def __init__(self, new: int, *, admitted: int | None = None, largest: int = 10**9) -> None:
        super().__init__()
        self._largest = largest
        self.say(new, admitted=admitted)

    def say(self, new: int, *, admitted: int | None = None) -> None:
        """From now on there is this much room for new work, and for admitted work (the same, if not given)."""
        limit = Term("limit", "told", "told", self._largest, 0, 0)
        admitted = new if admitted is None else admitted
        self._told = mt.MemoryRoom(new, admitted, self._largest, limit, largest_new_work_bytes=self._largest)

    def room(self, *, exact: bool = True) -> mt.MemoryRoom:
        return self._told


def told(
    new: int = 10**6, *, admitted: int | None = None, largest: int = 10**9, **options: Any
) -> mt.AdmissionController:
    """A controller of its own under a guard that has been told."""
    guard = ToldGuard(new, admitted=admitted, largest=largest)
    return mt.AdmissionController(guard=guard, scope="process", **options)


def holds(admission: mt.AdmissionController) -> tuple[int, int, int]:
    """What is active, waiting and promised."""
    now = admission.statistics()
    return now.active, now.waiting, now.reserved_bytes


NOTHING = (0, 0, 0)


async def settle() -> None:
    """Let every task of this loop run until it waits for something; more rounds than any of them needs."""
    for _ in range(20):
        await anyio.lowlevel.checkpoint()


class Worker:
    """A task that reserves, notes that it is in, and stays until it is told to leave."""

    def __init__(self, admission: mt.AdmissionController, need_bytes: int, options: dict[str, Any]) -> None:
        self._admission = admission
        self._need_bytes = need_bytes
        self._options = options
        self.is_in = anyio.Event()
        self.leave = anyio.Event()
        self.done = anyio.Event()
        self.scope = anyio.CancelScope()
        self.reservation: mt.Reservation | None = None

    async def __call__(self) -> None:
        with self.scope:
            async with self._admission.reserve(self._need_bytes, **self._options) as self.reservation:
                self.is_in.set()
                await self.leave.wait()
        self.done.set()

    async def end(self) -> None:
        """Let it leave, and wait for that."""
        self.leave.set()
        await self.done.wait()


async def start(tasks: TaskGroup, admission: mt.AdmissionController, *needs: int, **options: Any) -> list[Worker]:
    """Start one worker for each need, in this order in the queue."""
    workers = []
    for need_bytes in needs:
        workers.append(Worker(admission, need_bytes, options))
        tasks.start_soon(workers[-1])
        await settle()
    return workers


async def start_apart(tasks: TaskGroup, admission: mt.AdmissionController, need_bytes: int) -> Worker:
    """Start a worker that has inherited nothing from the code that starts it."""
    worker = Worker(admission, need_bytes, {})
    Context().run(tasks.start_soon, worker)
    await settle()
    return worker


def are_in(*workers: Worker) -> list[bool]:
    """Which of them are in."""
    return [worker.is_in.is_set() for worker in workers]


def in_time(run: Run, test: Callable[[TaskGroup], Awaitable[None]]) -> None:
    """Run `test` with a task group, which must be empty again within half a minute."""

    async def main() -> None:
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                await test(tasks)

    run(main)
