"""OpenTelemetry, by its API alone: the same figures as instruments, and a span for each job."""

from collections.abc import Callable, Iterable

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter
from opentelemetry.trace import StatusCode, TracerProvider, get_tracer

from .._admission.controller import AdmissionController, default_admission
from .._transcription.reporting import JobReport, OnJob
from .._version import __version__
from ._figures import FIGURES, Figure, look

_NAME = "memsafe_transcribe"


def observe(admission: AdmissionController | None = None, *, meter_provider: MeterProvider | None = None) -> None:
    """Have memory and admission of this process observed by a meter, whenever that exports.

    Args:
        admission: whose figures; those of the process-wide one by default.
        meter_provider: of the host; the global one by default.
    """
    of = admission or default_admission()
    meter = get_meter(_NAME, __version__, meter_provider)
    makers = {
        "counter": meter.create_observable_counter,
        "additive": meter.create_observable_up_down_counter,
        "gauge": meter.create_observable_gauge,
    }
    for figure in FIGURES:
        makers[figure.kind](f"memsafe.{figure.name}", [_reader(of, figure)], figure.unit, figure.text)


def _reader(admission: AdmissionController, figure: Figure) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def read(options: CallbackOptions) -> Iterable[Observation]:
        seen = look(admission)
        return [] if seen is None else [Observation(figure.read(*seen))]

    return read


def job_spans(*, tracer_provider: TracerProvider | None = None) -> OnJob:
    """What makes a span of each job, within whatever span its caller is in: `ChunkedTranscriber(on_job=job_spans())`.

    The span tells the engine, the status, the seconds of audio and the chunks; of an error its class, and not its
    message, which may name a host.

    Args:
        tracer_provider: of the host; the global one by default.
    """
    tracer = get_tracer(_NAME, __version__, tracer_provider)

    def on_job(report: JobReport) -> None:
        attributes: dict[str, str | float | int] = {
            "memsafe.engine": report.engine,
            "memsafe.status": report.status,
            "memsafe.duration_seconds": report.duration_seconds,
            "memsafe.chunks": report.chunks,
        }
        if report.error_type is not None:
            attributes["error.type"] = report.error_type
        began_ns = int(report.began_at * 1e9)
        span = tracer.start_span("transcribe", attributes=attributes, start_time=began_ns)
        if report.status == "failed":
            span.set_status(StatusCode.ERROR)
        span.end(began_ns + int(report.took_seconds * 1e9))

    return on_job
