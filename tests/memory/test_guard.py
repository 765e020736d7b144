"""MemoryGuard: its settings, what it measures in this very process, what it says, and how it waits."""

import mmap
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, strategies as st

import memsafe_transcribe as mt
from memsafe_transcribe._memory import pressure
from memsafe_transcribe._memory.pressure import Term, Thresholds

from ..conftest import Run
from ..support.memory import ToldGauge, tell

MiB = mt.MiB
SLACK = 8 * MiB  # what the test run itself may come to use or give back meanwhile


@pytest.fixture(autouse=True)
def no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEMSAFE_LIMIT", raising=False)


@contextmanager
def touched(size_bytes: int, flags: int = mmap.MAP_PRIVATE) -> Iterator[mmap.mmap]:
    """Memory of this process that is really there; it is given back when closed."""
    with mmap.mmap(-1, size_bytes, flags=flags | mmap.MAP_ANONYMOUS) as block:
        for offset in range(0, size_bytes, mmap.PAGESIZE):
            block[offset] = 1
        yield block


async def settle() -> None:
    """Let the other task run until it waits; more rounds than it needs."""
    for _ in range(20):
        await anyio.lowlevel.checkpoint()


def own_limit(limit_bytes: int) -> mt.MemoryGuard:
    """A guard whose own limit may be filled to the last byte."""
    return mt.MemoryGuard(threshold_percent=100, ceiling_percent=100, limit_bytes=limit_bytes)


def used_bytes() -> int:
    """What this process and its descendants use, by a limit of their own that is the lowest there is."""
    snapshot = own_limit(1).snapshot()
    assert snapshot.source == "limit_bytes"
    return snapshot.used_bytes


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"threshold_percent": 0}, "threshold_percent=0"),
        ({"threshold_percent": 95}, "threshold_percent=95"),
        ({"ceiling_percent": 101}, "ceiling_percent=101"),
        ({"ceiling_percent": 50}, "ceiling_percent=50"),
        ({"limit_bytes": 0}, "limit_bytes must be more than 0 bytes, got 0"),
        ({"limit_bytes": -1}, "limit_bytes must be more than 0 bytes, got -1"),
    ],
)
def test_bad_settings(settings: dict[str, int], named: str) -> None:
    """Percentages out of order and limits that are none are refused at once, by name."""
    with pytest.raises(ValueError, match=named):
        mt.MemoryGuard(**settings)


def test_limit_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """MEMSAFE_LIMIT is a limit like limit_bytes, which goes before it; an empty one is none."""
    monkeypatch.setenv("MEMSAFE_LIMIT", "1MiB")
    snapshot = mt.MemoryGuard().snapshot()
    assert (snapshot.limit_bytes, snapshot.source) == (MiB, "MEMSAFE_LIMIT")
    assert snapshot.binding == "this process and its descendants"
    snapshot = mt.MemoryGuard(limit_bytes=2 * MiB).snapshot()
    assert (snapshot.limit_bytes, snapshot.source) == (2 * MiB, "limit_bytes")
    monkeypatch.setenv("MEMSAFE_LIMIT", "")
    assert mt.MemoryGuard().snapshot().source != "MEMSAFE_LIMIT"


@pytest.mark.parametrize(("text", "named"), [("plenty", "'plenty'"), ("-5MiB", "'-5MiB'"), ("0", "MEMSAFE_LIMIT")])
def test_bad_limit_in_the_environment(monkeypatch: pytest.MonkeyPatch, text: str, named: str) -> None:
    """A setting that cannot be read is an error that shows it, not a limit that is quietly left out."""
    monkeypatch.setenv("MEMSAFE_LIMIT", text)
    with pytest.raises(ValueError, match=named):
        mt.MemoryGuard()


@pytest.mark.parametrize("flags", [mmap.MAP_PRIVATE, mmap.MAP_SHARED])
def test_own_limit_counts_this_process(flags: int) -> None:
    """64 MiB that are touched count, anonymous or shared, and count no longer once they are given back."""
    before = used_bytes()
    with touched(64 * MiB, flags):
        assert abs(used_bytes() - before - 64 * MiB) < SLACK
    assert abs(used_bytes() - before) < SLACK


