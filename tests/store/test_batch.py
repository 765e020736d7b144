"""BatchTranscriber: many sources, and what came of each."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._memory.pressure import Term
from memsafe_transcribe._store.batches import MAX_DEATHS
from memsafe_transcribe.testing import FakeEngine

from ..conftest import Run
from ..support.media import tone_samples, write_wav
from ..support.memory import tell
from ..support.server import Server, in_turn
from .engines import Teller
from .other_program import other_program

ANY = mt.UrlPolicy(allow_private=True)
QUOTA = mt.TranscriberQuotaError("1500 a day")


@pytest.fixture
def store(tmp_path: Path) -> mt.JobStore:
    """An empty one."""
    return mt.JobStore(tmp_path / "jobs.sqlite", busy_timeout_seconds=5)


@pytest.fixture
def tones(tmp_path: Path) -> list[Path]:
    """Six sources, told by their lengths: 1.0 s, 1.1 s and so on."""
    return [write_wav(tmp_path / f"{number}.wav", tone_samples(1 + number / 10)) for number in range(6)]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between attempts."""
    monkeypatch.setattr("random.uniform", lambda low, high: 0.0)


def batch_of(engine: Any, store: mt.JobStore | None = None, **options: Any) -> mt.BatchTranscriber:
    """Those of a batch's options that it has itself go to it; all others to its transcriber."""
    own = {name: options.pop(name) for name in ("max_batch_size", "max_attempts") if name in options}
    downloader = mt.SafeDownloader(policy=ANY, failures=store)
    transcriber = mt.ChunkedTranscriber(
        engine, **{"downloader": downloader, "store": store, "isolation": "thread", "chunk_seconds": 1.0, **options}
    )
    return mt.BatchTranscriber(transcriber, **own)


async def all_of(batch: mt.BatchTranscriber, sources: Any, **options: Any) -> list[mt.Outcome]:
    """In the order of the sources."""
    async with batch.run(sources, **options) as outcomes:
        found = [outcome async for outcome in outcomes]
    return sorted(found, key=lambda outcome: outcome.index)


def errors_of(outcomes: list[mt.Outcome]) -> list[Any]:
    return [type(outcome.error) for outcome in outcomes]


NONE = type(None)


def test_one_bad_source_does_not_stop_the_rest(run: Run, tones: list[Path], tmp_path: Path) -> None:
    """Each source has its outcome, with its error or its transcript."""
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"no audio")
    missing = tmp_path / "missing.wav"
    sources = [tones[0], bad, tones[1], missing, tones[2], "not a URL", 7]

    found = run(all_of, batch_of(Teller()), sources)
    assert [outcome.source for outcome in found] == sources
    assert errors_of(found) == [
        NONE, mt.UnsupportedMediaError, NONE, FileNotFoundError, NONE, ValueError, TypeError
    ]  # fmt: skip
    assert [outcome.transcript.duration_seconds for outcome in found if outcome.transcript] == [1.0, 1.1, 1.2]


def test_a_url_that_is_done_is_not_fetched_again(
    run: Run, tones: list[Path], store: mt.JobStore, server: Server
) -> None:
    """Nor is the engine asked; the transcript is the same."""
    body = tones[5].read_bytes()
    server.routes["/a.wav"] = lambda exchange: exchange.answer(body)
    engine = Teller()

    async def main() -> None:
        (first,) = await all_of(batch_of(engine, store), [server.url("/a.wav")])
        assert first.error is None
        requests, asked = len(server.requests), len(engine.asked)
        (second,) = await all_of(batch_of(engine, store), [server.url("/a.wav")])
        assert second.transcript == first.transcript
        assert (len(server.requests), len(engine.asked)) == (requests, asked)

    run(main)


# -- where the sources come from, and where the outcomes go


@pytest.mark.parametrize("ordered", [True, False])
def test_outcomes_come_in_the_order_of_the_sources_if_that_is_asked_for(
    run: Run, tones: list[Path], ordered: bool
) -> None:
    """The first source is done last: it comes first all the same, or last."""

    async def main() -> None:
        others = anyio.Event()
        answered = 0

        async def wait(number: int, chunk: mt.AudioChunk) -> None:
            nonlocal answered
            if chunk.duration_seconds < 1.05:
                await others.wait()
            else:
                answered += 1
                if answered == 2:
                    others.set()

        admission = mt.AdmissionController(max_concurrent=2, scope="process")
        batch = batch_of(Teller(before=wait), admission=admission, chunk_seconds=60.0, max_batch_size=3)
        async with batch.run(tones[:3], ordered=ordered) as outcomes:
            indexes = [outcome.index async for outcome in outcomes]
        assert sorted(indexes) == [0, 1, 2]
        assert (indexes[0] == 0) == ordered
        assert not ordered or indexes == [0, 1, 2]

    run(main)


