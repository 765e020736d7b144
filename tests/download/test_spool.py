"""Files without a name, and what a disk may refuse."""

import errno
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._download import spool

from ..conftest import Run, open_descriptors
from ..support.needs import tmpfs
from ..support.server import Server
from .test_cleanup import half_a_body
from .test_downloader import ANY, fetched


def refuse_to_open(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Have the kernel refuse files without a name, with this error."""
    real = os.open

    def refusing(path: Any, flags: int, *arguments: Any, **settings: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(number, os.strerror(number))
        return real(path, flags, *arguments, **settings)

    monkeypatch.setattr(os, "open", refusing)


@pytest.fixture(params=["O_TMPFILE", "unlinked at once"])
def fd(request: pytest.FixtureRequest, spool_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A new nameless file, made in either way."""
    if request.param != "O_TMPFILE":
        refuse_to_open(monkeypatch, errno.EOPNOTSUPP)
    fd = spool.open_nameless(spool_dir, "http://h/")
    yield fd
    os.close(fd)


def test_a_nameless_file_is_private(fd: int, spool_dir: Path) -> None:
    """No name leads to it, no other user may open it, and no child inherits it."""
    status = os.fstat(fd)
    assert (status.st_nlink, status.st_mode & 0o777, status.st_size) == (0, 0o600, 0)
    assert not os.get_inheritable(fd)
    assert list(spool_dir.iterdir()) == []


def test_a_nameless_file_can_be_opened_by_its_path(fd: int) -> None:
    """Here and in a child process, each from its own beginning."""
    os.write(fd, b"spoken")
    path = spool.path_of(fd)
    assert path.read_bytes() == b"spoken"
    command = [sys.executable, "-c", "import sys; print(open(sys.argv[1]).read())", str(path)]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"spoken\n"


@pytest.mark.parametrize("number", [errno.EISDIR, errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
def test_where_the_kernel_knows_no_nameless_files_a_name_is_made_and_removed(
    run: Run, server: Server, spool_dir: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Old kernels, overlayfs before Linux 6.3, and gVisor each say it in their own way."""
    refuse_to_open(monkeypatch, number)
    server.routes["/"] = lambda exchange: exchange.answer(b"x" * 1000)
    assert fetched(run, server.url("/"), spool_dir)[1] == b"x" * 1000


def test_systems_without_nameless_files_are_served(
    run: Run, server: Server, spool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """macOS has no such flag."""
    monkeypatch.delattr(os, "O_TMPFILE")
    server.routes["/"] = lambda exchange: exchange.answer(b"x")
    assert fetched(run, server.url("/"), spool_dir)[1] == b"x"


def test_a_name_that_cannot_be_removed_is_a_spool_error(spool_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is not used, and its descriptor is closed."""

    def unlink(name: str) -> None:
        raise PermissionError(errno.EACCES, "not allowed")

    refuse_to_open(monkeypatch, errno.EOPNOTSUPP)
    before = open_descriptors()
    with monkeypatch.context() as patched, pytest.raises(mt.SpoolError) as caught:
        patched.setattr(os, "unlink", unlink)
        spool.open_nameless(spool_dir, "http://h/")
    assert caught.value.errno == errno.EACCES
    assert open_descriptors() == before
    for each in spool_dir.iterdir():
        each.unlink()


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
    assert "TMPDIR" in str(error)
    assert pickle.loads(pickle.dumps(error)).errno == error.errno
    return error


def test_a_full_disk_is_a_spool_error(run: Run, server: Server, tmp_path: Path) -> None:
    """In mid-write; its space is free again at once."""
    server.routes["/"] = half_a_body
    with tmpfs(tmp_path / "disk", "size=1m") as disk:
        free = os.statvfs(disk).f_bfree
        error = spool_refusal(run, server.url("/"), disk)
        assert (list(disk.iterdir()), os.statvfs(disk).f_bfree) == ([], free)
    assert error.errno == errno.ENOSPC
    assert len(server.requests) == 1


@pytest.mark.parametrize(("options", "number"), [("ro", errno.EROFS), ("nr_inodes=1", errno.ENOSPC)])
def test_a_disk_that_takes_no_file_is_a_spool_error(
    run: Run, server: Server, tmp_path: Path, options: str, number: int
) -> None:
    """Mounted read-only, or out of inodes: before any request is sent."""
    with tmpfs(tmp_path / "disk", options) as disk:
        assert spool_refusal(run, server.url("/"), disk).errno == number
        assert list(disk.iterdir()) == []
    assert server.requests == []


@pytest.mark.parametrize(("folder", "number"), [("missing", errno.ENOENT), ("file", errno.ENOTDIR)])
def test_no_spool_folder_is_a_spool_error(run: Run, server: Server, tmp_path: Path, folder: str, number: int) -> None:
    """Before any request is sent."""
    (tmp_path / "file").touch()
    assert spool_refusal(run, server.url("/"), tmp_path / folder).errno == number
    assert server.requests == []


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.ENOSPC])
def test_a_refusal_is_not_taken_for_a_missing_feature(
    run: Run, server: Server, spool_dir: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """No file with a name is tried instead."""
    refuse_to_open(monkeypatch, number)
    monkeypatch.delattr(tempfile, "mkstemp")
    assert spool_refusal(run, server.url("/"), spool_dir).errno == number
    assert server.requests == []
