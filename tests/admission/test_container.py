"""One queue for all processes of a container: slots, bytes, turns, lanes, and what each can see of the others."""

import os
import signal
import time

import anyio
import anyio.lowlevel
import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._admission.claims import Claim
from memsafe_transcribe.testing import FakeGuard

from . import members
from .members import SECONDS, Family, Member, until

PROMISED_SECONDS = 1.0  # what one that died or sleeps may cost others


def test_slots_are_counted_together(family: Family) -> None:
    """Three slots are three in all processes together; each one given back lets one more in, wherever it waits."""
    first, second = family.start(), family.start()
    for name in "ab":
        first.reserve(name)
    for name in "cd":
        second.reserve(name)
    first.reserve("e")
    assert [first.is_in("a"), first.is_in("b"), second.is_in("c")] == [True] * 3
    assert not second.is_in("d") and not first.is_in("e")
    seen = first.statistics()
    assert (seen.active, seen.waiting, seen.others_active) == (2, 1, 1)
    first.release("a")
    second.event("in", "d")
    assert not first.is_in("e")
    second.release("c")
    first.event("in", "e")


def test_queues_are_counted_together(family: Family) -> None:
    """Who is sent away is told when to come back by all that wait, and by how long slots are held, in any process."""
    first, second = family.start(), family.start()
    for name in "abcde":
        first.reserve(name)
    assert second.do(members.seen_of_the_queue) == (2, False)
    first.release("a")
    first.event("in", "d")
    assert second.do(members.seen_of_the_queue) == (1, True)
    first.release("b")
    first.event("in", "e")
    assert second.do(members.seen_of_the_queue) == (0, True)


def test_bytes_are_counted_together(family: Family) -> None:
    """What one process has promised is off the room of all others, whatever slots are left."""
    first, second = family.start(100), family.start(100)
    first.reserve("large", 70)
    second.reserve("beside", 31)
    assert second.statistics().budget_bytes == 30
    assert second.statistics().others_reserved_bytes == 70
    assert not second.is_in("beside")
    assert not second.do(members.is_granted_now, 1), "nothing passes the one that waits, on the spot"
    first.release("large")
    second.event("in", "beside")
    assert first.statistics().budget_bytes == 69


def test_statistics_show_the_others_also_to_one_that_has_reserved_nothing(family: Family) -> None:
    """Whoever only looks, or asks for a batch's size, sees what the others hold."""
    first, second = family.start(100), family.start(100)
    first.reserve("a", 70)
    seen = second.statistics()
    assert (seen.others_active, seen.others_reserved_bytes, seen.budget_bytes) == (1, 70, 30)
    assert seen.scope.endswith("shared with 1 others")


def test_turns_are_in_order_of_arrival_over_processes(family: Family) -> None:
    """Of twelve that wait in three processes, each gets in after the one that came before, not process by process."""
    three = [family.start(max_concurrent=1) for _ in range(3)]
    three[0].reserve("holder")
    for number in range(12):
        three[number % 3].reserve(str(number))
    three[0].release("holder")
    came = []
    for number in range(12):
        came.append(three[number % 3].event("in", str(number)))
        assert not any(three[later % 3].is_in(str(later)) for later in range(number + 1, 12))
        three[number % 3].release(str(number))
    assert came == sorted(came)


def test_priority_holds_over_processes(family: Family) -> None:
    """One of a higher priority goes before those that other processes had queued earlier."""
    first, second = family.start(max_concurrent=1), family.start(max_concurrent=1)
    first.reserve("holder")
    first.reserve("early")
    second.reserve("urgent", priority=1)
    first.release("holder")
    second.event("in", "urgent")
    assert not first.is_in("early")
    second.release("urgent")
    first.event("in", "early")


def test_small_ones_may_pass_a_large_one_eight_times_in_all(family: Family) -> None:
    """A large head of another process is passed by smaller ones MAX_PASSES times together, then all save up for it."""
    one, two, three = (family.start(100, 20) for _ in range(3))
    one.reserve("holder", 60)
    two.reserve("large", 60)
    names = [f"small{number}" for number in range(10)]
    for number, name in enumerate(names):
        (one, three)[number % 2].reserve(name, 4)
    until(lambda: sum((one, three)[n % 2].is_in(name) for n, name in enumerate(names)) == 8)
    one.reserve("more", 1, timeout_seconds=0.3)
    one.event("refused", "more")
    assert sum((one, three)[n % 2].is_in(name) for n, name in enumerate(names)) == 8
    one.release("holder")
    two.event("in", "large")


