"""What the benchmarks of decoding compare: ours and its peers, each as a command that takes the path of a file.

The peers load or decode the audio, and do nothing else. Two of them need an environment of their own, because
faster-whisper brings packages that change what httpx imports:

    python3 -m venv PEERS
    PEERS/bin/pip install faster-whisper pydub matplotlib          (audioop-lts, too, from Python 3.13 on)

Each Python contender prints how many seconds of audio it saw, so that nothing that stopped early counts as fast.
"""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

OURS, COMMAND = "ours", "our command"
PYAV, PYDUB, WHISPER, OLD_WHISPER, FFMPEG = "PyAV loop", "pydub", "faster-whisper", "whisper", "ffmpeg"
_WORDS_PER_SECOND = 2.5  # of the engine in tests/plugin

# The engine answers at once, and with nothing.
_CHUNKS = """
import sys, anyio, pathlib, memsafe_transcribe as mt
async def engine(chunk): return ""
async def main():
    async with mt.ChunkedTranscriber(engine).stream(pathlib.Path(sys.argv[1])) as segments:
        async for segment in segments: pass
        print(segments.duration_seconds)
anyio.run(main)
"""
# The engine of tests/plugin answers at once with 150 words a minute and their times.
_SEGMENTS = """
import sys, anyio, pathlib, memsafe_transcribe as mt
async def main():
    words = 0
    async with mt.ChunkedTranscriber("speech-clock") as transcriber:
        async with transcriber.stream(pathlib.Path(sys.argv[1])) as segments:
            async for segment in segments: words += len(segment.text.split())
    print(words / 2.5)
anyio.run(main)
"""
_PYAV = """
import sys, av
samples, resampler = 0, av.AudioResampler(format="s16", layout="mono", rate=16_000)
with av.open(sys.argv[1]) as container:
    for frame in container.decode(audio=0):
        for resampled in resampler.resample(frame): samples += resampled.samples
print(samples / 16_000)
"""
_PYDUB = "import sys, pydub; print(pydub.AudioSegment.from_file(sys.argv[1]).duration_seconds)"
_WHISPER = """
import sys
from faster_whisper.audio import decode_audio
print(len(decode_audio(sys.argv[1])) / 16_000)
"""
# What whisper's `load_audio` comes to: all that ffmpeg says, then as numbers of four bytes. Whisper itself needs torch.
_OLD_WHISPER = """
import subprocess, sys
import numpy
command = ["ffmpeg", "-nostdin", "-v", "error", "-i", sys.argv[1], "-ac", "1", "-ar", "16000", "-f", "s16le", "-"]
said = subprocess.run(command, capture_output=True, check=True).stdout
print(len(numpy.frombuffer(said, numpy.int16).astype(numpy.float32) / 32768) / 16_000)
"""


@dataclass(frozen=True)
class Contender:
    """One way to decode.

    Attributes:
        name: what the tables call it.
        command: what runs it, with "{}" where the file's path belongs.
    """

    name: str
    command: tuple[str, ...]

    def on(self, audio: Path) -> list[str]:
        """The whole command, for one file."""
        return [str(audio) if part == "{}" else part for part in self.command]


def chunks() -> Contender:
    """Our public API, with an engine that answers at once with nothing."""
    return Contender(OURS, (sys.executable, "-c", _CHUNKS, "{}"))


def segments() -> Contender:
    """Our public API, with the engine of tests/plugin: to be run in the environment that `install_plugin` gives."""
    return Contender(OURS, (sys.executable, "-c", _SEGMENTS, "{}"))


def command() -> Contender:
    """Our command, to text; otherwise like `segments`."""
    arguments = ("-m", "memsafe_transcribe", "transcribe", "--engine", "speech-clock", "{}")
    return Contender(COMMAND, (sys.executable, *arguments))


def peers(peers_python: str) -> list[Contender]:
    """Those that are there; says which are not.

    Args:
        peers_python: the interpreter of the environment that has faster-whisper and pydub.
    """
    found = [Contender(PYAV, (sys.executable, "-c", _PYAV, "{}"))]
    has_ffmpeg = shutil.which("ffmpeg") is not None
    for name, module, code in (
        (WHISPER, "faster_whisper", _WHISPER),
        (OLD_WHISPER, "numpy", _OLD_WHISPER),
        (PYDUB, "pydub", _PYDUB),
    ):
        if subprocess.run([peers_python, "-c", f"import {module}"], capture_output=True).returncode:
            print(f"missing: {name}, as {peers_python} cannot import {module} (see benchmarks/contenders.py)")
        elif name != WHISPER and not has_ffmpeg:
            print(f"missing: {name}, as it needs the ffmpeg command")
        else:
            found.append(Contender(name, (peers_python, "-c", code, "{}")))
    if has_ffmpeg:
        to_nowhere = ("-vn", "-ac", "1", "-ar", "16000", "-f", "s16le", "-y", "/dev/null")
        found.append(Contender(FFMPEG, ("ffmpeg", "-nostdin", "-v", "error", "-i", "{}", *to_nowhere)))
    else:
        print("missing: ffmpeg, the command")
    return found


def bounded(command: list[str], seconds: int) -> list[str]:
    """The same command, which SIGALRM ends after so many seconds; there is no further process that would be counted."""
    alarm = "import os, signal, sys; signal.alarm(int(sys.argv[1])); os.execvp(sys.argv[2], sys.argv[2:])"
    return [sys.executable, "-S", "-c", alarm, str(seconds), *command]


def check(contender: Contender, said: str, seconds: float) -> None:
    """It saw the whole file, whose length is known; a word may fall into a silence that was not sent."""
    if contender.name == FFMPEG:
        return
    saw = len(said.split()) / _WORDS_PER_SECOND if contender.name == COMMAND else float(said)
    assert abs(saw - seconds) <= 1 + seconds / 1000, f"{contender.name} saw {saw} s of {seconds:g}"
