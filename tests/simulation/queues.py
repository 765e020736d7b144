"""One controller, alone or with others in its container's ledger: tasks reserve, wait, hold, give up, and are dropped.

What must hold is asked after every step, by adding up what each task believes that it has; and whenever nothing can
run, nobody may be waiting who could go.
"""

# ruff: noqa: SLF001 - whose turn it is, only the keeper knows

import warnings
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, field
from math import inf
from random import Random
from typing import Any, Literal

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

import memsafe_transcribe as mt
from memsafe_transcribe._admission.claims import CLOSED, GRANTED, WAITING, Claim
from memsafe_transcribe._admission.keeper import Keeper
from memsafe_transcribe._admission.ledger import MAX_PASSES
from memsafe_transcribe._admission.scope import ProcessScope
from memsafe_transcribe.testing import FakeGuard

from .schedulers import Schedule

LIMIT, TARGET, CEILING = 1000, 600, 900  # bytes: what they are called does not matter
MOST_SECONDS = 3600.0
_LOOKAHEAD = 16
_ALONE_SECONDS = 60.0
_LANES = ("few", "some")
_PAUSES = (0.0, 0.0, 0.001, 0.01, 0.06, 0.3, 2.0, 15.0)
_POLL_SECONDS = 0.05
# How long somebody may be left waiting who could go: alone until the head looks; in a container until a member that has
# died is found out, or one that lets its turn go by is passed.
_LEFT_SECONDS = {"process": _POLL_SECONDS + 0.001, "container": 1.6}
_HURRIED_SECONDS = 0.001  # where the change was our own, and had to tell

End = Literal["held", "cancelled", "late", "alone", "refused", "too large", "draining", "dropped", "dead"]


@dataclass(eq=False)
class Task:
    """One that reserves, and what it believes that it has.

    Attributes:
        ends: how it ended; exactly once.
        is_in: whether it holds what it asked for, as far as it knows.
        need, used: bytes that it was promised, and that it has said are in use.
        touched: bytes of its own that are in use, whatever it says.
        passed: how many that came later were let in before it, while it waited for memory alone.
    """

    name: str
    member: "Member"
    claim: Claim | None = None
    ends: list[End] = field(default_factory=list)
    is_in: bool = False
    need: int = 0
    used: int = 0
    touched: int = 0
    passed: int = 0
    is_seen: bool = False  # that it was granted
    is_to_be_cancelled: bool = False

    @property
    def waits(self) -> bool:
        return self.claim is not None and self.claim.state is WAITING and self.claim.is_queued

    @property
    def holds(self) -> bool:
        return self.claim is not None and self.claim.state is GRANTED

    @property
    def unused(self) -> int:
        return max(0, self.need - self.used)


class Member:
    """One process with its controller."""

    def __init__(self, world: "World", name: str, scope: Literal["process", "container"], **options: Any) -> None:
        self.name = name
        self.is_dead = False
        self.lanes: dict[str, int] = {}
        self.dropped = 0
        self.guard = FakeGuard(limit_bytes=LIMIT)
        self.admission = mt.AdmissionController(guard=self.guard, scope=scope, **options)
        self.scopes: list[anyio.CancelScope] = []  # one for each task
        world.members.append(self)
        world.tell_memory()

    @property
    def keeper(self) -> Keeper:
        return self.admission._keeper

    def lane(self, name: str, limit: int) -> None:
        self.lanes[name] = limit
        self.admission.lane(name, max_concurrent=limit)

    def kill(self) -> None:
        """It ends as a process does that is killed: its lease is dropped, what it has written stays, all else is gone.

        What its tasks do from here on reaches nobody.
        """
        self.is_dead = True
        self.keeper.scope.forget()
        self.keeper.scope = ProcessScope()
        for scope in self.scopes:
            scope.cancel()


