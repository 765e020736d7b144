"""What an actor of Ray takes beside what Ray was told: RssAnon + RssShmem over its processes, looked at every 50 ms.

    python -m benchmarks.ray_actor [HOURS ...] [--sources N]        (default: 1 4 12, two of each)

A real Ray on loopback, one actor, and MP3s with an engine that answers at once with 150 words a minute and their times;
so what is printed besides is what is left for an engine's own time: hours of audio an hour, of an actor that only
decodes, stores and gives out. Needs the extra `ray`.
"""

import argparse
import os
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
import psutil
import ray
import ray.data
from tests.plugin.speech_clock import SpeechClock

import memsafe_transcribe as mt
from benchmarks.long_files import write_long
from memsafe_transcribe._memory.reading import resident_bytes
from memsafe_transcribe.integrations.ray import actor_memory_bytes, transcribe

_SAMPLE_SECONDS = 0.05
_ACTOR = "MapWorker(MapBatches(_Transcribe))"  # as Ray names its process


def make(folder: Path) -> mt.ChunkedTranscriber:
    return mt.ChunkedTranscriber(SpeechClock(), store=mt.JobStore(folder / "jobs.sqlite"))


class Watch:
    """The most that the actor and its processes had at once."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        actor: psutil.Process | None = None
        while not self._ended.wait(_SAMPLE_SECONDS):
            try:
                if actor is None:
                    found = (each for each in psutil.process_iter() if _ACTOR in " ".join(each.cmdline()))
                    actor = next(found, None)
                else:
                    pids = [actor.pid, *(child.pid for child in actor.children(recursive=True))]
                    self.peak_bytes = max(self.peak_bytes, sum(map(resident_bytes, pids)))
            except psutil.Error:
                actor = None

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._ended.set()
        self._thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hours", type=float, nargs="*", default=[1.0, 4.0, 12.0])
    parser.add_argument("--sources", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as sockets, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ray.init(num_cpus=2, object_store_memory=200 * mt.MiB, include_dashboard=False, _temp_dir=sockets)
        ray.data.DataContext.get_current().enable_progress_bars = False
        told_bytes = actor_memory_bytes(partial(make, folder))
        for hours in options.hours:
            audio = write_long(folder, "mp3", hours * 3600)
            # The same audio again and again would be known; each has bytes of its own behind its end.
            sources = [folder / f"{hours:g}-{number}.mp3" for number in range(options.sources)]
            for number, source in enumerate(sources):
                source.write_bytes(audio.read_bytes() + bytes(number + 1))
            with Watch() as watch:
                began = time.monotonic()
                rows = transcribe(sources, partial(make, folder), 1).take_all()
                seconds = time.monotonic() - began
            assert {row["status"] for row in rows} == {"complete"}, rows
            heard = sum(row["duration_seconds"] for row in rows)
            words = sum(len(row["words"]) for row in rows)
            print(
                f"{len(rows)} x {hours:g} h: told {told_bytes / mt.MiB:.0f} MiB, took at most "
                f"{watch.peak_bytes / mt.MiB:.0f}; {words} words; {seconds:.1f} s, {heard / seconds:.0f} h an hour",
                flush=True,
            )
        ray.shutdown()


if __name__ == "__main__":
    main()
