"""Real processes that share one ledger: forked by a nursery that has imported everything, told what to do by pipes.

Each is a program without an event loop: its main thread does what it is told, and every reservation has a thread of
its own. So it can also close all its descriptors, fork, or stop in the middle of a turn.
"""

# ruff: noqa: SLF001 - members do what no host should

import contextlib
import ctypes
import logging
import multiprocessing
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import anyio
import anyio.lowlevel

import memsafe_transcribe as mt
from memsafe_transcribe._admission import finding, table
from memsafe_transcribe._admission.claims import WAITING, Claim
from memsafe_transcribe._admission.keeper import Keeper
from memsafe_transcribe._admission.scope import ContainerScope
from memsafe_transcribe._admission.shared import SharedLedger
from memsafe_transcribe._admission.waiting import Waiter
from memsafe_transcribe._memory import reading
from memsafe_transcribe._memory.pressure import Term

SECONDS = 20.0  # far more than anything takes
STEP_SECONDS = 0.002


class FixedGuard(mt.MemoryGuard):
    """Says always the same room."""

    def __init__(self, room_bytes: int) -> None:
        super().__init__()
        self._fixed = mt.MemoryRoom(
            room_bytes, room_bytes, room_bytes, Term("limit", "told", "told", max(1, room_bytes), 0, 0)
        )

    def room(self, *, exact: bool = True) -> mt.MemoryRoom:
        return self._fixed


class Host:
    """What a member does is a function of this."""

    def __init__(self, connection: Connection, room_bytes: int, max_concurrent: int, lanes: dict[str, int]) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._releases: dict[str, threading.Event] = {}
        self.logged: list[str] = []
        self.kept: list[Any] = []  # what is to live as long as the process
        self.guard = FixedGuard(room_bytes)
        self.admission = mt.AdmissionController(guard=self.guard, max_concurrent=max_concurrent)
        for name, limit in lanes.items():
            self.admission.lane(name, max_concurrent=limit)
        self._settled: set[str] = set()  # which reservations were granted or refused, or wait
        self.keeper.enqueue = self._enqueue  # type: ignore[method-assign]

    @property
    def keeper(self) -> Keeper:
        return self.admission._keeper

    @property
    def scope(self) -> ContainerScope:
        scope = self.keeper.scope
        assert isinstance(scope, ContainerScope)
        return scope

    @property
    def shared(self) -> SharedLedger:
        assert self.scope._shared is not None
        return self.scope._shared

    def tell(self, *message: Any) -> None:
        with self._sending:
            self._connection.send(message)

    def serve(self) -> None:
        """Do what comes, until the other end goes."""
        while True:
            try:
                function, arguments = self._connection.recv()
            except EOFError:
                return
            try:
                self.tell("answer", function(self, *arguments))
            except Exception as error:
                self.tell("raised", f"{type(error).__name__}: {error}")

    def start(self, name: str, need_bytes: int, options: dict[str, Any]) -> None:
        """Reserve in a thread, tell when it is in; return when that is told, or it waits."""
        self._releases[name] = threading.Event()
        threading.Thread(target=self._reserve, args=(name, need_bytes, options), name=name, daemon=True).start()
        until(lambda: name in self._settled)

    def _enqueue(self, claim: Claim, waiter: Waiter) -> None:
        Keeper.enqueue(self.keeper, claim, waiter)
        if claim.state is WAITING:
            self._settled.add(threading.current_thread().name)

    def _reserve(self, name: str, need_bytes: int, options: dict[str, Any]) -> None:
        try:
            with self.admission.reserve_blocking(need_bytes, **options):
                self.tell("in", name, time.monotonic())
                self._settled.add(name)
                self._releases[name].wait()
            self.tell("out", name, time.monotonic())
        except mt.AdmissionError as error:
            self.tell("refused", name, f"{type(error).__name__}: {error}")
            self._settled.add(name)

    def release(self, name: str) -> None:
        self._releases[name].set()


# -- what a member can be told to do


def reserve(host: Host, name: str, need_bytes: int, options: dict[str, Any]) -> None:
    host.start(name, need_bytes, options)


def release(host: Host, name: str) -> None:
    host.release(name)


def hold(host: Host, need_bytes: int) -> None:
    """Reserve on the spot, for as long as the process lives."""
    until(lambda: _is_held(host, need_bytes))  # others have the ledger locked for moments


