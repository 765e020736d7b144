"""AdmissionController where memory cannot be read, as when no descriptors are left: nothing is lost or stuck."""

import errno

import pytest
from anyio.abc import TaskGroup

import memsafe_transcribe as mt

from ..conftest import Run
from .room import ToldGuard, in_time, settle, start


@pytest.mark.parametrize("reads_before", range(4))
def test_memory_that_cannot_be_read_at_a_release(run: Run, reads_before: int) -> None:
    """The release does not raise; whom it had let in by then wakes, and the next one begins to look at memory."""

    class Unreadable(ToldGuard):
        reads_left = 1000

        def room(self, *, exact: bool = True) -> mt.MemoryRoom:
            self.reads_left -= 1
            if self.reads_left == -1:
                raise OSError(errno.EMFILE, "Too many open files")
            return super().room()

    guard = Unreadable(100)
    admission = mt.AdmissionController(guard=guard, scope="process")

    async def test(tasks: TaskGroup) -> None:
        hold = admission.reserve_nowait(100)
        first, second, third = await start(tasks, admission, 50, 50, 50)
        guard.reads_left = reads_before  # no checkpoint from here to the release, so nobody else reads
        hold.release()
        assert guard.reads_left == -1
        await first.is_in.wait()
        await second.is_in.wait()
        assert not third.is_in.is_set()
        guard.say(150)
        await third.is_in.wait()
        for worker in (first, second, third):
            worker.leave.set()

    in_time(run, test)
    assert admission.statistics().active == 0


def test_memory_that_cannot_be_read_while_waiting(run: Run) -> None:
    """The error reaches the one who waits at the head, and nothing of its claim is left."""

    class Unreadable(ToldGuard):
        broken = False

        def room(self, *, exact: bool = True) -> mt.MemoryRoom:
            if self.broken:
                raise OSError(errno.EMFILE, "Too many open files")
            return super().room()

    guard = Unreadable(100)
    admission = mt.AdmissionController(guard=guard, scope="process")

    async def wait() -> None:
        with pytest.raises(OSError, match="Too many open files"):
            async with admission.reserve(50):
                pass
        guard.broken = False

    async def test(tasks: TaskGroup) -> None:
        hold = admission.reserve_nowait(100)
        tasks.start_soon(wait)
        await settle()
        assert admission.statistics().waiting == 1
        guard.broken = True
        hold.release()

    in_time(run, test)
    statistics = admission.statistics()
    assert (statistics.active, statistics.waiting, statistics.reserved_bytes) == (0, 0, 0)
