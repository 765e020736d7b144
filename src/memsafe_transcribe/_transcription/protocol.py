"""What an engine is: one small protocol, and the frozen objects that go in and out."""

from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, Protocol, runtime_checkable

from .._audio.encoding import WAV_HEADER_BYTES
from .transcript import Segment, Word

_WAV_BYTES_PER_SECOND = 32_000
_KINDS: dict[str, Any] = {  # of what is added, compared or shown long after an engine has declared it
    **dict.fromkeys(("max_chunk_seconds", "min_chunk_seconds", "call_bytes_per_second"), int | float),
    **dict.fromkeys(("concurrency", "resident_bytes", "call_bytes"), int),
    **dict.fromkeys(("counts_base64", "trusts_times", "takes_prompt", "is_thread_safe"), bool),
    "max_chunk_bytes": int | None,
    "cache_key": str | None,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an engine takes and gives.

    Attributes:
        max_chunk_seconds: the longest chunk it takes.
        min_chunk_seconds: the shortest; silence is put behind what is shorter.
        max_chunk_bytes: the largest chunk it takes, as a WAV file; None if only the length counts.
        counts_base64: whether `max_chunk_bytes` is of the chunk as base64, a third longer than its bytes.
        formats: what it reads, best first. This version makes "wav": 16 kHz mono 16-bit PCM.
        timestamps: "word", "segment" or "none": the finest times that it gives.
        trusts_times: False where they are guesses, as of a language model: they are passed on, marked, and chunks are
            put together by their text.
        languages: the codes it knows; None if any may be tried.
        takes_prompt: whether it does anything with `ChunkContext.prompt`.
        concurrency: how many chunks of one file it may be asked for at once. As many are, as slots and memory allow.
        is_thread_safe: for a `transcribe` that is not async: whether several threads may be in it at once. If not, its
            calls come one after another, whatever job they are for.
        resident_bytes: memory that it keeps while it is open, such as a model. Charged for as long.
        call_bytes: what a call adds to this process and its children, whatever the chunk.
        call_bytes_per_second: what it adds for each second of the chunk, besides the chunk itself. By default one copy
            of it; where it becomes base64 in JSON, it is three and more.
        cache_key: what its answers depend on (model, version, options). The same key and the same audio: the same
            answer, so that a stored one may stand for it. None where that cannot be said.

    Raises:
        TypeError: one of them is of another type.
        ValueError: one of them, or two together, cannot be.
    """

    max_chunk_seconds: float = 60.0
    min_chunk_seconds: float = 0.0
    max_chunk_bytes: int | None = None
    counts_base64: bool = False
    formats: tuple[str, ...] = ("wav",)
    timestamps: Literal["word", "segment", "none"] = "none"
    trusts_times: bool = True
    languages: tuple[str, ...] | None = None
    takes_prompt: bool = False
    concurrency: int = 1
    is_thread_safe: bool = False
    resident_bytes: int = 0
    call_bytes: int = 0
    call_bytes_per_second: float = float(_WAV_BYTES_PER_SECOND)
    cache_key: str | None = None

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            if not isinstance(value := getattr(self, name), kind):
                raise TypeError(f"{name} must be {getattr(kind, '__name__', kind)}, got {value!r}")
        if self.timestamps not in ("word", "segment", "none"):
            raise ValueError(f"timestamps must be 'word', 'segment' or 'none', got {self.timestamps!r}")
        if not _are_names(self.formats):
            raise TypeError(f"formats must be a tuple such as ('wav',), got {self.formats!r}")
        if self.languages is not None and not _are_names(self.languages):
            raise TypeError(
                f"languages must be a tuple of codes such as ('en',), or None for any, got {self.languages!r}"
            )
        if not self.max_chunk_seconds > 0:
            raise ValueError(f"max_chunk_seconds must be more than 0, got {self.max_chunk_seconds}")
        if not (0 <= self.min_chunk_seconds <= self.longest_chunk_seconds and self.longest_chunk_seconds > 0):
            raise ValueError(
                f"min_chunk_seconds={self.min_chunk_seconds} must be from 0 to what max_chunk_seconds and "
                f"max_chunk_bytes leave, {self.longest_chunk_seconds:g} s, which must be more than 0"
            )
        if "wav" not in self.formats:
            raise ValueError(f"formats must contain 'wav', which is what chunks are made as; got {self.formats}")
        if self.concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, got {self.concurrency}")
        for name in ("resident_bytes", "call_bytes", "call_bytes_per_second"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    @property
    def longest_chunk_seconds(self) -> float:
        """The longest chunk that both limits allow."""
        if self.max_chunk_bytes is None:
            return self.max_chunk_seconds
        size_bytes = self.max_chunk_bytes // 4 * 3 if self.counts_base64 else self.max_chunk_bytes
        return min(self.max_chunk_seconds, (size_bytes - WAV_HEADER_BYTES) / _WAV_BYTES_PER_SECOND)

    def memory_bytes(self, duration_seconds: float) -> int:
        """What one call adds for a chunk of this length, besides the chunk itself and what is resident."""
        return self.call_bytes + int(self.call_bytes_per_second * duration_seconds)


def _are_names(value: object) -> bool:
    return isinstance(value, tuple) and value != () and all(isinstance(each, str) for each in value)


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioChunk:
    """A piece of the audio.

    Attributes:
        index: its number, from 0; the parts of a chunk that was cut in two have the same.
        start_seconds: where it begins in the whole.
        duration_seconds: how long it is. The last chunk can be as short as one sample.
        sample_rate_hz: 16 000.
        format: "wav".
        data: the complete WAV file: a header of 44 bytes, then 32 000 bytes a second.
    """

    index: int
    start_seconds: float
    duration_seconds: float
    sample_rate_hz: int
    format: str
    data: bytes

    def to_audio_segment(self) -> Any:
        """The chunk as a `pydub.AudioSegment`, for engines that work on those.

        Raises:
            ValueError: the chunk is not WAV.
            ImportError: pydub is not installed.

        Memory: one copy of the chunk's samples.
        """
        if self.format != "wav":
            raise ValueError(
                f"only a WAV chunk becomes an AudioSegment, this one is {self.format!r}; "
                "let Capabilities.formats begin with 'wav'"
            )
        try:
            pydub = import_module("pydub")
        except ImportError as error:
            raise ImportError(
                f"to_audio_segment() needs pydub ({error}): pip install 'memsafe-transcribe[pydub]'", name="pydub"
            ) from error
        samples = self.data[WAV_HEADER_BYTES:]
        return pydub.AudioSegment(data=samples, sample_width=2, frame_rate=self.sample_rate_hz, channels=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkContext:
    """What the caller said about the whole job.

    Attributes:
        language: a code such as "en"; None to let the engine find out.
        prompt: words that help the engine, such as names.
        deadline_seconds: how long the engine has from now; None for as long as it needs.
        attempt: 1 at the first try.
    """

    language: str | None = None
    prompt: str | None = None
    deadline_seconds: float | None = None
    attempt: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkResult:
    """What an engine heard in one chunk. All times are seconds from the chunk's own start.

    Attributes:
        text: everything that was said; not looked at where segments or words say it.
        words: with times, in order; empty if the engine gives none. Not looked at where there are segments, which may
            have words of their own.
        segments: with times, in order; empty if the engine gives none.
        language: what the engine took it for.

    Raises:
        TypeError: a part of it is of another type; times that cannot be are corrected later, and marked.
    """

    text: str = ""
    words: tuple[Word, ...] = ()
    segments: tuple[Segment, ...] = ()
    language: str | None = None

    def __post_init__(self) -> None:
        _check_types(Word, self.words)
        _check_types(Segment, self.segments)
        for segment in self.segments:
            _check_types(Word, segment.words)
        if not isinstance(self.text, str) or not isinstance(self.language, str | None):
            raise TypeError(f"text and language are strings, got {self.text!r} and {self.language!r}")


def _check_types(kind: type[Word | Segment], items: Iterable[Word | Segment]) -> None:
    for item in items:
        if not isinstance(item, kind):
            raise TypeError(f"a {kind.__name__} is wanted, got {item!r}")
        times = item.start_seconds, item.end_seconds
        if not isinstance(item.text, str) or not all(isinstance(time, int | float) for time in times):
            raise TypeError(f"text is a string and times are numbers, got {item!r}")


Answer = ChunkResult | str


@runtime_checkable
class Transcriber(Protocol):
    """An engine.

    `transcribe` is best a coroutine function (`async def`); a plain method is run in a worker thread. An engine that
    holds something may have `async def aclose(self) -> None`.
    """

    @property
    def capabilities(self) -> Capabilities:
        """What it takes and gives; does not change."""

    def transcribe(self, chunk: AudioChunk, context: ChunkContext) -> Answer | Awaitable[Answer]:
        """Say what is heard in one chunk."""
