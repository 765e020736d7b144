"""Reservations within reservations: parts, who holds what, and what must not wait for itself."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from anyio.abc import TaskGroup

import memsafe_transcribe as mt

from ..conftest import Run
from ..support.media import tone_samples, write_wav
from ..support.server import Server
from .room import NOTHING, ToldGuard, are_in, holds, in_time, settle, start, start_apart, told

ANY = mt.UrlPolicy(allow_private=True)


# -- parts


def test_parts_and_parts_of_parts(run: Run) -> None:
    """They come out of what is held, are promised once only, take no slot, and go back when they end."""
    admission = told(100, max_concurrent=1)

    async def test(tasks: TaskGroup) -> None:
        async with admission.reserve(60) as held:
            with held.carve(40) as part:
                assert (part.need_bytes, part.left_bytes, held.need_bytes, held.left_bytes) == (40, 40, 60, 20)
                with part.carve(40) as smallest, held.carve(20) as second:
                    assert (smallest.left_bytes, part.left_bytes, held.left_bytes, second.left_bytes) == (40, 0, 0, 20)
                    assert holds(admission) == (1, 0, 60)
                assert (part.left_bytes, held.left_bytes) == (40, 20)
            assert held.left_bytes == 60
            held.carve(0).release()
        assert (holds(admission), admission.statistics().granted) == (NOTHING, 1)

    in_time(run, test)


def test_beyond_what_is_left() -> None:
    """It never waits: the error carries the figures, and nothing is taken."""
    admission = told(100)
    with admission.reserve_nowait(60) as held:
        with held.carve(40) as part:
            with pytest.raises(mt.NestedReservationError, match=r"21 B cannot be carved out of .* 60 B with 20 B") as e:
                held.carve(21)
            assert (e.value.need_bytes, e.value.held_bytes, e.value.left_bytes) == (21, 60, 20)
            with pytest.raises(
                mt.NestedReservationError, match=r"41 B cannot be carved out of .* 40 B with 40 B left;"
            ):
                part.carve(41)
            assert (part.left_bytes, held.left_bytes) == (40, 20)
    with pytest.raises(mt.NestedReservationError, match="which is released"):
        held.carve(0)


def test_released_in_any_order() -> None:
    """A parent that ends first takes its parts' bytes with it, once; what they do then changes nothing."""
    admission = told(100)
    held = admission.reserve_nowait(60)
    part = held.carve(40)
    smallest = part.carve(30)
    smallest.mark_used(30)
    part.release()
    assert (held.left_bytes, holds(admission), admission.statistics().budget_bytes) == (60, (1, 0, 60), 40)
    with pytest.raises(mt.NestedReservationError, match="which is released"):
        smallest.carve(1)
    assert not smallest.try_grow(1)
    smallest.shrink(1)
    smallest.mark_used(7)
    smallest.release()
    assert (held.left_bytes, holds(admission)) == (60, (1, 0, 60))
    second = held.carve(10)
    held.release()
    assert holds(admission) == NOTHING
    second.mark_used(10)
    second.release()
    assert (holds(admission), admission.statistics().budget_bytes) == (NOTHING, 100)


def test_parts_grow_and_shrink_within_their_parent() -> None:
    """What a part gets more, its parent has less left; the controller's promise does not change."""
    admission = told(100)
    with admission.reserve_nowait(60) as held, held.carve(20) as part:
        assert part.try_grow(40)
        assert (part.need_bytes, held.left_bytes, holds(admission)) == (60, 0, (1, 0, 60))
        assert not part.try_grow(1)
        assert held.try_grow(5)
        assert part.try_grow(5)
        assert not part.try_grow(1)
        part.shrink(25)
        assert (part.need_bytes, held.left_bytes, holds(admission)) == (40, 25, (1, 0, 65))
        with pytest.raises(ValueError, match="fewer_bytes=26"):
            held.shrink(26)
        held.shrink(25)
        assert holds(admission) == (1, 0, 40)


