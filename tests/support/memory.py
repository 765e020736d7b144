"""The one seam through which guards read memory, so that a test can say what there is."""

import pytest

from memsafe_transcribe._memory import guard as guard_module
from memsafe_transcribe._memory.pressure import Events, Kind, Term
from memsafe_transcribe._memory.reader import STALE_SECONDS, MemoryReader


class ToldGauge:
    """A limit whose use is what a test says; `spare_bytes` of it turn out not to count, once somebody looks."""

    is_live = True

    def __init__(self, term: Term, hidden_spare_bytes: int = 0) -> None:
        self.kind: Kind = term.kind
        self.binding = term.binding
        self.source = term.source
        self.limit_bytes = term.limit_bytes
        self.is_nested = False
        self.spare_bytes = 0
        self.settled = 0
        self._term = term
        self._hidden_spare_bytes = hidden_spare_bytes

    def usage_bytes(self) -> int:
        return self._term.used_bytes + self._hidden_spare_bytes

    def settle(self, usage_bytes: int) -> None:
        self.settled += 1
        self.spare_bytes = self._hidden_spare_bytes

    def working_set_bytes(self, usage_bytes: int) -> int:
        return self._term.working_set_bytes

    def term(self, usage_bytes: int) -> Term:
        used = max(0, usage_bytes - self.spare_bytes)
        return Term(self.kind, self.binding, self.source, self.limit_bytes, used, self._term.working_set_bytes)


class ToldReader(MemoryReader):
    """A reader that has been told."""

    def __init__(self, *terms: Term) -> None:
        super().__init__()
        self.reads = 0
        self.fails_with: OSError | None = None
        self.say(*terms)

    def say(self, *terms: Term, events: dict[str, Events] | None = None) -> None:
        """From now on this is what there is."""
        self.say_gauges(*map(ToldGauge, terms), events=events)

    def say_gauges(self, *gauges: ToldGauge, events: dict[str, Events] | None = None) -> None:
        with self.lock:
            self._told = gauges, events or {}
            self.stale_at_seconds = float("-inf")

    def refresh(self, now_seconds: float) -> None:
        self.reads += 1
        if self.fails_with is not None:
            raise self.fails_with
        self.gauges, self.events = self._told
        self.stale_at_seconds = now_seconds + STALE_SECONDS
        self.refreshes += 1


def tell(monkeypatch: pytest.MonkeyPatch, *terms: Term) -> ToldReader:
    """Let every guard made from now on see these limits, and only these."""
    reader = ToldReader(*terms)
    monkeypatch.setattr(guard_module, "shared_reader", lambda: reader)
    return reader
