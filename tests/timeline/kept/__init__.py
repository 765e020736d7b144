"""Pictures that somebody has looked at, with what they are of.

python -m tests.timeline.kept  # draw them anew; then look at them, and at what has changed
"""

from pathlib import Path

from memsafe_transcribe._timeline.run import Job, Run, Sample

FOLDER = Path(__file__).parent
_MIB = 1 << 20


def _samples(*at: tuple[float, int, int, int | None]) -> tuple[Sample, ...]:
    return tuple(
        Sample(seconds, used * _MIB, limit * _MIB, None if reserved is None else reserved * _MIB)
        for seconds, used, limit, reserved in at
    )


_JOBS = (
    Job(1, "a.mp3", (("waiting", 0.0), ("downloading", 2.0), ("transcribing", 21.5)), 64.0, "complete"),
    Job(2, "a talk of many hours whose name is long.m4a", (("waiting", 0.25), ("transcribing", 30.0)), 71.0, "partial"),
    Job(3, "ein <Gespräch> & mehr", (("waiting", 1.0), ("downloading", 1.02)), 4.0, "failed", "it is 2.0 GiB: too big"),
    Job(4, "四時間の会議の録音とその他の長い名前", (("waiting", 1.0), ("transcribing", 30.0)), 60.0, "killed"),
    Job(10, "silence.flac", (("waiting", 64.0), ("transcribing", 66.0)), 67.0, "silent"),
    Job(11, "b.mp3", (("waiting", 64.0), ("transcribing", 66.0)), 70.5, "stopped"),
    Job(12, "c.mp3", (("waiting", 65.0), ("downloading", 68.0))),
)
RUNS = {
    "all_there_is": Run(
        "memsafe-transcribe batch",
        75.0,
        _samples(
            *(
                (0.0, 40, 512, 0),
                (2.0, 90, 512, 160),
                (9.0, 147, 512, 320),
                (17.0, 210, 500, 320),
                (24.0, 190, 512, 64),
            ),
            *((66.0, 120, 512, None), (71.0, 88, 512, 100), (75.0, 60, 512, 0)),
        ),
        8.0,
        _JOBS,
        5,
        {"complete": 6, "partial": 1, "failed": 1, "killed": 1, "silent": 1, "stopped": 1},
        "Each file came from a loopback server.",
    ),
    "a_limit_far_away": Run("short", 0.55, _samples((0.0, 40, 24_576, None), (0.5, 44, 24_576, None)), 0.1),
    "no_memory_to_be_seen": Run("", 90_000.0, (), 0.1, _JOBS[:1], 0, {"complete": 1}),
}
