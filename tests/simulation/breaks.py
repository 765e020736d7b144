"""The library, broken on purpose: one line of it at a time says something else."""

import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from memsafe_transcribe._admission import acquiring, keeper, ledger, shared
from memsafe_transcribe._store import batches, jobs, locks
from memsafe_transcribe._transcription import attempting, batch, job, recording, stream

from .sessions import Kind

MOST_SEEDS = 400  # after which a thing that is broken must have been found


@dataclass(frozen=True)
class Break:
    """One line that is another.

    Attributes:
        what: it does then.
        kind: of the schedules that are to find it.
        module, name: the function, with its class.
        old, new: what stands there once, and what stands there then.
        seed: of the first schedule that found it, when that was last looked at.
    """

    what: str
    kind: Kind
    module: ModuleType
    name: str
    old: str
    new: str
    seed: int = 0

    @contextmanager
    def done(self) -> Iterator[None]:
        """`with` this: it is broken."""
        *owners, name = self.name.split(".")
        owner: Any = self.module
        for each in owners:
            owner = getattr(owner, each)
        whole = getattr(owner, name)
        source = textwrap.dedent(inspect.getsource(whole))
        assert source.count(self.old) == 1, f"{self.name} has {self.old!r} {source.count(self.old)} times"
        names: dict[str, Any] = {}
        exec(
            compile(f"from __future__ import annotations\n{source.replace(self.old, self.new)}", self.name, "exec"),
            vars(self.module),
            names,
        )
        setattr(owner, name, names[name])
        try:
            yield
        finally:
            setattr(owner, name, whole)


BREAKS = (
    Break(
        "a release wakes nobody",
        "queue",
        keeper,
        "Keeper.close",
        "if self._dropped or self._waiters:",
        "if self._dropped:",
        seed=2,
    ),
    Break(
        "a new head is not told that it is to look",
        "queue",
        keeper,
        "Keeper._renew_head",
        "if is_new else None",
        "if False else None",
        seed=28,
    ),
    Break("the head does not look", "queue", keeper, "Keeper.look", "if claim is self._head:", "if False:", seed=69),
    Break(
        "who waits does not hear of the drain", "queue", keeper, "Keeper.drain", "self._waiters.values()", "()", seed=78
    ),
    Break(
        "who is cancelled while it waits keeps its place",
        "queue",
        acquiring,
        "Reserving.__aenter__",
        "except BaseException:",
        "except Exception:",
        seed=2,
    ),
    Break(
        "to release twice gives back twice",
        "queue",
        ledger,
        "Ledger.close",
        "claim.state = claim.state, CLOSED",
        "_ = claim.state, None",
    ),
    Break("a lane's slot is not given back", "queue", ledger, "Ledger._take_back", ".taken -= 1", ".taken -= 0"),
    Break("a lane's slot is not counted", "queue", ledger, "Ledger._grant", ".taken += 1", ".taken += 0"),
    Break(
        "a lane has one slot more", "queue", ledger, "Ledger._lane_is_open", "< lane.limit", "<= lane.limit", seed=81
    ),
    Break(
        "what is promised is forgotten", "queue", ledger, "Ledger._fits", "self.unused_bytes + others", "others", seed=1
    ),
    Break(
        "a large one is passed for ever",
        "queue",
        ledger,
        "Ledger.grant_next",
        "claim.passes >= MAX_PASSES",
        "False",
        seed=325,
    ),
    Break(
        "a newcomer goes before who waits",
        "queue",
        ledger,
        "Ledger.take",
        "self._anybody_could_go(others)",
        "False",
        seed=2,
    ),
    Break(
        "who holds memory only is not charged",
        "queue",
        ledger,
        "Ledger._grant",
        "self.unused_bytes += claim.need_bytes",
        "self.unused_bytes += claim.need_bytes * claim.takes_slot",
        seed=1,
    ),
    Break(
        "the slots of others do not count",
        "members",
        ledger,
        "Ledger.is_open",
        "self.slots_taken + others.slots_taken < self.max_concurrent",
        "self.slots_taken < self.max_concurrent",
    ),
    Break("the promises of others do not count", "members", ledger, "Ledger._fits", "others.unused_bytes + ", ""),
    Break(
        "the dead are never found out",
        "members",
        shared,
        "SharedLedger._clear_the_dead",
        "if not _is_leased",
        "if False and not _is_leased",
        seed=5,
    ),
    Break(
        "what is given back is not said", "members", shared, "SharedLedger.publish", "if self._is_open():", "if False:"
    ),
    Break(
        "an answer is not stored",
        "batch",
        jobs,
        "Job.keep",
        '"INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?)"',
        '"INSERT INTO chunks SELECT ?, ?, ?, ?, ?, ? WHERE false"',
        seed=1,
    ),
    Break(
        "what is stored is asked for again",
        "batch",
        recording,
        "Recorded.__init__",
        "job.state.plan is not None",
        "False",
        seed=20,
    ),
    Break(
        "an attempt counts twice",
        "batch",
        attempting,
        "Attempting._attempted",
        'attempts += verdict in ("again", "never")',
        'attempts += 2 * (verdict in ("again", "never"))',
        seed=1,
    ),
    Break(
        "an attempt is not stored",
        "batch",
        batches,
        "_ended",
        '"UPDATE sources SET state = ?, attempts = ?,',
        '"UPDATE sources SET state = ?, attempts = 0 * ?,',
        seed=22,
    ),
    Break(
        "two processes work at one job",
        "batch",
        locks,
        "Lock.try_set",
        "fcntl.F_RDLCK if shared else fcntl.F_WRLCK",
        "fcntl.F_RDLCK",
        seed=13,
    ),
    Break(
        "a finished source is not said to be done",
        "batch",
        batches,
        "BatchSource.done",
        'state="done"',
        'state="working"',
    ),
    Break("a batch hears of no outcome", "batch", batch, "Outcomes._tell", "self._changed.set()", "pass"),
    Break(
        "a chunk's slot is dropped instead of given back",
        "batch",
        job,
        "RunningJob.end",
        ".pop().release()",
        ".pop()",
        seed=1,
    ),
    Break(
        "a chunk begins without a slot",
        "batch",
        job,
        "RunningJob.try_begin",
        "self._running > len(self._extra_slots)",
        "False",
        seed=4,
    ),
    Break("a chunk that is done is not said to be", "batch", stream, "SegmentStream._work", "self._job.end()", "pass"),
    Break("a lock outlives its job", "batch", jobs, "Jobs.working_on", "lock.release()", "pass"),
)
