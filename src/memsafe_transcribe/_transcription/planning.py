"""Pure: how long the chunks are, how many are in work at once, and what that takes, by the memory at hand."""

from dataclasses import dataclass

from .._audio.chunker import OVERLAP_SAMPLES, window_samples
from .._audio.encoding import WAV_HEADER_BYTES

SHORTEST_CHUNK_SECONDS = 10.0  # shorter ones give an engine too little to go by, and are made for no lack of memory

_SAMPLE_RATE_HZ = 16_000
_SAMPLE_BYTES = 2
_LEVEL_BYTES_PER_SAMPLE = 12 / 160  # as the decoder gave them, and as the chunker keeps them
_WAV_COPIES = 2  # the file of a chunk in work, and what its engine makes of it
_BLOCK_BYTES = 256 * 1024  # of the pipe from the decoder: what is read at a time, and the frames that it becomes


@dataclass(frozen=True, slots=True)
class Plan:
    """What a job will take, known before anything is decoded.

    Attributes:
        peak_bytes: the most that it adds to the RssAnon and RssShmem of an idle host and its processes; with that of
            the engine, if it is not open yet.
        chunk_seconds: what the length of a chunk's core aims for.
        concurrency: how many chunks are in work at once, if there are slots for them.
        duration_seconds: the length that the file's header claims or implies; None if it does neither.
        bounds: the least and the most that `peak_bytes` can turn out to be, where it depends on what is not known yet.
        why: what the figures follow from, for people.
    """

    peak_bytes: int
    chunk_seconds: float
    concurrency: int
    duration_seconds: float | None
    bounds: tuple[int, int]
    why: str


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a job.

    Attributes:
        chunk_samples: what a core aims for, at 16 kHz.
        concurrency: how many chunks are in work at once.
    """

    chunk_samples: int
    concurrency: int

    @property
    def chunk_bytes(self) -> int:
        """What one chunk in work takes."""
        return _WAV_COPIES * (WAV_HEADER_BYTES + _SAMPLE_BYTES * (self.chunk_samples + 2 * OVERLAP_SAMPLES))

    @property
    def host_bytes(self) -> int:
        """What the job adds to the host's own process: the chunker's window, and the chunks in work."""
        window = window_samples(self.chunk_samples)
        window_bytes = int(window * (_SAMPLE_BYTES + _LEVEL_BYTES_PER_SAMPLE))
        return window_bytes + self.concurrency * self.chunk_bytes + _BLOCK_BYTES


def fitted(wanted: Sizes, other_bytes: int, free_bytes: int) -> Sizes:
    """The largest sizes that fit: fewer chunks at once before shorter ones.

    Args:
        wanted: where there is enough memory.
        other_bytes: what the job takes besides.
        free_bytes: what there is. Where not even the smallest job fits, that is what comes back: it has to wait.
    """
    shortest = min(wanted.chunk_samples, int(SHORTEST_CHUNK_SECONDS * _SAMPLE_RATE_HZ))
    sizes = wanted
    while other_bytes + sizes.host_bytes > free_bytes and sizes != Sizes(shortest, 1):
        if sizes.concurrency > 1:
            sizes = Sizes(sizes.chunk_samples, sizes.concurrency - 1)
        else:
            sizes = Sizes(max(shortest, sizes.chunk_samples // 2), 1)
    return sizes
