"""Resume: what was paid for is not paid for again, and what comes out is what would have come out."""

from pathlib import Path
from typing import Any

import pytest

import memsafe_transcribe as mt

from ..conftest import Run
from ..support.media import tone_samples, write_wav
from .engines import Teller


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
