"""Engines: by name from another distribution, as an object, as a plain function."""

import json
import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import anyio
import pytest

import memsafe_transcribe as mt
from memsafe_transcribe import _doctor, _engines
from memsafe_transcribe._transcription import registry

from ..conftest import Run
from ..support.media import tone_samples, write_wav
from ..support.plugin import install_plugin


def text_of(run: Run, tmp_path: Path, engine: Any, **options: Any) -> str:
    """What an engine makes of three tones with pauses after them, in chunks of about 1 s."""

    async def main() -> str:
        path = write_wav(tmp_path / "tone.wav", 3 * (tone_samples(0.6) + bytes(9600)))
        transcriber = mt.ChunkedTranscriber(engine, chunk_seconds=1.0, **options)
        return (await transcriber.transcribe(path)).text

    text: str = run(main)
    return text


def test_a_bare_lambda_is_an_engine(run: Run, tmp_path: Path) -> None:
    """It gets each chunk, cut in the middle of a pause, and answers text."""
    heard = text_of(run, tmp_path, lambda chunk: f"{chunk.index}:{chunk.duration_seconds:.2f}")
    assert heard == "0:0.78 1:0.86 2:1.06"


def test_an_async_function_is_an_engine(run: Run, tmp_path: Path) -> None:
    """It is awaited."""

    async def engine(chunk: mt.AudioChunk) -> str:
        return f"{chunk.start_seconds:g}"

    assert text_of(run, tmp_path, engine) == "0 0.78 1.64"


class AsyncCallable:
    """An object that is called like a function and answers a coroutine."""

    async def __call__(self, chunk: mt.AudioChunk) -> str:
        return "async"


@pytest.mark.parametrize("engine", [AsyncCallable(), lambda chunk: AsyncCallable()(chunk)])
def test_whatever_answers_a_coroutine_is_an_engine(run: Run, tmp_path: Path, engine: Any) -> None:
    """Also where that shows only when it is called."""
    assert text_of(run, tmp_path, engine) == "async async async"


class SyncEngine:
    """A class whose `transcribe` is no coroutine, as many SDKs are."""

    capabilities = mt.Capabilities(max_chunk_seconds=2.0, languages=("en",))

    def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        return mt.ChunkResult(text=f"{context.language}{context.attempt}")


def test_an_object_with_a_sync_method_is_an_engine(run: Run, tmp_path: Path) -> None:
    """It runs in a thread."""
    assert text_of(run, tmp_path, SyncEngine()) == "None1 None1 None1"


def test_a_plugin_of_another_distribution_is_found_by_its_name(tmp_path: Path) -> None:
    """Installed by pip, found through its entry point, by the command and by the API."""
    env = install_plugin(tmp_path / "site")
    audio = write_wav(tmp_path / "tone.wav", tone_samples(8.0))
    command = [sys.executable, "-m", "memsafe_transcribe", "transcribe", "--engine", "speech-clock"]
    by_command = subprocess.run([*command, "--format", "json", str(audio)], env=env, capture_output=True, check=True)
    words = json.loads(by_command.stdout)["words"]
    assert [word["word"] for word in words] == [f"word{number}" for number in range(20)]
    assert (words[-1]["start"], words[-1]["end"]) == (7.6, 8.0)
    script = (
        "import anyio, pathlib, sys, memsafe_transcribe as mt\n"
        "transcriber = mt.ChunkedTranscriber('speech-clock', chunk_seconds=2)\n"
        "print(anyio.run(transcriber.transcribe, pathlib.Path(sys.argv[1])).text)"
    )
    by_api = subprocess.run([sys.executable, "-c", script, str(audio)], env=env, capture_output=True, check=True)
    assert by_api.stdout.decode().split() == [word["word"] for word in words]


def test_an_unknown_name_says_which_there_are() -> None:
    """At once, when the transcriber is made."""
    with pytest.raises(mt.TranscriberNotFoundError, match="no engine 'nope' is installed; there are: ") as caught:
        mt.ChunkedTranscriber("nope")
    assert caught.value.name == "nope"
    assert "pocketsphinx" in caught.value.available
    assert "pocketsphinx" in str(caught.value)


@pytest.mark.parametrize("engine", [None, 3, SyncEngine, object()])
def test_what_is_no_engine_is_refused(engine: Any) -> None:
    """Also a class that should have been an instance."""
    with pytest.raises(TypeError, match="engine must be a name, a Transcriber or a function"):
        mt.ChunkedTranscriber(engine)


class FailsToStart:
    """What a broken plugin may be."""

    def __init__(self) -> None:
        raise KeyError("MY_API_KEY")