def test_a_lane_is_one_over_processes(family: Family) -> None:
    """A lane's slots are counted over all processes; one that waits for its lane holds up nobody else."""
    first, second = (family.start(lanes={"batch": 1}) for _ in range(2))
    first.reserve("a", lane="batch")
    second.reserve("b", lane="batch")
    second.reserve("c")
    first.reserve("d")
    assert second.is_in("c") or second.event("in", "c")
    assert first.is_in("d") or first.event("in", "d")
    assert not second.is_in("b")
    first.release("a")
    second.event("in", "b")


def test_a_lane_that_others_do_not_know_holds_nobody_up(family: Family) -> None:
    """A head whose full lane only its own process has declared does not bar the queue."""
    first, second = family.start(lanes={"batch": 1}), family.start()
    first.reserve("a", lane="batch")
    first.reserve("b", lane="batch")
    second.reserve("c")
    second.event("in", "c")
    assert not first.is_in("b")


def test_the_first_process_sets_the_slots_and_others_are_told_once(family: Family) -> None:
    """One that wants another number is told so, once, and follows; so does its forked child, and it says so once."""
    first, second = family.start(max_concurrent=2), family.start(max_concurrent=5)
    first.reserve("a")
    for name in "bcd":
        second.reserve(name)
    assert second.is_in("b") and not second.is_in("c")
    assert second.statistics().max_concurrent == 2
    told = [line for line in second.do(members.logged) if "max_concurrent=5 is not used" in line]
    assert len(told) == 1 and " 2" in told[0]
    assert first.do(members.logged) == []


def test_the_number_stays_when_the_first_process_has_left(family: Family) -> None:
    """It is the ledger's as long as anybody is in it; when all have left, the next process sets it anew."""
    first, second = family.start(max_concurrent=2), family.start(max_concurrent=5)
    assert first.do(members.is_granted, 1) and second.do(members.is_granted, 1)
    first.kill()
    third = family.start(max_concurrent=7)
    assert third.do(members.is_granted, 1)
    assert (second.statistics().max_concurrent, third.statistics().max_concurrent) == (2, 2)
    second.kill(), third.kill()
    fourth = family.start(max_concurrent=7)
    assert fourth.do(members.is_granted, 1)
    assert fourth.statistics().max_concurrent == 7


def test_a_stopped_holder_costs_others_no_more_than_their_timeout(family: Family) -> None:
    """While a holder is stopped, others time out when they said, and are told its pid; when it goes on, so do they."""
    holder, other = family.start(max_concurrent=1), family.start(max_concurrent=1)
    holder.reserve("a")
    other.reserve("probe", timeout_seconds=0.05)
    assert "is stopped" not in other.event("refused", "probe")
    holder.stop()
    asked = time.monotonic()
    other.reserve("b", timeout_seconds=0.3)
    text = other.event("refused", "b")
    assert 0.3 <= time.monotonic() - asked < 0.3 + PROMISED_SECONDS
    assert text.startswith("AdmissionTimeoutError") and f"process {holder.pid} holds some and is stopped" in text
    other.reserve("c")
    holder.signal(signal.SIGCONT)
    holder.release("a")
    other.event("in", "c")


def test_one_stopped_with_the_ledgers_lock_costs_others_no_more_than_their_timeout(family: Family) -> None:
    """Nobody can be let in meanwhile, but everybody times out when they said, is told who it is, and can release."""
    stopped, other = family.start(), family.start()
    other.reserve("held")
    stopped.do(members.is_granted, 1)
    stopped.do(members.begin_and_hang)
    stopped.stop()
    asked = time.monotonic()
    other.reserve("b", timeout_seconds=0.3)
    text = other.event("refused", "b")
    assert 0.3 <= time.monotonic() - asked < 0.3 + PROMISED_SECONDS
    assert str(stopped.pid) in text and "is stopped" in text
    other.release("held")
    newcomer = family.start()
    newcomer.reserve("c", timeout_seconds=0.2)
    text = newcomer.event("refused", "c")
    assert text.startswith("AdmissionTimeoutError") and str(stopped.pid) in text
    other.reserve("d")
    dead_at = stopped.kill()
    assert other.event("in", "d") - dead_at < PROMISED_SECONDS


def _passed(head: Member, other: Member, holder: Member, heads_name: str) -> None:
    """`head`, the first to wait, does not poll any more: the other one gets in, about a second after its last poll."""
    holder.release("a")
    released = time.monotonic()
    assert other.event("in", "c") - released < PROMISED_SECONDS + 0.5
    assert not head.is_in(heads_name)


