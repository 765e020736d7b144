"""memory_guard: on every kind of function, before and after, and as if it were not there in between."""

import functools
import gc
import inspect
import time
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._memory.pressure import Term

from ..conftest import Run
from ..support.memory import ToldReader, tell

MiB = mt.MiB


def used(used_mib: int) -> Term:
    return Term("limit", "told", "told", 1000 * MiB, used_mib * MiB, used_mib * MiB)


class CleaningGuard(mt.MemoryGuard):
    """A guard that counts its cleanups."""

    cleanups = 0

    def cleanup(self) -> int:
        self.cleanups += 1
        return 0


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> ToldReader:
    monkeypatch.delenv("MEMSAFE_LIMIT", raising=False)
    return tell(monkeypatch, used(100))


@pytest.fixture
def guard(memory: ToldReader) -> CleaningGuard:
    return CleaningGuard()


async def collect(items: AsyncGenerator[Any, None]) -> list[Any]:
    return [item async for item in items]


def test_a_function(memory: ToldReader, guard: CleaningGuard) -> None:
    """Refused by the threshold with its need; let in below; cleaned up after only when memory is at the threshold."""

    @mt.memory_guard(threshold_percent=50, guard=guard, need_bytes=100 * MiB)
    def double(number: int, *, then: int = 0) -> int:
        memory.say(used(then))
        return 2 * number

    memory.say(used(401))
    with pytest.raises(mt.MemoryPressureError, match=r"100\.0 MiB more would not fit.*threshold_percent=50"):
        double(4)
    assert guard.cleanups == 0
    memory.say(used(400))
    assert double(4, then=499) == 8
    assert guard.cleanups == 0
    memory.say(used(400))
    assert double(4, then=500) == 8
    assert guard.cleanups == 1


def test_an_error_is_cleaned_up_after_as_well(memory: ToldReader, guard: CleaningGuard) -> None:
    """And comes out unchanged, also when memory cannot be read any more."""

    @mt.memory_guard(guard=guard)
    def fail(error: OSError | None) -> None:
        memory.say(used(900))
        memory.fails_with = error
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail(None)
    assert guard.cleanups == 1
    memory.say(used(100))
    with pytest.raises(ZeroDivisionError):
        fail(OSError(24, "Too many open files"))
    assert guard.cleanups == 1


def test_a_coroutine(run: Run, memory: ToldReader, guard: CleaningGuard) -> None:
    """The same for `async def`, also when it is cancelled."""

    @mt.memory_guard(guard=guard)
    async def work(then: int) -> str:
        await anyio.lowlevel.checkpoint()
        memory.say(used(then))
        if then == 700:
            await anyio.sleep_forever()
        return "done"

    async def main() -> None:
        memory.say(used(601))
        with pytest.raises(mt.MemoryPressureError):
            await work(100)
        memory.say(used(100))
        assert await work(100) == "done"
        assert guard.cleanups == 0
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(work, 700)
                for _ in range(10):
                    await anyio.lowlevel.checkpoint()
                scope.cancel()
        assert guard.cleanups == 1

    run(main)


