"""Which engine is meant: a name, an object, or a plain function."""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

import anyio

from .._errors import (
    TranscriberError,
    TranscriberFailedError,
    TranscriberNotFoundError,
    TranscriberQuotaError,
    TranscriberUnavailableError,
)
from .._threads import run_to_its_end
from .protocol import Answer, AudioChunk, Capabilities, ChunkContext, ChunkResult, Transcriber
from .transcript import Word

ENTRY_POINT_GROUP = "memsafe_transcribe.transcribers"
_MOST_THREADS = 64  # slots end it far earlier

PlainFunction = Callable[[AudioChunk], Answer | Awaitable[Answer]]
_PASSING = (TranscriberUnavailableError, TranscriberQuotaError, ConnectionError, TimeoutError)
EngineLike = str | Transcriber | PlainFunction


def installed() -> dict[str, EntryPoint]:
    """The engines that installed distributions offer, by name. Imports none of them.

    Raises:
        TranscriberError: two of them offer different ones under one name.
    """
    found: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP)):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            both = sorted(f"{each.value} of {each.dist.name if each.dist else 'unknown'}" for each in (other, point))
            raise TranscriberError(f"two installed engines are called {point.name!r}: {' and '.join(both)}; remove one")
    return found


class Engine:
    """One engine, ready to be asked: whatever it was given as, it is awaited here and answers a `ChunkResult`.

    Args:
        name: for messages.
        transcriber: an object that satisfies `Transcriber`, its method sync or async.
        owned: whether `aclose` closes it: only what was made here is closed here.
    """

    def __init__(self, name: str, transcriber: Any, *, owned: bool) -> None:
        self.name = name
        self.capabilities: Capabilities = transcriber.capabilities
        self._transcriber = transcriber
        self._owned = owned
        threads = _MOST_THREADS if self.capabilities.is_thread_safe else 1
        self._limiter = anyio.CapacityLimiter(threads)  # its own: the host's threads are the host's

    async def transcribe(self, chunk: AudioChunk, context: ChunkContext) -> ChunkResult:
        """Ask the engine about one chunk, once. Sync methods run in a worker thread.

        Raises:
            TranscriberFailedError: whatever the engine raised is its cause.

        Cancellation: a sync engine cannot be stopped; its thread is waited for.
        """
        try:
            answer = await self._call(chunk, context)
            if isinstance(answer, str):
                answer = ChunkResult(text=answer)
            if not isinstance(answer, ChunkResult):
                raise TypeError(f"it returned {type(answer).__name__}, not str or ChunkResult")
            return answer if self.capabilities.trusts_times else _doubted(answer)
        except (Exception, SystemExit) as error:
            raise TranscriberFailedError(
                f"engine {self.name!r} failed on chunk {chunk.index} (from {chunk.start_seconds:g} s): "
                f"{type(error).__name__}: {error}",
                chunk_index=chunk.index,
                start_seconds=chunk.start_seconds,
                retryable=isinstance(error, _PASSING),
            ) from error

    async def _call(self, chunk: AudioChunk, context: ChunkContext) -> Any:
        method = self._transcriber.transcribe
        if inspect.iscoroutinefunction(method):
            return await method(chunk, context)
        # In a tuple, because trio takes a coroutine that comes out of a thread for a mistake.
        (answer,) = await run_to_its_end(lambda: (method(chunk, context),), self._limiter)
        return await answer if inspect.isawaitable(answer) else answer

    async def aclose(self) -> None:
        """Close the engine, if it was made here and can be closed."""
        if self._owned and (aclose := getattr(self._transcriber, "aclose", None)):
            await aclose()


def _doubted(result: ChunkResult) -> ChunkResult:
    """The same, with no time that is to be believed."""

    def doubt(words: Iterable[Word]) -> tuple[Word, ...]:
        return tuple(replace(word, trusted=False) for word in words)

    segments = (replace(segment, trusted=False, words=doubt(segment.words)) for segment in result.segments)
    return replace(result, words=doubt(result.words), segments=tuple(segments))


class _Function:
    """A plain function `chunk -> str`, sync or async, as a transcriber."""

    capabilities = Capabilities()

    def __init__(self, function: PlainFunction) -> None:
        self._function = function
        is_async = inspect.iscoroutinefunction(function)
        self.transcribe = self._transcribe_async if is_async else self._transcribe_sync

    async def _transcribe_async(self, chunk: AudioChunk, context: ChunkContext) -> Any:
        answer: Any = self._function(chunk)
        return await answer

    def _transcribe_sync(self, chunk: AudioChunk, context: ChunkContext) -> Any:
        return self._function(chunk)


