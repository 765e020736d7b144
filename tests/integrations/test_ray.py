"""Ray, a real one with two processors and all on loopback: rows are what comes without it, whatever ends an actor.

`nox -s ray` runs these; no other run does (conftest.py).
"""

import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

# Read when Ray is imported: none of its processes listens elsewhere, and none tells its makers.
os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
import ray
import ray.data
from ray.cluster_utils import Cluster

import memsafe_transcribe as mt
from memsafe_transcribe.integrations.ray import actor_memory_bytes, transcribe

from ..store.engines import Teller
from ..support.media import SPEECH, tone_samples, write_wav
from ..support.processes import watch_names
from ..support.server import Server
from . import ray_actors as actors

ROOT = Path(__file__).parents[2]
SECONDS = 60.0  # for what takes a few

# What Ray says to itself, and what its older releases leave open.
pytestmark = pytest.mark.filterwarnings(
    r"ignore::DeprecationWarning:ray\.", "ignore::pytest.PytestUnraisableExceptionWarning"
)


NODE = {"object_store_memory": 80 * mt.MiB, "include_dashboard": False}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[Cluster]:
    """One node with two processors; a test may add more, as processes of this machine."""
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:  # a short name, for sockets lie in it
        cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 2, "temp_dir": folder})
        ray.init(address=cluster.address, log_to_driver=False)
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def tone(tmp_path: Path) -> Path:
    """Eight seconds of it."""
    return write_wav(tmp_path / "tone.wav", tone_samples(8.0))


def alone(make: Callable[[], mt.ChunkedTranscriber], *sources: Path) -> list[mt.Transcript]:
    """Their transcripts, without Ray."""
    with mt.blocking(make()) as transcriber:
        return [transcriber.transcribe(source) for source in sources]


def asked(folder: Path) -> list[str]:
    """Where each chunk begins that an engine was asked for, over all processes."""
    notes = folder / "asked"
    return notes.read_text().split() if notes.exists() else []


def by_source(dataset: Any, column: str = "source") -> dict[Any, dict[str, Any]]:
    """Its rows, each of another source."""
    rows = dataset.take_all()
    found = {row[column]: row for row in rows}
    assert len(found) == len(rows)
    return found


def plain(items: Any, *names: str) -> list[dict[str, Any]]:
    """These attributes of each."""
    return [{name: getattr(each, name) for name in names} for each in items]


TIMED = ("text", "start_seconds", "end_seconds", "trusted")


def test_a_row_is_the_transcript_that_there_is_without_ray(tone: Path, server: Server, tmp_path: Path) -> None:
    """Of a path and a URL, in a list and in a dataset with a column of its own, which it keeps."""
    server.routes["/tone.wav"] = lambda exchange: exchange.answer(tone.read_bytes())
    url = server.url("/tone.wav?token=1")
    short = write_wav(tmp_path / "short.wav", tone_samples(2.5) + bytes(64_000))
    long_tone, short_tone = alone(lambda: mt.ChunkedTranscriber(Teller(), chunk_seconds=1.0), tone, short)
    expected = {str(tone): long_tone, url: long_tone, str(short): short_tone}

    listed = by_source(transcribe([tone, url, short], partial(actors.telling, tmp_path), 1))
    assert listed.keys() == expected.keys()
    for source, transcript in expected.items():
        assert listed[source] == {
            "source": source,
            "text": transcript.text,
            "language": "en",
            "duration_seconds": transcript.duration_seconds,
            "status": "complete",
            "error_type": None,
            "error": None,
            "attempts": 0,
            "segments": plain(transcript.segments, *TIMED, "unsure_seam"),
            "words": plain(transcript.words, *TIMED),
            "gaps": [],
            "suspects": [],
        }
    given = ray.data.from_items([{"file": source, "id": number} for number, source in enumerate(expected)])
    make = partial(actors.telling, tmp_path)
    columned = by_source(transcribe(given, make, (1, 2), column="file", paths=True), "file")
    for number, source in enumerate(expected):
        assert columned[source].pop("id") == number
        columned[source]["source"] = columned[source].pop("file")
    assert columned == listed


