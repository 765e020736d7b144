"""What came of a source as rows for Ray Data: Arrow tables whose types are the same, whatever is in them."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal

from .._transcription.outcomes import Outcome
from .._transcription.scripts import writable
from .._transcription.transcript import Segment

Rows = Literal["transcripts", "segments"]

_WORD = {"text": "string", "start_seconds": "float64", "end_seconds": "float64", "trusted": "bool"}
_SEGMENT = {**_WORD, "unsure_seam": "bool"}
_GAP = {"start_seconds": "float64", "end_seconds": "float64", "reason": "string"}
_SOURCE = {
    "language": "string",
    "duration_seconds": "float64",
    "status": "string",
    "error_type": "string",
    "error": "string",
    "attempts": "int64",
}


def table_of(given: Any, outcome: Outcome, rows: Rows) -> Any:
    """The rows of a source: its own columns, and what came of it.

    Args:
        given: an Arrow table, whose one row the source is.
        outcome: of it.
        rows: which.

    Raises:
        ValueError: they have a column in common.
    """
    import pyarrow

    found = _transcript(outcome) if rows == "transcripts" else _segments(outcome)
    if doubled := set(given.column_names) & set(found):
        raise ValueError(f"columns {sorted(doubled)} would be overwritten: rename_columns() them before")
    count = len(found["error"])
    table = given.take(pyarrow.array([0] * count, "int64"))
    for name, values in found.items():
        table = table.append_column(name, values)
    return table


def _transcript(outcome: Outcome) -> dict[str, Any]:
    """The row of a transcript; where there is none, of nothing."""
    transcript = outcome.transcript
    return {
        **_columns({"text": "string"}, [transcript]),
        **_of_source(outcome, 1),
        "segments": _lists(_SEGMENT, [transcript.segments if transcript else ()]),
        "words": _lists(_WORD, [transcript.words if transcript else ()]),
        "gaps": _lists(_GAP, [transcript.gaps if transcript else ()]),
        "suspects": _lists(_GAP, [transcript.suspects if transcript else ()]),
    }


def _segments(outcome: Outcome) -> dict[str, Any]:
    """The rows of its segments; where there are none, one of nothing."""
    import pyarrow

    segments: Sequence[Segment | None] = (outcome.transcript and outcome.transcript.segments) or (None,)
    return {
        "number": pyarrow.array([None if each is None else number for number, each in enumerate(segments)], "int64"),
        **_columns(_SEGMENT, segments),
        **_of_source(outcome, len(segments)),
        "words": _lists(_WORD, [() if each is None else each.words for each in segments]),
    }


def _of_source(outcome: Outcome, count: int) -> dict[str, Any]:
    """What all rows of one source have in common."""
    import pyarrow

    transcript, error = outcome.transcript, outcome.error
    values = {
        "language": transcript and transcript.language,
        "duration_seconds": transcript and transcript.duration_seconds,
        "status": transcript and transcript.status,
        "error_type": error and type(error).__name__,
        "error": error and _valid(str(error)),
        "attempts": outcome.attempts,
    }
    return {name: pyarrow.array([values[name]] * count, kind) for name, kind in _SOURCE.items()}


def _columns(fields: dict[str, str], items: Sequence[Any]) -> dict[str, Any]:
    """Attributes as columns of these types, whatever is in them: blocks must not differ in that. None has none."""
    import pyarrow

    return {
        name: pyarrow.array([_valid(getattr(each, name, None)) for each in items], kind)
        for name, kind in fields.items()
    }


def _valid(value: Any) -> Any:
    """Of a text what UTF-8 can say: an error would end the dataset."""
    return writable(value) if isinstance(value, str) else value


def _lists(fields: dict[str, str], groups: Sequence[Sequence[Any]]) -> Any:
    """A list of structures for each group."""
    import pyarrow

    columns = _columns(fields, [each for group in groups for each in group])
    structures = pyarrow.StructArray.from_arrays(list(columns.values()), names=list(columns))
    return pyarrow.ListArray.from_arrays([0, *accumulate(map(len, groups))], structures)