def test_a_plugin_that_cannot_be_used_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it fails to load or to be made, or does not know an option."""
    here = FailsToStart.__module__
    points = {
        name: EntryPoint(name, f"{here}:{value}", "memsafe_transcribe.transcribers")
        for name, value in (("gone", "Gone"), ("fails", "FailsToStart"), ("works", "Works"))
    }
    monkeypatch.setattr(registry, "installed", lambda: points)
    with pytest.raises(mt.TranscriberError, match=r"engine 'gone' cannot be loaded: AttributeError: .*Gone"):
        mt.ChunkedTranscriber("gone")
    with pytest.raises(mt.TranscriberError, match=r"engine 'fails' cannot be made .*: KeyError: 'MY_API_KEY'"):
        mt.ChunkedTranscriber("fails")
    with pytest.raises(mt.TranscriberError, match=r"engine 'works' cannot be made .*model"):
        mt.ChunkedTranscriber("works", engine_options={"model": "large"})
    assert registry.missing(points["gone"]) is not None
    assert registry.missing(points["works"]) is None


class Works(SyncEngine):
    """A plugin without options."""


class ExitsInMissing(Works):
    """As an SDK may that finds no key."""

    @staticmethod
    def missing() -> str | None:
        sys.exit("no\nkey")


class NotCallable(Works):
    """Text in place of a method."""

    missing = "a key"


class NeedsSelf(Works):
    """No static method."""

    def missing(self) -> str | None:
        return None


class AnswersFalse(Works):
    """Neither what is missing, nor None."""

    @staticmethod
    def missing() -> bool:
        return False


@pytest.mark.parametrize(
    ("engine", "line"),
    [
        (ExitsInMissing, "its missing() raised SystemExit: no key"),
        (NotCallable, "its missing() raised TypeError: 'str' object is not callable"),
        (NeedsSelf, "its missing() raised TypeError: NeedsSelf.missing() missing 1 required "
         "positional argument: 'self'"),
        (AnswersFalse, "its missing() answered False, which is neither text nor None"),
    ],
)  # fmt: skip
def test_what_one_engine_cannot_say_is_a_line_for_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], engine: type[Works], line: str
) -> None:
    """And `engines` and `doctor` go on to the next."""
    points = {
        name: EntryPoint(name, f"{each.__module__}:{each.__name__}", registry.ENTRY_POINT_GROUP)
        for name, each in (("odd", engine), ("works", Works))
    }
    for module in (registry, _engines, _doctor):
        monkeypatch.setattr(module, "installed", lambda: points)
    anyio.run(_engines.run)
    odd, limits, works, *_ = capsys.readouterr().out.splitlines()
    assert odd == f"odd, of an unknown distribution: {line}"
    assert limits.startswith("    chunks up to 2 s; ")
    assert works == "works, of an unknown distribution: ready"
    anyio.run(_doctor.run)
    assert capsys.readouterr().out.splitlines()[-2:] == [f"engine   odd: {line}", "engine   works: ready"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("tests.plugin.speech_clock", r"it names a module; write tests\.plugin\.speech_clock:Class"),
        (f"{__name__}:WORDS", r"it leads to \['no', 'engine'\], which is no class, no function and no engine"),
    ],
)
def test_an_entry_point_that_leads_to_no_engine_is_refused(
    monkeypatch: pytest.MonkeyPatch, value: str, message: str
) -> None:
    """At once, and it is not called ready."""
    point = EntryPoint("odd", value, registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(registry, "installed", lambda: {"odd": point})
    with pytest.raises(mt.TranscriberError, match=rf"engine 'odd' cannot be used: {message}"):
        mt.ChunkedTranscriber("odd")
    assert re.fullmatch(f"{message}.*", registry.missing(point) or "")


WORDS = ["no", "engine"]


def test_options_go_with_a_name_only() -> None:
    """An object is made already."""
    with pytest.raises(TypeError, match="engine_options go with an engine's name"):
        mt.ChunkedTranscriber(SyncEngine(), engine_options={"model": "x"})


def test_an_engine_that_raises_is_named_with_its_chunk(run: Run, tmp_path: Path) -> None:
    """Its own error is the cause."""

    def engine(chunk: mt.AudioChunk) -> str:
        return str(1 // (1 - chunk.index))

    with pytest.raises(
        mt.TranscriberFailedError, match=r"failed on chunk 1 \(from 0\.78 s\): ZeroDivisionError"
    ) as caught:
        text_of(run, tmp_path, engine)
    assert (caught.value.chunk_index, caught.value.start_seconds) == (1, 0.78)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_an_engine_that_answers_something_else_is_named(run: Run, tmp_path: Path) -> None:
    """None is no text."""
    with pytest.raises(mt.TranscriberFailedError, match="it returned NoneType, not str or ChunkResult"):
        text_of(run, tmp_path, lambda chunk: None)


def test_a_language_that_the_engine_does_not_know_is_refused(run: Run, tmp_path: Path) -> None:
    """Before anything is read."""

    async def main() -> None:
        await mt.ChunkedTranscriber(SyncEngine()).transcribe(tmp_path / "nothing.wav", language="de")

    with pytest.raises(ValueError, match="knows the languages en; got 'de'"):
        run(main)


def test_capabilities_that_cannot_work_are_refused() -> None:
    """When they are written down, not at the first chunk."""
    with pytest.raises(ValueError, match="formats must contain 'wav'"):
        mt.Capabilities(formats=("flac",))
    with pytest.raises(ValueError, match="max_chunk_seconds must be more than 0"):
        mt.Capabilities(max_chunk_seconds=0)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("timestamps", "words", "must be 'word', 'segment' or 'none', got 'words'"),
        ("timestamps", None, "must be 'word', 'segment' or 'none', got None"),
        ("max_chunk_seconds", "60", "must be int | float, got '60'"),
        ("min_chunk_seconds", None, "must be int | float, got None"),
        ("max_chunk_bytes", 1e6, "must be int | None, got 1000000.0"),
        ("concurrency", 2.0, "must be int, got 2.0"),
        ("resident_bytes", "1GiB", "must be int, got '1GiB'"),
        ("call_bytes", 0.5, "must be int, got 0.5"),
        ("call_bytes_per_second", None, "must be int | float, got None"),
        ("cache_key", 3, "must be str | None, got 3"),
        ("trusts_times", "no", "must be bool, got 'no'"),
        ("languages", "en", "must be a tuple of codes such as ('en',), or None for any, got 'en'"),
        ("languages", (), "must be a tuple of codes such as ('en',), or None for any, got ()"),
        ("formats", "wav", "must be a tuple such as ('wav',), got 'wav'"),
    ],
)
def test_capabilities_of_wrong_types_are_refused(name: str, value: Any, message: str) -> None:
    """Each by its name, and not by whoever adds or compares it later."""
    with pytest.raises((TypeError, ValueError), match=re.escape(f"{name} {message}")):
        mt.Capabilities(**{name: value})


def test_limits_in_bytes_and_of_length_hold_for_chunks(run: Run, tmp_path: Path) -> None:
    """A WAV file of a second has 32 044 bytes, a third more as base64; what is too short gets silence behind it."""
    assert mt.Capabilities(max_chunk_bytes=32_044).longest_chunk_seconds == 1.0
    assert mt.Capabilities(max_chunk_bytes=42_728, counts_base64=True).longest_chunk_seconds == pytest.approx(1.0, 1e-3)
    assert mt.Capabilities(max_chunk_bytes=10**9, max_chunk_seconds=30).longest_chunk_seconds == 30.0
    with pytest.raises(ValueError, match="min_chunk_seconds=2 must be from 0 to what max_chunk_seconds and"):
        mt.Capabilities(max_chunk_bytes=32_044, min_chunk_seconds=2)
    heard: list[mt.AudioChunk] = []

    class Engine:
        capabilities = mt.Capabilities(max_chunk_bytes=200_000, min_chunk_seconds=2.0)

        async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
            heard.append(chunk)
            return mt.ChunkResult(text="word")

    run(mt.ChunkedTranscriber(Engine()).transcribe, write_wav(tmp_path / "long.wav", tone_samples(20.0)))
    assert len(heard) >= 4
    assert all(len(chunk.data) <= 200_000 for chunk in heard)
    heard.clear()
    samples = tone_samples(0.5)
    transcript = run(mt.ChunkedTranscriber(Engine()).transcribe, write_wav(tmp_path / "short.wav", samples))
    (chunk,) = heard
    assert (chunk.duration_seconds, chunk.data[44:]) == (2.0, samples + bytes(3 * len(samples)))
    assert transcript.segments[0].end_seconds == 0.5  # the silence is nobody's


def test_times_that_are_guesses_are_marked(run: Run, tmp_path: Path) -> None:
    """An engine says so of itself."""

    class Engine:
        capabilities = mt.Capabilities(timestamps="word", trusts_times=False)

        async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
            word = mt.Word("word", 0.1, 0.4)
            return mt.ChunkResult(segments=(mt.Segment("word", 0.1, 0.4, words=(word,)),))

    transcript = run(mt.ChunkedTranscriber(Engine()).transcribe, write_wav(tmp_path / "a.wav", tone_samples(1.0)))
    assert [(word.text, word.start_seconds, word.trusted) for word in transcript.words] == [("word", 0.1, False)]
    assert not transcript.segments[0].trusted


def test_an_engine_may_be_named_by_its_module(run: Run, tmp_path: Path) -> None:
    """`module:attribute`, installed or not."""
    path = write_wav(tmp_path / "a.wav", tone_samples(1.0))
    transcript = run(mt.ChunkedTranscriber("tests.plugin.speech_clock:SpeechClock").transcribe, path)
    assert transcript.text == "word0 word1"
    place = (
        r"no engine 'no\.such:Engine' is installed, and as a place \(module:Class\) it cannot be imported: No module"
    )
    with pytest.raises(mt.TranscriberNotFoundError, match=place) as caught:
        mt.ChunkedTranscriber("no.such:Engine")
    assert "pocketsphinx" in caught.value.available


def test_two_engines_of_one_name_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which of them is meant cannot be told; the same one twice is no matter."""
    points = [EntryPoint("twin", value, registry.ENTRY_POINT_GROUP) for value in ("a:A", "b:B")]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    with pytest.raises(mt.TranscriberError, match=r"two installed engines are called 'twin': a:A of .* and b:B of "):
        mt.ChunkedTranscriber("twin")
    points[1] = points[0]
    assert list(registry.installed()) == ["twin"]
