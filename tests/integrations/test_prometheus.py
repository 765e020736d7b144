"""Prometheus: what a scrape shows is what the library knows, under names that Prometheus would have chosen."""

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import memsafe_transcribe as mt
from memsafe_transcribe.integrations.prometheus import MemsafeCollector

from ..conftest import Run
from ..store.engines import Teller
from ..support.media import tone_samples, write_wav
from ..support.server import Server
from .looks import LIMIT_BYTES, BlindGuard, full_admission


def scraped(collector: MemsafeCollector) -> dict[str, float]:
    """Each sample of a scrape, with its labels."""
    registry = CollectorRegistry()
    registry.register(collector)
    return {
        sample.name + "".join(f" {label}={value}" for label, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


def test_a_scrape_shows_memory_and_admission() -> None:
    """Bytes in bytes, counters as totals, and a ratio for what others call percent."""
    with full_admission() as admission:
        found = scraped(MemsafeCollector(admission))
    assert found["memsafe_memory_limit_bytes"] == LIMIT_BYTES
    assert found["memsafe_memory_utilization_ratio"] == 0.25
    assert found["memsafe_memory_level"] == 0
    assert found["memsafe_admission_active"] == found["memsafe_admission_slots"] == 1
    assert found["memsafe_admission_reserved_bytes"] == 100 * mt.MiB
    assert found["memsafe_admission_granted_total"] == found["memsafe_admission_rejected_total"] == 1


def test_a_scrape_goes_on_where_memory_cannot_be_read() -> None:
    """Its figures are missing, rather than the whole page."""
    with full_admission(BlindGuard) as admission:
        assert scraped(MemsafeCollector(admission)) == {}


def test_jobs_are_counted_and_no_label_names_a_source(run: Run, server: Server, tmp_path: Path) -> None:
    """By engine and status, one that is gone included."""
    sound = write_wav(tmp_path / "tone.wav", tone_samples(3.0)).read_bytes()
    server.routes["/secret.wav"] = lambda exchange: exchange.answer(sound)
    collector = MemsafeCollector(mt.AdmissionController(scope="process"))
    engine = Teller()
    downloader = mt.SafeDownloader(policy=mt.UrlPolicy(allow_private=True))
    transcriber = mt.ChunkedTranscriber(engine, chunk_seconds=1.0, downloader=downloader, on_job=collector.on_job)

    async def main() -> None:
        await transcriber.transcribe(server.url("/secret.wav"))
        with pytest.raises(mt.HTTPStatusError):
            await transcriber.transcribe(server.url("/gone-secret.wav"))

    run(main)
    found = scraped(collector)
    assert found["memsafe_jobs_total engine=Teller status=complete"] == 1
    assert found["memsafe_jobs_total engine=Teller status=failed"] == 1
    assert found["memsafe_audio_seconds_total engine=Teller"] == 3.0
    assert found["memsafe_chunks_total engine=Teller"] == len(engine.asked)
    assert not [name for name in found if "secret" in name or "127.0.0.1" in name]