def test_the_use_of_a_part_is_its_parents() -> None:
    """What is resident for a part is taken off the promise once, and comes back on it when the part ends."""
    admission = told(100)
    with admission.reserve_nowait(60) as held:
        held.mark_used(10)
        with held.carve(30) as part:
            part.mark_used(25)
            assert admission.statistics().budget_bytes == 100 - (60 - 35)
            held.mark_used(20)
            assert admission.statistics().budget_bytes == 100 - (60 - 45)
        assert admission.statistics().budget_bytes == 100 - (60 - 20)


@pytest.mark.parametrize("by", ["its own task", "another task"])
def test_reserving_out_of_a_reservation(run: Run, by: str) -> None:
    """`reserve(reservation=)` carves: no slot, no waiting, back at the end of the block; from any task."""
    admission = told(100, max_concurrent=1)

    async def carve(held: mt.Reservation) -> None:
        async with admission.reserve(40, reservation=held) as part:
            assert (part.need_bytes, held.left_bytes, holds(admission)) == (40, 20, (1, 1, 60))
            assert admission.current_reservation() is part
        assert held.left_bytes == 60
        with pytest.raises(mt.NestedReservationError) as caught:
            async with admission.reserve(61, reservation=held):
                pytest.fail("let in")
        assert (caught.value.need_bytes, caught.value.held_bytes, caught.value.left_bytes) == (61, 60, 60)

    async def test(tasks: TaskGroup) -> None:
        async with admission.reserve(60) as held:
            waiting = await start_apart(tasks, admission, 1)
            if by == "its own task":
                await carve(held)
            else:
                async with anyio.create_task_group() as others:
                    others.start_soon(carve, held)
        await waiting.end()

    in_time(run, test)
    assert holds(admission) == NOTHING


# -- who holds what


def test_what_the_running_task_holds(run: Run) -> None:
    """The innermost of what it entered itself, from this controller, with a slot, and still holds; else None."""
    admission, other = told(100), told(100)

    async def nothing() -> None:
        assert admission.current_reservation() is None
        async with admission.reserve(1) as own:
            assert admission.current_reservation() is own
        assert admission.current_reservation() is None

    async def test(tasks: TaskGroup) -> None:
        assert admission.current_reservation() is None
        async with admission.reserve(10, slot=False):
            assert admission.current_reservation() is None
            async with admission.reserve(50) as held:
                assert admission.current_reservation() is held
                assert other.current_reservation() is None
                async with other.reserve(5) as elsewhere:
                    assert (admission.current_reservation(), other.current_reservation()) == (held, elsewhere)
                    with held.carve(20) as part:
                        assert (admission.current_reservation(), other.current_reservation()) == (part, elsewhere)
                        async with anyio.create_task_group() as children:
                            children.start_soon(nothing)
                        assert await anyio.to_thread.run_sync(admission.current_reservation) is None
                    assert admission.current_reservation() is held
                    part = held.carve(5)
                    with part:
                        part.release()
                        assert admission.current_reservation() is held
                with admission.reserve_nowait(1) as second:
                    assert admission.current_reservation() is second
                admission.reserve_nowait(1).release()
                assert admission.current_reservation() is held
                held.release()
                assert admission.current_reservation() is None
        assert (admission.current_reservation(), other.current_reservation()) == (None, None)

    in_time(run, test)


# -- what must not wait


def test_a_holder_does_not_wait_for_itself(run: Run) -> None:
    """What fits is granted beside what it holds; what would wait is refused at once, with what is held."""
    admission = told(100, max_concurrent=2)

    async def test(tasks: TaskGroup) -> None:
        async with admission.reserve(60) as held:
            with held.carve(10):
                async with admission.reserve(40):
                    assert holds(admission) == (2, 0, 100)
                with pytest.raises(mt.NestedReservationError, match="this task holds a reservation, and would") as e:
                    async with admission.reserve(41):
                        pytest.fail("let in")
                assert (e.value.need_bytes, e.value.held_bytes, e.value.left_bytes) == (41, 60, 50)
                with pytest.raises(mt.NestedReservationError):
                    async with admission.reserve(41, slot=False):
                        pytest.fail("let in")
            held.release()
            async with admission.reserve(100):
                pass

    in_time(run, test)
    assert (holds(admission), admission.statistics().rejected) == (NOTHING, 2)


