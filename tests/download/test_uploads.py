"""What a host hands over part by part, as a request's body: into the same file, under the same cap, gone as surely."""

import asyncio
import hashlib
import os
import random
import threading
import tracemalloc
from array import array
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, MutableMapping
from contextlib import AsyncExitStack, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

import memsafe_transcribe as mt

from ..admission.room import NOTHING, holds, told
from ..conftest import Run
from ..support.downloads import answered_after, open_in
from ..support.needs import tmpfs
from ..support.server import Exchange, Server
from .test_every_await import Cancel, by_all_tasks, by_scope, by_task, cancelled, everywhere
from .test_memory_spool import SLOT, SpoolGuard, used_bytes

ANY = mt.UrlPolicy(allow_private=True)
BODY = random.Random(11).randbytes(3 * mt.MiB)
_WAIT_SECONDS = 10.0
_PARTS_OF_AN_UPLOAD = 50  # each is one more point of cancellation


class Parts:
    """An async iterator that is no generator: it counts, and says whether it was closed."""

    def __init__(self, parts: Iterable[Any], then: BaseException | None = None, *, for_ever: bool = False) -> None:
        self._parts = iter(parts)
        self._then = then
        self._for_ever = for_ever
        self.given = 0
        self.closed = 0
        self.is_waiting = anyio.Event()

    def __aiter__(self) -> "Parts":
        return self

    async def __anext__(self) -> Any:
        await anyio.lowlevel.checkpoint()
        for part in self._parts:
            self.given += 1
            return part
        if self._for_ever:
            self.is_waiting.set()
            await anyio.sleep_forever()
        raise self._then or StopAsyncIteration

    async def aclose(self) -> None:
        self.closed += 1


def cut(data: bytes, size: int) -> list[bytes]:
    """Pieces of this size."""
    return [data[at : at + size] for at in range(0, len(data), size)]


def uploaded(
    run: Run, make: Callable[[], AsyncIterable[Any]], spool_dir: Path, *, asked: Any = None, **settings: Any
) -> tuple[mt.DownloadedFile, bytes]:
    """Upload to the end; the file's description and its bytes. `asked` is for `receive`, the rest for the class."""

    async def main() -> tuple[mt.DownloadedFile, bytes]:
        downloader = mt.SafeDownloader(spool_dir=spool_dir, **settings)
        async with downloader.receive(make(), **(asked or {})) as file:
            return file, file.path.read_bytes()

    return run(main)  # type: ignore[no-any-return]


def refusal(
    run: Run, make: Callable[[], AsyncIterable[Any]], spool_dir: Path, *, asked: Any = None, **settings: Any
) -> Exception:
    """The error that an upload ends in; nothing of it is left, nor in the queue."""

    async def main() -> Exception:
        admission = told(10**9)
        downloader = mt.SafeDownloader(spool_dir=spool_dir, admission=admission, **settings)
        with pytest.raises(Exception) as caught:  # noqa: PT011 - its caller looks
            async with downloader.receive(make(), **(asked or {})):
                pytest.fail("the file was handed out")
        assert (holds(admission), open_in(spool_dir)) == (NOTHING, [])
        return caught.value

    return run(main)  # type: ignore[no-any-return]


# -- what comes in


@pytest.mark.parametrize("size", [997, 65_536, 512 * 1024, 512 * 1024 + 1, len(BODY)])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_whatever_parts_it_comes_in_it_is_whole(run: Run, spool_dir: Path, size: int, kind: type) -> None:
    """Of few bytes or of all, and between empty ones; the file is hashed, has no name in the folder, and says whose it
    is.
    """
    file, data = uploaded(run, lambda: Parts([b"", *map(kind, cut(BODY, size)), kind(b"")]), spool_dir)
    assert data == BODY
    assert (file.sha256, file.size_bytes) == (hashlib.sha256(BODY).hexdigest(), len(BODY))
    assert (file.final_url, file.suggested_filename, file.content_type) == ("upload", "upload", None)


def test_a_part_of_one_byte_is_as_good_as_any(run: Run, spool_dir: Path) -> None:
    """And so is one whose items are larger."""
    numbers = array("i", range(1000))
    assert uploaded(run, lambda: Parts(cut(BODY[:5000], 1)), spool_dir)[1] == BODY[:5000]
    assert uploaded(run, lambda: Parts([numbers]), spool_dir)[1] == numbers.tobytes()


