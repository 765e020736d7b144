"""Which URLs are left alone for a while, and who waits for whom to find out."""

import pickle
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import anyio
import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._download.failures import Flights, failed_url, url_digest

from ..conftest import Run
from ..support.server import Server
from .test_downloader import ANY

URL = "http://h/talk.mp3?key=secret"
SHOWN = "http://h/talk.mp3"
NOW = 1_000_000.0
MINUTE, WEEK = 60, 7 * 86_400
_WAIT_SECONDS = 30.0


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = NOW

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What the room takes for the time."""
    clock = Clock()
    monkeypatch.setattr("memsafe_transcribe._download.failures.time", clock)
    return clock


def failed(until: float = NOW + MINUTE) -> mt.FailedUrl:
    return mt.FailedUrl(f"{SHOWN}: the server answered 404", 404, until)


def not_found() -> mt.HTTPStatusError:
    return mt.HTTPStatusError(f"{SHOWN}: the server answered 404", url=SHOWN, status_code=404)


# -- what is remembered, in memory


def test_a_failed_url_is_known_until_its_time_is_over(run: Run, clock: Clock) -> None:
    """To the second."""

    async def main() -> None:
        store = mt.FailedUrls()
        await store.remember(URL, failed())
        clock.now = NOW + MINUTE - 1
        assert await store.find(URL) == failed()
        assert await store.find(SHOWN) is None
        clock.now = NOW + MINUTE
        assert await store.find(URL) is None

    run(main)


def test_of_too_many_the_oldest_are_forgotten(run: Run, clock: Clock) -> None:
    """The one that failed again is not the oldest any more."""

    async def main() -> None:
        store = mt.FailedUrls(max_entries=2)
        for url in ("a", "b", "a", "c"):
            await store.remember(url, failed())
        assert [await store.find(url) for url in "abc"] == [failed(), None, failed()]

    run(main)


def test_a_thousand_more_than_allowed_take_no_more_room(run: Run, clock: Clock) -> None:
    """Strangers may name as many URLs as they like."""

    async def main() -> None:
        store = mt.FailedUrls(max_entries=10)
        for number in range(1000):
            await store.remember(str(number), failed())
        found = [number for number in range(1000) if await store.find(str(number)) is not None]
        assert found == list(range(990, 1000))

    run(main)


def test_what_is_forgotten_is_asked_again(run: Run, clock: Clock) -> None:
    """And only that; to forget what was never known does nothing."""

    async def main() -> None:
        store = mt.FailedUrls()
        await store.remember(URL, failed())
        await store.remember("other", failed())
        await store.forget(URL)
        await store.forget("never known")
        assert (await store.find(URL), await store.find("other")) == (None, failed())

    run(main)


def test_what_is_kept_shows_nothing_of_the_url(run: Run, clock: Clock) -> None:
    """Neither in the clear nor as a hash that a stranger could compute: each store has a key of its own."""

    async def main() -> None:
        stores = mt.FailedUrls(), mt.FailedUrls()
        for store in stores:
            await store.remember(URL, failed())
        first, second = (store._failed for store in stores)  # noqa: SLF001
        assert list(first) != list(second)
        assert b"secret" not in pickle.dumps([first, second])

    run(main)


def test_a_digest_is_of_the_whole_url_and_the_key() -> None:
    """Any text has one, even what cannot be encoded."""
    texts = [URL, SHOWN, URL + "x", "", "\ud800", "\ud801"]
    digests = {url_digest(key, text) for key in (bytes(32), b"x" * 32) for text in texts}
    assert len(digests) == 2 * len(texts)
    assert {len(digest) for digest in digests} == {32}


def test_a_store_for_nothing_is_a_bad_argument() -> None:
    """It would forget each URL at once."""
    with pytest.raises(ValueError, match="max_entries must be at least 1, got 0"):
        mt.FailedUrls(max_entries=0)


def test_the_default_store_stays_small(run: Run, clock: Clock) -> None:
    """As many bytes for each URL as its docstring says, whatever the URL's length."""

    async def main() -> None:
        store = mt.FailedUrls()
        for number in range(100):
            await store.remember(f"http://h/{number}?{'x' * 100_000}", failed())
        kept = store._failed  # noqa: SLF001
        each = sum(sys.getsizeof(part) for key, value in kept.items() for part in (key, value, value.reason)) / 100
        assert each + sys.getsizeof(kept) / 100 < 600

    run(main)


