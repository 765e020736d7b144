"""Who shares a ledger with whom: the processes of one user in one container, and nobody else. And the great test of it
all, by the kernel's own figures."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import memsafe_transcribe as mt

from ..support.groups import GroupsUnavailableError, nested_groups
from ..support.needs import cannot
from . import members
from .members import Family


@pytest.fixture
def two_groups() -> Iterator[tuple[Path, Path]]:
    """The lists of processes of two groups side by side, as two containers are."""
    with ExitStack() as stack:
        try:
            size = 512 * mt.MiB
            groups = [stack.enter_context(nested_groups(outer_bytes=size, inner_bytes=size)) for _ in range(2)]
        except GroupsUnavailableError as error:
            cannot(str(error))
        yield groups[0].inner / "cgroup.procs", groups[1].inner / "cgroup.procs"


def test_two_containers_on_one_volume_have_two_ledgers(two_groups: tuple[Path, Path], family: Family) -> None:
    """The same MEMSAFE_LEDGER_DIR, other groups: neither counts for the other. In one group, all count."""
    procs, other_procs = map(str, two_groups)
    first, beside, other = (family.start(100, 1) for _ in range(3))
    for each, group in ((first, procs), (beside, procs), (other, other_procs)):
        each.do(members.enter_group, group)
    first.reserve("a", 60)
    other.reserve("a", 60)
    assert first.is_in("a") and other.is_in("a")
    beside.reserve("b", 60, timeout_seconds=0.1)
    assert "1 of 1 slots" in beside.event("refused", "b")
    assert len(family.ledgers()) == 2
    assert beside.statistics().others_active == 1
    assert other.statistics().others_active == 0
    for each in (first, beside, other):
        each.kill()


def test_namespaces_of_one_container_do_not_split_its_ledger(two_groups: tuple[Path, Path], family: Family) -> None:
    """One in a cgroup namespace of its own, who sees its group as the root, still meets those who see its name."""
    outside, inside = family.start(), family.start()
    for each in (outside, inside):
        each.do(members.enter_group, str(two_groups[0]))
    inside.do(members.unshare_groups)
    outside.reserve("a", 60)
    assert inside.statistics().others_reserved_bytes == 60
    for each in (outside, inside):
        each.kill()


def test_without_groups_the_pid_namespace_tells_containers_apart(family: Family) -> None:
    """Where no memory group can be seen, processes of one pid namespace meet, and those of another do not."""
    if os.geteuid():
        cannot("namespaces take root")
    first, second = family.start(), family.start()
    for each in (first, second):
        each.do(members.hide_groups)
    first.reserve("a", 60)
    assert second.statistics().others_reserved_bytes == 60
    (folder,) = family.ledgers()
    assert "-ns" in folder.name
    assert second.do(members.folder_in_another_pid_namespace) != str(folder)


def test_users_do_not_share(family: Family) -> None:
    """Another user in the same container has a ledger of its own, which nobody else may open."""
    if os.geteuid():
        cannot("becoming another user takes root")
    family.folder.chmod(0o777)
    for parent in family.folder.parents:
        if parent.stat().st_uid == 0 and parent.is_relative_to("/tmp") and parent != Path("/tmp"):
            parent.chmod(0o755)
    ours, other = family.start(), family.start()
    other.do(members.become, 12345)
    ours.reserve("a", 60)
    assert other.do(members.is_granted, 100)
    assert other.statistics().others_active == 0
    assert sorted(folder.stat().st_uid for folder in family.ledgers()) == [0, 12345]


def test_stress(ledger_dir: Path) -> None:
    """With 20 SIGKILLs among 1500 reservations in 8 processes, the group's own peak stays under the target.

    Nor is a slot given twice, a reservation lost, anybody left waiting, or anything left. `python -m
    tests.admission.stress` does more of it.
    """
    command = [sys.executable, "-m", "tests.admission.stress", "--reservations=1500", "--kills=20"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2])
    if "GroupsUnavailableError" in done.stderr:
        cannot(done.stderr.splitlines()[-1])
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert found["kept"], found
    assert done.returncode == 0
    assert found["most_slots"] > 3, "it proves nothing if nobody ever ran beside others"
    assert found["peak_bytes"] > found["target_bytes"] * 0.8, "nor if memory was never short"