class Endless:
    """A source for ever, which counts how many were taken; and tells whether it was closed."""

    def __init__(self, path: Path) -> None:
        self.taken = 0
        self.is_closed = False
        self._path = path

    def sync(self) -> Iterator[Path]:
        while True:
            self.taken += 1
            yield self._path

    async def async_(self) -> AsyncIterator[Path]:
        try:
            while True:
                self.taken += 1
                yield self._path
        finally:
            self.is_closed = True


@pytest.mark.parametrize("kind", ["sync", "async_"])
@pytest.mark.parametrize("size", [1, 3])
def test_an_endless_iterable_is_taken_from_as_there_is_room(run: Run, tones: list[Path], kind: str, size: int) -> None:
    """Never more than `max_batch_size` beyond what was taken out; when the block is left, it is closed."""
    endless = Endless(tones[0])

    async def main() -> None:
        async with batch_of(Teller(), max_batch_size=size).run(getattr(endless, kind)()) as outcomes:
            given = 0
            async for outcome in outcomes:
                assert outcome.error is None
                given += 1
                assert endless.taken <= given + size
                if given == 6:
                    break
        assert endless.is_closed == (kind == "async_")
        taken = endless.taken
        await anyio.wait_all_tasks_blocked()
        assert endless.taken == taken

    run(main)


def test_a_consumer_that_does_not_take_holds_the_work_up(run: Run, tones: list[Path]) -> None:
    """No more than `max_batch_size` are in work or waiting to be taken, however long it is."""
    endless, most = Endless(tones[0]), []

    async def main() -> None:
        done = anyio.Event()

        def look(progress: mt.BatchProgress) -> None:
            most.append(len(progress.running))
            if progress.done == 3:
                done.set()

        async with batch_of(Teller(), max_batch_size=3).run(endless.sync(), on_progress=look) as outcomes:
            await done.wait()
            for _ in range(3):
                await anyio.wait_all_tasks_blocked()
            assert endless.taken == 3
            assert (outcomes.progress.done, outcomes.progress.running) == (3, ())
            await anext(outcomes)

    run(main)
    assert max(most) <= 3


def test_who_iterates_behind_the_block_is_told_so(run: Run, tones: list[Path]) -> None:
    """And who waited in another task: what was in work is given up, and no outcome of it will come."""

    async def told(outcomes: mt.Outcomes) -> None:
        with anyio.fail_after(10), pytest.raises(RuntimeError, match=r"the block of run\(\) has ended"):
            await anext(outcomes)

    async def main() -> None:
        engine = FakeEngine()
        engine.hold()
        async with anyio.create_task_group() as tasks:
            async with batch_of(engine).run(tones) as outcomes:
                tasks.start_soon(told, outcomes)
                await engine.wait_for_calls(1)
            await told(outcomes)

    run(main)


def test_what_came_in_the_block_may_be_taken_behind_it(run: Run, tones: list[Path]) -> None:
    """It is all there is."""

    async def main() -> list[mt.Outcome]:
        all_done = anyio.Event()

        def note(progress: mt.BatchProgress) -> None:
            if progress.done == 2:
                all_done.set()

        async with batch_of(FakeEngine()).run(tones[:2], on_progress=note) as outcomes:
            await all_done.wait()
            await anyio.wait_all_tasks_blocked()  # and it has been seen that no more sources come
        return [outcome async for outcome in outcomes]

    assert errors_of(run(main)) == [NONE, NONE]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_what_the_iterable_raises_comes_out_after_the_outcomes(
    run: Run, tones: list[Path], store: mt.JobStore, kind: str
) -> None:
    """What was given before is transcribed; the batch is not finished, so that it goes on under its name."""

    def sync() -> Iterator[Path]:
        yield from tones[:2]
        raise LookupError("no more")

    async def async_() -> AsyncIterator[Path]:
        for each in sync():
            yield each

    async def main() -> None:
        async with batch_of(Teller(), store).run(sync() if kind == "sync" else async_()) as outcomes:
            found = []
            with pytest.raises(LookupError, match="no more"):
                async for outcome in outcomes:
                    found.append(outcome)  # noqa: PERF401 - what came before the error counts
            assert errors_of(found) == [NONE, NONE]
            assert [each async for each in outcomes] == []
        assert await batches_of(store) == [("default", 0)]

    run(main)


