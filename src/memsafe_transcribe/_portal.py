"""One event loop for all plain code of a process: in a thread of its own, from its first use to the process's end."""

import atexit
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from typing import Generic, TypeVar

import anyio
import anyio.lowlevel
from anyio.from_thread import BlockingPortal

T = TypeVar("T")


class _Task(Generic[T]):
    """An async function in a portal's loop, that whoever waits for it can end.

    Attributes:
        outcome: what comes of it; cancelled if it was.
    """

    def __init__(self, portal: BlockingPortal, function: Callable[[], Awaitable[T]]) -> None:
        self.outcome: Future[T] = Future()
        self._portal = portal
        self._function = function
        self._scope: anyio.CancelScope | None = None

    def begin(self) -> None:
        """Interrupted here, it may run or not: `end` knows."""
        self._portal.start_task_soon(self._run)

    def let_go(self, event: anyio.Event) -> T:
        """Set what it waits for, and wait for it."""
        self._portal.start_task_soon(event.set)
        return self.outcome.result()

    def end(self) -> None:
        """Cancel it and wait for that, unless it has ended, or was not begun."""
        if not self.outcome.done():
            self._portal.call(self._end)

    async def _end(self) -> None:
        await anyio.lowlevel.checkpoint()  # what was to begin, has begun
        if self._scope is not None:
            self._scope.cancel()
            await self._ended.wait()

    async def _run(self) -> None:
        self._ended = anyio.Event()
        try:
            with anyio.CancelScope() as self._scope:
                self.outcome.set_result(await self._function())
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # the latter two would end the loop, for all
            self.outcome.set_exception(error)
        finally:
            self.outcome.cancel()  # where there is none
            self._ended.set()


class Portal:
    """The loop, as threads see it. Started when it is first asked for; a forked child starts one of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._portal: BlockingPortal | None = None
        self._thread = threading.current_thread()

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run an async function there, and wait for it.

        Raises:
            RuntimeError: this is that loop's own thread.

        Cancellation: what interrupts the wait (Ctrl-C) cancels the function, and is raised when that has ended.
        """
        task = _Task(self._started(), function)
        try:
            task.begin()
            return task.outcome.result()
        finally:
            task.end()

    @contextmanager
    def entered(self, manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
        """`with` this in place of `async with`; both ends of it run in one task.

        Its end does nothing once that loop is gone: at the process's end, and in a child that was forked meanwhile.

        Cancellation: what interrupts the wait for either end cancels it, and is raised when nothing is left of it.
        """
        here = self._started()
        inside: Future[tuple[T, anyio.Event]] = Future()
        raised: list[BaseException] = []

        async def hold() -> bool:
            async with AsyncExitStack() as opened:
                opened.callback(inside.cancel)  # who waits for it learns why from the task
                value, leave = await opened.enter_async_context(manager), anyio.Event()
                inside.set_result((value, leave))
                await leave.wait()
                if not raised:
                    return bool(await opened.pop_all().__aexit__(None, None, None))
                return bool(await opened.pop_all().__aexit__(type(raised[0]), raised[0], raised[0].__traceback__))
            return True  # of what it raised itself, nothing is left

        task = _Task(here, hold)
        try:
            task.begin()
            try:
                value, leave = inside.result()
            except CancelledError:
                task.outcome.result()
                raise
            try:
                yield value
            except BaseException as error:
                raised.append(error)
                if self._portal is not here or not task.let_go(leave):
                    raise
            else:
                if self._portal is here:
                    task.let_go(leave)
        finally:
            if self._portal is here:
                task.end()

    def iterate(self, items: AsyncIterator[T]) -> Iterator[T]:
        """`for` over this in place of `async for`."""

        async def next_one() -> tuple[T] | None:
            try:
                return (await anext(items),)
            except StopAsyncIteration:  # a future takes none
                return None

        while (found := self.call(next_one)) is not None:
            yield found[0]

    def _started(self) -> BlockingPortal:
        """It, begun if it does not run.

        Raises:
            OSError: it cannot be, for want of descriptors.
        """
        with self._lock:
            if self._portal is None:
                started: Future[BlockingPortal] = Future()
                self._thread = threading.Thread(target=_run, args=(started,), name="memsafe-transcribe", daemon=True)
                self._thread.start()
                self._portal = started.result()
            return self._portal

    def stop(self) -> None:
        """Cancel what still runs there, and wait for it."""
        with self._lock:
            portal, self._portal = self._portal, None
            thread = self._thread  # another one may be begun from here on
        if portal is not None:
            portal.call(portal.stop, True)
            thread.join()

    def forget(self) -> None:
        """In a child, where its thread is not."""
        self._lock, self._portal = threading.Lock(), None


def _run(started: Future[BlockingPortal]) -> None:
    try:
        anyio.run(_serve, started)
    except BaseException as error:
        if started.done():
            raise
        started.set_exception(error)  # no descriptors for a loop: who waits for it is told


async def _serve(started: Future[BlockingPortal]) -> None:
    # Not by anyio's own context manager: one that a fork leaves behind waits for its thread when it is collected.
    async with BlockingPortal() as portal:
        started.set_result(portal)
        await portal.sleep_until_stopped()


portal = Portal()
atexit.register(portal.stop)
os.register_at_fork(after_in_child=portal.forget)
