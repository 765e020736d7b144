"""One engine, asked as the library asks it, on one event loop, under a watchdog that no engine can hold up."""

import inspect
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic
from typing import Any, Generic, NoReturn, TypeVar

import anyio

from .._errors import TranscriberFailedError, TranscriberUnavailableError
from .._transcription.protocol import AudioChunk, Capabilities, ChunkContext, ChunkResult, Transcriber
from .._transcription.registry import Engine, resolve

T = TypeVar("T")

LOOP_THREAD = "memsafe-transcribe contract"
_GRACE_SECONDS = 5.0
_SETTLE_SECONDS = 2.0
_IS_IT_RUNNING = ". Is the test server running that it speaks to?"


def broken(message: str, cause: BaseException | None = None) -> NoReturn:
    """Fail the check that runs."""
    __tracebackhide__ = True
    raise AssertionError(message) from cause


class Asked:
    """An engine at work.

    Args:
        made: what the author's `make_engine` returned.
        call_seconds: how long one call may take.

    Attributes:
        made: the same.
        engine: what the library makes of it.
        capabilities: what it declares.
        is_async: whether its `transcribe` is a coroutine function.
        call_seconds: the same.
        left_tasks: the tasks that were there after it was closed, and not before.
    """

    def __init__(self, made: Any, call_seconds: float) -> None:
        self.made = made
        is_object = isinstance(made, Transcriber) and not isinstance(made, type)
        try:
            self.engine = Engine(type(made).__qualname__, made, owned=True) if is_object else resolve(made, None)
        except (TypeError, AttributeError) as error:
            broken(
                f"make_engine() must return an engine: an object with `capabilities` and `transcribe`, or a function "
                f"chunk -> str; it returned {made!r} ({error})",
                error,
            )
        self.capabilities: Capabilities = self.engine.capabilities
        self.is_async = inspect.iscoroutinefunction(getattr(made, "transcribe", made))
        self.call_seconds = call_seconds
        self.left_tasks: list[str] = []
        self._until: dict[object, float] = {}

    @property
    def overdue(self) -> bool:
        """Whether a call holds on beyond all patience, as one that holds up the loop or its thread does."""
        return any(monotonic() > until for until in list(self._until.values()))

    async def call(self, chunk: AudioChunk, context: ChunkContext | None = None) -> ChunkResult:
        """Ask, and let whatever the library's wrapper raises come out. The watchdog waits for it."""
        key = object()
        self._until[key] = monotonic() + self.call_seconds + _GRACE_SECONDS
        try:
            return await self.engine.transcribe(chunk, context or ChunkContext())
        finally:
            del self._until[key]

    async def ask(
        self, chunk: AudioChunk, context: ChunkContext | None = None, *, what: str = "a chunk"
    ) -> ChunkResult:
        """Ask about what the engine has to be able to answer.

        Raises:
            AssertionError: it raised, answered something else, or took too long.
        """
        try:
            with anyio.fail_after(self.call_seconds):
                return await self.call(chunk, context)
        except TimeoutError:
            broken(self.too_long(what))
        except TranscriberFailedError as error:
            cause = error.__cause__
            is_alone = isinstance(cause, TranscriberUnavailableError | ConnectionError)
            broken(
                f"asked about {what} ({chunk.duration_seconds:g} s), the engine failed: "
                f"{type(cause).__name__}: {cause}. It must answer text or a ChunkResult to whatever its Capabilities "
                f"allow, on asyncio and on trio{_IS_IT_RUNNING if is_alone else ''}",
                cause,
            )

    def too_long(self, what: str) -> str:
        """What to say of a call that does not end."""
        advice = "let it raise TimeoutError" if self.is_async else "it cannot be interrupted, so it needs a timeout"
        return (
            f"asked about {what}, the engine had not answered after call_seconds={self.call_seconds:g} s: {advice} "
            "of its own; if it may take that long, set call_seconds in the test class"
        )

    async def aclose(self) -> None:
        """Close it, if it can be."""
        await self.engine.aclose()


class _Run(Generic[T]):
    """What came of one event loop in its thread."""

    def __init__(self, asked: Asked, main: Callable[[Asked], Awaitable[T]], backend: str) -> None:
        self.result: T
        self.error: BaseException | None = None
        self._asked = asked
        self._main = main
        self._backend = backend

    def __call__(self) -> None:
        try:
            self.result = anyio.run(self._life, backend=self._backend)
        except BaseException as error:  # whatever it is: it belongs to the test's own thread
            self.error = error

    async def _life(self) -> T:
        before = {task.id for task in anyio.get_running_tasks()}
        try:
            return await self._main(self._asked)
        finally:
            with anyio.CancelScope(shield=True):
                with suppress(Exception):  # one check is about closing, and closes by itself
                    with anyio.move_on_after(self._asked.call_seconds):
                        await self._asked.aclose()
                self._asked.left_tasks = await _left(before)


async def _left(before: set[int]) -> list[str]:
    """Tasks that were not there before, after those had their time that are about to end."""
    give_up = monotonic() + _SETTLE_SECONDS
    while True:
        left = [task for task in anyio.get_running_tasks() if task.id not in before]
        if not left or monotonic() > give_up:
            return [task.name or "a task without a name" for task in left]
        await anyio.sleep(0.01)


def run(made: Any, call_seconds: float, backend: str, main: Callable[[Asked], Awaitable[T]]) -> T:
    """Let `main` ask the engine on a fresh loop of `backend`, and close it.

    The loop has a thread of its own, which is given up where the engine never returns.

    Raises:
        AssertionError: what `main` found, or the engine held on to a call for ever.
    """
    __tracebackhide__ = True  # the message says what to do, and the cause where the engine failed
    asked = Asked(made, call_seconds)
    outcome = _Run(asked, main, backend)
    thread = threading.Thread(target=outcome, name=LOOP_THREAD, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.02)
        if asked.overdue:
            broken(asked.too_long("a chunk"))
    if outcome.error is not None:
        error = _innermost(outcome.error)
        if isinstance(error, AssertionError):  # without the frames of two event loops
            raise AssertionError(str(error)) from error.__cause__
        raise error
    return outcome.result


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
