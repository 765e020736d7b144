"""One chunk, until its engine has answered: asked again, cut in two, or given up, by what the engine raises."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from math import ceil, inf
from typing import Literal

import anyio

from .._audio.chunks import Cut
from .._audio.voicing import CLEAR_DECIBELS
from .._audio.words import SAMPLE_RATE_HZ
from .._backoff import backoff_seconds
from .._errors import (
    ChunkTooLargeError,
    TranscriberFailedError,
    TranscriberQuotaError,
    TranscriberUnavailableError,
    checked_wait_seconds,
)
from .protocol import AudioChunk, Capabilities, ChunkContext, ChunkResult
from .recording import Recorder
from .records import Answer
from .registry import Engine
from .transcript import Segment, Word

_LOG = logging.getLogger("memsafe_transcribe")
_MAX_ATTEMPTS = 5
_BACKOFF_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 300.0  # that an engine may ask for, while the job keeps its slot
_SHORTEST_SECONDS = 1.0  # what is shorter than two of it is not cut in two
_SUSPECT_SECONDS = 3.0  # of clear sound, some eight words if it is speech: longer than a cough, a laugh or a door


OnError = Literal["raise", "mark", "stop"]


class Asker:
    """Asks one engine for all chunks of one job.

    Args:
        engine: which.
        context: what the caller said.
        on_error: what a failed chunk is to the job.
        may_call: awaited before each call with its deadline; raises if no call may be made until then.
        recorder: who keeps each answer, and knows those of an earlier run.
        on_answer: called when the engine has answered.
    """

    def __init__(
        self,
        engine: Engine,
        context: ChunkContext,
        on_error: OnError,
        may_call: Callable[[float], Awaitable[None]],
        recorder: Recorder,
        on_answer: Callable[[], object],
    ) -> None:
        self._engine = engine
        self._context = context
        self._on_error = on_error
        self._may_call = may_call
        self._recorder = recorder
        self._on_answer = on_answer

    @property
    def raises(self) -> bool:
        """Whether a failure that ends the job is its error."""
        return self._on_error == "raise"

    def ends_the_job(self, failure: TranscriberFailedError) -> bool:
        """Whether no further chunk is to be asked for. One that is refused for a quota stands for all that follow."""
        return self._on_error != "mark" or isinstance(failure.__cause__, TranscriberQuotaError)

    async def ask(self, index: int, cut: Cut, deadline: float) -> list[Answer]:
        """The answer to one chunk, or to each of its parts if it proved too large, in order of time.

        Args:
            index: the chunk's number.
            cut: what is to be heard.
            deadline: until when, on anyio's clock; may be infinite.

        Raises:
            MemoryPressureError: as `may_call` says.
            StoreError: what is known of it cannot be read.
        """
        if (known := await self._recorder.find(cut.span)) is not None:
            return [known]
        if not await self._recorder.has_parts_of(cut.span):
            try:
                result = await self._result(_audio_chunk(index, cut, self._engine.capabilities), deadline)
                suspicion = self._suspicion(cut, result)
                await self._recorder.keep(cut.span, result, suspicion)
                return [Answer(cut.span, result, suspicion)]
            except TranscriberFailedError as failure:
                is_too_large = isinstance(failure.__cause__, ChunkTooLargeError | MemoryError)
                if not is_too_large or cut.span.end - cut.span.start < 2 * _SHORTEST_SECONDS * SAMPLE_RATE_HZ:
                    return [Answer(cut.span, failure)]
            _LOG.info("chunk %d is too large for engine %r, and is cut in two", index, self._engine.name)
        answers: list[Answer] = []
        for half in cut.halves():
            answers += await self.ask(index, half, deadline)
            last = answers[-1].result
            if isinstance(last, TranscriberFailedError) and self.ends_the_job(last):
                break
        return answers

    def _suspicion(self, cut: Cut, result: ChunkResult) -> str | None:
        if _has_text(result) or (clear_seconds := cut.clear_seconds) < _SUSPECT_SECONDS:
            return None
        return (
            f"engine {self._engine.name!r} gave no text, though {clear_seconds:.1f} s of this are {CLEAR_DECIBELS} dB "
            "and more above its noise floor"
        )

    async def _result(self, chunk: AudioChunk, deadline: float) -> ChunkResult:
        attempt = 1
        while True:
            await self._may_call(deadline)
            deadline_seconds = deadline - anyio.current_time() if deadline < inf else None
            try:
                result = await self._engine.transcribe(
                    chunk, replace(self._context, deadline_seconds=deadline_seconds, attempt=attempt)
                )
            except TranscriberFailedError as failure:
                pause_seconds = _pause_seconds(failure, attempt, deadline - anyio.current_time())
                _LOG.info("chunk %d is asked for again in %.1f s: %s", chunk.index, pause_seconds, failure)
            else:
                self._on_answer()
                return result
            await anyio.sleep(pause_seconds)
            attempt += 1


def _has_text(result: ChunkResult) -> bool:
    timed: tuple[Word | Segment, ...] = (*result.words, *result.segments)
    return any(text.strip() for text in (result.text, *(item.text for item in timed)))


def _pause_seconds(failure: TranscriberFailedError, attempt: int, left_seconds: float) -> float:
    """How long to wait after this failure: as the engine asks, or else by `backoff_seconds`.

    Raises:
        TranscriberFailedError: this one, if there is to be no further attempt.
    """
    cause = failure.__cause__
    if not failure.retryable or isinstance(cause, TranscriberQuotaError):
        raise failure
    left_seconds = min(left_seconds, _LONGEST_PAUSE_SECONDS)
    asked_seconds = cause.retry_after_seconds if isinstance(cause, TranscriberUnavailableError) else None
    try:
        asked_seconds = checked_wait_seconds(asked_seconds)  # once more: the attribute may have been set since
    except (TypeError, ValueError) as error:
        raise _failed(failure, str(error)) from cause
    if asked_seconds is not None and asked_seconds > left_seconds:
        raise _failed(failure, f"it asks for {asked_seconds:.0f} s; {max(0, left_seconds):.0f} s can be waited")
    if attempt >= _MAX_ATTEMPTS:
        raise _failed(failure, f"after {attempt} attempts")
    pause_seconds = backoff_seconds(attempt, _BACKOFF_SECONDS) if asked_seconds is None else asked_seconds
    if pause_seconds > left_seconds:
        raise _failed(failure, f"at attempt {attempt}, with {max(0, left_seconds):.1f} s left")
    return pause_seconds


def _failed(failure: TranscriberFailedError, why: str) -> TranscriberFailedError:
    """The same, with the reason why it is not asked again."""
    error = TranscriberFailedError(
        f"{failure} ({why})", chunk_index=failure.chunk_index, start_seconds=failure.start_seconds, retryable=True
    )
    error.__cause__ = failure.__cause__
    return error


def _audio_chunk(index: int, cut: Cut, capabilities: Capabilities) -> AudioChunk:
    samples = max(cut.span.end - cut.span.start, ceil(capabilities.min_chunk_seconds * SAMPLE_RATE_HZ))
    return AudioChunk(
        index=index,
        start_seconds=cut.span.start / SAMPLE_RATE_HZ,
        duration_seconds=samples / SAMPLE_RATE_HZ,
        sample_rate_hz=SAMPLE_RATE_HZ,
        format="wav",
        data=cut.padded_wav(samples),
    )