def test_a_holder_in_a_thread_does_not_wait_for_itself() -> None:
    """The same with `reserve_blocking`."""
    admission = told(100, max_concurrent=1)
    with admission.reserve_blocking(1, timeout_seconds=5):
        with pytest.raises(mt.NestedReservationError):
            with admission.reserve_blocking(1, timeout_seconds=5):
                pytest.fail("let in")
    assert holds(admission) == NOTHING


def test_who_was_handed_a_part_does_not_wait(run: Run) -> None:
    """It stands on its giver's slot: waiting for another one could mean to wait for its giver, who waits for it."""
    admission = told(100, max_concurrent=1)
    refused = anyio.Event()

    async def helper(held: mt.Reservation) -> None:
        async with admission.reserve(10, reservation=held):
            with pytest.raises(mt.NestedReservationError) as caught:
                async with admission.reserve(1):
                    pytest.fail("let in")
            assert (caught.value.held_bytes, caught.value.left_bytes) == (60, 50)
        refused.set()

    async def test(tasks: TaskGroup) -> None:
        hold = admission.reserve_nowait(60)
        tasks.start_soon(helper, hold)
        await refused.wait()
        hold.release()

    in_time(run, test)


def test_memory_that_stays_does_not_forbid_to_wait(run: Run) -> None:
    """Whoever holds a loaded model runs nothing, and may queue for a slot; unless both could never fit together."""
    admission = told(100, largest=100, max_concurrent=1)

    async def test(tasks: TaskGroup) -> None:
        hold = admission.reserve_nowait(10)
        async with anyio.create_task_group() as others:
            others.start_soon(waits, hold)

    async def waits(hold: mt.Reservation) -> None:
        async with admission.reserve(30, slot=False):
            with pytest.raises(mt.NestedReservationError, match="could never fit") as caught:
                async with admission.reserve(71):
                    pytest.fail("let in")
            assert (caught.value.held_bytes, caught.value.need_bytes) == (30, 71)
            async with anyio.create_task_group() as others:
                others.start_soon(release_when_it_waits, hold)
                async with admission.reserve(70):
                    assert holds(admission) == (1, 0, 100)

    async def release_when_it_waits(hold: mt.Reservation) -> None:
        while admission.statistics().waiting == 0:
            await anyio.lowlevel.checkpoint()
        hold.release()

    in_time(run, test)


def test_a_child_task_may_wait_for_others(run: Run) -> None:
    """It did not enter anything itself; what its parent holds leaves enough to be granted once others release."""
    admission = told(100, max_concurrent=2)

    async def test(tasks: TaskGroup) -> None:
        async with admission.reserve(40):
            others = [admission.reserve_nowait(60), None]
            async with anyio.create_task_group() as children:
                (child,) = await start(children, admission, 60)
                assert (child.is_in.is_set(), admission.statistics().waiting) == (False, 1)
                assert others[0] is not None
                others[0].release()
                await child.is_in.wait()
                await child.end()

    in_time(run, test)
    assert holds(admission) == NOTHING


