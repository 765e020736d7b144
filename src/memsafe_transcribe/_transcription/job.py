"""What one running job holds of its container: its slot, further slots, and memory that is told to the admission."""

import anyio
import anyio.lowlevel

from .._admission.controller import AdmissionController
from .._admission.draining import draining_error
from .._admission.reservation import Reservation
from .._audio.decoder import Decoder
from .._errors import AdmissionError, MemoryPressureError
from .._memory.guard import POLL_SECONDS
from .._memory.reading import resident_bytes
from .planning import Sizes
from .progress import OnProgress, Progress

_CEILING_WAIT_SECONDS = 60.0
_MARGIN_SECONDS = 4 * POLL_SECONDS  # before a deadline, to say why instead of being cut off


class RunningJob:
    """One job that was let in.

    Args:
        admission: that let it in.
        reservation: what it holds, with its own slot.
        decoder: its decoding process.
        decoder_bytes: what that is reserved for.
        sizes: of its chunks.
        report: told how far it is.
    """

    def __init__(
        self,
        admission: AdmissionController,
        reservation: Reservation,
        decoder: Decoder,
        decoder_bytes: int,
        sizes: Sizes,
        report: OnProgress,
    ) -> None:
        self.concurrency = sizes.concurrency
        self._admission = admission
        self._reservation = reservation
        self._decoder = decoder
        self._decoder_bytes = decoder_bytes
        self._chunk_bytes = sizes.chunk_bytes
        self._report = report
        self._running = 0
        self._extra_slots: list[Reservation] = []

    def try_begin(self) -> bool:
        """Take leave to work on one more chunk: the first has the job's own slot, others need one more each."""
        if self._running and self._admission.is_draining:
            return False
        if self._running > len(self._extra_slots):
            try:
                self._admission.guard.check(self._chunk_bytes, admitted=True)
                self._extra_slots.append(self._admission.reserve_nowait(0))
            except (AdmissionError, MemoryPressureError):
                return False
        self._running += 1
        return True

    def end(self) -> None:
        """Give it back, with the slot if that was one more."""
        self._running -= 1
        while len(self._extra_slots) > max(0, self._running - 1):
            self._extra_slots.pop().release()

    def close(self) -> None:
        """Give back the slots of chunks that were never begun, their task having been cancelled before."""
        while self._extra_slots:
            self._extra_slots.pop().release()

    async def may_call(self, deadline: float) -> None:
        """Wait while memory is at the ceiling, until shortly before the deadline.

        Raises:
            MemoryPressureError: it still was.
            DrainingError: nothing more is to be begun.
        """
        if self._admission.is_draining:
            raise draining_error(0, 0)
        guard = self._admission.guard
        try:
            guard.check(self._chunk_bytes, admitted=True)
        except MemoryPressureError:
            await anyio.lowlevel.checkpoint_if_cancelled()  # else there would seem to be no time left
            guard.cleanup()
            patience = min(_CEILING_WAIT_SECONDS, deadline - anyio.current_time() - _MARGIN_SECONDS)
            await guard.wait_until_ok(self._chunk_bytes, admitted=True, timeout_seconds=patience)

    def tell(self, done_seconds: float, held_bytes: int) -> None:
        """Say how far the job is, and what of its promise is resident by now."""
        total_seconds = self._decoder.info.duration_seconds
        self._report(Progress("transcribing", done_seconds, total_seconds, self._reservation.need_bytes))
        pid = self._decoder.pid
        decoder_bytes = 0 if pid is None else resident_bytes(pid)
        if decoder_bytes > self._decoder_bytes:  # a strange stream; its process has a limit of its own
            self._reservation.try_grow(decoder_bytes - self._decoder_bytes)
            self._decoder_bytes = decoder_bytes
        self._reservation.mark_used(decoder_bytes + held_bytes)
