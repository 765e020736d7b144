"""The one seam of these tests, a guard that says the room that it is told; and tasks that reserve, without a clock."""

from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

import memsafe_transcribe as mt
from memsafe_transcribe._memory.pressure import Term

from ..conftest import Run


class ToldGuard(mt.MemoryGuard):
    """A real guard in all but `room()`."""

    def __init__(self, new: int, *, admitted: int | None = None, largest: int = 10**9) -> None:
        super().__init__()
        self._largest = largest
        self.say(new, admitted=admitted)

    def say(self, new: int, *, admitted: int | None = None) -> None:
        """From now on there is this much room for new work, and for admitted work (the same, if not given)."""
        limit = Term("limit", "told", "told", self._largest, 0, 0)
        self._told = mt.MemoryRoom(new, new if admitted is None else admitted, self._largest, limit)

    def room(self) -> mt.MemoryRoom:
        return self._told


async def settle() -> None:
    """Let every task of this loop run until it waits for something; more rounds than any of them needs."""
    for _ in range(20):
        await anyio.lowlevel.checkpoint()


class Worker:
    """A task that reserves, notes that it is in, and stays until it is told to leave."""

    def __init__(self, admission: mt.AdmissionController, need_bytes: int) -> None:
        self._admission = admission
        self._need_bytes = need_bytes
        self.is_in = anyio.Event()
        self.leave = anyio.Event()
        self.done = anyio.Event()
        self.scope = anyio.CancelScope()
        self.reservation: mt.Reservation | None = None

    async def __call__(self) -> None:
        with self.scope:
            async with self._admission.reserve(self._need_bytes) as self.reservation:
                self.is_in.set()
                await self.leave.wait()
        self.done.set()


async def start(tasks: TaskGroup, admission: mt.AdmissionController, *needs: int) -> list[Worker]:
    """Start one worker for each need, in this order in the queue."""
    workers = []
    for need_bytes in needs:
        workers.append(Worker(admission, need_bytes))
        tasks.start_soon(workers[-1])
        await settle()
    return workers


def in_time(run: Run, test: Callable[[TaskGroup], Awaitable[None]]) -> None:
    """Run `test` with a task group, which must be empty again within half a minute."""

    async def main() -> None:
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                await test(tasks)

    run(main)
