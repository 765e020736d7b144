"""In the decoding process: what could not be heard."""

from dataclasses import dataclass

import av

from .words import SAMPLE_RATE_HZ

_SAME_PLACE = SAMPLE_RATE_HZ // 50  # two gaps that are no farther apart are one
_MAX_GAPS = 1_000


@dataclass(slots=True)
class Damage:
    """A gap, in samples at 16 kHz. Where nobody can tell how much is missing, the end is the start."""

    start_samples: int
    end_samples: int
    reason: str


class Gaps(list[Damage]):
    """All of one file, in order; at most a thousand."""

    def report(self, start_samples: int, end_samples: int, reason: str) -> None:
        """Note what is missing; damage at one place is one gap."""
        if self and start_samples - self[-1].end_samples <= _SAME_PLACE:
            self[-1].end_samples = max(end_samples, self[-1].end_samples)
        elif len(self) < _MAX_GAPS:
            self.append(Damage(start_samples, end_samples, reason))

    def report_error(self, error: Exception, at_samples: int) -> None:
        """Note that something there is damaged; what needs too much memory is, too."""
        what = error.strerror if isinstance(error, av.FFmpegError) else str(error)
        if isinstance(error, MemoryError):
            what = "it needs more memory than sound does"
        self.report(at_samples, at_samples, f"damaged data ({what})")
