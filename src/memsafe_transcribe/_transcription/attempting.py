"""One source of a batch, until there is a transcript of it, or no more to be hoped for."""

import json
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import anyio

from .._backoff import backoff_seconds
from .._errors import (
    AdmissionError,
    DeadLetterError,
    DecoderCrashedError,
    DownloadError,
    DrainingError,
    KnownBadUrlError,
    MemoryPressureError,
    ReservationTooLargeError,
    SpoolError,
    StoreError,
    TranscriberFailedError,
    TranscriberQuotaError,
)
from .._store.batches import RunningBatch, SourceState
from .outcomes import Outcome
from .progress import OnProgress
from .protocol import ChunkContext
from .running import OnJobKey, Runner
from .sources import Source, is_url, name_of
from .stream import SegmentStream, collected, gathered
from .transcript import Transcript

_LOG = logging.getLogger("memsafe_transcribe")
_BACKOFF_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 300.0

EndBatch = Callable[[Exception], None]
Verdict = Literal["again", "crowded", "later", "never"]


def verdict_on(error: Exception) -> Verdict:
    """What an error means for its source: worth another attempt; the same, but no fault of its own, so that it is not
    counted for longer than this run; only another run may try it; or a dead letter.
    """
    if isinstance(error, KnownBadUrlError | StoreError | SpoolError | ReservationTooLargeError) or ends_batch(error):
        return "later"
    if isinstance(error, DownloadError | TranscriberFailedError):
        return "again" if error.retryable else "never"
    if isinstance(error, AdmissionError):
        return "crowded"
    if isinstance(error, MemoryPressureError | TimeoutError | DecoderCrashedError):
        return "again"
    return "later" if isinstance(error, OSError) else "never"  # of a local file, which costs nothing to try


def ends_batch(error: Exception) -> bool:
    """Whether every other source would meet the same: the store is out of order, the engine's quota is used up, or the
    process is about to end.
    """
    return isinstance(error, StoreError | DrainingError) or (
        isinstance(error, TranscriberFailedError) and isinstance(error.__cause__, TranscriberQuotaError)
    )


class Entry(Protocol):
    """What is remembered of a source."""

    state: SourceState

    async def leads_to(self, job_key: bytes) -> None: ...
    async def done(self) -> None: ...
    async def failed(self, attempts: int, error: str, *, is_final: bool) -> None: ...
    async def interrupted(self, attempts: int) -> None: ...


