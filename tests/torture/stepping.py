"""One run of something asynchronous in which every wait of every task is counted, and something goes wrong at the Nth.

A step is a moment at which a task of the run begins to wait, the run's own or one that it has started.
"""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.lowlevel
import trio

from .left import children
from .sites import Site, await_sites_of

SECONDS = 60.0
_steps: ContextVar["Steps | None"] = ContextVar("steps", default=None)
Act = Callable[["Steps"], object]


@dataclass(eq=False)
class Steps:
    """What happens in one run.

    Attributes:
        acts: what is done at which step.
        count: of the steps so far.
        fired: how often it was done.
        waited: where a task waited.
        sites: where a cancellation came in.
        scope, task: the run's own.
        living: its tasks that have not ended.
        lost: what the event loop was told of that nobody else was.
    """

    acts: Mapping[int, "Act"]
    count: int = 0
    fired: int = 0
    is_over: bool = False
    waited: set[Site] = field(default_factory=set)
    sites: set[Site] = field(default_factory=set)
    scope: Any = None
    task: Any = None
    living: dict[int, str] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)

    def step(self, coroutine: Any) -> None:
        """A task begins to wait."""
        if self.is_over:
            return
        self.count += 1
        self.waited.update(await_sites_of(coroutine))
        if (act := self.acts.get(self.count)) is not None:
            self.fired += 1
            act(self)

    def delivered(self, coroutine: Any) -> None:
        """A cancellation is about to be thrown into a task."""
        self.sites.update(await_sites_of(coroutine))


# -- what is done at a step


def by_scope(steps: Steps) -> None:
    """What anyio and trio do."""
    steps.scope.cancel()


def by_task(steps: Steps) -> None:
    """What asyncio does by itself, in `asyncio.timeout` and `TaskGroup` too: no scope shields from it."""
    steps.task.cancel()


def by_all_tasks(steps: Steps) -> None:
    """What asyncio does as its loop ends: all tasks at once."""
    for task in asyncio.all_tasks():
        if isinstance(task.get_coro(), Watched):
            task.cancel()


def by_killing_children(steps: Steps) -> None:
    """What the kernel's OOM killer does to a decoder."""
    for pid in children():
        os.kill(pid, signal.SIGKILL)


def by_killing_itself(steps: Steps) -> None:
    """The same to the host."""
    os.kill(os.getpid(), signal.SIGKILL)


# -- asyncio


class Watched(Coroutine[Any, Any, Any]):
    """A task's coroutine: tells of its steps, and is else what it was."""

    def __init__(self, inner: Any, steps: Steps) -> None:
        self._inner = inner
        self._steps = steps
        steps.living[id(inner)] = repr(inner)

    def send(self, value: Any) -> Any:
        return self._stepped(self._inner.send, value)

    def throw(self, *error: Any) -> Any:
        if isinstance(error[0], asyncio.CancelledError) or error[0] is asyncio.CancelledError:
            self._steps.delivered(self._inner)
        return self._stepped(self._inner.throw, *error)

    def _stepped(self, go_on: Callable[..., Any], *arguments: Any) -> Any:
        try:
            waits_for = go_on(*arguments)
        except BaseException:
            self._steps.living.pop(id(self._inner), None)
            raise
        self._steps.step(self._inner)
        return waits_for

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _watch_asyncio(steps: Steps) -> None:
    def make_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> "asyncio.Task[Any]":
        return asyncio.Task(Watched(coroutine, steps) if _steps.get() else coroutine, loop=loop, **options)

    loop = asyncio.get_running_loop()
    loop.set_task_factory(make_task)
    loop.set_exception_handler(lambda _, context: steps.lost.append(str(context)))


@contextmanager
def watching(steps: Steps, call: Callable[[Callable[[], Awaitable[None]]], None]) -> Iterator[None]:
    """While this lasts, what this thread begins in another one's loop is counted; `call` runs something there."""

    async def watch() -> None:
        _watch_asyncio(steps)

    async def look_away() -> None:
        asyncio.get_running_loop().set_task_factory(None)

    call(watch)
    token = _steps.set(steps)
    try:
        yield
    finally:
        steps.is_over = True
        _steps.reset(token)
        call(look_away)


# -- trio


class _Instrument(trio.abc.Instrument):
    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def _is_of_run(self, task: trio.lowlevel.Task) -> bool:
        return task.context.get(_steps) is self._steps

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        if self._is_of_run(task):
            self._steps.living[id(task)] = task.name

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        self._steps.living.pop(id(task), None)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        coming: Any = getattr(task, "_next_send", None)
        if self._is_of_run(task) and isinstance(getattr(coming, "error", None), trio.Cancelled):
            self._steps.delivered(task.coro)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._is_of_run(task) and id(task) in self._steps.living:
            self._steps.step(task.coro)


# -- both


@dataclass(frozen=True)
class Ran:
    """What came of a run.

    Attributes:
        steps: how many there were, and where cancellations came in.
        is_finished: whether it ran to its end.
        error: what came out instead, other than the cancellation.
        left: tasks, and what nobody was told of.
    """

    steps: Steps
    is_finished: bool
    error: BaseException | None
    left: list[str]


def run(function: Callable[[], Awaitable[None]], backend: str, acts: Mapping[int, Act]) -> Ran:
    """Run it, and do at each of those steps what is to be done there."""
    steps = Steps(acts)
    is_finished = False
    error: BaseException | None = None
    left: list[str] = []

    async def host() -> None:
        nonlocal is_finished, error
        steps.task = asyncio.current_task() if backend == "asyncio" else None
        try:
            with anyio.CancelScope() as steps.scope:
                await function()
                is_finished = True
        except asyncio.CancelledError:
            if not _uncancelled(steps.task):
                raise
        except Exception as raised:
            error = raised
        except BaseExceptionGroup as raised:  # of cancellations and others at once
            error = raised
        finally:
            steps.is_over = True
            if steps.task is not None:
                _uncancelled(steps.task)

    async def main() -> None:
        if backend == "asyncio":
            _watch_asyncio(steps)
        else:
            trio.lowlevel.add_instrument(_Instrument(steps))
        with anyio.fail_after(SECONDS):
            async with anyio.create_task_group() as tasks:
                token = _steps.set(steps)
                tasks.start_soon(host)
                _steps.reset(token)
            while steps.living and {by_task, by_all_tasks} & {*acts.values()}:
                await anyio.lowlevel.checkpoint()  # asyncio's own cancellation waits for nobody
        left.extend(f"task {name}" for name in steps.living.values())

    anyio.run(main, backend=backend)
    return Ran(steps, is_finished, error, [*left, *steps.lost])


def _uncancelled(task: "asyncio.Task[Any]") -> bool:
    """Take back all of asyncio's own cancellations; whether there were any."""
    if not task.cancelling():
        return False
    while task.uncancel():
        pass
    return True