# -- what is remembered of each kind of error

FATES: list[tuple[type[mt.DownloadError], dict[str, Any], float | None]] = [
    (mt.DownloadError, {}, None),
    (mt.DownloadTooLargeError, {"size_bytes": 2, "max_bytes": 1}, None),
    (mt.UrlBlockedError, {"reason": "private"}, None),
    (mt.ChecksumMismatchError, {"sha256": "a", "expected_sha256": "b"}, None),
    (mt.KnownBadUrlError, {"status_code": 404, "retry_after_seconds": 5.0}, None),
    (mt.SpoolError, {"spool_dir": "/tmp", "errno": 28}, None),
    (mt.DownloadConnectionError, {}, 30),
    (mt.DownloadConnectionError, {"retryable": True}, 30),
    (mt.DownloadTimeoutError, {}, 30),
    (mt.DownloadTimeoutError, {"deadline_seconds": 3600.0}, None),
    (mt.DownloadProtocolError, {}, 5 * MINUTE),
    (mt.TruncatedDownloadError, {}, 30),
    (mt.HTTPStatusError, {"status_code": 404}, WEEK),
    (mt.HTTPStatusError, {"status_code": 410}, WEEK),
    (mt.HTTPStatusError, {"status_code": 403}, 5 * MINUTE),
    (mt.HTTPStatusError, {"status_code": 500}, MINUTE),
    (mt.HTTPStatusError, {"status_code": 429}, MINUTE),
    (mt.HTTPStatusError, {"status_code": 429, "retry_after_seconds": 7.0}, 7),
    (mt.HTTPStatusError, {"status_code": 503, "retry_after_seconds": 1e9}, 60 * MINUTE),
    (mt.HTTPStatusError, {"status_code": 404, "retry_after_seconds": 7.0}, WEEK),
]


def every_kind(kind: type[mt.DownloadError] = mt.DownloadError) -> Iterator[type[mt.DownloadError]]:
    """A kind of error, and all below it that are the library's own."""
    if kind.__module__ == "memsafe_transcribe":
        yield kind
    for below in kind.__subclasses__():
        yield from every_kind(below)


def test_the_fate_of_every_kind_of_error_is_decided() -> None:
    """Who adds one has to say here whether its URL is asked again."""
    assert {kind for kind, *_ in FATES} == set(every_kind())


@pytest.mark.parametrize(("kind", "figures", "seconds"), FATES, ids=lambda each: getattr(each, "__name__", None))
def test_what_is_remembered_of_an_error(
    kind: type[mt.DownloadError], figures: dict[str, Any], seconds: float | None
) -> None:
    """Its message, or its status, and for how long; nothing where it was us who refused, or the caller's deadline."""
    error = kind("what happened", url=SHOWN, **figures)
    found = failed_url(error, NOW)
    if seconds is None:
        assert found is None
    else:
        status_code = figures.get("status_code")
        reason = "what happened" if status_code is None else f"{SHOWN}: the server answered {status_code}"
        assert found == mt.FailedUrl(reason, status_code, NOW + seconds)


# -- several at the same time