class World:
    """All members, all tasks, and the memory that they share.

    Attributes:
        foreign: what is used by others.
        relieved_at: when memory last became free that nobody in the ledger gave back.
    """

    def __init__(self, random: Random, reach: Literal["process", "container"]) -> None:
        self.random = random
        self.reach = reach
        self.schedule = Schedule(random, self)
        self.members: list[Member] = []
        self.tasks: list[Task] = []
        self.foreign = 0
        self.relieved_at = self.died_at = -inf
        self.left_since: float | None = None
        self.late = 0.0  # how late a timeout may be noticed, because the clock has jumped
        self.notes: list[str] = []
        self.shut: set[int] = set()  # who waited for a lane at the end of the step before
        self.slots = random.choice((1, 1, 2, 2, 3, 5))

    def note(self, what: str) -> None:
        self.notes.append(f"{self.schedule.clock.now - 1000:10.6f}  {what}")

    # -- memory

    @property
    def memory(self) -> int:
        return self.foreign + sum(task.touched for task in self.tasks)

    def tell_memory(self) -> None:
        for member in self.members:
            member.guard.used_bytes = self.memory

    def use(self, foreign: int) -> None:
        """Others use so much from now on."""
        if foreign < self.foreign:
            self.relieved_at = self.schedule.clock.now
        self.foreign = foreign
        self.tell_memory()
        self.note(f"others use {foreign}")

    def touch(self, task: Task, more: int) -> None:
        if more < 0:
            self.relieved_at = self.schedule.clock.now
        task.touched += more
        self.tell_memory()

    # -- what must hold

    @property
    def holders(self) -> list[Task]:
        """Of all members, whether they live: what a dead one held is held until somebody has found out."""
        return [task for task in self.tasks if task.holds and not task.member.is_dead]

    def stepped(self) -> None:
        """Ask all that must hold after every step."""
        held = self.holders
        for member in self.members:
            if not member.is_dead:
                self._check_books(member, [task for task in held if task.member is member])
        for task in self.tasks:
            assert not task.is_in or task.member.is_dead or task.holds, f"{task.name} is in, and holds nothing"
        news = [task for task in held if not task.is_seen]
        if news:
            self._check_grants(news, held)
        self.shut = {id(task) for task in self.tasks if task.waits and not self._lane_is_open(task)}

    def _check_books(self, member: Member, held: list[Task]) -> None:
        ledger = member.keeper.ledger
        claims = [task.claim for task in held if task.claim is not None]
        slots = sum(claim.takes_slot for claim in claims)
        assert ledger.slots_taken == slots, (member.name, "slots", ledger.slots_taken, slots)
        assert ledger.granted == set(claims), (member.name, "granted", len(ledger.granted), len(claims))
        reserved, unused = sum(task.need for task in held), sum(task.unused for task in held)
        assert ledger.reserved_bytes == reserved, (member.name, "reserved", ledger.reserved_bytes, reserved)
        assert ledger.unused_bytes == unused, (member.name, "unused", ledger.unused_bytes, unused)
        waiting = sum(task.waits and task.member is member for task in self.tasks)
        assert ledger.waiting == waiting, (member.name, "waiting", ledger.waiting, waiting)
        for name in member.lanes:
            taken = sum(claim.lane == name and claim.takes_slot for claim in claims)
            assert ledger.lanes[name].taken == taken, (member.name, name, ledger.lanes[name].taken, taken)

    def _check_grants(self, news: list[Task], held: list[Task]) -> None:
        """Nobody was let in whom slots, lanes or memory had no room for, nor out of turn."""
        slots = [task for task in held if task.claim is not None and task.claim.takes_slot]
        assert len(slots) <= self.slots, f"{len(slots)} slots of {self.slots} are taken"
        unused = sum(task.unused for task in held)
        new_room, room = TARGET - self.memory, CEILING - self.memory
        is_alone = unused <= room and not any(task.is_seen for task in slots)
        assert unused <= new_room or is_alone, f"{unused} are promised, with room for {new_room} ({room} for one)"
        for task in news:
            task.is_seen = True
            assert task.claim is not None
            assert not task.member.admission.is_draining or task.member.is_dead, f"{task.name} while draining"
            lane = task.claim.lane
            if lane is not None and task.claim.takes_slot:
                taken = sum(each.claim is not None and each.claim.lane == lane for each in slots)
                assert taken <= task.member.lanes[lane], f"{taken} are in lane {lane!r} of {task.member.lanes[lane]}"
            self._count_passes(task)

    def _count_passes(self, task: Task) -> None:
        """Who waits for memory alone is passed a few times, and by nobody who comes and goes in at once."""
        claim = task.claim
        assert claim is not None
        if self.schedule.clock.now - self.died_at < _LEFT_SECONDS["container"]:
            return  # what the dead held may be held still
        for each in self.tasks:
            if each.waits and each.member is task.member and each.claim is not None and self._was_open(each, claim):
                assert claim.is_queued, f"{task.name} did not wait, though {each.name} did"
                # Whose lane was full before this step may have been passed before it opened.
                if each.claim.order_seconds < claim.order_seconds and id(each) not in self.shut:
                    each.passed += 1
                    assert each.passed <= MAX_PASSES, f"{each.name} was passed {each.passed} times"

    def _was_open(self, task: Task, granted: Claim) -> bool:
        """Whether memory alone kept it out when that one was let in: there was that one's slot, at least."""
        claim = task.claim
        assert claim is not None
        if self._is_open(task):
            return True
        lane = claim.lane
        return granted.takes_slot and (lane is None or lane == granted.lane or self._lane_is_open(task))

    def _is_open(self, task: Task) -> bool:
        """Whether memory alone keeps it out."""
        claim = task.claim
        assert claim is not None
        if not claim.takes_slot:
            return True
        held = [each.claim for each in self.holders if each.claim is not None and each.claim.takes_slot]
        if len(held) >= self.slots:
            return False
        return self._lane_is_open(task)

    def _lane_is_open(self, task: Task) -> bool:
        lane = None if task.claim is None else task.claim.lane
        held = [each.claim for each in self.holders if each.claim is not None and each.claim.takes_slot]
        return lane is None or sum(each.lane == lane for each in held) < task.member.lanes[lane]

    def _could_go(self) -> Task | None:
        """Whose turn it is; None if nobody could go."""
        waiting = [each for each in self.tasks if each.waits and not each.member.is_dead and self._is_open(each)]
        waiting.sort(key=lambda task: task.claim.order_seconds if task.claim is not None else 0.0)
        unused = sum(task.unused for task in self.holders)
        is_idle = not any(task.claim is not None and task.claim.takes_slot for task in self.holders)
        for task in waiting[:_LOOKAHEAD]:
            assert task.claim is not None
            after = self.memory + unused + task.claim.need_bytes
            if after <= TARGET or (is_idle and after <= CEILING):
                return task
            if task.claim.passes >= MAX_PASSES:
                return None
        return None

    def rested(self) -> None:
        """Nothing can run: whoever could go must have been told."""
        now = self.schedule.clock.now
        for task in self.tasks:
            assert not (task.waits and task.member.admission.is_draining and not task.member.is_dead), (
                f"{task.name} waits, though nobody is let in any more"
            )
        left = self._could_go()
        if left is None:
            self.left_since = None
            return
        if self.left_since is None:
            self.left_since = now
        patience = _LEFT_SECONDS[self.reach]
        if self.reach == "process" and now - self.relieved_at > patience:
            patience = _HURRIED_SECONDS
        assert now - self.left_since <= patience, f"{left.name} could go since {self.left_since - 1000:.6f}"

    def check(self, holds: object, what: str) -> None:
        """Let the schedule fail unless this holds; for where an assertion would be taken for what is tested."""
        if not holds:
            self.schedule.fail(AssertionError(what))

    def check_patience(self, task: Task, end: End, timeout: float | None, took: float) -> None:
        """It gave up when it was to, neither sooner nor later."""
        least = _ALONE_SECONDS if end == "alone" or timeout is None else timeout
        most = inf if end == "alone" else least + 0.01 + self.late
        self.check(least - 0.001 <= took <= most, f"{task.name} gave up after {took:g} s of {least:g}")

    def check_end(self) -> None:
        """All has ended, and nothing is left."""
        for task in self.tasks:
            assert len(task.ends) == 1, (task.name, task.ends)
        for member in self.members:
            if member.is_dead:
                continue
            now, keeper = member.admission.statistics(), member.keeper
            assert (now.active, now.waiting, now.reserved_bytes) == (0, 0, 0), (member.name, now)
            assert not keeper._waiters and not keeper._dropped, (member.name, keeper._waiters, keeper._dropped)
            assert keeper._head is None or keeper._head.state is CLOSED, (member.name, keeper._head)
            assert now.orphaned == member.dropped, (member.name, now.orphaned, member.dropped)
            granted = sum(task.is_seen for task in self.tasks if task.member is member)
            assert now.granted == granted, (member.name, now.granted, granted)
            if self.reach == "container":
                assert (now.others_active, now.others_reserved_bytes) == (0, 0), (member.name, now)


