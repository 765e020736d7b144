"""Files that no crash can leave behind, and what a disk may refuse."""

import errno
import fcntl
import itertools
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._download import publishing, spool

from ..conftest import Run, open_descriptors
from ..support.needs import cannot, tmpfs
from ..support.processes import gone_within
from ..support.server import Exchange, Server
from .test_downloader import ANY, fetched

ROOT = Path(__file__).parents[2]
URL = "http://h/"
NOBODY = 65534
HOWS = ["without a name", "unlinked at once", "in the private folder"]


def make_system(how: str, patch: Callable[[Any, str, Any], None]) -> None:
    """Let this process live on a system that can have spooled files in this way only."""
    if how != "without a name":
        patch(publishing, "_O_TMPFILE", 0)
    if how == "in the private folder":
        patch(spool, "_path_of", lambda fd: Path(f"/no-proc-here/{fd}"))


@pytest.fixture(params=HOWS)
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way in which a file may be spooled, one of which the system is limited to."""
    make_system(request.param, monkeypatch.setattr)
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture
def file(how: str, spool_dir: Path) -> Iterator[spool.SpoolFile]:
    """A new file, spooled in each way."""
    file = spool.open_spool_file(spool_dir, URL)
    yield file
    file.close()


@pytest.fixture
def private(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system on which files can be spooled in the private folder only."""
    make_system("in the private folder", monkeypatch.setattr)


def private_folder(spool_dir: Path) -> Path:
    return spool_dir / f"memsafe-spool-{os.geteuid()}"


# -- children, which are forked by a process that has one thread and has imported everything


class Nursery:
    """Forks one child at a time, for whom a function of a test module is called; each is there in milliseconds."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", "from tests.download import test_spool; test_spool.nurse()"]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self.pid = 0  # of the child that lives

    def start(self, function: Callable[..., None], *arguments: Any) -> None:
        """Let a new child call this."""
        pickle.dump((function, arguments), self._stdin)
        self._stdin.flush()
        self.pid = int(self.line())

    def line(self) -> str:
        """The next that the child says."""
        return self._stdout.readline().decode().strip()

    def end(self) -> int:
        """Wait for the child's end: its exit code, or the negative number of its signal."""
        while not (line := self.line()).startswith("end "):
            assert line, "the nursery has died"
        self.pid = 0
        return int(line.removeprefix("end "))

    def run(self, function: Callable[..., None], *arguments: Any) -> int:
        """Let a new child call this, and wait for its end."""
        self.start(function, *arguments)
        return self.end()

    def kill(self) -> None:
        """SIGKILL the child, and wait for its end. (Its pid stays its own until the nursery has said so.)"""
        os.kill(self.pid, signal.SIGKILL)
        assert self.end() == -signal.SIGKILL

    def close(self) -> None:
        if self.pid:
            self.kill()
        self._stdin.close()
        assert self._process.wait() == 0
        self._stdout.close()


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    """One child at a time."""
    with nurseries(1) as (nursery,):
        yield nursery


@contextmanager
def nurseries(number: int) -> Iterator[list[Nursery]]:
    """As many children at once."""
    found = [Nursery() for _ in range(number)]
    try:
        yield found
    finally:
        for each in found:
            each.close()


