"""`blocking`: plain code and threads have what event loops have, and leave as little behind."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pytest

import memsafe_transcribe as mt

from .store.engines import Teller
from .support.media import tone_samples, write_wav
from .support.server import Server


@pytest.fixture
def tone(tmp_path: Path) -> Path:
    """Three seconds of it."""
    return write_wav(tmp_path / "tone.wav", tone_samples(3.0))


def test_a_thread_gets_what_a_loop_gets(tone: Path) -> None:
    """The transcript, the segments one by one with what is known of them, and the plan."""
    transcriber = mt.ChunkedTranscriber(Teller(), chunk_seconds=1.0)
    with mt.blocking(transcriber) as t:
        whole = t.transcribe(tone)
        with t.stream(tone) as segments:
            assert tuple(segments) == whole.segments
            assert (segments.duration_seconds, segments.language, segments.gaps) == (3.0, "en", ())
        assert t.plan(tone).duration_seconds == 3.0
    assert whole == asyncio.run(mt.ChunkedTranscriber(Teller(), chunk_seconds=1.0).transcribe(tone))


def test_many_threads_share_one_loop(tone: Path) -> None:
    """Eight at once; one thread of ours, and its name says whose it is."""
    with mt.blocking(mt.ChunkedTranscriber(Teller())) as t, ThreadPoolExecutor(8) as threads:
        found = set(threads.map(lambda _: t.transcribe(tone).text, range(16)))
    assert len(found) == 1
    assert [each.name for each in threading.enumerate()].count("memsafe-transcribe") == 1


def test_a_stream_that_is_left_early_stops(tone: Path) -> None:
    """And what its reader raises comes out as it is."""
    with mt.blocking(mt.ChunkedTranscriber(Teller(), chunk_seconds=1.0)) as t:
        with pytest.raises(KeyError, match="mine"), t.stream(tone) as segments:
            next(segments)
            raise KeyError("mine")
        with pytest.raises(RuntimeError, match="iterate inside it"):
            next(segments)


def test_errors_come_out_as_they_are(tmp_path: Path) -> None:
    """Of a transcription, and of a URL that is refused."""
    bad = tmp_path / "bad.mp3"
    bad.write_bytes(b"nothing")
    with mt.blocking(mt.ChunkedTranscriber(Teller())) as t, pytest.raises(mt.UnsupportedMediaError):
        t.transcribe(bad)
    with mt.blocking(mt.SafeDownloader()) as d, pytest.raises(mt.UrlBlockedError):
        d.probe("http://127.0.0.1/")
    with pytest.raises(TypeError, match="got int"):
        mt.blocking(3)  # type: ignore[call-overload]


def test_a_download_is_there_while_its_block_runs(server: Server, tmp_path: Path) -> None:
    """It can be kept; after the block its space is free."""
    server.routes["/a"] = lambda exchange: exchange.answer(b"body")
    with mt.blocking(mt.SafeDownloader(policy=mt.UrlPolicy(allow_private=True))) as d:
        with d.fetch(server.url("/a")) as file:
            assert file.path.read_bytes() == b"body"
            d.save(file, tmp_path / "kept")
    assert (tmp_path / "kept").read_bytes() == b"body"
    assert not file.path.exists()


def test_a_stream_s_attributes_are_those_of_the_other(tone: Path) -> None:
    """All that a `SegmentStream` shows."""
    wanted: set[str] = set()

    async def look() -> None:
        async with mt.ChunkedTranscriber(Teller()).stream(tone) as stream:
            wanted.update(name for name in dir(stream) if not name.startswith("_") and name != "close")

    anyio.run(look)
    with mt.blocking(mt.ChunkedTranscriber(Teller())) as t, t.stream(tone) as segments:
        assert "store_error" in wanted
        assert not wanted - {*dir(segments)}


def test_a_batch_with_a_store(tone: Path, tmp_path: Path) -> None:
    """Outcomes as they come, and the store cleaned by hand and beside the host's work."""
    store = mt.JobStore(tmp_path / "jobs.sqlite")
    engine = Teller()
    with mt.blocking(store) as s, s.cleaning():
        for _ in range(2):
            batch = mt.BatchTranscriber(mt.ChunkedTranscriber(engine, store=store))
            with mt.blocking(batch) as b, b.run([tone, tmp_path / "missing"]) as outcomes:
                assert {type(outcome.error) for outcome in outcomes} == {type(None), FileNotFoundError}
                assert (outcomes.progress.done, outcomes.progress.failed) == (1, 1)
        assert s.cleanup(finished_seconds=0).batches == 2
    assert len(engine.asked) == 1


def test_it_works_where_a_loop_runs_already(tone: Path) -> None:
    """As in a notebook: the other loop waits."""

    async def cell() -> str:
        with mt.blocking(mt.ChunkedTranscriber(Teller())) as t:
            return t.transcribe(tone).text

    assert asyncio.run(cell()).startswith("at")


SCRIPT = """
import os, sys
from pathlib import Path
import anyio
import memsafe_transcribe as mt

def quick(chunk):
    print("asked", flush=True)
    return "heard"

async def endless(chunk):
    print("asked", flush=True)
    await anyio.sleep_forever()

with mt.blocking(mt.ChunkedTranscriber(quick)) as t:
    {body}
"""


