"""What a ledger should say, from lists alone: nothing is added up before it is asked for."""

from dataclasses import dataclass, field
from typing import Literal

from memsafe_transcribe._admission.claims import Claim
from memsafe_transcribe._memory.pressure import MemoryRoom

from .strategies import LANES, room

PRIORITY_SECONDS = 10
MAX_PASSES = 8
LOOKAHEAD = 16


@dataclass(eq=False)
class Entry:
    """One claim, or a part of one."""

    claim: Claim
    need: int
    slot: bool = False
    lane: str | None = None
    priority: int = 0
    parent: "Entry | None" = None
    stage: Literal["new", "waiting", "held", "closed"] = "new"
    came: float = 0.0
    passed: int = 0  # by memory
    touched: int = 0  # resident, whatever anybody knows of it
    marked: int = 0
    parts: list["Entry"] = field(default_factory=list)

    @property
    def alive(self) -> bool:
        return self.stage == "held" and (self.parent is None or self.parent.alive)

    @property
    def carved(self) -> int:
        return sum(part.need for part in self.parts if part.alive)

    @property
    def used(self) -> int:
        return self.marked + sum(part.used for part in self.parts if part.alive)

    @property
    def unused(self) -> int:
        return max(0, self.need - self.used)


class Books:
    """All entries, the machine's memory, and who is next."""

    def __init__(self, slots: int, target: int, ceiling: int) -> None:
        self.slots, self.target, self.ceiling = slots, target, ceiling
        self.foreign = 0  # what other programs use
        self.lanes = dict(LANES)
        self.entries: list[Entry] = []

    @property
    def memory(self) -> int:
        return self.foreign + sum(entry.touched for entry in self.entries)

    @property
    def room(self) -> MemoryRoom:
        return room(self.target - self.memory, self.ceiling - self.memory)

    @property
    def holders(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.stage == "held" and entry.parent is None]

    @property
    def waiting(self) -> list[Entry]:
        """In the order of their turns."""
        waiting = [entry for entry in self.entries if entry.stage == "waiting"]
        return sorted(waiting, key=lambda entry: entry.came - PRIORITY_SECONDS * entry.priority)

    @property
    def slots_taken(self) -> int:
        return sum(entry.slot for entry in self.holders)

    @property
    def reserved(self) -> int:
        return sum(entry.need for entry in self.holders)

    @property
    def unused(self) -> int:
        return sum(entry.unused for entry in self.holders)

    @property
    def worst(self) -> int:
        """What would be used if every holder used all that it was promised, and those over it did not give back."""
        orphans = sum(each.touched for each in self.entries if each.parent and not each.alive)
        return self.foreign + orphans + sum(max(entry.need, _resident(entry)) for entry in self.holders)

    def lane_taken(self, name: str) -> int:
        return sum(entry.slot and entry.lane == name for entry in self.holders)

    def lane_is_open(self, entry: Entry) -> bool:
        return not entry.slot or entry.lane is None or self.lane_taken(entry.lane) < self.lanes[entry.lane]

    def is_open(self, entry: Entry) -> bool:
        return not entry.slot or (self.slots_taken < self.slots and self.lane_is_open(entry))

    def fits(self, need: int) -> bool:
        after = self.memory + self.unused + need
        return after <= self.target or (self.slots_taken == 0 and after <= self.ceiling)

    def candidates(self) -> list[Entry]:
        return [entry for entry in self.waiting if self.is_open(entry)]

    def next(self, *, may_pass: bool) -> Entry | None:
        """Whose turn it is."""
        for entry in self.candidates()[:LOOKAHEAD]:
            if self.fits(entry.need):
                return entry
            if not may_pass or entry.passed == MAX_PASSES:
                return None
        return None

    def head(self) -> Entry | None:
        """Whom other members may see first."""
        waiting = self.waiting
        return next(filter(self.lane_is_open, waiting), waiting[0] if waiting else None)

    def close(self, entry: Entry) -> None:
        """Its own memory is given back; that of its parts stays until they are closed themselves."""
        entry.stage, entry.touched, entry.marked = "closed", 0, 0


def _resident(entry: Entry) -> int:
    return entry.touched + sum(_resident(part) for part in entry.parts if part.alive)
