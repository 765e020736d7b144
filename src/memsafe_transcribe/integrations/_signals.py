"""A server's signals of the end drain the admission, too."""

import logging
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from types import FrameType

from .._admission.controller import AdmissionController, default_admission

_LOG = logging.getLogger("memsafe_transcribe.asgi")


@asynccontextmanager
async def draining(admission: AdmissionController | None = None, *, grace_seconds: float = 20.0) -> AsyncIterator[None]:
    """`async with` this in the application's lifespan: SIGTERM and SIGINT drain the admission at once.

    The server's own handlers go on as before: it stops listening, and waits for its requests, which end when the chunks
    that are in work are stored. Where no server handles these signals, or the block does not run in the main thread,
    they are left alone.

    Args:
        admission: what is drained; the process-wide one by default.
        grace_seconds: how long the end of the block then waits for jobs that belong to no request.

    Cancellation: the handlers are as they were.
    """
    admission = admission or default_admission()
    with _drained_by_signals(admission):
        yield
        if admission.is_draining and not await admission.wait_until_drained(timeout_seconds=grace_seconds):
            _LOG.warning("after grace_seconds=%g, %d jobs still run", grace_seconds, admission.statistics().active)


@contextmanager
def _drained_by_signals(admission: AdmissionController) -> Iterator[None]:
    with ExitStack() as handlers:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handlers.enter_context(_drained_by(number, admission))
        yield


@contextmanager
def _drained_by(number: signal.Signals, admission: AdmissionController) -> Iterator[None]:
    before = signal.getsignal(number)
    if not callable(before):
        yield
        return

    def handle(signum: int, frame: FrameType | None) -> None:
        # The handler may have interrupted the very thread that holds the ledger's lock.
        threading.Thread(target=admission.drain, name="drain").start()
        before(signum, frame)

    signal.signal(number, handle)
    try:
        yield
    finally:
        signal.signal(number, before)
