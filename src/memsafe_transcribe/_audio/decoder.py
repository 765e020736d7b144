"""The parent's side of the decoding process."""

import os
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Literal

import anyio

from .._errors import AudioDecodeError, AudioLimitError, DecoderCrashedError, UnsupportedMediaError
from .._tasks import background
from .._units import MiB
from .._worker.process import WorkerProcess
from .._worker.thread import Send, WorkerThread, worker_thread
from . import sniff
from .isobmff import index_bytes, is_mp4
from .words import SAMPLE_RATE_HZ, Block, DecodeGap, MediaInfo, block_of, gaps_of, info_of, refusal_of, samples_of

_SAMPLE_BYTES = 2
BYTES_PER_SECOND = SAMPLE_RATE_HZ * _SAMPLE_BYTES

# Measured with PyAV 18.1: an idle decoding process has 13 MiB of RssAnon, with a common stream up to 16, and of an MP4
# (its boxes, and the AAC decoder) up to 18. What it may allocate beyond the idle ones is set by RLIMIT_DATA: 24 MiB
# were enough for any stream, and an index that is loaded takes up to 13 times its size in the file (53 bytes per AAC
# frame, of which the file spends at least 4).
_IDLE_BYTES = 13 * MiB
_COMMON_STREAM_BYTES, _MP4_STREAM_BYTES = 3 * MiB, 5 * MiB
_STREAM_BYTES = 24 * MiB
_INDEX_FACTOR = 14

_STALL_SECONDS = 60.0  # that a decoder may be waited for at a time, and beyond the length of what it gave in all
_CPU_SECONDS, _CPU_SHARE = 60, 0.1  # of processor time, and for each second of audio that is allowed
Isolation = Literal["process", "thread"]
_FED = -1  # in place of a descriptor: the file comes in by stdin


def data_limit_bytes(fd: int | None) -> int:
    """How much the decoding process of a file, or of a feed (None), may allocate beyond what it takes when idle."""
    return _STREAM_BYTES + (0 if fd is None else _INDEX_FACTOR * index_bytes(fd))


def peak_bytes(data_limit_bytes: int) -> int:
    """The most that a decoding process under this limit can add to this container's memory."""
    return _IDLE_BYTES + data_limit_bytes


def common_bytes(fd: int | None, data_limit_bytes: int) -> int:
    """What it adds unless the stream is a strange one: an index is charged whole, the stream as what it takes."""
    stream_bytes = _COMMON_STREAM_BYTES if fd is None or not is_mp4(fd) else _MP4_STREAM_BYTES
    return peak_bytes(data_limit_bytes) - _STREAM_BYTES + stream_bytes


def largest_limit_bytes(file_bytes: int) -> int:
    """What `data_limit_bytes` can turn out to be for a file of this size that is not there yet."""
    return _STREAM_BYTES + _INDEX_FACTOR * file_bytes


def cpu_limit_seconds(max_audio_seconds: float) -> int:
    """The processor time that a decoding process may take. MP3 takes about a thousandth of the audio's length."""
    return int(_CPU_SECONDS + _CPU_SHARE * max_audio_seconds)


