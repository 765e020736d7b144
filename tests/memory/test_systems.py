"""Machines of many kinds, as their /proc and /sys look from inside: which limits are found there, by which names."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

import memsafe_transcribe as mt

from .machine import UNLIMITED_V1, Tree, v1, v2

MiB = mt.MiB
POD = "kubepods/burstable/pod3b8c"
SLICE = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod3b8c.slice"
SCOPE = "cri-containerd-77aa.scope"
USER = "user.slice/user-1000.slice/user@1000.service/user.slice"
ALL_V1 = "12:cpuset:{0}\n11:pids:{0}\n6:cpu,cpuacct:{0}\n4:memory:{0}\n1:name=systemd:{0}\n"


@dataclass(frozen=True)
class System:
    """One kind of machine.

    Attributes:
        name: what it is.
        cgroup: /proc/self/cgroup.
        mounts: the cgroup mounts of /proc/self/mountinfo.
        groups: the memory files of each group below /sys/fs/cgroup, without "memory." before their names.
        found: the limits that are found, innermost first, in MiB, with the group's name.
    """

    name: str
    cgroup: str
    mounts: str
    groups: dict[str, dict[str, int | str]]
    found: list[tuple[str, int]]


def limited(limit_mib: int, current_mib: int = 10) -> dict[str, int | str]:
    return {"max": limit_mib * MiB, "high": "max", "current": current_mib * MiB, "stat": "anon 1\ninactive_file 0"}


def unlimited() -> dict[str, int | str]:
    return {"max": "max", "high": "max", "current": 10 * MiB, "stat": "anon 1\ninactive_file 0"}


def limited_v1(limit_mib: int, **files: int | str) -> dict[str, int | str]:
    return {"limit_in_bytes": limit_mib * MiB, **used_v1(), **files}


def unlimited_v1(**files: int | str) -> dict[str, int | str]:
    return {"limit_in_bytes": UNLIMITED_V1, **used_v1(), **files}


def used_v1() -> dict[str, int | str]:
    return {
        "usage_in_bytes": 10 * MiB,
        "use_hierarchy": 1,
        "stat": f"cache 0\nhierarchical_memory_limit {UNLIMITED_V1}",
    }


SYSTEMS = [
    System(
        "Kubernetes, v2, cgroupfs driver, private namespace",
        "0::/\n",
        v2(),
        {"": limited(512)},
        [("v2 /", 512)],
    ),
    System(
        "Kubernetes, v2, cgroupfs driver, host's namespace",
        f"0::/{POD}/77aa\n",
        v2(),
        {
            "": {},
            "kubepods": unlimited(),
            "kubepods/burstable": unlimited(),
            POD: limited(600),
            f"{POD}/77aa": limited(512),
        },
        [(f"v2 /{POD}/77aa", 512), (f"v2 /{POD}", 600)],
    ),
    System(
        "Kubernetes, v2, systemd driver, host's hierarchy mounted into a private namespace",
        "0::/\n",
        v2(root="/../../../.."),
        {
            "": {},
            "kubepods.slice": limited(4000),
            "kubepods.slice/kubepods-burstable.slice": unlimited(),
            SLICE: limited(600),
            f"{SLICE}/cri-containerd-0bad.scope": limited(64),
            f"{SLICE}/{SCOPE}": limited(512),
            "system.slice/a/b/c": limited(32),
        },
        [(f"v2 /{SLICE}/{SCOPE}", 512), (f"v2 /{SLICE}", 600), ("v2 /kubepods.slice", 4000)],
    ),
    System(
        "Kubernetes, v1, cgroupfs driver",
        ALL_V1.format(f"/{POD}/77aa"),
        v1(root=f"/{POD}/77aa"),
        {"memory": limited_v1(512)},
        [("v1 /", 512)],
    ),
    System(
        "Docker, v1, limit of a parent that the container does not see",
        ALL_V1.format("/docker/4fa6"),
        v1(root="/docker/4fa6"),
        {"memory": unlimited_v1(stat=f"cache 0\nhierarchical_memory_limit {300 * MiB}\ntotal_cache 0")},
        [("v1 /", 300)],
    ),
    System(
        "Docker, v1, without a limit",
        ALL_V1.format("/docker/4fa6"),
        v1(root="/docker/4fa6"),
        {"memory": unlimited_v1()},
        [],
    ),
    System("Docker, v2", "0::/\n", v2(), {"": limited(256)}, [("v2 /", 256)]),
    System(
        "Docker, v2, host's namespace, hierarchy bound in at a second place",
        "0::/system.slice/docker-4fa6.scope\n",
        v2(root="/system.slice/docker-4fa6.scope") + v2(point="/sys/fs/cgroup/host"),
        {
            "": limited(256),
            "host": {},
            "host/system.slice": limited(200),
            "host/system.slice/docker-4fa6.scope": limited(256),
        },
        [("v2 /system.slice/docker-4fa6.scope", 256), ("v2 /system.slice", 200)],
    ),
    System("Docker in Docker, v2", "0::/init\n", v2(), {"": limited(256), "init": unlimited()}, [("v2 /", 256)]),
    System("Cloud Run, gVisor, without memory files", "2:memory:/\n1:cpu:/\n", "", {}, []),
    System(
        "gVisor, v1, without statistics",
        "2:memory:/\n",
        v1(),
        {"memory": {"limit_in_bytes": 512 * MiB, "usage_in_bytes": 100 * MiB}},
        [("v1 /", 512)],
    ),
    System(
        "Fargate, v1",
        ALL_V1.format("/ecs/0123/0123-456"),
        v1(root="/ecs/0123/0123-456"),
        {"memory": limited_v1(1024)},
        [("v1 /", 1024)],
    ),
    System("LXC, v2", "0::/.lxc\n", v2(), {"": limited(700), ".lxc": unlimited()}, [("v2 /", 700)]),
    System(
        "LXC, v1",
        ALL_V1.format("/lxc/web"),
        v1(),
        {"memory": unlimited_v1(), "memory/lxc": unlimited_v1(), "memory/lxc/web": limited_v1(700)},
        [("v1 /lxc/web", 700)],
    ),
    System(
        "hybrid systemd",
        ALL_V1.format("/system.slice/app.service") + "0::/system.slice/app.service\n",
        v2(point="/sys/fs/cgroup/unified") + v1(),
        {
            "unified/system.slice/app.service": {},
            "memory": unlimited_v1(),
            "memory/system.slice": unlimited_v1(),
            "memory/system.slice/app.service": limited_v1(300),
        },
        [("v1 /system.slice/app.service", 300)],
    ),
    System(
        "hybrid systemd, memory counted by v2",
        "3:cpu:/\n0::/system.slice/app.service\n",
        v2(point="/sys/fs/cgroup/unified"),
        {"unified/system.slice/app.service": limited(300), "unified/system.slice": unlimited()},
        [("v2 /system.slice/app.service", 300)],
    ),
    System(
        "systemd service with MemoryHigh",
        "0::/system.slice/app.service\n",
        v2(),
        {"system.slice": unlimited(), "system.slice/app.service": {**limited(400), "high": 300 * MiB}},
        [("v2 /system.slice/app.service", 300)],
    ),
    System("WSL2", "0::/\n", v2(), {"": {"stat": "anon 1"}}, []),
    System("WSL2, old", ALL_V1.format("/"), v1(), {"memory": unlimited_v1()}, []),
    System(
        "rootless podman",
        f"0::/{USER}/libpod-77aa.scope/container\n",
        v2(root=f"/{USER}/libpod-77aa.scope/container"),
        {"": limited(128)},
        [("v2 /", 128)],
    ),
    System(
        "rootless podman without delegation",
        f"0::/{USER}/libpod-77aa.scope\n",
        v2(),
        {"user.slice": limited(3000), f"{USER}/libpod-77aa.scope": {}},
        [("v2 /user.slice", 3000)],
    ),
    System(
        "an old v1 whose groups do not count those below",
        ALL_V1.format("/limited/app"),
        v1(),
        {"memory/limited": limited_v1(64, use_hierarchy=0), "memory/limited/app": limited_v1(128, use_hierarchy=0)},
        [("v1 /limited/app", 128)],
    ),
    System("a host without cgroups", "", "", {}, []),
    System(
        "a mount hidden by a later one",
        "0::/app\n",
        v2(root="/app") + v2(),
        {"": {}, "app": limited(99)},
        [("v2 /app", 99)],
    ),
    System(
        "a mount hidden by a later one that shows less, with a group below that is called like ours",
        "0::/app\n",
        v2() + v2(root="/app"),
        {"": limited(99), "app": limited(1)},
        [("v2 /", 99)],
    ),
    System(
        "moved out of the namespace it was in",
        "0::/../other\n",
        v2(root="/.."),
        {"": unlimited(), "other": limited(77), "first": limited(66)},
        [("v2 /other", 77)],
    ),
    System(
        "a sibling's hierarchy, bound in", "0::/../ours\n", v2(root="/../theirs"), {"": limited(50)}, [("v2 /", 50)]
    ),
    System(
        "a sibling's name begins like ours",
        "0::/docker/4fa6\n",
        v2(root="/docker/4f"),
        {"": limited(50), "a6": limited(1)},
        [("v2 /", 50)],
    ),
]


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_the_limits_of_a_system(system: System, tmp_path: Path) -> None:
    """Every limit that counts this process is found, nothing of others is, and what is missing is no error."""
    tree = Tree(tmp_path / "machine")
    tree.proc(system.cgroup, system.mounts)
    for group, files in system.groups.items():
        tree.group(group, **files)
    own = tree.root / "sys/fs/cgroup" / SLICE / SCOPE
    if own.is_dir():
        (own / "cgroup.procs").write_text(f"1\n{os.getpid()}\n")
    assert [(term.binding, term.limit_bytes) for term in tree.terms()] == [
        (f"cgroup {name}", limit * MiB) for name, limit in system.found
    ]


def test_a_group_that_is_too_hard_to_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search for our own group is bounded; without it the top of what is mounted stands for it."""
    tree = Tree(tmp_path / "machine")
    tree.proc("0::/\n", v2(root="/.."))
    tree.group("", **limited(512))
    for number in range(8):
        tree.group(f"group{number}", **limited(100 + number))
    (tree.root / "sys/fs/cgroup/group7/cgroup.procs").write_text(f"{os.getpid()}\n")
    assert [term.limit_bytes // MiB for term in tree.terms()] == [107, 512]
    monkeypatch.setattr("memsafe_transcribe._memory.cgroup.MAX_VISITED", 7)
    assert [term.limit_bytes // MiB for term in tree.terms()] == [512]


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    """A group whose name is bytes without a meaning is read, and what is said of it can be printed."""
    tree = Tree(tmp_path / "machine")
    tree.proc("", v2())
    (tree.root / "proc/self/cgroup").write_bytes(b"0::/a\xffb\n")
    tree.group(os.fsdecode(b"a\xffb"), **limited(64))
    (term,) = tree.terms()
    assert term.limit_bytes == 64 * MiB
    assert "a\ufffdb" in term.binding.encode().decode() and "a\ufffdb" in term.source
