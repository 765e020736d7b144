"""The part of the contract about what an engine takes and what it leaves."""

import inspect
from typing import Any

import pytest

from .._units import MiB, format_size
from . import _bench, _footprint, _sounds
from ._base import ContractBase
from ._bench import Asked, broken
from ._running import _LONG_SECONDS, _cancel_midway

# What the interpreter and the allocator keep or round up by themselves.
TOLERANCE_BYTES = 4 * MiB


class ResourcesContract(ContractBase):
    """Memory, closing, leaving nothing."""

    def test_a_call_takes_the_memory_that_is_declared(self) -> None:
        """RssAnon + RssShmem that the longest chunk adds, here and in children: memory_bytes(duration) and 4 MiB."""
        _skip_unmeasurable()

        async def main(asked: Asked) -> tuple[float, int, int]:
            for _ in range(2):
                await asked.ask(self._short(asked.capabilities))
            chunk = _sounds.chunk_of(self._samples(_sounds.longest_samples(asked.capabilities)))
            with _footprint.growing() as growth:
                await asked.ask(chunk, what="the longest chunk that it declares")
            seconds = chunk.duration_seconds
            return seconds, growth.bytes, asked.capabilities.memory_bytes(seconds)

        seconds, taken_bytes, declared_bytes = self._run(main)
        if taken_bytes > declared_bytes + TOLERANCE_BYTES:
            broken(
                f"a chunk of {seconds:g} s added {format_size(taken_bytes)} besides itself, and memory_bytes("
                f"{seconds:g}) declares {format_size(declared_bytes)} (4 MiB more are tolerated). Declare "
                f"call_bytes_per_second={taken_bytes / seconds:.0f} or more (or call_bytes, for what does not grow "
                "with the chunk), or hold fewer copies. What a test server in this process counts as well: let it read "
                "the body in pieces and keep nothing"
            )

    def test_it_keeps_no_more_than_resident_bytes(self) -> None:
        """What stays between calls is declared, and gone once it is closed, each with 4 MiB of tolerance.

        Measured with the second engine that is made: what importing takes is not counted.
        """
        _skip_unmeasurable()
        kept: list[int] = []

        async def main(asked: Asked) -> None:
            await asked.ask(self._short(asked.capabilities))
            kept.append(_footprint.tree_bytes())

        self._run(main)
        before_bytes = _footprint.tree_bytes()
        engine = self.make_engine()
        _bench.run(engine, self.call_seconds, "asyncio", main)
        kept_bytes = kept[-1] - before_bytes
        closed_bytes = _footprint.tree_bytes() - before_bytes
        declared_bytes = Asked(engine, self.call_seconds).capabilities.resident_bytes
        if kept_bytes > declared_bytes + TOLERANCE_BYTES:
            broken(
                f"the open engine keeps {format_size(kept_bytes)}, and resident_bytes={declared_bytes} declares "
                f"{format_size(declared_bytes)} (4 MiB more are tolerated): declare resident_bytes={kept_bytes}"
            )
        if hasattr(engine, "aclose") and closed_bytes > TOLERANCE_BYTES:
            broken(
                f"after aclose() the engine still keeps {format_size(closed_bytes)}, which nobody accounts for any "
                "more: let aclose() drop what was opened (self.model = None)"
            )

    def test_aclose_can_be_repeated_and_the_engine_used_again(self, backend: str) -> None:
        """Before the first call, twice, and between two calls. Skipped where there is no aclose."""
        aclose = getattr(self.make_engine(), "aclose", None)
        if aclose is None:
            pytest.skip("the engine has no aclose: nothing to close")
        if not inspect.iscoroutinefunction(aclose):
            broken("aclose must be a coroutine function: async def aclose(self) -> None")

        async def main(asked: Asked) -> None:
            await _close(asked, "before its first call")
            await asked.ask(self._short(asked.capabilities), what="a chunk")
            await _close(asked, "after a call")
            await _close(asked, "a second time")
            await asked.ask(
                self._short(asked.capabilities), what="a chunk after aclose(): open what is needed at the next call"
            )

        self._run(main, backend)

    def test_leaves_nothing_behind(self, backend: str) -> None:
        """After calls, a cancelled call and aclose, no thread, task, descriptor or child process is left of an engine.

        Looked at with the second engine that is made: what a library keeps once for the whole process is not meant.
        """
        self._live(backend)
        before = _footprint.Footprint.now()
        asked = self._live(backend)
        left = [f"task {name!r}" for name in asked.left_tasks] + before.grown()
        if left:
            broken(
                f"after aclose() there is still: {'; '.join(left)}. Let `async def aclose(self)` end and await what "
                "the engine started, also after a call was cancelled"
            )
        del asked  # not before: what goes with the object alone would hide here

    def _live(self, backend: str) -> Asked:
        async def main(asked: Asked) -> Asked:
            await asked.ask(self._short(asked.capabilities))
            if asked.is_async:
                await _cancel_midway(asked, self._longest(asked.capabilities, _LONG_SECONDS))
                await asked.ask(self._short(asked.capabilities), what="a chunk after a cancelled call")
            return asked

        return self._run(main, backend)


async def _close(asked: Asked, when: str) -> None:
    try:
        await asked.aclose()
    except Exception as error:
        kind: Any = type(error).__name__
        broken(f"aclose() {when} raised {kind}: {error}. Let it close what is open, and do nothing otherwise", error)


def _skip_unmeasurable() -> None:
    if not _footprint.can_measure():
        pytest.skip("memory is measured on Linux only")
