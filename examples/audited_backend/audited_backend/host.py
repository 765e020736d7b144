"""The process that an experiment is made in: one backend, one scenario, and a limit that the kernel enforces.

`python -m audited_backend.host ORDER` with an `Order` as JSON; what happened is printed as JSON.
"""

import asyncio
import json
import resource
import signal
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from .fake_engine import CountingEngine

LIFETIME_SECONDS = 40
POLL_SECONDS = 0.01
ALL_LIMITS_TOGETHER = 12  # batch(5) x chunks(2) + scheduler(2)


@dataclass(frozen=True)
class Order:
    """What a host is to do.

    Attributes:
        side: "old" or "new".
        scenario: the name of a function of this module.
        urls: what to transcribe.
        scheduled_urls: what the scheduler is to transcribe at the same time, for "crowd".
        limit_bytes: its RLIMIT_DATA, in place of a container's limit.
        ballast_percent: how much of that the rest of the application has taken before.
        engine_error: with what error the engine answers every call; None to let it hear.
        settings: of the backend.
    """

    side: str
    scenario: str
    urls: tuple[str, ...]
    scheduled_urls: tuple[str, ...] = ()
    limit_bytes: int = 1 << 30
    ballast_percent: float = 0.0
    engine_error: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))


Answer = dict[str, Any]


def data_bytes() -> int:
    """What RLIMIT_DATA counts of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    raise OSError("the system does not tell VmData")


def make_backend(order: Order, engine: Any) -> Any:
    """Either backend. The old one has no idea of addresses: it needs no permission for those on loopback."""
    if order.side == "old":
        from .old_backend import TranscriptionBackend as OldBackend

        return OldBackend(engine, **order.settings)
    import memsafe_transcribe as mt

    from .new_backend import TranscriptionBackend as NewBackend

    return NewBackend(engine, policy=mt.UrlPolicy(allow_private=True), **order.settings)


async def transcribe(order: Order, backend: Any, engine: CountingEngine) -> Answer:
    """One file."""
    return {"text": await backend.transcribe_audio(order.urls[0])}


async def crowd(order: Order, backend: Any, engine: CountingEngine) -> Answer:
    """A batch and the scheduler at once. Calls stay in the engine until no further one can come."""
    engine.may_answer.clear()
    async with asyncio.TaskGroup() as tasks:
        batch = tasks.create_task(backend.transcribe_batch("batch", order.urls))
        scheduled = tasks.create_task(backend.run_scheduled(order.scheduled_urls))
        while not is_full(engine, backend):
            await asyncio.sleep(POLL_SECONDS)
        engine.may_answer.set()
    return {"outcomes": outcomes(batch.result()), "scheduled": scheduled.result()}


def is_full(engine: CountingEngine, backend: Any) -> bool:
    """Whether all are in the engine that can be: as many as the limits of the old one add up to, or every slot."""
    if engine.inside >= ALL_LIMITS_TOGETHER:
        return True
    if not hasattr(backend, "admission"):
        return False
    now = backend.admission.statistics()
    return bool(engine.inside == now.active == now.max_concurrent and now.waiting)


def outcomes(found: dict[str, str | BaseException]) -> list[str]:
    """The texts of a batch, and the names of what went wrong."""
    return [value if isinstance(value, str) else f"!{type(value).__name__}" for value in found.values()]


SCENARIOS = {"transcribe": transcribe, "crowd": crowd}


async def run(order: Order) -> Answer:
    """Carry the order out."""
    engine = CountingEngine(order.engine_error)
    backend = make_backend(order, engine)
    ballast = bytearray(max(0, int(order.limit_bytes * order.ballast_percent / 100) - data_bytes()))
    seen = {"used_bytes": data_bytes(), "host_percent": psutil.virtual_memory().percent}
    try:
        answer = await SCENARIOS[order.scenario](order, backend, engine)
    except Exception as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    del ballast
    return {**seen, **answer, "calls": engine.calls, "peak_inside": engine.peak_inside}


def main() -> None:
    """Bound this process in time and memory, then carry the order out."""
    order = Order(**json.loads(sys.argv[1]))
    signal.alarm(LIFETIME_SECONDS)
    resource.setrlimit(resource.RLIMIT_DATA, (order.limit_bytes, order.limit_bytes))
    print(json.dumps(asyncio.run(run(order))), flush=True)


if __name__ == "__main__":
    main()