class Unremembered:
    """Of a source that cannot be told from others before it is read, or where there is no store."""

    state = SourceState("running")

    def __init__(self, batch: RunningBatch | None) -> None:
        self._batch = batch

    async def leads_to(self, job_key: bytes) -> None:
        if self._batch is not None:
            await self._batch.owns(job_key)

    async def done(self) -> None:
        pass

    async def failed(self, attempts: int, error: str, *, is_final: bool) -> None:
        pass

    async def interrupted(self, attempts: int) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Attempting:
    """How the sources of one run are transcribed.

    Attributes:
        runner: that does it.
        context: what its caller said.
        batch: in the store; None without one.
        max_attempts: after so many failures in all, a source is a dead letter.
        deadline_seconds: for each attempt.
        retry_failed: also those that were given up before.
    """

    runner: Runner
    context: ChunkContext
    batch: RunningBatch | None
    max_attempts: int
    deadline_seconds: float | None
    retry_failed: bool

    async def outcome_of(self, index: int, source: Source, report: OnProgress, end_batch: EndBatch) -> Outcome:
        """Whatever happens to it. Only cancellation comes out as an exception.

        Args:
            index: its place among the sources.
            source: which.
            report: called with its progress.
            end_batch: called with what ended its job early, if each other source would meet the same.
        """
        try:
            async with self._entry(source) as entry:
                outcome = await self._attempted(index, source, entry, report, end_batch)
        except StoreError as error:
            outcome = Outcome(index, source, error=error)
        if outcome.error is not None and ends_batch(outcome.error):
            end_batch(outcome.error)
        return outcome

    async def _attempted(
        self, index: int, source: Source, entry: Entry, report: OnProgress, end_batch: EndBatch
    ) -> Outcome:
        state = entry.state
        if state.state == "dead":
            return Outcome(index, source, error=_dead_letter(source, state), attempts=state.attempts)
        if state.state == "done" and (transcript := await self._known(state, report)) is not None:
            return Outcome(index, source, transcript)
        attempts, crowded, is_settled = state.attempts, 0, False
        try:
            while True:
                try:
                    again = self.retry_failed or attempts > state.attempts  # known bad by its own failure
                    streaming = self._streaming(source, entry.leads_to, report, again, end_batch)
                    transcript = await _noted(entry, await collected(streaming, self.deadline_seconds))
                    is_settled = True
                    return Outcome(index, source, transcript, attempts=attempts)
                except Exception as error:
                    verdict = verdict_on(error)
                    crowded += verdict == "crowded"
                    attempts += verdict in ("again", "never")
                    is_last = max(attempts, crowded) >= self.max_attempts or not _can_be_read_again(source)
                    if verdict == "later" or (verdict == "crowded" and is_last):
                        return Outcome(index, source, error=error, attempts=attempts)
                    if verdict != "crowded":
                        is_final = verdict == "never" or is_last
                        await entry.failed(attempts, _one_line(error), is_final=is_final)
                        if is_final:
                            is_settled = True
                            return Outcome(index, source, error=error, attempts=attempts)
                    pause_seconds = _pause_seconds(error, attempts + crowded)
                    _LOG.info("%s is tried again in %.1f s: %s", name_of(source), pause_seconds, _one_line(error))
                await anyio.sleep(pause_seconds)
        finally:
            if not is_settled:
                with anyio.CancelScope(shield=True):  # the store's busy_timeout_seconds bound it
                    await entry.interrupted(attempts)

    @asynccontextmanager
    async def _streaming(
        self, source: Source, on_job_key: OnJobKey, report: OnProgress, ask_anyway: bool, end_batch: EndBatch
    ) -> AsyncIterator[SegmentStream]:
        async with self.runner.stream(
            source, self.context, report, on_job_key=on_job_key, ask_anyway=ask_anyway
        ) as stream:
            yield stream
            failure = stream._ended_by  # noqa: SLF001 - for batches alone
            if failure is not None and ends_batch(failure):
                end_batch(failure)

    async def _known(self, state: SourceState, report: OnProgress) -> Transcript | None:
        """The transcript of a job that is finished; its source is not fetched again."""
        if state.job_key is None:
            return None
        async with self.runner.replay(state.job_key, self.context, report) as stream:
            return None if stream is None else await gathered(stream)

    @asynccontextmanager
    async def _entry(self, source: Source) -> AsyncIterator[Entry]:
        identity = _identity(source)
        if self.batch is None or identity is None:
            yield Unremembered(self.batch)
            return
        settings = (
            self.runner.engine.capabilities.cache_key,
            self.context.language,
            self.context.prompt,
            self.runner.settings.chunk_seconds,
        )
        async with self.batch.source(json.dumps((identity, *settings)), again=self.retry_failed) as entry:
            yield entry


def _identity(source: Source) -> str | None:
    """What a source is known by before it is read; None for what has no name. A file that was changed is another."""
    if is_url(source):
        return f"url {source}"
    if not isinstance(source, os.PathLike):
        return None
    path = os.path.abspath(os.fsdecode(source))
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # its error comes out when it is opened
        return f"path {path}"
    return f"path {path} {found.st_size} {found.st_mtime_ns}"


async def _noted(entry: Entry, transcript: Transcript) -> Transcript:
    """The transcript of a source that is done. Where that cannot be stored, it is heard all the same."""
    try:
        await entry.done()
    except StoreError as error:
        _LOG.error("that a source is done is not stored: %s", error)
        return replace(transcript, store_error=transcript.store_error or error)
    return transcript


def _can_be_read_again(source: Source) -> bool:
    return isinstance(source, str | os.PathLike) or hasattr(source, "raw_data")


def _dead_letter(source: Source, state: SourceState) -> DeadLetterError:
    reason = state.error or "unknown"
    return DeadLetterError(
        f"{name_of(source)} was given up before, after {state.attempts} attempts: {reason} (retry_failed=True tries it "
        "again)",
        reason=reason,
        attempts=state.attempts,
    )


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _pause_seconds(error: Exception, attempts: int) -> float:
    """As long as the error asks, or else by `backoff_seconds`."""
    asked_seconds = getattr(error, "retry_after_seconds", None)
    if asked_seconds is not None:
        return float(min(asked_seconds, _LONGEST_PAUSE_SECONDS))
    return backoff_seconds(attempts, _BACKOFF_SECONDS)
