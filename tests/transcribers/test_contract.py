"""The engines that come with the library keep the contract."""

import importlib.util
import io
import wave
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import ClassVar

import av
import pytest

from memsafe_transcribe.testing import TranscriberContract
from memsafe_transcribe.transcribers.faster_whisper import FasterWhisperTranscriber
from memsafe_transcribe.transcribers.gemini import GeminiTranscriber
from memsafe_transcribe.transcribers.google_genai import GoogleGenaiTranscriber
from memsafe_transcribe.transcribers.openai import OpenAITranscriber
from memsafe_transcribe.transcribers.pocketsphinx import PocketsphinxTranscriber

from ..support.gemini_server import KEY, MODEL
from ..support.media import SPEECH
from ..support.needs import cannot
from .far_server import far_server


@cache
def spoken(seconds: float) -> bytes:
    """The demo's speech, as a WAV file of 16 kHz mono."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=16_000)
    with av.open(str(SPEECH)) as source:
        frames = [each for frame in source.decode(audio=0) for each in resampler.resample(frame)]
    samples = b"".join(bytes(frame.planes[0])[: 2 * frame.samples] for frame in frames)
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(samples[: int(seconds * 16_000) * 2])
    return target.getvalue()


class TestPocketsphinx(TranscriberContract):
    """English, in a process of its own."""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _there(cls) -> None:
        if (what := PocketsphinxTranscriber.missing()) is not None:
            cannot(what)

    def make_engine(self) -> PocketsphinxTranscriber:
        return PocketsphinxTranscriber()

    def speech(self) -> bytes:
        return spoken(6.0)


class _Remote(TranscriberContract):
    """An engine whose service is on loopback, in a process that is not of the tests."""

    __test__ = False
    url: ClassVar[str]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _served(cls) -> Iterator[None]:
        with far_server() as url:
            cls.url = url
            yield

    def speech(self) -> bytes:
        return spoken(6.0)


class TestGemini(_Remote):
    """By google-generativeai."""

    __test__ = True

    def make_engine(self) -> GeminiTranscriber:
        return GeminiTranscriber(model=MODEL, api_key=KEY, base_url=self.url)


class TestGoogleGenai(_Remote):
    """By google-genai."""

    __test__ = True

    def make_engine(self) -> GoogleGenaiTranscriber:
        return GoogleGenaiTranscriber(model=MODEL, api_key=KEY, base_url=self.url)


class TestGoogleGenaiFile(_Remote):
    """By google-genai, each chunk as a file."""

    __test__ = True

    def make_engine(self) -> GoogleGenaiTranscriber:
        return GoogleGenaiTranscriber(model=MODEL, api_key=KEY, base_url=self.url, upload="file")


class TestOpenAI(_Remote):
    """Whisper by the API."""

    __test__ = True

    def make_engine(self) -> OpenAITranscriber:
        return OpenAITranscriber(api_key=KEY, base_url=f"{self.url}/v1")


class TestFasterWhisper(TranscriberContract):
    """On a tiny model that is made here."""

    model: ClassVar[Path]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _made(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        if importlib.util.find_spec("faster_whisper") is None:
            cannot("needs faster-whisper: pip install 'memsafe-transcribe[faster-whisper]'")
        from ..support.whisper import write_whisper

        cls.model = tmp_path_factory.mktemp("models") / "both"
        write_whisper(cls.model)

    def make_engine(self) -> FasterWhisperTranscriber:
        return FasterWhisperTranscriber(model=str(self.model))

    def speech(self) -> bytes:
        return spoken(6.0)
