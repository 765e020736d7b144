"""A finished job once more, from what is stored: neither its audio nor its engine is needed."""

from array import array
from dataclasses import dataclass

from .._audio.chunker import Span
from .._audio.chunks import Cut
from .._audio.words import SAMPLE_RATE_HZ
from .._store.jobs import Job as StoredJob, StoredChunk
from .progress import OnProgress, Progress
from .recording import NotRecorded
from .records import Answer, unpacked, unpacked_gaps
from .transcript import Gap


@dataclass(frozen=True, slots=True)
class StoredInfo:
    """What a header would have said."""

    duration_seconds: float


class StoredAudio(NotRecorded):
    """Stands for the decoder, for the cuts of a job's audio, and for who knows what was answered to each.

    Attributes:
        gaps: what was damaged in it.
        info: its length.
    """

    def __init__(self, job: StoredJob) -> None:
        self._job = job
        self._total_samples = job.state.total_samples or 0
        self._at = 0
        self._read: StoredChunk | None = None  # the last one; `Replay` lets no other be read before it is answered
        self.gaps: tuple[Gap, ...] = unpacked_gaps(job.state.gaps)
        self.info = StoredInfo(self._total_samples / SAMPLE_RATE_HZ)

    async def read(self) -> Cut | None:
        """The next span, without its samples. What nothing is stored of was silent."""
        if self._at >= self._total_samples:
            return None
        chunk = await self._job.first_from(self._at)
        silent_until = self._total_samples if chunk is None else chunk.core_start
        if chunk is None or silent_until > self._at:
            span = Span(self._at, silent_until, silent_until, silent_until)
        else:
            span, self._read = Span(chunk.core_start, chunk.core_end, chunk.start, chunk.end), chunk
        self._at = span.core_end
        return Cut(span, b"", array("f"))

    async def find(self, span: Span) -> Answer | None:
        """What was answered to the span that was read last."""
        return None if self._read is None else unpacked(span, self._read.result)


class Replay:
    """What a stream asks of its job, where that takes neither a slot nor memory."""

    concurrency = 1

    def __init__(self, total_seconds: float, report: OnProgress) -> None:
        self._total_seconds = total_seconds
        self._report = report

    def try_begin(self) -> bool:
        return True

    def end(self) -> None:
        pass

    async def may_call(self, deadline: float) -> None:
        pass

    def tell(self, done_seconds: float, held_bytes: int) -> None:
        self._report(Progress("transcribing", done_seconds, self._total_seconds))