def _is_held(host: Host, need_bytes: int) -> bool:
    try:
        host.kept.append(host.admission.reserve_nowait(need_bytes))
    except mt.AdmissionRejectedError:
        return False
    return True


def is_granted_now(host: Host, need_bytes: int) -> bool:
    """Whether a reservation is granted at once; it is given back."""
    try:
        host.admission.reserve_nowait(need_bytes).release()
    except mt.AdmissionError:
        return False
    return True


def is_granted(host: Host, need_bytes: int) -> bool:
    """Whether a reservation is granted without waiting for anybody but those who have the ledger locked for a moment.

    It is given back.
    """
    try:
        with host.admission.reserve_blocking(need_bytes, timeout_seconds=0.1):
            return True
    except mt.AdmissionError:
        return False


def statistics(host: Host) -> mt.AdmissionStatistics:
    return host.admission.statistics()


def logged(host: Host) -> list[str]:
    return host.logged


def leave(host: Host) -> None:
    host.scope.leave()


def member_pids(host: Host) -> list[int]:
    """All other members that the ledger knows."""
    return sorted(member.pid for member in host.shared.present())


def file_identity(host: Host) -> tuple[int, int] | None:
    return host.shared._file


def begin_and_hang(host: Host) -> None:
    """Take the ledger's lock, say so, and stay there for ever."""
    while host.scope.begin(host.keeper.ledger) is None:
        time.sleep(STEP_SECONDS)
    host.tell("answer", None)
    threading.Event().wait()


def begin_join_and_hang(host: Host) -> None:
    """The same in the middle of joining, when the file is made but not yet written."""

    def hang(*_: Any) -> bytes:
        host.tell("answer", None)
        threading.Event().wait()
        raise AssertionError

    table.pack_header = hang  # type: ignore[assignment]
    host.admission.reserve_nowait(1)


def half_write_and_hang(host: Host, number: int) -> None:
    """Within a turn, write the first `number` bytes of a record that claims much; then stay there for ever."""
    while host.scope.begin(host.keeper.ledger) is None:
        time.sleep(STEP_SECONDS)
    shared = host.shared
    assert shared._seat is not None
    record = table.pack_front(os.getpid(), time.monotonic_ns()) + table.pack_held(3, 1 << 40, 1 << 40, 5, 2.5, {7: 3})
    os.pwrite(shared._fd, record[:number], table.record_at(shared._seat))
    host.tell("answer", None)
    threading.Event().wait()


def begin_then_raise(host: Host) -> None:
    """Be interrupted, as by a signal handler that raises, just after the lock was taken; then go on as usual."""
    lock, shared = SharedLedger._lock, host.shared

    def interrupted(self: SharedLedger) -> bool:
        if lock(self):
            raise KeyboardInterrupt
        return False

    shared._lock = interrupted.__get__(shared)  # type: ignore[method-assign]
    try:
        host.admission.reserve_nowait(1).release()
    except KeyboardInterrupt:
        del shared._lock
        return
    raise AssertionError


def poll(host: Host) -> None:
    """Take a turn, as one that waits does: from then on others know that this member lives."""
    until(lambda: _has_turn(host))


def seen_of_the_queue(host: Host) -> tuple[int, bool]:
    """How many wait elsewhere, and whether it is known how long a slot is held there."""
    host.admission.statistics()
    others = host.keeper.others
    return others.waiting, others.hold_seconds > 0


def is_locked(host: Host) -> bool:
    """Whether somebody keeps the ledger locked, and not just for a moment."""
    try:
        until(lambda: _has_turn(host), 0.1)
    except TimeoutError:
        return True
    return False


def _has_turn(host: Host) -> bool:
    others = host.scope.begin(host.keeper.ledger)
    if others is not None:
        host.scope.commit(host.keeper.ledger, others)
    return others is not None


def join_while_removed(host: Host) -> None:
    """Join a ledger whose name a cleaner removes just after it was opened."""
    open_named = finding.open_named

    def opened_and_removed(folder: Path) -> int:
        fd = open_named(folder)
        (folder / finding.NAME).unlink()
        folder.rmdir()
        finding.open_named = open_named
        return fd

    finding.open_named = opened_and_removed
    hold(host, 1)


