"""The part of the contract about what an engine declares and answers."""

from collections.abc import Iterable
from typing import Any

import anyio
import pytest

from .._errors import TranscriberFailedError, TranscriberUnavailableError, checked_wait_seconds
from .._transcription.protocol import AudioChunk, Capabilities, ChunkContext
from .._transcription.transcript import Segment, Word
from . import _sounds
from ._base import ContractBase, said
from ._bench import Asked, broken

_ROUNDING_SECONDS = 0.02  # the library corrects no less
_LANGUAGES_TRIED = 3


class AnswersContract(ContractBase):
    """Capabilities, chunks, results, errors."""

    def test_capabilities_are_sane_and_stable(self) -> None:
        """What it declares can be meant, and does not change by looking, by asking, or from engine to engine."""
        first = _declared(self.make_engine())

        async def main(asked: Asked) -> None:
            _check_sane(asked)
            before = _declared(asked.made)
            await asked.ask(self._short(asked.capabilities))
            after = _declared(asked.made)
            if not first == before == after:
                broken(
                    f"capabilities changed: {first}, then {before}, after a call {after}. Let them be one frozen "
                    "mt.Capabilities, made with the class or in __init__ from its options"
                )

        self._run(main)

    def test_takes_the_longest_and_the_shortest_chunk(self, backend: str) -> None:
        """Both are answered, with text or a ChunkResult: the longest (10 minutes at most), and min_chunk_seconds."""

        async def main(asked: Asked) -> None:
            capabilities = asked.capabilities
            for name, samples in (
                ("the shortest chunk", _sounds.shortest_samples(capabilities)),
                ("the longest chunk", _sounds.longest_samples(capabilities)),
            ):
                await asked.ask(_sounds.chunk_of(self._samples(samples)), what=f"{name} that it declares")

        self._run(main, backend)

    def test_accepts_every_context(self) -> None:
        """With and without language, prompt and deadline, and at a later attempt."""

        async def main(asked: Asked) -> None:
            languages = (asked.capabilities.languages or ())[:_LANGUAGES_TRIED]
            contexts = [
                ChunkContext(),
                *(ChunkContext(language=language) for language in languages),
                ChunkContext(prompt="Alice, Wonderland"),
                ChunkContext(deadline_seconds=asked.call_seconds, attempt=3),
            ]
            for context in contexts:
                await asked.ask(self._short(asked.capabilities), context, what=f"a chunk with {context}")

        self._run(main)

    def test_silence_is_no_text(self) -> None:
        """Digital silence is answered with empty text, and without an error."""

        async def main(asked: Asked) -> None:
            silence = _sounds.chunk_of(bytes(2 * _sounds.short_samples(asked.capabilities)))
            text = said(await asked.ask(silence, what="silence"))
            if text:
                broken(
                    f"the engine heard {text!r} in digital silence. Return ChunkResult() or '' where nothing is said; "
                    "an engine that invents text in silence needs a check of its own, such as of loudness"
                )

        self._run(main)

    def test_speech_is_heard(self) -> None:
        """There is text where the author's speech() says something. Skipped without speech()."""
        if (speech := self.speech()) is None:
            pytest.skip("define speech(self) -> bytes, a WAV file that the engine understands, to have this checked")
        try:
            _sounds.samples_of(speech)
        except ValueError as error:
            broken(f"{error}. The other checks did without it", error)

        async def main(asked: Asked) -> None:
            _, result = await self._heard(asked)
            if not said(result):
                broken(
                    "the engine heard nothing in speech(): it answered an empty result without an error. Raise what "
                    "went wrong, or give a clearer recording"
                )

        self._run(main)

    def test_times_lie_within_the_chunk_and_in_order(self) -> None:
        """From 0 to the chunk's end, none before its neighbour, where the engine declares times that it trusts."""

        async def main(asked: Asked) -> None:
            _skip_without_times(asked)
            chunk, result = await self._heard(asked)
            if not asked.capabilities.trusts_times:
                pytest.skip("trusts_times=False: the library marks all times as guesses")
            if not (result.words or result.segments):
                pytest.skip("nothing was heard that has times: define speech(self) -> bytes to have this checked")
            _check_times("segments", result.segments, chunk)
            _check_times("words", result.words, chunk)
            for segment in result.segments:
                _check_times("words of a segment", segment.words, chunk)

        self._run(main)

    def test_times_are_as_fine_as_declared(self) -> None:
        """Whatever is heard comes as words, or as segments, as `timestamps` says."""

        async def main(asked: Asked) -> None:
            _skip_without_times(asked)
            _, result = await self._heard(asked)
            if not said(result):
                pytest.skip("nothing was heard: define speech(self) -> bytes to have this checked")
            has_words = bool(result.words) or any(segment.words for segment in result.segments)
            wants_words = asked.capabilities.timestamps == "word"
            if not has_words and (wants_words or not result.segments):
                broken(
                    f'the engine declares timestamps="{asked.capabilities.timestamps}" and heard {said(result)!r} '
                    f"without {'words' if wants_words else 'segments'}: return ChunkResult(words=...) or "
                    'ChunkResult(segments=...), or declare timestamps="none"'
                )

        self._run(main)

    def test_raises_only_exceptions(self) -> None:
        """A damaged chunk is answered or refused by an Exception, and the next chunk is heard as ever.

        Where it says when to ask again (`retry_after_seconds`), that is a number.
        """

        async def main(asked: Asked) -> None:
            good = self._short(asked.capabilities)
            parts = {"index": 0, "start_seconds": 0.0, "duration_seconds": 1.0, "sample_rate_hz": 16_000}
            for data in (b"", b"no WAV at all", good.data[:50]):
                damaged = AudioChunk(**parts, format="wav", data=data)  # type: ignore[arg-type]
                raised = await _raised(asked, damaged)
                if raised is not None and not isinstance(raised, Exception):
                    broken(
                        f"for a damaged chunk the engine raised {raised!r}, which is no Exception and would end the "
                        "host. Catch it, and raise a mt.TranscriberError instead",
                        raised,
                    )
                _check_wait(raised)
            await asked.ask(good, what="a good chunk after damaged ones")

        self._run(main)


