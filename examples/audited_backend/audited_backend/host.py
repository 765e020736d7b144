"""The process that an experiment is made in: one backend, one scenario, and a limit that the kernel enforces.

`python -m audited_backend.host ORDER` with an `Order` as JSON; what happened is printed as JSON.
"""

import asyncio
import json
import resource
import signal
import sys
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from . import scenarios
from .fake_engine import CountingEngine

LIFETIME_SECONDS = 60
STACK_BYTES = 1 << 20  # of threads: RLIMIT_DATA counts them whole, whatever is used of them
Answer = dict[str, Any]


@dataclass(frozen=True)
class Order:
    """What a host is to do.

    Attributes:
        side: "old" or "new".
        scenario: the name of a function in `scenarios`.
        urls: what to transcribe.
        scheduled_urls: what the scheduler is to transcribe at the same time.
        limit_bytes: its RLIMIT_DATA, in place of a container's limit.
        ballast_percent: how much of that the rest of the application has taken before.
        guard_sees_limit: whether the old backend's guard is told how much of that is used, and not of the host.
        engine: arguments of the engine.
        settings: arguments of the backend.
        folder: where it may keep what is to outlive it.
    """

    side: str
    scenario: str
    urls: tuple[str, ...]
    scheduled_urls: tuple[str, ...] = ()
    limit_bytes: int = 1 << 30
    ballast_percent: float = 0.0
    guard_sees_limit: bool = False
    engine: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    folder: str = ""

    def to_json(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))


def data_bytes() -> int:
    """What RLIMIT_DATA counts of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    raise OSError("the system does not tell VmData")


def _limit_data(limit_bytes: int) -> None:
    """Set the limit, as far as this process may."""
    _, highest = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = highest if limit_bytes == resource.RLIM_INFINITY else limit_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, highest))


def make_backend(order: Order, engine: CountingEngine) -> Any:
    """Either backend. The old one asks nobody before it dials an address: on loopback it needs no permission."""
    if order.side == "old":
        from .old_backend import TranscriptionBackend as OldBackend

        if order.guard_sees_limit:
            return OldBackend(engine, memory_percent=lambda: 100 * data_bytes() / order.limit_bytes, **order.settings)
        return OldBackend(engine, **order.settings)
    import memsafe_transcribe as mt

    from .new_backend import TranscriptionBackend as NewBackend

    store_path = Path(order.folder, "jobs.sqlite")
    return NewBackend(engine, store_path, policy=mt.UrlPolicy(allow_private=True), **order.settings)


async def run(order: Order) -> Answer:
    """Carry the order out."""
    engine = CountingEngine(**order.engine)
    backend = make_backend(order, engine)
    ballast = bytearray(max(0, int(order.limit_bytes * order.ballast_percent / 100) - data_bytes()))
    host_percent = psutil.virtual_memory().percent
    try:
        answer = await getattr(scenarios, order.scenario)(order, backend, engine)
    except Exception as error:
        answer = {"texts": [], "errors": [type(error).__name__], "messages": [str(error)]}
    del ballast
    _limit_data(resource.RLIM_INFINITY)  # what happened can be told in any case
    return {"host_percent": host_percent, **answer, "calls": engine.calls, "peak_inside": engine.peak_inside}


def main() -> None:
    """Bound this process in time and memory, and carry the order out."""
    order = Order(**json.loads(sys.argv[1]))
    signal.alarm(LIFETIME_SECONDS)
    threading.stack_size(STACK_BYTES)
    _limit_data(order.limit_bytes)
    print(json.dumps(asyncio.run(run(order))), flush=True)


if __name__ == "__main__":
    main()