class Decoder:
    """Samples of one file, from a process (or a thread) that is slowed down to the speed of its reader."""

    def __init__(self, worker: WorkerProcess | WorkerThread, name: str, head: bytes, max_audio_seconds: float) -> None:
        self._worker = worker
        self._name = name
        self._head = head
        self._max_audio_seconds = max_audio_seconds
        self._what = "process" if worker.pid is not None else "thread"
        self._block: Block | None = None
        self._received_bytes = 0
        self._waited_seconds = 0.0
        self._ended = False
        self.info = MediaInfo("unknown", "unknown", None, False)
        self.gaps: tuple[DecodeGap, ...] = ()

    @property
    def pid(self) -> int | None:
        """The decoding process; None if it is a thread of this one."""
        return self._worker.pid

    @property
    def _received_seconds(self) -> float:
        return self._received_bytes / BYTES_PER_SECOND

    async def start(self) -> None:
        """Wait until the file has been recognized; then `info` is known."""
        while self.info.format == "unknown" and not self._ended:
            await self._receive()

    async def read(self) -> Block | None:
        """The next block; None at the end, when `gaps` is complete.

        Raises:
            AudioDecodeError: what came before has been read already and is good.

        Memory: one frame of the pipe.
        """
        while self._block is None and not self._ended:
            await self._receive()
        block, self._block = self._block, None
        return block

    async def _receive(self) -> None:
        patience = _STALL_SECONDS + min(0.0, self._received_seconds - self._waited_seconds)
        began = anyio.current_time()
        try:
            with anyio.fail_after(patience):
                frame = await self._worker.receive()
            self._waited_seconds += anyio.current_time() - began
            if frame is not None:
                self._take(*frame)
        except TimeoutError:
            raise self._crash(self._silence(patience)) from None
        except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError, struct.error) as error:
            # A decoder that a media file has taken over may send anything at all.
            raise self._crash(f"it does not speak its protocol any more ({type(error).__name__})") from error
        if frame is None:
            raise self._crash(await self._worker.exit_reason())

    def _silence(self, patience: float) -> str:
        """Why no more sound is waited for, after that much of patience, which may have been used up before."""
        seconds = patience if patience == _STALL_SECONDS else self._waited_seconds + max(0.0, patience)
        if patience == _STALL_SECONDS or not self._received_bytes:
            return f"it gave no sound for {seconds:.0f} s"
        return f"it gave {self._received_seconds:.1f} s of sound in {seconds:.0f} s"

    def _crash(self, reason: str) -> DecoderCrashedError:
        if reason == "killed by SIGXCPU":
            reason = f"it used more than {cpu_limit_seconds(self._max_audio_seconds)} s of processor time"
        return DecoderCrashedError(f"{self._name}: the decoding {self._what} failed: {reason}", reason=reason)

    def _take(self, kind: bytes, payload: bytes) -> None:
        if kind == b"P":
            self._block = block_of(payload)
            self._received_bytes += len(self._block.samples)
            if self._received_seconds > self._max_audio_seconds + 1:
                raise self._refusal("limit", "more audio came out of it than was asked for")
        elif kind == b"I":
            self.info = info_of(payload)
        elif kind == b"D":
            if samples_of(payload) * _SAMPLE_BYTES != self._received_bytes:  # the rest would be missing in silence
                raise ValueError("not all samples have come")
            # What is missing may lie behind what was heard, up to what the header claims.
            most_seconds = max(self._max_audio_seconds, self._received_seconds) + 1
            self.gaps = gaps_of(payload, int(most_seconds * SAMPLE_RATE_HZ))
            self._ended = True
        elif kind == b"E":
            raise self._refusal(*refusal_of(payload))
        else:
            raise ValueError("no such word")

    def _refusal(self, kind: str, message: str) -> AudioDecodeError:
        if kind == "limit":
            return AudioLimitError(
                f"{self._name}: {message}; raise max_audio_seconds={self._max_audio_seconds:g} to allow it",
                max_audio_seconds=self._max_audio_seconds,
            )
        if kind == "shape":
            return AudioLimitError(f"{self._name}: {message}", max_audio_seconds=self._max_audio_seconds)
        if kind == "memory":
            reason = f"out of memory: {message}"
            return DecoderCrashedError(f"{self._name}: the decoding process ran {reason}", reason=reason)
        described = sniff.describe(self._head)
        return UnsupportedMediaError(
            f"{self._name} is not audio: it is {described}" if described else f"{self._name} is not audio: {message}"
        )


@asynccontextmanager
async def open_decoder(
    fd: int | None,
    name: str,
    *,
    max_audio_seconds: float,
    data_limit_bytes: int,
    feed: Iterable[bytes] | None = None,
    isolation: Isolation = "process",
) -> AsyncIterator[Decoder]:
    """Decode a file in a process of its own, which is dead and reaped when the block is left.

    Args:
        fd: open for reading; its position is neither used nor changed. It must stay open meanwhile. None where there is
            a feed.
        name: what error messages call the file.
        max_audio_seconds: refuse to decode more, whatever the header claims.
        data_limit_bytes: as `data_limit_bytes(fd)` found it when memory was reserved.
        feed: a stream that needs no seeking, in small pieces, which are sent as the process takes them.
        isolation: "thread" for one of this process instead, where no limit holds but that on the audio's length.

    Raises:
        UnsupportedMediaError: it is not audio.
        AudioDecodeError: anything else that keeps it from being decoded.
    """
    head = b"" if fd is None else os.pread(fd, sniff.HEAD_BYTES, 0)
    max_samples = int(max_audio_seconds * SAMPLE_RATE_HZ)
    async with AsyncExitStack() as opened:
        worker: WorkerProcess | WorkerThread
        if isolation == "thread":
            worker = await opened.enter_async_context(worker_thread(partial(_decode_in_thread, fd, max_samples)))
        else:
            limits = data_limit_bytes, max_samples, cpu_limit_seconds(max_audio_seconds)
            passed = () if fd is None else (fd,)
            worker = WorkerProcess("_audio.worker", _FED if fd is None else fd, *limits, pass_fds=passed)
            await opened.enter_async_context(worker)
        decoder = Decoder(worker, name, head, max_audio_seconds)
        if feed is not None:
            tasks = await opened.enter_async_context(background())
            tasks.start_soon(_feed, worker, feed)
        await decoder.start()
        yield decoder


def _decode_in_thread(fd: int | None, max_samples: int, stdin: int, send: Send) -> None:
    from .decoding import decode  # it loads PyAV, which else this process never does

    decode(fd, stdin, max_samples, send, is_confined=False)


async def _feed(worker: WorkerProcess | WorkerThread, pieces: Iterable[bytes]) -> None:
    with suppress(BrokenPipeError):  # it has all that it wants, or is dead: its reader is told
        for piece in pieces:
            await worker.write(piece)
        worker.close_stdin()