@pytest.mark.parametrize(
    ("slots", "need_bytes", "lane", "slot", "message"),
    [
        (1, 1, None, True, r"all 1 slots \(max_concurrent\) are held around this task"),
        (3, 1, "only", True, "all 1 slots of lane 'only' are held around this task"),
        (3, 41, None, True, "with what is held around this task it could never fit"),
        (3, 41, None, False, "with what is held around this task it could never fit"),
        (1, 40, None, False, None),
        (3, 40, "only", False, None),
        (3, 40, "other", True, None),
        (2, 40, None, True, None),
    ],
)
def test_children_that_could_never_be_granted(
    run: Run, slots: int, need_bytes: int, lane: str | None, slot: bool, message: str | None
) -> None:
    """`gather` inside `reserve()`: the block does not end before its children, so they would wait for ever.

    Whether it could be granted if everybody else released: by slots, by lane, by bytes. If so, it waits.
    """
    admission = told(100, largest=100, max_concurrent=slots)
    admission.lane("only", max_concurrent=1)
    admission.lane("other", max_concurrent=1)

    async def child() -> None:
        async with admission.reserve(need_bytes, lane=lane, slot=slot):
            is_in.set()

    async def refused() -> None:
        with pytest.raises(mt.NestedReservationError, match=message) as caught:
            await child()
        assert (caught.value.need_bytes, caught.value.held_bytes, caught.value.left_bytes) == (need_bytes, 60, 60)

    is_in = anyio.Event()

    async def test(tasks: TaskGroup) -> None:
        # What is in the way of everybody, so that nothing is granted on the spot:
        others = admission.reserve_nowait(40, slot=False)
        async with admission.reserve(60, lane="only"):
            async with anyio.create_task_group() as children:
                if message is not None:
                    children.start_soon(refused)
                else:
                    children.start_soon(child)
                    await settle()
                    assert (is_in.is_set(), holds(admission)) == (False, (1, 1, 100))
                    others.release()
                    await is_in.wait()
        others.release()

    in_time(run, test)
    assert holds(admission) == NOTHING


def test_beside_a_slot_that_is_held_only_the_target_counts(run: Run) -> None:
    """A child cannot be the one job that may pass the target, since its parent runs: to wait for that is for ever."""

    class Targeted(ToldGuard):
        def room(self, *, exact: bool = True) -> mt.MemoryRoom:
            return mt.MemoryRoom(60, 100, 100, super().room().largest_need_limit, largest_new_work_bytes=60)

    admission = mt.AdmissionController(guard=Targeted(0), scope="process")

    async def refused() -> None:
        with pytest.raises(mt.NestedReservationError, match="could never fit"):
            async with admission.reserve(31):
                pytest.fail("let in")

    async def test(tasks: TaskGroup) -> None:
        async with admission.reserve(30):
            async with anyio.create_task_group() as children:
                children.start_soon(refused)
            async with admission.reserve(30):
                pass

    in_time(run, test)


def test_grandchildren_and_several_around(run: Run) -> None:
    """All that is held around counts together, however deep the tasks are nested; and once, parts included."""
    admission = told(100, largest=100, max_concurrent=3)
    refused: list[tuple[int, int, int]] = []

    async def inner(depth: int) -> None:
        try:
            async with admission.reserve(30) as held:
                with held.carve(20):
                    async with anyio.create_task_group() as children:
                        children.start_soon(inner, depth + 1)
                        children.start_soon(anyio.lowlevel.checkpoint)
        except mt.NestedReservationError as error:
            refused.append((depth, error.need_bytes, error.held_bytes))

    async def test(tasks: TaskGroup) -> None:
        await inner(0)

    in_time(run, test)
    assert refused == [(3, 30, 90)]


# -- the library's own calls


@pytest.fixture
def url(server: Server, tmp_path: Path) -> str:
    """Where a short recording is."""
    samples = write_wav(tmp_path / "a.wav", tone_samples(1.5)).read_bytes()
    server.routes["/a.wav"] = lambda exchange: exchange.answer(samples)
    return server.url("/a.wav")


Job = Callable[[mt.Reservation | None], Awaitable[object]]


def fetching(admission: mt.AdmissionController, url: str, spool_dir: Path, seen: list[Any]) -> Job:
    """A download; while it runs, what is held is noted."""
    downloader = mt.SafeDownloader(policy=ANY, admission=admission, spool_dir=spool_dir)

    async def fetch(reservation: mt.Reservation | None) -> None:
        def note(done: int, total: int | None) -> None:
            seen.append(admission.statistics())

        async with downloader.fetch(url, reservation=reservation, on_progress=note) as file:
            assert file.size_bytes > 48_000

    return fetch


