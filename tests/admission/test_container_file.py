"""The ledger's file and folder: removed, full, foreign, damaged, closed by the host, and gone with the last member."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._admission import finding, scope as scope_module, table

from ..support.needs import cannot, tmpfs
from . import members
from .members import Family, Member

WORKERS = {"MEMSAFE_WORKERS": "4"}


def ledger_of(family: Family) -> Path:
    """The one ledger's folder."""
    (folder,) = family.ledgers()
    return folder


def test_the_last_one_to_leave_takes_the_file_away(family: Family) -> None:
    """File and folder stay for as long as anybody is there, are private, and go with the last one."""
    first, second = family.start(), family.start()
    for each in (first, second):
        assert each.do(members.is_granted, 1)
    folder = ledger_of(family)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in folder.iterdir()] == ["ledger"]
    assert (folder / "ledger").stat().st_mode & 0o777 == 0o600
    first.do(members.leave)
    assert [path.name for path in folder.iterdir()] == ["ledger"]
    second.do(members.leave)
    assert family.ledgers() == []


def test_what_killed_members_left_is_taken_over(family: Family) -> None:
    """After all were killed, the next one finds an empty ledger, and takes it away when it leaves."""
    three = [family.start(100, 5) for _ in range(3)]
    for each in three:
        each.reserve("a", 30)
    for each in three:
        each.kill()
    late = family.start(100, 2)
    late.reserve("a", 100)
    assert late.is_in("a")
    assert late.statistics().max_concurrent == 2
    late.release("a")
    late.do(members.leave)
    assert family.ledgers() == []


def remove_file(folder: Path) -> None:
    (folder / "ledger").unlink()


def remove_folder(folder: Path) -> None:
    remove_file(folder)
    folder.rmdir()


def replace_by_empty(folder: Path) -> None:
    remove_file(folder)
    (folder / "ledger").touch(0o600)


@pytest.mark.parametrize("clean", [remove_file, remove_folder, replace_by_empty])
@pytest.mark.parametrize("through_a_link", [False, True])
def test_newcomers_meet_the_others_after_a_cleaner_came_by(
    family: Family, clean: Callable[[Path], None], through_a_link: bool
) -> None:
    """A file that was removed, its folder too, is still the one ledger of those inside and of all who come later."""
    if through_a_link:
        link = family.folder.with_name(family.folder.name + "-link")
        link.symlink_to(family.folder)
        environment = {"MEMSAFE_LEDGER_DIR": str(link)}
    else:
        environment = {}
    first, second = (family.start(100, 3, environment=environment) for _ in range(2))
    first.reserve("a", 60)
    second.reserve("b", 10)
    identity = first.do(members.file_identity)
    clean(ledger_of(family))
    for number in range(3):
        newcomer = family.start(100, 3, environment=environment)
        newcomer.reserve("c", 20)
        assert newcomer.statistics().others_reserved_bytes == 70
        assert newcomer.do(members.file_identity) == identity
        newcomer.reserve("d", 20, timeout_seconds=0)
        newcomer.event("refused", "d")
        if number == 1:
            clean(ledger_of(family))
        newcomer.kill()
    first.release("a")
    second.release("b")
    last = family.start(100, 3, environment=environment)
    assert last.do(members.is_granted, 100)
    for each in (first, second, last):
        each.do(members.leave)
    assert family.ledgers() == [], "also an empty file that a newcomer made under the old name"


