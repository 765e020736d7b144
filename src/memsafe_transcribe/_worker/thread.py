"""A worker in a thread of this process, spoken to like one that is a process. Nothing confines it."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager

import anyio

from .._tasks import background
from .._threads import run_to_its_end
from .inside import write_frame
from .pipes import Pipes, open_pipe

Send = Callable[[bytes, bytes], None]


class WorkerThread(Pipes):
    """What `worker_thread` gives."""

    pid = None  # no process of its own
    failure = "its thread ended"

    async def exit_reason(self) -> str:
        """How it ended, for people."""
        return self.failure

    def close(self) -> None:
        """Hang up: the thread ends as soon as it reads or writes."""
        for pipe in (self._stdin, self._stdout):
            if not pipe.closed:
                anyio.notify_closing(pipe)
                pipe.close()


@asynccontextmanager
async def worker_thread(work: Callable[[int, Send], object]) -> AsyncIterator[WorkerThread]:
    """`async with` this: run `work(stdin, send)` in a thread.

    Args:
        work: gets a descriptor to read from, and a function that sends a frame, which waits while nobody listens and
            raises BrokenPipeError once nobody will any more.

    Cancellation: the thread is waited for until it ends by that.
    """
    with ExitStack() as opened:
        (stdin, to_stdin), (from_stdout, stdout) = open_pipe(opened), open_pipe(opened)
        for pipe in (to_stdin, from_stdout):
            os.set_blocking(pipe.fileno(), False)
        worker = WorkerThread(to_stdin, from_stdout)

        def send(kind: bytes, payload: bytes) -> None:
            write_frame(stdout.fileno(), kind, payload)

        def run() -> None:
            try:
                work(stdin.fileno(), send)
            except BrokenPipeError:
                pass
            except BaseException as error:  # whatever it is, it must not end the host
                worker.failure = f"{type(error).__name__}: {error}"
            finally:
                stdin.close()
                stdout.close()

        async with background() as tasks:
            tasks.start_soon(run_to_its_end, run, anyio.CapacityLimiter(1))
            try:
                yield worker
            finally:
                worker.close()
