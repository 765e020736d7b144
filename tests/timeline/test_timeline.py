"""`Timeline` around real jobs: what they did is in the picture, whatever ended them, and nothing that is secret."""

import logging
import threading
from pathlib import Path

import anyio
import pytest
from hypothesis import given, strategies as st

import memsafe_transcribe as mt
from memsafe_transcribe._transcription.sources import label_of
from memsafe_transcribe.testing import FakeEngine, FakeGuard

from ..conftest import Run
from ..support.media import tone_samples, write_wav
from ..support.server import Server
from .shapes import Picture, read

MIB = mt.MiB


class SeenGuard(FakeGuard):
    """Says when it was looked at; may be blind."""

    def __init__(self, used_bytes: int = 100 * MIB) -> None:
        super().__init__(limit_bytes=512 * MIB, used_bytes=used_bytes)
        self.looked = threading.Event()
        self.is_blind = False

    def snapshot(self) -> mt.MemorySnapshot:
        if self.is_blind:
            raise OSError("no descriptors are left")
        seen = super().snapshot()
        self.looked.set()
        return seen

    def wait_for_a_look(self) -> None:
        """That has begun and ended from now on."""
        for _ in range(2):
            self.looked.clear()
            assert self.looked.wait(30)


def parts(path: Path, engine: FakeEngine) -> tuple[SeenGuard, mt.Timeline, mt.ChunkedTranscriber]:
    """A transcriber with its picture."""
    guard = SeenGuard()
    admission = mt.AdmissionController(guard=guard, scope="process")
    timeline = mt.Timeline(path, admission=admission)
    downloader = mt.SafeDownloader(policy=mt.UrlPolicy(allow_private=True), admission=admission)
    transcriber = mt.ChunkedTranscriber(
        engine, admission=admission, downloader=downloader, chunk_seconds=1.0, timeline=timeline
    )
    return guard, timeline, transcriber


@pytest.fixture
def tone(tmp_path: Path) -> Path:
    """Three seconds of it."""
    return write_wav(tmp_path / "tone & co.wav", tone_samples(3.0))


def test_memory_and_jobs_are_in_the_picture(run: Run, tone: Path, tmp_path: Path, server: Server) -> None:
    """Used, reserved and limit; a file, and a URL without what only its owner may know."""
    engine = FakeEngine()
    guard, timeline, transcriber = parts(tmp_path / "run.svg", engine)
    server.routes["/folder/a.wav"] = lambda exchange: exchange.answer(tone.read_bytes())

    async def main() -> None:
        with timeline:
            engine.hold()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(transcriber.transcribe, tone)
                await engine.wait_for_calls(1)
                guard.used_bytes = 300 * MIB
                await anyio.to_thread.run_sync(guard.wait_for_a_look)
                guard.used_bytes = 100 * MIB
                assert [bar.ending for bar in Picture(timeline.to_svg()).bars] == ["running"]
                engine.release()
            await transcriber.transcribe(server.url("/folder/a.wav?token=secret"))

    run(main)
    picture = read(tmp_path / "run.svg")
    assert picture.said[1].startswith("Used at most 300 MiB of 512 MiB, in ")
    assert "2 jobs: 2 complete." in picture.said
    assert [bar.label for bar in picture.bars] == ["1  tone & co.wav", "2  127.0.0.1/a.wav"]
    assert [bar.phases for bar in picture.bars] == [
        ("waiting", "transcribing"),
        ("waiting", "downloading", "waiting", "transcribing"),
    ]
    assert picture.bars[0].told.endswith("complete; 0:03 of audio in 4 chunks")
    floor = max(y for part in picture.lines["reserved"] for _, y in part)
    assert min(y for part in picture.lines["reserved"] for _, y in part) < floor
    assert "secret" not in (tmp_path / "run.svg").read_text()


def test_every_end_of_a_job_is_in_the_picture(run: Run, tone: Path, tmp_path: Path) -> None:
    """Failed before it began, by its engine, also in a batch, left by its reader, and cancelled."""
    engine = FakeEngine([mt.TranscriberError("no")])
    _, timeline, transcriber = parts(tmp_path / "run.svg", engine)

    async def main() -> None:
        with timeline:
            with pytest.raises(FileNotFoundError):
                await transcriber.transcribe(tmp_path / "missing")
            with pytest.raises(mt.TranscriberFailedError):
                await transcriber.transcribe(tone)
            async with mt.BatchTranscriber(transcriber, max_attempts=1).run([tone]) as outcomes:
                assert [outcome.error is None async for outcome in outcomes] == [False]
            async with transcriber.stream(tone):
                pass
            with anyio.CancelScope() as scope:
                async with transcriber.stream(tone):
                    scope.cancel()
                    await anyio.sleep_forever()

    run(main)
    bars = read(tmp_path / "run.svg").bars
    assert [bar.ending for bar in bars] == ["failed", "failed", "failed", "stopped", "stopped"]
    assert bars[0].told.endswith("failed; 0:00 of audio in 0 chunks; FileNotFoundError")
    assert "TranscriberFailedError" in bars[1].told


