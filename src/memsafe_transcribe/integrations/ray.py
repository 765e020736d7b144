"""Ray Data: the sources of a dataset, transcribed by actors that are scheduled by the memory that a job takes.

Ray places actors by the `memory=` that each says it needs, and enforces nothing. Here that figure is the plan's: what a
worker takes before it works, its engine, and one job at its largest, which does not grow with the audio. In the actor
it is the limit of the guard, so that what Ray was told stays true.

An actor has one source in work at a time. Each is a batch's: its attempts and its chunks are in a store on the node's
disk, which all actors of the node share. So whatever ends an actor, the one that Ray starts in its place goes on where
it was; and a source that fails, or ends its actor each time, becomes a row with an error. Rows are given out once, when
their source is done.
"""

import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args
from uuid import uuid4

from .._admission.controller import AdmissionController, replace_default
from .._audio.decoder import data_limit_bytes, peak_bytes
from .._blocking import blocking
from .._memory.cleanup import let_go_of
from .._memory.guard import MemoryGuard
from .._portal import portal
from .._store.store import inside
from .._transcription.batch import BatchTranscriber
from .._transcription.chunked import ChunkedTranscriber, runner_of
from .._transcription.running import Runner
from .._transcription.sources import is_url
from .._units import MiB
from ._ray_rows import Rows, table_of

if TYPE_CHECKING:
    from ray.data import Dataset

# Measured with Ray 2.60 on CPython 3.11 (benchmarks/ray_actor.py): a worker that has imported Ray Data, Arrow and this
# library has 123 MiB; twelve hours of 150 words a minute, as a transcript and as a row, take 43 MiB more than one hour.
_WORKER_BYTES = 128 * MiB
_TRANSCRIPT_BYTES_PER_SECOND = 1200
_FILLED_PERCENT = 90  # of an actor's memory; what the guard calls its ceiling
_OBJECT_STORE = "plasma"  # part of the name of the file that a node's object store is


def transcribe(
    sources: "Iterable[str | os.PathLike[str]] | Dataset",
    make_transcriber: Callable[[], ChunkedTranscriber],
    concurrency: int | tuple[int, int],
    *,
    column: str = "source",
    paths: bool = False,
    rows: Rows = "transcripts",
    language: str | None = None,
    prompt: str | None = None,
    deadline_seconds: float | None = None,
    max_attempts: int = 3,
    retry_failed: bool = False,
    memory_bytes: int | None = None,
    **map_batches_options: Any,
) -> "Dataset":
    """A dataset of what is said in each source; lazy, like every dataset. No source that fails makes it fail.

    To the columns of `sources` come `text`, `language`, `duration_seconds`, `status`, `segments`, `words`, `gaps` and
    `suspects`, as `Transcript` has them; or, where there is no transcript, `error_type` and `error`; and `attempts`.
    Rows come as they are done.

    Args:
        sources: URLs as strings and files as paths; or a dataset with a column of them. A path is one on the node.
        make_transcriber: called here once, for the plan, and in each actor. What it returns needs a store on a local
            disk of the node, an engine with a `cache_key`, and no `admission`: the actor's own is the process's.
        concurrency: how many actors; or the least and the most of them.
        column: of the dataset, with one source in each row; of a list, what it is to be called.
        paths: whether a string in the dataset's column that is no URL is a path. By default it is an error, so that a
            user's input can never name a file.
        rows: "transcripts", one for each source; or "segments", which have the source's columns, `number`, `text`,
            `start_seconds`, `end_seconds`, `trusted`, `unsure_seam` and `words`. A source without any has one row.
        language, prompt, deadline_seconds: as for `BatchTranscriber.run`.
        max_attempts: as for `BatchTranscriber`.
        retry_failed: try again what the node's store has given up before; an actor that took the place of another does
            not, for it may have been given up since.
        memory_bytes: of each actor; by default `actor_memory_bytes` of it.
        map_batches_options: more of what `Dataset.map_batches` takes for its actors: `num_cpus`, `num_gpus`,
            `runtime_env`.

    Raises:
        ValueError, TypeError: for arguments that cannot work; or the transcriber has no store, or its engine no
            `cache_key`: a source that ends its actor each time would be tried for ever.
        TranscriberError: the engine cannot be used here.
        StoreError, TranscriberFailedError: from the dataset: a node's store is out of order, the engine's quota is used
            up, and every other source would meet the same. What is stored is not paid for again on its node.

    Memory: here, that of a list of sources. An actor's is bounded by `memory_bytes`.
    """
    import ray.data

    if rows not in get_args(Rows):
        raise ValueError(f'rows must be "transcripts" or "segments", got {rows!r}')
    transcriber = _made(make_transcriber)
    runner = runner_of(transcriber)
    runner.check_language(language)
    BatchTranscriber(transcriber, max_attempts=max_attempts)  # raises here what it would raise there,
    MemoryGuard(limit_bytes=memory_bytes)  # and so does this
    if not isinstance(sources, ray.data.Dataset):
        sources, paths = ray.data.from_items([{column: each} for each in _named(sources)]), True
    least, most = concurrency if isinstance(concurrency, tuple) else (concurrency, concurrency)
    memory_bytes = _needed_bytes(runner) if memory_bytes is None else memory_bytes
    settings = _Settings(
        memory_bytes,
        runner.settings.wanted.concurrency,
        column,
        paths,
        rows,
        max_attempts,
        retry_failed,
        # A batch for each dataset: what the stores have of one goes when nothing has been done for it for a week.
        {"name": f"ray {uuid4()}", "language": language, "prompt": prompt, "deadline_seconds": deadline_seconds},
    )
    # A block is what an actor is given at a time, and what is seen of its work when it is done.
    return sources.repartition(target_num_rows_per_block=1).map_batches(
        _Transcribe,
        fn_constructor_args=(make_transcriber, settings),
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(
            min_size=least,
            max_size=most,
            # Nothing waits in one actor while another is idle. Ray makes more actors only where something waits in one.
            max_tasks_in_flight_per_actor=1 if least == most else None,
        ),
        memory=memory_bytes,
        **map_batches_options,
    )


