"""Two event loops in which nothing is left to chance but what a seed decides: who runs next, and what time it is.

On asyncio it is a loop of our own: of all that could run, a seeded random one does. On trio it is trio's, in its mode
for deterministic scheduling, with a seeded generator and a clock of our own. In both, time stands still while anything
can run, but for a microsecond a step, and then jumps to the next deadline.
"""

# ruff: noqa: SLF001 - what decides who runs next is hidden in both loops

import asyncio
import heapq
import random as random_module
import sys
import time
from asyncio import tasks as asyncio_tasks
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar, copy_context
from itertools import count
from math import inf
from random import Random
from typing import Any, Protocol

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import sniffio
import trio
from anyio._backends._asyncio import CancelScope as AsyncioCancelScope
from trio._core import _run as trio_run

STEP_SECONDS = 1e-6
MOST_STEPS = 50_000
_THREAD_SECONDS = (0.0, 0.0, 0.0, 0.0001, 0.001, 0.02, 0.3)


class Clock:
    """What time it is, for all modules of the library.

    Attributes:
        now: seconds of the monotonic clock.
        wall_offset: what the wall clock is ahead of that; it may jump either way.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.wall_offset = 1.7e9

    def monotonic(self) -> float:
        return self.now

    def monotonic_ns(self) -> int:
        return int(self.now * 1e9)

    def time(self) -> float:
        return self.now + self.wall_offset

    def sleep(self, seconds: float) -> None:
        """Nobody waits in a simulation: what is locked stays so for as long as this turn lasts."""
        self.now += seconds


class Watcher(Protocol):
    """Who looks on. What it raises ends the schedule."""

    def stepped(self) -> None:
        """After each step of any task."""

    def rested(self) -> None:
        """When nothing can run, before time goes on."""


class Schedule:
    """One schedule: its seed's random numbers, its clock, and who looks on.

    Args:
        random: decides everything.
        watcher: whom to ask after each step.
    """

    def __init__(self, random: Random, watcher: Watcher) -> None:
        self.random = random
        self.clock = Clock()
        self.steps = 0
        self.failure: Exception | None = None
        self._watcher = watcher
        self._scope: anyio.CancelScope | None = None
        self._bounded: anyio.CancelScope | None = None

    @property
    def is_ending(self) -> bool:
        """Whether all is cancelled by now, since it failed or took too long."""
        return self.failure is not None or (self._bounded is not None and self._bounded.cancel_called)

    def stepped(self) -> None:
        """A step was made."""
        self.steps += 1
        if self.steps == MOST_STEPS:
            self.fail(AssertionError(f"it has not ended after {MOST_STEPS:,} steps"))
        self.clock.now += STEP_SECONDS
        self._guarded(self._watcher.stepped)

    def rested(self) -> None:
        """There is none to be made now."""
        self._guarded(self._watcher.rested)

    def _guarded(self, look: Callable[[], None]) -> None:
        if self.failure is None:
            try:
                look()
            except Exception as error:
                self.fail(error)

    def fail(self, error: Exception) -> None:
        """That is the end of it. What else is wrong then, follows from that."""
        if self.failure is None:
            self.failure = error
            if self._scope is not None:
                self._scope.cancel()

    async def guarded(self, main: Callable[[], Awaitable[None]], most_seconds: float) -> None:
        """Run `main`, for no longer than that.

        Raises:
            AssertionError: it did not end: somebody waits for ever.
        """
        with anyio.CancelScope() as self._scope:
            with anyio.move_on_after(most_seconds) as self._bounded:
                await main()
            if self._bounded.cancelled_caught and self.failure is None:
                raise AssertionError(f"it has not ended after {most_seconds:g} s")

    def run(self, backend: str, main: Callable[[], Awaitable[None]], most_seconds: float) -> None:
        """Run one schedule to its end.

        Raises:
            AssertionError: what the watcher found first; or else whatever `main` raises.
        """
        running = {"asyncio": _run_on_asyncio, "trio": _run_on_trio}[backend]
        try:
            with _is_current(self):
                running(self, lambda: self.guarded(main, most_seconds))
        except BaseException:
            if self.failure is None:
                raise
        if self.failure is not None:
            raise self.failure


# -- asyncio


class _Task(asyncio.Task[Any]):
    """One that is found in a set at the same place in every process: sets of anyio's decide who is cancelled first."""

    def __init__(self, coro: Any, *, loop: "_Loop", **options: Any) -> None:
        self._number = next(loop.numbers)
        super().__init__(coro, loop=loop, **options)

    def __hash__(self) -> int:
        return self._number