def test_a_part_may_be_overwritten_when_the_next_is_asked_for(run: Run, spool_dir: Path) -> None:
    """Whoever reads into one buffer over and over gets what it was each time, whether or not it is on disk by then."""

    async def parts() -> AsyncIterator[memoryview]:
        buffer = bytearray(100_000)
        for piece in cut(BODY, len(buffer)):
            buffer[: len(piece)] = piece
            yield memoryview(buffer)[: len(piece)]
            buffer[:] = bytes(len(buffer))

    assert uploaded(run, parts, spool_dir)[1] == BODY


def test_a_huge_part_is_not_copied_whole(run: Run, spool_dir: Path) -> None:
    """Neither one that could stay as it is, nor one that its owner may change."""

    async def main() -> None:
        for part in (bytes(64 * mt.MiB), bytearray(64 * mt.MiB)):
            tracemalloc.start()
            try:
                async with mt.SafeDownloader(spool_dir=spool_dir).receive(Parts([part])) as file:
                    peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert file.size_bytes == len(part)
            assert peak < 6 * mt.MiB

    run(main)


def test_progress_is_told_after_each_mib_and_at_the_end(run: Run, spool_dir: Path) -> None:
    """Also within one part; how much there will be is not known."""
    seen: list[tuple[int, int | None]] = []
    asked = {"on_progress": lambda done, total: seen.append((done, total))}
    uploaded(run, lambda: Parts([BODY]), spool_dir, asked=asked)
    done = [each for each, _ in seen]
    assert done[-1] == len(BODY)
    assert all(mt.MiB <= after - before < 2 * mt.MiB for before, after in pairwise([0, *done[:-1]]))
    assert {total for _, total in seen} == {None}


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("talk.mp3", "talk.mp3"),
        ("../../etc/passwd", "passwd"),
        ("what? 100 %41 #1.mp3", "what? 100 %41 #1.mp3"),
        ("//host/..", "download"),
        ("", "download"),
        ("caf\udce9.mp3", "caf?.mp3"),
    ],
)
def test_the_suggested_filename_is_never_a_path(run: Run, spool_dir: Path, name: str, suggested: str) -> None:
    """It is the last part of the name, whatever a client calls its file."""
    file, _ = uploaded(run, lambda: Parts([b"x"]), spool_dir, asked={"name": name})
    assert file.suggested_filename == suggested


def test_a_name_of_several_lines_is_one_in_messages(run: Run, spool_dir: Path) -> None:
    """No client writes lines of its own into a log."""
    error = refusal(run, lambda: Parts([]), spool_dir, asked={"name": "a\nroot logged in"})
    assert str(error) == r"a\x0aroot logged in: the upload is empty"