def test_a_row_can_be_a_segment(tone: Path, tmp_path: Path) -> None:
    """With the source's columns in each; a source without any has one row all the same."""
    silent, bad = write_wav(tmp_path / "silent.wav", bytes(64_000)), tmp_path / "bad.wav"
    bad.write_bytes(b"nothing")
    (transcript,) = alone(lambda: mt.ChunkedTranscriber(Teller(), chunk_seconds=1.0), tone)
    rows = transcribe([tone, silent, bad], partial(actors.telling, tmp_path), 1, rows="segments").take_all()
    of_tone = [row for row in rows if row["source"] == str(tone)]
    assert plain(transcript.segments, *TIMED, "unsure_seam") == [
        {name: row[name] for name in (*TIMED, "unsure_seam")} for row in of_tone
    ]
    assert [row["number"] for row in of_tone] == list(range(len(transcript.segments)))
    assert [row["words"] for row in of_tone] == [plain(each.words, *TIMED) for each in transcript.segments]
    rest = {row["source"]: (row["number"], row["text"], row["status"], row["error_type"]) for row in rows[-2:]}
    assert len(rows) == len(of_tone) + 2
    assert rest == {
        str(silent): (None, None, "silent", None),
        str(bad): (None, None, None, "UnsupportedMediaError"),
    }


def test_a_source_that_fails_is_a_row_with_its_error(tone: Path, tmp_path: Path) -> None:
    """What was given up is not tried again, unless that is wanted. No string opens a file unasked."""
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"nothing")
    make = partial(actors.strict, tmp_path)
    private = "http://127.0.0.1:9/a.mp3?key=secret"
    given = [{"source": each} for each in (str(tone), private, None)]
    unsafe = by_source(transcribe(ray.data.from_items(given), make, 1))
    assert {source: row["error_type"] for source, row in unsafe.items()} == {
        str(tone): "ValueError",
        private: "UrlBlockedError",
        None: "TypeError",
    }
    assert "secret" not in unsafe[private]["error"]
    assert asked(tmp_path) == []

    def of(**more: Any) -> dict[str, tuple[str | None, str | None, int]]:
        found = by_source(transcribe([tone, bad, tmp_path / "gone"], make, 1, **more))
        return {Path(name).name: (row["status"], row["error_type"], row["attempts"]) for name, row in found.items()}

    others = {"tone.wav": ("complete", None, 0), "gone": (None, "FileNotFoundError", 0)}
    assert of() == {**others, "bad.wav": (None, "UnsupportedMediaError", 1)}
    assert of() == {**others, "bad.wav": (None, "DeadLetterError", 1)}
    assert of(retry_failed=True) == {**others, "bad.wav": (None, "UnsupportedMediaError", 1)}
    assert len(asked(tmp_path)) == len(set(asked(tmp_path))) > 5  # of all three runs
    with closing(sqlite3.connect(tmp_path / "jobs.sqlite")) as connection:  # each dataset's is kept for a week
        assert connection.execute("SELECT count(*), max(is_finished) FROM batches").fetchone() == (4, 0)


def test_an_actor_that_is_killed_loses_nothing_and_doubles_nothing(tone: Path, tmp_path: Path) -> None:
    """In the middle of a job: each chunk is paid for once, but for the one in flight, and there is one row."""
    engine = Teller()
    (expected,) = alone(lambda: mt.ChunkedTranscriber(engine, chunk_seconds=1.0), tone)
    with ThreadPoolExecutor() as threads, watch_names(tmp_path) as names:
        running = threads.submit(by_source, transcribe([tone], partial(actors.telling, tmp_path, actors.stay), 1))
        names.wait_for("stopped", SECONDS)
        os.kill(int((tmp_path / "stopped").read_text()), signal.SIGKILL)
        rows = running.result(SECONDS)
    (row,) = rows.values()
    assert (row["text"], row["status"], row["attempts"]) == (expected.text, "complete", 0)
    assert row["segments"] == plain(expected.segments, *TIMED, "unsure_seam")
    counted = Counter(asked(tmp_path))
    assert counted.keys() == {f"{start:.2f}" for start in engine.asked}
    assert sorted(counted.values()) == [1] * (len(counted) - 1) + [2]
    with closing(sqlite3.connect(tmp_path / "jobs.sqlite")) as connection:
        spans = connection.execute("SELECT core_start, core_end FROM chunks ORDER BY core_start").fetchall()
    assert len(spans) == len(counted)
    assert all(end == start for (_, end), (start, _) in pairwise(spans))