class _OrderedSet(dict[Any, None]):
    """A set that is walked through in the order in which things came: who is cancelled first must not be chance."""

    def add(self, item: Any) -> None:
        self[item] = None

    def remove(self, item: Any) -> None:
        del self[item]

    def discard(self, item: Any) -> None:
        self.pop(item, None)


class _Loop(asyncio.BaseEventLoop):
    """No selector, no descriptors: what runs next is drawn, and time jumps."""

    _ready: Any
    _scheduled: Any

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.numbers = count()
        self._looks = 0
        self._schedule = schedule
        self.set_task_factory(lambda loop, coro, **options: _Task(coro, loop=self, **options))

    def time(self) -> float:
        return self._schedule.clock.now

    def _process_events(self, event_list: Any) -> None:
        raise AssertionError("there are none")

    def _write_to_self(self) -> None:
        """There is nobody to be woken."""

    def _run_once(self) -> None:
        schedule, ready, scheduled = self._schedule, self._ready, self._scheduled
        while scheduled and (scheduled[0]._cancelled or scheduled[0]._when <= schedule.clock.now):
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            if not handle._cancelled:
                ready.append(handle)
        # anyio looks again and again whether who is shielded can be cancelled by now. Once all of these looks were made
        # in vain, and once more, for the first may have met a task that was just woken, there is nothing to be done.
        is_idle = all(getattr(handle._callback, "__name__", "") == "_deliver_cancellation" for handle in ready)
        self._looks = self._looks + 1 if is_idle else 0
        if is_idle and self._looks > 2 * len(ready):
            self._looks = 0
            schedule.rested()
            if scheduled:
                schedule.clock.now = max(schedule.clock.now, scheduled[0]._when)
            return
        at = 0 if is_idle else schedule.random.randrange(len(ready))
        ready.rotate(-at)
        handle = ready.popleft()
        ready.rotate(at)
        if not handle._cancelled:
            handle._run()
            schedule.stepped()


def _run_on_asyncio(schedule: Schedule, main: Callable[[], Awaitable[None]]) -> None:
    plain_init = AsyncioCancelScope.__init__

    def init(scope: Any, *arguments: Any, **options: Any) -> None:
        plain_init(scope, *arguments, **options)
        scope._child_scopes = _OrderedSet()

    loop = _Loop(schedule)
    errors: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: errors.append(context))
    setattr(AsyncioCancelScope, "__init__", init)  # noqa: B010
    try:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(_awaited(main))
        assert not errors, errors
        assert not (left := asyncio_tasks.all_tasks(loop)), f"tasks are left: {left}"
    finally:
        asyncio.set_event_loop(None)
        loop.close()
        setattr(AsyncioCancelScope, "__init__", plain_init)  # noqa: B010


async def _awaited(main: Callable[[], Awaitable[None]]) -> None:
    await main()


# -- trio


