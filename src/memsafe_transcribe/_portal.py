"""One event loop for all plain code of a process: in a thread of its own, from its first use to the process's end."""

import atexit
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from typing import TypeVar

import anyio
from anyio.from_thread import BlockingPortal

T = TypeVar("T")


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
        ended = threading.Event()

        async def run() -> T:
            try:
                return await function()
            finally:
                ended.set()

        future = self._started().start_task_soon(run)
        try:
            return future.result()
        except BaseException:
            if not future.done():
                future.cancel()
                ended.wait()
            raise

    @contextmanager
    def entered(self, manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
        """`with` this in place of `async with`; both ends of it run in one task.

        Its end does nothing once that loop is gone: at the process's end, and in a child that was forked meanwhile.
        """
        here = self._started()
        entered = here.wrap_async_context_manager(manager)
        with ExitStack() as at_the_end:
            value = entered.__enter__()
            at_the_end.push(lambda *raised: entered.__exit__(*raised) if self._portal is here else None)
            yield value

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
        with self._lock:
            if self._portal is None:
                started: Future[BlockingPortal] = Future()
                self._thread = threading.Thread(
                    target=anyio.run, args=(_serve, started), name="memsafe-transcribe", daemon=True
                )
                self._thread.start()
                self._portal = started.result()
            return self._portal

    def stop(self) -> None:
        """Cancel what still runs there, and wait for it."""
        with self._lock:
            portal, self._portal = self._portal, None
        if portal is not None:
            portal.call(portal.stop, True)
            self._thread.join()

    def forget(self) -> None:
        """In a child, where its thread is not."""
        self._lock, self._portal = threading.Lock(), None


async def _serve(started: Future[BlockingPortal]) -> None:
    # Not by anyio's own context manager: one that a fork leaves behind waits for its thread when it is collected.
    async with BlockingPortal() as portal:
        started.set_result(portal)
        await portal.sleep_until_stopped()


portal = Portal()
atexit.register(portal.stop)
os.register_at_fork(after_in_child=portal.forget)
