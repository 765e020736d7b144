"""What can be transcribed: each kind of source becomes a regular file or a WAV stream, and nothing is left of it."""

# ruff: noqa: SIM115 - files are closed by the tests that have them made

import array
import asyncio
import gzip
import io
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import tracemalloc
import wave
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._audio.encoding import PIECE_BYTES, WAV_HEADER_BYTES, wav, wav_header
from memsafe_transcribe._transcription import sources
from memsafe_transcribe._transcription.sources import Media

from ..admission.room import NOTHING, holds, told
from ..conftest import Run
from ..support.downloads import open_in
from ..support.segments import pydub
from ..support.server import Server

DATA = random.Random(3).randbytes(700_000)  # of three pieces
_WAIT_SECONDS = 10.0
_TOO_EARLY_SECONDS = 0.1  # what must wait for an event has not ended by then


class Opening:
    """Opens sources, and says what was told and what is held."""

    def __init__(self, spool_dir: Path, **settings: Any) -> None:
        self.admission = told(10**9, max_concurrent=1)
        policy = mt.UrlPolicy(allow_private=True)
        self.downloader = mt.SafeDownloader(policy=policy, admission=self.admission, spool_dir=spool_dir, **settings)
        self.heard: list[mt.Progress] = []

    def __call__(self, source: Any, **asked: Any) -> Any:
        settings = {"held": None, "queue_timeout_seconds": 0, "report": self.heard.append, **asked}
        return sources.opened(source, self.downloader, **settings)


def content(media: Media) -> bytes:
    """All that is to be decoded; the position of a descriptor stays what it is."""
    if media.fd is None:
        assert media.feed is not None
        return b"".join(media.feed)
    assert media.feed is None
    before = os.lseek(media.fd, 0, os.SEEK_CUR)
    data = os.pread(media.fd, 10**9, 0)
    assert os.lseek(media.fd, 0, os.SEEK_CUR) == before
    return data


def refusal(run: Run, source: Any, spool_dir: Path, **settings: Any) -> Exception:
    """The error that opening ends in; nothing of it is left."""

    async def main() -> Exception:
        opening = Opening(spool_dir, **settings)
        with pytest.raises(Exception) as caught:  # noqa: PT011 - its caller looks
            async with opening(source):
                pytest.fail("it was opened")
        assert (holds(opening.admission), open_in(spool_dir)) == (NOTHING, [])
        return caught.value

    return run(main)  # type: ignore[no-any-return]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file."""
    found = tmp_path / "talk.mp3"
    found.write_bytes(DATA)
    return found


# -- strings and paths


def test_a_url_is_downloaded(run: Run, server: Server, spool_dir: Path) -> None:
    """Progress is told, and the slot is free inside the block; on a reservation that is handed over, none is needed."""
    server.routes["/talk.mp3"] = lambda exchange: exchange.answer(DATA)

    async def main() -> None:
        opening = Opening(spool_dir)
        async with opening(server.url("/talk.mp3?key=secret")) as media:
            assert content(media) == DATA
            assert media.name == server.url("/talk.mp3")
            assert holds(opening.admission) == NOTHING
        assert opening.heard[0] == mt.Progress("waiting")
        assert opening.heard[-1] == mt.Progress("downloading", len(DATA), len(DATA))
        held = opening.admission.reserve_nowait(10 * mt.MiB)
        async with opening(server.url("/talk.mp3"), held=held) as media:
            assert content(media) == DATA
        held.release()

    run(main)


@pytest.mark.parametrize("source", ["talk.mp3", "/etc/passwd", "file:///etc/passwd", "ftp://example.com/a.mp3", ""])
def test_a_string_never_names_a_local_file(run: Run, spool_dir: Path, source: str) -> None:
    """The error names pathlib.Path."""
    error = refusal(run, source, spool_dir)
    assert isinstance(error, ValueError)
    assert "name a local file by pathlib.Path" in str(error)


