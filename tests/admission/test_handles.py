"""Reservation: whoever has the handle owns it, until it is released, dropped, or left behind by a fork; and what it
teaches about the next one."""

import asyncio
import gc
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from anyio.abc import TaskGroup

import memsafe_transcribe as mt
from memsafe_transcribe._admission import controller
from memsafe_transcribe._admission.reservation import _entered, entered_around

from ..conftest import Run
from .room import NOTHING, SECONDS, ToldGuard, Worker, holds, in_time, settle, start, told


@contextmanager
def dropped() -> Iterator[None]:
    """What is dropped within says so."""
    with pytest.warns(ResourceWarning, match="was dropped without being released"):
        yield


# -- releasing


async def _here(function: Callable[[], object]) -> None:
    function()


async def _in_a_thread(function: Callable[[], object]) -> None:
    await anyio.to_thread.run_sync(function)


async def _in_another_task(function: Callable[[], object]) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_here, function)


@pytest.mark.parametrize("where", [_here, _in_another_task, _in_a_thread])
@pytest.mark.parametrize("blocking", [False, True])
def test_released_anywhere_and_as_often_as_one_likes(run: Run, where: Any, blocking: bool) -> None:
    """By its own task, another one, or a thread; what waits gets its turn then, not at the end of the block."""
    admission = told(100)

    async def test(tasks: TaskGroup) -> None:
        async with admission.reserve(60) as held:
            (waiting,) = await start(tasks, admission, 100)
            await where(held.release)
            await waiting.is_in.wait()
            await where(held.release)
            assert holds(admission) == (1, 0, 100)
            assert repr(held) == "<Reservation of 60 B, released>"
            assert admission.current_reservation() is None
        assert holds(admission) == (1, 0, 100)
        await waiting.end()

    in_time(run, test)
    assert holds(admission) == NOTHING


def test_left_in_another_task_than_entered(run: Run) -> None:
    """A framework may do so (a fixture, a server's lifespan): all is given back, and neither task holds anything."""
    admission = told(100)

    async def test(tasks: TaskGroup) -> None:
        for _ in range(3):
            reserving = admission.reserve(60)
            await reserving.__aenter__()
            assert holds(admission) == (1, 0, 60)
            async with anyio.create_task_group() as others:
                others.start_soon(reserving.__aexit__, None, None, None)
            assert holds(admission) == NOTHING
            assert admission.current_reservation() is None
            (worker,) = await start(tasks, admission, 100)
            async with anyio.create_task_group() as others:
                others.start_soon(_wait_for, worker)  # it waits though it was begun by one that had entered
        assert len(list(entered_around())) == 0

    async def _wait_for(worker: Worker) -> None:
        await worker.is_in.wait()
        await worker.end()

    in_time(run, test)


def test_what_others_left_does_not_pile_up(run: Run) -> None:
    """A task that enters for ever what others leave remembers only what is held."""
    admission = told(100)

    async def test(tasks: TaskGroup) -> None:
        before = len(gc.get_objects())
        for _ in range(100):
            held = admission.reserve(1)
            await held.__aenter__()
            async with anyio.create_task_group() as others:
                others.start_soon(held.__aexit__, None, None, None)
        del held
        gc.collect()
        assert len(gc.get_objects()) - before < 100
        async with admission.reserve(1):
            assert len(_entered.get()) == 1
        assert _entered.get() == ()

    in_time(run, test)