def fork(host: Host, need_bytes: int) -> tuple[int, int, int, list[int]]:
    """Fork a child that looks at its own statistics, takes `need_bytes` if it gets them, and lives on.

    Returns:
        Its pid, what it holds before, what others hold then, and whom it sees.
    """
    ours, its = socket.socketpair()
    pid = os.fork()
    if pid:
        its.close()
        with Connection(ours.detach()) as connection:
            if not connection.poll(SECONDS):
                raise TimeoutError
            active, others_active, pids = connection.recv()
            return pid, active, others_active, pids
    try:
        ours.close()
        before = host.admission.statistics().active
        host.kept = [host.admission.reserve_nowait(need_bytes)]
        others_active = host.admission.statistics().others_active
        with Connection(its.detach()) as connection:
            connection.send((before, others_active, member_pids(host)))
        os.closerange(0, 3)
        threading.Event().wait(3 * SECONDS)
    finally:
        os._exit(0)


def fork_quietly(host: Host) -> int:
    """Fork a child that never touches admission, and lives on."""
    pid = os.fork()
    if pid:
        return pid
    os.closerange(0, 3)
    signal.pause()
    os._exit(0)


def fork_in_pid_namespaces(host: Host) -> tuple[int, int]:
    """A child with pid 1 reserves 60, and forks into yet another namespace, where the grandchild has pid 1 and ends.

    Returns:
        The pids of child and grandchild, each as it sees it. The child lives on, and takes no more turns.
    """
    ours, its = socket.socketpair()
    _unshare(0x20000000)  # CLONE_NEWPID
    if os.fork() == 0:
        try:
            ours.close()
            hold(host, 60)
            _unshare(0x20000000)
            grandchild = os.fork()
            with Connection(its.detach()) as connection:
                connection.send(os.getpid())
                if grandchild == 0:
                    os._exit(0)
            os.waitpid(grandchild, 0)
            host._connection.close()
            threading.Event().wait(3 * SECONDS)
        finally:
            os._exit(0)
    its.close()
    with Connection(ours.detach()) as connection:
        found = connection.recv(), connection.recv()
        with contextlib.suppress(EOFError):  # both have closed it: the grandchild has ended, or will not do any more
            connection.recv()
        return found


def _unshare(flags: int) -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(flags):
        raise PermissionError(ctypes.get_errno())


def multiprocess(host: Host, need_bytes: int) -> tuple[int, int, int]:
    """What a child of multiprocessing holds first, what others hold then, and what is left when it has reserved."""
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()

    def run() -> None:
        before = host.admission.statistics()
        with host.admission.reserve_blocking(need_bytes):
            queue.put((before.active, before.others_active, host.admission.statistics().budget_bytes))

    process = context.Process(target=run)
    process.start()
    found: tuple[int, int, int] = queue.get()
    process.join(SECONDS)
    return found


