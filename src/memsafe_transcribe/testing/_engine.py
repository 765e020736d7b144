"""An engine that answers what a test tells it to."""

from collections.abc import Iterable

import anyio

from .._transcription.protocol import AudioChunk, Capabilities, ChunkContext, ChunkResult

Said = str | ChunkResult | BaseException
_WAIT_SECONDS = 30.0


class FakeEngine:
    """An engine whose answers stand in a script.

    Args:
        script: what each call answers in turn, the last one for all that follow: text or a `ChunkResult` is returned,
            an error is raised. Without it, the text is "chunk 0" for the first chunk, and so on.
        capabilities: what it declares.

    Attributes:
        capabilities: the same.
        calls: every call that came, with the chunk (and its audio) and the context.
        active: how many calls are in it now.
        peak_active: the most that were at one time.
        closed: how often it was closed.

    Cancellation: a held call ends at once; `active` no longer counts it.
    """

    def __init__(self, script: Iterable[Said] = (), *, capabilities: Capabilities | None = None) -> None:
        self.capabilities: Capabilities = capabilities or Capabilities()
        self.calls: list[tuple[AudioChunk, ChunkContext]] = []
        self.active: int = 0
        self.peak_active: int = 0
        self.closed: int = 0
        self._script = list(script)
        self._arrived = anyio.Event()
        self._gate = anyio.Event()
        self._gate.set()

    async def transcribe(self, chunk: AudioChunk, context: ChunkContext) -> ChunkResult:
        """Answer with the script's next line, once the engine is not held."""
        said: Said = f"chunk {chunk.index}"
        if self._script:
            said = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        self.calls.append((chunk, context))
        self.active += 1
        self.peak_active = max(self.peak_active, self.active)
        self._arrived.set()
        try:
            await self._gate.wait()
        finally:
            self.active -= 1
        if isinstance(said, BaseException):
            raise said
        return ChunkResult(text=said) if isinstance(said, str) else said

    def hold(self) -> None:
        """From now on calls wait in the engine, until `release`."""
        self._gate = anyio.Event()

    def release(self) -> None:
        """Let all calls go on, and those that come."""
        self._gate.set()

    async def wait_for_calls(self, count: int) -> None:
        """Wait until so many calls have come in all, whether they have ended or not.

        Raises:
            TimeoutError: they did not within 30 s.
        """
        with anyio.fail_after(_WAIT_SECONDS):
            while len(self.calls) < count:
                self._arrived = anyio.Event()
                await self._arrived.wait()

    async def aclose(self) -> None:
        """Count that it was closed. It can be used again."""
        self.closed += 1