# -- what happens in a schedule


async def _live(world: World, task: Task, arrive: float, plan: "Plan") -> None:
    """One task, from its coming to its end."""
    began = 0.0
    end: End = "cancelled"
    try:
        await anyio.sleep(arrive)
        began = world.schedule.clock.now
        world.note(f"{task.name} of {task.member.name} asks for {plan.options} within {plan.timeout} s")
        if plan.is_at_once:
            end = await _hold_at_once(world, task, plan)
        else:
            reserving: Any = task.member.admission.reserve(**plan.options, timeout_seconds=plan.timeout)
            task.claim, task.need = reserving._claim, reserving.need_bytes
            async with reserving as held:
                task.is_in = True
                try:
                    await _hold(world, task, held, plan)
                finally:
                    _let_go(world, task)
            end = "held"
    except mt.AdmissionTimeoutError as error:
        end = "late" if error.timeout_seconds == plan.timeout else "alone"
        world.check_patience(task, end, plan.timeout, world.schedule.clock.now - began)
    except mt.ReservationTooLargeError:
        end = "too large"
        world.check(plan.options["need_bytes"] > CEILING, f"{task.name}: {task.need} is too large?")
    except mt.DrainingError:
        end = "draining"
        world.check(task.member.admission.is_draining, f"{task.name} is sent away")
    except mt.AdmissionRejectedError:
        end = "refused"
    except anyio.get_cancelled_exc_class():
        if not (task.is_to_be_cancelled or task.member.is_dead or world.schedule.is_ending):
            world.schedule.fail(AssertionError(f"who cancelled {task.name}?"))
        raise
    except Exception as error:
        world.schedule.fail(error)
    finally:
        task.ends.append("dead" if task.member.is_dead else end)
        world.note(f"{task.name}: {end}")