@pytest.mark.parametrize("sources", ["https://a/b.wav", b"bytes", Path("a.wav"), None])
def test_one_source_is_no_iterable_of_sources(run: Run, sources: Any) -> None:
    """A URL would be taken letter by letter."""
    with pytest.raises(TypeError, match="iterable of sources"):
        run(all_of, batch_of(Teller()), sources)


async def batches_of(store: mt.JobStore) -> list[tuple[str, int]]:
    """Each batch's name, and whether it is finished."""
    database = store._inside.database  # noqa: SLF001 - nothing public tells
    async with database.opened():
        return await database.read(
            lambda connection: connection.execute("SELECT name, is_finished FROM batches ORDER BY id").fetchall()
        )


# -- how many at once


def limit_of(megabytes: int) -> Term:
    return Term("limit", "cgroup v2 /told", "memory.max", megabytes * mt.MiB, 0, 0)


def test_as_many_are_in_work_as_memory_has_room_for(
    run: Run, tones: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to `max_batch_size` where there is enough, one where there is little; it follows what comes free."""
    memory = tell(monkeypatch, limit_of(4000))
    sources = tones * 3

    async def main() -> None:
        most: dict[int, int] = {}

        def look(progress: mt.BatchProgress) -> None:
            megabytes = 4000 if progress.done < 6 else 60 if progress.done < 12 else 4000
            if megabytes != look_at[0]:
                look_at[0] = megabytes
                memory.say(limit_of(megabytes))
            part = progress.done // 3
            most[part] = max(most.get(part, 0), len(progress.running))

        async def in_company(number: int, chunk: mt.AudioChunk) -> None:
            """While there is enough, none is done before all are in work that can be."""
            with anyio.fail_after(30):
                while max(most) < 2 and most[max(most)] < 4:
                    await anyio.lowlevel.checkpoint()

        look_at = [4000]
        controller = mt.AdmissionController(guard=mt.MemoryGuard(), max_concurrent=8, scope="process")
        engine = Teller(call_bytes=4 * mt.MiB, before=in_company)
        batch = batch_of(engine, admission=controller, max_batch_size=4, chunk_seconds=60.0)
        found = await all_of(batch, sources, on_progress=look)
        assert errors_of(found) == [NONE] * len(sources)
        assert most[0] == most[1] == 4
        assert most[3] == 1
        assert most[5] > 1

    run(main)


# -- failures, attempts and dead letters


def test_what_may_pass_is_tried_again_in_the_same_run(
    run: Run, tones: list[Path], store: mt.JobStore, server: Server
) -> None:
    """Until it succeeds; the outcome says how often it failed."""
    body = tones[0].read_bytes()
    server.routes["/a"] = in_turn(
        lambda exchange: exchange.answer(status="503 Busy", Retry_After="0"),
        lambda exchange: exchange.answer(body),
    )
    server.on_head = lambda exchange: exchange.answer(status="501 No")

    async def main() -> None:
        engine = Teller(fails_at={0})
        failing = iter([True, True, False])

        def unavailable(number: int, chunk: mt.AudioChunk) -> Exception | None:
            return TimeoutError("slow") if next(failing, False) else None

        (found,) = await all_of(batch_of(Teller(before=unavailable), store), [tones[0]])
        assert (found.error, found.attempts) == (None, 0)  # the chunk was tried again, not the source
        (found,) = await all_of(batch_of(engine, store, chunk_seconds=2.0), [server.url("/a")])
        assert type(found.error) is mt.TranscriberFailedError
        assert found.attempts == 1

    run(main)


class Broken(Teller):
    """Fails as it is told, on every chunk, until it is mended."""

    error: Exception | None = None

    def __init__(self, error: Exception | None) -> None:
        super().__init__(before=lambda number, chunk: self.error)
        self.error = error


def test_attempts_are_counted_over_runs_until_it_is_given_up(
    run: Run, tones: list[Path], store: mt.JobStore, server: Server
) -> None:
    """A run that is cancelled after one failure leaves it to be tried; then it is a dead letter, and not fetched."""
    url = server.url("/gone")
    server.routes["/gone"] = lambda exchange: exchange.hold_until_closed()
    engine = Teller()

    async def main() -> None:
        # Each attempt is given up by its deadline, which is nothing that the URL is remembered for.
        once: dict[str, Any] = {"deadline_seconds": 0.2}
        async with batch_of(engine, store, max_attempts=3).run([url], on_progress=None, **once) as outcomes:
            found = [each async for each in outcomes]
        assert (errors_of(found), found[0].attempts) == ([TimeoutError], 3)
        requests = len(server.requests)
        (again,) = await all_of(batch_of(engine, store, max_attempts=3), [url], **once)
        assert isinstance(again.error, mt.DeadLetterError)
        assert (again.error.attempts, again.attempts) == (3, 3)
        assert "deadline_seconds" in again.error.reason
        assert len(server.requests) == requests
        body = tones[0].read_bytes()
        server.routes["/gone"] = lambda exchange: exchange.answer(body)
        (alive,) = await all_of(batch_of(engine, store), [url], retry_failed=True)
        assert (alive.error, alive.attempts) == (None, 0)

    run(main)


def test_what_cannot_pass_is_given_up_at_once(run: Run, tones: list[Path], store: mt.JobStore) -> None:
    """And not tried in the next run; a file that was mended is another source."""
    tones[0].write_bytes(b"no audio")

    async def main() -> None:
        (first,) = await all_of(batch_of(Teller(), store), [tones[0]])
        assert (errors_of([first]), first.attempts) == ([mt.UnsupportedMediaError], 1)
        (second,) = await all_of(batch_of(Teller(), store), [tones[0]])
        assert isinstance(second.error, mt.DeadLetterError)
        assert "UnsupportedMediaError" in second.error.reason
        assert "retry_failed=True" in str(second.error)
        write_wav(tones[0], tone_samples(1.0))
        (third,) = await all_of(batch_of(Teller(), store), [tones[0]])
        assert third.error is None

    run(main)


def test_a_file_that_was_changed_after_it_was_done_is_heard_anew(
    run: Run, tones: list[Path], store: mt.JobStore
) -> None:
    """In the same batch, whose transcript of it would be that of other audio."""
    engine = Teller()

    async def main() -> None:
        (first,) = await all_of(batch_of(engine, store), [tones[0]])
        write_wav(tones[0], tone_samples(3.0))
        (second,) = await all_of(batch_of(engine, store), [tones[0]])
        assert first.transcript
        assert second.transcript
        assert (first.transcript.duration_seconds, second.transcript.duration_seconds) == (1.0, 3.0)

    run(main)


def test_a_name_that_is_no_text_is_a_source_like_any_other(run: Run, tmp_path: Path, store: mt.JobStore) -> None:
    """A file name on Linux is bytes; that of one that is no audio is in its error, which is kept."""
    bad = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.wav"))
    bad.write_bytes(b"no audio")

    async def main() -> None:
        for kind in (mt.UnsupportedMediaError, mt.DeadLetterError):
            (found,) = await all_of(batch_of(Teller(), store), [bad])
            assert type(found.error) is kind
        assert isinstance(found.error, mt.DeadLetterError)
        assert str(bad) in found.error.reason
        write_wav(bad, tone_samples(1.0))
        assert errors_of(await all_of(batch_of(Teller(), store), [bad])) == [NONE]

    run(main)


def test_a_used_up_quota_ends_the_batch_and_a_later_run_goes_on(
    run: Run, tones: list[Path], store: mt.JobStore
) -> None:
    """From the iteration, after the outcomes; also where an endless iterable has nothing to give just now."""
    engine = Teller(before=lambda number, chunk: QUOTA if number == 3 and not is_renewed else None)
    is_renewed, whole = False, Teller()

    async def main() -> None:
        nonlocal is_renewed
        await all_of(batch_of(whole), tones)

        async def idle() -> AsyncIterator[Path]:
            for each in tones:
                yield each
            await anyio.sleep_forever()

        found = []
        async with batch_of(engine, store, max_batch_size=2).run(idle()) as outcomes:
            with anyio.fail_after(20), pytest.raises(mt.TranscriberFailedError, match="1500 a day") as caught:
                async for outcome in outcomes:
                    found.append(outcome)  # noqa: PERF401 - what came before the error counts
        assert isinstance(caught.value.__cause__, mt.TranscriberQuotaError)
        assert 1 <= len(found) < 6
        assert mt.TranscriberFailedError in errors_of(found)
        assert await batches_of(store) == [("default", 0)]
        is_renewed = True
        again = await all_of(batch_of(engine, store), tones)
        assert errors_of(again) == [NONE] * 6
        assert {outcome.attempts for outcome in again} == {0}
        assert len(engine.asked) == len(whole.asked)
        assert await batches_of(store) == [("default", 1)]

    run(main)


@pytest.mark.parametrize("on_error", ["mark", "stop"])
def test_a_used_up_quota_ends_the_batch_also_where_failures_are_marked(
    run: Run, tones: list[Path], store: mt.JobStore, on_error: str
) -> None:
    """What was heard before comes out as a part; no other source is begun; a later run goes on."""
    engine = Teller(before=lambda number, chunk: QUOTA if number == 1 and not is_renewed else None)
    is_renewed = False

    async def main() -> None:
        nonlocal is_renewed
        found = []
        async with batch_of(engine, store, max_batch_size=1, on_error=on_error).run(tones[::-1]) as outcomes:
            with pytest.raises(mt.TranscriberFailedError, match="1500 a day"):
                async for outcome in outcomes:
                    found.append(outcome)  # noqa: PERF401 - what came before the error counts
        (part,) = found
        assert part.transcript is not None
        assert part.transcript.status == "partial"
        assert part.transcript.segments
        is_renewed = True
        again = await all_of(batch_of(engine, store, on_error=on_error), tones)
        assert [each.transcript and each.transcript.status for each in again] == ["complete"] * 6

    run(main)


@pytest.mark.parametrize("on_error", ["mark", "stop"])
def test_another_failure_that_is_marked_ends_its_job_alone(run: Run, tones: list[Path], on_error: str) -> None:
    """The other sources are transcribed."""
    engine = Teller(before=lambda number, chunk: ValueError("bad") if chunk.duration_seconds < 1.05 else None)
    found = run(all_of, batch_of(engine, chunk_seconds=60.0, on_error=on_error), tones)
    assert [each.transcript and each.transcript.status for each in found] == ["partial"] + ["complete"] * 5


def test_that_there_was_no_room_is_not_held_against_a_source(run: Run, tones: list[Path], store: mt.JobStore) -> None:
    """It is tried as often as others in one run; but however many runs find none, it is no dead letter."""

    async def main() -> None:
        admission = mt.AdmissionController(max_concurrent=1)
        batch = batch_of(Teller(), store, max_attempts=2, admission=admission, queue_timeout_seconds=0.02)
        holds, is_over = anyio.Event(), anyio.Event()

        async def hold() -> None:
            async with admission.reserve(1):
                holds.set()
                await is_over.wait()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hold)
            await holds.wait()
            for _ in range(3):
                (found,) = await all_of(batch, tones[:1])
                assert (errors_of([found]), found.attempts) == ([mt.AdmissionTimeoutError], 0)
            assert admission.statistics().rejected == 6
            is_over.set()
        assert errors_of(await all_of(batch, tones[:1])) == [NONE]

    run(main)


def test_a_run_that_ends_in_order_is_no_death(run: Run, tones: list[Path], store: mt.JobStore) -> None:
    """However often the quota is used up before a source has got on, it is not given up."""

    async def main() -> None:
        for _ in range(MAX_DEATHS + 1):
            with pytest.raises(mt.TranscriberFailedError):
                await all_of(batch_of(Broken(QUOTA), store), tones[:1])
        assert errors_of(await all_of(batch_of(Teller(), store), tones[:1])) == [NONE]

    run(main)


def test_what_comes_after_the_quota_is_used_up_is_not_begun(run: Run, tones: list[Path]) -> None:
    """The iterable gives one more while another source is still in work: that one is done, and it is not."""

    async def main() -> None:
        gate, given, release = anyio.Event(), anyio.Event(), anyio.Event()

        async def late() -> AsyncIterator[Path]:
            yield tones[0]
            yield tones[1]
            await gate.wait()
            given.set()
            yield tones[2]

        async def before(number: int, chunk: mt.AudioChunk) -> None:
            if chunk.duration_seconds < 1.05:
                raise QUOTA
            await release.wait()

        engine = Teller(before=before)
        async with batch_of(engine, chunk_seconds=60.0).run(late()) as outcomes:
            first = await anext(outcomes)
            assert isinstance(first.error, mt.TranscriberFailedError)
            gate.set()
            await given.wait()
            release.set()
            assert (await anext(outcomes)).error is None
            with pytest.raises(mt.TranscriberFailedError, match="1500 a day"):
                await anext(outcomes)
        assert engine.heard_seconds == [pytest.approx(1.1)]

    run(main)


def test_a_quota_that_is_used_up_while_nothing_more_comes(run: Run, tones: list[Path], store: mt.JobStore) -> None:
    """The iteration ends although the iterable, which waits, does not."""

    async def main() -> None:
        async def idle() -> AsyncIterator[Path]:
            yield tones[0]
            await anyio.sleep_forever()

        with anyio.fail_after(20), pytest.raises(mt.TranscriberFailedError, match="1500 a day"):
            async with batch_of(Broken(QUOTA), store).run(idle()) as outcomes:
                async for _ in outcomes:
                    pass

    run(main)


def test_a_store_that_breaks_ends_the_batch(run: Run, tones: list[Path], store: mt.JobStore) -> None:
    """What was in work comes out with its transcript, which says so; the StoreError comes from the iteration."""

    async def main() -> None:
        await store.forget("https://a")
        with other_program(store.path) as other:

            def break_it(number: int, chunk: mt.AudioChunk) -> None:
                if number == 2:
                    other.execute("BEGIN IMMEDIATE")

            found = []
            impatient = mt.JobStore(store.path, busy_timeout_seconds=0.05)
            batch = batch_of(Teller(before=break_it), impatient, max_batch_size=1, chunk_seconds=60.0)
            with pytest.raises(mt.StoreError) as caught:
                async with batch.run(tones) as outcomes:
                    async for outcome in outcomes:
                        found.append(outcome)  # noqa: PERF401 - what came before the error counts
            assert caught.value.reason == "locked"
            assert errors_of(found) == [NONE, NONE, NONE, mt.StoreError]
            third = found[2].transcript
            assert third is not None
            assert third.store_error is not None
            other.execute("ROLLBACK")
        assert errors_of(await all_of(batch_of(Teller(), store), tones)) == [NONE] * 6

    run(main)


def test_a_store_that_cannot_be_used_is_said_before_anything_is_begun(
    run: Run, tones: list[Path], tmp_path: Path
) -> None:
    """From the block's beginning; no source is taken."""
    endless = Endless(tones[0])

    async def main() -> None:
        with pytest.raises(mt.StoreError) as caught:
            async with batch_of(Teller(), mt.JobStore(tmp_path / "missing" / "jobs.sqlite")).run(endless.sync()):
                pass
        assert (caught.value.reason, endless.taken) == ("refused", 0)

    run(main)


@pytest.mark.parametrize("shape", [b"{", b"[]", b"\xff"])
def test_a_record_that_is_damaged_ends_the_batch_with_a_store_error(
    run: Run, tones: list[Path], store: mt.JobStore, shape: bytes
) -> None:
    """And not with whatever the bytes led to."""

    async def main() -> None:
        await all_of(batch_of(Teller(), store), tones[:1])
        with other_program(store.path) as other:
            other.execute(f"UPDATE chunks SET result = x'{shape.hex()}'")
        with pytest.raises(mt.StoreError, match="cannot be read"):
            await all_of(batch_of(Teller(), store), tones[:1])

    run(main)


def test_a_url_that_is_known_to_be_bad_is_left_for_a_later_run(run: Run, store: mt.JobStore, server: Server) -> None:
    """It is not asked for again meanwhile, and no attempt is counted."""
    url = server.url("/missing?token=secret")

    async def main() -> None:
        (first,) = await all_of(batch_of(Teller(), store), [url])
        assert isinstance(first.error, mt.HTTPStatusError)
        requests = len(server.requests)
        (other,) = await all_of(batch_of(Teller(), store), [url], language="de")
        assert isinstance(other.error, mt.KnownBadUrlError)
        assert other.error.status_code == 404
        assert server.url("/missing") in str(other.error)
        assert other.attempts == 0
        assert len(server.requests) == requests

    run(main)


def test_what_is_kept_shows_no_url_no_path_and_no_key(
    run: Run, tones: list[Path], tmp_path: Path, store: mt.JobStore, server: Server
) -> None:
    """Not in the file, nor in those beside it, while it is open: of sources that are done, and of failed ones."""
    good = tones[0].read_bytes()
    server.routes["/very-private"] = lambda exchange: exchange.answer(good)
    server.routes["/moved"] = lambda exchange: exchange.answer(
        status="302 Found", Location=server.url("/other-place?token=geheim")
    )
    sources: list[Any] = [
        server.url("/very-private?token=geheim"),
        server.url("/missing?token=geheim"),
        server.url("/moved"),
        "http://127.0.0.1:1/refused",
        tones[1],
        tmp_path / "lost-file.wav",
    ]
    (tmp_path / "lost-file.wav").write_bytes(b"no audio")

    async def main() -> None:
        async with store:
            found = await all_of(batch_of(Teller(cache_key="key-of-engine"), store, max_attempts=1), sources)
            assert sum(outcome.error is None for outcome in found) == 2
            kept = b"".join(each.read_bytes() for each in tmp_path.glob("jobs.sqlite*"))
        assert b"at0" in kept  # the words themselves
        for secret in ("very-private", "geheim", "missing", "127.0.0.1", "refused", "moved", "other-place",
                       "lost-file", "1.wav", str(tmp_path), "key-of-engine", "teller"):  # fmt: skip
            assert secret.encode() not in kept, secret
        again = await all_of(batch_of(Teller(cache_key="key-of-engine"), store), sources)
        for index, name in ((3, "127.0.0.1:1/refused"), (5, str(tmp_path / "lost-file.wav"))):
            error = again[index].error
            assert isinstance(error, mt.DeadLetterError)
            assert name in error.reason

    run(main)


# -- several at once, cancelled, dead


def test_the_same_source_twice_is_heard_once(run: Run, tones: list[Path], store: mt.JobStore, server: Server) -> None:
    """A URL is not even fetched twice; both have the transcript."""
    body = tones[2].read_bytes()
    server.routes["/a"] = lambda exchange: exchange.answer(body)
    engine = Teller()

    async def main() -> None:
        sources = [server.url("/a")] * 3 + [tones[3]] * 2
        found = await all_of(batch_of(engine, store), sources)
        assert errors_of(found) == [NONE] * 5
        assert found[0].transcript == found[1].transcript == found[2].transcript
        assert len(server.gets) == 1
        whole = Teller()
        await all_of(batch_of(whole), tones[2:4])
        assert len(engine.asked) == len(whole.asked)

    run(main)


def test_cancelled_in_the_middle_nothing_is_left_but_what_is_stored(
    run: Run, tones: list[Path], store: mt.JobStore
) -> None:
    """Another run asks only for what is missing, and nothing counts as an attempt or as a death."""
    whole, first, second = Teller(), Teller(), Teller()

    async def main() -> None:
        await all_of(batch_of(whole), tones)
        with anyio.CancelScope() as scope:

            def cancel(number: int, chunk: mt.AudioChunk) -> Any:
                if number == 4:
                    scope.cancel()
                    return anyio.sleep_forever()
                return None

            first._before = cancel  # noqa: SLF001 - it needs the scope
            async with batch_of(first, store, max_batch_size=2).run(tones) as outcomes:
                async for _ in outcomes:
                    pass
        assert scope.cancelled_caught
        found = await all_of(batch_of(second, store), tones)
        assert errors_of(found) == [NONE] * 6
        assert {outcome.attempts for outcome in found} == {0}
        assert len(first.asked) + len(second.asked) == len(whole.asked)
        assert await batches_of(store) == [("default", 1)]

    run(main)


def test_leaving_the_loop_stops_the_work(run: Run, tones: list[Path], store: mt.JobStore) -> None:
    """The block ends at once, although an engine would not; the batch is unfinished, and goes on."""

    async def main() -> None:
        hangs = Teller(before=lambda number, chunk: anyio.sleep_forever() if number else None)
        with anyio.fail_after(20):
            async with batch_of(hangs, store, chunk_seconds=60.0).run(tones) as outcomes:
                async for _ in outcomes:
                    break
        assert await batches_of(store) == [("default", 0)]
        assert errors_of(await all_of(batch_of(Teller(), store), tones)) == [NONE] * 6
        assert await batches_of(store) == [("default", 1)]
        await all_of(batch_of(Teller(), store), tones)
        assert await batches_of(store) == [("default", 1)] * 2

    run(main)


_DIES = """
import asyncio, os, pathlib, sys, anyio, anyio._backends._asyncio, av, memsafe_transcribe as mt
from memsafe_transcribe._store import batches
batches.MAX_DEATHS = 4  # each takes its time
mt.BatchTranscriber, mt.ChunkedTranscriber, mt.JobStore  # loaded once for all
class Engine:
    capabilities = mt.Capabilities(cache_key="teller", max_chunk_seconds=60.0)
    def __init__(self, after):
        self.after = after
    async def transcribe(self, chunk, context):
        if self.after < 0:
            raise mt.TranscriberQuotaError("none left")
        if self.after == 0:
            os._exit(9)
        self.after -= 1
        return "theirs"

async def main(after):
    store = mt.JobStore(sys.argv[1])
    transcriber = mt.ChunkedTranscriber(Engine(after), chunk_seconds=1.0, store=store, isolation="thread")
    async with mt.BatchTranscriber(transcriber).run([pathlib.Path(sys.argv[2])]) as outcomes:
        async for outcome in outcomes:
            if after < 0:
                os._exit(3)
            assert isinstance(outcome.error, mt.DeadLetterError), outcome
            print(outcome.error, flush=True)

for after in map(int, sys.argv[3].split(",")):
    pid = os.fork()
    if pid == 0:
        anyio.run(main, after)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def test_a_source_at_which_processes_die_is_given_up(tmp_path: Path, store: mt.JobStore) -> None:
    """After so many in a row without another chunk: one in between that got on, or lived, lets it count anew."""
    path = write_wav(tmp_path / "deadly.wav", tone_samples(4.0))
    most = 4
    after = [0, 0, 1, 0, 0, -1, *[0] * most, 0]
    command = [sys.executable, "-c", _DIES, str(store.path), str(path), ",".join(map(str, after))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    *deaths, message, last = done.stdout.splitlines()
    assert deaths == [*["9"] * 5, "3", *["9"] * most]
    assert last == "0"
    assert f"{most} processes in a row died" in message

    async def main() -> None:
        (dead,) = await all_of(batch_of(Teller(), store), [path])
        assert isinstance(dead.error, mt.DeadLetterError)
        (alive,) = await all_of(batch_of(Teller(), store), [path], retry_failed=True)
        assert alive.error is None

    anyio.run(main)


_RUNS = """
import sys, anyio, pathlib, memsafe_transcribe as mt
asked = []
class Engine:
    capabilities = mt.Capabilities(cache_key="teller", max_chunk_seconds=60.0)
    async def transcribe(self, chunk, context):
        asked.append(1)
        if len(asked) == 1:
            print("at work", flush=True)
            assert await anyio.to_thread.run_sync(sys.stdin.readline)
        return "theirs"

async def main():
    store = mt.JobStore(sys.argv[1])
    transcriber = mt.ChunkedTranscriber(Engine(), chunk_seconds=60.0, store=store, isolation="thread")
    async with mt.BatchTranscriber(transcriber, max_batch_size=2).run(map(pathlib.Path, sys.argv[2:])) as outcomes:
        assert all([outcome.error is None async for outcome in outcomes])
    print(len(asked), flush=True)
anyio.run(main)
"""


@contextmanager
def other_run(store: mt.JobStore, sources: list[Path]) -> Iterator["subprocess.Popen[str]"]:
    """Another process that runs the same batch, until it is told to go on with its first source."""
    command = [sys.executable, "-c", _RUNS, str(store.path), *map(str, sources)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        yield process


def test_two_processes_run_the_same_batch(run: Run, tones: list[Path], store: mt.JobStore) -> None:
    """Each source is asked for by one of them, and both give out all; it is one batch, finished when both are."""
    engine = Teller()

    async def main() -> None:
        with other_run(store, tones) as other:
            found = []
            async with batch_of(engine, store, chunk_seconds=60.0, max_batch_size=3).run(tones) as outcomes:
                async for outcome in outcomes:
                    found.append(outcome)
                    if len(found) == 1:
                        print(file=other.stdin, flush=True)
            assert errors_of(found) == [NONE] * 6
            assert other.stdout is not None
            assert int(other.stdout.readline()) + len(engine.asked) == 6
        assert await batches_of(store) == [("default", 1)]

    run(main)


# -- how far it is


def test_progress_tells_the_rate_and_the_time_left(run: Run, tones: list[Path]) -> None:
    """With a total where the iterable has one; what is in work is named, and its figures never run backwards."""
    seen: list[mt.BatchProgress] = []

    async def main() -> None:
        await all_of(batch_of(Teller(), max_batch_size=2), tones, on_progress=seen.append)
        assert {each.total for each in seen} == {6}
        last = seen[-1]
        assert (last.done, last.failed, last.running) == (6, 0, ())
        assert last.seconds_left == 0
        assert last.sources_per_second == pytest.approx(6 / last.elapsed_seconds)
        for before, after in pairwise(seen):
            assert (before.done, before.elapsed_seconds) <= (after.done, after.elapsed_seconds)
            assert len(after.running) <= 2
        half = next(each for each in seen if each.done == 3)
        assert half.seconds_left == pytest.approx(3 / half.sources_per_second)
        assert seen[0].seconds_left is None
        assert str(tones[0]) in {each.name for progress in seen for each in progress.running}
        seen.clear()
        await all_of(batch_of(Teller()), iter(tones), on_progress=seen.append)
        assert {(each.total, each.seconds_left) for each in seen} == {(None, None)}

    run(main)


@pytest.mark.parametrize("moment", ["in work", "given out"])
def test_an_on_progress_that_raises_ends_the_run_and_blames_no_source(
    run: Run, tones: list[Path], store: mt.JobStore, moment: str
) -> None:
    """Its error comes from the iteration; each source that was in work is transcribed, and none is a dead letter."""

    def broken(progress: mt.BatchProgress) -> None:
        if moment == "in work" or progress.done == 2:
            raise LookupError("broken bar")

    async def main() -> None:
        found = []
        async with batch_of(Teller(), store).run(tones, on_progress=broken) as outcomes:
            with pytest.raises(LookupError, match="broken bar"):
                async for outcome in outcomes:
                    found.append(outcome)  # noqa: PERF401 - what came before the error counts
        assert errors_of(found) == [NONE] * len(found)
        assert found
        assert errors_of(await all_of(batch_of(Teller(), store), tones)) == [NONE] * 6

    run(main)