def child(body: str) -> "subprocess.Popen[str]":
    """A script with a transcriber `t`, as a process of its own."""
    script = SCRIPT.format(body=body)
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_ctrl_c_stops_what_is_waited_for(tone: Path) -> None:
    """Its traceback comes when nothing is left of the job, and the process ends."""
    body = f"with mt.blocking(mt.ChunkedTranscriber(endless)) as e: e.transcribe(Path({str(tone)!r}))"
    with child(body) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "asked\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode in (1, 130, -signal.SIGINT)
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert "asked" not in said


def test_a_fork_needs_a_block_of_its_own(tone: Path) -> None:
    """What was entered before says so; entered in the child, it works; and both processes end."""
    body = f"""
    print(t.transcribe(Path({str(tone)!r})).text, flush=True)
    if os.fork() == 0:
        try:
            t.transcribe(Path({str(tone)!r}))
        except RuntimeError as error:
            print(error, flush=True)
        with mt.blocking(mt.ChunkedTranscriber(quick)) as again:
            print(again.transcribe(Path({str(tone)!r})).text, flush=True)
        sys.exit()
    print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    with child(body.strip()) as process:
        out, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")
    assert out.splitlines() == [
        "asked",
        "heard",
        "BlockingTranscriber was entered before this process was forked: enter blocking() in the child",
        "asked",
        "heard",
        "0",
    ]


def test_a_process_ends_though_a_block_is_open(tone: Path) -> None:
    """`sys.exit` in a thread's middle, and a module that entered it for good."""
    with child("t.__class__; keep = mt.blocking(mt.ChunkedTranscriber(quick)); keep.__enter__(); os.getpid()") as one:
        _, said = one.communicate(timeout=60)
    assert (one.returncode, said) == (0, "")


def test_no_descriptor_for_the_loop_is_an_error_and_not_a_wait_for_ever() -> None:
    """Whoever asks is told, and may ask again when there are some."""
    body = """
    pass
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from memsafe_transcribe._portal import portal
portal.stop()
taken = []
try:
    while True:
        taken.append(os.dup(0))
except OSError:
    pass
try:
    mt.blocking(mt.ChunkedTranscriber(quick)).__enter__()
except OSError as error:
    print(error.strerror, flush=True)
for fd in taken:
    os.close(fd)
with mt.blocking(mt.ChunkedTranscriber(quick)):
    print("entered")
"""
    with child(body.strip()) as process:
        try:
            out, said = process.communicate(timeout=20)
        finally:
            process.kill()
    # asyncio itself warns of the loop that it could not make.
    assert (process.returncode, out.splitlines()) == (0, ["Too many open files", "entered"]), said


@pytest.mark.parametrize("at", range(6))
def test_a_callback_that_ends_the_program_ends_its_own_caller_only(tone: Path, at: int) -> None:
    """`sys.exit` comes out where the job is waited for, whichever call it is; the loop goes on for other threads."""
    told: list[object] = []

    def leave(progress: object) -> None:
        told.append(progress)
        if len(told) == at + 1:
            raise SystemExit(3)

    with mt.blocking(mt.ChunkedTranscriber(Teller(), chunk_seconds=1.0)) as t:
        before = t.transcribe(tone)
        with pytest.raises(SystemExit):
            t.transcribe(tone, on_progress=leave)
        assert t.transcribe(tone) == before


def _leaving_sources(tone: Path) -> Iterator[Path]:
    yield tone
    raise SystemExit(3)


@pytest.mark.parametrize("at", [0, 1, 4, None])
def test_a_batch_that_is_told_to_end_the_program_does_so_alone(tone: Path, at: int | None) -> None:
    """By its callback or its sources: it comes out of the iteration, when what is in work is done."""
    told: list[object] = []

    def leave(progress: object) -> None:
        told.append(progress)
        if len(told) == (at or 0) + 1:
            raise SystemExit(3)

    transcriber = mt.ChunkedTranscriber(Teller(), chunk_seconds=1.0)
    with mt.blocking(mt.BatchTranscriber(transcriber)) as b:
        options: dict[str, Any] = {"sources": _leaving_sources(tone)} if at is None else {"sources": [tone]}
        with b.run(**options, on_progress=None if at is None else leave) as outcomes:
            with pytest.raises(SystemExit):
                list(outcomes)
    with mt.blocking(transcriber) as t:
        assert t.transcribe(tone).text


def test_the_loop_s_own_thread_is_told(tone: Path) -> None:
    """It would wait for itself."""
    said: list[str] = []
    with mt.blocking(mt.ChunkedTranscriber(Teller())) as t:

        def report(progress: mt.Progress) -> None:
            if not said:
                try:
                    t.plan(tone)
                except RuntimeError as error:
                    said.append(str(error))

        t.transcribe(tone, on_progress=report)
    assert "cannot be called from the event loop thread" in said[0]
    assert os.getpid() and threading.current_thread() is threading.main_thread()