async def _hold_at_once(world: World, task: Task, plan: "Plan") -> End:
    """By `reserve_nowait`: used by `with`, released, or dropped."""
    held = task.member.admission.reserve_nowait(**plan.options)
    task.claim, task.need, task.is_in = held._claim, held.need_bytes, True
    is_whole = False
    try:
        await _hold(world, task, held, plan)
        is_whole = True
    finally:
        _let_go(world, task)
        if not is_whole or not plan.is_dropped:  # a traceback would keep it
            held.release()
            held.release()
    if not plan.is_dropped:
        return "held"
    task.member.dropped += 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del held
    task.member.admission.statistics()  # it is taken back at the next turn, and this is one
    return "dropped"


def _let_go(world: World, task: Task) -> None:
    task.is_in = False
    world.touch(task, -task.touched)
    task.touched = 0


async def _hold(world: World, task: Task, held: mt.Reservation, plan: "Plan") -> None:
    """Do with a reservation what can be done with one."""
    random, admission = world.random, task.member.admission
    world.note(f"{task.name} is in")
    await anyio.lowlevel.checkpoint()
    for _ in range(plan.acts):
        await anyio.sleep(random.choice(_PAUSES))
        act = random.choice(("use", "mark", "grow", "shrink", "carve", "nested", "both"))
        if act in ("use", "both"):
            world.touch(task, random.randint(-task.touched, max(0, task.need - task.touched)))
        if act in ("mark", "both"):
            held.mark_used(task.touched)
            task.used = task.touched
        if act == "grow":
            more = random.randint(0, 200)
            unused = sum(each.unused for each in world.holders)
            is_grown = held.try_grow(more)
            task.need += more if is_grown else 0
            if not task.member.is_dead and world.reach == "process":
                assert is_grown == (unused + more <= CEILING - world.memory), f"{task.name} grew by {more}: {is_grown}"
        if act == "shrink":
            fewer = random.randint(0, task.need)
            held.shrink(fewer)
            task.need -= fewer
        if act == "carve":
            part = random.randint(0, task.need)
            with held.carve(part):
                assert held.left_bytes == task.need - part
                await anyio.sleep(random.choice(_PAUSES))
        if act == "nested" and plan.options["slot"] and not plan.is_at_once:
            assert admission.current_reservation() is held or task.member.is_dead
            await _ask_within(world, task)


