"""Mutated media files through the real decoding process, and what is allowed to become of them."""

import gc
import math
import os
import re
import tempfile
import threading
from collections import Counter
from collections.abc import Awaitable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType

import anyio

import memsafe_transcribe as mt
from memsafe_transcribe._audio.decoder import BYTES_PER_SECOND, data_limit_bytes, open_decoder
from memsafe_transcribe._audio.words import DecodeGap

from .media import encode
from .media_cases import beeps, hear, write_film
from .mutants import mutant

MAX_AUDIO_SECONDS = 20.0
_SECONDS = 1.5
_ENDS_WITHIN_SECONDS = 50.0  # before the decoder would be given up as one that hangs
_AT_ONCE = 2
_GROWTH_BYTES = 16 * mt.MiB
# Causes by which a process of FFmpeg's may end. Neither an exception of our own in it (an exit status), nor nonsense
# on its pipe, nor a silence of a minute is among them: a file that brings one of those about has found a defect.
_NAMED_CAUSE = re.compile(
    r"killed by SIG(SEGV|ABRT|BUS|FPE|ILL|KILL)\b|out of memory: |it used more than \d+ s of proc"
)
_STEREO, _MONO, _PHONE = (44_100, "stereo"), (16_000, "mono"), (8_000, "mono")
_FRAGMENTS = {"movflags": "frag_keyframe+empty_moov", "frag_duration": "300000"}
_BARE = {"write_xing": "0", "id3v2_version": "0"}
# Name: codec, container, rate and channels, options.
_RECIPES: dict[str, tuple[str, str, tuple[int, str], dict[str, str]]] = {
    "mp3": ("libmp3lame", "mp3", _STEREO, {}),
    "mp3-bare": ("libmp3lame", "mp3", _STEREO, _BARE),
    "ogg-vorbis": ("vorbis", "ogg", _STEREO, {}),
    "ogg-opus": ("libopus", "ogg", (48_000, "stereo"), {}),
    "ogg-flac": ("flac", "ogg", _MONO, {}),
    "flac": ("flac", "flac", _MONO, {}),
    "wav": ("pcm_s16le", "wav", _MONO, {}),
    "wav-adpcm": ("adpcm_ms", "wav", _MONO, {}),
    "rf64": ("pcm_s24le", "wav", _MONO, {"rf64": "always"}),
    "w64": ("pcm_s16le", "w64", _MONO, {}),
    "m4a-aac": ("aac", "ipod", _STEREO, {}),
    "m4a-alac": ("alac", "ipod", _MONO, {}),
    "mp4-fragmented": ("aac", "mp4", _STEREO, _FRAGMENTS),
    "mov": ("pcm_s16be", "mov", _MONO, {}),
    "webm": ("libopus", "webm", (48_000, "stereo"), {}),
    "mkv": ("aac", "matroska", _STEREO, {}),
    "mpegts": ("aac", "mpegts", _STEREO, {}),
    "mpeg": ("mp2", "mpeg", _STEREO, {}),
    "aac": ("aac", "adts", _STEREO, {}),
    "aiff": ("pcm_s16be", "aiff", _MONO, {}),
    "wavpack": ("wavpack", "wv", _MONO, {}),
    "amr": ("libopencore_amrnb", "amr", _PHONE, {}),
    "caf": ("alac", "caf", _MONO, {}),
    "wma": ("wmav2", "asf", _STEREO, {}),
    "ac3": ("ac3", "ac3", _STEREO, {}),
    "eac3": ("eac3", "eac3", _STEREO, {}),
    "tta": ("tta", "tta", _MONO, {}),
    "flv": ("aac", "flv", _STEREO, {}),
    "avi": ("libmp3lame", "avi", _STEREO, {}),
    "au": ("pcm_mulaw", "au", _PHONE, {}),
    "voc": ("pcm_u8", "voc", _PHONE, {}),
}
_FILMS = ("film.mp4", "film.ts", "film.avi")  # sound beside a picture
FORMATS = (*_RECIPES, *_FILMS)


@cache
def bases() -> MappingProxyType[str, bytes]:
    """A real file of each format, 1.5 s long and the same each time."""
    with tempfile.TemporaryDirectory() as folder:
        made = {}
        for name, (codec, container, (rate, layout), options) in _RECIPES.items():
            path = Path(folder, name)
            exact = {**options, "fflags": "bitexact"}
            bit_rate = 64_000 if codec == "wmav2" else None
            encode(
                path,
                codec,
                beeps(_SECONDS),
                rate=rate,
                layout=layout,
                format=container,
                options=exact,
                bit_rate=bit_rate,
            )
            made[name] = path.read_bytes()
        for name in _FILMS:
            made[name] = write_film(Path(folder, name), beeps(_SECONDS)).read_bytes()
    return MappingProxyType(made)


@dataclass
class Tally:
    """What became of the mutants of a session."""

    formats: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, str] = 0.0, ""

    def add(self, name: str, seed: int, ending: str, seconds: float) -> None:
        self.formats[name] += 1
        self.endings[ending] += 1
        self.slowest = max(self.slowest, (seconds, f"{name}:{seed}"))

    def figures(self) -> dict[str, object]:
        """For programs."""
        slowest = {"file": self.slowest[1], "seconds": round(self.slowest[0], 3)}
        return {"formats": dict(self.formats), "endings": dict(self.endings), "slowest": slowest}

    def lines(self) -> Iterator[str]:
        """For people."""
        each = ", ".join(f"{name} {count:,}" for name, count in sorted(self.formats.items()))
        yield f"mutated media files decoded: {self.formats.total():,} ({each})"
        endings = ", ".join(f"{ending} {count:,}" for ending, count in self.endings.most_common())
        yield f"what became of them: {endings}; the slowest, {self.slowest[1]}, took {self.slowest[0]:.1f} s"


