"""MemoryReader over recorded trees of /proc and /sys: which limits hold here, and what counts against them."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._memory import reading
from memsafe_transcribe._memory.pressure import Term, binding_term

from ..support.memory import tell
from .machine import UNLIMITED_V1, Tree, v1, v2

MiB = mt.MiB


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "machine")


def test_v2_with_a_namespace(tree: Tree) -> None:
    """Inside a namespace the path is "/", and the mount's top is the container's own group."""
    tree.proc("0::/\n", v2())
    folder = tree.group("", max=512 * MiB, high="max", current=100 * MiB, stat="anon 1\n")
    assert tree.terms() == [
        Term("limit", "cgroup v2 /", str(folder / "memory.max"), 512 * MiB, 100 * MiB, 100 * MiB),
    ]


@pytest.mark.parametrize("inside", ["", "/worker"])
def test_v2_without_a_namespace(tree: Tree, inside: str) -> None:
    """The path is the host's, the mount shows its end only: the part that both share is taken off."""
    tree.proc(f"0::/docker/4fa6{inside}\n", v2(root="/docker/4fa6"))
    tree.group("", max=512 * MiB, current=100 * MiB)
    tree.group("worker", max=400 * MiB, current=50 * MiB)
    expected = [("cgroup v2 /", 512 * MiB)]
    if inside:
        expected.insert(0, ("cgroup v2 /worker", 400 * MiB))
    assert [(term.binding, term.limit_bytes) for term in tree.terms()] == expected


def test_v2_parent_binds_when_siblings_eat_its_limit(tree: Tree) -> None:
    """The level with the least headroom binds, though its limit is the larger one; levels without one are passed."""
    tree.proc("0::/kubepods/pod1/app\n", v2())
    tree.group("", current=1)  # the real root has no memory.max
    tree.group("kubepods", max="max", high="max", current=900 * MiB)
    tree.group("kubepods/pod1", max=300 * MiB, high="max", current=290 * MiB)
    tree.group("kubepods/pod1/app", max=256 * MiB, high="max", current=50 * MiB)
    terms = tree.all_terms()
    assert [term.binding for term in terms] == ["cgroup v2 /kubepods/pod1/app", "cgroup v2 /kubepods/pod1", "host"]
    assert binding_term(terms).binding == "cgroup v2 /kubepods/pod1"
    assert binding_term(terms).headroom_bytes == 10 * MiB


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"max": 512 * MiB, "high": 384 * MiB}, ("memory.high", 384 * MiB)),
        ({"max": 384 * MiB, "high": 512 * MiB}, ("memory.max", 384 * MiB)),
        ({"max": "max", "high": 384 * MiB}, ("memory.high", 384 * MiB)),
        ({"max": 512 * MiB}, ("memory.max", 512 * MiB)),
    ],
)
def test_v2_the_lower_of_high_and_max_counts(
    tree: Tree, limits: dict[str, int | str], expected: tuple[str, int]
) -> None:
    """memory.high throttles before memory.max kills, so the lower of the two is the limit."""
    tree.proc("0::/\n", v2())
    tree.group("", current=1, **limits)
    (term,) = tree.terms()
    assert (Path(term.source).name, term.limit_bytes) == expected


def test_v2_max_is_no_limit(tree: Tree) -> None:
    """Where the files say "max", only the host's RAM is left."""
    tree.proc("0::/\n", v2())
    tree.group("", max="max", high="max", current=100 * MiB)
    assert tree.terms() == []
    assert [term.kind for term in tree.all_terms()] == ["host"]


