"""The benchmarks of batches, in a form that takes seconds: that they run, and that what they measure is sound."""

import pytest

from benchmarks import batch_in_group, fastapi_in_group, many_sources
from memsafe_transcribe._audio.decoder import Isolation

from ..support.groups import GroupsUnavailableError
from ..support.needs import cannot


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
