"""`async with guard`: who is told of what, and that nothing is left of the watcher."""

import logging
from collections.abc import Iterator

import anyio
import anyio.lowlevel
import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._memory import judging
from memsafe_transcribe._memory.pressure import MAX_POLL_SECONDS, MIN_POLL_SECONDS, Term

from ..conftest import Run
from ..support.memory import ToldReader, tell

MiB = mt.MiB


def used(used_mib: int) -> Term:
    """600 MiB, of which so many are used: ELEVATED from 300, HIGH from 360, CRITICAL from 540."""
    return Term("limit", "told", "told", 600 * MiB, used_mib * MiB, used_mib * MiB)


class Clock:
    """A clock for the levels' dwell that goes on when it is told, or by a step at each look."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.step = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(judging, "monotonic", clock)
    return clock


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> ToldReader:
    monkeypatch.delenv("MEMSAFE_LIMIT", raising=False)
    return tell(monkeypatch, used(10))


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The watcher asks for its pauses as always, and gets none of them longer than a checkpoint."""
    asked: list[float] = []
    real = anyio.sleep

    async def sleep(seconds: float) -> None:
        asked.append(seconds)
        await real(0)

    monkeypatch.setattr("memsafe_transcribe._memory.watching.anyio.sleep", sleep)
    yield asked
    assert all(MIN_POLL_SECONDS <= seconds <= MAX_POLL_SECONDS for seconds in asked)


async def looks(memory: ToldReader, more: int = 2) -> None:
    """Wait until the watcher has looked `more` times."""
    upto = memory.reads + more
    while memory.reads < upto:
        await anyio.lowlevel.checkpoint()


def test_each_change_is_told_once_up_and_down(run: Run, memory: ToldReader, clock: Clock) -> None:
    """Up at once; down after margin and dwell; nothing while the level stays."""
    guard = mt.MemoryGuard()
    told: list[mt.MemorySnapshot] = []
    guard.on_level(told.append)

    async def main() -> None:
        async with guard as entered:
            assert entered is guard
            await looks(memory)
            assert not told
            memory.say(used(400))
            await looks(memory)
            memory.say(used(550))
            await looks(memory)
            memory.say(used(10))
            await looks(memory)
            assert [snapshot.level.name for snapshot in told] == ["HIGH", "CRITICAL"]
            clock.now += 1.9
            await looks(memory)
            assert len(told) == 2
            clock.now += 0.2
            await looks(memory)

    run(main)
    assert [snapshot.level.name for snapshot in told] == ["HIGH", "CRITICAL", "OK"]
    assert [snapshot.used_bytes // MiB for snapshot in told] == [400, 550, 10]


def test_memory_that_was_full_before_is_told_of(run: Run, memory: ToldReader) -> None:
    """To a callback the level is OK before its first call, whoever else had asked the guard before."""
    memory.say(used(550))
    guard = mt.MemoryGuard()
    assert guard.snapshot().level is mt.MemoryLevel.CRITICAL
    told: list[str] = []
    guard.on_level(lambda snapshot: told.append(snapshot.level.name))

    async def main() -> None:
        async with guard:
            await looks(memory)

    run(main)
    assert told == ["CRITICAL"]


def test_a_callback_that_fails_is_logged_and_the_watch_goes_on(
    run: Run, memory: ToldReader, caplog: pytest.LogCaptureFixture
) -> None:
    """The other callbacks are called, and so is the failing one at the next change."""
    guard = mt.MemoryGuard()
    told: list[str] = []

    def fail(snapshot: mt.MemorySnapshot) -> None:
        raise ZeroDivisionError("a host's mistake")

    guard.on_level(fail)
    guard.on_level(lambda snapshot: told.append(snapshot.level.name))

    async def main() -> None:
        async with guard:
            memory.say(used(400))
            await looks(memory)
            memory.say(used(550))
            await looks(memory)

    with caplog.at_level(logging.ERROR, logger="memsafe_transcribe"):
        run(main)
    assert told == ["HIGH", "CRITICAL"]
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError] * 2


