"""What is kept of one job while it runs, and given back when it is resumed; or nothing, where there is no store."""

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

import anyio

from .._audio.chunker import Span
from .._errors import StoreError
from .._store.jobs import ChunkPlan, Job as StoredJob, StoredChunk
from .identity import Identity
from .protocol import ChunkResult
from .records import Answer, packed, packed_gaps, unpacked
from .transcript import Gap

_LOG = logging.getLogger("memsafe_transcribe")


class Recorder(Protocol):
    """Where the results of one job go, and where those of an earlier run come from.

    Attributes:
        error: why nothing more is kept; None as long as all is well.
    """

    error: StoreError | None

    async def find(self, span: Span) -> Answer | None:
        """What was heard in this span, if it is known already."""

    async def has_parts_of(self, span: Span) -> bool:
        """Whether this span had to be cut, and a part of it is known."""

    async def keep(self, span: Span, result: ChunkResult, suspicion: str | None) -> None:
        """Keep what was heard in this span. When it returns, that is on disk; or `error` says why not."""

    async def finish(self, total_samples: int, gaps: Iterable[Gap]) -> None:
        """All was heard."""


class NotRecorded:
    """There is no store."""

    error: StoreError | None = None

    async def find(self, span: Span) -> Answer | None:
        return None

    async def has_parts_of(self, span: Span) -> bool:
        return False

    async def keep(self, span: Span, result: ChunkResult, suspicion: str | None) -> None:
        pass

    async def finish(self, total_samples: int, gaps: Iterable[Gap]) -> None:
        pass


class Recorded:
    """In a store's job.

    What cannot be stored is heard all the same: it has been paid for. That is said once in the log, and by `error`.

    Args:
        job: which nobody else is at work on.
        plan: how its audio is cut.
        identity: of its source. Of one that is written to meanwhile nothing more is stored.
    """

    def __init__(self, job: StoredJob, plan: ChunkPlan, identity: Identity) -> None:
        self.error: StoreError | None = None
        self._identity = identity
        self._job = job
        self._plan = plan
        self._is_resumed = job.state.plan is not None

    async def find(self, span: Span) -> Answer | None:
        if not self._is_resumed:
            return None
        found = await self._job.find(span.core_start, span.core_end, span.start, span.end)
        return None if found is None else unpacked(span, found)

    async def has_parts_of(self, span: Span) -> bool:
        if not self._is_resumed:
            return False
        first = await self._job.first_from(span.core_start)
        return first is not None and first.core_end <= span.core_end

    async def keep(self, span: Span, result: ChunkResult, suspicion: str | None) -> None:
        chunk = StoredChunk(span.core_start, span.core_end, span.start, span.end, packed(result, suspicion))
        await self._store(lambda: self._job.keep(self._plan, chunk))

    async def finish(self, total_samples: int, gaps: Iterable[Gap]) -> None:
        await self._store(lambda: self._job.finish(self._plan, total_samples, packed_gaps(gaps)))

    async def _store(self, write: Callable[[], Awaitable[None]]) -> None:
        if self.error is not None:
            return
        try:
            self._check_source()
            with anyio.CancelScope(shield=True):  # it is paid for; the store's busy_timeout_seconds bound it
                await write()
        except StoreError as error:
            if self.error is None:  # else another chunk's
                _LOG.error("what is heard from now on is not stored, and would have to be paid for again: %s", error)
            self.error = self.error or error

    def _check_source(self) -> None:
        if not self._identity.is_unchanged:
            raise StoreError(
                "the source was written to while it was transcribed, and is another one now", path="", reason="failed"
            )