async def _ask_within(world: World, task: Task) -> None:
    """Who holds a slot is not to wait for another: it gets it at once, or is told so at once."""
    before = world.schedule.clock.now
    inner = Task(f"{task.name}'", task.member, need=1)
    world.tasks.append(inner)
    end: End = "refused"
    try:
        with suppress(mt.NestedReservationError, mt.DrainingError):
            reserving: Any = task.member.admission.reserve(1)
            inner.claim = reserving._claim
            async with reserving:
                inner.is_in = True
                await anyio.lowlevel.checkpoint()
                inner.is_in = False
            end = "held"
        assert world.schedule.clock.now - before < 0.01 + world.late, f"{task.name} waited within what it holds"
    finally:
        inner.is_in = False
        inner.ends.append(end)


@dataclass(frozen=True)
class Plan:
    """What one task is to do."""

    options: dict[str, Any]
    timeout: float | None
    is_at_once: bool
    is_dropped: bool
    acts: int


def _planned(random: Random, *, is_of_crowd: bool) -> Plan:
    if is_of_crowd and random.random() < 0.9:
        need = random.randint(1, 200)
    else:
        need = random.choice((0, 1, random.randint(1, 300), random.randint(1, 700), random.randint(500, 950)))
    is_at_once = random.random() < 0.2
    return Plan(
        options={
            "need_bytes": need,
            "priority": random.choice((0, 0, 0, 1, 3, -2)),
            "lane": random.choice((None, None, *_LANES)),
            "slot": random.random() < 0.9,
            "kind": random.choice((None, None, "a")),
        },
        timeout=random.choice((None, None, None, 0.0, 0.03, 1.0, 40.0)),
        is_at_once=is_at_once,
        is_dropped=is_at_once and random.random() < 0.4,
        acts=random.choice((0, 1, 1, 2, 4)),
    )


async def _cancel(world: World, task: Task, scope: anyio.CancelScope, seconds: float) -> None:
    await anyio.sleep(seconds)
    if not task.ends and not task.member.is_dead:
        world.note(f"{task.name} is cancelled")
        task.is_to_be_cancelled = True
        scope.cancel()


