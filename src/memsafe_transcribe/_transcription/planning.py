"""Pure: how long the chunks are, how many are in work at once, and what that takes, by the memory at hand."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf

from .._audio.chunker import OVERLAP_SAMPLES, window_samples
from .._audio.encoding import WAV_HEADER_BYTES
from .._audio.words import SAMPLE_RATE_HZ
from .._units import format_size

SHORTEST_CHUNK_SECONDS = 10.0  # shorter ones give an engine too little to go by, and are made for no lack of memory

_SAMPLE_BYTES = 2
_LEVEL_BYTES_PER_SAMPLE = 12 / 160  # as the decoder gave them, and as the chunker keeps them
_BESIDE_BYTES = 640 * 1024  # measured: what is read of the pipe at a time, the frames in it, and the heap's own holes


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
        call_bytes: what the engine adds to a chunk of so many seconds.
    """

    chunk_samples: int
    concurrency: int
    call_bytes: Callable[[float], int]

    @property
    def chunk_bytes(self) -> int:
        """What one chunk in work takes."""
        samples = self.chunk_samples + 2 * OVERLAP_SAMPLES
        return WAV_HEADER_BYTES + _SAMPLE_BYTES * samples + self.call_bytes(samples / SAMPLE_RATE_HZ)

    @property
    def host_bytes(self) -> int:
        """What the job adds to the host's own process: the chunker's window, and the chunks in work."""
        window_bytes = window_samples(self.chunk_samples) * (_SAMPLE_BYTES + _LEVEL_BYTES_PER_SAMPLE)
        return int(window_bytes) + self.concurrency * self.chunk_bytes + _BESIDE_BYTES


def fitted(wanted: Sizes, other_bytes: int, free_bytes: int, *, is_frozen: bool = False) -> Sizes:
    """The largest sizes that fit: fewer chunks at once before shorter ones.

    Args:
        wanted: where there is enough memory.
        other_bytes: what the job takes besides.
        free_bytes: what there is. Where not even the smallest job fits, that is what comes back: it has to wait.
        is_frozen: chunks must not be shorter than wanted: some of them were made already.
    """
    shortest_seconds = inf if is_frozen else SHORTEST_CHUNK_SECONDS
    shortest = int(min(wanted.chunk_samples, shortest_seconds * SAMPLE_RATE_HZ))
    sizes = wanted
    while other_bytes + sizes.host_bytes > free_bytes:
        if sizes.concurrency > 1:
            sizes = replace(sizes, concurrency=sizes.concurrency - 1)
        elif sizes.chunk_samples > shortest:
            sizes = replace(sizes, chunk_samples=max(shortest, sizes.chunk_samples // 2))
        else:
            break
    return sizes


def planned(
    sizes: Sizes,
    decoder_bytes: int,
    engine_bytes: int,
    duration_seconds: float | None,
    most_decoder_bytes: int,
    why: str,
) -> Plan:
    """The plan of a job.

    Args:
        sizes: of its chunks.
        decoder_bytes: what its decoding process takes, and its download where that is kept in memory.
        engine_bytes: what opening the engine adds.
        duration_seconds: as the header has it.
        most_decoder_bytes: the most that `decoder_bytes` can turn out to be.
        why: what is known of the source, and of the container.
    """
    beside_bytes = sizes.host_bytes + engine_bytes
    chunk_seconds = sizes.chunk_samples / SAMPLE_RATE_HZ
    parts = [
        f"decoding {format_size(decoder_bytes)}",
        f"chunks of {chunk_seconds:g} s, {sizes.concurrency} at once, {format_size(sizes.host_bytes)}",
        *([f"the engine {format_size(engine_bytes)}"] if engine_bytes else []),
    ]
    return Plan(
        peak_bytes=decoder_bytes + beside_bytes,
        chunk_seconds=chunk_seconds,
        concurrency=sizes.concurrency,
        duration_seconds=duration_seconds,
        bounds=(decoder_bytes + beside_bytes, max(decoder_bytes, most_decoder_bytes) + beside_bytes),
        why=f"{', '.join(parts)}; {why}",
    )