def start_program(host: Host, close_fds: bool) -> tuple[int, list[str]]:
    """Start another program by Popen, which lives on. Its pid, and what its descriptors lead to."""
    child = subprocess.Popen(
        [sys.executable, "-S", "-c", "import time; print(flush=True); time.sleep(60)"],
        close_fds=close_fds,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    host.kept.append(child)
    assert child.stdout is not None
    child.stdout.readline()
    folder = f"/proc/{child.pid}/fd"
    return child.pid, [os.readlink(f"{folder}/{name}") for name in os.listdir(folder)]


def exec_another(host: Host) -> None:
    """Become another program, which only says what its descriptors lead to, and lives on."""
    program = (
        "import os, sys, time; from multiprocessing.connection import Connection; "
        "Connection(3).send(('answer', [os.readlink(f'/proc/self/fd/{n}') for n in range(64) "
        "if os.path.exists(f'/proc/self/fd/{n}')])); time.sleep(60)"
    )
    os.dup2(host._connection.fileno(), 3, inheritable=True)
    os.execv(sys.executable, [sys.executable, "-c", program])


def close_all_and_reuse(host: Host, folder: str) -> list[str]:
    """Close every descriptor but the one to the test, and open files of our own in their place."""
    keep = host._connection.fileno()
    os.closerange(3, keep)
    os.closerange(keep + 1, 256)
    paths = []
    for number in range(64):
        paths.append(f"{folder}/{os.getpid()}-{number}")
        fd = os.open(paths[-1], os.O_RDWR | os.O_CREAT, 0o600)
        os.write(fd, b"precious" * 8000)
    return paths


def close_all(host: Host) -> None:
    keep = host._connection.fileno()
    os.closerange(3, keep)
    os.closerange(keep + 1, 256)


def enter_group(host: Host, procs: str) -> None:
    Path(procs).write_text(str(os.getpid()))


def unshare_groups(host: Host) -> None:
    """See its group as the root from now on."""
    _unshare(0x02000000)  # CLONE_NEWCGROUP


def hide_groups(host: Host) -> None:
    """Find no memory group."""
    reading.cgroup_inode = lambda: None


def folder_in_another_pid_namespace(host: Host) -> str:
    """Where a child in a pid namespace of its own looks for the ledger."""
    _unshare(0x20000000)  # CLONE_NEWPID
    ours, its = os.pipe()
    if os.fork() == 0:
        os.write(its, os.fsencode(finding.default_folder()))
        os._exit(0)
    os.close(its)
    with os.fdopen(ours) as pipe:
        return pipe.read()


def become(host: Host, uid: int) -> None:
    os.setgid(uid)
    os.setuid(uid)


def run_blocked_loop(host: Host, need_bytes: int) -> None:
    """Wait in a task of an event loop whose thread then is blocked by something else, until `release("loop")`."""
    host._releases["loop"] = threading.Event()
    is_blocked = threading.Event()

    async def wait() -> None:
        async with host.admission.reserve(need_bytes):
            host.tell("in", "loop", time.monotonic())

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            while not host.keeper.ledger.waiting:
                await anyio.lowlevel.checkpoint()
            is_blocked.set()
            host._releases["loop"].wait()  # blocks the loop: that is the point

    threading.Thread(target=anyio.run, args=(main,), daemon=True).start()
    is_blocked.wait(SECONDS)


def unblock(host: Host) -> None:
    host.release("loop")


def come_and_go(host: Host, times: int) -> list[str]:
    """Join and leave that often; what was said meanwhile."""
    for _ in range(times):
        until(lambda: is_granted(host, 1))
        host.scope.leave()
    return host.logged


def make_controllers(host: Host, number: int) -> str:
    """Let this process join that many times more; how far the last one's limits reach."""
    for _ in range(number):
        admission = mt.AdmissionController(guard=host.guard)
        admission.reserve_nowait(1).release()
        host.kept.append(admission)
    return admission.statistics().scope


def until(condition: Callable[[], bool], seconds: float = SECONDS) -> float:
    """Wait for a condition that nobody announces; how long it took.

    Raises:
        TimeoutError: it did not come true.
    """
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > seconds:
            raise TimeoutError(f"not within {seconds} s")
        time.sleep(STEP_SECONDS)
    return time.monotonic() - started


# -- the test's end


class Member:
    """The test's handle of one process."""

    def __init__(self, pid: int, connection: Connection) -> None:
        self.pid = pid
        self._connection = connection
        self._pidfd = os.pidfd_open(pid)
        self._events: dict[tuple[str, str], Any] = {}

    def do(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Let the member call this, and return what it returned."""
        self.begin(function, *arguments)
        return self.answer()

    def begin(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Let the member call this; `answer` is to be called later."""
        self._connection.send((function, arguments))

    def answer(self) -> Any:
        while True:
            kind, *rest = self._next(SECONDS)
            if kind == "answer":
                return rest[0]
            if kind == "raised":
                raise AssertionError(f"member {self.pid}: {rest[0]}")

    def reserve(self, name: str, need_bytes: int = 1, **options: Any) -> None:
        """Start to reserve; returns when it is in or waits."""
        self.do(reserve, name, need_bytes, options)

    def release(self, name: str) -> None:
        self.do(release, name)
        self.event("out", name)

    def is_in(self, name: str) -> bool:
        self._gather()
        return ("in", name) in self._events

    def event(self, kind: str, name: str, seconds: float = SECONDS) -> Any:
        """Wait for it: the time of "in" or "out", the text of "refused"."""
        until_seconds = time.monotonic() + seconds
        while (kind, name) not in self._events:
            self._next(until_seconds - time.monotonic())
        return self._events[kind, name]

    def statistics(self) -> mt.AdmissionStatistics:
        found = self.do(statistics)
        assert isinstance(found, mt.AdmissionStatistics)
        return found

    def _gather(self) -> None:
        while self._connection.poll(0):
            self._next(0)

    def _next(self, seconds: float) -> tuple[Any, ...]:
        if not self._connection.poll(max(0, seconds)):
            raise TimeoutError(f"member {self.pid} says nothing")
        message: tuple[Any, ...] = self._connection.recv()
        if message[0] in ("in", "out", "refused"):
            self._events[message[0], message[1]] = message[2]
        return message

    def signal(self, number: int) -> None:
        signal.pidfd_send_signal(self._pidfd, number)

    def stop(self) -> None:
        """SIGSTOP, and wait until it is stopped."""
        self.signal(signal.SIGSTOP)
        stat = Path(f"/proc/{self.pid}/stat")
        until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")

    def stop_between_turns(self, other: "Member") -> None:
        """Stop it while it waits, but not with the ledger locked, as `other` can see."""
        self.stop()
        while other.do(is_locked):
            self.signal(signal.SIGCONT)
            self.stop()

    def kill(self) -> float:
        """SIGKILL, and wait until it is gone; when it was."""
        self.signal(signal.SIGKILL)
        assert select.select([self._pidfd], [], [], SECONDS)[0]
        return time.monotonic()

    def close(self) -> None:
        """Kill it if it still lives."""
        with contextlib.suppress(ProcessLookupError):
            self.kill()
        self._connection.close()
        os.close(self._pidfd)


class Nursery:
    """One process that has imported everything and only forks: a member is there in milliseconds."""

    def __init__(self) -> None:
        ours, its = socket.socketpair()
        with its:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(its.fileno())], pass_fds=[its.fileno()], stdin=subprocess.DEVNULL
            )
        self._socket = ours

    def start(self, room_bytes: int, max_concurrent: int, lanes: dict[str, int], environment: dict[str, str]) -> Member:
        ours, its = socket.socketpair()
        with its:
            socket.send_fds(self._socket, [b"!"], [its.fileno()])
        connection = Connection(ours.detach())
        connection.send((room_bytes, max_concurrent, lanes, environment))
        if not connection.poll(SECONDS):
            raise TimeoutError("the nursery forks no member")
        return Member(connection.recv(), connection)

    def close(self) -> None:
        self._socket.close()
        self._process.wait(SECONDS)