def test_a_lost_ledger_is_found_in_a_busy_process(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Descriptors that vanish while a newcomer lists them do not hide those that are listed after them."""
    busy = family.start(100)
    busy.reserve("a", 60)
    folder = ledger_of(family)
    remove_file(folder)
    readlink = os.readlink
    vanished: list[str] = []

    def vanishing(path: str) -> str:
        if path.startswith(f"/proc/{busy.pid}/") and not vanished:
            vanished.append(path)
            raise FileNotFoundError(path)
        return readlink(path)

    monkeypatch.setattr(os, "readlink", vanishing)
    found = list(finding.open_lost(folder))
    for fd in found:
        os.close(fd)
    assert found and vanished


def test_a_name_that_goes_in_the_middle_of_a_join(family: Family) -> None:
    """Whoever is alone in a file that has lost its name makes another one that can be found by its name."""
    member = family.start()
    member.do(members.join_while_removed)
    found = (ledger_of(family) / "ledger").stat()
    assert member.do(members.file_identity) == (found.st_dev, found.st_ino)


def test_a_cleaner_in_the_middle_of_joins(family: Family) -> None:
    """While members come and go and a cleaner removes file and folder all the time, all meet in one ledger."""
    holder = family.start(100, 9)
    holder.reserve("a", 60)
    identity = holder.do(members.file_identity)
    for _ in range(10):
        for folder in family.ledgers():
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
        few = [family.start(100, 9) for _ in range(3)]
        for each in few:
            each.begin(members.hold, 1)
        for each in few:
            each.answer()
        assert {each.do(members.file_identity) for each in few} == {identity}
        assert holder.statistics().others_reserved_bytes == 3
        for each in few:
            each.kill()


def divided(member: Member, why: str) -> None:
    """It has no common ledger, says so once, takes a quarter, and works."""
    assert member.do(members.is_granted, 25)
    assert not member.do(members.is_granted, 26)
    member.reserve("a", 1)
    seen = member.statistics()
    assert why in seen.scope and "MEMSAFE_WORKERS=4" in seen.scope and "1/4" in seen.scope
    assert seen.max_concurrent == 3
    assert member.is_in("a")
    (told,) = member.do(members.logged)
    assert told == seen.scope


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own of 1 MiB; ask for it before the family, which has to let go of it first."""
    with tmpfs(tmp_path / "tiny", "size=1m") as point:
        yield point


def fill(folder: Path) -> Path:
    path = folder / "fill"
    with pytest.raises(OSError, match="No space"), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return path


def test_a_full_disk_divides(tiny: Path, family: Family) -> None:
    """Without room for the file each process takes its part of slots and bytes, and says so once."""
    fill(tiny)
    member = family.start(100, 12, environment={"MEMSAFE_LEDGER_DIR": str(tiny), **WORKERS})
    divided(member, "No space left on device")


def test_web_concurrency_divides_too(tiny: Path, family: Family) -> None:
    """The setting of web hosts is heard where ours is not given; without any, the process takes all, and says so."""
    fill(tiny)
    environment = {"MEMSAFE_LEDGER_DIR": str(tiny)}
    web = family.start(100, 12, environment={**environment, "WEB_CONCURRENCY": "3"})
    assert web.do(members.is_granted, 33) and not web.do(members.is_granted, 34)
    assert web.statistics().max_concurrent == 4 and "WEB_CONCURRENCY=3" in web.statistics().scope
    alone = family.start(100, 2, environment=environment)
    assert alone.do(members.is_granted, 100)
    assert "MEMSAFE_WORKERS is not set" in alone.statistics().scope
    many = family.start(100, 2, environment={**environment, **WORKERS})
    assert many.do(members.is_granted, 25) and many.statistics().max_concurrent == 1


def test_a_disk_that_fills_later_does_no_harm(tiny: Path, family: Family) -> None:
    """The file has all its space from the beginning: later members join, hold and give back as ever."""
    environment = {"MEMSAFE_LEDGER_DIR": str(tiny)}
    first = family.start(100, 50, environment=environment)
    first.reserve("a", 10)
    fill(tiny)
    few = [family.start(100, 50, environment=environment) for _ in range(30)]
    for each in few:
        each.do(members.hold, 1)
        assert each.do(members.logged) == []
    assert first.statistics().others_reserved_bytes == 30


def test_a_folder_that_cannot_be_written(tiny: Path, family: Family) -> None:
    """A read-only place divides; so does one that is not there."""
    subprocess.run(["mount", "-o", "remount,ro", str(tiny)], check=True)
    divided(family.start(100, 12, environment={"MEMSAFE_LEDGER_DIR": str(tiny), **WORKERS}), "Read-only file system")
    absent = str(tiny / "absent")
    divided(family.start(100, 12, environment={"MEMSAFE_LEDGER_DIR": absent, **WORKERS}), "No such file")


def prepared(family: Family) -> tuple[Path, Path]:
    """The folder that members will use, and the file in it."""
    probe = family.start()
    assert probe.do(members.is_granted, 1)
    folder = ledger_of(family)
    probe.do(members.leave)
    assert not folder.exists()
    return folder, folder / "ledger"


def test_a_folder_open_to_others_is_not_used(family: Family) -> None:
    """Whoever could write there could take everything: nothing is made in it."""
    folder, _ = prepared(family)
    folder.mkdir()
    folder.chmod(0o750)
    divided(family.start(100, 12, environment=WORKERS), "not this user's own, or open to others")
    assert list(folder.iterdir()) == []


def test_a_folder_of_another_user_is_not_used(family: Family) -> None:
    """Nor one that somebody else made beforehand."""
    if os.geteuid():
        cannot("needs root")
    folder, _ = prepared(family)
    folder.mkdir(0o700)
    os.chown(folder, 12345, 12345)
    divided(family.start(100, 12, environment=WORKERS), "not this user's own, or open to others")
    assert list(folder.iterdir()) == []


def test_a_link_in_place_of_the_folder_is_not_followed(family: Family, tmp_path: Path) -> None:
    """What it leads to stays as it is."""
    folder, _ = prepared(family)
    target = tmp_path / "target"
    target.mkdir(0o700)
    folder.symlink_to(target)
    divided(family.start(100, 12, environment=WORKERS), str(folder))
    assert list(target.iterdir()) == []


def test_a_link_in_place_of_the_file_is_not_followed(family: Family, tmp_path: Path) -> None:
    """What it leads to stays as it is."""
    folder, file = prepared(family)
    target = tmp_path / "target"
    target.touch()
    folder.mkdir(0o700)
    file.symlink_to(target)
    divided(family.start(100, 12, environment=WORKERS), str(folder))
    assert target.read_bytes() == b""


GARBAGE = {
    "three bytes": b"abc",
    "a text": b"precious notes\n" * 500,
    "another version": b"memsafe9" + bytes(70_000),
    "cut short": table.MAGIC + (3).to_bytes(8, "little") + (200).to_bytes(8, "little") + bytes(1000),
    "too many seats": table.MAGIC + (3).to_bytes(8, "little") + (1 << 40).to_bytes(8, "little") + bytes(70_000),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_a_file_that_is_no_ledger_is_left_alone(family: Family, name: str) -> None:
    """It is not written to, not removed, and the reason is said."""
    folder, file = prepared(family)
    folder.mkdir(0o700)
    file.write_bytes(GARBAGE[name])
    divided(family.start(100, 12, environment=WORKERS), "damaged")
    assert file.read_bytes() == GARBAGE[name]


def test_things_that_are_no_files(family: Family) -> None:
    """A folder or a pipe of the file's name."""
    folder, file = prepared(family)
    folder.mkdir(0o700)
    file.mkdir()
    divided(family.start(100, 12, environment=WORKERS), "directory")
    file.rmdir()
    os.mkfifo(file, 0o600)
    divided(family.start(100, 12, environment=WORKERS), "no common ledger")


@pytest.mark.parametrize("content", [b"", b"precious", b"precious notes" * 10_000], ids=["empty", "short", "long"])
def test_a_file_that_is_overwritten_while_it_is_used(family: Family, content: bytes) -> None:
    """Nobody crashes: members give back, say that something is wrong, and go on, each in what it can have."""
    first, second = (family.start(100, 12, environment=WORKERS) for _ in range(2))
    first.reserve("a", 10)
    second.reserve("b", 10)
    (ledger_of(family) / "ledger").write_bytes(content)
    first.statistics()
    first.release("a")
    for each in (first, second):
        each.reserve("c", 5)
        each.event("in", "c")
        assert each.do(members.logged)
    second.release("b")


def test_a_host_that_closes_all_descriptors(family: Family, tmp_path: Path) -> None:
    """Neither the host's own files, which have the numbers by now, nor the budget suffer: it joins anew."""
    host, other = family.start(100), family.start(100)
    host.reserve("a", 60)
    host.reserve("b", 10)
    other.reserve("c", 10)
    files = host.do(members.close_all_and_reuse, str(tmp_path))
    host.release("b")
    assert host.statistics().active == 1
    host.do(members.is_granted, 1)
    seen = other.statistics()
    assert (seen.others_active, seen.others_reserved_bytes) == (1, 60)
    assert not other.do(members.is_granted, 31)
    host.release("a")
    assert other.do(members.is_granted, 90)
    assert host.do(members.is_granted, 90)
    host.do(members.leave)
    for path in files:
        assert Path(path).read_bytes() == b"precious" * 8000
    assert "anew" in host.do(members.logged)[0]


def test_statistics_after_the_descriptors_were_closed(family: Family) -> None:
    """To look does not fail, and joins anew."""
    host, other = family.start(100), family.start(100)
    other.reserve("a", 60)
    host.reserve("b", 10)
    host.do(members.close_all)
    host.statistics()
    assert host.statistics().others_reserved_bytes == 60
    assert other.statistics().others_reserved_bytes == 10


def test_the_256th_member_is_told(family: Family) -> None:
    """A ledger has 255 seats: who comes later says that there is none left, and takes the part of one of 256."""
    many, late = family.start(100, 12), family.start(100, 12, environment=WORKERS)
    assert many.do(members.is_granted, 1)
    assert "shared with 254 others" in many.do(members.make_controllers, 254)
    seen = late.statistics()
    assert "255 seats" in seen.scope and "1/256 of memory and slots" in seen.scope
    assert (seen.max_concurrent, seen.budget_bytes) == (1, 0)
    many.kill()
    assert family.start(100, 12).do(members.is_granted, 100)


def test_a_folder_that_comes_back_is_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where there was no place for a ledger, it is looked for again, without being told of each time."""
    monkeypatch.setattr(scope_module, "_RETRY_SECONDS", 0.0)
    monkeypatch.setenv("MEMSAFE_LEDGER_DIR", str(tmp_path / "later"))
    monkeypatch.setenv("MEMSAFE_WORKERS", "4")
    admission = mt.AdmissionController(max_concurrent=8)
    for _ in range(3):
        assert (admission.statistics().max_concurrent, "1/4" in admission.statistics().scope) == (2, True)
    assert len(caplog.records) == 1
    (tmp_path / "later").mkdir()
    with admission.reserve_nowait(1):
        assert admission.statistics().max_concurrent == 8
        assert str(tmp_path / "later") in admission.statistics().scope