def test_the_body_of_a_request(run: Run, spool_dir: Path) -> None:
    """As an ASGI server hands it over; the answer is sent from inside the block."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def stream() -> AsyncIterator[bytes]:
            message: MutableMapping[str, Any] = {"more_body": True}
            while message.get("more_body", False):
                message = await receive()
                yield message.get("body", b"")

        async with mt.SafeDownloader(spool_dir=spool_dir).receive(stream()) as file:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": file.sha256.encode()})

    async def sent() -> AsyncIterator[bytes]:
        for piece in cut(BODY, 65_536):
            yield piece

    async def main() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://here") as client:
            answer = await client.post("/", content=sent())
        assert answer.text == hashlib.sha256(BODY).hexdigest()

    run(main)


def test_a_generator_may_keep_a_scope_open_over_its_parts(run: Run, spool_dir: Path) -> None:
    """As one does that reads from a connection inside a task group: no scope of ours comes between."""

    async def parts() -> AsyncIterator[bytes]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            with anyio.fail_after(_WAIT_SECONDS):
                for piece in cut(BODY, 100_000):
                    await anyio.lowlevel.checkpoint()
                    yield piece
            tasks.cancel_scope.cancel()

    assert uploaded(run, parts, spool_dir)[1] == BODY


# -- what is refused


@pytest.mark.parametrize("size", [1000, 65_536, 600_000, len(BODY)])
def test_nothing_above_the_cap_is_written(
    run: Run, spool_dir: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """The error has the figures, and no more parts are asked for. The cap itself is fine."""
    ends: list[int] = []
    pwrite = os.pwrite

    def noted(fd: int, data: bytes, offset: int) -> int:
        ends.append(offset + len(data))
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", noted)
    cap = 1_000_000
    made: list[Parts] = []

    def make() -> Parts:
        made.append(Parts(cut(BODY, size)))
        return made[-1]

    error = refusal(run, make, spool_dir, max_bytes=cap)
    assert isinstance(error, mt.DownloadTooLargeError)
    assert cap < error.size_bytes <= cap + min(size, 512 * 1024)
    assert (error.max_bytes, error.url, error.retryable) == (cap, "upload", False)
    assert max(ends, default=0) <= cap
    assert (made[-1].given, made[-1].closed) == (cap // size + 1, 1)
    assert uploaded(run, lambda: Parts(cut(BODY[:cap], size)), spool_dir, max_bytes=cap)[1] == BODY[:cap]


@pytest.mark.parametrize("parts", [[], [b"", b""]])
def test_an_upload_without_a_byte_is_refused(run: Run, spool_dir: Path, parts: list[bytes]) -> None:
    """As a download is."""
    error = refusal(run, lambda: Parts(parts), spool_dir)
    assert type(error) is mt.DownloadProtocolError
    assert error.url == "upload"


@pytest.mark.parametrize("part", ["text", None, 3, [1]])
def test_a_part_that_is_not_bytes_is_a_bad_argument(run: Run, spool_dir: Path, part: object) -> None:
    """The message names its type, and `parts` is closed."""
    made: list[Parts] = []

    def make() -> Parts:
        made.append(Parts([b"x", part]))
        return made[-1]

    error = refusal(run, make, spool_dir)
    assert isinstance(error, TypeError)
    assert f"bytes-like, got {type(part).__name__}" in str(error)
    assert made[-1].closed == 1


def test_what_is_no_async_iterable_is_a_bad_argument(run: Run, spool_dir: Path) -> None:
    """Before anything is reserved."""
    not_async: Any = [b"x"]
    assert isinstance(refusal(run, lambda: not_async, spool_dir), TypeError)


class GoneError(Exception):
    """Such as a server's own, when its client has gone."""


@pytest.mark.parametrize("came_in", [0, 5, len(BODY)])
@pytest.mark.parametrize(
    "error",
    [GoneError("mine"), OSError("mine"), TimeoutError("mine"), mt.TruncatedDownloadError("mine", url="its")],
    ids=lambda error: type(error).__name__,
)
def test_what_the_parts_raise_comes_out_as_it_is(run: Run, spool_dir: Path, error: Exception, came_in: int) -> None:
    """Whenever it comes, and although it could be an error of ours."""
    assert refusal(run, lambda: Parts(cut(BODY[:came_in], 65_536), error), spool_dir) is error


def test_a_group_of_errors_comes_out_as_it_is(run: Run, spool_dir: Path) -> None:
    """It is the parts' own, not one of our tasks'."""
    group = ExceptionGroup("theirs", [GoneError("a"), GoneError("b")])
    assert refusal(run, lambda: Parts([b"x"], group), spool_dir) is group


def test_an_exception_in_the_callback_ends_the_upload(run: Run, spool_dir: Path) -> None:
    """As it is."""

    def broken(done: int, total: int | None) -> None:
        raise GoneError("mine")

    error = refusal(run, lambda: Parts([BODY], for_ever=True), spool_dir, asked={"on_progress": broken})
    assert type(error) is GoneError


def test_a_sender_that_falls_silent_does_not_keep_its_slot(run: Run, spool_dir: Path) -> None:
    """The error names the setting; a client may well try again."""
    error = refusal(run, lambda: Parts([b"x"], for_ever=True), spool_dir, read_timeout_seconds=0.01)
    assert isinstance(error, mt.DownloadTimeoutError)
    assert "read_timeout_seconds" in str(error)
    assert (error.retryable, error.deadline_seconds) == (True, None)