def test_growing_shrinking_and_using(run: Run) -> None:
    """More is given up to the ceiling, where new work gets none; less goes to those that wait, and so does use."""
    guard = ToldGuard(100, admitted=150)
    admission = mt.AdmissionController(guard=guard, scope="process")

    async def test(tasks: TaskGroup) -> None:
        async with admission.reserve(60) as held:
            assert held.try_grow(60)
            assert (held.need_bytes, held.left_bytes, holds(admission)) == (120, 120, (1, 0, 120))
            assert not held.try_grow(31)
            assert held.try_grow(30)
            assert holds(admission) == (1, 0, 150)
            assert admission.statistics().budget_bytes == 0
            (waiting,) = await start(tasks, admission, 50)
            held.shrink(99)
            await settle()
            assert not waiting.is_in.is_set()
            held.shrink(1)
            assert holds(admission) == (2, 0, 100)  # at once, not when the head looks the next time
            await waiting.is_in.wait()
            assert (held.need_bytes, held.left_bytes, holds(admission)) == (50, 50, (2, 0, 100))
            with held.carve(30):
                with pytest.raises(ValueError, match="fewer_bytes=21 is more than the 20 that are left"):
                    held.shrink(21)
                held.shrink(20)
            (second,) = await start(tasks, admission, 50)
            held.mark_used(29)
            await settle()
            assert not second.is_in.is_set()
            held.mark_used(30)
            assert holds(admission) == (3, 0, 130)
            await second.is_in.wait()
            await second.end()
            held.mark_used(0)  # given back to the system, and still promised
            assert admission.statistics().budget_bytes == 20
            held.mark_used(1000)  # more than was promised is in the readings, and takes nothing off the others
            assert admission.statistics().budget_bytes == 50
            await waiting.end()
        assert not held.try_grow(1)
        held.shrink(1000)
        held.mark_used(5)
        assert (held.need_bytes, holds(admission)) == (30, NOTHING)

    in_time(run, test)
    assert admission.statistics().peak_reserved_bytes == 150


# -- dropped


def test_one_that_is_dropped_says_so_and_is_taken_back(run: Run) -> None:
    """Also while everybody waits and nobody releases anything: the first that waits finds out by itself."""
    admission = told(100)

    async def test(tasks: TaskGroup) -> None:
        lost = admission.reserve_nowait(60)
        (waiting,) = await start(tasks, admission, 100)
        with dropped():
            del lost
        await waiting.is_in.wait()
        assert holds(admission) == (1, 0, 100)
        await waiting.end()

    in_time(run, test)
    assert (holds(admission), admission.statistics().orphaned) == (NOTHING, 1)


@pytest.mark.parametrize("how", ["nowait", "statistics", "batch"])
def test_what_was_dropped_counts_for_nobody(how: str) -> None:
    """The next one that asks gets it, and figures do not show it."""
    admission = told(100, max_concurrent=1)
    with dropped():
        admission.reserve_nowait(100)
    if how == "nowait":
        admission.reserve_nowait(100).release()
    elif how == "statistics":
        assert (holds(admission), admission.statistics().budget_bytes) == (NOTHING, 100)
    else:
        assert admission.safe_batch_size(100, 1) == 100
    assert admission.statistics().orphaned == 1


@pytest.mark.parametrize("how", ["carve", "grow"])
def test_a_part_that_was_dropped_goes_back_to_its_parent(how: str) -> None:
    """Its bytes can be carved out, or be grown into by another part, at once."""
    admission = told(100)
    with admission.reserve_nowait(60) as held:
        other = held.carve(0)
        with dropped():
            held.carve(60)
        if how == "carve":
            held.carve(60).release()
        else:
            assert other.try_grow(60)
        other.release()
        assert held.left_bytes == 60
    assert admission.statistics().orphaned == 1


