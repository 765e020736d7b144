"""Words that pocketsphinx gets wrong when it hears real speech in chunks, beside the same speech whole.

    python -m benchmarks.chunked_against_whole FOLDER [--chunk-seconds S ...] [--words N] [--starts N] [--one]

FOLDER is laid out as LibriSpeech is: beside audio files a `*.trans.txt` with lines of `NAME WORDS...`, at any depth.
The smallest part that is large enough is Mini LibriSpeech's `dev-clean-2.tar.gz`, https://www.openslr.org/31/
(CC BY 4.0).

The utterances of one speaker (the name up to its first dash) are joined, in order, to one recording. They begin and
end in the silences where LibriSpeech cut them apart, so nothing goes between them. Recordings of less than a minute are
left out, and what follows the first --words words (4000). --one joins everything to a single recording: pocketsphinx
then needs many minutes after its search, for a step that grows with the square of the length.

Whole is one call of the engine's own `transcribe` with all samples: the same process, model and settings. Chunked is
`ChunkedTranscriber("pocketsphinx", chunk_seconds=...)` on the same file. Errors and words are summed over the
recordings. This is done --starts times (3), each time with 3 ms more taken off the beginning of each recording, and
the means are compared: such a trifle alone moves pocketsphinx's word error rate by half a point. It fails where chunked
is more than half a point worse.
"""

import argparse
import re
import sys
import tempfile
import time
import wave
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import anyio
import av

import memsafe_transcribe as mt
from memsafe_transcribe._demo import word_error_rate
from memsafe_transcribe.transcribers.pocketsphinx import PocketsphinxTranscriber

_RATE_HZ = 16_000
_SHORTEST_SECONDS = 60.0
_FEWEST_WORDS = 1500
_ALLOWED_POINTS = 0.5
_START_SAMPLES = 53  # a third of a frame, so that all frames fall elsewhere


@dataclass(frozen=True)
class Recording:
    """Speech of one speaker, and what is said in it."""

    audio: Path
    seconds: float
    words: tuple[str, ...]


def utterances(folder: Path) -> Iterator[tuple[str, Path, str]]:
    """Name, audio file and text of all that is there, in order."""
    for transcript in sorted(folder.rglob("*.trans.txt")):
        for line in sorted(transcript.read_text(encoding="utf-8").splitlines()):
            name, _, text = line.partition(" ")
            yield name, next(transcript.parent.glob(f"{name}.*")), text


def samples(audio: Path) -> Iterator[bytes]:
    """The audio as 16 kHz mono signed 16-bit."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=_RATE_HZ)
    with av.open(str(audio)) as container:
        for frame in (*container.decode(audio=0), None):
            for part in resampler.resample(frame):
                yield bytes(part.planes[0])[: 2 * part.samples]


def recordings(source: Path, folder: Path, *, one: bool, words: int, start: int = 0) -> list[Recording]:
    """Join utterances to files in `folder`, without the first `start` samples of each."""
    made: list[Recording] = []
    for speaker, group in groupby(utterances(source), lambda each: "all" if one else each[0].partition("-")[0]):
        said: list[str] = []
        audio = folder / f"{speaker}-{start}.wav"
        skip = 2 * start
        with wave.open(str(audio), "wb") as file:
            file.setparams((1, 2, _RATE_HZ, 0, "NONE", ""))
            for _, utterance, text in group:
                if sum(len(each.words) for each in made) + len(said) >= words:
                    break
                for part in samples(utterance):
                    file.writeframes(part[skip:])
                    skip = max(0, skip - len(part))
                said += re.findall(r"[a-z']+", text.lower())
            seconds = file.getnframes() / _RATE_HZ
        if seconds >= _SHORTEST_SECONDS:
            made.append(Recording(audio, seconds, tuple(said)))
    return made


async def errors(those: list[Recording], transcribe: Callable[[Recording], Awaitable[str]]) -> float:
    """How many words are wrong in all recordings together."""
    wrong = 0.0
    for recording in those:
        heard = await transcribe(recording)
        wrong += word_error_rate(" ".join(recording.words), heard) * len(recording.words)
    return wrong


async def whole(those: list[Recording]) -> float:
    engine = PocketsphinxTranscriber()

    async def transcribe(recording: Recording) -> str:
        chunk = mt.AudioChunk(
            index=0,
            start_seconds=0.0,
            duration_seconds=recording.seconds,
            sample_rate_hz=_RATE_HZ,
            format="wav",
            data=recording.audio.read_bytes(),
        )
        result = await engine.transcribe(chunk, mt.ChunkContext())
        return " ".join(word.text for word in result.words)

    try:
        return await errors(those, transcribe)
    finally:
        await engine.aclose()


async def chunked(those: list[Recording], chunk_seconds: float) -> float:
    async with mt.ChunkedTranscriber("pocketsphinx", chunk_seconds=chunk_seconds) as transcriber:

        async def transcribe(recording: Recording) -> str:
            return (await transcriber.transcribe(recording.audio)).text

        return await errors(those, transcribe)


async def compare(starts: list[list[Recording]], chunk_seconds: list[float]) -> bool:
    """Print the table; whether chunked was never too much worse."""
    words = sum(len(each.words) for each in starts[0])
    seconds = sum(each.seconds for each in starts[0])
    print(f"{words} words in {len(starts[0])} recordings, {seconds / 60:.1f} minutes, {len(starts)} starts", flush=True)
    fine, base = True, 0.0
    for length in (None, *chunk_seconds):
        began = time.monotonic()
        rates = [100 * await (whole(those) if length is None else chunked(those, length)) / words for those in starts]
        rate = sum(rates) / len(rates)
        base = rate if length is None else base
        fine = fine and rate - base <= _ALLOWED_POINTS
        name = "whole" if length is None else f"{length:g} s"
        against = "" if length is None else f"{rate - base:+.2f} points"
        each = " ".join(f"{one:.2f}" for one in rates)
        took = f"{time.monotonic() - began:.0f} s"
        print(f"{name:6} word error rate {rate:5.2f} %  {against:12}  (each: {each}; {took})", flush=True)
    return fine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--chunk-seconds", type=float, nargs="+", default=[10.0, 20.0, 30.0], metavar="S")
    parser.add_argument("--words", type=int, default=4000)
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--one", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        starts = [
            recordings(options.folder, Path(name), one=options.one, words=options.words, start=_START_SAMPLES * number)
            for number in range(options.starts)
        ]
        if (words := sum(len(each.words) for each in starts[0])) < _FEWEST_WORDS:
            parser.error(f"{words} words in recordings of a minute or more: {_FEWEST_WORDS} prove something")
        if not anyio.run(compare, starts, options.chunk_seconds):
            sys.exit(f"in chunks it is more than {_ALLOWED_POINTS} points worse")


if __name__ == "__main__":
    main()