class Sky:
    """Some flights, and who is up."""

    def __init__(self, store: mt.FailedUrlStore | None = None) -> None:
        self.flights = Flights(store or mt.FailedUrls())
        self.up: list[str] = []
        self.refused: dict[str, mt.KnownBadUrlError] = {}

    async def fly(
        self,
        name: str,
        lands: anyio.Event,
        error: Exception | None = None,
        *,
        url: str = URL,
        ask_anyway: bool = False,
        keep: bool = True,
    ) -> None:
        """Be up until it lands, then end in an error if there is one; or be refused."""
        try:
            async with self.flights.flight(url, ask_anyway=ask_anyway, keep=keep):
                self.up.append(name)
                try:
                    await lands.wait()
                finally:
                    self.up.remove(name)
                if error is not None:
                    raise error
        except mt.KnownBadUrlError as refusal:
            self.refused[name] = refusal
        except Exception as raised:
            if raised is not error:
                raise


def test_while_the_first_is_under_way_the_rest_waits_and_then_goes_on_together(run: Run) -> None:
    """When it has ended well, they wait for one another no longer; a later one is the first of its own."""

    async def main() -> None:
        sky, first, rest = Sky(), anyio.Event(), anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sky.fly, "first", first)
            await anyio.wait_all_tasks_blocked()
            for name in "abc":
                tasks.start_soon(sky.fly, name, rest)
            await anyio.wait_all_tasks_blocked()
            assert sky.up == ["first"]
            first.set()
            await anyio.wait_all_tasks_blocked()
            assert sorted(sky.up) == ["a", "b", "c"]
            rest.set()
        later, last = anyio.Event(), anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sky.fly, "later", later)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(sky.fly, "last", last)
            await anyio.wait_all_tasks_blocked()
            assert sky.up == ["later"]
            later.set()
            last.set()
        assert sky.refused == {}

    run(main)


def test_a_failure_that_is_remembered_reaches_all_that_wait(run: Run, clock: Clock) -> None:
    """None of them asks; nor does the next, until the time is over."""

    async def main() -> None:
        sky, lands = Sky(), anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sky.fly, "first", lands, not_found())
            await anyio.wait_all_tasks_blocked()
            for name in "abc":
                tasks.start_soon(sky.fly, name, anyio.Event())
            await anyio.wait_all_tasks_blocked()
            lands.set()
        assert sorted(sky.refused) == ["a", "b", "c"]
        await sky.fly("later", lands)
        assert "later" in sky.refused
        clock.now += WEEK
        await sky.fly("much later", lands)
        assert "much later" not in sky.refused

    run(main)


def test_a_known_bad_url_is_told_with_its_figures(run: Run, clock: Clock) -> None:
    """What the server had said, when it is asked again, and how to ask at once; not the query. It survives pickling."""

    async def main() -> mt.KnownBadUrlError:
        sky, lands = Sky(), anyio.Event()
        lands.set()
        await sky.fly("first", lands, not_found())
        clock.now += 100
        await sky.fly("later", lands)
        return sky.refused["later"]

    error = run(main)
    again = pickle.loads(pickle.dumps(error))
    assert (again.url, again.status_code, again.retry_after_seconds) == (SHOWN, 404, WEEK - 100)
    assert str(error) == (
        f"{SHOWN}: the server answered 404 "
        f"(known; it is asked again in {WEEK - 100} s, or at once with ask_anyway=True)"
    )
    assert not error.retryable


def test_a_time_that_ends_while_it_is_told_is_not_negative(run: Run, clock: Clock) -> None:
    """A store of the host's own may be a moment late."""

    class Late(Notebook):
        async def find(self, url: str) -> mt.FailedUrl | None:
            return failed(NOW - 1)

    async def main() -> None:
        sky = Sky(Late())
        await sky.fly("late", anyio.Event())
        assert sky.refused["late"].retry_after_seconds == 0

    run(main)


@pytest.mark.parametrize(
    "error",
    [mt.DownloadTooLargeError("too large", url=SHOWN, size_bytes=2, max_bytes=1), ValueError("a host's own")],
    ids=["our own refusal", "another error"],
)
def test_after_a_failure_that_says_nothing_the_next_one_is_the_first(run: Run, error: Exception) -> None:
    """One after the other, until one of them finds out."""

    async def main() -> None:
        sky = Sky()
        lands = {name: anyio.Event() for name in "abc"}
        async with anyio.create_task_group() as tasks:
            for name in "abc":
                tasks.start_soon(sky.fly, name, lands[name], error)
            for _ in "abc":
                await anyio.wait_all_tasks_blocked()
                (name,) = sky.up
                lands[name].set()
        assert sky.refused == {}

    run(main)


