"""What the machine promises, asked from within by `nox -s cgroup2`; its name keeps it out of all other runs."""

import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

GROUPS = Path("/sys/fs/cgroup")
MiB = 1 << 20


@pytest.fixture
def group() -> Iterator[Path]:
    """A cgroup of this test's own."""
    folder = GROUPS / "memsafe-inside"
    folder.mkdir()
    yield folder
    folder.rmdir()


def test_the_kernel_kills_what_exceeds_its_group(group: Path) -> None:
    """In a group of 32 MiB a process that takes 64 dies of it, and the kernel counts that; pressure is measured."""
    assert {"memory", "cpu", "pids"} <= set((GROUPS / "cgroup.subtree_control").read_text().split())
    (group / "memory.max").write_text(str(32 * MiB))
    take = f"import os; open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid())); bytearray(64 << 20)"
    assert subprocess.run([sys.executable, "-c", take]).returncode == -9
    assert "oom_kill 1" in (group / "memory.events").read_text().splitlines()
    assert (group / "memory.pressure").read_text().startswith("some avg10=")
    assert Path("/proc/pressure/memory").read_text().startswith("some avg10=")


def test_temporary_files_lie_on_a_disk_and_shared_memory_in_memory() -> None:
    """And files without a name work on that disk, which they do not on the overlay of an old kernel."""
    assert tempfile.gettempdir() == "/mnt"
    kinds = subprocess.run(["stat", "-f", "-c", "%T", "/mnt", "/dev/shm"], capture_output=True, text=True, check=True)
    assert kinds.stdout.split() == ["ext2/ext3", "tmpfs"]
    os.close(os.open("/mnt", os.O_TMPFILE | os.O_RDWR))


def test_loopback_is_up() -> None:
    """A client reaches a server."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        answering = threading.Thread(target=lambda: server.accept()[0].close())
        answering.start()
        with socket.create_connection(server.getsockname()) as client:
            assert client.recv(1) == b""
        answering.join()