def test_a_path_is_opened_and_closed(run: Run, spool_dir: Path, path: Path) -> None:
    """A regular file only; nothing is spooled."""

    async def main() -> None:
        opening = Opening(spool_dir)
        async with opening(path) as media:
            assert (content(media), media.name, open_in(spool_dir)) == (DATA, str(path), [])
        assert opening.heard == []

    run(main)
    os.mkfifo(path.with_name("fifo"))
    for other in (path.parent, path.with_name("fifo")):
        assert isinstance(refusal(run, other, spool_dir), mt.UnsupportedMediaError)
    assert isinstance(refusal(run, path.with_name("nothing"), spool_dir), FileNotFoundError)


# -- file objects


def named_temporary(path: Path) -> Any:
    """A named temporary file that was just written, with some of it in its buffer still."""
    file = tempfile.NamedTemporaryFile(dir=path.parent)
    file.write(path.read_bytes())
    file.seek(0)
    return file


def rolled_over(path: Path) -> Any:
    """What an upload of some size is in Starlette and Django."""
    file = tempfile.SpooledTemporaryFile(max_size=1000, dir=str(path.parent))
    file.write(path.read_bytes())
    file.seek(0)
    return file


FILES: dict[str, Callable[[Path], Any]] = {
    "buffered": lambda path: path.open("rb"),
    "raw": lambda path: path.open("rb", buffering=0),
    "read and written": lambda path: path.open("r+b"),
    "named temporary": named_temporary,
    "rolled over": rolled_over,
}


@pytest.mark.parametrize("kind", FILES)
def test_a_regular_file_is_used_as_it_is(run: Run, spool_dir: Path, path: Path, kind: str) -> None:
    """Its own descriptor, from any of the objects around it: nothing is spooled, nor is it moved or closed."""

    async def main() -> None:
        opening = Opening(spool_dir)
        with FILES[kind](path) as file:
            async with opening(file) as media:
                assert media.fd == file.fileno()
                assert content(media) == DATA
                assert open_in(spool_dir) == []
            assert opening.heard == []
            assert (file.closed, file.tell()) == (False, 0)
            assert file.read() == DATA

    run(main)


def test_what_was_just_written_is_flushed(run: Run, spool_dir: Path, path: Path) -> None:
    """What lies in the object's buffer is in the file by then."""

    async def main() -> None:
        with path.open("r+b") as file:
            file.read(10)  # only with a buffer that was read into does seek() leave what is written where it is
            file.seek(0)
            file.write(b"new")
            file.seek(0)
            async with Opening(spool_dir)(file) as media:
                assert content(media) == b"new" + DATA[3:]

    run(main)


def pipe_of(data: bytes) -> Any:
    """A pipe that is written to by a thread."""
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb") as file, suppress(BrokenPipeError):
            file.write(data)

    threading.Thread(target=write).start()
    return os.fdopen(reading, "rb")


def socket_of(data: bytes) -> Any:
    """A connection, as a file."""
    ours, theirs = socket.socketpair()

    def write() -> None:
        with theirs, suppress(OSError):
            theirs.sendall(data)

    threading.Thread(target=write).start()
    with ours:
        return ours.makefile("rb")


def at(file: Any, position: int) -> Any:
    """This file at this position."""
    file.seek(position)
    return file


def small(data: bytes) -> Any:
    """An upload that is still in memory."""
    file = tempfile.SpooledTemporaryFile(max_size=10**9)
    file.write(data)
    return at(file, 0)