class _TrioClock(trio.abc.Clock):
    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return self._schedule.clock.now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Asked when nothing can run: then it is that time already."""
        schedule = self._schedule
        schedule.rested()
        if deadline < inf:
            schedule.clock.now = max(schedule.clock.now, deadline)
        return 0.0


class _Steps(trio.abc.Instrument):
    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._schedule.stepped()


def _run_on_trio(schedule: Schedule, main: Callable[[], Awaitable[None]]) -> None:
    before = trio_run._r, trio_run._ALLOW_DETERMINISTIC_SCHEDULING
    trio_run._r = Random(schedule.random.random())
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    try:
        trio.run(_awaited, main, clock=_TrioClock(schedule), instruments=[_Steps(schedule)])
    finally:
        trio_run._r, trio_run._ALLOW_DETERMINISTIC_SCHEDULING = before  # type: ignore[misc]


# -- what else is of the world outside


class Ended(BaseException):
    """The simulated process in which this code ran has been killed."""


class Process:
    """A process of the simulation. What of it stands in files, its death leaves there.

    Attributes:
        is_dead: whether it was killed: from then on none of its tasks can do anything to the world outside.
    """

    def __init__(self) -> None:
        self.is_dead = False

    def check(self) -> None:
        """Raises:
        Ended: it was killed.
        """
        if self.is_dead:
            raise Ended


running_process: ContextVar[Process] = ContextVar("running_process", default=Process())  # noqa: B039 - never killed
_current: list[Schedule] = []


@contextmanager
def _is_current(schedule: Schedule) -> Iterator[None]:
    _current.append(schedule)
    state = random_module.getstate()  # pauses are drawn from the one that all share
    random_module.seed(schedule.random.random())
    try:
        yield
    finally:
        random_module.setstate(state)
        _current.pop()


class _Time:
    """Stands for the module `time` in the library: the clock of the schedule that runs."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_current[-1].clock, name)


@contextmanager
def simulated_world() -> Iterator[None]:
    """`with` this around schedules: the library asks them for the time, and its threads run when they say."""
    modules = [module for name, module in sys.modules.items() if name.startswith("memsafe_transcribe.")]
    times = [module for module in modules if getattr(module, "time", None) is time]
    clocks = [module for module in modules if getattr(module, "monotonic", None) is time.monotonic]
    threads = anyio.to_thread.run_sync, anyio.from_thread.run_sync
    try:
        for module in times:
            setattr(module, "time", _Time())  # noqa: B010 - mypy knows it as a module
        for module in clocks:
            setattr(module, "monotonic", lambda: _current[-1].clock.now)  # noqa: B010
        setattr(anyio.to_thread, "run_sync", _in_thread)  # noqa: B010
        setattr(anyio.from_thread, "run_sync", lambda function, *arguments: function(*arguments))  # noqa: B010
        yield
    finally:
        anyio.to_thread.run_sync, anyio.from_thread.run_sync = threads
        for module in times:
            setattr(module, "time", time)  # noqa: B010
        for module in clocks:
            setattr(module, "monotonic", time.monotonic)  # noqa: B010


class _Thread:
    """A function that runs at a moment of the schedule's choice, and whose end is heard of later."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._context = copy_context()
        self._result: Any = None
        self._error: BaseException | None = None
        self.has_ended = anyio.Event()

    async def run(self) -> None:
        process = running_process.get()
        random = _current[-1].random
        await anyio.sleep(random.choice(_THREAD_SECONDS))
        try:
            process.check()
            self._result = self._context.run(self._function)
        except BaseException as error:
            self._error = error
        await anyio.sleep(random.choice(_THREAD_SECONDS))
        if process.is_dead:
            self._error = Ended()
        self.has_ended.set()

    def outcome(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._result


async def _in_thread(
    function: Callable[..., Any], *arguments: Any, limiter: anyio.CapacityLimiter | None = None, **options: Any
) -> Any:
    """As anyio's: begun unless cancelled before, and then waited for; asyncio's own `cancel` breaks through that."""
    await anyio.lowlevel.checkpoint()
    async with limiter or nullcontext():
        with anyio.CancelScope(shield=True):
            thread = _Thread(lambda: function(*arguments))
            if sniffio.current_async_library() == "trio":
                trio.lowlevel.spawn_system_task(thread.run, context=copy_context())
            else:
                running = asyncio.get_running_loop().create_task(thread.run())
                running.add_done_callback(lambda done: done.exception())
            await thread.has_ended.wait()
    return thread.outcome()
