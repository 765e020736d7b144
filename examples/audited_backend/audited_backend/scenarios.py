"""What a host does with its backend, old or new: each scenario calls the same methods of both."""

import asyncio
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .fake_engine import CountingEngine

if TYPE_CHECKING:
    from .host import Answer, Order

POLL_SECONDS = 0.01
ALL_LIMITS_TOGETHER = 12  # batch(5) x chunks(2) + scheduler(2)
HOUR_SECONDS = 3600.0
AGES_HOURS = (23, 25, 8 * 24)


async def transcribe(order: "Order", backend: Any, engine: CountingEngine) -> "Answer":
    """One file."""
    return {"texts": [await backend.transcribe_audio(order.urls[0])], "errors": [], "messages": []}


async def batch(order: "Order", backend: Any, engine: CountingEngine) -> "Answer":
    """Several files."""
    return _shown(await backend.transcribe_batch("batch", order.urls))


async def crowd(order: "Order", backend: Any, engine: CountingEngine) -> "Answer":
    """A batch and the scheduler at once. Calls stay in the engine until no further one can come."""
    engine.may_answer.clear()
    async with asyncio.TaskGroup() as tasks:
        batch = tasks.create_task(backend.transcribe_batch("batch", order.urls))
        scheduled = tasks.create_task(backend.run_scheduled(order.scheduled_urls))
        while not _is_full(engine, backend):  # noqa: ASYNC110 - the queue of admission tells nobody
            await asyncio.sleep(POLL_SECONDS)
        engine.may_answer.set()
    return {**_shown(batch.result()), "scheduled": scheduled.result()}


async def ageing(order: "Order", backend: Any, engine: CountingEngine) -> "Answer":
    """A batch, and what the periodical cleanup forgets of it as time goes by."""
    outcomes = _shown(await backend.transcribe_batch("batch", order.urls))
    forgotten = []
    with _shifted_clock() as shift, _cleanups() as cleanups:
        task = asyncio.create_task(backend.cleanup_periodically(POLL_SECONDS))
        for hours in AGES_HOURS:
            shift(hours * HOUR_SECONDS)
            passes = [await cleanups.get(), await cleanups.get()]  # the first may have begun before
            forgotten.append([sum(counts) for counts in zip(*passes, strict=True)])
        task.cancel()
    return {**outcomes, "forgotten": forgotten}


def _is_full(engine: CountingEngine, backend: Any) -> bool:
    """Whether all are in the engine that can be: as many as the limits of the old one add up to, or every slot."""
    if engine.inside >= ALL_LIMITS_TOGETHER:
        return True
    if not hasattr(backend, "admission"):
        return False
    now = backend.admission.statistics()
    return bool(engine.inside == now.active == now.max_concurrent and now.waiting)


def _shown(outcomes: dict[str, str | BaseException]) -> dict[str, list[str]]:
    """The texts of a batch, and what went wrong."""
    errors = [value for value in outcomes.values() if not isinstance(value, str)]
    return {
        "texts": [value for value in outcomes.values() if isinstance(value, str)],
        "errors": [type(error).__name__ for error in errors],
        "messages": [str(error) for error in errors],
    }


@contextmanager
def _shifted_clock() -> Iterator[Any]:
    """Sets the clock of this process forward, as `time.time` tells it: both backends ask that."""
    real = time.time

    def shift(seconds: float) -> None:
        time.time = lambda: real() + seconds

    try:
        yield shift
    finally:
        time.time = real


@contextmanager
def _cleanups() -> Iterator["asyncio.Queue[tuple[int, int]]"]:
    """How many batches and failed URLs each pass forgot, as it comes in the log."""
    queue: asyncio.Queue[tuple[int, int]] = asyncio.Queue()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if found := re.search(r"cleanup: .*batches=(\d+).*failed_urls=(\d+)", record.getMessage()):
                queue.put_nowait((int(found[1]), int(found[2])))

    root, handler = logging.getLogger(), Handler()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield queue
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