def test_a_first_one_that_is_cancelled_hands_over(run: Run) -> None:
    """To one of those that wait; the others wait for that."""

    async def main() -> None:
        sky, lands, scope = Sky(), anyio.Event(), anyio.CancelScope()

        async def cancelled() -> None:
            with scope:
                await sky.fly("first", anyio.Event())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancelled)
            await anyio.wait_all_tasks_blocked()
            for name in "ab":
                tasks.start_soon(sky.fly, name, lands)
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
            await anyio.wait_all_tasks_blocked()
            assert len(sky.up) == 1
            lands.set()
        assert sky.refused == {}

    run(main)


def test_one_that_is_cancelled_while_it_waits_harms_nobody(run: Run) -> None:
    """Neither the first nor the others that wait."""

    async def main() -> None:
        sky, lands, scope = Sky(), anyio.Event(), anyio.CancelScope()

        async def cancelled() -> None:
            with scope:
                await sky.fly("cancelled", lands)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sky.fly, "first", lands)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(cancelled)
            tasks.start_soon(sky.fly, "other", lands)
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
            await anyio.wait_all_tasks_blocked()
            assert sky.up == ["first"]
            lands.set()

    run(main)


def test_who_asks_anyway_waits_for_nobody_and_is_waited_for_by_nobody(run: Run) -> None:
    """Not even for what is known."""

    async def main() -> None:
        sky, lands = Sky(), anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sky.fly, "first", lands)
            await anyio.wait_all_tasks_blocked()
            for name in "ab":
                tasks.start_soon(partial(sky.fly, name, lands, ask_anyway=True))
            await anyio.wait_all_tasks_blocked()
            assert sorted(sky.up) == ["a", "b", "first"]
            lands.set()
        await sky.fly("fails", lands, not_found())
        await sky.fly("goes on", lands, ask_anyway=True, keep=False)
        await sky.fly("refused", lands)
        assert list(sky.refused) == ["refused"]

    run(main)


def test_what_was_asked_anyway_is_remembered_or_forgotten(run: Run, clock: Clock) -> None:
    """A failure renews the time, a success ends it."""

    async def main() -> None:
        sky, lands = Sky(), anyio.Event()
        lands.set()
        await sky.fly("first", lands, not_found())
        clock.now += 1000
        await sky.fly("again", lands, not_found(), ask_anyway=True)
        await sky.fly("refused", lands)
        assert sky.refused["refused"].retry_after_seconds == WEEK
        await sky.fly("better", lands, ask_anyway=True)
        await sky.fly("allowed", lands)
        assert list(sky.refused) == ["refused"]

    run(main)


def test_what_is_not_to_be_kept_is_not_remembered(run: Run) -> None:
    """Those that wait do not hear of it: the next of them is the first."""

    async def main() -> None:
        store = Notebook()
        sky, lands = Sky(store), anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(sky.fly, "first", lands, not_found(), keep=False))
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(sky.fly, "next", lands)
            await anyio.wait_all_tasks_blocked()
            lands.set()
        await sky.fly("anyway", lands, not_found(), ask_anyway=True, keep=False)
        await sky.fly("better", lands, ask_anyway=True, keep=False)
        assert (sky.refused, store.known, store.forgotten) == ({}, {}, [URL])  # by the next one

    run(main)