def test_nothing_is_said_of_what_holds_nothing() -> None:
    """A handle that was released, one whose parent was, and one that was never entered may go in silence."""
    admission = told(100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        admission.reserve_nowait(1).release()
        held = admission.reserve_nowait(1)
        part = held.carve(1)
        held.release()
        del part, held
        admission.reserve(1)
        gc.collect()
    assert (holds(admission), admission.statistics().orphaned) == (NOTHING, 0)


@pytest.mark.parametrize("lost", ["the holder", "the head", "one behind it"])
def test_an_event_loop_that_ends_in_the_middle(lost: str) -> None:
    """A task that is never finished loses what it holds when it is collected, and its place when it cannot be woken:
    nothing is granted to it, and who waits behind it gets its turn."""
    admission = told(100, max_concurrent=1)

    async def task() -> None:
        async with admission.reserve(1):
            await asyncio.get_running_loop().create_future()

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)  # "Task was destroyed but it is pending"
    with warnings.catch_warnings(), ThreadPoolExecutor(1) as threads:
        warnings.simplefilter("ignore")
        hold = admission.reserve_nowait(1) if lost != "the holder" else None
        patient = threads.submit(wait_in_a_thread, admission, 1) if lost == "one behind it" else None
        tasks = [loop.create_task(task()) for _ in range(2)]
        while admission.statistics().waiting < (1 if hold is None else 2 if patient is None else 3):
            loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        del tasks, loop
        gc.collect()
        if hold is not None:
            hold.release()
        if patient is not None:
            patient.result(SECONDS)
        wait_in_a_thread(admission, 1)
        assert holds(admission) == NOTHING


def wait_in_a_thread(admission: mt.AdmissionController, need_bytes: int) -> None:
    with admission.reserve_blocking(need_bytes, timeout_seconds=SECONDS):
        pass


class CollectingGuard(ToldGuard):
    """Runs something while the controller holds its lock, as the garbage collector may at any allocation."""

    meanwhile: Callable[[], object] | None = None

    def room(self, *, exact: bool = True) -> mt.MemoryRoom:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return super().room()


def within(seconds: float, function: Callable[[], None]) -> None:
    """Run it in a thread of its own, so that a deadlock fails the test instead of stopping all of them."""
    errors: list[BaseException] = []

    def body() -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "deadlock"
    if errors:
        raise errors[0]


def test_dropped_in_the_middle_of_a_turn() -> None:
    """The finalizer takes no lock: one that runs while the lock is held by its own thread does not wait for itself."""
    guard = CollectingGuard(100)
    admission = mt.AdmissionController(guard=guard, scope="process")

    def scenario() -> None:
        ring: list[Any] = [admission.reserve_nowait(1)]
        ring.append(ring)
        del ring
        guard.meanwhile = gc.collect
        admission.reserve_nowait(10).release()

    with dropped():
        within(SECONDS, scenario)
    assert (holds(admission), admission.statistics().orphaned) == (NOTHING, 1)


@pytest.mark.parametrize("blocking", [False, True])
def test_a_generator_collected_in_the_middle_of_a_turn(blocking: bool) -> None:
    """One that stands in a `with` is left when it is collected, and so releases while the lock is held: no deadlock."""
    guard = CollectingGuard(100)
    admission = mt.AdmissionController(guard=guard, scope="process")

    def generator() -> Iterator[Any]:
        with admission.reserve_blocking(1) if blocking else admission.reserve_nowait(1):
            me = yield
            yield me

    def scenario() -> None:
        holder: Any = generator()
        next(holder)
        holder.send(holder)
        del holder
        guard.meanwhile = gc.collect
        admission.reserve_nowait(10).release()

    gc.collect()
    within(SECONDS, scenario)
    assert guard.meanwhile is None
    assert (holds(admission), admission.statistics().orphaned) == (NOTHING, 0)


def test_a_part_released_in_the_middle_of_its_parents_turn() -> None:
    """The same for a handle that releases others when it is collected: it is taken back after that turn."""
    guard = CollectingGuard(100)
    admission = mt.AdmissionController(guard=guard, scope="process")

    def scenario() -> None:
        held = admission.reserve_nowait(50)
        part = held.carve(50)

        def collected() -> None:
            part.release()
            left.append(held.left_bytes)

        guard.meanwhile = collected
        assert held.try_grow(1)
        assert left == [0]  # nothing changes under the feet of the turn that runs
        assert (holds(admission), held.left_bytes) == ((1, 0, 51), 51)
        held.release()

    left: list[int] = []
    within(SECONDS, scenario)
    assert (holds(admission), admission.statistics().orphaned) == (NOTHING, 0)