class OnlyReads:
    """A file object of somebody's own."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)
        self.asked: list[int] = []

    def read(self, size_bytes: int) -> bytes:
        self.asked.append(size_bytes)
        return self._file.read(size_bytes)

    def __enter__(self) -> "OnlyReads":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def zipped(path: Path) -> Any:
    """A file whose descriptor gives something else than it does."""
    with gzip.open(path.with_name("talk.gz"), "wb") as file:
        file.write(DATA)
    return gzip.open(path.with_name("talk.gz"))


SPOOLED: dict[str, tuple[Callable[[Path], Any], int]] = {
    "in memory": (lambda path: io.BytesIO(DATA), 0),
    "in memory at a position": (lambda path: at(io.BytesIO(DATA), 5), 5),
    "a file at a position": (lambda path: at(path.open("rb"), 300_000), 300_000),
    "a raw file at a position": (lambda path: at(path.open("rb", buffering=0), 1), 1),
    "an upload in memory": (lambda path: small(DATA), 0),
    "a pipe": (lambda path: pipe_of(DATA), 0),
    "a connection": (lambda path: socket_of(DATA), 0),
    "gzip": (zipped, 0),
    "gzip in a buffer": (lambda path: io.BufferedReader(zipped(path)), 0),
    "one's own": (lambda path: OnlyReads(DATA), 0),
}


@pytest.mark.parametrize("kind", SPOOLED)
def test_everything_else_is_spooled_from_where_it_stands(run: Run, spool_dir: Path, path: Path, kind: str) -> None:
    """In the downloader's spool, with a slot that is free again inside the block; it stays open."""
    make, position = SPOOLED[kind]

    async def main() -> None:
        opening = Opening(spool_dir)
        with make(path) as file:
            async with opening(file) as media:
                assert content(media) == DATA[position:]
                assert len(open_in(spool_dir)) == 1
                assert holds(opening.admission) == NOTHING
            assert open_in(spool_dir) == []
            assert not getattr(file, "closed", False)
        assert opening.heard[0] == mt.Progress("waiting")
        assert opening.heard[-1] == mt.Progress("downloading", len(DATA) - position)
        assert opening.admission.statistics().granted == 1

    run(main)


def test_a_file_is_read_in_pieces(run: Run, spool_dir: Path) -> None:
    """Never whole, and in a thread."""

    class Told(OnlyReads):
        def read(self, size_bytes: int) -> bytes:
            assert threading.current_thread() is not threading.main_thread()
            return super().read(size_bytes)

    async def main() -> None:
        file = Told(DATA)
        async with Opening(spool_dir)(file) as media:
            assert content(media) == DATA
        assert file.asked == [256 * 1024] * 4

    run(main)


def test_a_file_is_held_to_the_cap(run: Run, spool_dir: Path) -> None:
    """And to the guard of the queue: `receive` does that."""
    error = refusal(run, io.BytesIO(DATA), spool_dir, max_bytes=len(DATA) - 1)
    assert isinstance(error, mt.DownloadTooLargeError)
    assert error.url == "BytesIO"


def test_a_regular_file_is_not_held_to_the_cap(run: Run, spool_dir: Path, path: Path) -> None:
    """It is there already."""

    async def main() -> None:
        with path.open("rb") as file:
            async with Opening(spool_dir, max_bytes=1)(file) as media:
                assert content(media) == DATA

    run(main)


def test_what_a_file_raises_comes_out_as_it_is(run: Run, spool_dir: Path) -> None:
    """As the object that it is."""
    error = OSError("the disk is gone")

    class Broken:
        def read(self, size_bytes: int) -> bytes:
            raise error

    assert refusal(run, Broken(), spool_dir) is error


@pytest.mark.parametrize("size", [None, 1])
def test_a_file_that_would_block_is_not_taken_for_one_that_ends(run: Run, spool_dir: Path, size: int | None) -> None:
    """An object that says None has not said that it is done."""

    class Impatient:
        def __init__(self) -> None:
            self._parts = iter([b"x"] * (size or 0))

        def read(self, size_bytes: int) -> bytes | None:
            return next(self._parts, None)

    assert isinstance(refusal(run, Impatient(), spool_dir), BlockingIOError)