@pytest.mark.parametrize("ends_by", ["error", "cancellation"])
def test_a_run_that_does_not_end_well_has_its_picture_too(run: Run, tone: Path, tmp_path: Path, ends_by: str) -> None:
    """What is raised comes out as it is; the older file is replaced, and no draft is left."""
    engine = FakeEngine()
    path = tmp_path / "run.svg"
    path.write_text("older")
    _, timeline, transcriber = parts(path, engine)

    async def main() -> None:
        engine.hold()
        with anyio.CancelScope() as scope, timeline:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(transcriber.transcribe, tone)
                await engine.wait_for_calls(1)
                if ends_by == "cancellation":
                    scope.cancel()
                    await anyio.sleep_forever()
                tasks.cancel_scope.cancel()
            raise LookupError("of the host")

    if ends_by == "error":
        with pytest.raises(LookupError, match="of the host"):
            run(main)
    else:
        run(main)
    assert [bar.ending for bar in read(path).bars] == ["stopped"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["run.svg", "tone & co.wav"]
    assert not [thread for thread in threading.enumerate() if thread.name == "memsafe-timeline"]


def test_plain_code_has_it_too(tone: Path, tmp_path: Path) -> None:
    """By `blocking`, in a thread."""
    _, timeline, transcriber = parts(tmp_path / "run.svg", FakeEngine())
    with timeline, mt.blocking(transcriber) as t:
        t.transcribe(tone)
    assert [bar.ending for bar in read(tmp_path / "run.svg").bars] == ["complete"]


def test_only_what_begins_in_its_block_is_in_it(run: Run, tone: Path, tmp_path: Path) -> None:
    """Jobs before and after are transcribed all the same; one that outlives the block ran when the picture was made."""
    engine = FakeEngine()
    path = tmp_path / "run.svg"
    _, timeline, transcriber = parts(path, engine)

    async def main() -> None:
        await transcriber.transcribe(tone)
        async with anyio.create_task_group() as tasks:
            with timeline:
                engine.hold()
                tasks.start_soon(transcriber.transcribe, tone)
                await engine.wait_for_calls(len(engine.calls) + 1)
            engine.release()
        await transcriber.transcribe(tone)

    run(main)
    assert [(bar.label, bar.ending) for bar in read(path).bars] == [("1  tone & co.wav", "running")]
    assert "1 job: 1 complete." in Picture(timeline.to_svg()).said


def test_memory_that_cannot_be_read_is_no_error(tmp_path: Path) -> None:
    """The picture says so; what was seen before and after is in it."""
    guard = SeenGuard()
    timeline = mt.Timeline(tmp_path / "run.svg", admission=mt.AdmissionController(guard=guard, scope="process"))
    guard.is_blind = True
    with timeline:
        guard.is_blind = False
        guard.wait_for_a_look()
    said = read(tmp_path / "run.svg").said
    assert said[1].startswith("Used at most 100 MiB of 512 MiB")
    assert any(each.startswith("Memory could not be read ") for each in said)
    guard.is_blind = True
    with mt.Timeline(tmp_path / "run.svg", admission=mt.AdmissionController(guard=guard, scope="process")):
        pass
    assert read(tmp_path / "run.svg").said[1].startswith("Memory could not be read, in ")


def test_wrong_use_is_said_at_once(tmp_path: Path) -> None:
    """Before anything runs: no such folder, and a second run."""
    with pytest.raises(FileNotFoundError, match="there is no folder"), mt.Timeline(tmp_path / "no" / "run.svg"):
        pass
    timeline = mt.Timeline(tmp_path / "run.svg")
    with timeline:
        pass
    with pytest.raises(RuntimeError, match="used before"), timeline:
        pass


def test_a_picture_that_cannot_be_written_hides_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is raised where all else went well, and logged where not."""
    folder = tmp_path / "folder"
    for error in (None, LookupError("of the host")):
        folder.mkdir()
        with pytest.raises(OSError if error is None else LookupError), mt.Timeline(folder / "run.svg"):
            folder.rmdir()
            if error is not None:
                raise error
    assert [(record.levelno, record.message) for record in caplog.records] == [
        (logging.ERROR, "the picture of the run is not written")
    ]


SECRETS = st.text(st.characters(categories=["Lu", "Nd"], max_codepoint=127), min_size=8, max_size=20)
HOSTS = st.sampled_from(["example.com", "EXAMPLE.com:8080", "[::1]", "", "a:b:c", "ex ample", "127.0.0.1:x"])


@given(secret=SECRETS, host=HOSTS, scheme=st.sampled_from(["http", "HTTPS"]))
def test_a_label_has_neither_query_nor_credentials_nor_folders(secret: str, host: str, scheme: str) -> None:
    """Of a URL, however broken; nor has that of a path any folder."""
    for url in (
        f"{scheme}://{host}/a.mp3?key={secret}",
        f"{scheme}://user:{secret}@{host}/a.mp3",
        f"{scheme}://{secret}@{host}/{secret}/a.mp3#{secret}",
        f"{scheme}://user:{secret}/{secret}@{host}/a.mp3",
    ):
        assert secret not in label_of(url)
    assert label_of(Path(f"/home/{secret}/a.mp3")) == "a.mp3"