def test_v1_unlimited_group_below_a_limited_one(tree: Tree) -> None:
    """v1 writes "unlimited" as a huge number; the parent's limit holds, with its hierarchical statistics."""
    tree.proc("5:cpuset:/a/b\n4:memory:/a/b\n0::/\n", v1())
    tree.group("memory", limit_in_bytes=UNLIMITED_V1, usage_in_bytes=2000 * MiB)
    folder = tree.group(
        "memory/a",
        limit_in_bytes=256 * MiB,
        usage_in_bytes=200 * MiB,
        stat=f"inactive_file 0\nactive_file 0\ntotal_inactive_file {30 * MiB}\ntotal_active_file {20 * MiB}\n",
    )
    tree.group("memory/a/b", limit_in_bytes=UNLIMITED_V1, usage_in_bytes=150 * MiB)
    source = str(folder / "memory.limit_in_bytes")
    assert tree.terms() == [Term("limit", "cgroup v1 /a", source, 256 * MiB, 150 * MiB, 170 * MiB)]


def test_v1_docker_without_a_namespace(tree: Tree) -> None:
    """As Docker shows v1: the path is the host's, and the mount is the container's own group."""
    tree.proc("11:memory:/docker/4fa6\n3:cpu,cpuacct:/docker/4fa6\n0::/system.slice\n", v1(root="/docker/4fa6"))
    tree.group("memory", limit_in_bytes=256 * MiB, usage_in_bytes=100 * MiB)
    assert [(term.binding, term.limit_bytes) for term in tree.terms()] == [("cgroup v1 /", 256 * MiB)]


def test_hybrid_machine_counts_by_v1(tree: Tree) -> None:
    """With both `memory:` and `0::` there, the v1 controller is the one that counts, whatever v2 shows."""
    tree.proc("4:memory:/app\n0::/app\n", v2(point="/sys/fs/cgroup/unified") + v1())
    tree.group("unified/app", max=64 * MiB, current=1 * MiB)
    tree.group("memory/app", limit_in_bytes=256 * MiB, usage_in_bytes=100 * MiB)
    assert [(term.binding, term.limit_bytes) for term in tree.terms()] == [("cgroup v1 /app", 256 * MiB)]


@pytest.mark.parametrize("path", ["/../other", "/gone (deleted)", "/.."])
def test_a_group_that_cannot_be_seen_is_stood_for_by_the_top(tree: Tree, path: str) -> None:
    """A process moved out of its namespace, or into a group since removed: nothing outside the mount is read."""
    tree.proc(f"0::{path}\n", v2())
    tree.group("", max=512 * MiB, current=100 * MiB)
    (tree.root / "sys/fs/other").mkdir()
    (tree.root / "sys/fs/other/memory.max").write_text("1\n")
    (tree.root / "sys/fs/other/memory.current").write_text("1\n")
    assert [(term.binding, term.limit_bytes) for term in tree.terms()] == [("cgroup v2 /", 512 * MiB)]


def test_missing_files(tree: Tree) -> None:
    """Without /proc files, a memory mount, a usage file or statistics: no error, and nothing taken as clean cache."""
    assert tree.terms() == []
    (tree.root / "proc/self/cgroup").write_text("0::/\n")
    assert tree.terms() == []
    tree.proc("0::/\n", "")
    assert tree.terms() == []
    tree.proc("3:cpu:/\n", v2())
    assert tree.terms() == []
    tree.proc("0::/\n", v2())
    assert tree.terms() == []
    tree.group("", max=512 * MiB)
    assert tree.terms() == []
    tree.group("", current=100 * MiB)
    assert [term.used_bytes for term in tree.terms()] == [100 * MiB]


def test_only_clean_file_cache_is_left_out(tree: Tree) -> None:
    """tmpfs, and file pages that are dirty or being written back, cannot simply be dropped: they count as used."""
    tree.proc("0::/\n", v2())
    stat = {
        "anon": 20 * MiB,
        "file": 160 * MiB,
        "shmem": 40 * MiB,  # tmpfs: within `file`, but on the anonymous lists
        "file_dirty": 8 * MiB,
        "file_writeback": 4 * MiB,
        "inactive_anon": 60 * MiB,
        "inactive_file": 70 * MiB,
        "active_file": 50 * MiB,
    }
    tree.group("", max=512 * MiB, current=180 * MiB, stat="\n".join(f"{name} {value}" for name, value in stat.items()))
    (term,) = tree.terms()
    assert term.used_bytes == (20 + 40 + 8 + 4) * MiB
    assert term.working_set_bytes == (180 - 70) * MiB


