"""MemoryReader while things change under it: limits, groups, descriptors, processes, threads."""

import errno
import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._memory import cgroup, guard as guard_module, reader as reader_module, reading
from memsafe_transcribe._memory.kept import KeptFile
from memsafe_transcribe._memory.reader import MemoryReader

from ..conftest import open_descriptors
from .machine import UNLIMITED_V1, Tree, v1, v2

MiB = mt.MiB


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path / "machine")
    tree.proc("0::/app\n", v2())
    tree.group("", max="max", high="max", current=50 * MiB, stat="anon 1\ninactive_file 0\n")
    tree.group("app", max=200 * MiB, high="max", current=50 * MiB, stat="anon 1\ninactive_file 0\n")
    return tree


@pytest.fixture
def reader(tree: Tree) -> Iterator[MemoryReader]:
    before = open_descriptors()
    reader = MemoryReader(tree.root)
    yield reader
    reader.close()
    assert open_descriptors() == before


@pytest.fixture
def guard(reader: MemoryReader, monkeypatch: pytest.MonkeyPatch) -> mt.MemoryGuard:
    """A guard of the recorded machine, that counts to the last byte."""
    monkeypatch.setattr(guard_module, "shared_reader", lambda: reader)
    monkeypatch.delenv("MEMSAFE_LIMIT", raising=False)
    return mt.MemoryGuard(threshold_percent=100, ceiling_percent=100)