def test_empty_parts_break_no_silence(run: Run, spool_dir: Path) -> None:
    """Not even if there is no end of them, and each is there at once: the event loop lives."""

    async def nothings() -> AsyncIterator[bytes]:
        while True:
            yield b""

    error = refusal(run, nothings, spool_dir, read_timeout_seconds=0.01)
    assert isinstance(error, mt.DownloadTimeoutError)
    assert "read_timeout_seconds" in str(error)


def test_a_sender_that_is_too_slow_is_refused(run: Run, spool_dir: Path) -> None:
    """However often something comes."""
    settings: dict[str, Any] = {"low_speed_bytes_per_second": 10**15, "low_speed_seconds": 1e-9}
    error = refusal(run, lambda: Parts([b"x"] * 1000), spool_dir, **settings)
    assert isinstance(error, mt.DownloadTimeoutError)
    assert "low_speed_bytes_per_second" in str(error)


def test_the_deadline_is_for_all_of_it(run: Run, spool_dir: Path) -> None:
    """However busy the sender is."""
    error = refusal(
        run, lambda: Parts(iter(lambda: b"x", None)), spool_dir, asked={"deadline_seconds": 0.05}, max_bytes=10**12
    )
    assert isinstance(error, mt.DownloadTimeoutError)
    assert "deadline_seconds" in str(error)
    assert (error.retryable, error.deadline_seconds) == (False, 0.05)


def test_what_the_disk_takes_is_not_held_against_the_sender(run: Run, spool_dir: Path) -> None:
    """While a part is waited for, that is the time there is; while it is written, the deadline alone."""
    waiting: list[float] = []
    writing: list[float] = []

    def left_seconds() -> float:
        return anyio.current_effective_deadline() - anyio.current_time()

    async def parts() -> AsyncIterator[bytes]:
        for piece in [BODY, BODY, b""]:
            waiting.append(left_seconds())
            yield piece

    asked = {"deadline_seconds": None, "on_progress": lambda done, total: writing.append(left_seconds())}
    uploaded(run, parts, spool_dir, asked=asked, read_timeout_seconds=_WAIT_SECONDS)
    assert all(0 < seconds <= _WAIT_SECONDS for seconds in waiting)
    assert set(writing) == {float("inf")}


def test_a_full_disk_is_one_clear_error(run: Run, tmp_path: Path) -> None:
    """On 2 MiB, while the sender has more, and while it is silent: no space or descriptor is left."""
    with tmpfs(tmp_path / "small", "size=2m") as spool_dir:
        for parts in ([BODY] * 3, [BODY]):
            error = refusal(run, lambda parts=parts: Parts(parts, for_ever=True), spool_dir)  # type: ignore[misc]
            assert isinstance(error, mt.SpoolError)
            assert (error.spool_dir, error.url) == (str(spool_dir), "upload")
        assert (list(spool_dir.iterdir()), used_bytes(spool_dir)) == ([], 0)


# -- the queue


def test_the_slot_is_free_and_the_parts_are_closed_inside_the_block(run: Run, spool_dir: Path) -> None:
    """Three come one after the other through a single slot while their files are open."""

    async def main() -> None:
        admission = told(10**9, max_concurrent=1)
        downloader = mt.SafeDownloader(admission=admission, spool_dir=spool_dir)
        async with AsyncExitStack() as files:
            for _ in range(3):
                parts = Parts([b"x"])
                await files.enter_async_context(downloader.receive(parts, queue_timeout_seconds=0))
                assert (holds(admission), parts.closed) == (NOTHING, 1)
        assert (admission.statistics().granted, admission.statistics().peak_active) == (3, 1)

    run(main)


def test_an_upload_that_gets_no_slot_is_not_begun(run: Run, spool_dir: Path) -> None:
    """Its parts are closed all the same; inside a reservation it needs no other slot."""

    async def main() -> None:
        admission = told(10**9, max_concurrent=1)
        downloader = mt.SafeDownloader(admission=admission, spool_dir=spool_dir)
        held = admission.reserve_nowait(10 * mt.MiB)
        parts = Parts([b"x"])
        with pytest.raises(mt.AdmissionTimeoutError):
            async with downloader.receive(parts, queue_timeout_seconds=0):
                pytest.fail("the file was handed out")
        assert (parts.given, parts.closed) == (0, 1)
        async with downloader.receive(Parts([b"x"]), reservation=held) as file:
            assert file.size_bytes == 1
        held.release()
        async with admission.reserve(10 * mt.MiB), downloader.receive(Parts([b"x"])) as file:
            assert file.size_bytes == 1

    run(main)