tally_of_session = Tally()


async def fuzz(name: str, seeds: Iterable[int], folder: Path, tally: Tally) -> list[str]:
    """Decode the mutants of these seeds, two at once; what went wrong, with the seed that shows it again."""
    failures: list[str] = []
    before: list[tuple[int, int]] = []
    left = iter(seeds)

    async def work() -> None:
        for seed in left:
            failures.extend([f"{name}:{seed}: {wrong}" for wrong in await _try(name, seed, folder, tally)])
            if len(before) < 4:  # the first ones load modules, and grow the heap to its usual size
                before.append(_footprint())

    async with anyio.create_task_group() as tasks:
        for _ in range(_AT_ONCE):
            tasks.start_soon(work)
    (rss_before, threads_before), (rss, threads) = before[-1], _footprint()
    if rss - rss_before > _GROWTH_BYTES:
        failures.append(f"{name}: the host grew by {(rss - rss_before) / mt.MiB:.1f} MiB")
    if threads > threads_before:
        failures.append(f"{name}: {threads - threads_before} threads are left")
    return failures


def _footprint() -> tuple[int, int]:
    """This process's private memory, and its threads."""
    gc.collect()
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024, threading.active_count()
    raise AssertionError("no RssAnon")


async def _try(name: str, seed: int, folder: Path, tally: Tally) -> list[str]:
    """One mutant, by turns through the public API and the decoder alone; what is wrong with what came of it."""
    path = folder / f"{name}-{seed}"
    path.write_bytes(mutant(bases(), name, seed))
    began = anyio.current_time()
    ending = "a failure"
    try:
        with anyio.fail_after(_ENDS_WITHIN_SECONDS):
            ending = await (_through_the_api if seed % 4 < 2 else _through_the_decoder)(path)
    except TimeoutError:
        return [f"it did not end within {_ENDS_WITHIN_SECONDS:g} s"]
    except AssertionError as error:
        return [str(error)]
    except Exception as error:
        return [f"not an error of ours: {error!r}"]
    finally:
        tally.add(name, seed, ending, anyio.current_time() - began)
        if not (kept := os.environ.get("MEMSAFE_FUZZ_KEEP")) or ending != "a failure":
            path.unlink()
        else:
            path.rename(Path(kept, path.name))
    return []


async def _ending_of(decode: Awaitable[tuple[float, float, Iterable[mt.Gap | DecodeGap]]]) -> str:
    """How it ended, for the tally.

    Raises:
        AssertionError: in no way that is allowed.
    """
    try:
        seconds, longest, gaps = await decode
    except mt.AudioDecodeError as error:
        return _ending_in(error)
    at = 0.0
    for gap in gaps:
        where = f"{gap.start_seconds:.3f} to {gap.end_seconds:.3f} s of {seconds:.3f} s ({gap.reason})"
        assert at <= gap.start_seconds <= gap.end_seconds, f"a gap that is none, or out of order: {where}"
        assert gap.start_seconds <= seconds + 0.05 and gap.end_seconds <= longest, f"a gap beyond the end: {where}"
        assert gap.reason, f"a gap without a reason: {where}"
        at = gap.start_seconds
    assert 0 < seconds <= longest, f"{seconds} s came out"
    return "heard with gaps" if gaps else "heard"


def _ending_in(error: mt.AudioDecodeError) -> str:
    assert str(error).strip(), f"{type(error).__name__} without a message"
    if not isinstance(error, mt.DecoderCrashedError):
        return type(error).__name__
    assert _NAMED_CAUSE.match(error.reason), f"crashed without a cause: {error.reason}"
    assert error.reason in str(error)
    return f"DecoderCrashedError, {error.reason.split(':')[0]}"


async def _through_the_api(path: Path) -> str:
    async def decode() -> tuple[float, float, Iterable[mt.Gap]]:
        heard = await hear(path, max_audio_seconds=MAX_AUDIO_SECONDS)
        assert len(heard.samples) / BYTES_PER_SECOND <= heard.seconds + 0.01, "chunks beyond the end"
        return heard.seconds, MAX_AUDIO_SECONDS + 1, heard.transcript.gaps

    return await _ending_of(decode())


async def _through_the_decoder(path: Path) -> str:
    async def decode() -> tuple[float, float, Iterable[DecodeGap]]:
        with path.open("rb") as file:
            fd, samples, frames = file.fileno(), 0, 0
            async with open_decoder(
                fd, path.name, max_audio_seconds=MAX_AUDIO_SECONDS, data_limit_bytes=data_limit_bytes(fd)
            ) as decoder:
                said = decoder.info.duration_seconds
                assert said is None or 0 <= said < math.inf, f"a header of {said} s"
                while (block := await decoder.read()) is not None:
                    assert block.samples and len(block.samples) % 2 == 0, "a block that is none"
                    samples += len(block.samples) // 2
                    frames += len(block.levels)
                    wrong = [level for level in block.levels if not -1e-6 < level <= 2]  # the meter rings
                    assert not wrong, f"levels of {wrong}"
            assert abs(frames - samples / 160) <= 2, f"{frames} levels of {samples} samples"
            return samples / 16_000, MAX_AUDIO_SECONDS + 1, decoder.gaps

    return await _ending_of(decode())
