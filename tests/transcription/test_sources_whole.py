"""Each kind of source, all the way to what an engine hears."""

import io
from collections.abc import AsyncIterator
from pathlib import Path

import pydub
import pytest

import memsafe_transcribe as mt

from ..conftest import Run
from ..support.media import SPEECH, tone_samples
from .test_chunked import Recorder


async def uploaded(content: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(content), 5000):
        yield content[at : at + 5000]


@pytest.mark.parametrize("kind", ["path", "open file", "in memory", "upload"])
def test_the_same_is_heard_from_every_kind_of_source(run: Run, spool_dir: Path, kind: str) -> None:
    """31.57 s of speech, whole, and nothing is left in the spool."""
    engine = Recorder()

    async def main() -> mt.Transcript:
        downloader = mt.SafeDownloader(spool_dir=spool_dir)
        transcriber = mt.ChunkedTranscriber(engine, downloader=downloader)
        with SPEECH.open("rb") as file:
            sources = {
                "path": SPEECH,
                "open file": file,
                "in memory": io.BytesIO(SPEECH.read_bytes()),
                "upload": uploaded(SPEECH.read_bytes()),
            }
            return await transcriber.transcribe(sources[kind])  # type: ignore[arg-type]

    transcript = run(main)
    assert (transcript.status, round(transcript.duration_seconds, 2)) == ("complete", 31.57)
    assert len(engine.samples) == round(transcript.duration_seconds * 32_000)


@pytest.mark.parametrize(("width", "channels"), [(1, 1), (2, 1), (4, 2)])
def test_an_audio_segment_is_heard_and_handed_out(run: Run, width: int, channels: int) -> None:
    """Of any sample width, with one channel or two; a chunk becomes one again."""
    tone = pydub.AudioSegment(tone_samples(2.0), sample_width=2, frame_rate=16_000, channels=1)
    heard: list[pydub.AudioSegment] = []

    def engine(chunk: mt.AudioChunk) -> str:
        heard.append(chunk.to_audio_segment())
        return "tone"

    source = tone.set_sample_width(width).set_channels(channels)
    transcript = run(mt.ChunkedTranscriber(engine).transcribe, source)
    (segment,) = heard
    assert (transcript.duration_seconds, segment.frame_rate, segment.channels) == (2.0, 16_000, 1)
    assert segment.dBFS == pytest.approx(tone.dBFS, abs=0.2)
    assert segment.get_array_of_samples() == pytest.approx(tone.get_array_of_samples(), abs=256)


def test_leaving_an_audio_segment_half_read_leaves_nothing(run: Run) -> None:
    """What feeds the decoder is stopped with it."""
    tone = pydub.AudioSegment(tone_samples(60.0), sample_width=2, frame_rate=16_000, channels=1)

    async def main() -> None:
        async with mt.ChunkedTranscriber(lambda chunk: "tone", chunk_seconds=1).stream(tone) as stream:
            assert (await anext(stream)).text == "tone"

    run(main)
