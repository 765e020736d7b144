"""Pure: what is stored of a chunk's result and of a job's gaps, as JSON; what comes back is equal to what went in."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .._audio.chunker import Span
from .._errors import StoreError, TranscriberFailedError
from .protocol import ChunkResult
from .transcript import Gap, Segment, Word

_KEY_VERSION = 1


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one span: all that the engine heard, or why there is nothing.

    Attributes:
        span: which.
        result: what the engine answered, or how it failed.
        suspicion: why an answer without text is to be doubted; None where it is not.
    """

    span: Span
    result: ChunkResult | TranscriberFailedError
    suspicion: str | None = None


def job_key(
    source_sha256: str, cache_key: str, language: str | None, prompt: str | None, chunk_seconds: float | None
) -> bytes:
    """What a job is known by: the same audio, the same engine, the same settings as its caller gave them."""
    seconds = None if chunk_seconds is None else float(chunk_seconds)
    parts = [_KEY_VERSION, source_sha256, cache_key, language, prompt, seconds]
    return hashlib.sha256(json.dumps(parts).encode()).digest()


def packed(result: ChunkResult, suspicion: str | None) -> bytes:
    """An answer as bytes; without its span."""
    words, segments = _words(result.words), [_segment(each) for each in result.segments]
    return _dumped((result.text, result.language, words, segments, suspicion))


def unpacked(span: Span, data: bytes) -> Answer:
    """The answer that these bytes were.

    Raises:
        StoreError: they were none.
    """
    with _readable("a chunk"):
        return _unpacked(span, data)


def _unpacked(span: Span, data: bytes) -> Answer:
    text, language, words, segments, suspicion = json.loads(data.decode("utf-8", "surrogatepass"))
    result = ChunkResult(
        text=text,
        language=language,
        words=_read_words(words),
        segments=tuple(
            Segment(text, start, end, trusted, _read_words(words), unsure)
            for text, start, end, trusted, words, unsure in segments
        ),
    )
    return Answer(span, result, None if suspicion is None else _text(suspicion))


def packed_gaps(gaps: Iterable[Gap]) -> str:
    """Gaps as text."""
    return json.dumps([(gap.start_seconds, gap.end_seconds, gap.reason) for gap in gaps])


def unpacked_gaps(data: str) -> tuple[Gap, ...]:
    """The gaps that this text was.

    Raises:
        StoreError: it was none.
    """
    with _readable("a job's gaps"):
        return tuple(Gap(float(start), float(end), _text(reason)) for start, end, reason in json.loads(data))


@contextmanager
def _readable(what: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise StoreError(f"what is stored of {what} cannot be read: {error}", path="", reason="corrupt") from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _dumped(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def _words(words: Iterable[Word]) -> list[tuple[object, ...]]:
    return [(word.text, word.start_seconds, word.end_seconds, bool(word.trusted)) for word in words]


def _segment(segment: Segment) -> tuple[object, ...]:
    times = segment.start_seconds, segment.end_seconds
    return (segment.text, *times, bool(segment.trusted), _words(segment.words), segment.unsure_seam)


def _read_words(words: Iterable[Iterable[object]]) -> tuple[Word, ...]:
    return tuple(Word(*word) for word in words)  # type: ignore[arg-type]
