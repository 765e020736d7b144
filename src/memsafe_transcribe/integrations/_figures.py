"""What is measured, under which name and in which unit: once, for Prometheus and for OpenTelemetry."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from .._admission.controller import AdmissionController, AdmissionStatistics
from .._memory.judging import MemorySnapshot


@dataclass(frozen=True, slots=True)
class Figure:
    """One of them.

    Attributes:
        name: in dots, as OpenTelemetry has it; Prometheus has underscores, and the unit behind.
        unit: "By", "1" (a ratio), or what is counted, in braces.
        kind: "counter" grows only; what is "additive" may be summed over processes, a "gauge" may not.
        text: what it is.
        read: where it comes from.
    """

    name: str
    unit: str
    kind: Literal["counter", "additive", "gauge"]
    text: str
    read: Callable[[AdmissionStatistics, MemorySnapshot], float]


FIGURES = (
    Figure("memory.limit", "By", "gauge", "The limit with the least headroom.", lambda a, m: m.limit_bytes),
    Figure("memory.used", "By", "gauge", "What counts against that limit.", lambda a, m: m.used_bytes),
    Figure("memory.utilization", "1", "gauge", "Used over limit.", lambda a, m: m.percent / 100),
    Figure("memory.level", "{level}", "gauge", "0 ok, 1 elevated, 2 high, 3 critical.", lambda a, m: int(m.level)),
    Figure(
        "memory.working_set",
        "By",
        "gauge",
        "Usage without inactive file cache, as Kubernetes shows it.",
        lambda a, m: m.working_set_bytes,
    ),
    Figure("memory.process", "By", "additive", "The resident size of this process.", lambda a, m: m.process_rss_bytes),
    Figure("admission.active", "{slot}", "additive", "Slots taken in this process.", lambda a, m: a.active),
    Figure("admission.waiting", "{claim}", "additive", "Claims in this process's queue.", lambda a, m: a.waiting),
    Figure("admission.reserved", "By", "additive", "Promised in this process.", lambda a, m: a.reserved_bytes),
    Figure("admission.budget", "By", "gauge", "What new work could be promised.", lambda a, m: a.budget_bytes),
    Figure("admission.slots", "{slot}", "gauge", "Slots of the container.", lambda a, m: a.max_concurrent),
    Figure("admission.granted", "{claim}", "counter", "Claims granted.", lambda a, m: a.granted),
    Figure("admission.rejected", "{claim}", "counter", "Claims refused, timeouts included.", lambda a, m: a.rejected),
    Figure(
        "admission.orphaned",
        "{claim}",
        "counter",
        "Reservations dropped without being released.",
        lambda a, m: a.orphaned,
    ),
    Figure("admission.peak_active", "{slot}", "gauge", "Most slots ever taken at once.", lambda a, m: a.peak_active),
    Figure(
        "admission.peak_reserved",
        "By",
        "gauge",
        "Most bytes ever promised at once.",
        lambda a, m: a.peak_reserved_bytes,
    ),
    Figure("admission.others_active", "{slot}", "gauge", "Slots taken elsewhere.", lambda a, m: a.others_active),
    Figure(
        "admission.others_reserved", "By", "gauge", "Bytes promised elsewhere.", lambda a, m: a.others_reserved_bytes
    ),
)


def look(admission: AdmissionController) -> tuple[AdmissionStatistics, MemorySnapshot] | None:
    """What they are read from; None while memory cannot be read, for a gap in a chart is truer than a zero."""
    try:
        return admission.statistics(), admission.guard.snapshot()
    except OSError:
        return None