def test_own_limit_counts_descendants() -> None:
    """What a child's child has touched counts against this process's own limit."""
    grandchild = "block = b'x' * (64 << 20); print(flush=True); input()"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}], check=True)"
    before = used_bytes()
    with subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == b"\n"
        grown = used_bytes() - before
        process.stdin.write(b"\n")
    assert process.returncode == 0
    assert 64 * MiB < grown < 64 * MiB + 40 * MiB  # and two interpreters
    assert abs(used_bytes() - before) < SLACK


def test_what_a_refusal_says() -> None:
    """Limit, use, need, the setting that decided, and where to raise the limit: as text and as figures."""
    limit = used_bytes() + 100 * MiB
    guard = mt.MemoryGuard(threshold_percent=50, ceiling_percent=100, limit_bytes=limit)
    with pytest.raises(mt.MemoryPressureError) as caught:
        guard.check(limit, admitted=False)
    error = caught.value
    assert (error.need_bytes, error.limit_bytes) == (limit, limit)
    assert error.binding == "this process and its descendants"
    assert abs(error.used_bytes - (limit - 100 * MiB)) < SLACK
    for part in (
        f"{limit / MiB:.1f} MiB more",
        f"{error.used_bytes / MiB:.1f} MiB of {limit / MiB:.1f} MiB are used by",
        f"up to {limit // 2 / MiB:.1f} MiB (threshold_percent=50)",
        "raise the limit (limit_bytes)",
    ):
        assert part in str(error)
    with pytest.raises(mt.MemoryPressureError, match=r"\(ceiling_percent=100\)"):
        guard.check(limit, admitted=True)


@pytest.mark.parametrize(
    ("total_bytes", "threshold_percent", "said"),
    [
        (24 * 2**30, 60, "21.6 GiB (a host must keep max(512 MiB, 10 % of RAM) available)"),
        (2 * 2**30, 60, "1.2 GiB (threshold_percent=60)"),
    ],
)
def test_what_a_refusal_says_of_the_host(
    monkeypatch: pytest.MonkeyPatch, total_bytes: int, threshold_percent: float, said: str
) -> None:
    """The rule that decided is the one named: on a big host it is not the threshold."""
    tell(monkeypatch, Term("host", "host", "psutil", total_bytes, total_bytes - MiB, 0))
    with pytest.raises(mt.MemoryPressureError, match=r"^5\.0 MiB more would not fit: .* are used by host") as caught:
        mt.MemoryGuard(threshold_percent=threshold_percent).check(5 * MiB)
    assert said in str(caught.value)
    with pytest.raises(mt.MemoryPressureError, match=r"\(ceiling_percent=90\)"):
        mt.MemoryGuard().check(5 * MiB, admitted=True)


limits = st.builds(
    lambda limit, used, kind, name: Term(kind, name, name, limit, used, used),
    st.integers(0, 8 * 2**30),
    st.integers(0, 9 * 2**30),
    st.sampled_from(["limit", "host"]),
    st.text("abc", min_size=1, max_size=2),
)


@given(
    terms=st.lists(limits, min_size=1, max_size=4).map(tuple),
    need=st.integers(0, 8 * 2**30),
    admitted=st.booleans(),
    threshold=st.none() | st.integers(1, 90),
    spare=st.integers(0, 2**30),
)
def test_a_quick_answer_is_the_rules_answer(
    terms: tuple[Term, ...], need: int, admitted: bool, threshold: int | None, spare: int
) -> None:
    """Whatever is deducted late, level, room, the limit that binds and the refusal are those of the pure rules."""
    with pytest.MonkeyPatch.context() as patch:
        reader = tell(patch)
        reader.say_gauges(*(ToldGauge(term, spare) for term in terms))
        guard = mt.MemoryGuard(threshold_percent=50)
    rules, asked = Thresholds(50, 90), Thresholds(50 if threshold is None else threshold, 90)
    refusing = pressure.refusing_term(terms, asked, need, admitted=admitted)
    if refusing is not None:
        with pytest.raises(mt.MemoryPressureError) as caught:
            guard.check(need, admitted=admitted, threshold_percent=threshold)
        assert (caught.value.binding, caught.value.used_bytes) == (refusing.binding, refusing.used_bytes)
    else:
        snapshot = guard.check(need, admitted=admitted, threshold_percent=threshold)
        if spare == 0:
            assert snapshot.headroom_bytes == pressure.binding_term(terms).headroom_bytes
            assert snapshot.level == pressure.level(terms, rules)
    exact, rough, expected = guard.room(), guard.room(exact=False), pressure.room(terms, rules)
    assert (exact.new_work_bytes, exact.admitted_work_bytes) == (expected.new_work_bytes, expected.admitted_work_bytes)
    assert exact.largest_need_bytes == expected.largest_need_bytes
    assert rough.new_work_bytes == exact.new_work_bytes - spare
    assert rough.admitted_work_bytes == exact.admitted_work_bytes - spare


