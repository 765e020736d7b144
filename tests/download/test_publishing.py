"""A spooled file gets a name: whole, on disk and at once, or not at all."""

import errno
import fcntl
import itertools
import os
import pickle
import random
import signal
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._download import publishing, spool

from ..conftest import open_descriptors
from ..support.needs import cannot, tmpfs
from .test_spool import HOWS, URL, Nursery, killed_at, make_system, nurseries, say

# How a file can be published: by a link to itself, by one to a copy, or by renaming a copy.
WAYS = ["linked", "copied and linked", "copied and renamed"]
NEW = bytes(range(256)) * 4000  # no whole number of pieces
OLD = b"what was there before"


def make_way(way: str, patch: Callable[[Any, str, Any], None]) -> None:
    """Let this process live on a system that can publish in this way only."""
    if way != "linked":
        patch(publishing, "_link_itself", lambda *_: False)
    if way == "copied and renamed":
        patch(publishing, "_link_copy", lambda *_: False)
    patch(publishing, "_PIECE_BYTES", 300_000)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way to publish, one of which the system is limited to."""
    make_way(request.param, monkeypatch.setattr)
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    """One child at a time."""
    with nurseries(1) as (nursery,):
        yield nursery


@pytest.fixture
def file(spool_dir: Path) -> Iterator[spool.SpoolFile]:
    """What shall be published."""
    file = spooled(spool_dir)
    yield file
    file.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where it shall be."""
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder


@pytest.fixture
def target(folder: Path) -> Path:
    """What it shall be called."""
    return folder / "talk.mp3"


def spooled(spool_dir: Path, data: bytes = NEW) -> spool.SpoolFile:
    file = spool.open_spool_file(spool_dir, URL)
    os.write(file.fd, data)
    return file


def refusal(file: spool.SpoolFile, path: Path) -> mt.SpoolError:
    """The error of publishing there, which loses no descriptor."""
    before = open_descriptors()
    with pytest.raises(mt.SpoolError) as caught:
        publishing.publish(file.duplicate, path)
    assert open_descriptors() == before
    error = caught.value
    assert str(path) in str(error)
    assert (error.url, error.spool_dir) == ("", str(path.parent))
    assert pickle.loads(pickle.dumps(error)).errno == error.errno
    return error


# -- what is published


