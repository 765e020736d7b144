"""BatchTranscriber: many sources, and what came of each."""

from pathlib import Path

import memsafe_transcribe as mt

from ..conftest import Run
from ..support.media import tone_samples, write_wav
from ..support.server import Server
from .engines import Teller

ANY = mt.UrlPolicy(allow_private=True)


def test_one_bad_source_does_not_stop_the_rest(run: Run, tmp_path: Path) -> None:
    """Each source has its outcome, with its error or its transcript."""
    good = [write_wav(tmp_path / f"{number}.wav", tone_samples(1.0 + number)) for number in range(3)]
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"no audio")
    missing = tmp_path / "missing.wav"
    sources = [good[0], bad, good[1], missing, good[2]]

    async def main() -> list[mt.Outcome]:
        batch = mt.BatchTranscriber(mt.ChunkedTranscriber(Teller()))
        async with batch.run(sources) as outcomes:
            return [outcome async for outcome in outcomes]

    found = sorted(run(main), key=lambda outcome: outcome.index)
    assert [outcome.source for outcome in found] == sources
    assert [type(outcome.error) for outcome in found] == [
        type(None), mt.UnsupportedMediaError, type(None), FileNotFoundError, type(None)
    ]  # fmt: skip
    assert [outcome.transcript.duration_seconds for outcome in found if outcome.transcript] == [1.0, 2.0, 3.0]


def test_a_url_that_is_done_is_not_fetched_again(run: Run, tmp_path: Path, server: Server) -> None:
    """Nor is the engine asked; the transcript is the same."""
    body = write_wav(tmp_path / "tone.wav", tone_samples(3.0)).read_bytes()
    server.routes["/a.wav"] = lambda exchange: exchange.answer(body)
    engine = Teller()

    async def once() -> list[mt.Outcome]:
        store = mt.JobStore(tmp_path / "jobs.sqlite")
        transcriber = mt.ChunkedTranscriber(engine, downloader=mt.SafeDownloader(policy=ANY), store=store)
        async with mt.BatchTranscriber(transcriber).run([server.url("/a.wav")]) as outcomes:
            return [outcome async for outcome in outcomes]

    (first,) = run(once)
    assert first.error is None
    requests, asked = len(server.requests), len(engine.asked)
    (second,) = run(once)
    assert second.transcript == first.transcript
    assert (len(server.requests), len(engine.asked)) == (requests, asked)
