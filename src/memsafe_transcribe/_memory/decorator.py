"""`memory_guard`: a check before a function and, if need be, a cleanup after it."""

import functools
import inspect
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any, ParamSpec, TypeVar, cast

from .._errors import MemoryPressureError
from .guard import POLL_SECONDS, MemoryGuard, default_guard
from .pressure import Thresholds

_P = ParamSpec("_P")
_R = TypeVar("_R")
_DEFAULT_CEILING_PERCENT = 90.0  # of default_guard(), which is not made before it is needed


def memory_guard(
    *,
    threshold_percent: float = 60.0,
    guard: MemoryGuard | None = None,
    need_bytes: int = 0,
    wait_seconds: float | None = None,
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Decorate a function so that it begins only while memory is under a threshold.

    It works on `def`, `async def`, generators and async generators, methods too; for generators, the body is meant,
    not the call that makes them. It checks and never reserves: for work that must not run beside too much other work,
    reserve with `AdmissionController`. When the function has ended, in whatever way, and memory is at the threshold,
    `guard.cleanup()` is called.

    Args:
        threshold_percent: the part of the limit that may be in use, with `need_bytes`, when the function begins.
        guard: whom to ask; `default_guard()` if none is given.
        need_bytes: what the function will allocate.
        wait_seconds: wait so long for memory before refusing; by default it is refused at once. A plain function or
            generator waits by blocking its thread.

    Raises:
        ValueError: for a percentage, size or time out of range.
        TypeError: what is decorated is a class, a `staticmethod` or a `classmethod`, or no function at all.
        MemoryPressureError: from the decorated function, when it is refused.
    """
    Thresholds(threshold_percent, _DEFAULT_CEILING_PERCENT if guard is None else guard.ceiling_percent)
    if need_bytes < 0:
        raise ValueError(f"need_bytes must not be negative, got {need_bytes}")
    if wait_seconds is not None and not wait_seconds >= 0:
        raise ValueError(f"wait_seconds must not be negative, got {wait_seconds}")
    gate = _Gate(threshold_percent, guard, need_bytes, wait_seconds)

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        return cast("Callable[_P, _R]", gate.around(function))

    return decorate


class _Gate:
    """The check before and the cleanup after, as `memory_guard` was told."""

    def __init__(
        self, threshold_percent: float, guard: MemoryGuard | None, need_bytes: int, wait_seconds: float | None
    ) -> None:
        self._threshold_percent = threshold_percent
        self._guard = guard
        self._need_bytes = need_bytes
        self._wait_seconds = wait_seconds

    def around(self, function: Any) -> Callable[..., Any]:
        if isinstance(function, staticmethod | classmethod):
            raise TypeError(
                f"memory_guard goes below @{type(function).__name__}, next to the function: "
                f"write @{type(function).__name__} above @memory_guard(...)"
            )
        if isinstance(function, type):
            raise TypeError(f"memory_guard decorates functions, not classes; decorate the methods of {function!r}")
        if not callable(function):
            raise TypeError(f"memory_guard decorates functions, got {function!r}")

        def is_kind(predicate: Callable[[Any], bool]) -> bool:
            return predicate(function) or predicate(type(function).__call__)  # an object may be called, too

        if is_kind(inspect.isasyncgenfunction):
            wrapper = self._async_generator(function)
        elif is_kind(inspect.iscoroutinefunction):
            wrapper = self._coroutine(function)
        elif is_kind(inspect.isgeneratorfunction):
            wrapper = self._generator(function)
        else:
            wrapper = self._plain(function)
        named = function
        while isinstance(named, functools.partial):
            named = named.func
        functools.update_wrapper(wrapper, named)
        wrapper.__wrapped__ = function  # type: ignore[attr-defined]  # the signature is that of the partial
        return wrapper

    def _plain(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            guard = self._enter_blocking()
            try:
                return function(*args, **kwargs)
            finally:
                self._leave(guard)

        return wrapper

    def _coroutine(self, function: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            guard = await self._enter()
            try:
                return await function(*args, **kwargs)
            finally:
                self._leave(guard)

        return wrapper

    def _generator(self, function: Callable[..., Generator[Any, Any, Any]]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            guard = self._enter_blocking()
            try:
                return (yield from function(*args, **kwargs))
            finally:
                self._leave(guard)

        return wrapper

    def _async_generator(self, function: Callable[..., AsyncGenerator[Any, Any]]) -> Callable[..., Any]:
        async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
            guard = await self._enter()
            inner = function(*args, **kwargs)
            # What `yield from` does for plain generators.
            try:
                step: Awaitable[Any] = inner.asend(None)
                while True:
                    try:
                        value = await step
                    except StopAsyncIteration:
                        return
                    try:
                        step = inner.asend((yield value))
                    except GeneratorExit:
                        raise
                    except BaseException as error:
                        step = inner.athrow(error)
            finally:
                try:
                    await inner.aclose()
                finally:
                    self._leave(guard)

        return wrapper

    def _enter_blocking(self) -> MemoryGuard:
        guard = self._guard or default_guard()
        give_up = time.monotonic() + (self._wait_seconds or 0)
        while True:
            try:
                guard.check(self._need_bytes, threshold_percent=self._threshold_percent)
                return guard
            except MemoryPressureError:
                if time.monotonic() >= give_up:
                    raise
            time.sleep(POLL_SECONDS)

    async def _enter(self) -> MemoryGuard:
        guard = self._guard or default_guard()
        await guard.wait_until_ok(
            self._need_bytes, timeout_seconds=self._wait_seconds or 0, threshold_percent=self._threshold_percent
        )
        return guard

    def _leave(self, guard: MemoryGuard) -> None:
        try:
            # HIGH begins where one byte more would pass the threshold.
            guard.check(1, threshold_percent=self._threshold_percent)
        except MemoryPressureError:
            guard.cleanup()
        except OSError:
            return  # memory cannot be read, which must not hide how the function ended
