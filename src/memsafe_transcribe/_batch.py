"""`memsafe-transcribe batch` and `cleanup`: many sources, from a list, with a store that remembers them."""

import argparse
import os
import stat
import sys
from collections import Counter, deque
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, nullcontext
from pathlib import Path

import anyio

from ._console import BatchDisplay
from ._download.downloader import SafeDownloader
from ._download.incoming import default_max_bytes
from ._download.policy import UrlPolicy
from ._drafts import opened_output
from ._outputs import called, one_line, say, stem_of, timeline_to
from ._store.store import JobStore
from ._transcription.batch import BatchTranscriber
from ._transcription.chunked import ChunkedTranscriber
from ._transcription.outcomes import Outcome
from ._transcription.sources import Source
from ._transcription.transcript import Transcript
from ._units import format_size

_SHOWN_FAILURES = 50
_PIECE_BYTES = 64 * 1024


async def run(options: argparse.Namespace) -> int:
    """Transcribe what the list names; 1 if one of them failed."""
    if not options.output_dir.is_dir():
        raise ValueError(f"--output-dir {options.output_dir}: there is no such folder")
    if options.list == "-" and sys.stdin is None:  # its descriptor may be some other file by now
        raise ValueError("LIST -: standard input is closed")
    store = None if options.store is None else JobStore(options.store)
    policy = UrlPolicy(allow_private=options.allow_private)
    downloader = SafeDownloader(max_bytes=default_max_bytes(), policy=policy, failures=store)
    timeline = timeline_to(options.timeline)
    transcriber = ChunkedTranscriber(options.engine, downloader=downloader, store=store, timeline=timeline)
    batch = BatchTranscriber(transcriber, max_batch_size=options.max_batch_size)
    summary = _Summary(Path(options.output_dir), options.format)
    names: dict[int, str] = {}
    async with AsyncExitStack() as opened:
        opened.enter_context(timeline or nullcontext())
        if store is not None:
            await opened.enter_async_context(store.cleaning())
        display = opened.enter_context(BatchDisplay(await _count(options.list)))
        outcomes = await opened.enter_async_context(
            batch.run(
                _listed(options.list, names),
                name=_batch_name(options.list),
                language=options.language,
                retry_failed=options.retry_failed,
                on_progress=display,
            )
        )
        async for outcome in outcomes:
            summary.take(outcome, names.pop(outcome.index))
    summary.print()
    return 1 if summary.failed else 0


async def clean(options: argparse.Namespace) -> int:
    """Remove from a store what nobody needs any more."""
    if not options.store.is_file():
        raise ValueError(f"--store {options.store}: there is no such file")
    done = await JobStore(options.store).cleanup()
    print(f"removed   {done.batches} batches, {done.jobs} jobs, {done.failed_urls} failed URLs")
    print(f"spool     {done.spool_files} files of dead processes")
    print(f"freed     {format_size(done.freed_bytes)}")
    return 0


class _Summary:
    """Writes what there is, and keeps what failed and why."""

    def __init__(self, folder: Path, suffix: str) -> None:
        self.done = self.failed = 0
        self._folder = folder
        self._suffix = suffix
        self._failures: deque[str] = deque(maxlen=_SHOWN_FAILURES)
        self._kinds: Counter[str] = Counter()

    def take(self, outcome: Outcome, name: str) -> None:
        error = outcome.error
        try:
            if outcome.transcript is not None:
                self._write(outcome.index, name, outcome.transcript)
        except OSError as unwritten:
            error = unwritten
        if error is None:
            self.done += 1
            return
        self.failed += 1
        self._kinds[type(error).__name__] += 1
        message, source = one_line(error), called(name)
        self._failures.append(message if message.startswith(source) else f"{source}: {message}")

    def print(self) -> None:
        for failure in self._failures:
            say(failure)
        if self.failed > len(self._failures):
            say(f"... and {self.failed - len(self._failures)} before these")
        kinds = ", ".join(f"{count} {kind}" for kind, count in self._kinds.most_common())
        print(f"{self.done} done, {self.failed} failed" + (f": {kinds}" if kinds else ""), file=sys.stderr)

    def _write(self, index: int, name: str, transcript: Transcript) -> None:
        texts = {
            "txt": transcript.to_text,
            "srt": transcript.to_srt,
            "vtt": transcript.to_vtt,
            "json": transcript.to_json,
        }
        with opened_output(self._folder / f"{index + 1:05}-{stem_of(name)}.{self._suffix}") as file:
            file.write(texts[self._suffix]())


def _batch_name(path: str) -> str:
    return path if path == "-" else os.path.abspath(path)


async def _listed(path: str, names: dict[int, str]) -> AsyncGenerator[Source]:
    """The sources of a list: one a line; those that are empty, or begin with #, are none."""
    index = 0
    async for line in _lines(path):
        names[index] = line
        yield line if "://" in line else Path(line)
        index += 1


async def _count(path: str) -> int | None:
    """How many there are; None of what can be read only once."""
    if not _is_file(path):
        return None
    count = 0
    async for _ in _lines(path):
        count += 1
    return count


async def _lines(path: str) -> AsyncGenerator[str]:
    async for line in _lines_of_file(path) if _is_file(path) else _lines_of_pipe(path):
        if (text := line.strip()) and not text.startswith("#"):
            yield text


async def _lines_of_file(path: str) -> AsyncGenerator[str]:
    with open(0 if path == "-" else path, encoding="utf-8", errors="replace", closefd=path != "-") as file:  # noqa: ASYNC230 - a local file, a line at a time
        for line in file:
            yield line


async def _lines_of_pipe(path: str) -> AsyncGenerator[str]:
    """Whoever writes it may take his time: he, and what he writes, is waited for where that can be interrupted."""
    with open(0 if path == "-" else path, "rb", buffering=0, closefd=path != "-", opener=_open_at_once) as file:  # noqa: ASYNC230
        rest = b""
        while True:
            await anyio.wait_readable(file)
            if (piece := file.read(_PIECE_BYTES)) is None:
                continue  # another reader was faster
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines if piece else [rest]:
                yield line.decode(errors="replace")
            if not piece:
                return


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a FIFO would wait for its writer


def _is_file(path: str) -> bool:
    """Whether it can be read to its end at once, and again."""
    found = os.stat(0 if path == "-" else path)
    return stat.S_ISREG(found.st_mode) or os.path.samestat(found, os.stat(os.devnull))