def test_waiting_for_memory(
    run: Run, memory: ToldReader, guard: CleaningGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With wait_seconds it begins once there is room, and is refused after that time."""
    memory.say(used(900))

    @mt.memory_guard(guard=guard, wait_seconds=30)
    async def work() -> int:
        return memory.reads

    @mt.memory_guard(guard=guard, wait_seconds=0.01)
    async def in_vain() -> None:
        raise AssertionError("never run")

    async def main() -> None:
        with pytest.raises(mt.MemoryPressureError):
            await in_vain()
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(work)
                for _ in range(10):
                    await anyio.lowlevel.checkpoint()
                memory.say(used(100))

    run(main)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            memory.say(used(100))

    @mt.memory_guard(guard=guard, wait_seconds=30)
    def plain() -> str:
        return "done"

    @mt.memory_guard(guard=guard, wait_seconds=0)
    def hasty() -> None:
        raise AssertionError("never run")

    memory.say(used(900))
    monkeypatch.setattr(time, "sleep", sleep)
    assert plain() == "done"
    assert slept == [0.05] * 3
    memory.say(used(900))
    with pytest.raises(mt.MemoryPressureError):
        hasty()
    assert len(slept) == 3


def test_a_generator(memory: ToldReader, guard: CleaningGuard) -> None:
    """Checked when its body begins; what is sent, thrown and returned goes through; closing it early cleans up."""
    closed = []

    @mt.memory_guard(guard=guard)
    def echo() -> Generator[Any, Any, str]:
        said: Any = "begun"
        try:
            while said != "end":
                try:
                    said = yield said
                except KeyError as error:
                    said = f"caught {error.args[0]}"
        finally:
            closed.append(True)
        return "returned"

    memory.say(used(900))
    generator = echo()
    with pytest.raises(mt.MemoryPressureError):
        next(generator)
    memory.say(used(100))
    generator = echo()
    assert next(generator) == "begun"
    assert generator.send(7) == 7
    assert generator.throw(KeyError("x")) == "caught x"
    with pytest.raises(StopIteration) as end:
        generator.send("end")
    assert (end.value.value, len(closed), guard.cleanups) == ("returned", 1, 0)
    generator = echo()
    next(generator)
    memory.say(used(900))
    generator.close()
    assert (len(closed), guard.cleanups) == (2, 1)


def test_an_async_generator(run: Run, memory: ToldReader, guard: CleaningGuard) -> None:
    """As for a plain one: asend, athrow, aclose, its own end, and an error of its own."""
    closed = []

    @mt.memory_guard(guard=guard)
    async def echo(error: Exception | None = None) -> AsyncGenerator[Any, Any]:
        said: Any = "begun"
        try:
            while said != "end":
                try:
                    said = yield said
                except KeyError as caught:
                    said = f"caught {caught.args[0]}"
                await anyio.lowlevel.checkpoint()
            if error is not None:
                raise error
        finally:
            await anyio.lowlevel.cancel_shielded_checkpoint()
            closed.append(True)

    async def main() -> None:
        memory.say(used(900))
        with pytest.raises(mt.MemoryPressureError):
            await anext(echo())
        memory.say(used(100))
        generator = echo()
        assert await anext(generator) == "begun"
        assert await generator.asend(7) == 7
        assert await generator.athrow(KeyError("x")) == "caught x"
        with pytest.raises(StopAsyncIteration):
            await generator.asend("end")
        assert (len(closed), guard.cleanups) == (1, 0)

        mistake = ZeroDivisionError()
        generator = echo(mistake)
        await anext(generator)
        with pytest.raises(ZeroDivisionError) as caught:
            await generator.asend("end")
        assert caught.value is mistake

        generator = echo()
        await anext(generator)
        memory.say(used(900))
        await generator.aclose()
        assert (len(closed), guard.cleanups) == (3, 1)
        memory.say(used(100))

        generator = echo()
        await anext(generator)
        thrown = LookupError("not caught")
        with pytest.raises(LookupError) as out:
            await generator.athrow(thrown)
        assert out.value is thrown
        assert len(closed) == 4

    run(main)


def test_an_async_generator_that_is_cancelled_inside(run: Run, memory: ToldReader, guard: CleaningGuard) -> None:
    """A cancellation while the inner one waits closes it; nothing is left for the garbage collector."""
    closed = []

    @mt.memory_guard(guard=guard)
    async def wait() -> AsyncGenerator[int, None]:
        try:
            yield 1
            await anyio.sleep_forever()
        finally:
            closed.append(True)

    async def main() -> None:
        with anyio.CancelScope() as scope:
            generator = wait()
            assert await anext(generator) == 1
            scope.cancel()
            await anext(generator)
        assert scope.cancelled_caught and closed == [True]

    run(main)


def test_one_that_will_not_close(run: Run, memory: ToldReader, guard: CleaningGuard) -> None:
    """An async generator that yields when it is closed is an error, as it is without the guard."""

    @mt.memory_guard(guard=guard)
    async def stubborn() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            yield 2

    async def main() -> None:
        generator = stubborn()
        await anext(generator)
        with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
            await generator.aclose()

    run(main)
    gc.collect()


def test_methods_partials_and_callable_objects(run: Run, memory: ToldReader, guard: CleaningGuard) -> None:
    """Whatever can be called: bound, below staticmethod and classmethod, half filled in, or an object."""
    protect = mt.memory_guard(guard=guard)

    class House:
        number = 3

        @protect
        def method(self, more: int) -> int:
            return self.number + more

        @staticmethod
        @protect
        def static(more: int) -> int:
            return more

        @classmethod
        @protect
        def by_class(cls, more: int) -> int:
            return cls.number + more

        @protect
        async def later(self, more: int) -> int:
            return self.number + more

    class Called:
        async def __call__(self, more: int) -> int:
            return more

    def add(first: int, second: int) -> int:
        """Adds."""
        return first + second

    async def add_later(first: int, second: int) -> int:
        return first + second

    half = protect(functools.partial(functools.partial(add), 1))
    assert (half(second=2), half.__name__, half.__doc__) == (3, "add", "Adds.")
    assert list(inspect.signature(half).parameters) == ["second"]
    assert (House().method(1), House.static(1), House.by_class(1)) == (4, 1, 4)

    async def main() -> None:
        assert await House().later(1) == 4
        assert await protect(Called())(5) == 5
        assert await protect(functools.partial(add_later, 1))(2) == 3

    run(main)


def test_a_decorated_function_is_still_of_its_kind() -> None:
    """For frameworks that ask what a function is, and for readers of its name, signature and documentation."""
    protect = mt.memory_guard()

    def plain(a: int, *, b: str = "x") -> int:
        """Says so."""
        return a

    async def coroutine() -> None: ...

    def generator() -> Generator[int, None, None]:
        yield 1

    async def async_generator() -> AsyncGenerator[int, None]:
        yield 1

    kinds = inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction
    for function in (plain, coroutine, generator, async_generator):
        decorated: Callable[..., Any] = protect(function)
        assert [kind(decorated) for kind in kinds] == [kind(function) for kind in kinds]
        assert inspect.signature(decorated) == inspect.signature(function)
        assert (decorated.__name__, decorated.__doc__) == (function.__name__, function.__doc__)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"threshold_percent": 0}, "threshold_percent=0"),
        ({"threshold_percent": 91}, "threshold_percent=91"),
        ({"threshold_percent": float("nan")}, "threshold_percent=nan"),
        ({"need_bytes": -1}, "need_bytes must not be negative, got -1"),
        ({"wait_seconds": -0.1}, r"wait_seconds must not be negative, got -0\.1"),
        ({"wait_seconds": float("nan")}, "wait_seconds"),
        ({"threshold_percent": 71, "guard": mt.MemoryGuard(ceiling_percent=70)}, "ceiling_percent=70"),
    ],
)
def test_bad_settings(settings: dict[str, Any], named: str) -> None:
    """Are refused where the decorator is written, not where the function runs."""
    with pytest.raises(ValueError, match=named):
        mt.memory_guard(**settings)


def test_what_cannot_be_decorated() -> None:
    """Is said at once, with what to do instead."""
    protect: Callable[[Any], Any] = mt.memory_guard()

    def function(*arguments: object) -> None: ...

    with pytest.raises(TypeError, match="below @staticmethod"):
        protect(staticmethod(function))
    with pytest.raises(TypeError, match="below @classmethod"):
        protect(classmethod(function))
    with pytest.raises(TypeError, match="not classes"):
        protect(CleaningGuard)
    with pytest.raises(TypeError, match="got 7"):
        protect(7)


def test_the_default_guard_is_asked_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when the module that decorates is imported: a host may set MEMSAFE_LIMIT after that."""
    asked: list[bool] = []

    def default() -> mt.MemoryGuard:
        asked.append(True)
        return CleaningGuard(limit_bytes=1)

    monkeypatch.setattr("memsafe_transcribe._memory.decorator.default_guard", default)

    @mt.memory_guard()
    def function() -> None:
        raise AssertionError("never run")

    assert not asked
    with pytest.raises(mt.MemoryPressureError, match="limit_bytes"):
        function()
    assert asked