def limits(reader: MemoryReader) -> list[tuple[str, int]]:
    reader.refresh(0)
    return [(gauge.binding, gauge.limit_bytes // MiB) for gauge in reader.gauges if gauge.binding != "host"]


def test_limits_that_come_change_and_go(tree: Tree, reader: MemoryReader) -> None:
    """Each refresh has the limits of that moment, also of a level that had none before."""
    assert limits(reader) == [("cgroup v2 /app", 200)]
    tree.group("", max=150 * MiB)
    tree.group("app", max=100 * MiB)
    assert limits(reader) == [("cgroup v2 /app", 100), ("cgroup v2 /", 150)]
    tree.group("app", max="max")
    assert limits(reader) == [("cgroup v2 /", 150)]
    tree.group("app", high=90 * MiB)
    assert limits(reader) == [("cgroup v2 /app", 90), ("cgroup v2 /", 150)]


def test_moved_into_another_group(tree: Tree, reader: MemoryReader) -> None:
    """The next refresh follows; nothing of the old group stays open (the fixture looks)."""
    assert limits(reader) == [("cgroup v2 /app", 200)]
    tree.group("other", max=70 * MiB, current=1)
    (tree.root / "proc/self/cgroup").write_text("0::/other\n")
    assert limits(reader) == [("cgroup v2 /other", 70)]


def test_a_group_that_is_removed_and_made_again(tree: Tree, reader: MemoryReader) -> None:
    """While the files are gone there is no limit; once they are back they are read, though they are other files."""
    assert limits(reader) == [("cgroup v2 /app", 200)]
    folder = tree.root / "sys/fs/cgroup/app"
    for file in folder.iterdir():
        file.unlink()
    assert limits(reader) == [("cgroup v2 /app", 200)]  # an open file outlives its name; the kernel's says ENODEV
    reader.close()
    assert limits(reader) == []
    tree.group("app", max=300 * MiB, current=1)
    assert limits(reader) == [("cgroup v2 /app", 300)]


def test_use_is_read_afresh_at_every_question(tree: Tree, guard: mt.MemoryGuard) -> None:
    """Without any refresh in between, what another process has taken is seen."""
    assert guard.check(150 * MiB).used_bytes == 50 * MiB
    tree.group("app", current=51 * MiB)
    with pytest.raises(mt.MemoryPressureError) as caught:
        guard.check(150 * MiB)
    assert caught.value.used_bytes == 51 * MiB
    assert guard.room(exact=False).new_work_bytes == guard.room().new_work_bytes == 149 * MiB


def test_refused_by_fresh_statistics_only(tree: Tree, guard: mt.MemoryGuard) -> None:
    """Cache that filled the group since the last refresh does not count, and cache that became dirty does."""
    guard.check()
    tree.group("app", current=190 * MiB, stat=f"anon 1\ninactive_file {100 * MiB}\nactive_file {40 * MiB}\n")
    assert guard.room(exact=False).new_work_bytes == 10 * MiB
    assert guard.check(150 * MiB).used_bytes == 50 * MiB
    assert guard.room().new_work_bytes == 150 * MiB
    tree.group("app", stat=f"anon 1\ninactive_file {100 * MiB}\nactive_file {40 * MiB}\nfile_dirty {30 * MiB}\n")
    with pytest.raises(mt.MemoryPressureError) as caught:
        guard.check(150 * MiB)
    assert caught.value.used_bytes == 80 * MiB
    assert guard.room().new_work_bytes == 120 * MiB


def test_statistics_are_read_only_where_they_decide(tree: Tree, guard: mt.MemoryGuard) -> None:
    """What passes with nothing deducted reads none; the inner level's cache, just read, is the outer one's too."""
    tree.group("", max=250 * MiB, current=240 * MiB, stat=f"anon 1\ninactive_file {190 * MiB}\n")
    tree.group("app", current=190 * MiB, stat=f"anon 1\ninactive_file {150 * MiB}\n")
    guard.check()
    for level in ("", "app"):
        tree.group(level, stat="anon 1\ninactive_file 0\n")
    assert guard.check(10 * MiB).headroom_bytes == 160 * MiB  # both pass without a look
    tree.group("", current=245 * MiB)
    tree.group("app", stat=f"anon 1\ninactive_file {150 * MiB}\n")
    assert guard.check(100 * MiB)  # the outer one, which has none, would not pass by its own
    assert guard.room().new_work_bytes == 5 * MiB  # where it can matter, its own are read
    with pytest.raises(mt.MemoryPressureError, match="cgroup v2 /,"):
        guard.check(156 * MiB)


def test_rising_by_old_statistics_is_no_rise(tree: Tree, guard: mt.MemoryGuard) -> None:
    """A check that passes does not raise the level for file cache that it had not heard of."""
    guard.check()
    tree.group("app", current=190 * MiB, stat=f"anon 1\ninactive_file {140 * MiB}\n")
    assert guard.check().level is mt.MemoryLevel.OK
    tree.group("app", stat="anon 1\ninactive_file 0\n")
    assert guard.snapshot().level is mt.MemoryLevel.ELEVATED


def test_kernel_events_raise_the_level(tree: Tree, guard: mt.MemoryGuard) -> None:
    """An OOM kill between two looks is seen at the second one, whatever is used by then; the local count goes first."""
    tree.group("app", events="low 0\nhigh 0\nmax 9\noom 3\noom_kill 3\n")
    assert guard.snapshot().level is mt.MemoryLevel.OK
    tree.group("app", events="low 0\nhigh 0\nmax 9\noom 3\noom_kill 4\n")
    assert guard.snapshot().level is mt.MemoryLevel.CRITICAL


def test_events_of_the_groups_below_do_not_count(tree: Tree, guard: mt.MemoryGuard) -> None:
    """memory.events also counts the groups below; where there is a count of the group's own, that one is read."""
    local = {"events.local": "high 1\nmax 1\noom 0\noom_kill 0\n"}
    tree.group("app", **local, events="low 0\nhigh 0\nmax 9\noom 3\noom_kill 3\n")
    guard.snapshot()
    tree.group("app", events="low 0\nhigh 0\nmax 9\noom 3\noom_kill 4\n")
    assert guard.snapshot().level is mt.MemoryLevel.OK
    tree.group("app", **{"events.local": "high 2\nmax 1\noom 0\noom_kill 0\n"})
    assert guard.snapshot().level is mt.MemoryLevel.HIGH


def test_v1_events(tree: Tree, guard: mt.MemoryGuard) -> None:
    """v1 counts in two files; use that reaches the limit is everyday life while there is cache to drop."""
    tree.proc("4:memory:/app\n", v1())
    folder = tree.group("memory/app", limit_in_bytes=200 * MiB, usage_in_bytes=50 * MiB, failcnt=5,
                        oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 0\n",
                        stat=f"cache 1\ntotal_inactive_file {20 * MiB}\n")  # fmt: skip
    assert guard.snapshot().level is mt.MemoryLevel.OK
    (folder / "memory.failcnt").write_text("6\n")
    assert guard.snapshot().level is mt.MemoryLevel.OK
    (folder / "memory.stat").write_text(f"cache 1\ntotal_inactive_file {2 * MiB}\n")
    assert guard.snapshot().level is mt.MemoryLevel.OK
    (folder / "memory.failcnt").write_text("7\n")
    assert guard.snapshot().level is mt.MemoryLevel.CRITICAL


def test_closed_descriptors_are_opened_again(tree: Tree, guard: mt.MemoryGuard, reader: MemoryReader) -> None:
    """A daemon closes everything when it starts; and what then has our numbers is neither read for long nor closed."""
    before = set(open_descriptors())
    guard.snapshot()
    kept = [number for number, path in open_descriptors().items() if number not in before and "sys/fs" in path]
    assert kept
    with (tree.root / "foreign").open("w+") as foreign:
        foreign.write("7\n")
        foreign.flush()
        for number in kept:
            os.close(number)
        assert guard.check().used_bytes == 50 * MiB
        for number in kept:
            os.dup2(foreign.fileno(), number)
        snapshot = guard.snapshot()
        assert (snapshot.limit_bytes, snapshot.used_bytes) == (200 * MiB, 50 * MiB)
        leads = open_descriptors()
        assert all(leads[number] == str(tree.root / "foreign") for number in kept)
        reader.close()
        leads = open_descriptors()
        for number in kept:
            assert leads[number] == str(tree.root / "foreign")
            os.close(number)


def test_out_of_descriptors_is_not_no_such_file(tmp_path: Path) -> None:
    """A limit's file that cannot be opened for want of descriptors is no "no limit"."""
    (tmp_path / "file").write_bytes(b"5\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            KeptFile(str(tmp_path / "file")).number()
        with pytest.raises(OSError, match="Too many open files"):
            cgroup.lines(tmp_path / "file")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("content", [b"", b"words\n", b"max\n", b"-\n"])
def test_a_number_that_is_none(tmp_path: Path, content: bytes) -> None:
    """What is not a number is None, is tried anew, and leaves nothing open behind."""
    file = KeptFile(str(tmp_path / "file"))
    assert file.number() is None
    (tmp_path / "file").write_bytes(content)
    assert file.number() is None
    (tmp_path / "file").write_bytes(b"5\n")
    assert file.number() == 5
    file.close()
    file.close()


def test_a_pipe_in_place_of_our_file(tmp_path: Path) -> None:
    """A number that came to lead to something that cannot be read like a file is left alone, and the file reopened."""
    (tmp_path / "file").write_bytes(b"5\n")
    file = KeptFile(str(tmp_path / "file"))
    assert file.number() == 5
    number = file.descriptor
    source, target = os.pipe()
    os.dup2(source, number)
    assert file.number() == 5
    os.fstat(number)
    file.close()
    for each in (source, target, number):
        os.close(each)


def test_no_descriptors_left(tree: Tree, reader: MemoryReader, guard: mt.MemoryGuard) -> None:
    """Then memory cannot be read, which is said; it is not taken for memory without a limit."""
    guard.check()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    reader.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(open_descriptors()) + 1, hard))
    held: list[int] = []
    try:
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                held.append(os.dup(0))
        with pytest.raises(OSError, match="Too many open files") as caught:
            guard.check()
        assert caught.value.errno == errno.EMFILE
    finally:
        for number in held:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert guard.check().limit_bytes == 200 * MiB


def in_child(report: Callable[[], str]) -> str:
    """What `report` says in a forked child."""
    source, target = os.pipe()
    if not (pid := os.fork()):
        try:
            os.write(target, report().encode())
        finally:
            os._exit(0)
    os.close(target)
    with os.fdopen(source) as answer:
        said = answer.read()
    os.waitpid(pid, 0)
    return said


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("knows", [True, False])
def test_a_forked_child_reads_its_own_figures(monkeypatch: pytest.MonkeyPatch, knows: bool) -> None:
    """Also when Python does not know of the fork; and when another thread held the lock at that moment."""
    reader = MemoryReader()
    grown = bytearray(256 * MiB)
    reader.refresh(0)
    parents = reader.process_rss_bytes
    assert parents > len(grown)

    def report() -> str:
        nonlocal grown
        grown = bytearray()
        with reader.lock:
            reader.refresh(0)
        return f"{reader.process_rss_bytes} {psutil.Process().memory_info().rss}"

    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with reader.lock:
            held.set()
            release.wait(30)

    if not knows:
        reader_module._READERS.discard(reader)  # noqa: SLF001
        release.set()
    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    try:
        said, own = map(int, in_child(report).split())
    finally:
        release.set()
        thread.join()
    assert parents - own > 128 * MiB  # that much would be wrong
    assert abs(said - own) < 32 * MiB  # the kernel counts on each processor, and adds up at times
    reader.close()


def test_many_threads_ask_at_once(tree: Tree, guard: mt.MemoryGuard, reader: MemoryReader) -> None:
    """While limits change and descriptors are closed, each answer is whole."""
    stop = threading.Event()
    answers: list[tuple[int, int]] = []
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            while not stop.is_set():
                snapshot = guard.check()
                answers.append((snapshot.limit_bytes, snapshot.used_bytes))
                guard.room()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for round_ in range(60):
        if round_ % 3:
            reader.close()
        else:
            guard.snapshot()
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors
    assert set(answers) == {(200 * MiB, 50 * MiB)}


RLIMITED = """
import json, mmap, resource, sys
import memsafe_transcribe as mt
resource.setrlimit(getattr(resource, sys.argv[1]), (int(sys.argv[2]), resource.RLIM_INFINITY))
guard = mt.MemoryGuard(threshold_percent=100, ceiling_percent=100)
def said():
    now = guard.snapshot()
    status = dict(line.split(":") for line in open("/proc/self/status") if line.startswith("Vm"))
    counted = int(status[{"RLIMIT_DATA": "VmData", "RLIMIT_AS": "VmSize"}[sys.argv[1]]].split()[0]) * 1024
    print(json.dumps([now.binding, now.source, now.limit_bytes, now.headroom_bytes, guard.room().new_work_bytes,
                      now.used_bytes - counted]))
said()
block = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
said()
try:
    guard.check(int(sys.argv[2]) * 3 // 4)
except mt.MemoryPressureError as error:
    print(json.dumps(str(error)))
"""


@pytest.mark.parametrize("name", ["RLIMIT_DATA", "RLIMIT_AS"])
def test_rlimits(name: str) -> None:
    """A finite rlimit of the process is a limit like others, against what the kernel holds against it."""
    size = 160 * MiB
    environment = {key: value for key, value in os.environ.items() if key != "MEMSAFE_LIMIT"}
    done = subprocess.run(
        [sys.executable, "-c", RLIMITED, name, str(size)], capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.returncode == 0, done.stderr
    before, after, refusal = map(json.loads, done.stdout.splitlines())
    assert before[:3] == after[:3] == [f"{name} of this process", "setrlimit", size]
    assert abs(before[3] - after[3] - 64 * MiB) < 2 * MiB
    assert abs(before[3] - before[4]) < MiB
    assert abs(after[5]) < 64 * 1024  # a stack is twice that
    assert f"{name} of this process" in refusal and "raise the limit (setrlimit)" in refusal


def test_what_tells_this_container_from_others() -> None:
    """The boot, the namespace of process ids and our group are told by numbers that do not change."""
    assert len(reading.boot_id()) == 36 and reading.boot_id() == reading.boot_id()
    namespace = os.readlink("/proc/self/ns/pid")
    assert namespace == f"pid:[{reading.pid_namespace()}]"
    inode = reading.cgroup_inode()
    assert inode is None or inode > 0


@pytest.mark.parametrize("name", ["plain", "a) R (b", "a b", "x\\ny"])
def test_the_state_of_a_process(name: str) -> None:
    """Stopped, then dead but not reaped, then gone, whatever the process calls itself."""
    program = f"import sys; open('/proc/self/comm', 'w').write('{name}'); print(flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"\n"
    assert reading.process_state(process.pid) in {"S", "R", "D"}
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert reading.process_state(process.pid) == "Z"
    assert reading.resident_bytes(process.pid) == 0
    process.communicate()
    assert reading.process_state(process.pid) is None


def test_unlimited_in_v1_takes_no_descriptors_but_for_the_limits(tree: Tree, reader: MemoryReader) -> None:
    """A level without a limit keeps no more open than what tells that it gets one."""
    tree.proc("4:memory:/a/b\n", v1())
    for level in ("memory", "memory/a", "memory/a/b"):
        tree.group(level, limit_in_bytes=UNLIMITED_V1, usage_in_bytes=1, stat="cache 0\n", failcnt=0)
    assert limits(reader) == []
    open_now = [path.removeprefix(str(tree.root)) for path in open_descriptors().values() if str(tree.root) in path]
    assert sum("sys/fs" in path for path in open_now) == 3


NOT_LINUX = """
import os, sys
from pathlib import Path
import psutil  # has its own way on each system
del os.pread, os.register_at_fork, os.sysconf
sys.modules["resource"] = None
import memsafe_transcribe as mt
from memsafe_transcribe._memory import guard
from memsafe_transcribe._memory.reader import MemoryReader
guard.shared_reader = lambda: MemoryReader(Path(sys.argv[1]))
now = mt.MemoryGuard().check(1)
print(now.binding, now.process_rss_bytes)
"""


def test_where_there_is_no_proc(tmp_path: Path) -> None:
    """As on Windows: no cgroups, no rlimits, no pread; the host's figures are left."""
    environment = {key: value for key, value in os.environ.items() if key != "MEMSAFE_LIMIT"}
    done = subprocess.run(
        [sys.executable, "-c", NOT_LINUX, str(tmp_path)], capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.returncode == 0, done.stderr
    binding, rss = done.stdout.split()
    assert binding == "host" and int(rss) > MiB


def test_descendants_without_lists_of_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """On kernels that keep none, they are found all the same."""
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(flush=True); input()'], check=True)"
    with subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"\n"
        found = reading.descendants()
        assert len(found) == 2 and found[0] == process.pid
        monkeypatch.setattr(Path, "exists", lambda path: False)
        assert reading.descendants() == found
        assert process.stdin is not None
        process.stdin.write(b"\n")
