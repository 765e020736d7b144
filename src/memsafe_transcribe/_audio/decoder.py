"""The parent's side of the decoding process."""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from .._errors import AudioDecodeError, AudioLimitError, DecoderCrashedError, UnsupportedMediaError
from .._units import MiB
from .._worker.process import WorkerProcess
from . import sniff
from .isobmff import index_bytes

SAMPLE_RATE_HZ = 16_000
BYTES_PER_SECOND = SAMPLE_RATE_HZ * 2

# Measured with PyAV 18.1: an idle decoding process has 12 MiB of RssAnon. What it may allocate on top is enforced by
# RLIMIT_DATA: 24 MiB were enough for any stream, and the index of an MP4 takes up to 13 times its size in the file
# (53 bytes per AAC frame, of which the file spends at least 4).
_IDLE_BYTES = 12 * MiB
_STREAM_BYTES = 24 * MiB
_INDEX_FACTOR = 14


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """What a file says of itself.

    Attributes:
        format: FFmpeg's name of the container, `mp3` or `mov,mp4,m4a,3gp,3g2,mj2`.
        codec: FFmpeg's name of the audio decoder.
        duration_seconds: the length that the header claims or implies; None if it does neither. Never trusted.
    """

    format: str
    codec: str
    duration_seconds: float | None


@dataclass(frozen=True, slots=True)
class DecodeGap:
    """Audio that is missing. Where the file does not tell how much, the end is the start."""

    start_seconds: float
    end_seconds: float
    reason: str


def peak_bytes(fd: int) -> int:
    """The most that decoding the file behind `fd` can add to this container's memory."""
    return _IDLE_BYTES + _data_limit_bytes(fd)


def _data_limit_bytes(fd: int) -> int:
    return _STREAM_BYTES + _INDEX_FACTOR * index_bytes(fd)


class Decoder:
    """Samples of one file, from a process that is slowed down to the speed of its reader."""

    def __init__(self, worker: WorkerProcess, name: str, head: bytes, max_audio_seconds: float) -> None:
        self._worker = worker
        self._name = name
        self._head = head
        self._max_audio_seconds = max_audio_seconds
        self._pending = bytearray()
        self._received_bytes = 0
        self._ended = False
        self.info = MediaInfo("unknown", "unknown", None)
        self.gaps: tuple[DecodeGap, ...] = ()

    @property
    def pid(self) -> int:
        """The decoding process."""
        return self._worker.pid

    async def start(self) -> None:
        """Wait until the file has been recognized; then `info` is known."""
        while self.info.format == "unknown" and not self._ended:
            await self._receive()

    async def read(self, size_bytes: int) -> bytes:
        """The next `size_bytes` of 16 kHz mono signed 16-bit little-endian samples; fewer only at the end.

        Raises:
            AudioDecodeError: what came before has been read already and is good.

        Memory: at most `size_bytes` and one frame of the pipe.
        """
        while len(self._pending) < size_bytes and not self._ended:
            await self._receive()
        data = bytes(memoryview(self._pending)[:size_bytes])
        del self._pending[:size_bytes]
        return data

    async def _receive(self) -> None:
        try:
            frame = await self._worker.receive()
            if frame is not None:
                self._take(*frame)
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            # A decoder that a media file has taken over may send anything at all.
            reason = f"it does not speak its protocol any more ({type(error).__name__})"
            raise DecoderCrashedError(
                f"{self._name}: the decoding process is broken: {reason}", reason=reason
            ) from error
        if frame is None:
            reason = await self._worker.exit_reason()
            raise DecoderCrashedError(f"{self._name}: the decoding process died: {reason}", reason=reason)

    def _take(self, kind: bytes, payload: bytes) -> None:
        if kind == b"P":
            self._pending += payload
            self._received_bytes += len(payload)
            if self._received_bytes > self._max_audio_seconds * BYTES_PER_SECOND + BYTES_PER_SECOND:
                raise self._refusal("limit", "more audio came out of it than was asked for")
            return
        message = json.loads(payload)
        if kind == b"I":
            self.info = MediaInfo(**message)
        elif kind == b"D":
            self.gaps = tuple(
                DecodeGap(gap["start_samples"] / SAMPLE_RATE_HZ, gap["end_samples"] / SAMPLE_RATE_HZ, gap["reason"])
                for gap in message["gaps"]
            )
            self._ended = True
        else:
            raise self._refusal(str(message["kind"]), str(message["message"]))

    def _refusal(self, kind: str, message: str) -> AudioDecodeError:
        if kind == "limit":
            return AudioLimitError(
                f"{self._name}: {message}; raise max_audio_seconds={self._max_audio_seconds:g} to allow it",
                max_audio_seconds=self._max_audio_seconds,
            )
        if kind == "memory":
            reason = f"out of memory: {message}"
            return DecoderCrashedError(f"{self._name}: the decoding process ran {reason}", reason=reason)
        described = sniff.describe(self._head)
        return UnsupportedMediaError(
            f"{self._name} is not audio: it is {described}" if described else f"{self._name} is not audio: {message}"
        )


@asynccontextmanager
async def open_decoder(fd: int, name: str, *, max_audio_seconds: float) -> AsyncIterator[Decoder]:
    """Decode the file behind `fd` in a process of its own, which is dead and reaped when the block is left.

    Args:
        fd: open for reading; its position is neither used nor changed. It must stay open meanwhile.
        name: what error messages call the file.
        max_audio_seconds: refuse to decode more, whatever the header claims.

    Raises:
        UnsupportedMediaError: it is not audio.
        AudioDecodeError: anything else that keeps it from being decoded.
    """
    head = os.pread(fd, sniff.HEAD_BYTES, 0)
    max_samples = int(max_audio_seconds * SAMPLE_RATE_HZ)
    worker = WorkerProcess("_audio.worker", fd, _data_limit_bytes(fd), max_samples, pass_fds=(fd,))
    async with worker:
        decoder = Decoder(worker, name, head, max_audio_seconds)
        await decoder.start()
        yield decoder
