"""A decoding process that hangs, or works for ever, or wants to do something else than decode."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._audio import decoder as decoder_module

from ..conftest import Run
from ..support.media import SPEECH
from .test_decoder import opened, read_all


def test_one_that_hangs_is_given_up(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stopped, so neither ends nor sends; the job's error says for how long it was silent."""

    async def main() -> None:
        async with opened(SPEECH) as decoder:
            monkeypatch.setattr(decoder_module, "_STALL_SECONDS", 0.3)
            os.kill(decoder.pid, signal.SIGSTOP)
            with pytest.raises(mt.DecoderCrashedError, match="it gave no sound for") as caught:
                await read_all(decoder)
            assert "it gave no sound" in caught.value.reason

    run(main)


def test_one_that_uses_up_its_processor_time_says_so(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel ends it; the error names the limit."""
    impostor = tmp_path / "python"
    impostor.write_text(
        f"#!{sys.executable}\nimport os, resource, struct\n"
        'info = b\'{"format": "mp3", "codec": "mp3", "duration_seconds": 1, "is_confined": true}\'\n'
        "os.write(1, struct.pack('<cI', b'I', len(info)) + info)\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (1, 2))\n"
        "while True: pass\n"
    )
    impostor.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(impostor))

    async def main() -> None:
        async with opened(SPEECH) as decoder:
            with pytest.raises(mt.DecoderCrashedError, match="it used more than 66 s of processor time"):
                await read_all(decoder)

    run(main)


_CONFINED = """
import os, socket, sys
from memsafe_transcribe._worker import sandbox
memory = bytearray(1000)
assert sandbox.confine()
def refused(what):
    try:
        what()
    except PermissionError:
        return True
    return False
assert refused(lambda: socket.socket())
assert refused(lambda: open("/etc/hostname"))
assert refused(lambda: open("new", "w"))
assert refused(lambda: os.unlink("victim"))
assert refused(lambda: os.rename("victim", "other"))
assert refused(lambda: os.chmod("victim", 0o777))
assert refused(lambda: os.fork())
assert refused(lambda: os.execv("/bin/true", ["true"]))
assert refused(lambda: os.kill(os.getppid(), 0))
memory += bytes(50_000_000)
os.write(1, b"computed")
"""


def test_what_is_confined_can_compute_and_nothing_else(tmp_path: Path) -> None:
    """No file is opened, removed or renamed, no socket made, no program started, no signal sent: the kernel says no."""
    victim = tmp_path / "victim"
    victim.write_text("here")
    done = subprocess.run([sys.executable, "-c", _CONFINED], cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"computed"), done.stderr
    assert victim.read_text() == "here"
