"""One good engine, and others that each break one promise of the contract."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import sniffio

import memsafe_transcribe as mt

LOUD_MIB = 64 << 20
undo: list[Callable[[], Any]] = []  # for the tests to clean up after the worst


def words_of(chunk: mt.AudioChunk) -> mt.ChunkResult:
    """A word for each half second, unless it is silent."""
    if not any(chunk.data[44:]):
        return mt.ChunkResult()
    count = max(1, int(chunk.duration_seconds * 2))
    length = chunk.duration_seconds / count
    return mt.ChunkResult(
        words=tuple(mt.Word(f"{chunk.index}.{n}", n * length, (n + 1) * length) for n in range(count))
    )


class Good:
    """Keeps all promises."""

    capabilities = mt.Capabilities(max_chunk_seconds=30.0, timestamps="word", concurrency=2, languages=("en", "de"))

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        await anyio.sleep(0.001)
        return words_of(chunk)


class GoodSync:
    """The same in threads."""

    capabilities = mt.Capabilities(max_chunk_seconds=30.0, timestamps="word", concurrency=2, is_thread_safe=True)

    def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        return words_of(chunk)


class Changes(Good):
    """Declares something else after the first call."""

    def __init__(self) -> None:
        self.capabilities = Good.capabilities

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        self.capabilities = mt.Capabilities(max_chunk_seconds=31.0)
        return words_of(chunk)


class OneByOne(GoodSync):
    """Declares a concurrency that its threads cannot have."""

    capabilities = mt.Capabilities(concurrency=2)


class TooShort(Good):
    """Takes no short chunks, and does not say so."""

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        if chunk.duration_seconds < 0.1:
            raise ValueError("audio too short")
        return words_of(chunk)


class Hallucinates(Good):
    """Thanks for watching."""

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        return mt.ChunkResult(words=(mt.Word("Thanks", 0.0, 0.00005),))


class Deaf(Good):
    """Hears nothing."""

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        return mt.ChunkResult()


class WrongClock(Good):
    """Times in milliseconds."""

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        words = words_of(chunk).words
        return mt.ChunkResult(
            words=tuple(mt.Word(word.text, word.start_seconds * 1e3, word.end_seconds * 1e3) for word in words)
        )


class Backwards(Good):
    """Words in no order."""

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        return mt.ChunkResult(words=words_of(chunk).words[::-1])


class TextOnly(Good):
    """Promises word times."""

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        return mt.ChunkResult(text=" ".join(word.text for word in words_of(chunk).words))


class Exits(Good):
    """Ends the host over a damaged chunk."""

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        if not chunk.data.startswith(b"RIFF"):
            sys.exit("bad audio")
        return words_of(chunk)


class BrokenByDamage(Good):
    """Never works again."""

    is_broken = False

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        self.is_broken |= not chunk.data.startswith(b"RIFF")
        if self.is_broken:
            raise ValueError("bad audio")
        return words_of(chunk)


class NoPrompt(Good):
    """Knows no prompt."""

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        assert context.prompt is None
        return words_of(chunk)


class Shielded(Good):
    """Will not be cancelled; only long chunks take their time."""

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        if len(chunk.data) > 900_000:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(1.2)
        return words_of(chunk)


class UselessOnceCancelled(Good):
    """Never works again."""

    is_broken = False

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        if self.is_broken:
            raise ConnectionError("the connection was closed")
        answer = words_of(chunk)
        try:
            await anyio.sleep(0.3 if len(chunk.data) > 900_000 else 0.0)
        except anyio.get_cancelled_exc_class():
            self.is_broken = True
            raise
        return answer


class MixesUp(Good):
    """Keeps a call's chunk on self."""

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        self.chunk = chunk
        await anyio.sleep(0.001)
        return words_of(self.chunk)


class MixesThreadsUp(GoodSync):
    """The same in threads."""

    def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        self.chunk = chunk
        time.sleep(0.001)
        return words_of(self.chunk)


class Locked(Good):
    """One at a time, whatever it declares."""

    def __init__(self) -> None:
        self._lock = anyio.Lock()

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        async with self._lock:
            data = chunk.data
            await anyio.sleep(0.25 if chunk.duration_seconds == 10.0 else 0)
            assert data
            return words_of(chunk)


class Blocks(Good):
    """Sleeps with the event loop."""

    capabilities = mt.Capabilities(timestamps="word")

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        if chunk.duration_seconds == 10.0:
            time.sleep(0.6)  # noqa: ASYNC251
        return words_of(chunk)


class Greedy(Good):
    """Takes 64 MiB that it does not declare, for long chunks."""

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        taken = bytearray(os.urandom(1)) * (LOUD_MIB if len(chunk.data) > 900_000 else 1)
        await anyio.sleep(0.001)
        assert taken
        return words_of(chunk)


class GreedyChild(Good):
    """Lets another process take them."""

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        if len(chunk.data) > 900_000:
            script = f"import time; taken = bytearray(b'x') * {LOUD_MIB}; time.sleep(0.1)"
            await anyio.run_process([sys.executable, "-S", "-c", script])
        return words_of(chunk)


class Heavy(Good):
    """Keeps 64 MiB that it does not declare."""

    model: bytearray | None = None

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        self.model = self.model or bytearray(b"x") * LOUD_MIB
        await anyio.sleep(0.001)
        return words_of(chunk)

    async def aclose(self) -> None:
        self.model = None


class Clinging(Heavy):
    """Declares them, and does not drop them."""

    capabilities = mt.Capabilities(max_chunk_seconds=30.0, timestamps="word", resident_bytes=LOUD_MIB)

    async def aclose(self) -> None:
        pass


class ClosesOnce(Good):
    """Cannot be closed twice."""

    is_closed = False

    async def aclose(self) -> None:
        assert not self.is_closed, "closed already"
        self.is_closed = True


class ClosedForEver(ClosesOnce):
    """Does not work once it was closed."""

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        assert not self.is_closed, "closed"
        return words_of(chunk)

    async def aclose(self) -> None:
        self.is_closed = True


class LeavesThread(Good):
    """Has one that nobody ends."""

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        ended = threading.Event()
        thread = threading.Thread(target=ended.wait, name="forgotten")
        thread.start()
        undo.extend((ended.set, thread.join))
        return words_of(chunk)


class LeavesDescriptor(Good):
    """Opens what nobody closes."""

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        fd = os.open("/dev/null", os.O_RDONLY)
        undo.append(lambda: os.close(fd))
        return words_of(chunk)


class LeavesChild(Good):
    """Starts what nobody ends, at the first call."""

    child: subprocess.Popen[bytes] | None = None

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        if self.child is None:
            self.child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])  # noqa: ASYNC220
            undo.extend((self.child.kill, self.child.wait))
        return words_of(chunk)


class LeavesTask(Good):
    """Runs on beside the calls."""

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        if sniffio.current_async_library() == "trio":
            import trio

            trio.lowlevel.spawn_system_task(trio.sleep_forever, name="forgotten")
        else:
            self.task = asyncio.get_running_loop().create_task(asyncio.sleep(600), name="forgotten")
        return words_of(chunk)


class AsyncioOnly(Good):
    """Knows one event loop."""

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        await asyncio.sleep(0.001)
        return words_of(chunk)