def nurse() -> None:
    """What a nursery does."""
    while True:
        try:
            function, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        if not (pid := os.fork()):
            code = 1
            try:
                say(str(os.getpid()))
                function(*arguments)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        say(f"end {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def killed_at(number: int, function: Callable[..., None], *arguments: Any) -> None:
    """Call this, but die by SIGKILL before or after the Nth call into C, so between two system calls."""
    moments = itertools.count(1)

    def profile(frame: Any, event: str, argument: Any) -> None:
        if event.startswith("c_") and next(moments) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(profile)
    function(*arguments)
    sys.setprofile(None)


def spool_once(how: str, spool_dir: Path) -> None:
    """Have one file, from its beginning to its end."""
    make_system(how, setattr)
    file = spool.open_spool_file(spool_dir, URL)
    os.write(file.fd, bytes(100_000))
    file.close()


def spool_and_wait(how: str, spool_dir: Path) -> None:
    """Have one file, say where, and never end."""
    make_system(how, setattr)
    file = spool.open_spool_file(spool_dir, URL)
    os.write(file.fd, b"alive")
    say(str(file.path))
    signal.pause()


def spool_for_ever(how: str, spool_dir: Path, rounds: int | None = None) -> None:
    """Have one file after the other, each of which must be whole to its end; say so after each."""
    make_system(how, setattr)
    for number in itertools.count():
        if number == rounds:
            return
        file = spool.open_spool_file(spool_dir, URL)
        data = os.urandom(5000)
        os.write(file.fd, data)
        spool.reap(spool_dir)
        if how == "in the private folder":
            assert file.path.read_bytes() == data
        else:
            assert os.pread(file.fd, 5001, 0) == data
        file.close()
        say("round")


# -- the file


def test_a_spooled_file_is_private(file: spool.SpoolFile, how: str, spool_dir: Path) -> None:
    """No other user may open it, no child inherits it, and only a folder of our own shows it, if any does."""
    status = os.fstat(file.fd)
    assert (status.st_mode & 0o777, status.st_size) == (0o600, 0)
    assert not os.get_inheritable(file.fd)
    assert file.is_nameless == (how != "in the private folder")
    if file.is_nameless:
        assert (status.st_nlink, list(spool_dir.iterdir())) == (0, [])
    else:
        folder = private_folder(spool_dir)
        assert (list(spool_dir.iterdir()), list(folder.iterdir())) == ([folder], [file.path])
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_spooled_file_can_be_opened_by_its_path(file: spool.SpoolFile) -> None:
    """Here and in a child process, each from its own beginning."""
    os.write(file.fd, b"spoken")
    assert file.path.read_bytes() == b"spoken"
    command = [sys.executable, "-c", "import sys; print(open(sys.argv[1]).read())", str(file.path)]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"spoken\n"


def test_a_path_is_good_from_any_folder(private: None, spool_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child may work in another folder than the one that `spool_dir` was told from."""
    monkeypatch.chdir(spool_dir)
    file = spool.open_spool_file(Path(), URL)
    assert file.path.is_absolute()
    file.close()


def test_a_closed_file_is_gone(how: str, spool_dir: Path) -> None:
    """With its path, its descriptor and the folder; to close it again, by whatever number of threads, does nothing."""
    before = open_descriptors()
    file = spool.open_spool_file(spool_dir, URL)
    threads = [threading.Thread(target=file.close) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    file.close()
    assert file.fd == -1
    assert not file.path.exists()
    assert open_descriptors() == before
    assert list(spool_dir.iterdir()) == []


def test_a_cleaner_may_have_removed_it_first(private: None, spool_dir: Path) -> None:
    """Closing does not mind, whether the file or the whole folder is gone."""
    for remove in (os.unlink, lambda path: shutil.rmtree(path.parent)):
        file = spool.open_spool_file(spool_dir, URL)
        remove(file.path)
        file.close()


@pytest.mark.parametrize("is_error", [False, True])
def test_a_dropped_file_says_so_and_is_closed(
    how: str, spool_dir: Path, monkeypatch: pytest.MonkeyPatch, is_error: bool
) -> None:
    """By a `ResourceWarning`; also where that is an error."""
    raised: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: raised.append(unraisable.exc_value))
    before = open_descriptors()
    if is_error:
        spool.open_spool_file(spool_dir, URL)
        assert [type(error) for error in raised] == [ResourceWarning]
    else:
        with pytest.warns(ResourceWarning, match="was dropped without being closed"):
            spool.open_spool_file(spool_dir, URL)
    assert open_descriptors() == before
    assert list(spool_dir.iterdir()) == []


def close_in_a_fork(spool_dir: Path) -> None:
    make_system("in the private folder", setattr)
    file = spool.open_spool_file(spool_dir, URL)
    if not (pid := os.fork()):
        file.close()
        os._exit(0)
    os.waitpid(pid, 0)
    assert spool.reap(spool_dir) == 0
    assert file.path.exists()
    file.close()


def test_a_forked_child_that_closes_it_leaves_it_to_its_parent(nursery: Nursery, spool_dir: Path) -> None:
    """Neither the file nor its lock goes."""
    assert nursery.run(close_in_a_fork, spool_dir) == 0


def live_on_in_a_fork(spool_dir: Path) -> None:
    """Make a file, leave it to a child of ours, and go once the child has said so."""
    make_system("in the private folder", setattr)
    file = spool.open_spool_file(spool_dir, URL)
    begun, begin = os.pipe()
    if os.fork():
        os.read(begun, 1)
        os._exit(0)
    say(f"{os.getpid()} {file.path}")
    os.write(begin, b"!")
    signal.pause()


def test_what_a_forked_child_still_holds_is_not_reaped(nursery: Nursery, spool_dir: Path) -> None:
    """Though the process that made it has died; once the child has, too, it is."""
    nursery.start(live_on_in_a_fork, spool_dir)
    pid, path = nursery.line().split()
    assert nursery.end() == 0
    with publishing.closing(os.pidfd_open(int(pid))) as child:
        try:
            assert spool.reap(spool_dir) == 0
            assert Path(path).exists()
        finally:
            signal.pidfd_send_signal(child, signal.SIGKILL)
        assert gone_within(child, 30)
    assert spool.reap(spool_dir) == 1


# -- death


@pytest.mark.parametrize("each", HOWS)
def test_sigkill_at_every_moment_leaves_nothing(nursery: Nursery, tmp_path: Path, each: str) -> None:
    """Between all system calls of opening, writing and closing: what is left, the reaper takes, to the last byte."""
    with tmpfs(tmp_path / "disk", "size=4m") as disk:
        free = os.statvfs(disk).f_bfree, os.statvfs(disk).f_ffree
        deaths = reaped = 0
        while status := nursery.run(killed_at, deaths + 1, spool_once, each, disk):
            assert status == -signal.SIGKILL
            deaths += 1
            if each != "without a name":
                reaped += spool.reap(disk)
            assert list(disk.iterdir()) == []
            assert (os.statvfs(disk).f_bfree, os.statvfs(disk).f_ffree) == free
    assert deaths > 50
    assert bool(reaped) == (each != "without a name")


@pytest.mark.parametrize("each", HOWS)
def test_sigkill_at_random_moments_harms_nobody_else(tmp_path: Path, each: str) -> None:
    """While others work on in the same folder: none of them loses its file, and in the end nothing is left."""
    rng = random.Random(1)
    with tmpfs(tmp_path / "disk", "size=4m") as disk, nurseries(3) as (victims, *others):
        free = os.statvfs(disk).f_bfree
        for other in others:
            other.start(spool_for_ever, each, disk)
        for _ in range(60):
            victims.start(spool_for_ever, each, disk)
            for _ in range(rng.randrange(4)):
                assert victims.line() == "round"
            victims.kill()
        for other in others:
            assert other.line() == "round"
            other.kill()
        spool.reap(disk)
        assert (list(disk.iterdir()), os.statvfs(disk).f_bfree) == ([], free)


def test_processes_that_come_and_go_at_once_do_not_meet(tmp_path: Path) -> None:
    """All make, reap and remove files and the folder itself as fast as they can; none loses a file or is refused."""
    with tmpfs(tmp_path / "disk", "size=4m") as disk, nurseries(4) as all_of_them:
        for each in all_of_them:
            each.start(spool_for_ever, "in the private folder", disk, 300)
        assert [each.end() for each in all_of_them] == [0] * 4
        assert list(disk.iterdir()) == []


# -- the reaper


@pytest.mark.parametrize("by", ["the reaper", "a new file"])
def test_the_reaper_leaves_the_living_alone(private: None, nursery: Nursery, spool_dir: Path, by: str) -> None:
    """A file is removed once its process is dead, not before; a new file's opening removes it as well."""
    nursery.start(spool_and_wait, "in the private folder", spool_dir)
    path = Path(nursery.line())
    assert spool.reap(spool_dir) == 0
    assert path.read_bytes() == b"alive"
    nursery.kill()
    assert path.exists()
    if by == "the reaper":
        assert spool.reap(spool_dir) == 1
    else:
        spool.open_spool_file(spool_dir, URL).close()
    assert not path.exists()


def test_the_reaper_takes_nothing_that_is_not_its_own(spool_dir: Path) -> None:
    """Other names, links, folders, pipes, and other users' files, whatever they are called."""
    folder = private_folder(spool_dir)
    folder.mkdir(0o700)
    names = [f"spool-{number:016x}" for number in range(6)]
    (folder / names[0]).touch()
    (spool_dir / "victim").touch()
    (folder / names[1]).symlink_to(spool_dir / "victim")
    (folder / names[2]).mkdir()
    os.mkfifo(folder / names[3])
    foreign = {"notes.txt", names[0][:-1], names[0] + "0", names[0].upper()}
    for name in foreign:
        (folder / name).touch()
    kept = {*foreign, *names[1:4]}
    if os.geteuid() == 0:
        (folder / names[4]).touch()
        os.chown(folder / names[4], NOBODY, NOBODY)
        kept.add(names[4])
    assert spool.reap(spool_dir) == 1
    assert {path.name for path in folder.iterdir()} == kept
    assert (spool_dir / "victim").exists()
    shutil.rmtree(folder)
    (spool_dir / "victim").unlink()


def test_there_may_be_nothing_to_reap(spool_dir: Path) -> None:
    """Neither a folder nor a file in it."""
    assert spool.reap(spool_dir) == 0
    private_folder(spool_dir).mkdir(0o700)
    assert spool.reap(spool_dir) == 0


def test_a_file_that_is_reaped_before_it_is_locked_is_made_again(
    private: None, spool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reaper may come between the two, be done by then, or have it locked just now."""
    lock = publishing.lock
    reaped: list[int] = []

    def after_the_reaper(fd: int) -> bool:
        if len(reaped) < 2:
            reaped.append(spool.reap(spool_dir))
        elif len(reaped) == 2:
            reaped.append(0)
            return False
        return lock(fd)

    monkeypatch.setattr(publishing, "lock", after_the_reaper)
    before = open_descriptors()
    file = spool.open_spool_file(spool_dir, URL)
    assert reaped == [1, 1, 0]
    assert os.path.samestat(os.fstat(file.fd), file.path.stat())
    assert spool.reap(spool_dir) == 0
    file.close()
    monkeypatch.setattr(publishing, "lock", lambda fd: False)
    with pytest.raises(mt.SpoolError, match="again and again"):
        spool.open_spool_file(spool_dir, URL)
    assert open_descriptors() == before
    spool.reap(spool_dir)


def test_a_name_that_was_taken_anew_is_not_the_dead_one_s(
    private: None, spool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two reapers that find the same dead file the slower one does not remove what another made since."""
    folder = private_folder(spool_dir)
    folder.mkdir(0o700)
    name = folder / f"spool-{0:016x}"
    name.touch()
    flock = fcntl.flock

    def later(fd: int, operation: int) -> None:
        name.rename(spool_dir / "kept")
        name.touch()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", later)
    assert spool.reap(spool_dir) == 0
    assert name.exists()
    (spool_dir / "kept").unlink()
    shutil.rmtree(folder)


def test_a_file_system_without_locks_keeps_all(private: None, spool_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody can tell who lives, files can be had, and none is reaped."""

    def refuse(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    file = spool.open_spool_file(spool_dir, URL)
    assert spool.reap(spool_dir) == 0
    assert file.path.exists()
    file.close()


# -- whom the private folder belongs to


def make_link(folder: Path) -> None:
    (folder.parent / "elsewhere").mkdir(0o700)
    folder.symlink_to(folder.parent / "elsewhere")


def make_foreign(folder: Path) -> None:
    folder.mkdir(0o700)
    if os.geteuid() != 0:
        cannot("needs root to give a folder away")
    os.chown(folder, NOBODY, NOBODY)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (make_link, "is not a folder"),
        (Path.touch, "is not a folder"),
        (make_foreign, "is not this user's own"),
        (lambda folder: folder.mkdir(0o755), "open to others"),
    ],
    ids=["a link", "a file", "somebody else's", "open to others"],
)
def test_a_folder_that_cannot_be_trusted_is_refused(
    private: None, tmp_path: Path, make: Callable[[Path], None], why: str
) -> None:
    """Whoever made it first could read what is spooled, or have other files removed. It is left as it is."""
    folder = private_folder(tmp_path)
    make(folder)
    before = sorted(tmp_path.rglob("*"))
    for refused in (lambda: spool.open_spool_file(tmp_path, URL), lambda: spool.reap(tmp_path)):
        with pytest.raises(mt.SpoolError, match=why) as caught:
            refused()
        assert folder.name in str(caught.value)
        assert "MEMSAFE_SPOOL_DIR" in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def serve_as_nobody(folder: Path) -> None:
    """A server that was started as root and has changed its user since: /proc shows it as root's."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    file = spool.open_spool_file(folder, URL)
    os.write(file.fd, b"spoken")
    seen = subprocess.run(["cat", file.path], capture_output=True, check=True).stdout
    assert seen == b"spoken"
    assert not file.is_nameless, "this system shows it: the test proves nothing"
    publishing.publish(file.duplicate, folder / "published")
    file.close()
    assert (folder / "published").read_bytes() == b"spoken"
    again = spool.open_spool_file(folder, URL)
    with pytest.raises(mt.SpoolError) as caught:
        publishing.publish(again.duplicate, folder.parent / "published")
    again.close()
    assert caught.value.errno == errno.EACCES


def test_a_server_that_gave_up_root_can_hand_files_to_its_children(nursery: Nursery) -> None:
    """They may not look into its /proc, so the file keeps a name."""
    if os.geteuid() != 0:
        cannot("needs root to give it up")
    outer = Path(tempfile.mkdtemp())
    try:
        outer.chmod(0o755)
        folder = outer / "spool"
        folder.mkdir()
        os.chown(folder, NOBODY, NOBODY)
        assert nursery.run(serve_as_nobody, folder) == 0
        assert [path.name for path in folder.iterdir()] == ["published"]
        assert list(outer.iterdir()) == [folder]
    finally:
        shutil.rmtree(outer)


# -- what the system may not have


def refuse_to_open(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Have the kernel refuse files without a name, with this error."""
    real = os.open

    def refusing(path: Any, flags: int, *arguments: Any, **settings: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(number, os.strerror(number))
        return real(path, flags, *arguments, **settings)

    monkeypatch.setattr(os, "open", refusing)


@pytest.mark.parametrize("number", [errno.EISDIR, errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
def test_where_the_kernel_knows_no_nameless_files_a_name_is_made_and_removed(
    run: Run, server: Server, spool_dir: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Old kernels, overlayfs before Linux 6.3, and gVisor each say it in their own way."""
    refuse_to_open(monkeypatch, number)
    server.routes["/"] = lambda exchange: exchange.answer(b"x" * 1000)
    assert fetched(run, server.url("/"), spool_dir)[1] == b"x" * 1000


@pytest.mark.parametrize("shown", ["another file", "nothing"])
def test_a_path_that_does_not_lead_to_the_file_is_not_handed_out(
    spool_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: str
) -> None:
    """Some sandboxes have a /proc in which a file without a name cannot be opened: its name is kept there."""
    if shown == "another file":
        (tmp_path / "other").touch()
    monkeypatch.setattr(spool, "_path_of", lambda fd: tmp_path / "other")
    file = spool.open_spool_file(spool_dir, URL)
    assert not file.is_nameless
    assert os.path.samestat(os.fstat(file.fd), file.path.stat())
    file.close()


def test_a_name_that_cannot_be_removed_is_a_spool_error(spool_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is not used, its descriptor is closed, and the reaper takes it when it can."""

    def unlink(path: Any, **settings: Any) -> None:
        raise PermissionError(errno.EACCES, "not allowed")

    refuse_to_open(monkeypatch, errno.EOPNOTSUPP)
    before = open_descriptors()
    with monkeypatch.context() as patched, pytest.raises(mt.SpoolError, match="not allowed") as caught:
        patched.setattr(os, "unlink", unlink)
        spool.open_spool_file(spool_dir, URL)
    assert caught.value.errno == errno.EACCES
    assert open_descriptors() == before
    assert spool.reap(spool_dir) == 1


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.ENOSPC])
def test_a_refusal_is_not_taken_for_a_missing_feature(
    spool_dir: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """No file with a name is tried instead."""
    refuse_to_open(monkeypatch, number)
    monkeypatch.delattr(spool, "_open_private")
    with pytest.raises(mt.SpoolError) as caught:
        spool.open_spool_file(spool_dir, URL)
    assert caught.value.errno == number


# -- what the disk may not have


def test_files_are_spooled_where_the_system_keeps_temporary_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If nothing else is said, TMPDIR decides."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert mt.SafeDownloader().spool_dir == tmp_path
    assert mt.SafeDownloader(spool_dir=str(tmp_path / "x")).spool_dir == tmp_path / "x"


def spool_refusal(run: Run, url: str, spool_dir: Path) -> mt.SpoolError:
    """The error of a download into a folder that cannot take it; it is an OSError too, and names the setting."""

    async def main() -> mt.SpoolError:
        admission = mt.AdmissionController(scope="process")
        with pytest.raises(mt.SpoolError) as caught:
            async with mt.SafeDownloader(policy=ANY, admission=admission, spool_dir=spool_dir).fetch(url):
                pytest.fail("the file was handed out")
        assert admission.statistics().active == 0
        return caught.value

    error: mt.SpoolError = run(main)
    assert isinstance(error, OSError)
    assert error.spool_dir == str(spool_dir)
    assert str(spool_dir) in str(error)
    assert "MEMSAFE_SPOOL_DIR" in str(error)
    assert pickle.loads(pickle.dumps(error)).errno == error.errno
    return error


def two_mebibytes_of_unknown_length(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + bytes(2 * mt.MiB))
    exchange.hold_until_closed()


def test_a_full_disk_is_a_spool_error(run: Run, server: Server, tmp_path: Path) -> None:
    """In mid-write, with the figure, and without another try; its space is free again at once."""
    server.routes["/"] = two_mebibytes_of_unknown_length
    with tmpfs(tmp_path / "disk", "size=1m") as disk:
        free = os.statvfs(disk).f_bfree
        error = spool_refusal(run, server.url("/"), disk)
        assert (list(disk.iterdir()), os.statvfs(disk).f_bfree) == ([], free)
    assert error.errno == errno.ENOSPC
    assert "0 B and" in str(error)
    assert [request.method for request in server.requests].count("GET") == 1


@pytest.mark.parametrize(("options", "number"), [("ro", errno.EROFS), ("nr_inodes=1", errno.ENOSPC)])
def test_a_disk_that_takes_no_file_is_a_spool_error(how: str, tmp_path: Path, options: str, number: int) -> None:
    """Mounted read-only, or out of inodes, which is told with the figure."""
    with tmpfs(tmp_path / "disk", options) as disk:
        with pytest.raises(mt.SpoolError, match="0 inodes" if number == errno.ENOSPC else "Read-only") as caught:
            spool.open_spool_file(disk, URL)
        assert caught.value.errno == number
        assert list(disk.iterdir()) == []


def test_an_inode_for_the_folder_alone_is_not_enough(private: None, tmp_path: Path) -> None:
    """The private folder is taken away again if no file can be made in it."""
    with tmpfs(tmp_path / "disk", "nr_inodes=2") as disk:
        with pytest.raises(mt.SpoolError, match="inodes are free"):
            spool.open_spool_file(disk, URL)
        assert list(disk.iterdir()) == []


@pytest.mark.parametrize(("folder", "number"), [("missing", errno.ENOENT), ("file", errno.ENOTDIR)])
def test_no_spool_folder_is_a_spool_error(
    how: str, run: Run, server: Server, tmp_path: Path, folder: str, number: int
) -> None:
    """Before any request is sent; no folder is made."""
    (tmp_path / "file").touch()
    assert spool_refusal(run, server.url("/"), tmp_path / folder).errno == number
    assert server.requests == []
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


@contextmanager
def descriptors_left(number: int) -> Iterator[None]:
    """Let this process open that many more files."""
    with publishing.closing(os.open("/", os.O_RDONLY)) as lowest:  # all below are in use
        pass
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 16, limits[1]))
        taken = list(_take_descriptors())
        for _ in range(number):
            os.close(taken.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in taken:
            os.close(fd)


def _take_descriptors() -> Iterator[int]:
    while True:
        try:
            yield os.open("/", os.O_RDONLY)
        except OSError:
            return


def test_too_few_descriptors_are_a_spool_error(how: str, spool_dir: Path) -> None:
    """However few are left, none is lost, and the error tells the limit; enough for a file are enough."""
    before = open_descriptors()
    for number in itertools.count():
        with descriptors_left(number):
            try:
                file = spool.open_spool_file(spool_dir, URL)
            except mt.SpoolError as caught:
                error = caught
            else:
                break
        assert error.errno == errno.EMFILE
        assert "ulimit -n" in str(error)
        assert (open_descriptors(), list(spool_dir.iterdir())) == (before, [])
    assert file.is_nameless == (how != "in the private folder"), "it was taken for one that cannot be opened by a path"
    file.close()
    assert 1 <= number <= 3
    assert open_descriptors() == before


# -- figures


def test_free_bytes_are_those_that_a_user_may_write(tmp_path: Path) -> None:
    """What is left of a small disk goes down by what is written to it."""
    with tmpfs(tmp_path / "disk", "size=1m") as disk:
        assert spool.free_bytes(disk) == mt.MiB
        (disk / "file").write_bytes(bytes(65_536))
        assert spool.free_bytes(disk) == mt.MiB - 65_536


def test_figures_of_a_missing_folder_are_a_spool_error(tmp_path: Path) -> None:
    """As is everything that the spool folder refuses."""
    for ask in (spool.free_bytes, spool.is_memory):
        with pytest.raises(mt.SpoolError, match="MEMSAFE_SPOOL_DIR") as caught:
            ask(tmp_path / "missing")
        assert caught.value.errno == errno.ENOENT


def test_a_spool_in_memory_is_told_from_one_on_disk(tmp_path: Path) -> None:
    """Whatever the folder is called, and by whatever way it is reached: what counts is where a file would lie."""
    on_disk = tmp_path / "on disk"
    on_disk.mkdir()
    assert not spool.is_memory(on_disk), "the tests' own temporary folder is in memory: this proves nothing"
    with tmpfs(tmp_path / "in \\ memory\n", "size=1m") as disk:
        (disk / "below").mkdir()
        (tmp_path / "link").symlink_to(disk / "below")
        assert [spool.is_memory(path) for path in (disk, disk / "below", tmp_path / "link")] == [True] * 3
        assert spool.is_memory(disk / ".." / "link")
        assert not spool.is_memory(disk / "..")
        mount("--bind", str(on_disk), str(disk / "below"))
        try:
            assert not spool.is_memory(disk / "below")
        finally:
            subprocess.run(["umount", str(disk / "below")], check=True)


@pytest.mark.parametrize(("kind", "is_memory"), [("ramfs", True), ("overlay", False)])
def test_kinds_of_file_systems(tmp_path: Path, kind: str, is_memory: bool) -> None:
    """Ramfs is memory, too; an overlay on disk is not. A file can be spooled on each."""
    for name in ("lower", "upper", "work", "disk"):
        (tmp_path / name).mkdir()
    layers = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    mount("-t", kind, *(["-o", layers] if kind == "overlay" else []), kind, str(tmp_path / "disk"))
    try:
        assert spool.is_memory(tmp_path / "disk") == is_memory
        file = spool.open_spool_file(tmp_path / "disk", URL)
        os.write(file.fd, b"spoken")
        assert file.path.read_bytes() == b"spoken"
        file.close()
        assert list((tmp_path / "disk").iterdir()) == []
    finally:
        subprocess.run(["umount", str(tmp_path / "disk")], check=True)


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if done.returncode:
        cannot(f"needs root to mount: {done.stderr}")


def test_without_proc_a_spool_is_taken_for_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing tells; the file itself can be had all the same."""

    def no_proc(path: str, mode: str) -> Any:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    monkeypatch.setattr(spool, "open", no_proc, raising=False)
    with tmpfs(tmp_path / "disk", "size=1m") as disk:
        assert not spool.is_memory(disk)