def test_what_was_in_work_on_a_node_that_is_lost_begins_anew_on_another(
    cluster: Cluster, tone: Path, tmp_path: Path
) -> None:
    """Which has a store of its own; there is one row of it all the same."""
    engine = Teller()
    (expected,) = alone(lambda: mt.ChunkedTranscriber(engine, chunk_seconds=1.0), tone)
    first = cluster.add_node(**NODE, num_cpus=1, resources={"far": 1})
    with ThreadPoolExecutor() as threads, watch_names(tmp_path) as names:
        dataset = transcribe([tone], partial(actors.of_node, tmp_path), 1, resources={"far": 1})
        running = threads.submit(by_source, dataset)
        names.wait_for("stopped", SECONDS)
        before = asked(tmp_path)
        second = cluster.add_node(**NODE, num_cpus=1, resources={"far": 1})
        cluster.remove_node(first, allow_graceful=False)
        (row,) = running.result(2 * SECONDS).values()
    cluster.remove_node(second)
    assert (row["text"], row["status"], row["attempts"]) == (expected.text, "complete", 0)
    assert Counter(asked(tmp_path)) == Counter(before) + Counter(f"{start:.2f}" for start in engine.asked)


def test_a_source_that_ends_its_actor_each_time_is_given_up(tone: Path, tmp_path: Path) -> None:
    """After ten times, also where what was given up before is to be tried again."""
    rows = by_source(transcribe([tone], partial(actors.telling, tmp_path, actors.end), 1, retry_failed=True))
    (row,) = rows.values()
    assert row["error_type"] == "DeadLetterError"
    assert "10 processes in a row died" in row["error"]
    assert len(asked(tmp_path)) == 10


def test_ray_is_told_what_the_plan_says_and_the_actor_is_held_to_it(tone: Path, tmp_path: Path) -> None:
    """Nine tenths of it are a worker, and the upper bound of the plan; the guard's own limit is all of it."""
    make = partial(actors.telling, tmp_path, resident_bytes=50 * mt.MiB, call_bytes=7 * mt.MiB, concurrency=2)
    with mt.blocking(make()) as transcriber:
        most = transcriber.plan(tone).bounds[1] + 50 * mt.MiB  # it is open here
    memory_bytes = actor_memory_bytes(make)
    worker_bytes, day_bytes = 128 * mt.MiB, 1200 * 86_400
    assert 0 <= memory_bytes * 9 // 10 - (most + worker_bytes + day_bytes) < mt.MiB

    stopped = partial(actors.telling, tmp_path, actors.stay, resident_bytes=50 * mt.MiB, call_bytes=7 * mt.MiB)
    both = partial(stopped, concurrency=2)
    with ThreadPoolExecutor() as threads, watch_names(tmp_path) as names:
        running = threads.submit(by_source, transcribe([tone], both, 1))
        names.wait_for("stopped", SECONDS)
        taken = ray.cluster_resources()["memory"] - ray.available_resources().get("memory", 0)
        os.kill(int((tmp_path / "stopped").read_text()), signal.SIGKILL)
        running.result(SECONDS)
    assert taken == memory_bytes
    looks = [line.split() for line in (tmp_path / "memory").read_text().splitlines()]
    assert {(source, int(limit)) for _, source, limit in looks} == {("limit_bytes", memory_bytes)}


def test_a_job_that_needs_more_than_its_actor_was_given_is_a_row_that_says_so(tone: Path, tmp_path: Path) -> None:
    """With the figures, and at once."""
    make = partial(actors.telling, tmp_path, call_bytes=300 * mt.MiB)
    (row,) = by_source(transcribe([tone], make, 1, memory_bytes=300 * mt.MiB)).values()
    assert row["error_type"] == "ReservationTooLargeError"
    assert "at most 270.0 MiB of 300.0 MiB may be used" in row["error"]
    assert asked(tmp_path) == []


def test_what_is_in_rays_object_store_is_not_taken_for_the_actors_own(tmp_path: Path) -> None:
    """It lies in memory that each worker maps; 30 MiB of results do not fill an actor that has given them out."""
    sources = [write_wav(tmp_path / f"{number}.wav", tone_samples(0.9 + number / 1000)) for number in range(30)]
    rows = by_source(transcribe(sources, partial(actors.telling, tmp_path, kind=actors.Talker), 1))
    assert {row["text"][:2] for row in rows.values()} == {"\ufffdx"}
    used = [int(line.split()[0]) for line in (tmp_path / "memory").read_text().splitlines()]
    assert max(used[10:]) - min(used[3:10]) < 8 * mt.MiB


