"""faster-whisper as it is, on a tiny model that is made here and says one script, whatever it hears."""

import importlib.util
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._audio.encoding import wav
from memsafe_transcribe.transcribers.faster_whisper import FasterWhisperTranscriber

from ..conftest import Run
from ..support.media import tone_samples, write_wav
from ..support.needs import cannot
from ..support.processes import gone_within

ENGINE = "memsafe_transcribe.transcribers.faster_whisper:FasterWhisperTranscriber"
SAID = ["Oh", "dear,", "I", "shall", "be", "late!"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of English and German, "both", and one of English alone, "tiny.en"."""
    if importlib.util.find_spec("faster_whisper") is None:
        cannot("needs faster-whisper: pip install 'memsafe-transcribe[faster-whisper]'")
    from ..support.whisper import write_whisper

    folder = tmp_path_factory.mktemp("models")
    write_whisper(folder / "both")
    write_whisper(folder / "tiny.en", multilingual=False)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's, and a hub that is not there."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    return tmp_path / "hub"


def chunk(seconds: float = 3.0) -> mt.AudioChunk:
    """A tone."""
    data = wav([tone_samples(seconds)], 16_000)
    return mt.AudioChunk(
        index=0, start_seconds=0.0, duration_seconds=seconds, sample_rate_hz=16_000, format="wav", data=data
    )


async def asked(engine: FasterWhisperTranscriber, *contexts: mt.ChunkContext) -> list[mt.ChunkResult]:
    """Answers to the same chunk, of one process."""
    try:
        return [await engine.transcribe(chunk(), context) for context in contexts]
    finally:
        await engine.aclose()


def texts(result: mt.ChunkResult) -> list[str]:
    """Of the words."""
    return [word.text for segment in result.segments for word in segment.words]


def test_a_chunk_becomes_words_with_times(run: Run, models: Path) -> None:
    """The language that the model takes it for, or the one that it is told; and a prompt is heard."""
    engine = FasterWhisperTranscriber(str(models / "both"))
    contexts = (
        mt.ChunkContext(),
        mt.ChunkContext(),
        mt.ChunkContext(language="en-US"),
        mt.ChunkContext(language="en", prompt="Oh"),
    )
    first, again, english, prompted = run(asked, engine, *contexts)
    assert texts(first) == texts(english) == SAID
    assert (first.language, english.language) == ("de", "en")
    assert first == again
    assert [segment.text for segment in first.segments] == ["Oh dear, I shall be late!"]
    times = [time for word in first.segments[0].words for time in (word.start_seconds, word.end_seconds)]
    assert times == sorted(times)
    assert 0 < times[-1] <= 3
    assert texts(prompted) == SAID[3:]  # the model's script is moved by what the prompt takes


def test_a_job_in_a_chunked_transcriber(run: Run, models: Path, tmp_path: Path) -> None:
    """By its name, with options; its memory is charged while it is open."""
    path = write_wav(tmp_path / "tone.wav", tone_samples(8.0))

    async def main() -> tuple[mt.Transcript, int]:
        admission = mt.AdmissionController(scope="process")
        options = {"model": str(models / "tiny.en"), "cpu_threads": 1, "beam_size": 1}
        async with mt.ChunkedTranscriber(ENGINE, engine_options=options, admission=admission) as transcriber:
            return await transcriber.transcribe(path), admission.statistics().reserved_bytes

    transcript, reserved_bytes = run(main)
    assert transcript.text == "Oh dear, I shall be late!"
    assert all(word.trusted for word in transcript.words)
    assert reserved_bytes >= 160 * mt.MiB


def test_the_process_takes_no_more_than_is_declared(run: Run, models: Path) -> None:
    """Its RssAnon with the model open, and after a chunk; and the host loads nothing of it."""
    engine = FasterWhisperTranscriber(str(models / "both"), cpu_threads=1)

    async def main() -> int:
        try:
            await engine.transcribe(chunk(60.0), mt.ChunkContext())
            return sum(private_bytes(child.pid) for child in psutil.Process().children())
        finally:
            await engine.aclose()

    used_bytes = run(main)
    assert 20 * mt.MiB < used_bytes < engine.capabilities.resident_bytes + engine.capabilities.memory_bytes(60.0)
    script = f"import sys, memsafe_transcribe.transcribers.faster_whisper as engine\nengine.{ENGINE.partition(':')[2]}("
    script += f"{str(models / 'both')!r})\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"faster_whisper", "ctranslate2", "numpy", "huggingface_hub", "av"} & set(loaded)


def private_bytes(pid: int) -> int:
    """RssAnon and RssShmem."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))


@pytest.mark.parametrize("is_loaded", [False, True])
def test_cancelling_kills_the_process_and_the_next_call_starts_another(run: Run, models: Path, is_loaded: bool) -> None:
    """At once, whether it loads or computes."""
    engine = FasterWhisperTranscriber(str(models / "both"), cpu_threads=1)

    async def main() -> None:
        try:
            if is_loaded:
                await engine.transcribe(chunk(), mt.ChunkContext())
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(engine.transcribe, chunk(300.0), mt.ChunkContext())
                await anyio.sleep(0.2)
                child = os.pidfd_open(psutil.Process().children()[0].pid)
                tasks.cancel_scope.cancel()
            assert gone_within(child, 0)
            os.close(child)
            assert texts(await engine.transcribe(chunk(), mt.ChunkContext())) == SAID
        finally:
            await engine.aclose()

    run(main)


def test_a_process_that_is_killed_is_named_and_the_next_call_starts_another(run: Run, models: Path) -> None:
    """As the kernel does where memory is short."""
    engine = FasterWhisperTranscriber(str(models / "both"), cpu_threads=1)

    async def main() -> None:
        try:
            await engine.transcribe(chunk(), mt.ChunkContext())
            os.kill(psutil.Process().children()[0].pid, signal.SIGKILL)
            with pytest.raises(mt.TranscriberError, match="the recognizing process died: killed by SIGKILL"):
                await engine.transcribe(chunk(), mt.ChunkContext())
            assert len(texts(await engine.transcribe(chunk(), mt.ChunkContext()))) == 6
        finally:
            await engine.aclose()

    run(main)


def test_what_the_library_refuses_is_one_clear_error(run: Run, models: Path) -> None:
    """A language that is none, a compute type that is none, weights that are none."""
    engine = FasterWhisperTranscriber(str(models / "both"), cpu_threads=1)
    with pytest.raises(mt.TranscriberError, match="ValueError: 'xx' is not a valid language code"):
        run(asked, engine, mt.ChunkContext(language="xx"))
    with pytest.raises(mt.TranscriberError, match=r"ValueError: .*int3"):
        run(asked, FasterWhisperTranscriber(str(models / "both"), compute_type="int3"), mt.ChunkContext())


def test_the_process_has_no_secrets(run: Run, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in its environment nor on its command line."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    engine = FasterWhisperTranscriber(str(models / "both"), cpu_threads=1)

    async def main() -> bytes:
        try:
            await engine.transcribe(chunk(), mt.ChunkContext())
            folder = Path(f"/proc/{psutil.Process().children()[0].pid}")
            return folder.joinpath("environ").read_bytes() + folder.joinpath("cmdline").read_bytes()
        finally:
            await engine.aclose()

    seen = run(main)
    assert b"MEMSAFE_WORKER_PATH" in seen
    assert b"hf_secret" not in seen


def test_a_model_in_the_hubs_cache_is_found_by_its_name(run: Run, models: Path, cache: Path) -> None:
    """Without the hub; its commit is in the key of its answers."""
    kept = cache / "models--Systran--faster-whisper-tiny.en"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("0123abc")
    (kept / "snapshots").mkdir()
    (kept / "snapshots" / "0123abc").symlink_to(models / "tiny.en")
    engine = FasterWhisperTranscriber("tiny.en", cpu_threads=1)
    assert engine.capabilities.languages == ("en",)
    assert "Systran/faster-whisper-tiny.en@0123abc int8 5" in str(engine.capabilities.cache_key)
    (result,) = run(asked, engine, mt.ChunkContext())
    assert texts(result) == SAID


def test_no_model_is_fetched_unasked(models: Path, tmp_path: Path) -> None:
    """The error says how to get it; where it is a folder, what it lacks."""
    make: Any = partial(mt.ChunkedTranscriber, ENGINE)
    with pytest.raises(mt.TranscriberError, match=r"'base' is not on this machine.*download_model\('Systran/"):
        make()
    with pytest.raises(mt.TranscriberError, match="'bass' is neither a folder here"):
        make(engine_options={"model": "bass", "download": True})
    with pytest.raises(mt.TranscriberError, match=r"it has no model\.bin, config\.json, tokenizer\.json"):
        make(engine_options={"model": str(tmp_path)})
    assert "'base' is not on this machine" in str(FasterWhisperTranscriber.missing())


def test_a_fetch_that_fails_is_one_clear_error(run: Run, models: Path) -> None:
    """Asked for, with the hub out of reach; the estimate goes by the name until the model is here."""
    engine = FasterWhisperTranscriber("large-v3", download=True)
    assert 3500 * mt.MiB < engine.capabilities.resident_bytes < 4000 * mt.MiB
    assert FasterWhisperTranscriber("large-v3", download=True, resident_bytes=5).capabilities.resident_bytes == 5
    with pytest.raises(mt.TranscriberError, match="Error: "):
        run(asked, engine, mt.ChunkContext())


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the extra's name."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(mt.TranscriberError, match=r"pip install 'memsafe-transcribe\[faster-whisper\]'"):
        FasterWhisperTranscriber()
    assert "not installed" in str(FasterWhisperTranscriber.missing())