def test_the_guard_is_asked_before_an_upload_begins(run: Run, spool_dir: Path) -> None:
    """At the ceiling it waits until its deadline."""

    class Full(mt.MemoryGuard):
        async def wait_until_ok(self, *asked: Any, **settings: Any) -> Any:
            assert settings == {"admitted": True, "timeout_seconds": 7}
            raise mt.MemoryPressureError("full")

    parts = Parts([b"x"])
    error = refusal(run, lambda: parts, spool_dir, asked={"deadline_seconds": 7}, guard=Full())
    assert isinstance(error, mt.MemoryPressureError)
    assert parts.given == 0


# -- how it ends


@pytest.mark.parametrize("ending", ["an exception", "a cancellation"])
def test_the_file_is_gone_however_the_block_ends(run: Run, spool_dir: Path, ending: str) -> None:
    """An exception comes through as it is."""

    async def main() -> None:
        with suppress(LookupError), anyio.CancelScope() as scope:
            async with mt.SafeDownloader(spool_dir=spool_dir).receive(Parts([b"x"])) as file:
                assert len(open_in(spool_dir)) == 1
                if ending == "an exception":
                    raise LookupError("mine")
                scope.cancel()
                await anyio.sleep_forever()
        assert (file.path.exists(), open_in(spool_dir)) == (False, [])
        assert scope.cancelled_caught == (ending == "a cancellation")

    run(main)


def test_parts_that_cannot_be_closed_are_left_alone(run: Run, spool_dir: Path) -> None:
    """An iterator needs no `aclose`."""

    class Bare:
        def __init__(self) -> None:
            self._parts = Parts([b"x"])

        def __aiter__(self) -> "Bare":
            return self

        async def __anext__(self) -> bytes:
            return bytes(await anext(self._parts))

    assert uploaded(run, Bare, spool_dir)[1] == b"x"


async def cancelled_while_awaited(cancel: Cancel, spool_dir: Path) -> None:
    """Cancel an upload that waits for its second part."""
    admission = told(10**9)
    is_waiting, ended = anyio.Event(), anyio.Event()

    async def parts() -> AsyncGenerator[bytes]:
        try:
            yield BODY
            is_waiting.set()
            await anyio.sleep_forever()
        finally:
            ended.set()

    async def upload() -> None:
        async with mt.SafeDownloader(admission=admission, spool_dir=spool_dir).receive(parts()):
            pytest.fail("the file was handed out")

    async def cancel_it() -> None:
        await is_waiting.wait()
        cancel(scope)

    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            if cancel is by_task:
                task = asyncio.create_task(upload())
                await is_waiting.wait()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                tasks.start_soon(cancel_it)
                await upload()
    assert (ended.is_set(), holds(admission), open_in(spool_dir)) == (True, NOTHING, [])


def test_cancelled_while_a_part_is_awaited(run: Run, spool_dir: Path) -> None:
    """The generator's own cleaning has run when this returns."""
    run(cancelled_while_awaited, by_scope, spool_dir)


@pytest.mark.parametrize("run", ["asyncio"], indirect=True)
def test_cancelled_by_asyncio_itself_while_a_part_is_awaited(run: Run, spool_dir: Path) -> None:
    """The same."""
    run(cancelled_while_awaited, by_task, spool_dir)