def test_admitted_work_may_go_on_up_to_the_ceiling() -> None:
    """Between threshold and ceiling new work is refused and admitted work goes on; the level says HIGH."""
    guard = mt.MemoryGuard(threshold_percent=20, ceiling_percent=90, limit_bytes=2 * used_bytes())
    with pytest.raises(mt.MemoryPressureError):
        guard.check()
    assert guard.check(admitted=True).level is mt.MemoryLevel.HIGH
    room = guard.room()
    assert room.new_work_bytes < 0 < room.admitted_work_bytes < room.largest_need_bytes


def test_check_takes_no_negative_need() -> None:
    """A negative need is a mistake in the caller, not room."""
    with pytest.raises(ValueError, match="need_bytes"):
        mt.MemoryGuard().check(-1)


def test_snapshot_adds_up() -> None:
    """The figures of one look belong together."""
    snapshot = own_limit(4 * used_bytes()).snapshot()
    assert snapshot.headroom_bytes == snapshot.limit_bytes - snapshot.used_bytes
    assert snapshot.percent == 100 * snapshot.used_bytes / snapshot.limit_bytes
    assert 20 < snapshot.percent < 30
    assert snapshot.level is mt.MemoryLevel.OK
    assert snapshot.process_rss_bytes > 0


def test_waits_until_memory_is_freed(run: Run) -> None:
    """wait_until_ok returns with a fresh look once the memory is given back, and not before."""
    guard = own_limit(used_bytes() + 64 * MiB)
    found: list[mt.MemorySnapshot] = []

    async def wait() -> None:
        found.append(await guard.wait_until_ok(24 * MiB))

    async def main() -> None:
        with anyio.fail_after(30), touched(60 * MiB) as block:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await settle()
                assert not found
                block.close()
        assert found[0].headroom_bytes >= 24 * MiB

    run(main)


@pytest.mark.parametrize("timeout_seconds", [0, 0.12])
def test_waiting_ends_with_its_time(run: Run, timeout_seconds: float) -> None:
    """After the timeout the refusal itself is raised."""
    guard = own_limit(1)

    async def main() -> None:
        with anyio.fail_after(30), pytest.raises(mt.MemoryPressureError, match="limit_bytes"):
            await guard.wait_until_ok(timeout_seconds=timeout_seconds)

    run(main)


def test_admitted_work_waits_for_the_ceiling_only(run: Run) -> None:
    """What may go on up to the ceiling does not wait for the threshold."""
    guard = mt.MemoryGuard(threshold_percent=20, ceiling_percent=90, limit_bytes=2 * used_bytes())

    async def main() -> None:
        await guard.wait_until_ok(timeout_seconds=0, admitted=True)
        with pytest.raises(mt.MemoryPressureError):
            await guard.wait_until_ok(timeout_seconds=0)

    run(main)


def test_waiting_can_be_cancelled(run: Run) -> None:
    """A wait without a timeout ends with its cancel scope."""

    async def wait(scope: anyio.CancelScope) -> None:
        with scope:
            await own_limit(1).wait_until_ok()

    async def main() -> None:
        scope = anyio.CancelScope()
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait, scope)
                await settle()
                scope.cancel()
        assert scope.cancelled_caught

    run(main)


def test_one_guard_for_the_process() -> None:
    """The default guard is made once."""
    assert mt.default_guard() is mt.default_guard()
