"""Members that are killed, fork, or become another program: what they held is free, and nobody else is harmed."""

import os
import signal
import time

import pytest

from ..support.needs import cannot
from . import members
from .members import Family, until

PROMISED_SECONDS = 1.0  # within which what a dead one held is given back


def test_a_killed_holder_gives_back_all(family: Family) -> None:
    """Slots, bytes and lanes of one that is killed go to those that wait, within a second."""
    holder, other = (family.start(lanes={"batch": 1}) for _ in range(2))
    holder.reserve("a", 30, lane="batch")
    for name in "bc":
        holder.reserve(name, 30)
    for name, lane in (("d", "batch"), ("e", None), ("f", None)):
        other.reserve(name, 33, lane=lane)
    dead_at = holder.kill()
    assert max(other.event("in", name) for name in "def") - dead_at < PROMISED_SECONDS
    assert other.statistics().others_active == 0


def test_statistics_forget_the_dead_too(family: Family) -> None:
    """One that only looks, and waits for nothing, sees within a second that a killed one holds nothing any more."""
    holder, other = family.start(), family.start()
    holder.reserve("a", 30)
    assert other.statistics().others_reserved_bytes == 30
    dead_at = holder.kill()
    until(lambda: other.statistics().others_reserved_bytes == 0)
    assert time.monotonic() - dead_at < PROMISED_SECONDS
    assert other.statistics().budget_bytes == 100


def test_one_killed_with_the_ledgers_lock_gives_it_back(family: Family) -> None:
    """The lock goes with the process, and what it held too."""
    holder, other = family.start(max_concurrent=1), family.start(max_concurrent=1)
    holder.reserve("a")
    other.reserve("b")
    holder.do(members.begin_and_hang)
    dead_at = holder.kill()
    assert other.event("in", "b") - dead_at < PROMISED_SECONDS


def test_one_killed_while_it_makes_the_ledger(family: Family) -> None:
    """A file that its maker never finished is used by the next one as if it were new."""
    maker, waiting = family.start(), family.start()
    maker.do(members.begin_join_and_hang)
    waiting.reserve("a")
    assert not waiting.is_in("a"), "the ledger was not locked: this proves nothing"
    dead_at = maker.kill()
    assert waiting.event("in", "a") - dead_at < PROMISED_SECONDS
    assert waiting.do(members.logged) == []
    late = family.start()
    assert late.statistics().others_active == 1


@pytest.mark.parametrize("number", [1, 8, 20, 24, 33, 168])
def test_one_killed_in_mid_write_leaves_nothing(family: Family, number: int) -> None:
    """However much of a record that claims everything was written when it was killed, none of it counts for long."""
    writer, other = family.start(), family.start()
    writer.reserve("a", 10)
    other.reserve("d", 100)
    writer.do(members.half_write_and_hang, number)
    dead_at = writer.kill()
    assert other.event("in", "d") - dead_at < PROMISED_SECONDS
    seen = other.statistics()
    assert (seen.others_active, seen.others_reserved_bytes) == (0, 0)


def test_a_head_killed_while_it_waits_makes_way(family: Family) -> None:
    """The next in the queue does not wait for one that died first in it."""
    holder, head, other = (family.start(max_concurrent=1) for _ in range(3))
    holder.reserve("a")
    head.reserve("b")
    other.reserve("c")
    dead_at = head.kill()
    holder.release("a")
    assert other.event("in", "c") - dead_at < PROMISED_SECONDS


def test_all_of_many_are_killed_and_nobody_starves(family: Family) -> None:
    """Six holders and heads that are killed one after the other: each time the next in turn gets in, in time."""
    chain = [family.start(max_concurrent=1) for _ in range(6)]
    for number, each in enumerate(chain):
        each.reserve(str(number))
    for number, each in enumerate(chain[:-1]):
        dead_at = each.kill()
        assert chain[number + 1].event("in", str(number + 1)) - dead_at < PROMISED_SECONDS