async def _raised(asked: Asked, chunk: AudioChunk) -> BaseException | None:
    """What the engine itself raises for a chunk."""
    raised: BaseException | None = None
    with anyio.move_on_after(asked.call_seconds) as scope:
        try:
            await asked.call(chunk)
        except TranscriberFailedError as error:
            raised = error.__cause__
        except BaseException as error:
            if scope.cancel_called:
                raise
            raised = error
    if scope.cancelled_caught:
        broken(asked.too_long("a damaged chunk"))
    return raised


def _check_wait(raised: Exception | None) -> None:
    wrong: object = raised  # the error's own class refuses what it is made with
    try:
        if isinstance(raised, TranscriberUnavailableError):
            checked_wait_seconds(raised.retry_after_seconds)
    except (TypeError, ValueError) as error:
        wrong = error
    if isinstance(wrong, TypeError | ValueError) and str(wrong).startswith("retry_after_seconds "):
        broken(
            f"for a damaged chunk the engine raised an error whose {wrong}: make seconds of the header's text", raised
        )


def _declared(engine: Any) -> Capabilities:
    declared = getattr(engine, "capabilities", Capabilities())  # a plain function has none
    if not isinstance(declared, Capabilities):
        broken(f"capabilities must be a mt.Capabilities, and is {declared!r}")
    return declared


def _check_sane(asked: Asked) -> None:
    capabilities = asked.capabilities
    if capabilities.concurrency > 1 and not asked.is_async and not capabilities.is_thread_safe:
        broken(
            f"concurrency={capabilities.concurrency} cannot be had: `transcribe` is not async, and without "
            "is_thread_safe=True its calls come one after another. Declare that it is, or leave concurrency at 1"
        )


def _skip_without_times(asked: Asked) -> None:
    if asked.capabilities.timestamps == "none":
        pytest.skip('timestamps="none": there are no times to look at')


def _check_times(what: str, pieces: Iterable[Word | Segment], chunk: AudioChunk) -> None:
    last_start = 0.0
    for piece in pieces:
        start, end = piece.start_seconds, piece.end_seconds
        is_within = -_ROUNDING_SECONDS <= start <= end <= chunk.duration_seconds + _ROUNDING_SECONDS
        if not is_within or start < last_start - _ROUNDING_SECONDS:
            broken(
                f"{what}: {piece.text!r} goes from {start} to {end} s in a chunk of {chunk.duration_seconds:g} s, "
                f"after one from {last_start} s. Times are seconds from the chunk's own start, in order; declare "
                "trusts_times=False if they are guesses"
            )
        last_start = start