def test_a_callback_can_be_taken_off(run: Run, memory: ToldReader) -> None:
    """By the function that adding it returned; twice does no harm, and of two equal ones the other stays."""
    guard = mt.MemoryGuard()
    told: list[mt.MemorySnapshot] = []
    remove = guard.on_level(told.append)
    guard.on_level(told.append)

    async def main() -> None:
        async with guard:
            remove()
            remove()
            memory.say(used(400))
            await looks(memory)

    run(main)
    assert len(told) == 1


def test_one_watcher_for_each_guard(run: Run, memory: ToldReader) -> None:
    """A second one at a time is refused; after the first has left, the guard can be watched again."""
    guard = mt.MemoryGuard()

    async def main() -> None:
        for _ in range(2):
            async with guard:
                with pytest.raises(RuntimeError, match="watching already"):
                    async with guard:
                        pass
                await looks(memory)

    run(main)


@pytest.mark.parametrize("error", [ValueError("the body's"), KeyboardInterrupt(), ExceptionGroup("x", [OSError()])])
def test_what_the_body_raises_comes_out_as_it_is(run: Run, memory: ToldReader, error: BaseException) -> None:
    """Not in a group, and the watcher has ended: memory is not read any more."""
    guard = mt.MemoryGuard()

    async def main() -> None:
        with pytest.raises(type(error)) as caught:
            async with guard:
                await looks(memory)
                raise error
        assert caught.value is error
        reads = memory.reads
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        assert memory.reads == reads
        async with guard:
            pass

    run(main)


def test_an_error_survives_a_cancelled_scope(run: Run, memory: ToldReader) -> None:
    """What went wrong in a body that had been cancelled is not lost while the watcher ends."""
    guard = mt.MemoryGuard()

    async def main() -> None:
        with pytest.raises(ValueError, match="the body's"):
            with anyio.CancelScope() as scope:
                async with guard:
                    await looks(memory)
                    scope.cancel()
                    raise ValueError("the body's")

    run(main)


def test_cancelled_while_watching(run: Run, memory: ToldReader) -> None:
    """A cancelled body takes the watcher with it, and the guard can be watched again."""
    guard = mt.MemoryGuard()

    async def main() -> None:
        with anyio.CancelScope() as scope:
            async with guard:
                await looks(memory)
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        reads = memory.reads
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        assert memory.reads == reads
        async with guard:
            await looks(memory)

    run(main)


def test_entering_when_cancelled(run: Run, memory: ToldReader) -> None:
    """A scope that is cancelled before still leaves the guard free."""
    guard = mt.MemoryGuard()

    async def main() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            async with guard:
                await anyio.lowlevel.checkpoint()
        async with guard:
            await looks(memory)

    run(main)


def test_memory_that_cannot_be_read_does_not_end_the_watch(
    run: Run, memory: ToldReader, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, and the watch goes on when it can be read again."""
    guard = mt.MemoryGuard()
    told: list[str] = []
    guard.on_level(lambda snapshot: told.append(snapshot.level.name))

    async def main() -> None:
        async with guard:
            await looks(memory)
            memory.fails_with = OSError(24, "Too many open files")
            await looks(memory, 5)
            memory.fails_with = None
            memory.say(used(550))
            await looks(memory)

    run(main)
    assert told == ["CRITICAL"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_it_looks_more_often_while_memory_fills(
    run: Run, memory: ToldReader, clock: Clock, quick_polls: list[float]
) -> None:
    """Once a second at rest; at 240 MiB a second and 50 MiB before the next level, after half of what is left."""
    guard = mt.MemoryGuard()
    clock.step = 1.0

    async def main() -> None:
        async with guard:
            await looks(memory, 3)
            memory.say(used(250))
            await looks(memory, 3)

    run(main)
    assert set(quick_polls[1:]) == {MAX_POLL_SECONDS, 50 / 240 / 2}
    assert quick_polls[0] == MIN_POLL_SECONDS