async def _play(world: World, tasks: TaskGroup) -> None:
    """Begin all that happens."""
    random = world.random
    spread = random.choice((0.0, 0.01, 1.0, 20.0))

    def member(name: str) -> Member:
        options = {"max_concurrent": world.slots, "max_waiting": random.choice((10_000, 10_000, 3))}
        made = Member(world, name, world.reach, **options)
        for lane, limit in limits.items():
            made.lane(lane, limit)
        return made

    limits = {name: random.randint(1, 3) for name in _LANES}
    members = [member(f"member {number}") for number in range(1 if world.reach == "process" else random.randint(2, 3))]

    async def in_member(task: Task, arrive: float, plan: Plan, cancelled_after: float | None) -> None:
        with anyio.CancelScope() as scope_of_member:
            task.member.scopes.append(scope_of_member)
            async with anyio.create_task_group() as group:
                with anyio.CancelScope() as scope:
                    if cancelled_after is not None:
                        group.start_soon(_cancel, world, task, scope, arrive + cancelled_after)
                    await _live(world, task, arrive, plan)

    is_crowd = random.random() < 0.1
    for number in range(30 if is_crowd else random.randint(1, 10)):
        task = Task(f"task {number}", random.choice(members))
        world.tasks.append(task)
        plan = _planned(random, is_of_crowd=is_crowd)
        cancelled_after = random.choice((None, None, 0.0, random.random() * 0.1, random.random() * 20))
        Context().run(tasks.start_soon, in_member, task, random.uniform(0, spread), plan, cancelled_after)

    for _ in range(random.randint(0, 5)):
        tasks.start_soon(_happen, world, random.uniform(0, spread + 5), limits)
    tasks.start_soon(_relax, world, spread + random.choice((3.0, 3.0, 3.0, 100.0)))


async def _happen(world: World, seconds: float, limits: dict[str, int]) -> None:
    """Something happens that no task has asked for."""
    await anyio.sleep(seconds)
    random, living = world.random, [member for member in world.members if not member.is_dead]
    what = random.choice(("memory", "memory", "memory", "lane", "jump", "drain", "death"))
    if what == "memory":
        world.use(random.choice((0, 100, 300, 550, 700, 950)))
    elif what == "lane" and world.reach == "process":
        name = random.choice(_LANES)
        for member in living:
            member.lane(name, random.randint(1, 3))
    elif what == "jump":  # the machine slept, or something has blocked the loop
        world.note("the clock jumps")
        seconds = random.choice((0.5, 5.0, 90.0))
        world.schedule.clock.now += seconds
        world.late += seconds
        # Nobody could look meanwhile.
        world.relieved_at += seconds
        world.died_at += seconds
        if world.left_since is not None:
            world.left_since += seconds
        world.schedule.clock.wall_offset += random.uniform(-1e5, 1e5)
    elif what == "drain" and living and random.random() < 0.3:
        member = random.choice(living)
        world.note(f"{member.name} drains")
        member.admission.drain()
    elif what == "death" and len(living) > 1:
        member = random.choice(living)
        world.note(f"{member.name} dies")
        world.died_at = world.schedule.clock.now
        member.kill()
        for task in world.tasks:
            if task.member is member:
                task.touched = 0
        world.tell_memory()


async def _relax(world: World, seconds: float) -> None:
    """In the end there is memory again."""
    await anyio.sleep(seconds)
    world.use(0)


def run(random: Random, backend: str, reach: Literal["process", "container"]) -> World:
    """Run one schedule to its end, and see that nothing is left.

    Raises:
        AssertionError: what did not hold, with what happened until then.
    """
    world = World(random, reach)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            await _play(world, tasks)
        await anyio.sleep(1.0)  # until whoever has died must have been found out
        world.check_end()

    try:
        world.schedule.run(backend, main, MOST_SECONDS)
    except BaseException as error:
        error.add_note("\n".join(world.notes[-40:]))
        raise
    finally:
        for member in world.members:
            member.keeper.scope.leave()
    return world