@pytest.mark.parametrize("is_there", [False, True])
def test_a_published_file_is_whole_and_alone(
    way: str, file: spool.SpoolFile, target: Path, is_there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other name is left beside it, no descriptor is lost, and a file that was there is replaced."""
    if is_there:
        target.write_bytes(OLD)
    before = open_descriptors()
    publishing.publish(file.duplicate, target)
    assert target.read_bytes() == NEW
    assert list(target.parent.iterdir()) == [target]
    assert open_descriptors() == before
    assert os.path.samestat(target.stat(), os.fstat(file.fd)) == (way == "linked")


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_its_mode_is_that_of_any_new_file(way: str, file: spool.SpoolFile, target: Path, umask: int) -> None:
    """It is what the umask leaves; the umask is only read, for to set it is to set it for all threads."""
    old = os.umask(umask)
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.delattr(os, "umask")
            publishing.publish(file.duplicate, target)
        assert os.umask(umask) == umask
    finally:
        os.umask(old)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~umask


def test_the_spooled_file_stays_usable(way: str, file: spool.SpoolFile, target: Path) -> None:
    """It can be read from where its reader was, here and by its path; closing it leaves what is published."""
    os.lseek(file.fd, 7, os.SEEK_SET)
    publishing.publish(file.duplicate, target)
    assert os.read(file.fd, 3) == NEW[7:10]
    assert file.path.read_bytes() == NEW
    file.close()
    assert target.read_bytes() == NEW


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("place", ["the same disk", "another disk"])
def test_every_spooled_file_can_be_published_everywhere(
    how: str, place: str, spool_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it is spooled; copied where there is no other way. An empty one is a file, too."""
    make_system(how, monkeypatch.setattr)
    with tmpfs(tmp_path / "disk", "size=4m") as disk:
        folder = disk if place == "another disk" else tmp_path
        for data in (NEW, b""):
            file = spooled(spool_dir, data)
            publishing.publish(file.duplicate, folder / "talk.mp3")
            is_itself = os.path.samestat((folder / "talk.mp3").stat(), os.fstat(file.fd))
            file.close()
            assert (folder / "talk.mp3").read_bytes() == data
            assert is_itself == (how == "without a name" and place == "the same disk")
        assert {path.name for path in folder.iterdir()} <= {"talk.mp3", "spool", "disk"}


def test_on_an_overlay_nothing_is_copied_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The root of a container is one. (Before Linux 6.3 it has no files without a name, and copies.)"""
    for name in ("lower", "upper", "work", "disk"):
        (tmp_path / name).mkdir()
    layers = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    command = ["mount", "-t", "overlay", "-o", layers, "overlay", str(tmp_path / "disk")]
    if (done := subprocess.run(command, capture_output=True, text=True)).returncode:
        cannot(f"needs root to mount an overlay: {done.stderr}")
    try:
        monkeypatch.delattr(publishing, "_copy")
        file = spooled(tmp_path / "disk")
        is_nameless = publishing._O_TMPFILE != 0 and file.path.exists()  # noqa: SLF001
        publishing.publish(file.duplicate, tmp_path / "disk" / "talk.mp3")
        file.close()
        assert is_nameless
        assert (tmp_path / "upper" / "talk.mp3").read_bytes() == NEW
    finally:
        subprocess.run(["umount", str(tmp_path / "disk")], check=True)


def test_what_is_published_twice_is_two_files(way: str, file: spool.SpoolFile, folder: Path) -> None:
    """Who changes one of them does not change the other; even if the first was removed meanwhile."""
    names = [folder / "a", folder / "b", folder / "c"]
    publishing.publish(file.duplicate, names[0])
    publishing.publish(file.duplicate, names[1])
    assert not os.path.samestat(names[0].stat(), names[1].stat())
    names[0].unlink()
    publishing.publish(file.duplicate, names[2])
    assert [path.read_bytes() for path in names[1:]] == [NEW, NEW]


def test_two_threads_may_publish_one_file(way: str, file: spool.SpoolFile, folder: Path) -> None:
    """At once, to the same path and to others: all succeed, and no two names lead to one file."""
    paths = [folder / name for name in "aabbc"]
    errors: list[BaseException] = []

    def publish(path: Path) -> None:
        try:
            publishing.publish(file.duplicate, path)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=publish, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(folder.iterdir()) == sorted(set(paths))
    assert len({path.stat().st_ino for path in paths}) == 3
    assert {path.read_bytes() for path in paths} == {NEW}


def test_a_file_that_is_being_published_elsewhere_is_copied(
    file: spool.SpoolFile, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two threads that both find it without a name, one links it; the other may not."""
    real = os.link
    others: list[Path] = []

    def link(source: Any, name: str, **settings: Any) -> None:
        if not others:
            others.append(target.with_name("other"))
            publishing.publish(file.duplicate, others[0])
        real(source, name, **settings)

    monkeypatch.setattr(os, "link", link)
    publishing.publish(file.duplicate, target)
    assert os.path.samestat(target.stat(), os.fstat(file.fd))
    assert not os.path.samestat(others[0].stat(), os.fstat(file.fd))
    assert others[0].read_bytes() == target.read_bytes() == NEW


@pytest.mark.parametrize("before", ["fstat", "fsync"])
def test_the_file_may_be_closed_meanwhile(
    way: str, spool_dir: Path, target: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    """And its number be another file's at once: what is published is what was asked for."""
    file = spooled(spool_dir)
    wrong: list[int] = []
    real = getattr(os, before)

    def closing_it(fd: int) -> Any:
        if not wrong:
            number = file.fd
            file.close()
            wrong.append(os.open("/dev/null", os.O_RDONLY))
            assert wrong == [number]
        return real(fd)

    monkeypatch.setattr(os, before, closing_it)
    publishing.publish(file.duplicate, target)
    os.close(wrong[0])
    assert target.read_bytes() == NEW


@pytest.mark.parametrize("is_late", [False, True])
def test_a_file_that_is_closed_is_not_another_one(
    file: spool.SpoolFile, target: Path, monkeypatch: pytest.MonkeyPatch, is_late: bool
) -> None:
    """Its number may be another file's at once, before it was asked for or while it was: then nothing is published."""
    real, number, others = os.dup, file.fd, list[int]()

    def close_it() -> None:
        file.close()
        others.append(os.open(__file__, os.O_RDONLY))
        assert others == [number]

    def dup(fd: int) -> int:
        if is_late:
            close_it()
        return real(fd)

    if not is_late:
        close_it()
    monkeypatch.setattr(os, "dup", dup)
    before = open_descriptors()
    with pytest.raises(RuntimeError, match="has ended; save it inside"):
        publishing.publish(file.duplicate, target)
    assert len(open_descriptors()) == len(before)
    os.close(number)
    assert not target.exists()


# -- what is there


def test_readers_of_the_old_file_keep_it(way: str, file: spool.SpoolFile, target: Path) -> None:
    """It is replaced, not written over; its other names stay what they were."""
    target.write_bytes(OLD)
    os.link(target, target.with_name("copy"))
    with target.open("rb") as reader:
        publishing.publish(file.duplicate, target)
        assert reader.read() == OLD
    assert target.with_name("copy").read_bytes() == OLD
    assert target.read_bytes() == NEW


@pytest.mark.parametrize("leads_to", ["victim", "nowhere"])
def test_a_link_is_replaced_not_followed(way: str, file: spool.SpoolFile, target: Path, leads_to: str) -> None:
    """Who may make links in a folder does not choose what is written over elsewhere."""
    victim = target.with_name("victim")
    victim.write_bytes(OLD)
    target.symlink_to(leads_to)
    publishing.publish(file.duplicate, target)
    assert not target.is_symlink()
    assert (target.read_bytes(), victim.read_bytes()) == (NEW, OLD)
    assert sorted(target.parent.iterdir()) == [target, victim]


@pytest.mark.parametrize(
    ("make", "number"),
    [
        (Path.mkdir, errno.EISDIR),
        (os.mkfifo, errno.EEXIST),
        (lambda path: path.symlink_to(path.parent), errno.EISDIR),
        (lambda path: path.symlink_to("/dev/null"), errno.EEXIST),
    ],
    ids=["a folder", "a pipe", "a link to a folder", "a link to a device"],
)
def test_what_is_no_file_is_not_replaced(
    way: str, file: spool.SpoolFile, target: Path, make: Callable[[Path], None], number: int
) -> None:
    """`/dev/null`, above all, shall stay what it is, though root may replace it."""
    make(target)
    before = target.lstat()
    assert refusal(file, target).errno == number
    assert os.path.samestat(target.lstat(), before)
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("path", [Path(), Path("/"), Path("..")])
def test_a_path_that_is_a_folder_by_itself(file: spool.SpoolFile, path: Path) -> None:
    """It has no name that a file could get."""
    assert refusal(file, path).errno == errno.EISDIR


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("missing/talk.mp3", errno.ENOENT),
        ("file/talk.mp3", errno.ENOTDIR),
        ("x" * 256, errno.ENAMETOOLONG),
        ("disk/talk.mp3", errno.EROFS),
    ],
)
def test_a_path_that_cannot_be(way: str, file: spool.SpoolFile, folder: Path, path: str, number: int) -> None:
    """A missing folder, a read-only one, a name that is too long."""
    (folder / "file").touch()
    with tmpfs(folder / "disk", "ro"):
        assert refusal(file, folder / path).errno == number
        assert list((folder / "disk").iterdir()) == []
    assert {each.name for each in folder.iterdir()} == {"disk", "file"}


