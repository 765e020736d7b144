"""What the tests of metrics look at."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import memsafe_transcribe as mt
from memsafe_transcribe.testing import FakeGuard

LIMIT_BYTES = 1000 * mt.MiB


class BlindGuard(FakeGuard):
    """A guard whose memory can be read no more."""

    def snapshot(self) -> mt.MemorySnapshot:
        raise OSError("no such file")


@contextmanager
def full_admission(guard: type[FakeGuard] = FakeGuard) -> Iterator[mt.AdmissionController]:
    """With its only slot taken for 100 MiB, another claim refused, and a quarter of the memory used."""
    told = guard(limit_bytes=LIMIT_BYTES, used_bytes=250 * mt.MiB)
    admission = mt.AdmissionController(guard=told, scope="process", max_concurrent=1)
    with admission.reserve_nowait(100 * mt.MiB):
        with pytest.raises(mt.AdmissionRejectedError):
            admission.reserve_nowait(0)
        yield admission