class AsyncFile:
    """As Starlette's UploadFile."""

    async def read(self, size_bytes: int = -1) -> bytes:
        return b""


def test_what_is_no_source_says_what_is(run: Run, spool_dir: Path, path: Path) -> None:
    """Text, bytes, and others: what to do instead."""
    with ExitStack() as files:
        for source, says in [
            (files.enter_context(path.open(encoding="latin-1")), "binary mode"),
            (files.enter_context(tempfile.NamedTemporaryFile("w+")), "binary mode"),
            (files.enter_context(tempfile.SpooledTemporaryFile(mode="w+")), "binary mode"),
            (io.StringIO("text"), "binary mode"),
            (files.enter_context(tempfile.TemporaryFile("w+")), "binary mode"),
            (DATA, "io.BytesIO"),
            (bytearray(DATA), "io.BytesIO"),
            (memoryview(DATA), "io.BytesIO"),
            (AsyncFile(), r"`\.file`"),
            (3, "source must be .*, got int"),
            (None, "source must be .*, got NoneType"),
            ([DATA], "source must be .*, got list"),
        ]:
            with pytest.raises(TypeError, match=says):
                raise refusal(run, source, spool_dir)


def test_text_from_a_file_of_ones_own_is_refused(run: Run, spool_dir: Path) -> None:
    """It cannot be told before it is read."""
    texts: Any = io.StringIO("text")

    class Text:
        def read(self, size_bytes: int) -> Any:
            return texts.read(size_bytes)

    with pytest.raises(TypeError, match="binary mode"):
        raise refusal(run, Text(), spool_dir)


def test_a_file_that_cannot_be_read_is_a_bad_argument(run: Run, spool_dir: Path, path: Path) -> None:
    """Closed, or open for writing only."""
    with path.open("rb") as closed:
        pass
    in_memory = io.BytesIO(b"x")
    in_memory.close()
    with path.open("wb") as for_writing:
        for source, says in (
            (closed, "closed"),
            (for_writing, "talk.mp3 is not open for reading"),
            (in_memory, "closed"),
        ):
            with pytest.raises(ValueError, match=says):
                raise refusal(run, source, spool_dir)


# -- cancellation


@contextmanager
def held_pipe(begins_with: bytes) -> Any:
    """A pipe that gives something, and then nothing more while it is open."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as file, os.fdopen(writing, "wb", buffering=0) as other:
        other.write(begins_with)
        yield file


def test_a_silent_pipe_can_be_cancelled(run: Run, spool_dir: Path) -> None:
    """No thread is stuck in it; what it gave before was read."""

    async def main() -> None:
        opening = Opening(spool_dir)
        with held_pipe(bytes(2 * 1024)) as pipe, anyio.fail_after(_WAIT_SECONDS):
            async with anyio.create_task_group() as tasks:

                async def open_it() -> None:
                    async with opening(pipe):
                        pytest.fail("it has not ended")

                tasks.start_soon(open_it)
                while holds(opening.admission)[0] == 0:
                    await anyio.lowlevel.checkpoint()
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
            assert (holds(opening.admission), open_in(spool_dir)) == (NOTHING, [])

    run(main)


def test_a_silent_pipe_is_given_up(run: Run, spool_dir: Path) -> None:
    """As a server is."""
    with held_pipe(b"x") as pipe:
        error = refusal(run, pipe, spool_dir, read_timeout_seconds=0.01)
    assert isinstance(error, mt.DownloadTimeoutError)


class Slow(OnlyReads):
    """A file whose `read` takes until it is let go."""

    def __init__(self) -> None:
        super().__init__(DATA)
        self.reading, self.go_on = threading.Event(), threading.Event()
        self.ended = False

    def read(self, size_bytes: int) -> bytes:
        self.reading.set()
        assert self.go_on.wait(_WAIT_SECONDS)
        self.ended = True
        return super().read(size_bytes)


def test_a_file_that_is_being_read_is_waited_for(run: Run, spool_dir: Path) -> None:
    """It is its owner's to close when this returns: no thread reads it any more."""

    async def main() -> None:
        opening, file, ended = Opening(spool_dir), Slow(), anyio.Event()

        async def open_it() -> None:
            try:
                async with opening(file):
                    pytest.fail("it has not ended")
            finally:
                ended.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(open_it)
            assert await anyio.to_thread.run_sync(file.reading.wait, _WAIT_SECONDS)
            tasks.cancel_scope.cancel()
            with anyio.move_on_after(_TOO_EARLY_SECONDS, shield=True):
                await ended.wait()
                pytest.fail("the thread was left behind")
            file.go_on.set()
        assert file.ended
        assert (holds(opening.admission), open_in(spool_dir)) == (NOTHING, [])

    run(main)


