"""OpenTelemetry: its own SDK reads the figures, and has a span for each job in the span of whoever asked for it."""

from pathlib import Path

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Gauge, InMemoryMetricReader, Sum
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

import memsafe_transcribe as mt
from memsafe_transcribe.integrations.opentelemetry import job_spans, observe

from ..store.engines import Teller
from ..support.media import tone_samples, write_wav
from .looks import LIMIT_BYTES, BlindGuard, full_admission


def observed(admission: mt.AdmissionController) -> dict[str, tuple[str, str | None, float]]:
    """The kind, the unit and the value of each instrument."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    observe(admission, meter_provider=provider)
    data = reader.get_metrics_data()
    provider.shutdown()
    found = {}
    for metric in data.resource_metrics[0].scope_metrics[0].metrics if data else ():
        assert isinstance(metric.data, Sum | Gauge)
        (point,) = metric.data.data_points
        kind = "gauge" if isinstance(metric.data, Gauge) else "counter" if metric.data.is_monotonic else "sum"
        found[metric.name] = (kind, metric.unit, point.value)
    return found


def is_within(inner: ReadableSpan, outer: ReadableSpan) -> bool:
    """Whether one span begins and ends within the other, but for the microsecond that a float of seconds rounds."""
    assert inner.start_time and inner.end_time and outer.start_time and outer.end_time
    return outer.start_time - 1000 <= inner.start_time <= inner.end_time <= outer.end_time + 1000


def test_a_meter_observes_memory_and_admission() -> None:
    """In the units of UCUM; what may be summed over processes is a sum."""
    with full_admission() as admission:
        found = observed(admission)
    assert found["memsafe.memory.limit"] == ("gauge", "By", LIMIT_BYTES)
    assert found["memsafe.memory.utilization"] == ("gauge", "1", 0.25)
    assert found["memsafe.admission.active"] == ("sum", "{slot}", 1)
    assert found["memsafe.admission.reserved"] == ("sum", "By", 100 * mt.MiB)
    assert found["memsafe.admission.rejected"] == ("counter", "{claim}", 1)


def test_nothing_is_observed_where_memory_cannot_be_read(caplog: pytest.LogCaptureFixture) -> None:
    """Rather than a zero; nor does the SDK log an error for each instrument."""
    with full_admission(BlindGuard) as admission:
        assert observed(admission) == {}
    assert caplog.records == []


def test_a_job_is_a_span_in_that_of_its_caller(tmp_path: Path) -> None:
    """Also through the loop of plain code; a failed one tells the class of its error, and nothing of its source."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tone = write_wav(tmp_path / "secret.wav", tone_samples(3.0))
    engine = Teller()
    transcriber = mt.ChunkedTranscriber(engine, chunk_seconds=1.0, on_job=job_spans(tracer_provider=provider))
    with mt.blocking(transcriber) as t, provider.get_tracer("host").start_as_current_span("request"):
        t.transcribe(tone)
        with pytest.raises(FileNotFoundError):
            t.transcribe(tone.with_name("missing-secret.wav"))
    done, failed, request = exporter.get_finished_spans()
    assert dict(done.attributes or {}) == {
        "memsafe.engine": "Teller",
        "memsafe.status": "complete",
        "memsafe.duration_seconds": 3.0,
        "memsafe.chunks": len(engine.asked),
    }
    assert (failed.attributes or {})["error.type"] == "FileNotFoundError"
    assert (done.status.status_code, failed.status.status_code) == (StatusCode.UNSET, StatusCode.ERROR)
    for span in (done, failed):
        assert span.name == "transcribe"
        assert span.parent is not None
        assert span.parent.span_id == request.context.span_id
        assert is_within(span, request)
        assert "secret" not in span.to_json()
    provider.shutdown()
