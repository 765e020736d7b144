"""Tasks beside a block: what the block raises comes out as it is, not in a group."""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Protocol

import anyio
from anyio.abc import TaskGroup


class Starter(Protocol):
    """All of a task group that is needed to begin tasks. (What anyio calls one, pyright cannot always find.)"""

    def start_soon(self, function: Callable[..., Coroutine[Any, Any, Any]], /, *arguments: Any) -> object: ...


@asynccontextmanager
async def background() -> AsyncIterator[TaskGroup]:
    """`async with` this: a task group that is cancelled when the block ends, however it ends.

    Cancellation: its tasks have ended when this has. The wait for them is not cut short: it would hide what was raised.
    """
    raised: BaseException | None = None
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            try:
                yield tasks
            except BaseException as error:  # raised again below, when nothing is left that could put it in a group
                raised = error
            scope.shield = True
            tasks.cancel_scope.cancel()
    if raised is not None:
        raise raised
