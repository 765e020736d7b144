"""faster-whisper: Whisper's models on this machine, by CTranslate2. Extra: `faster-whisper`."""

import contextlib
import importlib.util
import json
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import anyio

from .._errors import TranscriberError
from .._transcription.protocol import AudioChunk, Capabilities, ChunkContext, ChunkResult
from .._transcription.transcript import Segment, Word
from .._units import MiB
from .._worker.process import WorkerProcess
from . import _whisper_models as models

_DEFAULT_MODEL = "base"
_PASSED_ON = ("CUDA_VISIBLE_DEVICES", "HF_ENDPOINT")  # to the process, which has no environment otherwise
_MAX_THREADS = 4


class FasterWhisperTranscriber:
    """Runs a Whisper model in a process of its own, which is started at the first chunk.

    One chunk at a time; others wait. Nothing is fetched from the internet unless `download` says so.

    Args:
        model: a name, such as "small" or "large-v3"; a repository of the Hugging Face hub, "owner/name"; or the path of
            a folder with a converted model.
        device: "cpu", "cuda" or "auto".
        compute_type: what the weights are turned into, as CTranslate2 calls it: "int8", "float32", "float16", ...
        cpu_threads: None for as many as there are processors for this process, up to four.
        beam_size: of the search: 1 is fastest.
        download: fetch the model at the first chunk if it is not here.
        resident_bytes: what the process takes, if you have measured it; by default estimated from the model's size.

    Cancellation: the process is killed; the next call starts another.
    """

    def __init__(
        self,
        model: str = _DEFAULT_MODEL,
        *,
        device: str = "cpu",
        compute_type: str = "int8",
        cpu_threads: int | None = None,
        beam_size: int = 5,
        download: bool = False,
        resident_bytes: int | None = None,
    ) -> None:
        if (what := _missing_package()) is not None:
            raise TranscriberError(f"engine 'faster-whisper' cannot be used: {what}")
        cache = models.cache_folder()
        folder = models.local_folder(model, cache)
        if folder is None and not (download and models.repository(model)):
            raise TranscriberError(f"engine 'faster-whisper' cannot be used: {_not_here(model)}")
        on_disk_bytes = models.announced_bytes(model) if folder is None else models.size_bytes(folder)
        self._options: dict[str, Any] = {
            "model": model,
            "folder": None if folder is None else str(folder.resolve()),
            "cache": str(cache),
            "device": device,
            "compute_type": compute_type,
            "cpu_threads": cpu_threads or min(_MAX_THREADS, len(os.sched_getaffinity(0))),
            "beam_size": beam_size,
            "environment": {name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        }
        self._is_english = model.endswith(".en")
        self.capabilities: Capabilities = Capabilities(
            max_chunk_seconds=300.0,
            timestamps="word",
            languages=("en",) if self._is_english else None,
            takes_prompt=True,
            resident_bytes=_estimated_bytes(on_disk_bytes, compute_type) if resident_bytes is None else resident_bytes,
            call_bytes=8 * MiB,
            call_bytes_per_second=1_150_000.0,
            cache_key=_cache_key(model, folder, compute_type, beam_size),
        )
        self._lock = anyio.Lock()
        self._worker: WorkerProcess | None = None

    @staticmethod
    def missing() -> str | None:
        """What keeps it from being used without options; None if nothing does."""
        if (what := _missing_package()) is not None:
            return what
        is_here = models.local_folder(_DEFAULT_MODEL, models.cache_folder()) is not None
        return None if is_here else _not_here(_DEFAULT_MODEL)

    async def transcribe(self, chunk: AudioChunk, context: ChunkContext) -> ChunkResult:
        """Recognize one chunk."""
        language = context.language.partition("-")[0] if context.language else None
        hints = {"language": "en" if self._is_english else language, "prompt": context.prompt}
        async with self._lock:
            try:
                answer = await self._ask(hints, chunk.data)
            except BaseException:
                await self.aclose()
                raise
        return ChunkResult(segments=tuple(map(_segment, answer["segments"])), language=answer["language"])

    async def _ask(self, hints: dict[str, Any], wav: bytes) -> dict[str, Any]:
        if self._worker is None:
            self._worker = WorkerProcess("transcribers._faster_whisper_worker")
            await self._send(self._worker, (b"O", json.dumps(self._options).encode()))
            await self._receive(self._worker)
        await self._send(self._worker, (b"C", json.dumps(hints).encode()), (b"W", wav))
        answer: dict[str, Any] = json.loads(await self._receive(self._worker))
        return answer

    async def _send(self, worker: WorkerProcess, *frames: tuple[bytes, bytes]) -> None:
        with contextlib.suppress(BrokenPipeError):  # it is dead; what it died of is found where an answer is missed
            for kind, payload in frames:
                await worker.send(kind, payload)

    async def _receive(self, worker: WorkerProcess) -> bytes:
        frame = await worker.receive()
        if frame is None:
            raise TranscriberError(f"the recognizing process died: {await worker.exit_reason()}")
        kind, payload = frame
        if kind == b"E":
            error = json.loads(payload)
            raise (MemoryError if error["is_memory"] else TranscriberError)(error["text"])
        return payload

    async def aclose(self) -> None:
        """End the process, and with it the model."""
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.aclose()


def _segment(heard: list[Any]) -> Segment:
    text, start, end, words = heard
    return Segment(text.strip(), start, end, words=tuple(Word(*word) for word in words))


def _missing_package() -> str | None:
    if importlib.util.find_spec("faster_whisper") is not None:
        return None
    return "faster-whisper is not installed: pip install 'memsafe-transcribe[faster-whisper]'"


def _not_here(model: str) -> str:
    if Path(model).is_dir():
        return f"the folder {model} is no converted model: it has no {', '.join(models.lacking(Path(model)))}"
    if (name := models.repository(model)) is None:
        return f"model {model!r} is neither a folder here, nor a name that is known, nor a repository owner/name"
    fetch = f"import faster_whisper; faster_whisper.download_model('{name}')"
    return (
        f"model {model!r} is not on this machine, and is not fetched unasked: pass "
        f"engine_options={{'download': True}}, or run once: python -c \"{fetch}\""
    )


def _estimated_bytes(on_disk_bytes: int, compute_type: str) -> int:
    """Libraries, weights and work space of a model whose files have 16-bit weights, as those on the hub do.

    Measured on models of the shapes of tiny, base and small (112, 191 and 539 MiB of random weights), RssAnon at its
    peak, which is while they are loaded: 284, 337 and 707 MiB as int8; 462, 698 and 2211 as float32.
    """
    return 160 * MiB + int(on_disk_bytes * (1.2 if "8" in compute_type else 4.0))


def _cache_key(model: str, folder: Path | None, compute_type: str, beam_size: int) -> str | None:
    """Of a model in the hub's cache, whose folder has its commit's name; and the versions that compute."""
    if folder is None or folder.parent.name != "snapshots":
        return None
    try:
        versions = f"{version('faster-whisper')} {version('ctranslate2')}"
    except PackageNotFoundError:
        return None
    return f"faster-whisper 1 {versions} {models.repository(model)}@{folder.name} {compute_type} {beam_size}"
