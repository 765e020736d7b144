"""AdmissionController: what fits, what never will, and what is said of it; who looks at memory, and when."""

import anyio
import pytest
from anyio.abc import TaskGroup

import memsafe_transcribe as mt
from memsafe_transcribe._admission import acquiring
from memsafe_transcribe._memory.pressure import Term

from ..conftest import Run
from ..support.memory import tell
from .room import NOTHING, ToldGuard, holds, in_time, settle, start, told


def test_timeout_for_want_of_a_slot(run: Run) -> None:
    """The error carries the figures and says that the slots were taken; its place in the queue is free again."""
    admission = told(100, max_concurrent=1)
    hold = admission.reserve_nowait(1)

    async def test(tasks: TaskGroup) -> None:
        with pytest.raises(mt.AdmissionTimeoutError) as caught:
            async with admission.reserve(7, timeout_seconds=0.07):
                pass
        assert (caught.value.need_bytes, caught.value.timeout_seconds) == (7, 0.07)
        assert str(caught.value) == (
            "no turn for 7 B within 0.07 s (timeout_seconds): 1 of 1 slots (max_concurrent) are taken, 1 waiting"
        )

    in_time(run, test)
    hold.release()
    statistics = admission.statistics()
    assert (statistics.rejected, statistics.granted, statistics.waiting) == (1, 1, 0)


