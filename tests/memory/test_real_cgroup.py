"""What the kernel itself counts: a program inside groups with real limits, cgroup v1 or v2, whichever is here.

Making groups takes root and a writable hierarchy. Without them these tests are skipped; where CI is set, they fail.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._memory.reading import filesystem_type

from ..support.groups import Groups, GroupsUnavailableError, nested_groups
from ..support.needs import cannot

MiB = mt.MiB
OUTER, INNER = 200 * MiB, 256 * MiB
X = 32 * MiB
TOLERANCE = 4 * MiB

# Prints what the guard sees, takes X bytes in the way it is told to, and prints it again.
MEASURE = """
import dataclasses, json, mmap, os, sys
from pathlib import Path
import memsafe_transcribe as mt

kind, path, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
guard = mt.MemoryGuard()

def look():
    now = guard.snapshot()
    source = Path(now.source)
    usage = source.with_name("memory.usage_in_bytes" if "in_bytes" in source.name else "memory.current")
    print(json.dumps({**dataclasses.asdict(now), "usage_bytes": int(usage.read_text())}), flush=True)

def read():
    with open(path, "rb") as file:
        while file.read(1 << 20):
            pass

piece = bytes(1 << 20)
guard.snapshot()
look()
if kind == "anonymous":
    block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for offset in range(0, size, 4096):
        block[offset] = 1
else:
    with open(path, "wb") as file:
        for _ in range(size >> 20):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    if kind == "cache":
        read()
        read()
look()
"""

# Asks for more than the group can give, for what fits, and for more beside it than is left.
ADMIT = """
import json
import anyio
import memsafe_transcribe as mt

said = []

async def hold(admission, is_in, leave):
    async with admission.reserve(50 * mt.MiB, timeout_seconds=0) as held:
        said.append(held.need_bytes)
        is_in.set()
        await leave.wait()

async def main():
    admission = mt.AdmissionController()
    try:
        async with admission.reserve(190 * mt.MiB):
            said.append("let in")
    except mt.ReservationTooLargeError as error:
        said.append([str(error), error.limit_bytes, error.ceiling_bytes])
    is_in, leave = anyio.Event(), anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold, admission, is_in, leave)
        await is_in.wait()
        try:
            async with admission.reserve(80 * mt.MiB, timeout_seconds=0):
                said.append("let in")
        except mt.AdmissionTimeoutError as error:
            said.append(str(error))
        leave.set()
    async with admission.reserve(80 * mt.MiB, timeout_seconds=0) as held:
        said.append(held.need_bytes)
    print(json.dumps(said))

anyio.run(main)
"""

# Asks as quickly as it can until it is refused, and prints when that was.
UNTIL_REFUSED = """
import time
import memsafe_transcribe as mt

guard = mt.MemoryGuard()
guard.check(1)
print("0", flush=True)
try:
    while True:
        guard.check(1)
except mt.MemoryPressureError:
    print(time.monotonic())
"""

# A child of the guard's process is killed for using too much; what the guard says before, soon after, and later.
OOM_KILL = """
import json, subprocess, sys
import memsafe_transcribe as mt

fill = "open('/proc/self/oom_score_adj', 'w').write('1000'); b = bytearray(400 << 20)"
guard = mt.MemoryGuard()
print(json.dumps(guard.snapshot().level.name))
print(subprocess.run([sys.executable, "-c", fill]).returncode)
now = guard.snapshot()
print(json.dumps([now.level.name, now.percent]))
"""

# Becomes a daemon: forks, and closes whatever is open.
DAEMONIZE = """
import json, os
import memsafe_transcribe as mt

guard = mt.MemoryGuard()
parent = guard.check(1)
if (pid := os.fork()):
    os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
os.setsid()
os.closerange(3, 1024)
block = bytearray(64 << 20)
taken = [os.open("/dev/null", os.O_RDONLY) for _ in range(40)]  # the numbers that were ours
first, second = guard.check(1), guard.snapshot()
assert all(os.fstat(number).st_rdev == os.stat("/dev/null").st_rdev for number in taken)
print(json.dumps([[now.binding, now.used_bytes] for now in (parent, first, second)]))
"""

WHERE = """
import json
import memsafe_transcribe as mt

now = mt.MemoryGuard().snapshot()
print(json.dumps([now.binding, now.limit_bytes]))
"""

FILL = "import sys; block = b'x' * int(sys.argv[1]); print(flush=True); sys.stdin.read()"


@contextmanager
def started(groups: Groups, folder: Path, program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python program that runs in a group; when its first line is there, this is entered."""
    command = groups.command(folder, sys.executable, "-c", program, *arguments)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment()) as process:
        assert process.stdout is not None and process.stdout.readline()
        yield process


