"""Plain code is interrupted by Ctrl-C at each step of what it waits for in the portal's loop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import anyio.lowlevel
import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._portal import portal

from .left import held, left_of, now
from .place import Place
from .stepping import Steps, watching
from .tally import tally
from .torture import LONG, MOST_POINTS


def by_ctrl_c(steps: Steps) -> None:
    """What a terminal does; Python tells the main thread."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


@contextmanager
def stepped(place: Place, steps: Steps) -> Iterator[None]:
    """Steps of the portal's loop are counted, for what this thread begins."""
    portal.call(anyio.lowlevel.checkpoint)
    with watching(steps, portal.call):
        yield


def use(place: Place) -> None:
    """What a script does."""
    with mt.blocking(place.transcriber(store=place.job_store())) as transcriber:
        transcriber.plan(place.folder / "short.wav")
        with transcriber.stream(place.folder / "short.wav") as segments:
            list(segments)
        transcriber.transcribe(f"{place.url}/url.wav")
    with mt.blocking(place.downloader()) as downloader:
        with downloader.fetch(f"{place.url}/url.wav") as file:
            downloader.save(file, place.saved / "file")


def points() -> Iterator[int]:
    """All, or some."""
    yield from range(1, MOST_POINTS) if LONG else range(1, 150, 29)


def test_ctrl_c_at_every_step(place: Place) -> None:
    """It comes out as KeyboardInterrupt, and nothing is left of what was waited for."""
    place.isolation = "thread"
    for _ in range(2):
        place.reset({})
        use(place)
    for point in points():
        place.reset({})
        before, steps, is_interrupted = now(), Steps({point: by_ctrl_c}), False
        try:
            with stepped(place, steps):
                use(place)
        except KeyboardInterrupt:
            is_interrupted = True
        if not steps.fired:
            break
        assert is_interrupted, point
        found = [*left_of(before, place.servers, place.swept), *held(place.admission, place.observer)]
        found += [f"task {name}" for name in steps.living.values()]
        assert not found, (point, found)
        tally.points["interrupted by Ctrl-C", "plain code", "asyncio"] += 1
        tally.cancelled.update(steps.sites)
    else:
        pytest.fail("there is no end of it") if LONG else None
