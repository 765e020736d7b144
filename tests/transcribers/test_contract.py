"""The engines that come with the library keep the contract."""

import io
import wave
from functools import cache

import av
import pytest

from memsafe_transcribe.testing import TranscriberContract
from memsafe_transcribe.transcribers.pocketsphinx import PocketsphinxTranscriber

from ..support.media import SPEECH


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


@pytest.mark.skipif(PocketsphinxTranscriber.missing() is not None, reason="the extra `offline` is not installed")
class TestPocketsphinx(TranscriberContract):
    """English, in a process of its own."""

    def make_engine(self) -> PocketsphinxTranscriber:
        return PocketsphinxTranscriber()

    def speech(self) -> bytes:
        return spoken(6.0)