def test_a_stopped_head_is_passed_and_keeps_its_place(family: Family) -> None:
    """The first in the queue, stopped, is passed after a second; going on, it is the next, as if it had polled."""
    holder, head, other = (family.start(max_concurrent=1) for _ in range(3))
    holder.reserve("a")
    head.reserve("b")
    other.reserve("c")
    holder.reserve("d")
    head.stop_between_turns(holder)
    _passed(head, other, holder, "b")
    head.signal(signal.SIGCONT)
    head.do(members.poll)
    other.release("c")
    head.event("in", "b")
    assert not holder.is_in("d")
    head.release("b")
    holder.event("in", "d")


def test_a_head_is_not_passed_while_it_polls(family: Family) -> None:
    """One that waits for longer than a second, and lives, is not taken for asleep."""
    holder, head, other = (family.start(max_concurrent=1) for _ in range(3))
    holder.reserve("a")
    head.reserve("b")
    waited_from = time.monotonic()
    until(lambda: time.monotonic() - waited_from > 1.3)
    other.reserve("c")
    holder.release("a")
    head.event("in", "b")
    assert not other.is_in("c")


def test_a_head_in_a_blocked_loop_is_passed(family: Family) -> None:
    """So is the first in the queue when other code blocks its event loop; going on, it gets in."""
    holder, head, other = (family.start(max_concurrent=1) for _ in range(3))
    holder.reserve("a")
    head.do(members.run_blocked_loop, 1)
    other.reserve("c")
    _passed(head, other, holder, "loop")
    other.release("c")
    head.do(members.unblock)
    head.event("in", "loop")


def test_a_head_that_its_own_limit_keeps_out_does_not_bar_the_others(family: Family) -> None:
    """One whose process has less room than the others see waits by itself: it must not hold them up for ever."""
    small, other = family.start(50), family.start(100)
    small.reserve("a", 40)
    small.reserve("b", 20)
    assert not small.is_in("b")
    other.reserve("c", 10)
    other.event("in", "c", 3.0)


def test_an_interrupted_turn_leaves_the_ledger_unlocked(family: Family) -> None:
    """A signal handler that raises just after the lock was taken does not lock out the rest of the container."""
    interrupted, other = family.start(), family.start()
    assert interrupted.do(members.is_granted, 1)
    interrupted.do(members.begin_then_raise)
    other.reserve("a", timeout_seconds=2.0)
    other.event("in", "a")


def test_many_at_once_find_and_lose_the_ledger(family: Family) -> None:
    """Processes that come and go, so that the last often removes what the next is opening, always meet in a ledger."""
    few = [family.start() for _ in range(4)]
    for each in few:
        each.begin(members.come_and_go, 40)
    for each in few:
        assert each.answer() == []
    few[0].do(members.come_and_go, 1)
    assert family.ledgers() == []


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_tasks_and_other_processes_share_turns(family: Family, backend: str) -> None:
    """Tasks of an event loop wait for, and get in after, what another process holds."""
    holder = family.start(max_concurrent=1)
    holder.reserve("a")
    admission = mt.AdmissionController(guard=members.FixedGuard(100), max_concurrent=1)
    order: list[int] = []

    async def task(number: int) -> None:
        async with admission.reserve(1):
            order.append(number)

    async def main() -> None:
        with anyio.fail_after(SECONDS):
            async with anyio.create_task_group() as tasks:
                for number in range(3):
                    tasks.start_soon(task, number)
                    while admission.statistics().waiting == number:
                        await anyio.lowlevel.checkpoint()
                assert admission.statistics().others_active == 1
                holder.release("a")

    anyio.run(main, backend=backend)
    assert order == [0, 1, 2]
    assert os.listdir(family.folder) != []


class _Told:
    def wake(self) -> bool:
        return True


def test_who_waits_looks_less_often_the_longer_nothing_changes() -> None:
    """Down to every 50 ms, in how many processes others wait; that those look, too, is no change."""
    holder, first, second = (
        mt.AdmissionController(guard=FakeGuard(limit_bytes=1000), max_concurrent=1)._keeper  # noqa: SLF001
        for _ in range(3)
    )
    held, claims = Claim(1), [(first, Claim(1)), (second, Claim(1))]
    assert holder.take(held)
    for keeper, claim in claims:
        keeper.enqueue(claim, _Told())
    looks = [[keeper.look(claim) for keeper, claim in claims] for _ in range(12)]
    assert looks[-1] == [0.05, 0.05], looks
    holder.close(held)
    assert first.look(claims[0][1]) is None
    for keeper, claim in claims:
        keeper.close(claim)
    for keeper in (holder, first, second):
        keeper.scope.leave()
