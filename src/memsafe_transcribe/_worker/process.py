"""A Python child process that cannot outlive its parent, spoken to in frames over pipes, on asyncio and trio."""

import fcntl
import os
import signal
import subprocess
import sys
import warnings
import weakref
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

import anyio

from .pipes import READ_BYTES, Pipes, open_pipe, read_some

_PIPE_BYTES = 1 << 17  # two seconds of audio: less of a wait for each other
_REAP_SECONDS = 5.0
_PACKAGE_PARENT = str(Path(__file__).resolve().parents[2])
_PATH = "MEMSAFE_WORKER_PATH"
_START = f"import os, sys; sys.path += os.environ[{_PATH!r}].split(os.pathsep); " + (
    "from memsafe_transcribe.{0} import main; main()"
)
_living: "weakref.WeakSet[WorkerProcess]" = weakref.WeakSet()
# What an interpreter may need to start. Nothing else of the host's environment reaches a worker: keys live there.
_PASSED_ON = ("PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


class WorkerProcess(Pipes):
    """One worker: the function `main` of memsafe_transcribe.MODULE, with the lifeline's descriptor and `arguments` in
    its `sys.argv`, in a Python of its own that is started at once.

    Starting blocks for about a millisecond and cannot be cancelled half-way, so there is no moment at which a child
    runs that nobody owns. The pipes hold 64 KiB each, that from the worker 128: one that is not listened to waits.

    Use it as an async context manager; on exit the child has been killed and reaped.
    """

    def __init__(self, module: str, *arguments: int | str, pass_fds: tuple[int, ...] = ()) -> None:
        if _PATH in os.environ:
            raise RuntimeError("a worker started another: something that it imports runs the library")
        with ExitStack() as on_failure:
            lifeline, self._lifeline = open_pipe(on_failure)
            argv = map(str, (lifeline.fileno(), *arguments))
            self._process = on_failure.enter_context(
                subprocess.Popen(
                    [sys.executable, "-S", "-P", "-c", _START.format(module), *argv],
                    bufsize=0,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    pass_fds=(lifeline.fileno(), *pass_fds),
                    env=_environment(),
                    process_group=0,  # a terminal's Ctrl-C is for the parent to act on
                )
            )
            on_failure.callback(self._process.kill)
            assert self._process.stdin and self._process.stdout and self._process.stderr
            self._stdin, self._stdout, self._stderr = self._process.stdin, self._process.stdout, self._process.stderr
            for pipe in (self._stdin, self._stdout, self._stderr):
                os.set_blocking(pipe.fileno(), False)
            lifeline.close()
            on_failure.pop_all()
        with suppress(OSError):  # a user with many pipes is given no larger ones
            fcntl.fcntl(self._stdout, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        super().__init__(self._stdin, self._stdout)
        self._last_words = b""
        _living.add(self)
        self._reaping = anyio.Lock()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    async def exit_reason(self) -> str:
        """How the child ended, for people. Kills it if it has not."""
        await self._kill_and_reap()
        code = self._process.returncode
        reason = f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit status {code}"
        lines = self._last_words.decode(errors="replace").strip().splitlines()
        return f"{reason}: {lines[-1]}" if lines else reason

    async def _kill_and_reap(self) -> None:
        """Kill at once, then wait, shielded and timed. The child's stderr closes as it dies, so no thread need wait.

        Not stdout: another task may be reading there at this moment.
        """
        if self._process.returncode is not None:
            return
        self._process.kill()
        try:
            with anyio.move_on_after(_REAP_SECONDS, shield=True):
                async with self._reaping:
                    while data := await read_some(self._stderr):
                        self._last_words = (self._last_words + data)[-READ_BYTES:]
        finally:
            # No shield holds against asyncio's own Task.cancel(). What is killed ends in milliseconds: wait here.
            try:
                self._process.wait(_REAP_SECONDS)
            except subprocess.TimeoutExpired:
                warnings.warn(f"worker {self.pid} did not die", ResourceWarning, stacklevel=2)

    async def aclose(self) -> None:
        """Kill the child, reap it, and close every pipe. A task that still reads gets a `ClosedResourceError`."""
        try:
            await self._kill_and_reap()
        finally:
            _living.discard(self)
            for pipe in (self._lifeline, self._stdin, self._stdout, self._stderr):
                if not pipe.closed:
                    anyio.notify_closing(pipe)
                    pipe.close()

    def forget(self) -> None:
        """In a fork of this process: let go of the child, which is not ours. With the lifeline held open by a fork, it
        would outlive its parent.
        """
        self._process.returncode = 0  # whatever runs on in the fork must neither kill nor await it
        for pipe in (self._lifeline, self._stdin, self._stdout, self._stderr):
            pipe.close()

    async def __aenter__(self) -> "WorkerProcess":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _environment() -> dict[str, str]:
    """The worker finds packages where this process does, without running `site` and its .pth files again.

    Not by PYTHONPATH, which goes before the standard library: a script's neighbour called wave.py would be imported
    instead, and a script of that name would run itself, and the library, in each worker. The script's folder is last.
    """
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    script = os.path.dirname(os.path.abspath(getattr(sys.modules.get("__main__"), "__file__", None) or "/"))
    path = sorted(filter(None, sys.path), key=lambda folder: os.path.abspath(folder) == script)
    return {**passed_on, _PATH: os.pathsep.join([*path, _PACKAGE_PARENT]), "PYTHONUTF8": "1"}


def _forget_all() -> None:
    for worker in list(_living):
        worker.forget()
    _living.clear()


os.register_at_fork(after_in_child=_forget_all)
