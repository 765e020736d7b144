"""What is kept of one job while it runs, and given back when it is resumed; or nothing, where there is no store."""

import logging
from collections.abc import Iterable
from typing import Protocol

import anyio

from .._audio.chunker import Span
from .._errors import StoreError
from .._store.jobs import Job as StoredJob, Plan, StoredChunk
from .protocol import ChunkResult
from .records import packed, packed_gaps, unpacked
from .transcript import Gap

_LOG = logging.getLogger("memsafe_transcribe")
_KEEP_SECONDS = 60.0


class Recorder(Protocol):
    """Where the results of one job go, and where those of an earlier run come from.

    Attributes:
        error: why nothing more is kept; None as long as all is well.
    """

    error: StoreError | None

    async def find(self, span: Span) -> ChunkResult | None:
        """What was heard in this span, if it is known already."""

    async def has_parts_of(self, span: Span) -> bool:
        """Whether this span had to be cut, and a part of it is known."""

    async def keep(self, span: Span, result: ChunkResult) -> None:
        """Keep what was heard in this span. When it returns, that is on disk; or `error` says why not."""

    async def finish(self, total_samples: int, gaps: Iterable[Gap]) -> None:
        """All was heard."""


class NotRecorded:
    """There is no store."""

    error: StoreError | None = None

    async def find(self, span: Span) -> ChunkResult | None:
        return None

    async def has_parts_of(self, span: Span) -> bool:
        return False

    async def keep(self, span: Span, result: ChunkResult) -> None:
        pass

    async def finish(self, total_samples: int, gaps: Iterable[Gap]) -> None:
        pass


class Recorded:
    """In a store's job.

    What cannot be stored is heard all the same: it has been paid for. That is said once in the log, and by `error`.

    Args:
        job: which nobody else is at work on.
        plan: how its audio is cut.
    """

    def __init__(self, job: StoredJob, plan: Plan) -> None:
        self.error: StoreError | None = None
        self._job = job
        self._plan = plan
        self._is_resumed = job.state.plan is not None

    async def find(self, span: Span) -> ChunkResult | None:
        if not self._is_resumed:
            return None
        found = await self._job.find(span.core_start, span.core_end, span.start, span.end)
        return None if found is None else unpacked(found)

    async def has_parts_of(self, span: Span) -> bool:
        if not self._is_resumed:
            return False
        first = await self._job.first_from(span.core_start)
        return first is not None and first.core_end <= span.core_end and first.start >= span.start

    async def keep(self, span: Span, result: ChunkResult) -> None:
        if self.error is not None:
            return
        chunk = StoredChunk(span.core_start, span.core_end, span.start, span.end, packed(result))
        try:
            with anyio.move_on_after(_KEEP_SECONDS, shield=True):  # it is paid for
                await self._job.keep(self._plan, chunk)
        except StoreError as error:
            self._give_up(error)

    async def finish(self, total_samples: int, gaps: Iterable[Gap]) -> None:
        if self.error is not None:
            return
        try:
            await self._job.finish(self._plan, total_samples, packed_gaps(gaps))
        except StoreError as error:
            self._give_up(error)

    def _give_up(self, error: StoreError) -> None:
        self.error = error
        _LOG.error("what is heard from now on is not stored, and would have to be paid for again: %s", error)