def test_statistics_in_the_middle_of_a_turn() -> None:
    """A log handler may ask for them wherever something is logged: they are those of that moment, and no deadlock."""
    guard = CollectingGuard(100)
    admission = mt.AdmissionController(guard=guard, scope="process")
    seen: list[tuple[int, int, int]] = []
    guard.meanwhile = lambda: seen.append(holds(admission))
    within(SECONDS, lambda: admission.reserve_nowait(10).release())
    assert (seen, holds(admission)) == ([NOTHING], NOTHING)


# -- forks


def in_child(function: Callable[[], str]) -> str:
    """Fork, and run it in the child: what it returns, or its error."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other tests' threads may be about
        pid = os.fork()
    if pid == 0:
        signal.alarm(SECONDS)
        try:
            said = function()
        except BaseException as error:
            said = repr(error)
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        said = file.read()
    os.waitpid(pid, 0)
    return said


def test_a_forked_child_holds_nothing() -> None:
    """It reserves for itself; what it does with the handles that it inherited does nothing to the parent."""
    admission = told(100, max_concurrent=1)
    admission.lane("only", max_concurrent=1)
    held = admission.reserve_nowait(60, lane="only")
    part = held.carve(10)

    def child() -> str:
        before = holds(admission)
        grown = held.try_grow(1)
        part.release()
        held.release()
        with admission.reserve_nowait(100, lane="only") as own:
            assert own.need_bytes == 100
            inside = holds(admission)
        return f"{before} {grown} {held!r} {inside} {holds(admission)} {admission.statistics().orphaned}"

    assert in_child(child) == "(0, 0, 0) False <Reservation of 60 B, released> (1, 0, 100) (0, 0, 0) 0"
    assert (holds(admission), held.left_bytes) == ((1, 0, 60), 50)
    part.release()
    held.release()
    assert holds(admission) == NOTHING


def test_forked_within_a_block() -> None:
    """The child of a thread that holds and of one that waits neither holds nor waits, and may wait itself."""
    admission = told(100, max_concurrent=1)
    waits = threading.Event()

    def wait() -> None:
        waits.set()
        with admission.reserve_blocking(1):
            pass

    def child() -> str:
        before = (holds(admission), admission.current_reservation())
        with admission.reserve_blocking(100, timeout_seconds=5):
            return f"{before} {holds(admission)}"

    with ThreadPoolExecutor(1) as threads:
        with admission.reserve_nowait(60):
            waiting = threads.submit(wait)
            while admission.statistics().waiting == 0:
                waits.wait(SECONDS)
            assert in_child(child) == "((0, 0, 0), None) (1, 0, 100)"
            assert holds(admission) == (1, 1, 60)
        waiting.result(SECONDS)
    assert holds(admission) == NOTHING


def test_forked_in_the_middle_of_a_turn() -> None:
    """Another thread's turn does not go on in the child, and its lock is not taken there."""
    guard = CollectingGuard(100)
    admission = mt.AdmissionController(guard=guard, scope="process")
    in_turn, go_on = threading.Event(), threading.Event()

    def pause() -> None:
        in_turn.set()
        assert go_on.wait(SECONDS)

    def child() -> str:
        with admission.reserve_nowait(100):
            return str(holds(admission))

    with ThreadPoolExecutor(1) as threads:
        guard.meanwhile = pause
        other = threads.submit(admission.reserve_nowait, 10)
        assert in_turn.wait(SECONDS)
        try:
            assert in_child(child) == "(1, 0, 100)"
        finally:
            go_on.set()
        other.result(SECONDS).release()
    assert holds(admission) == NOTHING


# -- what use teaches


