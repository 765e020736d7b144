"""Each check of the contract fails for the engine that breaks its promise, and for no other."""

import inspect
import re
import threading
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._audio.encoding import wav
from memsafe_transcribe.testing import FakeEngine, TranscriberContract, _bench, _footprint, _running, _sounds

from . import bad_engines

CHECKS = sorted(name for name in dir(TranscriberContract) if name.startswith("test_"))

# Who breaks what. Engines that could not do so without failing elsewhere have tests of their own below.
BREAKS = {
    bad_engines.Changes: "test_capabilities_are_sane_and_stable",
    bad_engines.OneByOne: "test_capabilities_are_sane_and_stable",
    bad_engines.TooShort: "test_takes_the_longest_and_the_shortest_chunk",
    bad_engines.NoPrompt: "test_accepts_every_context",
    bad_engines.Hallucinates: "test_silence_is_no_text",
    bad_engines.Deaf: "test_speech_is_heard",
    bad_engines.WrongClock: "test_times_lie_within_the_chunk_and_in_order",
    bad_engines.Backwards: "test_times_lie_within_the_chunk_and_in_order",
    bad_engines.TextOnly: "test_times_are_as_fine_as_declared",
    bad_engines.Exits: "test_raises_only_exceptions",
    bad_engines.BrokenByDamage: "test_raises_only_exceptions",
    bad_engines.Shielded: "test_a_cancelled_call_ends_promptly",
    bad_engines.MixesUp: "test_calls_at_once_do_not_mix_up",
    bad_engines.MixesThreadsUp: "test_is_thread_safe_as_declared",
    bad_engines.Locked: "test_declared_concurrency_is_real",
    bad_engines.Blocks: "test_the_event_loop_goes_on",
    bad_engines.Greedy: "test_a_call_takes_the_memory_that_is_declared",
    bad_engines.GreedyChild: "test_a_call_takes_the_memory_that_is_declared",
    bad_engines.Heavy: "test_it_keeps_no_more_than_resident_bytes",
    bad_engines.Clinging: "test_it_keeps_no_more_than_resident_bytes",
    bad_engines.ClosesOnce: "test_aclose_can_be_repeated_and_the_engine_used_again",
    bad_engines.ClosedForEver: "test_aclose_can_be_repeated_and_the_engine_used_again",
    bad_engines.LeavesThread: "test_leaves_nothing_behind",
    bad_engines.LeavesDescriptor: "test_leaves_nothing_behind",
    bad_engines.LeavesChild: "test_leaves_nothing_behind",
    bad_engines.LeavesTask: "test_leaves_nothing_behind",
}


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What holds for a busy machine takes too long here."""
    monkeypatch.setattr(_running, "_PROMPT_SECONDS", 1.0)
    monkeypatch.setattr(_running, "_LOOP_SECONDS", 0.5)
    monkeypatch.setattr(_footprint, "_SETTLE_SECONDS", 0.3)
    monkeypatch.setattr(_bench, "_SETTLE_SECONDS", 0.2)
    monkeypatch.setattr(_bench, "_GRACE_SECONDS", 0.5)
    yield
    while bad_engines.undo:
        bad_engines.undo.pop(0)()


def failures(make_engine: Any, checks: list[str] = CHECKS, says: bytes | None = None) -> dict[str, str]:
    """Which checks fail for an engine, as "name[backend]", and what they say."""

    class Contract(TranscriberContract):
        call_seconds = 20.0

        def make_engine(self) -> Any:
            return make_engine()

        def speech(self) -> bytes:
            return _sounds.chunk_of(_sounds.babble(3 * 16_000)).data if says is None else says

    failed = {}
    for name in checks:
        takes_backend = "backend" in inspect.signature(getattr(Contract, name)).parameters
        for backend in ("asyncio", "trio") if takes_backend else (None,):
            try:
                getattr(Contract(), name)(*filter(None, [backend]))
            except AssertionError as error:
                failed[f"{name}[{backend}]"] = str(error)
            except pytest.skip.Exception:
                continue
    return failed


@pytest.mark.parametrize("engine", [bad_engines.Good, bad_engines.GoodSync])
def test_a_good_engine_passes(engine: Any) -> None:
    """Async and sync."""
    assert failures(engine) == {}


def test_a_function_passes() -> None:
    """It has nothing to declare."""
    assert failures(lambda: lambda chunk: "word" if any(chunk.data[44:]) else "") == {}


def test_the_fake_engine_passes() -> None:
    """What hosts test with is an engine like any other."""
    assert failures(lambda: FakeEngine([""]), [name for name in CHECKS if name != "test_speech_is_heard"]) == {}


@pytest.mark.parametrize("engine", BREAKS, ids=lambda engine: engine.__name__)
def test_a_broken_promise_fails_its_check_and_no_other(engine: Any) -> None:
    """On both event loops, where it is about those."""
    failed = failures(engine)
    assert {name.partition("[")[0] for name in failed} == {BREAKS[engine]}, failed
    takes_backend = "backend" in inspect.signature(getattr(TranscriberContract, BREAKS[engine])).parameters
    assert len(failed) == 1 + takes_backend


def test_every_check_has_an_engine_that_fails_it() -> None:
    """So none of them is for show."""
    assert set(BREAKS.values()) == set(CHECKS)


def test_every_check_says_in_a_line_what_it_proves() -> None:
    """It is what its reader sees first."""
    for name in CHECKS:
        assert (getattr(TranscriberContract, name).__doc__ or "").strip(), name


def test_an_engine_of_one_event_loop_fails_on_the_other() -> None:
    """All that runs on trio, and nothing else."""
    failed = failures(bad_engines.AsyncioOnly)
    assert "test_takes_the_longest_and_the_shortest_chunk[trio]" in failed
    assert all(name.endswith("[trio]") for name in failed)
    assert all("on asyncio and on trio" in message for message in failed.values())


def test_an_engine_that_cancelling_breaks_is_found() -> None:
    """The next chunk is asked for."""
    failed = failures(bad_engines.UselessOnceCancelled, ["test_a_cancelled_call_ends_promptly"])
    assert all("a chunk after a cancelled call" in message for message in failed.values())
    assert len(failed) == 2


def test_a_concurrency_that_was_not_seen_is_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that answers at once, or does not look at the audio, cannot be watched; the reason says what to do."""

    class Contract(TranscriberContract):
        def make_engine(self) -> Any:
            return bad_engines.Good()

    with pytest.raises(pytest.skip.Exception, match=r"^a call took \S+ s: .*let your test server wait 0\.3 s"):
        Contract().test_declared_concurrency_is_real("asyncio")
    monkeypatch.setattr(_running, "_TELLING_SECONDS", 0.0)
    monkeypatch.setattr(Contract, "make_engine", lambda self: FakeEngine(capabilities=bad_engines.Good.capabilities))
    with pytest.raises(pytest.skip.Exception, match=r"^no call looked at chunk\.data"):
        Contract().test_declared_concurrency_is_real("asyncio")