def test_v1_dirty_and_writeback_count(tree: Tree) -> None:
    """The same under v1, whose names differ."""
    tree.proc("4:memory:/\n", v1())
    stat = f"total_inactive_file {70 * MiB}\ntotal_active_file {50 * MiB}\ntotal_dirty {8 * MiB}\n"
    stat += f"total_writeback {4 * MiB}\ndirty 0\nwriteback 0\n"
    tree.group("memory", limit_in_bytes=512 * MiB, usage_in_bytes=180 * MiB, stat=stat)
    assert [term.used_bytes for term in tree.terms()] == [72 * MiB]


def test_limits_above_the_host_are_no_limits(tree: Tree) -> None:
    """A group may be given more than the machine has; then the machine's RAM is the limit."""
    tree.proc("0::/app\n", v2())
    total = psutil.virtual_memory().total
    tree.group("app", max=total, current=1)
    tree.group("", max=total - 4096, current=1)
    assert [term.limit_bytes for term in tree.terms()] == [total - 4096]


def test_octal_escapes_in_mountinfo(tree: Tree) -> None:
    """A mount point with a space, a backslash and letters from afar is found."""
    tree.proc("0::/\n", v2(point=r"/sys/fs/cgroup/日本\040\134ß"))
    tree.group("日本 \\ß", max=512 * MiB, current=100 * MiB)
    assert [term.limit_bytes for term in tree.terms()] == [512 * MiB]


@pytest.mark.parametrize("name", ["a\u2028b", "a\x0cb", "a\r b", "a\u00a0b"])
def test_names_with_odd_spaces(tree: Tree, name: str) -> None:
    """What else Unicode takes for a space or a line's end does not end a name: only what the kernel escapes does."""
    escaped = name.replace(" ", r"\040")
    tree.proc(
        f"0::/{name}\n", f"30 22 0:25 / /mnt/{escaped} rw - tmpfs tmpfs rw\n" + v2(point=f"/sys/fs/cgroup/{escaped}")
    )
    tree.group(f"{name}/{name}", max=512 * MiB, current=100 * MiB)
    assert [(term.binding, term.limit_bytes) for term in tree.terms()] == [(f"cgroup v2 /{name}", 512 * MiB)]


def test_the_host_is_a_term_too(tree: Tree) -> None:
    """The host counts what is not available."""
    (term,) = tree.all_terms()
    assert (term.kind, term.source, term.limit_bytes) == ("host", "psutil", psutil.virtual_memory().total)
    assert 0 < term.used_bytes < term.limit_bytes


def test_a_group_with_limit_zero(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """memory.high = 0 (squeeze it out) is critical, and no division by zero."""
    tree.proc("0::/\n", v2())
    tree.group("", max="max", high=0, current=100 * MiB)
    tell(monkeypatch, *tree.all_terms())
    snapshot = mt.MemoryGuard().snapshot()
    assert (snapshot.limit_bytes, snapshot.level) == (0, mt.MemoryLevel.CRITICAL)
    assert snapshot.percent > 100


@pytest.mark.parametrize("name", ["so many kB", "so\\x0cVm kB"])
def test_resident_bytes_of_a_process_with_an_odd_name(name: str) -> None:
    """What a process calls itself cannot be taken for a size."""
    program = f"import sys; open('/proc/self/comm', 'w').write('{name}'); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"\n"
        assert MiB < reading.resident_bytes(process.pid) < 100 * MiB
        assert reading.tree_peak_bytes() > reading.resident_bytes(process.pid)
    assert reading.resident_bytes(process.pid) == 0


def test_filesystem_type() -> None:
    """The innermost mount says what a path lies on; a spool on tmpfs is memory."""
    assert reading.filesystem_type(Path("/proc/self/status")) == "proc"
    assert reading.filesystem_type(Path("/dev/shm")) == "tmpfs"
