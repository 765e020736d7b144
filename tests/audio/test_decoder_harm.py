"""A decoding process that hangs, or works for ever, or wants to do something else than decode."""

import os
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._audio import decoder as decoder_module

from ..conftest import Run
from ..support.media import SPEECH, tone_samples, write_long_mp3, write_wav
from .test_decoder import opened, process_of, read_all


def test_one_that_hangs_is_given_up(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stopped, so neither ends nor sends; the job's error says for how long it was silent."""

    async def main() -> None:
        async with opened(SPEECH) as decoder:
            monkeypatch.setattr(decoder_module, "_STALL_SECONDS", 0.3)
            os.kill(process_of(decoder), signal.SIGSTOP)
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


# Through the public API: the job fails with the cause, and the next job of the same host works.

Harm = Callable[[int], None]


class Saboteur:
    """An engine that does something to the decoding process at its first chunk."""

    def __init__(self, harm: Harm) -> None:
        self.capabilities = mt.Capabilities(max_chunk_seconds=5.0, formats=("wav",))
        self._harm: Harm | None = harm

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        harm, self._harm = self._harm, None
        if harm is not None:
            (decoder,) = psutil.Process().children()
            harm(decoder.pid)
        return mt.ChunkResult(text="heard")


async def crash_then_go_on(path: Path, next_path: Path, harm: Harm, undo: Callable[[], None]) -> mt.DecoderCrashedError:
    """The error of one job; after it nothing is held, and another job of the same transcriber is done in full."""
    admission = mt.AdmissionController(scope="process")
    async with mt.ChunkedTranscriber(Saboteur(harm), admission=admission) as transcriber:
        with pytest.raises(mt.DecoderCrashedError) as caught:
            await transcriber.transcribe(path)
        undo()
        assert psutil.Process().children() == []
        assert (admission.statistics().active, admission.statistics().reserved_bytes) == (0, 0)
        transcript = await transcriber.transcribe(next_path)
        assert (transcript.status, transcript.text) == ("complete", "heard")
    assert path.name in str(caught.value) and caught.value.reason in str(caught.value)
    return caught.value


@pytest.fixture
def next_path(tmp_path: Path) -> Path:
    """What the host has to do next."""
    return write_wav(tmp_path / "next.wav", tone_samples(2.0))


def nothing(_pid: int = 0) -> None:
    """No harm."""


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGKILL", "SIGSYS"])
def test_one_that_crashes_or_is_killed_names_the_signal(run: Run, next_path: Path, name: str) -> None:
    """SIGKILL is what the kernel sends when the container is out of memory, SIGSYS what seccomp may send."""
    error = run(crash_then_go_on, SPEECH, next_path, lambda pid: os.kill(pid, signal.Signals[name]), nothing)
    assert error.reason == f"killed by {name}"


def test_one_that_hangs_says_for_how_long(run: Run, next_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stopped in the middle: it neither sends nor ends."""

    def stop(pid: int) -> None:
        monkeypatch.setattr(decoder_module, "_STALL_SECONDS", 0.3)
        os.kill(pid, signal.SIGSTOP)

    error = run(crash_then_go_on, SPEECH, next_path, stop, monkeypatch.undo)
    assert error.reason.startswith("it gave no sound for")


def test_one_that_grows_says_so(run: Run, next_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel refuses it more than was reserved: here, too little even to look at the file."""
    monkeypatch.setattr(decoder_module, "_STREAM_BYTES", 1_000_000)
    error = run(crash_then_go_on, SPEECH, next_path, nothing, monkeypatch.undo)
    assert error.reason.startswith("out of memory: needs more than data_limit_bytes=1000000")


def test_one_that_burns_its_processor_time_says_so(
    run: Run, tmp_path: Path, next_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second of it is too little for so long a file; the kernel ends it."""
    monkeypatch.setattr(decoder_module, "_CPU_SECONDS", 1)
    monkeypatch.setattr(decoder_module, "_CPU_SHARE", 0.0)
    path = write_long_mp3(tmp_path / "long.mp3", 7200.0)
    error = run(crash_then_go_on, path, next_path, nothing, monkeypatch.undo)
    assert error.reason == "it used more than 1 s of processor time"


@pytest.mark.parametrize(
    ("sends", "reason"),
    [
        (r"printf 'P\377\377\377\377'", "it does not speak its protocol any more"),  # a frame of 4 GiB
        ("head -c 100000 /dev/urandom", "it does not speak its protocol any more"),
        (r"printf 'I\002\000\000\000{]'", "it does not speak its protocol any more"),  # JSON that is none
        (r"printf 'P\002\000\000\000ab'", "it does not speak its protocol any more"),
        ("echo it is broken >&2; exit 3", "exit status 3: it is broken"),
        ("exit 0", "exit status 0"),
    ],
)
def test_one_that_sends_garbage_or_just_ends_says_so(
    run: Run, tmp_path: Path, next_path: Path, monkeypatch: pytest.MonkeyPatch, sends: str, reason: str
) -> None:
    """As one would that a media file has taken over."""
    impostor = tmp_path / "python"
    impostor.write_text(f"#!/bin/sh\n{sends}\nexec sleep 1000\n")
    impostor.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(impostor))
    error = run(crash_then_go_on, SPEECH, next_path, nothing, monkeypatch.undo)
    assert error.reason.startswith(reason)


def test_one_that_never_gives_a_sound_is_given_up(
    run: Run, tmp_path: Path, next_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what the file is, and then nothing."""
    impostor = tmp_path / "python"
    info = '{"format": "mp3", "codec": "mp3", "duration_seconds": 1, "is_confined": true}'
    impostor.write_text(f"#!/bin/sh\nprintf 'I\\{len(info):03o}\\000\\000\\000%s' '{info}'\nexec sleep 1000\n")
    impostor.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(impostor))
    monkeypatch.setattr(decoder_module, "_STALL_SECONDS", 1.0)
    error = run(crash_then_go_on, SPEECH, next_path, nothing, monkeypatch.undo)
    assert error.reason == "it gave no sound for 1 s"


def test_one_that_is_slower_than_its_sound_says_so(
    run: Run, tmp_path: Path, next_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each block comes soon enough, and all of them would take for ever."""
    impostor, info, block = tmp_path / "python", tmp_path / "info", tmp_path / "block"
    said = b'{"format": "mp3", "codec": "mp3", "duration_seconds": 1, "is_confined": true}'
    info.write_bytes(b"I" + struct.pack("<I", len(said)) + said)
    block.write_bytes(b"P" + struct.pack("<IIf", 4 + 4 + 320, 1, 0.1) + bytes(320))
    impostor.write_text(f"#!/bin/sh\ncat {info}\nwhile cat {block}; do sleep 0.1; done\n")
    impostor.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(impostor))
    monkeypatch.setattr(decoder_module, "_STALL_SECONDS", 1.0)
    error = run(crash_then_go_on, SPEECH, next_path, nothing, monkeypatch.undo)
    assert re.fullmatch(r"it gave 0\.\d s of sound in 1 s", error.reason)
