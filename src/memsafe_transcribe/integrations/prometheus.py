"""Prometheus: memory, admission and jobs of this process, read when they are scraped."""

import threading
from collections import Counter, defaultdict
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .._admission.controller import AdmissionController, default_admission
from .._transcription.reporting import JobReport
from ._figures import FIGURES, look

_SUFFIXES = {"By": "_bytes", "1": "_ratio"}


class MemsafeCollector(Collector):
    """Register it once in each process: `prometheus_client.REGISTRY.register(MemsafeCollector())`.

    Jobs are counted for transcribers that were made with `on_job=collector.on_job`, by engine and status; no label ever
    names a source.

    Args:
        admission: whose figures; those of the process-wide one by default.
    """

    def __init__(self, admission: AdmissionController | None = None) -> None:
        self._admission = admission or default_admission()
        self._lock = threading.Lock()
        self._jobs: Counter[tuple[str, str]] = Counter()
        self._audio_seconds: defaultdict[str, float] = defaultdict(float)
        self._chunks: Counter[str] = Counter()

    def on_job(self, report: JobReport) -> None:
        """Count a job that has ended; safe from any thread."""
        with self._lock:
            self._jobs[report.engine, report.status] += 1
            self._audio_seconds[report.engine] += report.duration_seconds
            self._chunks[report.engine] += report.chunks

    def collect(self) -> Iterator[Metric]:
        """Called for each scrape."""
        if (seen := look(self._admission)) is not None:
            for figure in FIGURES:
                name = "memsafe_" + figure.name.replace(".", "_") + _SUFFIXES.get(figure.unit, "")
                family = CounterMetricFamily if figure.kind == "counter" else GaugeMetricFamily
                yield family(name, figure.text, value=figure.read(*seen))
        jobs = CounterMetricFamily("memsafe_jobs", "Jobs that have ended.", labels=["engine", "status"])
        audio = CounterMetricFamily("memsafe_audio_seconds", "Audio that was done.", labels=["engine"])
        chunks = CounterMetricFamily("memsafe_chunks", "Chunks with something to be heard.", labels=["engine"])
        with self._lock:
            for labels, count in self._jobs.items():
                jobs.add_metric(labels, count)
            for engine, seconds in self._audio_seconds.items():
                audio.add_metric([engine], seconds)
            for engine, count in self._chunks.items():
                chunks.add_metric([engine], count)
        yield from (jobs, audio, chunks)