def test_what_ends_a_batch_ends_the_dataset(tone: Path, tmp_path: Path) -> None:
    """A used-up quota: each other source would be downloaded for nothing."""
    with pytest.raises(ray.exceptions.RayTaskError, match="no more today"):
        transcribe([tone], partial(actors.telling, tmp_path, actors.quota), 1).take_all()


def test_what_cannot_work_is_said_at_once(tone: Path, tmp_path: Path) -> None:
    """Before anything is begun; what only an actor can see, when the first one is made."""
    make = partial(actors.telling, tmp_path)
    for unusable in (actors.without_store, actors.without_cache_key):
        with pytest.raises(ValueError, match="needs a store, and an engine with a cache_key"):
            transcribe([tone], partial(unusable, tmp_path), 1)
    with pytest.raises(TypeError, match="must return a ChunkedTranscriber"):
        transcribe([tone], lambda: None, 1)  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match="iterable of sources, got str"):
        transcribe("http://example.com/a.mp3", make, 1)
    with pytest.raises(ValueError, match="name a file by pathlib"):
        transcribe(["a.mp3"], make, 1)
    with pytest.raises(ValueError, match='"transcripts" or "segments"'):
        transcribe([tone], make, 1, rows="words")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_attempts"):
        transcribe([tone], make, 1, max_attempts=0)
    with pytest.raises(TypeError, match="whole number of bytes"):
        transcribe([tone], make, 1, memory_bytes=2e9)  # type: ignore[arg-type]
    given = ray.data.from_items([{"source": str(tone), "text": "mine"}])
    with pytest.raises(ray.exceptions.RayTaskError, match=r"columns \['text'\] would be overwritten"):
        transcribe(given, make, 1, paths=True).take_all()
    with pytest.raises(ray.exceptions.RayError, match="leave its admission out"):
        transcribe([tone], partial(actors.of_its_own, tmp_path), 1).take_all()


def test_the_page_says_what_works(server: Server, tmp_path: Path) -> None:
    """Its blocks, one after another, as a reader would run them: here on URLs of a server on loopback."""
    server.routes["/interview.mp3"] = lambda exchange: exchange.answer(SPEECH.read_bytes())
    page = (ROOT / "docs" / "ray.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    namespace: dict[str, Any] = {"mt": mt, "__name__": "__main__"}
    for block in blocks:
        here = block.replace("https://example.com/interview.mp3", server.url("/interview.mp3"))
        here = here.replace("/var/tmp", str(tmp_path))
        here = here.replace(
            'ChunkedTranscriber("pocketsphinx", ', 'ChunkedTranscriber("pocketsphinx", downloader=local, '
        )
        namespace["local"] = mt.SafeDownloader(policy=mt.UrlPolicy(allow_private=True))
        exec(compile(here, "ray.md", "exec"), namespace)
    assert len(blocks) > 1
    assert "alice" in ray.data.read_parquet(str(tmp_path / "transcripts")).take_all()[0]["text"]


def test_the_example_runs_by_the_command_of_its_readme(tmp_path: Path) -> None:
    """The demo's speech and a file that is none, on a Ray that the script starts."""
    example = ROOT / "examples" / "ray_data"
    (command,) = re.findall(r"^```sh\n(.*?)^```$", (example / "README.md").read_text(), re.S | re.M)
    (tmp_path / "bad.mp3").write_bytes(b"nothing")
    (tmp_path / "alice.mp3").write_bytes(SPEECH.read_bytes())
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(mt.__file__).parents[1]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "STORE": str(tmp_path / "jobs.sqlite"),
        "RAY_ADDRESS": "local",  # else it finds this file's own, by what that leaves in a folder of Ray's
    }
    arguments = [*shlex.split(command)[:2], str(tmp_path / "alice.mp3"), str(tmp_path / "bad.mp3")]
    done = subprocess.run(
        [*arguments, "--output", str(tmp_path / "out")], cwd=example, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "1 transcripts, 1 without: UnsupportedMediaError" in done.stdout
    written = ray.data.read_parquet(str(tmp_path / "out")).take_all()
    assert sorted(row["status"] or row["error_type"] for row in written) == ["UnsupportedMediaError", "complete"]
