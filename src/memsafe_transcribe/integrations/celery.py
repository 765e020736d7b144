"""Celery: tasks that are let in before they work, come again later where there is no room, and lose nothing.

What happens to a task of a worker with prefork children, in the order of the cases below:

- No slot or no memory within `queue_timeout_seconds`: it is put back, and tried again later. Its own retries are for
  its own failures.
- The child is killed (out of memory, say): Celery sees that, and puts the task back. What the store has is not paid for
  again.
- The worker is told to end (SIGTERM): its children hear that by a pipe whose other end the worker closes, for Celery
  itself tells them nothing until they are idle. Their admissions drain; so a job ends as soon as its chunks in flight
  are stored, and its task is put back.
- The worker is killed: the kernel ends its children, too, and the broker gives the task to another worker when it
  misses its acknowledgement (Redis: after `visibility_timeout`).
"""

import os
import random
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from celery import Task, signals

from .._admission.controller import AdmissionController
from .._blocking import BlockingTranscriber, blocking
from .._errors import AdmissionRejectedError, AdmissionTimeoutError, MemoryPressureError
from .._transcription.chunked import ChunkedTranscriber, runner_of

# What another time or another worker may have room for. A need above the limit is not among them: it never fits.
_NO_ROOM = (AdmissionRejectedError, AdmissionTimeoutError, MemoryPressureError)
_JITTER = 0.25  # so that tasks that were refused together do not come back together


class TranscriptionTask(Task):  # type: ignore[misc]
    """The base of tasks that transcribe: give it to `app.task(base=..., bind=True)`, and use `self.transcriber`.

    It acknowledges late and is put back if its process dies, so that it may run more than once: a store (of the
    transcriber) makes that cost nothing. What is refused for want of room comes again after the error's
    `retry_after_seconds`, or else `default_retry_delay`, as often as it takes, and counts for no `max_retries`.

    A subclass says how the transcriber is made:

        class Speech(TranscriptionTask):
            def make_transcriber(self):
                return mt.ChunkedTranscriber("pocketsphinx", store=mt.JobStore(path), queue_timeout_seconds=30)
    """

    abstract = True
    acks_late = True
    reject_on_worker_lost = True
    default_retry_delay = 10

    def make_transcriber(self) -> ChunkedTranscriber:
        """The transcriber of this task: called once in each process, when its first task asks for it.

        It needs a `queue_timeout_seconds`, for what waits in a worker keeps it from everything else.
        """
        raise NotImplementedError(f"{type(self).__name__} must say how its transcriber is made")

    @property
    def transcriber(self) -> BlockingTranscriber:
        """The one of this process, with its engine open until the process ends.

        Raises:
            ValueError: it has no `queue_timeout_seconds`.
            AdmissionError: there is no room for the engine.
        """
        return _process.transcriber(self.make_transcriber)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it; called by Celery."""
        try:
            return self.run(*args, **kwargs)
        except _NO_ROOM as error:
            if self.request.called_directly:
                raise
            seconds = getattr(error, "retry_after_seconds", self.default_retry_delay)
            self.request.retries -= 1  # retry() adds one: this was no attempt
            raise self.retry(countdown=seconds * random.uniform(1, 1 + _JITTER), exc=error) from error  # noqa: S311


class _Process:
    """What the tasks of one process have in common."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._transcribers: dict[Callable[..., ChunkedTranscriber], BlockingTranscriber] = {}
        self._open = ExitStack()
        self._admissions: list[AdmissionController] = []
        self._is_draining = False

    def transcriber(self, make: Callable[[], ChunkedTranscriber]) -> BlockingTranscriber:
        """That of tasks with this way to make one."""
        key = getattr(make, "__func__", make)
        with self._lock:
            if key not in self._transcribers:
                transcriber = make()
                runner = runner_of(transcriber)
                if runner.settings.queue_timeout_seconds is None:
                    raise ValueError("a task's transcriber needs a queue_timeout_seconds, not to wait for ever")
                self._admissions.append(runner.admission)  # before it waits there itself
                if self._is_draining:
                    runner.admission.drain()
                self._transcribers[key] = self._open.enter_context(blocking(transcriber))
            return self._transcribers[key]

    def drain(self) -> None:
        """Let nothing in any more."""
        self._is_draining = True
        for admission in list(self._admissions):
            admission.drain()

    def close(self) -> None:
        """Close the engines."""
        self._open.close()


_process = _Process()
_worker_pid = _reading = _writing = -1  # the writing end is open in the worker alone, until that is told to end


@signals.worker_init.connect  # type: ignore[untyped-decorator]
def _worker_begins(**_: Any) -> None:
    """In the worker, before it has children."""
    global _worker_pid, _reading, _writing
    _worker_pid = os.getpid()
    _reading, _writing = os.pipe()


@signals.worker_process_init.connect  # type: ignore[untyped-decorator]
def _child_begins(**_: Any) -> None:
    """In each child; and in the worker itself, where it works itself."""
    global _process
    if os.getpid() == _worker_pid or _reading < 0:
        return
    _process = _Process()
    if _writing >= 0:
        os.close(_writing)
    threading.Thread(target=_drain_at_the_end, name="memsafe-transcribe-drain", daemon=True).start()


def _drain_at_the_end() -> None:
    os.read(_reading, 1)  # nothing is ever written: the worker has closed the other end, or is gone
    _process.drain()


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _worker_is_told_to_end(**_: Any) -> None:
    """In the worker, within the signal's handler: its children drain, and so does it, where it works itself."""
    global _writing
    if _writing >= 0:
        os.close(_writing)
        _writing = -1
    threading.Thread(target=_process.drain, name="memsafe-transcribe-drain", daemon=True).start()


@signals.worker_process_shutdown.connect  # type: ignore[untyped-decorator]
@signals.worker_shutdown.connect  # type: ignore[untyped-decorator]
def _process_ends(**_: Any) -> None:
    """In each child, or in the worker itself, when nothing runs any more."""
    _process.close()