class Family:
    """The members of one test, all on one ledger folder; none outlives the test."""

    def __init__(self, nursery: Nursery, folder: Path) -> None:
        self._nursery = nursery
        self.folder = folder
        self._members: list[Member] = []

    def start(
        self,
        room_bytes: int = 100,
        max_concurrent: int = 3,
        *,
        lanes: dict[str, int] | None = None,
        environment: dict[str, str] | None = None,
    ) -> Member:
        environment = {"MEMSAFE_LEDGER_DIR": str(self.folder), **(environment or {})}
        member = self._nursery.start(room_bytes, max_concurrent, lanes or {}, environment)
        self._members.append(member)
        return member

    def ledgers(self) -> list[Path]:
        """The folders of all ledgers that are there by name."""
        return sorted(self.folder.iterdir())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for member in self._members:
            member.close()


@contextmanager
def nursery() -> Iterator[Nursery]:
    found = Nursery()
    try:
        yield found
    finally:
        found.close()


def _nurse(control: socket.socket) -> None:
    """Fork a member for each descriptor that comes, until the other end goes."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    while True:
        message, fds, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        if os.fork() == 0:
            control.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            try:
                _live(Connection(fds[0]))
            finally:
                os._exit(0)
        os.close(fds[0])


def _live(connection: Connection) -> None:
    room_bytes, max_concurrent, lanes, environment = connection.recv()
    os.environ.update(environment)
    host = Host(connection, room_bytes, max_concurrent, lanes)
    handler = logging.Handler()
    handler.emit = lambda record: host.logged.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("memsafe_transcribe").addHandler(handler)
    connection.send(os.getpid())
    host.serve()


if __name__ == "__main__":
    from tests.admission import members  # what is pickled names this module so

    members._nurse(socket.socket(fileno=int(sys.argv[1])))
