"""Peak memory and time over the length of the audio, beside two peers in the same run.

    python -m benchmarks.memory_over_length [HOURS ...]        (default: 1 4)

The files are stereo MP3 at 128 kbit/s. The engine is a plugin that answers at once with 150 words a minute and their
times, so all that is measured of `memsafe-transcribe transcribe` is ours: decoding, chunking, and the transcript going
out. Peak memory is the sum of VmHWM over the whole process tree.

The peers only load the audio: a PyAV loop that decodes, resamples to 16 kHz mono and keeps nothing, and pydub's
`AudioSegment.from_file` (where pydub and the ffmpeg command are installed).
"""

import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.media import write_long_mp3
from tests.support.plugin import install_plugin
from tests.support.tree import Watched, run_watched

_MIB = 1 << 20
_PYAV_LOOP = """
import sys, av
resampler = av.AudioResampler(format="s16", layout="mono", rate=16_000)
with av.open(sys.argv[1]) as container:
    for frame in container.decode(audio=0):
        resampler.resample(frame)
"""
_PYDUB = "import sys, pydub; pydub.AudioSegment.from_file(sys.argv[1])"


def transcribe(audio: Path, hours: float, env: dict[str, str]) -> Watched:
    """Our command on one file; its text must have the right number of words."""
    command = [sys.executable, "-m", "memsafe_transcribe", "transcribe", "--engine", "speech-clock", str(audio)]
    watched = run_watched(command, audio.parent, env)
    expected = hours * 60 * 150
    assert watched.returncode == 0, watched.stderr
    assert abs(len(watched.stdout.split()) - expected) <= 1 + expected / 1000, f"not {expected:g} words"
    return watched


def peers(audio: Path) -> Iterator[tuple[str, Watched]]:
    """Every peer that is installed, on the same file."""
    env = dict(os.environ)
    yield "PyAV loop, no text", run_watched([sys.executable, "-c", _PYAV_LOOP, str(audio)], audio.parent, env)
    if importlib.util.find_spec("pydub") and shutil.which("ffmpeg"):
        yield "pydub, loading only", run_watched([sys.executable, "-c", _PYDUB, str(audio)], audio.parent, env)


def main() -> None:
    lengths = [float(argument) for argument in sys.argv[1:]] or [1.0, 4.0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        env = install_plugin(folder / "plugin")
        print(f"{'what':20} {'hours':>6} {'peak MiB':>9} {'ratio':>6} {'seconds':>8} {'ratio':>6}")
        for hours in lengths:
            audio = write_long_mp3(folder / "speech.mp3", hours * 3600)
            ours = transcribe(audio, hours, env)
            for what, watched in (("memsafe-transcribe", ours), *peers(audio)):
                memory = f"{watched.peak_bytes / _MIB:9.1f} {watched.peak_bytes / ours.peak_bytes:6.2f}"
                print(f"{what:20} {hours:6g} {memory} {watched.seconds:8.1f} {watched.seconds / ours.seconds:6.2f}")


if __name__ == "__main__":
    main()
