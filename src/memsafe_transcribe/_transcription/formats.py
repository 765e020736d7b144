"""Segments as they come -> the text of a file, as they come: in the usual formats, in flat memory."""

import json
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack
from itertools import count
from typing import IO, Any, Literal

from .._download.spool import default_spool_dir
from .scripts import Joiner
from .stream import SegmentStream
from .transcript import VTT_HEADER, gap_dict, segment_dict, srt_cue, text_line, vtt_cue, whole_status, word_dict

Format = Literal["txt", "srt", "vtt", "json"]
_PIECE_CHARACTERS = 64 * 1024


def format_segments(stream: SegmentStream, format: Format) -> AsyncGenerator[str]:  # noqa: A002 - the field's own word
    """`async for` over this: pieces of text that are together the file that a `Transcript` gives of the whole.

    Of JSON the members are in another order than in `Transcript.to_json`.

    Args:
        stream: as `ChunkedTranscriber.stream` gives it; iterated here, and nowhere else.
        format: "txt", "srt", "vtt" or "json".

    Raises:
        ValueError: for another format.

    Memory: flat. What JSON has after the segments, their words and the whole text, waits in two nameless files where
    downloads are spooled by default (MEMSAFE_SPOOL_DIR).
    """
    if format not in _FORMATS:
        raise ValueError(f"format must be one of {', '.join(_FORMATS)}, got {format!r}")
    return _FORMATS[format](stream)


async def _txt(stream: SegmentStream) -> AsyncGenerator[str]:
    async for segment in stream:
        yield text_line(segment)


async def _srt(stream: SegmentStream) -> AsyncGenerator[str]:
    numbers = count(1)
    async for segment in stream:
        yield srt_cue(next(numbers), segment)


async def _vtt(stream: SegmentStream) -> AsyncGenerator[str]:
    yield VTT_HEADER
    async for segment in stream:
        yield vtt_cue(segment)


async def _json(stream: SegmentStream) -> AsyncGenerator[str]:
    with ExitStack() as opened:
        text, words = (
            opened.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", newline="", dir=default_spool_dir()))
            for _ in range(2)
        )
        joiner, separator = Joiner(), ""
        numbers = count()
        yield '{\n  "task": "transcribe",\n  "segments": ['
        async for segment in stream:
            yield f"{separator}\n    {_dumped(segment_dict(next(numbers), segment))}"
            separator = ","
            text.write(_dumped(joiner.add(segment.text))[1:-1])
            words.writelines(f"{',' if words.tell() else ''}\n    {_dumped(word_dict(word))}" for word in segment.words)
        yield '\n  ],\n  "text": "'
        for piece in _read(text):
            yield piece
        yield '",\n  "words": ['
        for piece in _read(words):
            yield piece
        rest = ",\n".join(f"  {_dumped(name)}: {_dumped(value)}" for name, value in ending_dict(stream).items())
        yield f"\n  ],\n{rest}\n}}\n"


def ending_dict(stream: SegmentStream) -> dict[str, Any]:
    """What is known of the whole when a stream has ended, as `Transcript.to_dict` has it."""
    return {
        "language": stream.language,
        "duration": round(stream.duration_seconds, 3),
        "status": whole_status(stream.gaps, is_silent=stream.is_silent),
        "gaps": [gap_dict(gap) for gap in stream.gaps],
        "suspects": [gap_dict(gap) for gap in stream.suspects],
    }


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _read(file: IO[str]) -> Iterator[str]:
    file.seek(0)
    while piece := file.read(_PIECE_CHARACTERS):
        yield piece


_FORMATS: dict[str, Callable[[SegmentStream], AsyncGenerator[str]]] = {
    "txt": _txt,
    "srt": _srt,
    "vtt": _vtt,
    "json": _json,
}
