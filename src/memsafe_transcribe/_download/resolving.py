"""Asking the system's resolver. It cannot be interrupted: a thread waits for it, and nobody has to wait for the thread.

It is none of anyio's: on asyncio, one that was given up no longer counts there, so that a resolver that hangs would
collect any number of them, and the process could not end before the last had its answer.
"""

import socket
import threading
from typing import Any

import anyio

from .._waking import TaskWaiter

_MOST_THREADS = 32  # that wait for it at once
_POLL_SECONDS = 0.05
_threads: list[threading.Thread] = []  # those that may be waiting; after a fork, Python says of the parent's: ended


class _Question:
    """What one thread asks, and the task that it wakes."""

    def __init__(self, host: str, port: int) -> None:
        self.answers: list[tuple[Any, ...]] = []
        self.error: Exception | None = None
        self.waiter = TaskWaiter()
        self._host = host
        self._port = port

    def ask(self) -> None:
        try:
            self.answers = socket.getaddrinfo(self._host, self._port, socket.AF_UNSPEC, socket.SOCK_STREAM)
        except Exception as error:
            self.error = error
        finally:
            self.waiter.wake()


async def resolved(host: str, port: int) -> list[tuple[Any, ...]]:
    """What the resolver says, each answer once.

    Raises:
        OSError, UnicodeError: it does not know the host.

    Cancellation: at once. The thread ends when the resolver does, and counts until then.
    """
    while sum(thread.is_alive() for thread in _threads) >= _MOST_THREADS:  # noqa: ASYNC110 - they are of no loop
        await anyio.sleep(_POLL_SECONDS)
    question = _Question(host, port)
    thread = threading.Thread(target=question.ask, name="memsafe-resolver", daemon=True)
    thread.start()
    _threads[:] = [thread, *(each for each in _threads if each.is_alive())]
    await question.waiter.wait(None)
    if question.error is not None:
        raise question.error
    return list(dict.fromkeys(question.answers))
