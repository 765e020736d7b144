"""However a download ends, nothing is left: no file, no descriptor, no slot."""

import os
import signal
import subprocess
import sys
from contextlib import AsyncExitStack, suppress
from contextvars import Context
from pathlib import Path

import anyio
import httpx
import pytest

import memsafe_transcribe as mt

from ..conftest import Run
from ..support.needs import tmpfs
from ..support.server import Exchange, Server

ANY = mt.UrlPolicy(allow_private=True)
_WAIT_SECONDS = 30.0
_DEADLOCK_SECONDS = 5.0
CHILD = """
import sys, anyio, memsafe_transcribe as mt

async def main():
    downloader = mt.SafeDownloader(policy=mt.UrlPolicy(allow_private=True), spool_dir=sys.argv[2])
    async with downloader.fetch(sys.argv[1], on_progress=lambda done, total: print(done, flush=True)):
        pass

anyio.run(main, backend=sys.argv[3])
"""


def half_a_body(exchange: Exchange) -> None:
    """2 of 64 MiB, then nothing more."""
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 * mt.MiB) + bytes(2 * mt.MiB))
    exchange.hold_until_closed()


def test_the_slot_is_free_inside_the_block(run: Run, server: Server, spool_dir: Path) -> None:
    """A finished download does not keep others waiting; they come one after the other through a single slot."""
    server.routes["/"] = lambda exchange: exchange.answer(b"x")

    async def main() -> None:
        admission = mt.AdmissionController(max_concurrent=1, scope="process")
        downloader = mt.SafeDownloader(policy=ANY, admission=admission, spool_dir=spool_dir)
        async with AsyncExitStack() as files:
            for _ in range(3):
                await files.enter_async_context(downloader.fetch(server.url("/"), queue_timeout_seconds=_WAIT_SECONDS))
                assert admission.statistics().active == 0
        assert (admission.statistics().granted, admission.statistics().peak_active) == (3, 1)

    run(main)


def test_a_holder_of_a_slot_waits_for_nobody_who_queues_for_it(run: Run, server: Server, spool_dir: Path) -> None:
    """The only slot is held by a task that downloads what another wants too, which came first and waits for a slot."""
    server.routes["/"] = lambda exchange: exchange.answer(b"x")

    async def main() -> None:
        admission = mt.AdmissionController(max_concurrent=1, scope="process")
        downloader = mt.SafeDownloader(policy=ANY, admission=admission, spool_dir=spool_dir)

        async def queue() -> None:
            async with downloader.fetch(server.url("/")):
                pass

        with anyio.fail_after(_DEADLOCK_SECONDS):
            async with anyio.create_task_group() as tasks:
                async with admission.reserve(10 * mt.MiB) as held:
                    Context().run(tasks.start_soon, queue)  # it has inherited nothing
                    while admission.statistics().waiting == 0:
                        await anyio.lowlevel.checkpoint()
                    async with downloader.fetch(server.url("/"), reservation=held):
                        pass

    run(main)


def test_no_slot_in_time(run: Run, server: Server, spool_dir: Path) -> None:
    """The admission controller's error comes through, and no request is sent."""

    async def main() -> None:
        admission = mt.AdmissionController(max_concurrent=1, scope="process")
        downloader = mt.SafeDownloader(policy=ANY, admission=admission, spool_dir=spool_dir)
        held = admission.reserve_nowait(1)
        with pytest.raises(mt.AdmissionTimeoutError):
            async with downloader.fetch(server.url("/"), queue_timeout_seconds=0):
                pytest.fail("the file was handed out")
        held.release()

    run(main)
    assert server.requests == []


@pytest.mark.parametrize("ending", ["an exception", "a cancellation"])
def test_the_file_is_gone_however_the_block_ends(run: Run, server: Server, spool_dir: Path, ending: str) -> None:
    """Its descriptor is closed, so its path leads nowhere afterwards; an exception comes through as it is."""
    server.routes["/"] = lambda exchange: exchange.answer(b"x")

    async def main() -> None:
        admission = mt.AdmissionController(scope="process")
        downloader = mt.SafeDownloader(policy=ANY, admission=admission, spool_dir=spool_dir)
        paths = []
        with suppress(LookupError), anyio.CancelScope() as scope:
            async with downloader.fetch(server.url("/")) as file:
                paths.append(file.path)
                assert file.path.exists()
                if ending == "an exception":
                    raise LookupError("mine")
                scope.cancel()
                await anyio.sleep_forever()
        assert [path.exists() for path in paths] == [False]
        assert scope.cancelled_caught == (ending == "a cancellation")
        assert admission.statistics().active == 0

    run(main)


@pytest.mark.parametrize("error", [LookupError("mine"), httpx.ReadTimeout("mine"), OSError("mine")])
def test_an_exception_in_the_callback_ends_the_download(
    run: Run, server: Server, spool_dir: Path, error: Exception
) -> None:
    """It comes through as it is, in mid-body; also one that could be the download's own."""
    server.routes["/"] = half_a_body

    def broken(done: int, total: int | None) -> None:
        raise error

    async def main() -> None:
        admission = mt.AdmissionController(scope="process")
        downloader = mt.SafeDownloader(policy=ANY, admission=admission, spool_dir=spool_dir)
        with pytest.raises(type(error), match="mine") as caught:
            async with downloader.fetch(server.url("/"), on_progress=broken):
                pytest.fail("the file was handed out")
        assert caught.value is error
        assert admission.statistics().active == 0

    run(main)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_sigkill_in_mid_download_leaves_nothing(server: Server, tmp_path: Path, backend: str) -> None:
    """No code of ours runs, and still the space is free: a file without a name dies with its process."""
    server.routes["/"] = half_a_body
    with tmpfs(tmp_path / "disk", "size=80m") as disk:
        free = os.statvfs(disk).f_bfree
        command = [sys.executable, "-c", CHILD, server.url("/"), str(disk), backend]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            try:
                assert child.stdout is not None
                assert int(child.stdout.readline()) >= mt.MiB
                while os.statvfs(disk).f_bfree == free:  # what is told may still be on its way to the disk
                    assert child.poll() is None
                assert list(disk.iterdir()) == []
            finally:
                child.kill()
        assert child.returncode == -signal.SIGKILL
        assert (list(disk.iterdir()), os.statvfs(disk).f_bfree) == ([], free)
