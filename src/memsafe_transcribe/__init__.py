"""Transcribe audio of any length in small containers, in memory that is known beforehand.

The names below are the public ones, and are loaded when they are first used: importing the package costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names once more, for type checkers; a test compares them
    from ._admission.controller import (
        AdmissionController as AdmissionController,
        AdmissionStatistics as AdmissionStatistics,
        default_admission as default_admission,
    )
    from ._admission.reservation import Reservation as Reservation
    from ._blocking import (
        BlockingBatch as BlockingBatch,
        BlockingDownloader as BlockingDownloader,
        BlockingOutcomes as BlockingOutcomes,
        BlockingStore as BlockingStore,
        BlockingStream as BlockingStream,
        BlockingTranscriber as BlockingTranscriber,
        blocking as blocking,
    )
    from ._download.downloader import SafeDownloader as SafeDownloader
    from ._download.failures import (
        FailedUrl as FailedUrl,
        FailedUrls as FailedUrls,
        FailedUrlStore as FailedUrlStore,
    )
    from ._download.files import DownloadedFile as DownloadedFile
    from ._download.policy import UrlPolicy as UrlPolicy
    from ._download.transfer import Probe as Probe
    from ._errors import (
        AdmissionError as AdmissionError,
        AdmissionRejectedError as AdmissionRejectedError,
        AdmissionTimeoutError as AdmissionTimeoutError,
        AudioDecodeError as AudioDecodeError,
        AudioLimitError as AudioLimitError,
        ChecksumMismatchError as ChecksumMismatchError,
        ChunkTooLargeError as ChunkTooLargeError,
        DeadLetterError as DeadLetterError,
        DecoderCrashedError as DecoderCrashedError,
        DownloadConnectionError as DownloadConnectionError,
        DownloadError as DownloadError,
        DownloadProtocolError as DownloadProtocolError,
        DownloadTimeoutError as DownloadTimeoutError,
        DownloadTooLargeError as DownloadTooLargeError,
        DrainingError as DrainingError,
        HTTPStatusError as HTTPStatusError,
        KnownBadUrlError as KnownBadUrlError,
        MemoryPressureError as MemoryPressureError,
        MemsafeError as MemsafeError,
        NestedReservationError as NestedReservationError,
        ReservationTooLargeError as ReservationTooLargeError,
        SpoolError as SpoolError,
        StoreError as StoreError,
        TranscriberError as TranscriberError,
        TranscriberFailedError as TranscriberFailedError,
        TranscriberNotFoundError as TranscriberNotFoundError,
        TranscriberQuotaError as TranscriberQuotaError,
        TranscriberUnavailableError as TranscriberUnavailableError,
        TruncatedDownloadError as TruncatedDownloadError,
        UnsupportedMediaError as UnsupportedMediaError,
        UrlBlockedError as UrlBlockedError,
    )
    from ._memory.decorator import memory_guard as memory_guard
    from ._memory.guard import MemoryGuard as MemoryGuard, default_guard as default_guard
    from ._memory.judging import MemorySnapshot as MemorySnapshot
    from ._memory.pressure import MemoryLevel as MemoryLevel, MemoryRoom as MemoryRoom
    from ._store.cleaning import Cleanup as Cleanup
    from ._store.store import JobStore as JobStore
    from ._timeline.timeline import Timeline as Timeline
    from ._transcription.batch import BatchTranscriber as BatchTranscriber, Outcomes as Outcomes
    from ._transcription.chunked import ChunkedTranscriber as ChunkedTranscriber
    from ._transcription.formats import format_segments as format_segments
    from ._transcription.outcomes import (
        BatchProgress as BatchProgress,
        Outcome as Outcome,
        RunningSource as RunningSource,
    )
    from ._transcription.planning import Plan as Plan
    from ._transcription.progress import Progress as Progress
    from ._transcription.protocol import (
        AudioChunk as AudioChunk,
        Capabilities as Capabilities,
        ChunkContext as ChunkContext,
        ChunkResult as ChunkResult,
        Transcriber as Transcriber,
    )
    from ._transcription.reporting import JobReport as JobReport
    from ._transcription.stream import SegmentStream as SegmentStream
    from ._transcription.transcript import Gap as Gap, Segment as Segment, Transcript as Transcript, Word as Word
    from ._units import MB as MB, MiB as MiB
    from ._version import __version__ as __version__

_WHERE = {
    "_admission.controller": "AdmissionController AdmissionStatistics default_admission",
    "_admission.reservation": "Reservation",
    "_blocking": """BlockingBatch BlockingDownloader BlockingOutcomes BlockingStore BlockingStream BlockingTranscriber
        blocking""",
    "_download.downloader": "SafeDownloader",
    "_download.failures": "FailedUrl FailedUrlStore FailedUrls",
    "_download.files": "DownloadedFile",
    "_download.policy": "UrlPolicy",
    "_download.transfer": "Probe",
    "_errors": """AdmissionError AdmissionRejectedError AdmissionTimeoutError AudioDecodeError AudioLimitError
        ChecksumMismatchError ChunkTooLargeError DeadLetterError DecoderCrashedError DownloadConnectionError
        DownloadError DownloadProtocolError DownloadTimeoutError DownloadTooLargeError DrainingError
        HTTPStatusError KnownBadUrlError MemoryPressureError MemsafeError NestedReservationError
        ReservationTooLargeError SpoolError StoreError TranscriberError TranscriberFailedError
        TranscriberNotFoundError TranscriberQuotaError TranscriberUnavailableError TruncatedDownloadError
        UnsupportedMediaError UrlBlockedError""",
    "_memory.decorator": "memory_guard",
    "_memory.guard": "MemoryGuard default_guard",
    "_memory.judging": "MemorySnapshot",
    "_memory.pressure": "MemoryLevel MemoryRoom",
    "_store.cleaning": "Cleanup",
    "_store.store": "JobStore",
    "_timeline.timeline": "Timeline",
    "_transcription.batch": "BatchTranscriber Outcomes",
    "_transcription.chunked": "ChunkedTranscriber",
    "_transcription.formats": "format_segments",
    "_transcription.outcomes": "BatchProgress Outcome RunningSource",
    "_transcription.planning": "Plan",
    "_transcription.progress": "Progress",
    "_transcription.reporting": "JobReport",
    "_transcription.stream": "SegmentStream",
    "_transcription.protocol": "AudioChunk Capabilities ChunkContext ChunkResult Transcriber",
    "_transcription.transcript": "Gap Segment Transcript Word",
    "_units": "MB MiB",
    "_version": "__version__",
}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names.split()}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