@pytest.mark.parametrize("run", ["asyncio"], indirect=True)
def test_a_file_that_is_being_read_is_waited_for_by_asyncios_own_cancellation(run: Run, spool_dir: Path) -> None:
    """However often: the task does not end before the thread."""

    async def main() -> None:
        opening, file = Opening(spool_dir), Slow()

        async def open_it() -> None:
            async with opening(file):
                pytest.fail("it has not ended")

        task = asyncio.create_task(open_it())
        assert await anyio.to_thread.run_sync(file.reading.wait, _WAIT_SECONDS)
        for _ in range(2):
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=_TOO_EARLY_SECONDS)
            assert not done
        file.go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert file.ended
        assert (holds(opening.admission), open_in(spool_dir)) == (NOTHING, [])

    run(main)


# -- async iterables


def test_an_async_iterable_is_spooled(run: Run, spool_dir: Path) -> None:
    """As a request's body is."""

    async def parts() -> AsyncIterator[bytes]:
        yield DATA[:5]
        yield DATA[5:]

    async def main() -> None:
        opening = Opening(spool_dir)
        async with opening(parts()) as media:
            assert (content(media), media.name) == (DATA, "upload")
            assert len(open_in(spool_dir)) == 1
        assert opening.heard[-1] == mt.Progress("downloading", len(DATA))
        held = opening.admission.reserve_nowait(10 * mt.MiB)
        async with opening(parts(), held=held) as media:
            assert content(media) == DATA
        with pytest.raises(mt.AdmissionTimeoutError):
            async with opening(parts()):
                pytest.fail("there is no slot")
        held.release()

    run(main)


# -- pydub


def segment(samples: bytes, sample_bytes: int = 2, channels: int = 1, rate: int = 16_000) -> Any:
    return pydub.AudioSegment(data=samples, sample_width=sample_bytes, frame_rate=rate, channels=channels)


