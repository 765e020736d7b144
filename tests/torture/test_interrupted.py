"""Plain code is interrupted by Ctrl-C, and the process ends, at each step of what it waits for in the portal's loop."""

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NoReturn
from unittest.mock import patch

import anyio.lowlevel
import pytest

import memsafe_transcribe as mt
from memsafe_transcribe import _portal
from memsafe_transcribe._portal import portal

from .left import held, left_of, when_quiet
from .place import Place
from .scenarios.jobs import OwnEngine
from .stepping import Act, Steps, watching
from .tally import tally
from .torture import LONG, MOST_POINTS

_FEW = range(1, 200, 39)  # steps, in the short form


def by_ctrl_c(steps: Steps) -> None:
    """What a terminal does; Python tells the main thread."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


class ProcessEnd:
    """What Python does at a process's end, to threads that are still waiting: it ends the loop, and begins no more
    threads.
    """

    def __init__(self) -> None:
        self._ending: threading.Thread | None = None

    def __call__(self, steps: Steps) -> None:
        self._ending = threading.Thread(target=portal.stop)
        self._ending.start()

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Until this block ends, the process is about to end, once it is called."""
        with patch.object(_portal, "threading", SimpleNamespace(Thread=self._begun)):
            try:
                yield
            finally:
                if self._ending is not None:
                    self._ending.join()

    def _begun(self, **options: Any) -> NoReturn:
        raise RuntimeError("can't create new thread at interpreter shutdown")


@contextmanager
def stepped(steps: Steps) -> Iterator[None]:
    """Steps of the portal's loop are counted, for what this thread begins."""
    portal.call(anyio.lowlevel.checkpoint)
    with watching(steps, portal.call):
        yield


def use(place: Place) -> None:
    """What a script does; and one that fails while an engine of the library's own making is open."""
    with mt.blocking(place.transcriber(store=place.job_store())) as transcriber:
        transcriber.plan(place.folder / "short.wav")
        with transcriber.stream(place.folder / "short.wav") as segments:
            list(segments)
        with transcriber.stream(place.folder / "path.wav") as segments:
            next(segments)
        transcriber.transcribe(f"{place.url}/url.wav")
    with mt.blocking(place.downloader()) as downloader:
        with downloader.fetch(f"{place.url}/url.wav") as file:
            downloader.save(file, place.saved / "file")
    named = place.transcriber(engine=f"{OwnEngine.__module__}:OwnEngine")
    with mt.blocking(named):
        pass
    with pytest.raises(FileNotFoundError), mt.blocking(named) as transcriber:
        transcriber.transcribe(place.folder / "absent.wav")


def everywhere(place: Place, what: str, *, interrupts: bool, ends: tuple[int, ...] = ()) -> None:
    """At each step, or in some, interrupt it, or end the process so many steps later, or both.

    Raises:
        AssertionError: something is left.
    """
    place.isolation = "thread"
    for _ in range(2):
        place.reset({})
        use(place)
    for point in range(1, MOST_POINTS) if LONG else _FEW:
        end = ProcessEnd()
        acts: dict[int, Act] = dict.fromkeys((point + later for later in ends), end)
        if interrupts:
            acts[point] = by_ctrl_c
        steps, is_interrupted = Steps(acts), False
        portal.stop()
        before = when_quiet(place.servers)
        place.reset({})
        try:
            with stepped(steps), end.awaited():
                use(place)
        except (KeyboardInterrupt, CancelledError, RuntimeError) as error:
            is_interrupted = isinstance(error, KeyboardInterrupt)
        if not steps.fired:
            break
        assert is_interrupted or ends, point
        portal.stop()
        found = [*left_of(before, place.servers, place.swept), *held(place.admission, place.observer)]
        found += [f"task {name}" for name in steps.living.values()]
        assert not found, (what, point, found)
        tally.points[what, "plain code", "asyncio"] += 1
        tally.cancelled.update(steps.sites)
    else:
        pytest.fail("there is no end of it") if LONG else None


def test_ctrl_c_at_every_step(place: Place) -> None:
    """It comes out as KeyboardInterrupt, and nothing is left of what was waited for."""
    everywhere(place, "interrupted by Ctrl-C", interrupts=True)


def test_the_process_ends_at_every_step(place: Place) -> None:
    """Threads that wait are told, and nothing is left."""
    everywhere(place, "the process ends", interrupts=False, ends=(0,))


def test_the_process_ends_after_ctrl_c(place: Place) -> None:
    """While what was interrupted is ended."""
    everywhere(place, "interrupted by Ctrl-C, then the process ends", interrupts=True, ends=(1, 2, 3))