def test_overruns_make_the_next_one_larger(run: Run) -> None:
    """Of the same kind only, in proportion to what its caller asks for, by whatever way it is reserved."""
    admission = told(10**6)

    async def test(tasks: TaskGroup) -> None:
        async with admission.reserve(100, kind="decode") as held:
            assert held.need_bytes == 100
            held.mark_used(150)
            held.mark_used(0)  # the peak counts
        async with admission.reserve(100, kind="decode") as held:
            assert held.need_bytes == 180  # a fifth more than was seen
        async with admission.reserve(1000, kind="decode") as held:
            assert held.need_bytes == 1800
        with admission.reserve_nowait(100, kind="decode") as held:
            assert held.need_bytes == 180
        await anyio.to_thread.run_sync(blocking)
        async with admission.reserve(100, kind="encode") as held:
            assert held.need_bytes == 100
        async with admission.reserve(100) as held:
            assert held.need_bytes == 100

    def blocking() -> None:
        with admission.reserve_blocking(100, kind="decode") as held:
            assert held.need_bytes == 180

    in_time(run, test)


def used(admission: mt.AdmissionController, need_bytes: int, used_bytes: int | None) -> int:
    """One work of the kind "decode": what was reserved for it."""
    with admission.reserve_nowait(need_bytes, kind="decode") as held:
        if used_bytes is not None:
            held.mark_used(used_bytes)
        return held.need_bytes


def test_lighter_work_is_believed_gradually() -> None:
    """Never less than the caller's figure until there are five; then down step by step, to a quarter and no further."""
    admission = told(10**6)
    given = [used(admission, 1000, 10) for _ in range(60)]
    assert given[:5] == [1000] * 5
    assert all(0.94 * earlier < later < earlier for earlier, later in pairwise(given[5:30]))
    assert given[5] == 950
    assert set(given[40:]) == {250}
    assert used(admission, 1000, 900) == 250
    assert used(admission, 1000, None) in (1080, 1081)


def test_works_that_tell_nothing_teach_nothing() -> None:
    """Not having marked anything does not mean that nothing was used; nor does asking for nothing."""
    admission = told(10**6)
    for _ in range(20):
        assert used(admission, 1000, None) == 1000
    for _ in range(20):
        assert used(admission, 0, 500) == 0
    assert used(admission, 1000, None) == 1000


def test_a_correction_never_makes_it_too_large() -> None:
    """It ends at what could ever fit; what its caller asks for beyond that is refused, as without a kind."""
    admission = told(1500, largest=1500)
    assert used(admission, 1000, 8000) == 1000
    assert used(admission, 1000, None) == 1500
    assert used(admission, 1500, None) == 1500
    with pytest.raises(mt.ReservationTooLargeError):
        used(admission, 1501, None)


def test_what_parts_use_and_what_is_dropped_teach_too() -> None:
    """The use of a part belongs to what it was carved out of, after it has ended as well."""
    admission = told(10**6)
    with admission.reserve_nowait(1000, kind="decode") as held:
        held.mark_used(500)
        with held.carve(1000) as part:
            part.mark_used(1000)
    assert used(admission, 1000, None) == 1800
    lost = admission.reserve_nowait(1000, kind="encode")
    lost.mark_used(2000)
    with dropped():
        del lost
    with admission.reserve_nowait(1000, kind="encode"):
        pass
    with admission.reserve_nowait(1000, kind="encode") as held:
        assert held.need_bytes == 2400


@pytest.mark.parametrize("size", [0.5, "1", None])
def test_sizes_are_whole_numbers(run: Run, size: object) -> None:
    """A size that is no whole number of bytes is refused at once, before it is held or written anywhere."""
    admission = mt.AdmissionController(guard=ToldGuard(100), scope="process")

    async def test(tasks: TaskGroup) -> None:
        with pytest.raises(TypeError, match="need_bytes must be a whole number of bytes"):
            admission.reserve(size)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="need_bytes"):
            admission.reserve_nowait(size)  # type: ignore[arg-type]

    in_time(run, test)
    assert admission.statistics().active == 0


def test_nowait_leaves_nothing_when_it_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception between the grant and the handle (a signal handler's) gives the grant back."""
    admission = mt.AdmissionController(guard=ToldGuard(100), scope="process")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(controller, "Reservation", interrupted)
        with pytest.raises(KeyboardInterrupt):
            admission.reserve_nowait(1)
    assert (admission.statistics().active, admission.statistics().reserved_bytes) == (0, 0)