def resolve(engine: EngineLike, options: Mapping[str, Any] | None) -> Engine:
    """Make an engine ready.

    Args:
        engine: the name of an installed plugin, an object that satisfies `Transcriber`, or a function `chunk -> str`.
        options: keyword arguments for the plugin's class; for names only.

    Raises:
        TranscriberNotFoundError: no plugin of that name is installed, or it cannot be imported.
        TranscriberError: it cannot be used: something it needs is missing, or the options are not its own.
        TypeError: it is none of the three, or options came with something that is made already.
    """
    if isinstance(engine, str):
        return _named(engine, dict(options or {}))
    if options:
        raise TypeError("engine_options go with an engine's name; an object or a function is made already")
    name = getattr(engine, "__qualname__", type(engine).__qualname__)
    if isinstance(engine, Transcriber) and not isinstance(engine, type):
        return Engine(name, engine, owned=False)
    if callable(engine) and not isinstance(engine, type):
        return Engine(name, _Function(engine), owned=False)
    raise TypeError(f"engine must be a name, a Transcriber or a function chunk -> str, got {engine!r}")


def _named(name: str, options: dict[str, Any]) -> Engine:
    points = installed()
    point = points.get(name)
    is_place = point is None and ":" in name
    if is_place:
        point = EntryPoint(name, name, ENTRY_POINT_GROUP)
    if point is None:
        raise TranscriberNotFoundError(
            f"no engine {name!r} is installed; there are: {', '.join(points) or 'none'}. Engines are found through "
            f"the entry-point group {ENTRY_POINT_GROUP!r}",
            name=name,
            available=tuple(points),
        )
    try:
        plugin = point.load()
    except ImportError as error:
        what = f"no engine {name!r} is installed, and as a place (module:Class) it cannot be imported: {error}"
        if not is_place:
            what = f"engine {name!r} is installed, but cannot be imported: {error}"
        raise TranscriberNotFoundError(what, name=name, available=tuple(points)) from error
    except (Exception, SystemExit) as error:
        raise _unusable(name, "loaded", error) from error
    if (reason := _no_engine(point, plugin)) is not None:
        raise TranscriberError(f"engine {name!r} cannot be used: {reason}")
    if isinstance(plugin, type):
        try:
            return Engine(name, plugin(**options), owned=True)
        except TranscriberError:
            raise
        except (Exception, SystemExit) as error:
            what = f"made with the engine_options {', '.join(sorted(options)) or 'left out'}"  # not their values: keys
            raise _unusable(name, what, error) from error
    if options:
        raise TypeError(f"engine {name!r} is no class and takes no engine_options, got {sorted(options)}")
    return Engine(name, plugin if isinstance(plugin, Transcriber) else _Function(plugin), owned=False)


def _unusable(name: str, what: str, error: BaseException) -> TranscriberError:
    return TranscriberError(f"engine {name!r} cannot be {what}: {type(error).__name__}: {error}")


def _no_engine(point: EntryPoint, plugin: object) -> str | None:
    """Why what an entry point leads to can be no engine; None if it may be one."""
    if isinstance(plugin, ModuleType):
        return f"it names a module; write {point.value}:Class"
    if callable(plugin) or isinstance(plugin, Transcriber):
        return None
    return f"it leads to {plugin!r}, which is no class, no function and no engine"


def missing(point: EntryPoint) -> str | None:
    """What keeps an installed engine from being used, in a line for people; None if nothing does. Imports it."""
    try:
        plugin = point.load()
    except (Exception, SystemExit) as error:  # a plugin's module may do anything when it is imported
        return _line(f"it cannot be loaded: {type(error).__name__}: {error}")
    if (what := _no_engine(point, plugin)) is not None:
        return what
    check: Callable[[], object] = getattr(plugin, "missing", lambda: None)
    try:
        said = check()
    except (Exception, SystemExit) as error:  # the others are still to be told of
        return _line(f"its missing() raised {type(error).__name__}: {error}")
    if said is not None and not isinstance(said, str):
        return _line(f"its missing() answered {said!r}, which is neither text nor None")
    return _line(said or "") or None


def _line(text: str) -> str:
    return " ".join(text.split())
