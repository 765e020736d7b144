"""A thread that writes one block while the next comes in."""

import queue
from collections.abc import Callable
from contextlib import suppress

import anyio

from .._threads import run_to_its_end
from .._waking import TaskWaiter

Block = list[bytes]


class BlockWriter:
    """Takes blocks from a task to a thread, one ahead.

    One thread for all blocks, and not one call of a thread for each: the event loop would have to turn twice between
    two blocks, and nothing would be written meanwhile.

    Args:
        write: called in the thread with each block in turn. What it raises ends `run`.
    """

    def __init__(self, write: Callable[[Block], None]) -> None:
        self._write = write
        self._blocks: queue.Queue[Block | None] = queue.Queue(1)
        self._room = TaskWaiter()
        self._is_abandoned = False

    async def run(self) -> None:
        """Write until there are no more, or `abandon`.

        Cancellation: none before that; the thread has to be told.
        """
        with anyio.CancelScope(shield=True):
            # A limiter of its own: a download must not take one of the threads that the host's own calls share.
            await run_to_its_end(self._run, anyio.CapacityLimiter(1))

    def _run(self) -> None:
        while (block := self._blocks.get()) is not None and not self._is_abandoned:
            self._room.wake()
            self._write(block)

    async def put(self, block: Block | None) -> None:
        """Hand a block over; None: there are no more. Waits while the one before it has not been begun."""
        while True:
            try:
                self._blocks.put_nowait(block)
            except queue.Full:
                await self._room.wait(None)
            else:
                return

    def abandon(self) -> None:
        """Write nothing more than the block that is being written, and let `run` end."""
        self._is_abandoned = True
        with suppress(queue.Full):  # then the thread has something to wake up for
            self._blocks.put_nowait(None)