@pytest.mark.parametrize("sample_bytes", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_an_audio_segment_becomes_a_wav_stream(run: Run, spool_dir: Path, sample_bytes: int, channels: int) -> None:
    """The same that pydub itself exports, in pieces; nothing is spooled and no slot is taken."""
    made = segment(
        DATA[: 600_000 // (sample_bytes * channels) * sample_bytes * channels], sample_bytes, channels, 44_100
    )
    exported = made.export(io.BytesIO(), format="wav").getvalue()

    async def main() -> None:
        opening = Opening(spool_dir)
        async with opening(made) as media:
            assert media.feed is not None
            assert (media.name, media.fd) == ("AudioSegment", None)
            assert content(media) == exported
            assert content(media) == exported, "it can be read again"
            assert all(0 < len(piece) <= PIECE_BYTES for piece in media.feed)
            assert open_in(spool_dir) == []
        assert (opening.heard, opening.admission.statistics().granted) == ([], 0)

    run(main)


def test_an_empty_audio_segment_is_an_empty_wav(run: Run, spool_dir: Path) -> None:
    """No error here; it is silence of no length."""

    async def main() -> None:
        async with Opening(spool_dir)(pydub.AudioSegment.empty()) as media:
            data = content(media)
        with wave.open(io.BytesIO(data)) as file:
            assert (file.getnframes(), file.getnchannels()) == (0, 1)

    run(main)


@pytest.mark.parametrize("sample_bytes", [1, 2])
def test_an_audio_segment_is_not_copied(run: Run, spool_dir: Path, sample_bytes: int) -> None:
    """A piece at a time, beside 64 MiB."""
    made = segment(bytes(64 * mt.MiB), sample_bytes)

    async def main() -> None:
        tracemalloc.start()
        try:
            async with Opening(spool_dir)(made) as media:
                assert media.feed is not None
                assert sum(map(len, media.feed)) == 64 * mt.MiB + WAV_HEADER_BYTES
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < mt.MiB

    run(main)


@pytest.mark.parametrize("size_bytes", [2**32 - 38, 2**32 - 37, 2**32 - 36, 2**32 - 1, 2**32, 2**40])
def test_what_is_longer_than_a_header_can_say_goes_until_the_end(size_bytes: int) -> None:
    """Both lengths are all ones then; up to there, they are the lengths."""
    header = wav_header(size_bytes, 8_000, channels=2, sample_bytes=2)
    lengths = int.from_bytes(header[4:8], "little"), int.from_bytes(header[40:44], "little")
    assert len(header) == WAV_HEADER_BYTES
    assert lengths == ((size_bytes + 36, size_bytes) if size_bytes + 36 < 2**32 - 1 else (2**32 - 1, 2**32 - 1))


def test_the_library_does_not_load_pydub(run: Run, spool_dir: Path) -> None:
    """Who has an AudioSegment, has loaded it; a source is judged without it, also by those who have not."""
    script = (
        "import sys, anyio, memsafe_transcribe as mt\n"
        "from memsafe_transcribe._transcription import sources\n"
        "async def main():\n"
        "    try:\n"
        "        settings = dict(held=None, queue_timeout_seconds=0, report=print)\n"
        "        async with sources.opened(3, mt.SafeDownloader(), **settings): pass\n"
        "    except TypeError: print('refused')\n"
        "anyio.run(main)\n"
        "assert 'pydub' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n"


# -- and back


def chunk_of(samples: bytes, **changes: Any) -> mt.AudioChunk:
    settings: dict[str, Any] = {"index": 0, "start_seconds": 0.0, "duration_seconds": len(samples) / 32_000}
    settings |= {"sample_rate_hz": 16_000, "format": "wav", "data": wav([samples], 16_000), **changes}
    return mt.AudioChunk(**settings)


@pytest.mark.parametrize("count", [0, 1, 16_000])
def test_a_chunk_becomes_an_audio_segment(count: int) -> None:
    """The very samples, once."""
    samples = array.array("h", [index % 30_000 for index in range(count)]).tobytes()
    made = chunk_of(samples).to_audio_segment()
    assert isinstance(made, pydub.AudioSegment)
    assert (made.raw_data, made.frame_rate, made.channels, made.sample_width) == (samples, 16_000, 1, 2)


def test_a_chunk_is_copied_once() -> None:
    """Beside the samples there is next to nothing."""
    chunk = chunk_of(bytes(8 * mt.MiB))
    tracemalloc.start()
    try:
        made = chunk.to_audio_segment()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(made.raw_data) <= peak < 8 * mt.MiB + 100_000


def test_a_chunk_of_another_format_is_refused() -> None:
    """The error names the setting."""
    with pytest.raises(ValueError, match=r"Capabilities\.formats"):
        chunk_of(b"", format="flac").to_audio_segment()


def test_without_pydub_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra's name."""
    monkeypatch.setitem(sys.modules, "pydub", None)
    with pytest.raises(ImportError, match=r"pip install 'memsafe-transcribe\[pydub\]'"):
        chunk_of(b"").to_audio_segment()
