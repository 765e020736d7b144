"""`memsafe-transcribe demo`: the main job on real speech, over a real socket, on this machine alone.

The speech is the opening of Lewis Carroll's *Alice's Adventures in Wonderland* (1865, public domain), spoken by the
voice `slt` of flite: `flite -voice slt -f alice.txt -o alice.wav`, then 64 kbit/s MP3.
"""

import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from .._console import ProgressDisplay
from .._download.downloader import SafeDownloader
from .._download.policy import UrlPolicy
from .._memory.guard import default_guard
from .._memory.reading import tree_peak_bytes
from .._transcription.chunked import ChunkedTranscriber
from .._transcription.transcript import Transcript
from .._units import format_duration, format_size

_FOLDER = Path(__file__).parent
_SAMPLE_SECONDS = 0.05
_QUEUE_SECONDS = 60.0


async def run() -> int:
    """Run the demo; return the exit code."""
    known = (_FOLDER / "alice.txt").read_text(encoding="utf-8")
    started = time.monotonic()
    with _Peak() as peak:
        transcript = await _transcribe()
    for segment in transcript.segments:
        print(f"[{segment.start_seconds:6.2f} - {segment.end_seconds:6.2f}] {segment.text}")
    memory = default_guard().snapshot()
    print(
        f"\nword error rate  {100 * word_error_rate(known, transcript.text):.1f} % of {len(_words(known))} words"
        f"\naudio            {format_duration(transcript.duration_seconds)}, {transcript.status}, "
        f"in {time.monotonic() - started:.1f} s"
        f"\npeak memory      {format_size(peak.peak_bytes)}: this process, its decoder and its engine, all together"
        f"\nmemory limit     {format_size(memory.limit_bytes)} ({memory.binding})"
    )
    return 0


async def _transcribe() -> Transcript:
    downloader = SafeDownloader(policy=UrlPolicy(allow_private=True))
    with _served() as url, ProgressDisplay(url) as display:
        async with ChunkedTranscriber(
            "pocketsphinx", downloader=downloader, queue_timeout_seconds=_QUEUE_SECONDS
        ) as transcriber:
            return await transcriber.transcribe(url, language="en", on_progress=display)


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        pass


@contextmanager
def _served() -> Iterator[str]:
    """The speech's URL, while it is served on loopback."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_QuietHandler, directory=str(_FOLDER))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/alice.mp3"
        finally:
            server.shutdown()
            thread.join()


class _Peak:
    """The most that this process and its children had resident together while the `with` block ran."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._done.wait(_SAMPLE_SECONDS):
            self.peak_bytes = max(self.peak_bytes, tree_peak_bytes())

    def __enter__(self) -> "_Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def word_error_rate(reference: str, heard: str) -> float:
    """(substitutions + deletions + insertions) / words of the reference: the usual Levenshtein distance of words."""
    expected, got = _words(reference), _words(heard)
    return _distance(expected, got) / len(expected)


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def _distance(a: Sequence[str], b: Sequence[str]) -> int:
    row = list(range(len(b) + 1))
    for i, word in enumerate(a, 1):
        above, row = row, [i]
        for j, other in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (word != other)))
    return row[-1]
