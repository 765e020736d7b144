"""What all checks of the contract stand on."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, TypeVar

import pytest

from .._transcription.protocol import AudioChunk, Capabilities, ChunkResult
from . import _bench, _sounds
from ._bench import Asked

T = TypeVar("T")


class ContractBase:
    """What the author gives, and how an engine is asked."""

    call_seconds: float = 60.0

    def make_engine(self) -> Any:
        """Make one engine: an object that satisfies `Transcriber`, or a function. Called several times for each check.

        Raises:
            NotImplementedError: it has to be defined.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a method make_engine(self) that returns your engine")

    def speech(self) -> bytes | None:
        """A WAV file (16 kHz, mono, 16 bits) of something that the engine understands; None if there is none.

        With it, the checks of text and of times have something to look at.
        """
        return None

    @pytest.fixture(params=["asyncio", "trio"])
    def backend(self, request: pytest.FixtureRequest) -> str:
        """The event loop that a check runs on."""
        if request.param == "trio" and find_spec("trio") is None:
            pytest.skip("trio is not installed: hosts may run on it, so pip install trio to have it checked")
        backend: str = request.param
        return backend

    def _run(self, main: Callable[[Asked], Awaitable[T]], backend: str = "asyncio") -> T:
        __tracebackhide__ = True
        return _bench.run(self.make_engine(), self.call_seconds, backend, main)

    def _samples(self, samples: int) -> bytes:
        """So much of the author's speech, over and over, or of babble."""
        return _sounds.babble(samples, self._speech_samples())

    def _speech_samples(self) -> bytes:
        """Empty where there is no speech that can be read: test_speech_is_heard says so, once for all checks."""
        speech = self.speech()
        with suppress(ValueError):
            return b"" if speech is None else _sounds.samples_of(speech)
        return b""

    def _short(self, capabilities: Capabilities, seconds: float = 2.0) -> AudioChunk:
        return _sounds.chunk_of(self._samples(_sounds.short_samples(capabilities, seconds)))

    def _longest(self, capabilities: Capabilities, at_most_seconds: float) -> bytes:
        return self._samples(_sounds.longest_samples(capabilities, at_most_seconds))

    async def _heard(self, asked: Asked) -> tuple[AudioChunk, ChunkResult]:
        """What the engine makes of the author's speech, or of babble: a chunk near half a minute long, and the answer.

        What is shorter than the speech is its beginning.
        """
        samples = self._speech_samples() or _sounds.babble(_sounds.RATE_HZ * 5)
        capabilities = asked.capabilities
        samples = samples[: 2 * _sounds.longest_samples(capabilities, 30.0)]
        missing = 2 * _sounds.shortest_samples(capabilities) - len(samples)
        chunk = _sounds.chunk_of(samples + bytes(max(0, missing)))
        return chunk, await asked.ask(chunk, what="speech")


def said(result: ChunkResult) -> str:
    """All text of a result."""
    texts = [result.text, *(segment.text for segment in result.segments), *(word.text for word in result.words)]
    return " ".join(filter(None, (text.strip() for text in texts)))
