"""What comes out: words, segments, gaps, and the usual file formats of them."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from .._errors import StoreError
from .scripts import join_text

Status = Literal["complete", "partial", "silent"]


@dataclass(frozen=True, slots=True)
class Word:
    """One word.

    Attributes:
        text: as the engine wrote it.
        start_seconds: from the start of the audio (inside a `ChunkResult`: of the chunk).
        end_seconds: the same.
        trusted: False if its times are guesses, by the engine's own account (`Capabilities.trusts_times`), or were
            impossible and had to be corrected.
    """

    text: str
    start_seconds: float
    end_seconds: float
    trusted: bool = True


@dataclass(frozen=True, slots=True)
class Segment:
    """A few words that belong together: a caption's worth.

    Attributes:
        text: without surrounding white space.
        start_seconds: from the start of the audio (inside a `ChunkResult`: of the chunk).
        end_seconds: the same.
        trusted: False where the times are only those of the whole chunk, are guesses, or had to be corrected.
        words: the words with their times, if the engine gave any.
        unsure_seam: True where it begins at a border between chunks at which words may be doubled.
    """

    text: str
    start_seconds: float
    end_seconds: float
    trusted: bool = True
    words: tuple[Word, ...] = ()
    unsure_seam: bool = False


@dataclass(frozen=True, slots=True)
class Gap:
    """Audio that is missing from the transcript; of `Transcript.suspects`, that may be.

    Where nobody can tell how much, the end is the start, and later times are early by what was lost.
    """

    start_seconds: float
    end_seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class Transcript:
    """The transcript of one source.

    Attributes:
        segments: in order of time.
        language: what the caller said, or else the engine.
        duration_seconds: the length of the decoded audio, by its samples.
        status: "complete", "partial" if there are gaps, or "silent".
        gaps: what is missing, and why.
        is_silent: all of it is silence, of which nothing was sent to the engine.
        suspects: where the engine gave no text at all for a chunk with seconds of clear sound, and what was seen there.
            It may be music, or speech that the engine left out. The status does not depend on it.
        store_error: why what was heard is not all in the store; None if it is, or there is no store. It is of no
            account when two transcripts are compared.

    Memory: about 200 bytes a word.
    """

    segments: tuple[Segment, ...]
    language: str | None
    duration_seconds: float
    gaps: tuple[Gap, ...] = ()
    is_silent: bool = False
    suspects: tuple[Gap, ...] = ()
    store_error: StoreError | None = field(default=None, compare=False)

    @property
    def status(self) -> Status:
        return whole_status(self.gaps, is_silent=self.is_silent)

    @property
    def text(self) -> str:
        """Everything that was said, in one line."""
        return join_text(segment.text for segment in self.segments)

    @property
    def words(self) -> tuple[Word, ...]:
        """All words with times; empty if the engine gave none."""
        return tuple(word for segment in self.segments for word in segment.words)

    def to_text(self) -> str:
        """A line per segment."""
        return "".join(text_line(segment) for segment in self.segments)

    def to_srt(self) -> str:
        """SubRip captions."""
        return "".join(srt_cue(number, segment) for number, segment in enumerate(self.segments, 1))

    def to_vtt(self) -> str:
        """WebVTT captions."""
        return VTT_HEADER + "".join(vtt_cue(segment) for segment in self.segments)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, in the shape of OpenAI's `verbose_json`; of what is in it, None is what no engine told.

        Besides, there are `status`, `gaps`, `suspects`, and for each segment and word whether its times can be trusted.
        """
        return {
            "task": "transcribe",
            "text": self.text,
            "language": self.language,
            "duration": round(self.duration_seconds, 3),
            "status": self.status,
            "segments": [segment_dict(number, segment) for number, segment in enumerate(self.segments)],
            "words": [word_dict(word) for word in self.words],
            "gaps": [gap_dict(gap) for gap in self.gaps],
            "suspects": [gap_dict(gap) for gap in self.suspects],
        }

    def to_json(self) -> str:
        """`to_dict` as one JSON document."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=2) + "\n"


def whole_status(gaps: tuple[Gap, ...], *, is_silent: bool) -> Status:
    """What is said of a transcript as a whole."""
    if gaps:
        return "partial"
    return "silent" if is_silent else "complete"


VTT_HEADER = "WEBVTT\n\n"


def text_line(segment: Segment) -> str:
    """One segment as a line of plain text."""
    return segment.text + "\n"


def srt_cue(number: int, segment: Segment) -> str:
    """One segment as a SubRip caption; `number` counts from 1."""
    return f"{number}\n{_clock(segment.start_seconds, ',')} --> {_clock(segment.end_seconds, ',')}\n{segment.text}\n\n"


def vtt_cue(segment: Segment) -> str:
    """One segment as a WebVTT caption; what would be markup there is escaped."""
    text = segment.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f"{_clock(segment.start_seconds, '.')} --> {_clock(segment.end_seconds, '.')}\n{text}\n\n"


def segment_dict(number: int, segment: Segment) -> dict[str, Any]:
    """One segment as `verbose_json` has it; `number` counts from 0."""
    return {
        "id": number,
        "seek": None,
        **_times(segment),
        "text": segment.text,
        "tokens": [],
        "temperature": None,
        "avg_logprob": None,
        "compression_ratio": None,
        "no_speech_prob": None,
        "trusted": segment.trusted,
        "unsure_seam": segment.unsure_seam,
    }


def word_dict(word: Word) -> dict[str, Any]:
    """One word as `verbose_json` has it."""
    return {"word": word.text, **_times(word), "trusted": word.trusted}


def gap_dict(gap: Gap) -> dict[str, Any]:
    """One gap, in the same manner."""
    return {**_times(gap), "reason": gap.reason}


def _clock(seconds: float, point: str) -> str:
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{point}{milliseconds:03}"


def _times(item: Word | Segment | Gap) -> dict[str, float]:
    return {"start": round(item.start_seconds, 3), "end": round(item.end_seconds, 3)}
