"""The benchmarks, in a form that takes seconds: that they run, and that what they measure is sound."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import batch_in_group, container_matrix, fastapi_in_group, many_sources, soak, two_pictures
from memsafe_transcribe._audio.decoder import Isolation

from ..support.groups import GroupsUnavailableError
from ..support.needs import cannot, commands
from ..timeline.shapes import read


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_many_sources(isolation: Isolation) -> None:
    """Each source has a job of its own, and cleanup leaves no more than an empty database."""
    report = many_sources.measure(20, isolation)
    assert report.rows[-1].done == 20
    assert report.jobs_removed == 20
    assert report.cleaned_mib < min(0.2, report.database_mib)


def test_batch_in_group() -> None:
    """All jobs are done with a limit as without, and none is killed."""
    try:
        runs = list(batch_in_group.measure(jobs=4, hours=0.02, limits_mib=[256]))
    except GroupsUnavailableError as error:
        cannot(str(error))
    assert [(run.returncode, len(run.batch.done_seconds), run.batch.errors) for run in runs] == [(0, 4, [])] * 2
    assert runs[1].oom_kills == 0
    assert 0 < runs[1].anonymous_mib <= runs[1].peak_mib <= 256


def test_fastapi_in_group() -> None:
    """Two workers and more requests than may wait: all have their transcript in the end, and nothing is killed."""
    try:
        run = fastapi_in_group.measure(requests=24, seconds=60.0, limit_mib=320, workers=2)
    except GroupsUnavailableError as error:
        cannot(str(error))
    assert (run.load.done, run.load.wrong, run.oom_kills, run.started) == (24, [], 0, 2), run.log
    assert run.load.refused > 0
    assert run.is_kept
    assert 0 < run.anonymous_mib <= run.peak_mib <= 320


def test_two_pictures(tmp_path: Path) -> None:
    """In the same group ours is done, and the usual pipeline is not; both have the same axes."""
    commands("ffmpeg")
    try:
        ours, naive = two_pictures.measure(jobs=4, hours=0.25, limit_mib=192, folder=tmp_path)
    except GroupsUnavailableError as error:
        cannot(str(error))
    assert (ours.done, ours.returncode, ours.oom_kills) == (4, 0, 0)
    assert naive.done < 4
    assert naive.oom_kills or naive.returncode < 0
    pictures = [read(each.svg) for each in (ours, naive)]
    assert [len(picture.bars) for picture in pictures] == [4, 4]
    assert pictures[0].root.get("data-seconds") == pictures[1].root.get("data-seconds")
    assert [picture.said.count("192 MiB") for picture in pictures] == [1, 1]
    assert {bar.ending for bar in pictures[0].bars} == {"complete"}
    assert {bar.ending for bar in pictures[1].bars} & {"killed", "stopped", "failed"}


def test_container_matrix() -> None:
    """Where a job fits, it is done; a bomb is refused with figure and setting, and kills the usual pipeline."""
    commands("ffmpeg")
    try:
        cells = list(container_matrix.measure([128], [2], ["1min", "12h", "bomb"], most_hours=12.0))
    except GroupsUnavailableError as error:
        cannot(str(error))
    assert [(cell.who, cell.audio, cell.verdict) for cell in cells[:3]] == [
        ("ours", "1min", "done"),
        ("usual", "1min", "done"),
        ("ours", "bomb", "refused"),
    ]
    assert "108000 s long; raise max_audio_seconds=86400" in cells[2].why
    assert cells[3].verdict.startswith("killed") or cells[3].stalled
    assert len(container_matrix.table(cells)) == 4


def test_soak() -> None:
    """Every kind of job ends as it should, and at the end nothing is left."""
    try:
        found = soak.measure(minutes=0.3, limit_mib=256, seed=1)
    except GroupsUnavailableError as error:
        cannot(str(error))
    assert (found.returncode, found.oom_kills, found.wrong, found.left) == (0, 0, [], [])
    kinds = {what.partition(":")[0].partition(",")[0] for what in found.outcomes}
    assert kinds >= {"good", "bad", "cancelled", "crashed"}
    assert len(found.samples) == 360
    assert found.slope_per_hour(lambda sample: sample.seconds) == pytest.approx(3600)


def test_one_command_runs_the_others(tmp_path: Path) -> None:
    """And writes a page of what they printed, to which another run may add."""
    commands("nginx", "curl", "ffmpeg")
    names = ["memory_over_length", "plan_accuracy", "decode", "download", "guard_and_admission"]
    for some in (names[3:], names[:3]):
        command = [sys.executable, "-m", "benchmarks", "--quick", "--folder", str(tmp_path), "--only", *some]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "benchmarks.md").read_text()
    assert re.findall(r"^`python -m benchmarks\.(\w+)", page, re.MULTILINE) == names
    assert page.count("Ended with 0 after") == len(names)
    assert str(tmp_path) not in page