def test_a_concurrency_that_is_seen_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that wait for each other can only be side by side."""
    monkeypatch.setattr(_running, "_TELLING_SECONDS", 0.0)

    class Meets(bad_engines.Good):
        calls = 0

        async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
            assert chunk.data
            self.calls += 1
            if self.calls > 2 and self.calls % 2:
                self.met = anyio.Event()
                await self.met.wait()
            elif self.calls > 2:
                self.met.set()
            return mt.ChunkResult()

    class Contract(TranscriberContract):
        def make_engine(self) -> Any:
            return Meets()

    Contract().test_declared_concurrency_is_real("trio")


def test_what_counts_as_the_engines_memory_is_said() -> None:
    """Its author's own test server does, where it runs in the same process."""
    (message,) = failures(bad_engines.Greedy, ["test_a_call_takes_the_memory_that_is_declared"]).values()
    assert "a test server in this process counts" in message


@pytest.mark.parametrize("error", [mt.TranscriberUnavailableError("busy"), ConnectionRefusedError("refused")])
def test_a_service_that_is_not_there_is_asked_after(error: Exception) -> None:
    """It is mostly the test server that was not started."""

    def engine(chunk: mt.AudioChunk) -> str:
        raise error

    (message,) = failures(lambda: engine, ["test_silence_is_no_text"]).values()
    assert "Is the test server running that it speaks to?" in message
    (message,) = failures(lambda: lambda chunk: 1 / 0, ["test_silence_is_no_text"]).values()
    assert "server" not in message


@pytest.mark.parametrize("is_set_later", [False, True])
def test_a_wait_that_is_no_number_fails(is_set_later: bool) -> None:
    """Made with a header's text, or given it later: for damaged chunks, which a service refuses."""

    def engine(chunk: mt.AudioChunk) -> str:
        if chunk.data.startswith(b"RIFF") and len(chunk.data) > 50:
            return ""
        wait: Any = "7"
        if not is_set_later:
            raise mt.TranscriberUnavailableError("busy", retry_after_seconds=wait)
        error = mt.TranscriberUnavailableError("busy")
        error.retry_after_seconds = wait
        raise error

    (message,) = failures(lambda: engine, ["test_raises_only_exceptions"]).values()
    assert "retry_after_seconds must be a number of seconds or None, got '7'" in message


def test_an_engine_that_never_returns_is_given_up() -> None:
    """Its thread cannot be ended, so the check does not wait for it."""
    ended = threading.Event()
    bad_engines.undo.append(ended.set)

    class Contract(TranscriberContract):
        call_seconds = 0.2

        def make_engine(self) -> Any:
            return lambda chunk: str(ended.wait())

    with pytest.raises(
        AssertionError, match=r"after call_seconds=0\.2 s: it cannot be interrupted, so it needs a time"
    ):
        Contract().test_silence_is_no_text()


@pytest.mark.parametrize(
    ("make_engine", "message"),
    [
        (lambda: bad_engines.Good, "make_engine.. must return an engine"),
        (lambda: None, "make_engine.. must return an engine"),
        (lambda: lambda chunk: None, "it returned NoneType, not str or ChunkResult"),
    ],
)
def test_what_is_no_engine_is_said_at_once(make_engine: Any, message: str) -> None:
    """By each check."""
    (said,) = failures(make_engine, ["test_silence_is_no_text"]).values()
    assert re.search(message, said)


def test_a_class_without_make_engine_says_what_it_needs() -> None:
    """It is the one thing that has to be there."""
    with pytest.raises(NotImplementedError, match="make_engine"):
        TranscriberContract().test_silence_is_no_text()


@pytest.mark.parametrize("says", [b"ID3", wav([bytes(8)], 8_000), "hello.wav"], ids=["MP3", "8 kHz", "a path"])
def test_speech_of_another_kind_is_said_once(says: Any) -> None:
    """By the check that is about it; the others do without."""
    failed = failures(bad_engines.Good, [name for name in CHECKS if "memory" not in name], says)
    assert list(failed) == ["test_speech_is_heard[None]"]
    assert "speech() " in failed["test_speech_is_heard[None]"]


def test_speech_has_to_be_a_wav_file_of_our_kind() -> None:
    """The message says which."""
    with pytest.raises(ValueError, match="no WAV file"):
        _sounds.samples_of(b"ID3")
    with pytest.raises(ValueError, match=r"\(8000, 1, 2\), and \(16000, 1, 2\) is wanted"):
        _sounds.samples_of(wav([bytes(8)], 8_000))
