"""Schedules by the thousand: each from its kind and its number, which is its seed."""

import gc
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, Literal

from . import batches, queues
from .schedulers import simulated_world

Kind = Literal["queue", "members", "batch"]
KINDS: dict[Kind, Callable[[Random, str], Any]] = {
    "queue": partial(queues.run, reach="process"),
    "members": partial(queues.run, reach="container"),
    "batch": batches.run,
}
_BACKENDS = ("asyncio", "asyncio", "trio")  # a loop of our own tries more orders
_COLLECT_EVERY = 50


@dataclass
class Tally:
    """What was run in this session.

    Attributes:
        schedules, steps: by kind and backend.
        failed: the seeds of those that did not hold.
    """

    schedules: Counter[tuple[Kind, str]] = field(default_factory=Counter)
    steps: Counter[tuple[Kind, str]] = field(default_factory=Counter)
    failed: list[tuple[Kind, int]] = field(default_factory=list)

    def line(self) -> str:
        """For people."""
        each = ", ".join(f"{kind} on {backend} {count:,}" for (kind, backend), count in sorted(self.schedules.items()))
        return f"simulated schedules: {self.schedules.total():,} of {self.steps.total():,} steps ({each})"

    def figures(self) -> dict[str, Any]:
        """For programs."""
        return {
            "schedules": self.schedules.total(),
            "steps": self.steps.total(),
            "kinds": {
                kind: {
                    "schedules": {backend: self.schedules[kind, backend] for backend in sorted(set(_BACKENDS))},
                    "steps": {backend: self.steps[kind, backend] for backend in sorted(set(_BACKENDS))},
                }
                for kind in KINDS
            },
            "failed": [list(each) for each in self.failed],
        }


tally = Tally()


@contextmanager
def session() -> Iterator[None]:
    """`with` this around schedules: their world, and the garbage collector only between them.

    What it finds, and when, would depend on all that this process did before.
    """
    level, was_enabled = logging.root.manager.disable, gc.isenabled()
    logging.disable()  # else most of the time would be spent on saying what went wrong as it was to
    gc.disable()
    try:
        with simulated_world():
            yield
    finally:
        logging.disable(level)
        if was_enabled:
            gc.enable()


def played(kind: Kind, seed: int) -> tuple[Any, str]:
    """Run one schedule, and give what was of it, and on which backend.

    Raises:
        AssertionError: what did not hold, and how to see it again.
    """
    random = Random(f"{kind} {seed}")
    backend = random.choice(_BACKENDS)
    try:
        return KINDS[kind](random, backend), backend
    except BaseException as error:
        error.add_note(f"{kind} {seed} on {backend}; again: python -m tests.simulation {kind} {seed}")
        raise


def find(kind: Kind, seeds: Iterable[int]) -> tuple[int, AssertionError] | None:
    """The first of these schedules that does not hold, and what did not; None if all do.

    For a library that is broken on purpose: they are not counted, and what a failed one leaves is nobody's concern.
    """
    found, hook = None, sys.unraisablehook
    sys.unraisablehook = lambda unraisable: None
    try:
        with session(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for seed in seeds:
                try:
                    played(kind, seed)
                except AssertionError as error:
                    found = seed, error.with_traceback(None)
                    break
            gc.collect()
    finally:
        sys.unraisablehook = hook
    return found


def run_all(kind: Kind, seeds: Iterable[int]) -> None:
    """Run them one after the other, until one does not hold. Raises what it raises."""
    with session():
        for number, seed in enumerate(seeds):
            try:
                world, backend = played(kind, seed)
            except BaseException:
                tally.failed.append((kind, seed))
                raise
            tally.schedules[kind, backend] += 1
            tally.steps[kind, backend] += world.schedule.steps
            if number % _COLLECT_EVERY == 0:
                gc.collect()
