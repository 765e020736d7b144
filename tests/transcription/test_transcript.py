"""The formats of a transcript."""

import json

import memsafe_transcribe as mt

TRANSCRIPT = mt.Transcript(
    segments=(
        mt.Segment("hello <world>", 0.0, 1.5, words=(mt.Word("hello", 0.0, 0.7), mt.Word("<world>", 0.7, 1.5))),
        mt.Segment("& again", 3661.0425, 3662.9999, trusted=False),
    ),
    language="en",
    duration_seconds=3663.0,
    gaps=(mt.Gap(10.0, 10.0, "damaged data"),),
    suspects=(mt.Gap(60.0, 120.0, "no text"),),
)


def test_text() -> None:
    """One line in all, or a line per segment."""
    assert TRANSCRIPT.text == "hello <world> & again"
    assert TRANSCRIPT.to_text() == "hello <world>\n& again\n"


def test_srt() -> None:
    """Numbered from 1, commas before the milliseconds."""
    assert TRANSCRIPT.to_srt() == (
        "1\n00:00:00,000 --> 00:00:01,500\nhello <world>\n\n2\n01:01:01,042 --> 01:01:03,000\n& again\n\n"
    )


def test_vtt() -> None:
    """A header, points before the milliseconds, and no markup from the text."""
    assert TRANSCRIPT.to_vtt() == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nhello &lt;world&gt;\n\n01:01:01.042 --> 01:01:03.000\n&amp; again\n\n"
    )


def test_json_has_the_shape_of_verbose_json_and_says_what_is_missing() -> None:
    """Text, segments and words as OpenAI's, with status and gaps besides."""
    document = json.loads(TRANSCRIPT.to_json())
    assert TRANSCRIPT.to_json() == json.dumps(document, ensure_ascii=False, indent=2) + "\n"
    assert document == TRANSCRIPT.to_dict()
    assert document["text"] == TRANSCRIPT.text
    assert document["words"][1] == {"word": "<world>", "start": 0.7, "end": 1.5, "trusted": True}
    known = {"id": 1, "start": 3661.043, "end": 3663.0, "text": "& again", "trusted": False, "unsure_seam": False}
    assert known.items() <= document["segments"][1].items()
    assert document["status"] == "partial"
    assert document["gaps"] == [{"start": 10.0, "end": 10.0, "reason": "damaged data"}]
    assert document["suspects"] == [{"start": 60.0, "end": 120.0, "reason": "no text"}]


def test_times_of_subtitles_turn_over_at_minutes_and_hours() -> None:
    """To the millisecond, by the nearest one."""
    times = ((59.9994, 59.9995), (3599.9996, 7200.0))
    said = mt.Transcript(tuple(mt.Segment("é", *each) for each in times), None, 7200.0)
    assert said.to_srt().count("é") == 2
    shown = [line for line in said.to_srt().splitlines() if "-->" in line]
    assert shown == ["00:00:59,999 --> 00:01:00,000", "01:00:00,000 --> 02:00:00,000"]
    assert "é" in said.to_json()


def test_without_gaps_it_is_complete() -> None:
    """Also with nothing in it, or with what is only suspected."""
    assert mt.Transcript((), None, 60.0, suspects=TRANSCRIPT.suspects).status == "complete"
    empty = mt.Transcript((), None, 0.0)
    assert (empty.status, empty.text, empty.words, empty.to_vtt()) == ("complete", "", (), "WEBVTT\n\n")
    assert mt.Transcript((), None, 60.0, is_silent=True).status == "silent"
    assert mt.Transcript((), None, 60.0, gaps=TRANSCRIPT.gaps, is_silent=True).status == "partial"