def transcribing(admission: mt.AdmissionController, url: str, spool_dir: Path, seen: list[Any]) -> Job:
    """A download and a transcription of it; while the engine runs, what is held is noted."""

    def engine(chunk: mt.AudioChunk) -> str:
        seen.append(admission.statistics())
        return "word"

    downloader = mt.SafeDownloader(policy=ANY, admission=admission, spool_dir=spool_dir)
    transcriber = mt.ChunkedTranscriber(engine, admission=admission, downloader=downloader, chunk_seconds=1)

    async def transcribe(reservation: mt.Reservation | None) -> None:
        transcript = await transcriber.transcribe(url, reservation=reservation)
        assert transcript.text == "word word"

    return transcribe


@pytest.mark.parametrize("make", [fetching, transcribing])
@pytest.mark.parametrize("way", ["inside", "handed over"])
def test_our_own_calls_carve_from_what_is_held(
    run: Run, server: Server, spool_dir: Path, url: str, make: Any, way: str
) -> None:
    """With all slots held they run on the reservation of the task, or the one that is handed over: no deadlock.

    They take no slot of their own and promise nothing more, and give back what they carved.
    """
    admission = told(10**9, max_concurrent=1)
    seen: list[mt.AdmissionStatistics] = []

    async def test(tasks: TaskGroup) -> None:
        job = make(admission, url, spool_dir, seen)
        async with admission.reserve(200 * mt.MiB) as held:
            waiting = await start_apart(tasks, admission, 1)
            if way == "inside":
                await job(None)
            else:
                async with anyio.create_task_group() as others:
                    others.start_soon(job, held)
            assert not waiting.is_in.is_set()
            assert held.left_bytes == 200 * mt.MiB
        await waiting.end()

    in_time(run, test)
    assert seen
    assert {(now.active, now.reserved_bytes, now.granted) for now in seen} == {(1, 200 * mt.MiB, 1)}
    assert holds(admission) == NOTHING


@pytest.mark.parametrize("make", [fetching, transcribing])
def test_our_own_calls_say_when_too_little_is_held(
    run: Run, server: Server, spool_dir: Path, url: str, make: Any
) -> None:
    """What does not fit into the reservation is refused with the figures; it does not wait, and nothing is left."""
    admission = told(10**9, max_concurrent=1)

    async def test(tasks: TaskGroup) -> None:
        job = make(admission, url, spool_dir, [])
        async with admission.reserve(mt.MiB) as held:
            with pytest.raises(mt.NestedReservationError) as caught:
                await job(None)
            assert (caught.value.held_bytes, caught.value.left_bytes) == (mt.MiB, mt.MiB)
            assert caught.value.need_bytes > mt.MiB
            assert held.left_bytes == mt.MiB

    in_time(run, test)
    assert holds(admission) == NOTHING


@pytest.mark.parametrize("make", [fetching, transcribing])
def test_our_own_calls_in_child_tasks_queue_for_themselves(
    run: Run, server: Server, spool_dir: Path, url: str, make: Any
) -> None:
    """A child that merely inherited the context takes a slot of its own; with none that could come free, it says so."""
    admission = told(10**9, max_concurrent=2)
    seen: list[mt.AdmissionStatistics] = []
    refused: list[mt.NestedReservationError] = []

    async def try_job() -> None:
        try:
            await make(admission, url, spool_dir, seen)(None)
        except mt.NestedReservationError as error:
            refused.append(error)

    async def test(tasks: TaskGroup) -> None:
        async with admission.reserve(1):
            async with anyio.create_task_group() as children:
                children.start_soon(try_job)
            assert {now.active for now in seen} == {2}
            async with admission.reserve(1):
                async with anyio.create_task_group() as children:
                    children.start_soon(try_job)
        (free,) = await start(tasks, admission, 1)
        assert are_in(free) == [True]
        await free.end()

    in_time(run, test)
    assert len(refused) == 1
    assert holds(admission) == NOTHING