def test_urls_that_differ_do_not_wait_for_one_another(run: Run) -> None:
    """Not even if only the query differs."""

    async def main() -> None:
        sky, lands = Sky(), anyio.Event()
        async with anyio.create_task_group() as tasks:
            for name in "abc":
                tasks.start_soon(partial(sky.fly, name, lands, url=URL + name))
            await anyio.wait_all_tasks_blocked()
            assert sorted(sky.up) == ["a", "b", "c"]
            lands.set()

    run(main)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_event_loops_in_two_threads_do_not_wait_for_one_another(run: Run, backend: str) -> None:
    """Their events are not each other's; what failed is known in both, until it succeeds in one."""

    async def elsewhere(sky: Sky) -> None:
        lands = anyio.Event()
        lands.set()
        with anyio.fail_after(_WAIT_SECONDS):
            await sky.fly("elsewhere", lands)
            await sky.fly("fails", lands, not_found())
            await sky.fly("refused", lands)

    async def main() -> None:
        sky, lands = Sky(), anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sky.fly, "first", lands)
            await anyio.wait_all_tasks_blocked()
            await anyio.to_thread.run_sync(partial(anyio.run, elsewhere, sky, backend=backend))
            assert (sky.up, list(sky.refused)) == (["first"], ["refused"])
            lands.set()
        await sky.fly("later", lands)
        assert list(sky.refused) == ["refused"]

    run(main)


# -- a store of the host's own


class Notebook:
    """The smallest store there can be; it takes a moment for everything."""

    def __init__(self) -> None:
        self.known: dict[str, mt.FailedUrl] = {}
        self.forgotten: list[str] = []

    async def find(self, url: str) -> mt.FailedUrl | None:
        await anyio.lowlevel.checkpoint()
        return self.known.get(url)

    async def remember(self, url: str, failed: mt.FailedUrl) -> None:
        await anyio.lowlevel.checkpoint()
        self.known[url] = failed

    async def forget(self, url: str) -> None:
        await anyio.lowlevel.checkpoint()
        self.forgotten.append(url)
        self.known.pop(url, None)


class CountedNotebook(Notebook):
    """One that can be asked for its length, as a dictionary can."""

    def __len__(self) -> int:
        return len(self.known)


@pytest.mark.parametrize("kind", [Notebook, CountedNotebook])
def test_a_downloader_asks_the_store_that_it_was_given(
    run: Run, server: Server, spool_dir: Any, kind: type[Notebook]
) -> None:
    """Also one that is empty at first. It is given the whole URL; what one downloader finds out, another knows."""
    store = kind()
    url = server.url("/talk.mp3?key=secret")

    async def main() -> None:
        one, other = (mt.SafeDownloader(policy=ANY, spool_dir=spool_dir, failures=store) for _ in range(2))
        with pytest.raises(mt.HTTPStatusError):
            async with one.fetch(url):
                pytest.fail("the file was handed out")
        assert (list(store.known), [failed.status_code for failed in store.known.values()]) == ([url], [404])
        asked = len(server.requests)
        for each in (one, other):
            with pytest.raises(mt.KnownBadUrlError) as caught:
                async with each.fetch(url):
                    pytest.fail("the file was handed out")
            assert "secret" not in str(caught.value) + caught.value.url
        assert len(server.requests) == asked
        server.routes["/talk.mp3"] = lambda exchange: exchange.answer(b"here")
        async with other.fetch(url, ask_anyway=True) as file:
            assert file.size_bytes == 4
        assert (store.known, store.forgotten) == ({}, [url])

    run(main)


def test_a_store_that_fails_leaves_no_flight_behind(run: Run) -> None:
    """The next one is the first, whatever the store had said."""

    class Broken(Notebook):
        async def remember(self, url: str, failed: mt.FailedUrl) -> None:
            raise RuntimeError("the database is away")

    async def main() -> None:
        sky, lands = Sky(Broken()), anyio.Event()
        lands.set()
        with pytest.raises(RuntimeError, match="away"):
            async with sky.flights.flight(URL, ask_anyway=False, keep=True):
                raise not_found()
        with anyio.fail_after(_WAIT_SECONDS):
            await sky.fly("next", lands)

    run(main)
