"""Celery: whatever ends a worker or a child of it, a task ends with its whole transcript, and each chunk is paid for
once.
"""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

import memsafe_transcribe as mt
from memsafe_transcribe.integrations.celery import TranscriptionTask

from ..store.engines import Teller
from ..support.brokers import SECONDS, celery_worker, redis_server
from ..support.media import tone_samples, write_wav
from ..support.processes import gone_within, watch_names

ROOT = Path(__file__).parents[2]


class Bench:
    """A broker with a client, and the folder of the tests' application: eight seconds of tone in it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.path = write_wav(folder / "tone.wav", tone_samples(8.0))
        self.client = Celery("client", broker=url, backend=url)
        self._settings = {"TEST_FOLDER": str(folder), "TEST_BROKER": url, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}

    def worker(self, **more: str) -> AbstractContextManager["subprocess.Popen[bytes]"]:
        """A worker with two children."""
        return celery_worker("tests.integrations.celery_app", ROOT, self.folder / "log", {**self._settings, **more})

    def sent(self) -> Any:
        """A task that transcribes the tone, on its way."""
        self._result = self.client.send_task("tests.integrations.celery_app.transcribe", [str(self.path)])
        return self._result

    def close(self) -> None:
        """Before the broker ends: a result asks it when it is collected, too."""
        self._result.forget()
        self._result.backend = None
        self.client.close()

    def stopped(self) -> int:
        """Wait until a chunk in the middle is in work, which stops there: in which process."""
        with watch_names(self.folder) as names:
            names.wait_for("stopped", SECONDS)
        return int((self.folder / "stopped").read_text())

    def check(self, found: dict[str, Any], *, asked_again: int) -> None:
        """It is what comes where nothing happens, nothing was retried, and no chunk is there twice."""
        engine = Teller()
        whole = mt.ChunkedTranscriber(engine, chunk_seconds=1.0, admission=mt.AdmissionController(scope="process"))
        assert found == {**asyncio.run(whole.transcribe(self.path)).to_dict(), "retries": 0}
        asked = Counter(self.asked())
        assert set(asked) == {f"{start:.2f}" for start in engine.asked}
        assert sum(asked.values()) == len(asked) + asked_again
        with closing(sqlite3.connect(self.folder / "jobs.sqlite")) as connection:
            spans = connection.execute("SELECT core_start, core_end FROM chunks ORDER BY core_start").fetchall()
        assert len(spans) == len(asked)
        assert all(end == start for (_, end), (start, _) in pairwise(spans))

    def asked(self) -> list[str]:
        """Where each chunk begins that the engine was asked for, over all processes."""
        notes = self.folder / "asked"
        return notes.read_text().split() if notes.exists() else []


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """What the workers said is shown when the test fails."""
    with redis_server(tmp_path) as url:
        made = Bench(tmp_path, url)
        yield made
        made.close()
    if (tmp_path / "log").exists():
        sys.stdout.write((tmp_path / "log").read_text())


def test_a_child_is_killed_in_the_middle(bench: Bench) -> None:
    """Celery puts the task back, and another child goes on: only the chunk in flight is asked for again."""
    with bench.worker(TEST_STOP_AT="killed"):
        result = bench.sent()
        os.kill(bench.stopped(), signal.SIGKILL)
        bench.check(result.get(timeout=SECONDS), asked_again=1)


def test_a_worker_is_killed_in_the_middle(bench: Bench) -> None:
    """Its children end with it; the broker gives the task to another when the visibility timeout is over."""
    result = bench.sent()
    with bench.worker(TEST_STOP_AT="killed") as worker:
        child = os.pidfd_open(bench.stopped())
        worker.kill()
        assert gone_within(child, SECONDS)
        os.close(child)
    # Over before the next worker looks for the first time: it looks again after a hundred seconds only.
    with bench.worker(TEST_VISIBILITY_SECONDS="0.01"):
        bench.check(result.get(timeout=SECONDS), asked_again=1)


def test_a_worker_is_told_to_end(bench: Bench) -> None:
    """It drains: the job ends when the chunk in flight is stored, and the worker with it; another goes on."""
    result = bench.sent()
    with bench.worker(TEST_STOP_AT="draining") as worker:
        bench.stopped()
        asked = bench.asked()
        worker.terminate()
        assert worker.wait(timeout=SECONDS) == 0
    assert bench.asked() == asked
    assert "DrainingError" in (bench.folder / "log").read_text()
    with bench.worker():
        bench.check(result.get(timeout=SECONDS), asked_again=0)


def test_a_task_without_room_comes_again(bench: Bench) -> None:
    """As often as it takes, while the container's only slot is taken elsewhere: nothing is begun, no retry used up."""
    held = mt.AdmissionController(max_concurrent=1).reserve_nowait(0)
    told: list[str] = []

    def tell(message: dict[str, Any]) -> None:
        told.append(message["status"])
        if told == ["RETRY", "RETRY"]:
            assert not bench.asked()
            held.release()

    with bench.worker():
        bench.check(bench.sent().get(timeout=SECONDS, on_message=tell), asked_again=0)
    assert told[:2] == ["RETRY", "RETRY"]


class Endless(TranscriptionTask):
    """With a transcriber that would wait for as long as it takes."""

    def make_transcriber(self) -> mt.ChunkedTranscriber:
        return mt.ChunkedTranscriber(Teller())


def test_what_would_wait_for_ever_is_refused() -> None:
    """A worker is not to be filled with what waits."""
    app = Celery("here")

    @app.task(base=Endless, bind=True)  # type: ignore[untyped-decorator]
    def task(self: Endless) -> None:
        assert self.transcriber

    with pytest.raises(ValueError, match="queue_timeout_seconds"):
        task()