def actor_memory_bytes(make_transcriber: Callable[[], ChunkedTranscriber]) -> int:
    """What Ray is told that an actor needs: nine tenths of it are a worker, the engine, and one job at its largest.

    The job's part is the upper bound of `ChunkedTranscriber.plan`, for audio of any length, and the transcript of
    `max_audio_seconds` of it.

    Raises:
        ValueError, TypeError, TranscriberError: as for `transcribe`.
    """
    return _needed_bytes(runner_of(_made(make_transcriber)))


def _needed_bytes(runner: Runner) -> int:
    settings = runner.settings
    needed = (
        _WORKER_BYTES
        + runner.engine.capabilities.resident_bytes
        + peak_bytes(data_limit_bytes(None))
        + settings.wanted.host_bytes
        + int(_TRANSCRIPT_BYTES_PER_SECOND * settings.max_audio_seconds)
    )
    return -(-needed * 100 // (_FILLED_PERCENT * MiB)) * MiB


def _made(make_transcriber: Callable[[], ChunkedTranscriber]) -> ChunkedTranscriber:
    transcriber = make_transcriber()
    if not isinstance(transcriber, ChunkedTranscriber):
        raise TypeError(f"make_transcriber must return a ChunkedTranscriber, got {type(transcriber).__name__}")
    if runner_of(transcriber).settings.store is None:
        raise ValueError(
            "on Ray a transcriber needs a store, and an engine with a cache_key: without, a source that ends its actor "
            "each time would be tried for ever, and what was heard of it would be paid for each time"
        )
    return transcriber


def _named(sources: Iterable[str | os.PathLike[str]]) -> list[str]:
    """URLs, and absolute paths: an actor may run in another folder."""
    if isinstance(sources, str | bytes | os.PathLike):
        raise TypeError(f"sources must be an iterable of sources, got {type(sources).__name__}")
    return [_name(each) for each in sources]


def _name(source: str | os.PathLike[str]) -> str:
    if isinstance(source, os.PathLike):
        return os.path.abspath(os.fspath(source))
    if not isinstance(source, str):
        raise TypeError(f"a source on Ray must be a URL or a path, got {type(source).__name__}")
    if not is_url(source):
        raise ValueError(f"{source!r} is no http(s) URL; name a file by pathlib.Path({source!r})")
    return source


@dataclass(frozen=True, slots=True)
class _Settings:
    """What each actor is told.

    Attributes:
        memory_bytes: what it was given.
        slots: how many chunks of its one job may be in work at once.
        column, paths, rows, max_attempts, retry_failed: as `transcribe` has them.
        run: what else each batch is run with.
    """

    memory_bytes: int
    slots: int
    column: str
    paths: bool
    rows: Rows
    max_attempts: int
    retry_failed: bool
    run: dict[str, Any]


class _Transcribe:
    """What each actor keeps: its engine and its store are open until the process ends."""

    def __init__(self, make_transcriber: Callable[[], ChunkedTranscriber], settings: _Settings) -> None:
        import ray

        self._settings = settings
        # Else a source that ends its actor would never be given up.
        self._retry_failed = settings.retry_failed and not ray.get_runtime_context().was_current_actor_reconstructed
        # Ray has let the work in, and each actor has memory of its own: it may be filled up to the ceiling, and waits
        # for no other process.
        guard = MemoryGuard(
            threshold_percent=_FILLED_PERCENT, ceiling_percent=_FILLED_PERCENT, limit_bytes=settings.memory_bytes
        )
        admission = AdmissionController(guard=guard, max_concurrent=settings.slots, scope="process")
        replace_default(admission)
        transcriber = _made(make_transcriber)
        runner = runner_of(transcriber)
        if runner.admission is not admission:
            raise ValueError(
                "make_transcriber must make the transcriber when it is called, and leave its admission out: that of "
                "the actor holds it to the memory that Ray has given"
            )
        store = runner.settings.store
        assert store is not None
        self._open = ExitStack()
        opened = self._open.enter_context(blocking(store))
        # Open from now on and never finished, for no actor sees the dataset's end: so all of it is kept for a week.
        self._open.enter_context(portal.entered(inside(store).batches.running(settings.run["name"])))
        self._open.enter_context(opened.cleaning(spool_dir=runner.downloader.spool_dir))
        self._open.enter_context(blocking(transcriber))
        batch = BatchTranscriber(transcriber, max_batch_size=1, max_attempts=settings.max_attempts)
        self._batch = self._open.enter_context(blocking(batch))

    def __call__(self, given: Any) -> Any:
        """The rows of one source, as an Arrow table, for a row with it; called by Ray."""
        let_go_of(_OBJECT_STORE)  # Ray's to count, which the guard would take for the job's
        (name,) = given.column(self._settings.column).to_pylist()
        source, retry_failed = self._source(name), self._retry_failed
        with self._batch.run([source], retry_failed=retry_failed, **self._settings.run) as outcomes:
            (outcome,) = outcomes  # or what ends a batch is raised
        return table_of(given, outcome, self._settings.rows)

    def _source(self, name: Any) -> Any:
        return Path(name) if self._settings.paths and isinstance(name, str) and not is_url(name) else name