def test_a_stopped_holder_that_is_killed_gives_back(family: Family) -> None:
    """SIGKILL after SIGSTOP."""
    holder, other = family.start(max_concurrent=1), family.start(max_concurrent=1)
    holder.reserve("a")
    holder.stop()
    other.reserve("b")
    dead_at = holder.kill()
    assert other.event("in", "b") - dead_at < PROMISED_SECONDS


def test_a_forked_child_is_a_member_of_its_own(family: Family) -> None:
    """It holds nothing of its parent's, sees what the parent holds, and both count for a third one."""
    parent, third = family.start(100, 5), family.start(100, 5)
    parent.reserve("a", 30)
    pid, active, others_active, pids = parent.do(members.fork, 20)
    try:
        assert (active, others_active) == (0, 1)
        assert parent.pid in pids
        seen = third.statistics()
        assert (seen.others_active, seen.others_reserved_bytes) == (2, 50)
        assert third.do(members.member_pids) == sorted([parent.pid, pid])
        assert parent.statistics().active == 1
        parent.release("a")
        assert third.statistics().others_reserved_bytes == 20
    finally:
        os.kill(pid, signal.SIGKILL)
    until(lambda: third.statistics().others_reserved_bytes == 0, PROMISED_SECONDS)


def test_what_a_killed_parent_held_is_freed_while_its_child_lives(family: Family) -> None:
    """The child keeps neither the parent's seat nor what it held; what the child itself holds stays."""
    parent, other = family.start(100), family.start(100)
    parent.reserve("a", 60)
    pid, *_ = parent.do(members.fork, 20)
    try:
        other.reserve("b", 80)
        assert not other.is_in("b")
        dead_at = parent.kill()
        assert other.event("in", "b") - dead_at < PROMISED_SECONDS
        assert other.statistics().others_reserved_bytes == 20
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_child_that_never_asks_keeps_nothing_alive(family: Family) -> None:
    """A forked child that does nothing at all has the ledger closed."""
    parent, other = family.start(100), family.start(100)
    parent.reserve("a", 60)
    pid = parent.do(members.fork_quietly)
    try:
        other.reserve("b", 80)
        dead_at = parent.kill()
        assert other.event("in", "b") - dead_at < PROMISED_SECONDS
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_child_with_its_parents_pid_leaves_the_parents_seat(family: Family) -> None:
    """In a new pid namespace a child may have the very pid of its parent: it must not take itself for it."""
    parent, other = family.start(100), family.start(100)
    if os.geteuid():
        cannot("namespaces take root")
    assert parent.do(members.fork_in_pid_namespaces) == (1, 1)
    assert other.statistics().others_reserved_bytes == 60


@pytest.mark.parametrize("close_fds", [True, False])
def test_another_program_inherits_nothing(family: Family, close_fds: bool) -> None:
    """A program started by Popen has no descriptor of the ledger, and does not keep its parent's seat."""
    parent, other = family.start(100), family.start(100)
    parent.reserve("a", 60)
    pid, descriptors = parent.do(members.start_program, close_fds)
    try:
        assert descriptors and not [each for each in descriptors if str(family.folder) in each]
        other.reserve("b", 80)
        dead_at = parent.kill()
        assert other.event("in", "b") - dead_at < PROMISED_SECONDS
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_member_that_becomes_another_program_gives_back_all(family: Family) -> None:
    """exec closes the ledger, and so frees the seat, while the process lives on."""
    parent, other = family.start(100), family.start(100)
    parent.reserve("a", 60)
    other.reserve("b", 80)
    asked = time.monotonic()
    descriptors = parent.do(members.exec_another)
    assert descriptors and not [each for each in descriptors if str(family.folder) in each]
    other.event("in", "b")
    assert time.monotonic() - asked < PROMISED_SECONDS + 1.0
    assert os.path.exists(f"/proc/{parent.pid}")


def test_multiprocessing_by_fork(family: Family) -> None:
    """A child of multiprocessing's fork takes its own turns beside its parent, and gives back what it held."""
    parent, other = family.start(100), family.start(100)
    parent.reserve("a", 60)
    assert parent.do(members.multiprocess, 30) == (0, 1, 10)
    until(lambda: other.statistics().others_reserved_bytes == 60, PROMISED_SECONDS)
    assert parent.is_in("a")