def test_the_folder_may_be_removed_meanwhile(
    way: str, file: spool.SpoolFile, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After it was opened, that is; file systems say it in different ways."""
    real = publishing.remove_if_dead

    def then_the_folder(name: str, folder_fd: int) -> bool:
        if target.parent.exists():
            target.parent.rmdir()
        return real(name, folder_fd)

    monkeypatch.setattr(publishing, "remove_if_dead", then_the_folder)
    assert refusal(file, target).errno in (errno.ENOENT, errno.EPERM)
    assert not target.parent.exists()


def test_a_relative_path_and_a_name_of_any_bytes(
    way: str, file: spool.SpoolFile, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names need not be text, and may be as long as the system lets them."""
    monkeypatch.chdir(folder)
    for name in (os.fsdecode(b"\xff\xfe\n"), "x" * 255):
        Path(name).write_bytes(OLD)
        publishing.publish(file.duplicate, Path(name))
        assert Path(name).read_bytes() == NEW
    assert len(list(folder.iterdir())) == 2


# -- what goes wrong


@pytest.mark.parametrize("is_there", [False, True])
def test_a_full_disk_leaves_all_as_it_was(
    way: str, file: spool.SpoolFile, tmp_path: Path, is_there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a copy; the space is free again, and both figures are told."""
    with tmpfs(tmp_path / "disk", "size=512k") as disk:
        target = disk / "talk.mp3"
        if is_there:
            target.write_bytes(OLD)
        free = os.statvfs(disk).f_bfree
        error = refusal(file, target)
        assert error.errno == errno.ENOSPC
        assert f"(1000.0 KiB) cannot be written: No space left on device, {free * 4:.1f} KiB" in str(error)
        assert os.statvfs(disk).f_bfree == free
        assert [path.read_bytes() for path in disk.iterdir()] == [OLD] * is_there


def test_no_inode_for_a_copy(way: str, file: spool.SpoolFile, tmp_path: Path) -> None:
    """The folder stays empty."""
    with tmpfs(tmp_path / "disk", "nr_inodes=1") as disk:
        error = refusal(file, disk / "talk.mp3")
        assert error.errno == errno.ENOSPC
        assert "0 inodes" in str(error)
        assert list(disk.iterdir()) == []


CALLS = ["dup", "open", "fstat", "fstatvfs", "stat", "fchmod", "fsync", "link", "rename", "pread", "pwrite"]


class Calls:
    """Counts the system calls, and lets one fail.

    Attributes:
        made: their names, the failed one's too.
        has_appeared: whether the file has got its name.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, fails_at: int = 0, error: Any = None) -> None:
        self.made: list[str] = []
        self.has_appeared = False
        for call in CALLS:
            monkeypatch.setattr(os, call, self._counted(call, getattr(os, call), name, fails_at, error))

    def _counted(self, call: str, real: Callable[..., Any], name: str, fails_at: int, error: Any) -> Callable[..., Any]:
        def counted(*arguments: Any, **settings: Any) -> Any:
            self.made.append(call)
            if len(self.made) == fails_at:
                raise error
            result = real(*arguments, **settings)
            self.has_appeared |= call in ("link", "rename") and arguments[1] == name
            return result

        return counted


@pytest.mark.parametrize("is_there", [False, True])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), KeyboardInterrupt()], ids=["EIO", "an interrupt"])
def test_whatever_call_fails_nothing_is_left(
    way: str, spool_dir: Path, target: Path, is_there: bool, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Nth of all system calls, for every N: the target is as it was, or new and whole, and nothing is beside it."""
    monkeypatch.delattr(os, "copy_file_range")
    before = open_descriptors()
    for number in itertools.count(1):
        target.unlink(missing_ok=True)
        if is_there:
            target.write_bytes(OLD)
        file = spooled(spool_dir)
        has_failed = False
        with monkeypatch.context() as patched:
            calls = Calls(patched, target.name, number, error)
            try:
                publishing.publish(file.duplicate, target)
            except (mt.SpoolError, KeyboardInterrupt):
                has_failed = True
        file.close()
        found = [path.read_bytes() for path in target.parent.iterdir()]
        assert found == ([NEW] if calls.has_appeared else [OLD] * is_there)
        assert has_failed or calls.has_appeared
        assert open_descriptors() == before
        if len(calls.made) < number:
            break
    assert number > 15


@pytest.mark.parametrize("is_there", [False, True])
def test_data_is_on_disk_before_the_name_and_the_name_before_the_end(
    way: str, file: spool.SpoolFile, target: Path, is_there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power failure at any moment leaves the old file or the whole new one, and after the return the new one."""
    if is_there:
        target.write_bytes(OLD)
    synced: list[tuple[bool, int]] = []  # whether it was the folder, and how long the target was then
    real = os.fsync

    def fsync(fd: int) -> None:
        real(fd)
        synced.append((stat.S_ISDIR(os.fstat(fd).st_mode), target.stat().st_size if target.exists() else 0))

    monkeypatch.setattr(os, "fsync", fsync)
    publishing.publish(file.duplicate, target)
    assert synced == [(False, len(OLD) * is_there), (True, len(NEW))]


@pytest.mark.parametrize(("number", "is_error"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_folder_that_cannot_be_synchronized(
    file: spool.SpoolFile, target: Path, monkeypatch: pytest.MonkeyPatch, number: int, is_error: bool
) -> None:
    """Some file systems do not know that; a disk that fails at it is told of. The file is there in both cases."""
    real = os.fsync

    def fsync(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(number, os.strerror(number))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    if is_error:
        assert refusal(file, target).errno == number
    else:
        publishing.publish(file.duplicate, target)
    assert target.read_bytes() == NEW


def refuse(number: int) -> Callable[..., Any]:
    def refusing(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return refusing


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EXDEV, errno.EPERM, errno.EACCES, errno.EOPNOTSUPP])
def test_where_nothing_can_be_linked_it_is_copied(
    file: spool.SpoolFile, target: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """File systems without links, sandboxes, and other disks each say it in their own way."""
    monkeypatch.setattr(os, "link", refuse(number))
    publishing.publish(file.duplicate, target)
    assert target.read_bytes() == NEW
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("missing", ["umask", "proc", "O_TMPFILE"])
def test_systems_that_have_less(spool_dir: Path, target: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """No umask in /proc, no /proc, no files without a name (macOS): the mode is right all the same."""
    if missing == "O_TMPFILE":
        monkeypatch.setattr(publishing, "_O_TMPFILE", 0)
    elif missing == "proc":
        monkeypatch.setattr(publishing, "open", refuse(errno.ENOENT), raising=False)
    else:
        (spool_dir.parent / "status").write_bytes(b"Name:\tpython\n")
        monkeypatch.setattr(publishing, "open", lambda *_: (spool_dir.parent / "status").open("rb"), raising=False)
    monkeypatch.delattr(os, "copy_file_range")
    monkeypatch.delattr(os, "posix_fadvise")
    file = spooled(spool_dir)
    old = os.umask(0o027)
    try:
        publishing.publish(file.duplicate, target)
    finally:
        os.umask(old)
    file.close()
    assert target.read_bytes() == NEW
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


@pytest.mark.parametrize("kernel", ["refuses", "copies nothing", "copies less"])
def test_the_kernel_need_not_copy(
    file: spool.SpoolFile, target: Path, monkeypatch: pytest.MonkeyPatch, kernel: str
) -> None:
    """It may refuse to, between two disks; some file systems copy nothing, or a little at a time, without a word."""
    make_way("copied and linked", monkeypatch.setattr)
    real = os.copy_file_range

    def copy_file_range(source: int, copy: int, count: int, *offsets: int) -> int:
        if kernel == "refuses":
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return 0 if kernel == "copies nothing" else real(source, copy, min(count, 4097), *offsets)

    monkeypatch.setattr(os, "copy_file_range", copy_file_range)
    publishing.publish(file.duplicate, target)
    assert target.read_bytes() == NEW


def test_a_file_that_becomes_shorter_is_not_published(
    file: spool.SpoolFile, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be a part of what was asked for."""
    make_way("copied and renamed", monkeypatch.setattr)

    def copy_file_range(*_: int) -> int:
        os.ftruncate(file.fd, 1000)
        return 0

    monkeypatch.setattr(os, "copy_file_range", copy_file_range)
    assert "shorter" in str(refusal(file, target))
    assert list(target.parent.iterdir()) == []


# -- death, and others who publish to the same path


def publish_once(way: str, spool_dir: Path, target: Path) -> None:
    """Publish one file."""
    make_way(way, setattr)
    file = spooled(spool_dir)
    publishing.publish(file.duplicate, target)
    file.close()


@pytest.mark.parametrize("is_there", [False, True])
@pytest.mark.parametrize("each", WAYS)
def test_sigkill_at_every_moment_leaves_the_old_or_the_new(
    nursery: Nursery, spool_dir: Path, target: Path, each: str, is_there: bool
) -> None:
    """Between all system calls: never a part. What is left beside it, the next that publishes there takes away."""
    left = 0
    for number in itertools.count(1):
        target.unlink(missing_ok=True)
        if is_there:
            target.write_bytes(OLD)
        status = nursery.run(killed_at, number, publish_once, each, spool_dir, target)
        assert list(spool_dir.iterdir()) == []
        if status == 0:
            break
        assert status == -signal.SIGKILL
        assert target.read_bytes() in (OLD, NEW) if is_there else not target.exists() or target.read_bytes() == NEW
        if extra := set(target.parent.iterdir()) - {target}:
            left += 1
            assert len(extra) == 1
            file = spooled(spool_dir, OLD)
            publishing.publish(file.duplicate, target)
            file.close()
            assert [path.read_bytes() for path in target.parent.iterdir()] == [OLD]
    assert number > 100
    assert bool(left) == (is_there or each == "copied and renamed")


def publish_for_ever(way: str, spool_dir: Path, target: Path) -> None:
    """Publish one file after the other, each filled with one letter; say so after each."""
    make_way(way, setattr)
    for number in itertools.count():
        file = spooled(spool_dir, bytes([65 + (os.getpid() + number) % 26]) * 400_000)
        publishing.publish(file.duplicate, target)
        file.close()
        say("round")


@pytest.mark.parametrize("each", WAYS)
def test_many_publish_to_one_path_and_some_are_killed(spool_dir: Path, target: Path, each: str) -> None:
    """At random moments: whoever looks sees one whole file, and in the end no other name is left."""
    rng = random.Random(1)
    with nurseries(3) as all_of_them:
        for publisher in all_of_them:
            publisher.start(publish_for_ever, each, spool_dir, target)
        for publisher in all_of_them:
            assert publisher.line() == "round"
        for _ in range(40):
            victim = rng.choice(all_of_them)
            for _ in range(rng.randrange(4)):
                assert victim.line() == "round"
            found = target.read_bytes()
            assert (len(found), len(set(found))) == (400_000, 1)
            victim.kill()
            victim.start(publish_for_ever, each, spool_dir, target)
        for publisher in all_of_them:
            publisher.kill()
    file = spooled(spool_dir)
    publishing.publish(file.duplicate, target)
    file.close()
    assert list(target.parent.iterdir()) == [target]


def slots_of(target: Path) -> list[Path]:
    return [target.parent / slot for slot in publishing._Target(0, target.name).slots]  # noqa: SLF001


def test_what_the_living_are_about_to_publish_is_left_alone(way: str, file: spool.SpoolFile, target: Path) -> None:
    """Only the dead ones' temporary names are taken away, all of them, and those of this path alone."""
    target.write_bytes(OLD)
    slots = slots_of(target)
    others = slots_of(target.with_name("other"))
    for path in (slots[0], slots[3], slots[15], others[0]):
        path.touch()
    with slots[0].open() as living:
        fcntl.flock(living, fcntl.LOCK_EX)
        publishing.publish(file.duplicate, target)
        assert sorted(target.parent.iterdir()) == sorted([slots[0], others[0], target])
    assert target.read_bytes() == NEW
    publishing.publish(file.duplicate, target)
    assert sorted(target.parent.iterdir()) == sorted([others[0], target])


def test_too_many_who_publish_to_one_path_are_told(way: str, file: spool.SpoolFile, target: Path) -> None:
    """All temporary names are taken by the living; what was there stays."""
    target.write_bytes(OLD)
    living = [path.open("w") for path in slots_of(target)]
    for each in living:
        fcntl.flock(each, fcntl.LOCK_EX)
    error = refusal(file, target)
    assert (error.errno, target.read_bytes()) == (errno.EBUSY, OLD)
    for each in living:
        each.close()
    publishing.publish(file.duplicate, target)
    assert list(target.parent.iterdir()) == [target]


def test_a_temporary_file_that_is_taken_for_a_dead_one_s_is_made_again(
    file: spool.SpoolFile, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another publisher may come between its creation and its lock."""
    make_way("copied and renamed", monkeypatch.setattr)
    real = publishing.lock
    removed: list[Path] = []

    def lock(fd: int) -> bool:
        if not removed:
            removed.append(slots_of(target)[0])
            removed[0].unlink()
        return real(fd)

    monkeypatch.setattr(publishing, "lock", lock)
    publishing.publish(file.duplicate, target)
    assert target.read_bytes() == NEW
    assert list(target.parent.iterdir()) == [target]