@pytest.fixture(params=["disk", "memory"])
def spool(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A spool on disk, and one in memory, which is empty again afterwards."""
    folder = tmp_path / "spool"
    if request.param == "disk":
        folder.mkdir()
        yield folder
    else:
        with tmpfs(folder, "size=64m"):
            yield folder
            assert used_bytes(folder) == 0
    assert list(folder.iterdir()) == []


async def uploads(cancel: Cancel, times: int, spool_dir: Path) -> None:
    """One upload, cancelled everywhere, so many times in succession."""

    async def at_point(point: int) -> tuple[int, bool]:
        admission = told(10**9, max_concurrent=1)
        parts = Parts(cut(BODY, len(BODY) // _PARTS_OF_AN_UPLOAD))
        is_finished = is_begun = False

        async def upload() -> None:
            nonlocal is_finished, is_begun
            is_begun = True
            async with mt.SafeDownloader(admission=admission, spool_dir=spool_dir).receive(parts) as file:
                assert file.path.read_bytes() == BODY
                await anyio.lowlevel.checkpoint()
            is_finished = True

        points = await cancelled(upload(), cancel, range(point, point + times))
        if cancel is not by_scope:
            with anyio.fail_after(_WAIT_SECONDS):
                while open_in(spool_dir):  # threads that nobody waits for any more
                    await anyio.lowlevel.checkpoint()
        assert (holds(admission), open_in(spool_dir)) == (NOTHING, []), point
        assert parts.closed == is_begun, point
        return points, is_finished

    await everywhere(at_point)


def test_cancelled_at_every_await(run: Run, spool: Path) -> None:
    """In the queue, waiting for a part or the disk, in closing, in the block: parts are closed, nothing is left."""
    run(uploads, by_scope, 1, spool)


@pytest.mark.parametrize("run", ["asyncio"], indirect=True)
@pytest.mark.parametrize("times", [1, 2])
def test_cancelled_by_asyncio_itself_at_every_await(run: Run, spool: Path, times: int) -> None:
    """By `Task.cancel()`; and once more while it cleans up."""
    run(uploads, by_task, times, spool)


@pytest.mark.parametrize("run", ["asyncio"], indirect=True)
@pytest.mark.filterwarnings("ignore:coroutine 'BlockWriter.run' was never awaited")  # anyio's, of a task that never ran
def test_cancelled_with_all_its_tasks_at_every_await(run: Run, spool: Path) -> None:
    """As asyncio does when its loop ends."""
    run(uploads, by_all_tasks, 1, spool)


# -- a spool that is memory


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A spool on tmpfs, which is empty again afterwards."""
    with tmpfs(tmp_path / "spool", "size=64m") as folder:
        yield folder
        assert (list(folder.iterdir()), used_bytes(folder)) == ([], 0)


def test_in_memory_the_bytes_are_held_until_the_file_closes(run: Run, memory: Path) -> None:
    """As many as the file has, without a slot."""

    async def main() -> None:
        admission = told(10**9)
        async with mt.SafeDownloader(admission=admission, spool_dir=memory).receive(Parts([BODY])):
            assert holds(admission) == (0, 0, len(BODY))
            assert admission.statistics().budget_bytes == 10**9  # in use by now, and not counted twice
        assert holds(admission) == NOTHING

    run(main)


def test_an_upload_that_outgrows_memory_is_refused_with_figures(run: Run, memory: Path) -> None:
    """It can't be begun anew, so it hears at once what there is; nothing more is asked for."""
    room = SLOT + 2 * mt.MiB

    async def main() -> None:
        guard = SpoolGuard(memory, room)
        admission = mt.AdmissionController(guard=guard, scope="process")
        parts = Parts([BODY] * 3)
        with pytest.raises(mt.MemoryPressureError, match="spool_dir") as caught:
            async with mt.SafeDownloader(admission=admission, spool_dir=memory).receive(parts, name="talk.mp3"):
                pytest.fail("the file was handed out")
        look = guard.snapshot()
        assert 0 < caught.value.need_bytes <= len(BODY)
        assert (caught.value.limit_bytes, caught.value.binding) == (look.limit_bytes, look.binding)
        assert str(caught.value).startswith("talk.mp3: no room for")
        assert (parts.given, parts.closed) == (1, 1)
        assert (holds(admission), open_in(memory)) == (NOTHING, [])

    run(main)


def test_an_upload_has_a_newer_download_dropped(
    run: Run, server: Server, memory: Path, dropped: threading.Event
) -> None:
    """Which begins anew when there is room again; both come in whole."""
    server.routes["/"] = answered_after(dropped, BODY)

    async def main() -> None:
        admission = told(2 * SLOT + len(BODY) + 100_000, max_concurrent=2)
        downloader = mt.SafeDownloader(policy=ANY, admission=admission, spool_dir=memory)
        newer_is_in = anyio.Event()
        order = []

        async def parts() -> AsyncIterator[bytes]:
            await newer_is_in.wait()
            yield BODY

        async def upload() -> None:
            async with downloader.receive(parts()) as file:
                assert file.path.read_bytes() == BODY
                order.append("upload")

        async def download() -> None:
            async with downloader.fetch(server.url("/")) as file:
                assert file.path.read_bytes() == BODY
                order.append("download")

        with anyio.fail_after(_WAIT_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(upload)
                while admission.statistics().active == 0:
                    await anyio.lowlevel.checkpoint()
                tasks.start_soon(download)
                while admission.statistics().reserved_bytes < 2 * SLOT + len(BODY):
                    await anyio.lowlevel.checkpoint()
                newer_is_in.set()
        assert (sorted(order), holds(admission)) == (["download", "upload"], NOTHING)
        assert dropped.is_set()
        dropped.clear()

    run(main)


class Both:
    """An upload, and a download that was there before it, which is answered when the upload has its first part."""

    def __init__(self, server: Server, memory: Path, room_bytes: int) -> None:
        self.admission = told(room_bytes, max_concurrent=2)
        self.ended: dict[str, object] = {}
        self.upload_is_in, self.answer_ends = threading.Event(), threading.Event()
        self.upload_goes_on = anyio.Event()
        self._downloader = mt.SafeDownloader(policy=ANY, admission=self.admission, spool_dir=memory)
        self._server = server
        server.on_head = lambda exchange: exchange.answer(status="405 Method Not Allowed")

    async def download(self) -> None:
        async with self._downloader.fetch(self._server.url("/")) as file:
            self.ended["download"] = file.path.read_bytes() == BODY

    async def upload(self, *rest: bytes) -> None:
        async def parts() -> AsyncIterator[bytes]:
            yield BODY[: 512 * 1024]  # one block
            self.upload_is_in.set()
            await self.upload_goes_on.wait()
            for part in rest:
                yield part

        try:
            async with self._downloader.receive(parts()) as file:
                self.ended["upload"] = file.size_bytes
        except mt.MemoryPressureError:
            self.ended["upload"] = "refused"
        self.answer_ends.set()


def test_an_upload_that_gets_no_more_leaves_an_older_download_alone(run: Run, server: Server, memory: Path) -> None:
    """It is refused itself, and the download comes in as if nothing had been."""
    both: Both

    def answer(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY))
        assert both.answer_ends.wait(_WAIT_SECONDS)
        exchange.send(BODY)

    server.routes["/"] = answer

    async def main() -> None:
        nonlocal both
        server.requests.clear()
        both = Both(server, memory, 2 * SLOT + 8 * mt.MiB)  # what a block that is written makes free is free for more
        with anyio.fail_after(_WAIT_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(both.download)
                while both.admission.statistics().reserved_bytes < SLOT + 8 * mt.MiB:  # a step
                    await anyio.lowlevel.checkpoint()
                both.upload_goes_on.set()
                tasks.start_soon(both.upload, BODY)
        assert both.ended == {"upload": "refused", "download": True}
        assert (holds(both.admission), len(server.gets)) == (NOTHING, 1)

    run(main)


def test_a_download_that_gets_no_more_waits_for_a_newer_upload(run: Run, server: Server, memory: Path) -> None:
    """It gives way and begins anew; the upload is never dropped."""
    both: Both

    def answer(exchange: Exchange) -> None:
        assert both.upload_is_in.wait(_WAIT_SECONDS)
        exchange.answer(BODY)

    server.routes["/"] = answer

    async def main() -> None:
        nonlocal both
        server.requests.clear()
        both = Both(server, memory, 2 * SLOT + 2 * mt.MiB)
        with anyio.fail_after(_WAIT_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(both.download)
                await anyio.to_thread.run_sync(server.wait_for_requests, 2)
                tasks.start_soon(both.upload)
                while both.admission.statistics().waiting == 0:
                    await anyio.lowlevel.checkpoint()
                both.upload_goes_on.set()
        assert both.ended == {"upload": 512 * 1024, "download": True}
        assert (holds(both.admission), len(server.gets)) == (NOTHING, 2)

    run(main)
