"""How far a job is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is.

    Attributes:
        phase: "waiting" for a slot and memory, "downloading", or "transcribing".
        done: bytes downloaded, or seconds of audio transcribed.
        total: how many there will be, as far as the server or the file's header says; None if they do not.
        reserved_bytes: the memory that the job holds while it transcribes; 0 before, and where it needs none.
    """

    phase: Literal["waiting", "downloading", "transcribing"]
    done: float = 0.0
    total: float | None = None
    reserved_bytes: int = 0


OnProgress = Callable[[Progress], None]
