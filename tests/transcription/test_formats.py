"""Files of a transcript, written as its segments come, and read by others."""

import json
from collections import deque
from contextlib import aclosing
from pathlib import Path
from typing import Any

import openai
import pysubs2
import pytest
from hypothesis import given, settings, strategies as st

import memsafe_transcribe as mt
from memsafe_transcribe._transcription.scripts import join_text

from ..conftest import Run, open_descriptors
from ..plugin.speech_clock import SpeechClock
from ..support.media import SPEECH
from ..support.server import Server

TEXTS = st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "), min_size=1, max_size=20).map(
    lambda text: " ".join(text.split()) or "x"
)
TIMES = st.floats(0, 100_000)
WORDS = st.lists(st.builds(mt.Word, TEXTS, TIMES, TIMES, st.booleans()), max_size=3).map(tuple)
SEGMENTS = st.lists(st.builds(mt.Segment, TEXTS, TIMES, TIMES, st.booleans(), WORDS, st.booleans()), max_size=5)
GAPS = st.lists(st.builds(mt.Gap, TIMES, TIMES, TEXTS), max_size=2).map(tuple)


class Told:
    """A stream that has these segments in it."""

    def __init__(self, transcript: mt.Transcript) -> None:
        self.language = transcript.language
        self.duration_seconds = transcript.duration_seconds
        self.gaps = transcript.gaps
        self.is_silent = transcript.is_silent
        self.suspects = transcript.suspects
        self._segments = deque(transcript.segments)

    def __aiter__(self) -> "Told":
        return self

    async def __anext__(self) -> mt.Segment:
        if not self._segments:
            raise StopAsyncIteration
        return self._segments.popleft()


def written(transcript: mt.Transcript, kind: Any) -> str:
    """All pieces; nothing here ever waits."""

    async def main() -> str:
        return "".join([piece async for piece in mt.format_segments(Told(transcript), kind)])  # type: ignore[arg-type]

    coroutine = main()
    with pytest.raises(StopIteration) as returned:
        coroutine.send(None)
    text: str = returned.value.value
    return text


@given(st.builds(mt.Transcript, SEGMENTS.map(tuple), st.none() | st.just("en"), TIMES, GAPS, st.booleans(), GAPS))
@settings(max_examples=300)
def test_pieces_are_together_the_whole(transcript: mt.Transcript) -> None:
    """Whatever is in it."""
    assert written(transcript, "txt") == transcript.to_text()
    assert written(transcript, "srt") == transcript.to_srt()
    assert written(transcript, "vtt") == transcript.to_vtt()
    assert json.loads(written(transcript, "json")) == transcript.to_dict()


@given(pieces=st.lists(st.text(st.sampled_from("a \u4e2d\u6587\u3002")), max_size=6))
def test_text_is_joined_as_a_reader_would(pieces: list[str]) -> None:
    """Empty pieces leave no trace; no two spaces; none within a script without."""
    joined = join_text(pieces)
    assert joined == join_text([piece for piece in pieces if piece.strip()])
    assert "  " not in joined
    assert joined.replace(" ", "") == "".join("".join(piece.split()) for piece in pieces)


def test_what_comes_last_in_json_waits_where_downloads_are_spooled(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Which a host may have put on a disk; in files without a name, which are gone when it is left early."""
    monkeypatch.setenv("MEMSAFE_SPOOL_DIR", str(tmp_path))
    transcript = mt.Transcript((mt.Segment("here", 0.0, 1.0),), None, 1.0)

    def spooled() -> list[str]:
        return [name for name in open_descriptors().values() if name.startswith(str(tmp_path))]

    async def main() -> None:
        async with aclosing(mt.format_segments(Told(transcript), "json")) as pieces:  # type: ignore[arg-type]
            await anext(pieces)
            assert len(spooled()) == 2
            assert list(tmp_path.iterdir()) == []
        assert spooled() == []

    run(main)


def test_another_format_is_refused() -> None:
    """At once, not at the first segment."""
    with pytest.raises(ValueError, match="format must be one of txt, srt, vtt, json, got 'docx'"):
        mt.format_segments(None, "docx")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["srt", "vtt"])
def test_subtitles_are_read_by_another_library(run: Run, kind: str) -> None:
    """pysubs2 finds the same captions at the same times."""

    async def main() -> tuple[str, mt.Transcript]:
        transcriber = mt.ChunkedTranscriber(SpeechClock())
        async with transcriber.stream(SPEECH) as stream:
            text = "".join([piece async for piece in mt.format_segments(stream, kind)])  # type: ignore[arg-type]
        return text, await transcriber.transcribe(SPEECH)

    text, transcript = run(main)
    read = pysubs2.SSAFile.from_string(text, kind)
    assert [(line.start, line.end, line.plaintext) for line in read] == [
        (round(each.start_seconds * 1000), round(each.end_seconds * 1000), each.text) for each in transcript.segments
    ]
    assert len(read) >= 5


def test_openais_own_client_reads_our_json(run: Run, server: Server) -> None:
    """As a server's answer: text, duration, segments and words are where it looks for them."""
    transcript = run(mt.ChunkedTranscriber(SpeechClock()).transcribe, SPEECH)
    body = transcript.to_json().encode()
    server.routes["/v1/audio/transcriptions"] = lambda exchange: exchange.answer(
        body, **{"Content-Type": "application/json"}
    )
    with openai.OpenAI(base_url=server.url("/v1"), api_key="none", max_retries=0) as client:
        read = client.audio.transcriptions.create(
            file=("a.wav", b"RIFF"), model="any", response_format="verbose_json", timestamp_granularities=["word"]
        )
    assert (read.text, read.duration) == (transcript.text, transcript.to_dict()["duration"])
    assert read.segments is not None and read.words is not None
    assert [each.text for each in read.segments] == [each.text for each in transcript.segments]
    assert [each.start for each in read.words] == [round(each.start_seconds, 3) for each in transcript.words]
    assert read.segments[0].no_speech_prob is None
    assert set(read.segments[0].to_dict()) >= set(openai.types.audio.TranscriptionSegment.model_fields)
