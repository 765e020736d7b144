"""The admission, the container's ledger, and the guard."""

import gc
import os
import shutil
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from unittest.mock import patch

import anyio
import anyio.lowlevel

import memsafe_transcribe as mt
from memsafe_transcribe.testing import FakeGuard

from ...admission.room import ToldGuard, settle, told
from ..cases import case, given_back, hold_for, pieces, until_active
from ..place import MoodyEngine, Place, wav


@case()
async def queue(place: Place) -> None:
    """One slot for three; a part of what is held; what is drained at last."""
    admission = told(1000, max_concurrent=1)

    async def one() -> None:
        async with admission.reserve(10) as held:
            await anyio.lowlevel.checkpoint()
            async with admission.reserve(5, reservation=held):
                await anyio.lowlevel.checkpoint()

    async def late() -> None:
        try:
            async with admission.reserve(10):
                pass
        except mt.AdmissionError:
            place.told.append("refused")

    with given_back(place, admission):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(one)
            async with anyio.create_task_group() as others:
                others.start_soon(late)
                for _ in range(10):
                    await anyio.lowlevel.checkpoint()
        for _ in range(_OFTEN):  # entering is a schedule point now and then
            async with admission.reserve(1):
                pass
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hold_for, admission, 0.06)
            await until_active(admission)
            admission.drain()
            assert await admission.wait_until_drained()


_OFTEN = 70


@contextmanager
def _ledger_of_its_own(place: Place) -> Iterator[Path]:
    """Another container's, so to speak."""
    folder = place.folder / "ledger"
    folder.mkdir(exist_ok=True)
    try:
        with patch.dict(os.environ, MEMSAFE_LEDGER_DIR=str(folder)):
            yield folder
    finally:
        gc.collect()  # the last member takes it away, while that may still be refused
        shutil.rmtree(folder, ignore_errors=True)


@case()
async def ledger(place: Place) -> None:
    """A container's ledger is made, lost by its name, found again, and taken away by the last who leaves."""
    guard = ToldGuard(1000)
    with _ledger_of_its_own(place) as folder:
        members = [mt.AdmissionController(guard=guard)]
        try:
            async with members[0].reserve(1):
                for file in folder.glob("*/ledger"):
                    file.unlink()
                    with file.open("w"):  # lost, too, and nobody's ledger
                        file.unlink()
                        members.append(mt.AdmissionController(guard=guard))
                        async with members[1].reserve(1):
                            await anyio.lowlevel.checkpoint()
        finally:
            members.clear()


@case()
async def ledger_of_two(place: Place) -> None:
    """One member waits, and a smaller claim of the other passes it."""
    guard = ToldGuard(1000)
    with _ledger_of_its_own(place):
        members = [mt.AdmissionController(guard=guard) for _ in range(2)]
        try:
            async with members[0].reserve(900) as held, anyio.create_task_group() as tasks:
                tasks.start_soon(_reserve, members[1], 500)
                await settle()
                with anyio.move_on_after(_SOON_SECONDS):
                    async with anyio.create_task_group() as small:
                        small.start_soon(_reserve, members[0], 50)
                held.release()
        finally:
            members.clear()


_SOON_SECONDS = 0.06


async def _reserve(admission: mt.AdmissionController, need_bytes: int) -> None:
    async with admission.reserve(need_bytes, timeout_seconds=2):  # alone, its share may be less
        await anyio.lowlevel.checkpoint()


@case()
async def ledger_of_the_container(place: Place) -> None:
    """At the place where all processes of the container find it by themselves."""
    with patch.dict(os.environ):
        del os.environ["MEMSAFE_LEDGER_DIR"]
        async with mt.AdmissionController(guard=ToldGuard(1000)).reserve(1):
            await anyio.lowlevel.checkpoint()


@case()
async def guarded(place: Place) -> None:
    """Wait for memory that comes free; functions that do; and the watch."""
    guard = FakeGuard(limit_bytes=1000 * mt.MiB, used_bytes=990 * mt.MiB)
    decorated = mt.memory_guard(need_bytes=1, guard=guard, wait_seconds=5)

    @decorated
    async def function() -> int:
        await anyio.lowlevel.checkpoint()
        return 1

    @decorated
    async def generator() -> AsyncGenerator[int]:
        try:
            await anyio.lowlevel.checkpoint()
            yield 1
            await anyio.lowlevel.checkpoint()
            yield 2
        finally:
            await anyio.lowlevel.checkpoint()

    async def first() -> None:
        async with aclosing(generator()) as numbers:
            async for _ in numbers:
                break

    async def free() -> None:
        await anyio.sleep(0.06)
        guard.used_bytes = 0

    for use in (lambda: guard.wait_until_ok(1), function, first):
        guard.used_bytes = 990 * mt.MiB
        async with guard, anyio.create_task_group() as tasks:
            tasks.start_soon(free)
            await use()


@case()
async def short_of_memory(place: Place) -> None:
    """A job at the ceiling begins no chunk until there is room again."""
    guard = FakeGuard(limit_bytes=1000 * mt.MiB, used_bytes=0)
    admission = mt.AdmissionController(guard=guard, scope="process")
    engine = MoodyEngine(place, on_answer=lambda: setattr(guard, "used_bytes", 990 * mt.MiB))

    async def free() -> None:
        while True:
            await anyio.sleep(0.06)
            guard.used_bytes = 0

    transcriber = place.transcriber(engine=engine, admission=admission, downloader=place.downloader(guard=guard))
    with given_back(place, admission):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(free)
            for _ in range(2):
                await transcriber.transcribe(pieces(wav(5.5, 400)))
            await transcriber.transcribe(f"{place.url}/url.wav")
            tasks.cancel_scope.cancel()
