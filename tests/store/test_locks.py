"""The locks beside the database: whose they are when processes fork."""

import subprocess
import sys
from pathlib import Path

_FORKED_BY_C = """
import ctypes, os, signal, sys
from pathlib import Path
from memsafe_transcribe._store.locks import Locks
locks = Locks(Path(sys.argv[1]))
lock = locks.try_lock(b"job")
if (child := ctypes.CDLL(None).fork()) == 0:  # no Python code is told
    signal.pause()
lock.release()
print(locks.try_lock(b"job") is not None)
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
"""


def test_a_lock_is_given_back_though_a_child_has_its_file(tmp_path: Path) -> None:
    """A child that was forked past Python, or in the moment before the lock was noted, closes nothing."""
    done = subprocess.run(
        [sys.executable, "-c", _FORKED_BY_C, str(tmp_path / "jobs.sqlite")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")