def run_inside(groups: Groups, program: str, *arguments: str, wrapper: Sequence[str] = ()) -> list[Any]:
    """Run a Python program in the inner group to its end; what it printed, line by line."""
    command = groups.command(groups.inner, *wrapper, sys.executable, "-c", program, *arguments)
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment(), timeout=300
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def measure(groups: Groups, kind: str, path: Path = Path("-")) -> tuple[dict[str, Any], dict[str, Any]]:
    """Before and after X bytes were taken, while a sibling's process fills half of the outer group."""
    with started(groups, groups.sibling, FILL, str(OUTER // 2)):
        before, after = run_inside(groups, MEASURE, kind, str(path), str(X))
    return before, after


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "MEMSAFE_LIMIT"}


@pytest.fixture
def groups() -> Iterator[Groups]:
    try:
        with nested_groups(outer_bytes=OUTER, inner_bytes=INNER) as groups:
            yield groups
    except GroupsUnavailableError as error:
        cannot(str(error))


def test_the_outer_limit_binds_and_touched_memory_counts(groups: Groups) -> None:
    """Of 256 MiB within 200 MiB, half filled by others, the outer limit binds; X touched bytes take X of its room."""
    before, after = measure(groups, "anonymous")
    for look in (before, after):
        assert look["limit_bytes"] == OUTER
        assert look["binding"] == f"cgroup {groups.version} /{groups.outer.name}"
        assert look["source"] == str(groups.limit_file)
    assert 40 * MiB < before["headroom_bytes"] < OUTER // 2
    assert abs(before["headroom_bytes"] - after["headroom_bytes"] - X) < TOLERANCE
    assert abs(after["process_rss_bytes"] - before["process_rss_bytes"] - X) < TOLERANCE


def test_files_on_tmpfs_count(groups: Groups) -> None:
    """X bytes written to tmpfs take X of the headroom: they are memory that cannot be dropped."""
    path = Path("/dev/shm") / groups.outer.name
    if filesystem_type(path.parent) != "tmpfs":
        cannot("/dev/shm is no tmpfs here")
    try:
        before, after = measure(groups, "tmpfs", path)
    finally:
        path.unlink(missing_ok=True)
    assert abs(before["headroom_bytes"] - after["headroom_bytes"] - X) < TOLERANCE


def test_clean_file_cache_does_not_count(groups: Groups, tmp_path: Path) -> None:
    """X bytes of a file on disk fill the page cache, which the kernel counts as usage, and take no headroom."""
    if filesystem_type(tmp_path) == "tmpfs":
        cannot("the folder for temporary files is memory here")
    before, after = measure(groups, "cache", tmp_path / "file")
    assert after["usage_bytes"] - before["usage_bytes"] > X - TOLERANCE
    assert abs(before["headroom_bytes"] - after["headroom_bytes"]) < TOLERANCE


def test_admission_in_a_small_group(groups: Groups) -> None:
    """What can never fit is refused at once, what fits is let in, and no memory is promised twice."""
    too_large, first, beside, later = run_inside(groups, ADMIT)[0]
    message, limit_bytes, ceiling_bytes = too_large
    assert (limit_bytes, ceiling_bytes) == (OUTER, OUTER * 9 // 10)
    assert str(groups.limit_file) in message
    assert (first, later) == (50 * MiB, 80 * MiB)
    assert "50.0 MiB are promised already" in beside and groups.outer.name in beside


def test_a_limit_that_is_lowered_refuses_at_once(groups: Groups) -> None:
    """While the program runs; within 200 ms."""
    with started(groups, groups.inner, UNTIL_REFUSED) as process:
        lowered = time.monotonic()
        groups.limit_file.write_text(str(14 * MiB))
        assert process.stdout is not None
        refused = float(process.stdout.read())
    assert 0 <= refused - lowered < 0.2


def test_an_oom_kill_is_critical(groups: Groups) -> None:
    """Though by the time of the look the memory is free again."""
    before, died_of, (level, percent) = run_inside(groups, OOM_KILL)
    assert (before, died_of) == ("OK", -signal.SIGKILL)
    assert level == "CRITICAL" and percent < 40


def test_a_daemon_that_closed_our_descriptors(groups: Groups) -> None:
    """Forked, with every descriptor closed and its number taken by something else: the same group, its own use."""
    ((parent, first, second),) = run_inside(groups, DAEMONIZE)
    assert parent[0] == first[0] == second[0] == f"cgroup {groups.version} /{groups.outer.name}"
    assert first[1] - parent[1] > 60 * MiB and second[1] - parent[1] > 60 * MiB


def test_our_own_group_is_found_from_a_cgroup_namespace(groups: Groups) -> None:
    """Where the path is said to be "/", and the mount, made outside, begins above it: "/../..", or further."""
    if shutil.which("unshare") is None:
        cannot("unshare is not installed")
    (groups.inner / groups.limit_file.name).write_text(str(128 * MiB))
    ((binding, limit_bytes),) = run_inside(groups, WHERE, wrapper=["unshare", "--cgroup"])
    assert (binding, limit_bytes) == (f"cgroup {groups.version} /{groups.outer.name}/inner", 128 * MiB)


@pytest.mark.parametrize("has_own_limit", [True, False])
def test_a_limit_above_the_namespace(groups: Groups, tmp_path: Path, has_own_limit: bool) -> None:
    """Only the own group is mounted. v1 still tells the limits above it in the statistics, v2 does not."""
    if shutil.which("unshare") is None:
        cannot("unshare is not installed")
    if not has_own_limit:
        (groups.inner / groups.limit_file.name).write_text("-1" if groups.version == "v1" else "max")
    kind, options = ("cgroup", ["-o", "memory"]) if groups.version == "v1" else ("cgroup2", [])
    mounted = shlex.join(["mount", "-t", kind, *options, kind, str(tmp_path)])
    point = shlex.quote(str(groups.outer.parent))
    wrapper = ["unshare", "--cgroup", "--mount", "sh", "-c", f'{mounted} && umount -l {point} && exec "$@"', "sh"]
    ((binding, limit_bytes),) = run_inside(groups, WHERE, wrapper=wrapper)
    if groups.version == "v1":
        assert (binding, limit_bytes) == ("cgroup v1 /", OUTER)
    elif has_own_limit:
        assert (binding, limit_bytes) == ("cgroup v2 /", INNER)
    else:
        assert binding == "host"
