"""The command `memsafe-transcribe`.

Results go to standard output, everything else to standard error. Exit codes: 0, everything was done; 1, a source (or a
check of `doctor`) failed; 2, the command line is wrong, or an engine or setting is missing; 130 and 143, interrupted.
"""

import argparse
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TextIO

import anyio

from ._admission.controller import AdmissionController
from ._console import ProgressDisplay
from ._download.downloader import SafeDownloader
from ._download.incoming import default_max_bytes
from ._download.policy import UrlPolicy
from ._drafts import opened_output
from ._errors import MemsafeError, TranscriberError
from ._memory.guard import MemoryGuard, default_guard
from ._outputs import called, one_line, say, source_of, stem_of, timeline_to
from ._transcription.chunked import ChunkedTranscriber, runner_of
from ._transcription.formats import format_segments
from ._units import format_duration, format_size, parse_size
from ._version import __version__

_DEFAULT_ENGINE = "pocketsphinx"
_QUEUE_SECONDS = 60.0  # a command should end; a host may wait for as long as it likes


class _UsageError(Exception):
    """The command makes no sense as it stands."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (_UsageError, TranscriberError, ValueError) as error:
        say(one_line(error))
        return 2
    except _InterruptedError as error:
        say("interrupted; nothing is left behind")
        return 128 + error.number
    except BrokenPipeError:
        # Whoever read our output has gone. Python would complain again when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (MemsafeError, OSError) as error:
        say(one_line(error))
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="memsafe-transcribe", description=__doc__.partition("\n\n")[2])
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    transcribe = commands.add_parser("transcribe", help="turn URLs and files into text")
    transcribe.add_argument("sources", nargs="+", metavar="SOURCE", help="an http(s) URL, or a file")
    transcribe.add_argument("--engine", metavar="NAME", default=_DEFAULT_ENGINE, help="default: %(default)s")
    transcribe.add_argument("--language", metavar="CODE", help='such as "en"; default: the engine finds out')
    transcribe.add_argument("--format", choices=("txt", "srt", "vtt", "json"), default="txt", help="default: txt")
    transcribe.add_argument(
        "--output", metavar="PATH", type=Path, help="a file, which is replaced; or a folder that exists"
    )
    transcribe.add_argument("--allow-private", action="store_true", help="allow URLs of private networks")
    _add_timeline(transcribe)
    transcribe.set_defaults(run=lambda options: _run(_transcribe, options))

    _add_batch(commands)

    plan = commands.add_parser("plan", help="say what a transcription would take, before anything is decoded")
    plan.add_argument("source", metavar="SOURCE", help="an http(s) URL, or a file")
    plan.add_argument("--engine", metavar="NAME", default=_DEFAULT_ENGINE, help="default: %(default)s")
    plan.add_argument("--limit", metavar="SIZE", type=_size, help='such as "512MiB"; default: the container\'s')
    plan.add_argument("--allow-private", action="store_true", help="allow URLs of private networks")
    plan.set_defaults(run=lambda options: _run(_plan, options))

    demo = commands.add_parser("demo", help="download, decode and transcribe some speech on this machine")
    demo.set_defaults(run=_run_demo)
    doctor = commands.add_parser("doctor", help="what was found: memory limit, spool, decoder, engines")
    doctor.set_defaults(run=_run_doctor)
    engines = commands.add_parser("engines", help="which engines are installed, what each needs, and its limits")
    engines.set_defaults(run=_run_engines)
    return parser


def _add_batch(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    batch = commands.add_parser(
        "batch", help="transcribe what a list names, as many at once as memory allows; with a store, go on later"
    )
    batch.add_argument("list", metavar="LIST", help="a file with an http(s) URL or a file in each line; - is stdin")
    batch.add_argument("--output-dir", metavar="DIR", type=Path, required=True, help="a folder that exists")
    batch.add_argument("--store", metavar="PATH", type=Path, help="an SQLite file that remembers what is done")
    batch.add_argument("--engine", metavar="NAME", default=_DEFAULT_ENGINE, help="default: %(default)s")
    batch.add_argument("--language", metavar="CODE", help='such as "en"; default: the engine finds out')
    batch.add_argument("--format", choices=("txt", "srt", "vtt", "json"), default="txt", help="default: txt")
    batch.add_argument("--max-batch-size", metavar="N", type=int, default=5, help="default: %(default)s")
    batch.add_argument("--retry-failed", action="store_true", help="try again what was given up in an earlier run")
    batch.add_argument("--allow-private", action="store_true", help="allow URLs of private networks")
    _add_timeline(batch)
    batch.set_defaults(run=_run_batch)

    cleanup = commands.add_parser("cleanup", help="remove from a store what nobody needs any more")
    cleanup.add_argument("--store", metavar="PATH", type=Path, required=True, help="the SQLite file")
    cleanup.set_defaults(run=_run_cleanup)


def _add_timeline(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--timeline", metavar="PATH", type=Path, help="draw memory and jobs over time into this SVG file"
    )


def _run_batch(options: argparse.Namespace) -> int:
    from ._batch import run

    return _run(run, options)


def _run_cleanup(options: argparse.Namespace) -> int:
    from ._batch import clean

    return _run(clean, options)


def _run_demo(_: argparse.Namespace) -> int:
    from ._demo import run

    return _run(run)


def _run_doctor(_: argparse.Namespace) -> int:
    from ._doctor import run

    return _run(run)


def _run_engines(_: argparse.Namespace) -> int:
    from ._engines import run

    return _run(run)


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


async def _plan(options: argparse.Namespace) -> int:
    guard = default_guard()
    if options.limit is not None:
        guard = MemoryGuard(threshold_percent=guard.threshold_percent, limit_bytes=options.limit)
    admission = AdmissionController(guard=guard)
    policy = UrlPolicy(allow_private=options.allow_private)
    downloader = SafeDownloader(max_bytes=default_max_bytes(), policy=policy, admission=admission)
    transcriber = ChunkedTranscriber(
        options.engine, admission=admission, downloader=downloader, queue_timeout_seconds=_QUEUE_SECONDS
    )
    plan = await transcriber.plan(source_of(options.source))
    least, most = map(format_size, plan.bounds)
    print(f"peak      {format_size(plan.peak_bytes)}" + (f", at most {most}" if most != least else ""))
    print(f"chunks    {plan.chunk_seconds:g} s, {plan.concurrency} at once")
    print(f"duration  {'unknown' if plan.duration_seconds is None else format_duration(plan.duration_seconds)}")
    print(f"why       {plan.why}")
    room = guard.room()
    if plan.peak_bytes > room.admitted_work_bytes:
        say(
            f"{called(options.source)} does not fit: {format_size(max(0, room.admitted_work_bytes))} are left of the "
            f"{format_size(room.largest_need_bytes)} that may be used under this limit "
            f"({format_size(room.largest_need_limit.limit_bytes)})"
        )
        return 1
    return 0


async def _transcribe(options: argparse.Namespace) -> int:
    targets = _targets(options)
    policy = UrlPolicy(allow_private=options.allow_private)
    downloader = SafeDownloader(max_bytes=default_max_bytes(), policy=policy)
    timeline, failed = timeline_to(options.timeline), 0
    transcriber = ChunkedTranscriber(
        options.engine, downloader=downloader, queue_timeout_seconds=_QUEUE_SECONDS, timeline=timeline
    )
    runner_of(transcriber).check_language(options.language)
    with timeline or nullcontext():
        async with transcriber:
            for source, target in zip(options.sources, targets, strict=True):
                try:
                    with opened_output(target) as output:
                        await _transcribe_one(transcriber, source, options, output)
                except BrokenPipeError:
                    raise
                except (MemsafeError, OSError, ValueError) as error:
                    failed += 1
                    say(one_line(error))
    return 1 if failed else 0


async def _transcribe_one(
    transcriber: ChunkedTranscriber, source: str, options: argparse.Namespace, output: TextIO
) -> None:
    with ProgressDisplay(called(source)) as display:
        async with transcriber.stream(source_of(source), language=options.language, on_progress=display) as stream:
            async for piece in format_segments(stream, options.format):
                output.write(piece)
                output.flush()
    if stream.gaps:
        first = stream.gaps[0]
        place = f"the first at {first.start_seconds:.1f} s: {first.reason}"
        say(f"{called(source)}: {len(stream.gaps)} damaged places, {place}")


def _targets(options: argparse.Namespace) -> list[Path | None]:
    """Where each source's result goes; None is standard output."""
    sources, output, suffix = options.sources, options.output, options.format
    if output is None:
        if len(sources) > 1 and suffix != "txt":
            raise _UsageError(f"several sources as {suffix} need --output FOLDER, where each gets a file")
        return [None] * len(sources)
    files = [source for source in sources if "://" not in source]
    if any(Path(file).exists() and output.exists() and output.samefile(file) for file in files):
        raise _UsageError(f"--output {output} is one of the sources, which it would replace")
    if len(sources) == 1 and not output.is_dir():
        if not output.parent.is_dir():
            raise _UsageError(f"--output {output}: there is no folder {output.parent}")
        return [output]
    if not output.is_dir():
        raise _UsageError(f"--output {output}: with several sources this must be a folder that exists")
    names = [stem_of(source) for source in sources]
    targets = [output / f"{name}.{suffix}" for name in names]
    if len(set(targets)) < len(targets):
        raise _UsageError("two of the sources have the same name: transcribe them one at a time")
    return list(targets)


class _InterruptedError(Exception):
    """A signal asked the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def _run(function: Callable[..., Awaitable[int]], *arguments: object) -> int:
    """Run to the end, or until SIGINT or SIGTERM: then cancel, clean up, and take no notice of further signals."""

    async def supervised() -> int:
        outcome: int | Exception = 1
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with anyio.create_task_group() as tasks:

                async def work() -> None:
                    nonlocal outcome
                    try:
                        outcome = await function(*arguments)
                    except Exception as error:
                        outcome = error
                    tasks.cancel_scope.cancel()

                tasks.start_soon(work)
                async for number in signals:
                    outcome = _InterruptedError(number)
                    tasks.cancel_scope.cancel()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return anyio.run(supervised)
