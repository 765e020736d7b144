"""Resume: what was paid for is not paid for again, and what comes out is what would have come out."""

import io
import wave
from pathlib import Path
from typing import Any

import anyio
import pytest

import memsafe_transcribe as mt

from ..conftest import Run
from ..support.media import tone_samples, write_wav


class Teller:
    """An engine that says where each chunk begins and ends, and counts how often it was asked for which."""

    def __init__(self, *, fails_at: set[int] | None = None, cache_key: str | None = "teller") -> None:
        self.capabilities = mt.Capabilities(max_chunk_seconds=60.0, timestamps="word", cache_key=cache_key)
        self.asked: list[float] = []
        self.fails_at = fails_at or set()

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        if len(self.asked) in self.fails_at:
            self.fails_at.discard(len(self.asked))
            raise RuntimeError("broken")
        self.asked.append(chunk.start_seconds)
        with wave.open(io.BytesIO(chunk.data)) as file:
            seconds = file.getnframes() / 16_000
        middle = seconds / 2
        word = mt.Word(f"at{chunk.start_seconds + middle:.2f}", middle - 0.1, middle + 0.1)
        return mt.ChunkResult(words=(word,), language="en")


def test_a_job_that_failed_goes_on_where_it_was(run: Run, tmp_path: Path) -> None:
    """Each chunk is asked for once, over two runs; the result is that of one."""
    path = write_wav(tmp_path / "tone.wav", tone_samples(10.0))
    store, broken = mt.JobStore(tmp_path / "jobs.sqlite"), Teller(fails_at={3})

    async def once(engine: Any, store: mt.JobStore | None) -> mt.Transcript:
        return await mt.ChunkedTranscriber(engine, chunk_seconds=1.0, store=store).transcribe(path)

    with pytest.raises(mt.TranscriberFailedError):
        run(once, broken, store)
    assert len(broken.asked) == 3
    resumed = run(once, broken, store)
    whole = run(once, Teller(), None)
    assert resumed == whole
    assert resumed.to_json() == whole.to_json()
    assert len(broken.asked) == len(set(broken.asked)) > 8
    again = run(once, broken, store)
    assert again == whole
    assert len(broken.asked) == len(set(broken.asked))