def test_timeout_for_want_of_memory(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names what is promised already, the limit that is in the way, and the setting that decided."""
    group = Term("limit", "cgroup v2 /app", "/sys/fs/cgroup/app/memory.max", 1000 * mt.MiB, 500 * mt.MiB, 0)
    tell(monkeypatch, group)
    admission = mt.AdmissionController(guard=mt.MemoryGuard(), scope="process")

    async def test(tasks: TaskGroup) -> None:
        hold = admission.reserve_nowait(60 * mt.MiB)
        with pytest.raises(mt.AdmissionTimeoutError) as caught:
            async with admission.reserve(70 * mt.MiB, timeout_seconds=0):
                pass
        hold.release()
        assert str(caught.value) == (
            "no turn for 70.0 MiB within 0 s (timeout_seconds): 1 of 3 slots (max_concurrent) are taken, 1 waiting; "
            "60.0 MiB are promised already, and with them 130.0 MiB more would not fit: 500.0 MiB of "
            "1000.0 MiB are used by cgroup v2 /app, which may be filled up to 600.0 MiB (threshold_percent=60); raise "
            "the limit (/sys/fs/cgroup/app/memory.max), or run less at once"
        )
        async with admission.reserve(70 * mt.MiB, timeout_seconds=0):
            pass

    in_time(run, test)


def test_one_that_waits_alone_does_not_wait_for_ever(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing running that could make room by ending, it gives up after a bounded time and says why."""
    monkeypatch.setattr(acquiring, "ALONE_SECONDS", 0.2)
    admission = told(5)

    async def test(tasks: TaskGroup) -> None:
        with pytest.raises(mt.AdmissionTimeoutError, match=r"0 of 3 slots .* are taken, 1 waiting"):
            async with admission.reserve(7):
                pass

    in_time(run, test)
    assert admission.statistics().waiting == 0


def test_too_large_is_refused_at_once(run: Run) -> None:
    """What could not fit even alone never waits, however full or empty memory is now."""
    admission = told(-500, largest=1000)

    async def test(tasks: TaskGroup) -> None:
        with pytest.raises(mt.ReservationTooLargeError, match="can never fit") as caught:
            async with admission.reserve(1001):
                pass
        assert (caught.value.need_bytes, caught.value.ceiling_bytes) == (1001, 1000)
        with pytest.raises(mt.AdmissionTimeoutError):
            async with admission.reserve(1000, timeout_seconds=0):
                pass

    in_time(run, test)
    assert (admission.statistics().rejected, admission.statistics().waiting) == (2, 0)


def test_too_large_names_the_limit_that_is_too_low(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the fullest limit is to blame for what can never fit, but the lowest."""
    group = Term("limit", "cgroup v2 /app", "/sys/fs/cgroup/app/memory.max", 2**30, 0, 0)
    host = Term("host", "host", "psutil", 24 * 2**30, 24 * 2**30 - mt.MiB, 0)
    tell(monkeypatch, host, group)
    admission = mt.AdmissionController(guard=mt.MemoryGuard(), scope="process")

    async def test(tasks: TaskGroup) -> None:
        with pytest.raises(mt.ReservationTooLargeError, match=r"921\.6 MiB of 1\.0 GiB .*cgroup v2 /app") as caught:
            async with admission.reserve(2**31):
                pass
        assert caught.value.limit_bytes == 2**30

    in_time(run, test)


@pytest.mark.parametrize("slot", [True, False])
def test_one_job_is_let_in_past_the_threshold(run: Run, slot: bool) -> None:
    """With no slot taken, one job may go up to the ceiling, also beside a resident model; a second one may not."""
    admission = told(0, admitted=100)

    async def test(tasks: TaskGroup) -> None:
        hold = admission.reserve_nowait(20, slot=slot)
        with pytest.raises(mt.AdmissionTimeoutError):
            async with admission.reserve(1 if slot else 81, timeout_seconds=0):
                pass
        if not slot:
            async with admission.reserve(80, timeout_seconds=0):
                assert holds(admission) == (1, 0, 100)
        hold.release()

    in_time(run, test)


def test_promised_memory_is_not_given_twice_until_it_is_used(run: Run) -> None:
    """A promise counts in full before it is used; what is marked as used is in the readings already."""
    guard = ToldGuard(100)
    admission = mt.AdmissionController(guard=guard, scope="process")

    async def test(tasks: TaskGroup) -> None:
        async with admission.reserve(60) as holder:
            assert holder.need_bytes == 60
            guard.say(40)  # the holder has taken its 60
            assert admission.statistics().budget_bytes == 0
            with pytest.raises(mt.AdmissionRejectedError):
                admission.reserve_nowait(40)
            holder.mark_used(50)
            assert admission.statistics().budget_bytes == 30
            (waiting,) = await start(tasks, admission, 40)
            assert not waiting.is_in.is_set()
            holder.mark_used(60)
            await waiting.is_in.wait()
            waiting.leave.set()

    in_time(run, test)


def test_memory_freed_by_others_lets_the_head_in(run: Run) -> None:
    """Nobody tells when another program frees memory: the head finds out by itself, without any release."""
    guard = ToldGuard(-10)
    admission = mt.AdmissionController(guard=guard, scope="process")

    async def test(tasks: TaskGroup) -> None:
        (worker,) = await start(tasks, admission, 50)
        assert not worker.is_in.is_set()
        guard.say(50)
        await worker.is_in.wait()
        worker.leave.set()

    in_time(run, test)


@pytest.mark.parametrize("how", ["timed out", "cancelled", "let in"])
def test_whoever_becomes_the_head_begins_to_look(run: Run, how: str) -> None:
    """However the head before it went, the next one looks at memory from then on."""
    guard = ToldGuard(-10)
    admission = mt.AdmissionController(guard=guard, scope="process")

    async def test(tasks: TaskGroup) -> None:
        if how == "timed out":
            tasks.start_soon(time_out)
            await settle()
            (second,) = await start(tasks, admission, 50)
            await timed_out.wait()
        else:
            first, second = await start(tasks, admission, 50, 50)
            if how == "cancelled":
                first.scope.cancel()
                await first.done.wait()
            else:
                guard.say(60)
                await first.is_in.wait()
        await settle()
        assert admission.statistics().waiting == 1
        guard.say(100)
        await second.is_in.wait()
        tasks.cancel_scope.cancel()

    async def time_out() -> None:
        with pytest.raises(mt.AdmissionTimeoutError):
            async with admission.reserve(50, timeout_seconds=0.2):
                pass
        timed_out.set()

    timed_out = anyio.Event()
    in_time(run, test)
    assert admission.statistics().active == 0


def test_the_cheaper_reading_is_enough_where_it_lets_in(run: Run) -> None:
    """The exact one is asked only where the cheaper one, which never says more than there is, would refuse."""

    class TwoReadings(ToldGuard):
        def room(self, *, exact: bool = True) -> mt.MemoryRoom:
            asked.append(exact)
            return super().room() if exact else super().room()._replace(new_work_bytes=50, admitted_work_bytes=50)

    asked: list[bool] = []
    admission = mt.AdmissionController(guard=TwoReadings(100), scope="process")

    async def test(tasks: TaskGroup) -> None:
        async with admission.reserve(50):
            assert asked == [False]
            asked.clear()
            admission.reserve_nowait(50).release()
            assert asked == [False, True]
            (waiting,) = await start(tasks, admission, 60)
            asked.clear()
        await waiting.is_in.wait()
        assert asked[:2] == [False, True]
        await waiting.end()

    in_time(run, test)
    assert holds(admission) == NOTHING


def test_a_full_house_is_refused_without_reading_memory_exactly() -> None:
    """Where no slot is free, the costly reading cannot change anything."""

    class NeverExact(ToldGuard):
        def room(self, *, exact: bool = True) -> mt.MemoryRoom:
            assert not exact
            return super().room()

    admission = mt.AdmissionController(guard=NeverExact(100), scope="process", max_concurrent=1)
    with admission.reserve_nowait(1):
        with pytest.raises(mt.AdmissionRejectedError):
            admission.reserve_nowait(1)
