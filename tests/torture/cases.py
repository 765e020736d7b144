"""What a scenario is, and what several of them use."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel

import memsafe_transcribe as mt

from ..admission.room import NOTHING, holds
from .place import Place

Scenario = Callable[[Place], Awaitable[None]]
SCENARIOS: dict[str, "Case"] = {}


@dataclass(frozen=True)
class Case:
    """One scenario.

    Attributes:
        run: what is done.
        begin: what is done before each run, untouched.
        isolation: of its decoder.
        forgets: whether it asks again for what was stored.
    """

    run: Scenario
    begin: Scenario | None = None
    isolation: str = "thread"
    forgets: bool = False


def case(**options: Any) -> Callable[[Scenario], Scenario]:
    """One of the scenarios, under its function's name."""

    def known(function: Scenario) -> Scenario:
        SCENARIOS[getattr(function, "__name__", "")] = Case(function, **options)
        return function

    return known


async def pieces(data: bytes) -> AsyncGenerator[bytes]:
    """As a request's body comes."""
    for at in range(0, len(data), 20_000):
        await anyio.lowlevel.checkpoint()
        yield data[at : at + 20_000]


async def hold_for(admission: mt.AdmissionController, seconds: float) -> None:
    """Hold a slot for a while."""
    async with admission.reserve(1):
        await anyio.sleep(seconds)


async def until_active(admission: mt.AdmissionController) -> None:
    """Wait until somebody holds a slot. (By `TaskGroup.start` one would wait for ever for a task that asyncio cancels
    before it begins.)
    """
    while not admission.statistics().active:
        await anyio.lowlevel.checkpoint()


@contextmanager
def given_back(place: Place, admission: mt.AdmissionController) -> Iterator[None]:
    """What this admission still holds when the block ends, however it ends, is left."""
    try:
        yield
    finally:
        place.left += [f"reservation of its own: {holds(admission)}"] * (holds(admission) != NOTHING)
