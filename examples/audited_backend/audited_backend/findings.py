"""The findings of the audit, each as an experiment that is made with both backends."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .bench import HEAD_BYTES, Bench, Ended, ExperimentError
from .fake_engine import text_of
from .host import Order
from .server import Answer

MIB = 1 << 20
ONE_FILE_SECONDS = 20
LIMIT_BYTES = 96 * MIB  # of the host that has little memory left
BALLAST_PERCENT = 75.0
SMALL_SECONDS, BATCH_SECONDS = 5, 320
SMALL_BYTES = 80 * MIB
CAP_BYTES = 4_000_000
TOO_LARGE_BYTES = 64 * MIB
MAX_CONCURRENT = 3
SHORT_SECONDS, LONG_SECONDS = 60, 300
STEREO = {"rate_hz": 44_100, "channels": 2}
STEREO_BYTES_PER_SECOND = 44_100 * 2 * 2


@dataclass(frozen=True)
class Measured:
    """What one backend did.

    Attributes:
        text: in words.
        is_bad: whether that is the defect; None if it could not be measured.
        said: how it put a refusal.
    """

    text: str
    is_bad: bool | None
    said: str = ""


@dataclass(frozen=True)
class Row:
    """A line of the table. The old backend is expected to have the defect, but for what the audit found in order."""

    finding: str
    old: Measured
    new: Measured
    is_defect: bool = True

    @property
    def verdicts(self) -> tuple[str, str]:
        """What the measurements mean: of the old one, and of the new one."""
        good, bad = ("NO DEFECT", "defect") if self.is_defect else ("works", "FAILS")
        holds = "holds" if self.is_defect else "works"
        return (
            {None: "UNKNOWN", False: good, True: bad}[self.old.is_bad],
            {None: "UNKNOWN", False: holds, True: "FAILS"}[self.new.is_bad],
        )

    @property
    def is_as_said(self) -> bool:
        """Whether the old one did as the audit says, and the new one as it should."""
        return self.old.is_bad is self.is_defect and self.new.is_bad is False


def rows_of(finding: str, measure: Callable[[str], Measured], *, is_defect: bool = True) -> Row:
    """The same measurement of both, judged by the same rule."""

    def measured(side: str) -> Measured:
        try:
            return measure(side)
        except ExperimentError as error:
            return Measured("could not be measured", None, str(error))

    return Row(finding, measured("old"), measured("new"), is_defect)


def settings(side: str, *, old: dict[str, Any] | None = None, new: dict[str, Any] | None = None) -> dict[str, Any]:
    """What only one of them has."""
    return (old if side == "old" else new) or {}


def size(count_bytes: int) -> str:
    return f"{count_bytes / MIB:.1f} MiB" if count_bytes >= MIB / 10 else f"{count_bytes} bytes"


# -- 0: nothing is wrong


def good_day(bench: Bench) -> Iterator[Row]:
    """Both work: of a good file they give the same transcript."""
    url = bench.recording(ONE_FILE_SECONDS)

    def measure(side: str) -> Measured:
        ended = bench.host(Order(side, "transcribe", (url,)))
        is_right = ended.answer["texts"] == [text_of(ONE_FILE_SECONDS)] and not ended.left_bytes
        return Measured(f"{len(' '.join(ended.answer['texts']).split())} words, {left(ended)}", not is_right)

    yield rows_of("0 a good file: transcribed", measure, is_defect=False)

    def measure_404(side: str) -> Measured:
        ended = bench.host(Order(side, "transcribe", (bench.server.url("/none"),)))
        return Measured(f"{ended.error}, {left(ended)}", bool(ended.left_bytes))

    yield rows_of("0 a URL that is gone (404): an error", measure_404, is_defect=False)


# -- 1: temporary files


def left(ended: Ended) -> str:
    """What stayed in the temporary folder."""
    files = len(ended.left_bytes)
    return f"{files} file of {size(sum(ended.left_bytes))} left" if files else "nothing left"


def temp_files(bench: Bench) -> Iterator[Row]:
    """Every way to fail but 404 and 403 leaves the download in the temporary folder."""
    good = bench.recording(ONE_FILE_SECONDS)
    error = bench.answer("/error", Answer(None, 0, 0, status=500))
    truncated = bench.answer("/truncated", Answer(None, HEAD_BYTES, 2 * HEAD_BYTES))
    hanging = bench.answer("/hanging", Answer(None, HEAD_BYTES, 2 * HEAD_BYTES, then_hangs=True))

    def failing(url: str, engine_error: str | None = None) -> Callable[[str], Measured]:
        def measure(side: str) -> Measured:
            ended = bench.host(Order(side, "transcribe", (url,), engine={"error": engine_error}))
            return Measured(f"{ended.error}, {left(ended)}", bool(ended.left_bytes))

        return measure

    def killed(side: str) -> Measured:
        bench.server.is_hanging.clear()
        ended = bench.host(Order(side, "transcribe", (hanging,)), kill_when=bench.server.is_hanging)
        return Measured(f"killed, {left(ended)}", bool(ended.left_bytes))

    yield rows_of("1 temp file left: the server answers 500", failing(error))
    yield rows_of("1 temp file left: the body breaks off", failing(truncated))
    yield rows_of("1 temp file left: the engine fails", failing(good, "out of quota"))
    yield rows_of("1 temp file left: SIGKILL in a download", killed)


# -- 2: memory is not looked at


def memory_checks(bench: Bench) -> Iterator[Row]:
    """75 % of the limit is in use, and what is left is not enough for the file. RLIMIT_DATA stands for the container:
    both can see it, and the kernel keeps it.
    """
    url = bench.recording(120, **STEREO)

    def let_in(scenario: str, **order: Any) -> Callable[[str], Measured]:
        def measure(side: str) -> Measured:
            ended = bench.host(
                Order(
                    side,
                    scenario,
                    (url,),
                    limit_bytes=LIMIT_BYTES,
                    ballast_percent=BALLAST_PERCENT,
                    settings=settings(side, new={"queue_timeout_seconds": 0.3}),
                    **order,
                )
            )
            said = " ".join(ended.answer["messages"])
            is_refused = f"{LIMIT_BYTES // MIB}.0 MiB" in said
            seen = "75" if "guard_sees_limit" in order else f"psutil: {ended.answer['host_percent']:.0f}"
            what = "refused" if is_refused else f"let in ({seen} %)"
            return Measured(f"{what}, {' '.join(ended.answer['errors']) or 'done'}", not is_refused, said)

        return measure

    yield rows_of("2 no check before a file: 75 % in use", let_in("transcribe"))
    yield rows_of("2 no check before a batch: 75 % in use", let_in("batch"))
    yield rows_of("2 threshold of 80 %, 75 % in use, and seen", let_in("transcribe", guard_sees_limit=True))


# -- 3: the size is checked too late


def late_size_check(bench: Bench) -> Iterator[Row]:
    """A file above the cap is downloaded whole before anybody looks."""
    announced = bench.answer("/announced", Answer(None, TOO_LARGE_BYTES, TOO_LARGE_BYTES))
    unannounced = bench.answer("/unannounced", Answer(None, TOO_LARGE_BYTES, None))

    def downloading(url: str) -> Callable[[str], Measured]:
        def measure(side: str) -> Measured:
            ended = bench.host(Order(side, "transcribe", (url,), settings={"max_file_bytes": CAP_BYTES}))
            is_late = ended.sent_bytes > TOO_LARGE_BYTES // 2
            return Measured(f"{size(ended.sent_bytes)} sent, {ended.error}", is_late, ended.answer["messages"][0])

        return measure

    yield rows_of("3 size checked late: 64 MiB announced, cap 4 MB", downloading(announced))
    yield rows_of("3 size checked late: no length announced", downloading(unannounced))


# -- 4: nobody counts them all


def too_many_at_once(bench: Bench) -> Iterator[Row]:
    """Each level has a limit of its own, and the levels multiply."""
    long = tuple(bench.recording(25) for _ in range(8))
    short = tuple(bench.recording(5) for _ in range(3))

    def measure(side: str) -> Measured:
        own = settings(side, old={"long_file_bytes": 500_000})
        ended = bench.host(Order(side, "crowd", long, short, settings={"chunk_seconds": 10, **own}))
        texts = [*ended.answer["texts"], *ended.said("scheduled")]
        is_right = texts == [text_of(25)] * len(long) + [text_of(5)] * len(short)
        peak = ended.answer["peak_inside"]
        return Measured(
            f"{peak} engine calls at once, {'all' if is_right else 'NOT all'} right",
            peak > MAX_CONCURRENT or not is_right,
        )

    yield rows_of("4 batch(5) x chunks(2) + scheduler(2)", measure)


# -- 5: what was in order


def cleanup(bench: Bench) -> Iterator[Row]:
    """Batches are forgotten after 24 hours, failed URLs after 7 days, by a task that runs beside the work."""
    urls = (bench.recording(ONE_FILE_SECONDS), bench.server.url("/none"))

    def measure(side: str) -> Measured:
        ended = bench.host(Order(side, "ageing", urls))
        forgotten = [tuple(counts) for counts in ended.said("forgotten")]
        is_right = forgotten == [(0, 0), (1, 0), (0, 1)]
        return Measured("batch gone at 25 h, URL at 8 d" if is_right else f"forgotten: {forgotten}", not is_right)

    yield rows_of("5 cleanup: at 23 hours, 25 hours, 8 days", measure, is_defect=False)


# -- 6: batches as if memory were endless


def fixed_batch(bench: Bench) -> Iterator[Row]:
    """Five at a time, also where there is memory for one. Calls stay in the engine until five are there."""
    small = tuple(bench.recording(SMALL_SECONDS) for _ in range(5))
    large = tuple(bench.recording(BATCH_SECONDS) for _ in range(5))

    def at_once(side: str) -> Measured:
        plenty = bench.host(Order(side, "batch", small, engine={"crowd": len(small)}))
        order = Order(side, "batch", small, limit_bytes=LIMIT_BYTES, ballast_percent=50, engine={"crowd": len(small)})
        short = bench.host(order)
        peaks = [each.answer["peak_inside"] for each in (plenty, short)]
        return Measured(f"{peaks[0]} at once with plenty, {peaks[1]} with little", peaks[1] > 1)

    def outcomes(side: str) -> Measured:
        order = Order(side, "batch", large, limit_bytes=SMALL_BYTES, engine={"seconds_per_minute": 0.1})
        answer = bench.host(order).answer
        done = answer["texts"].count(text_of(BATCH_SECONDS))
        return Measured(
            f"{done} of {len(large)} done{', '.join(['', *sorted(set(answer['errors']))])}", done < len(large)
        )

    yield rows_of("6 batch of 5 whatever memory is left", at_once)
    yield rows_of("6 batch of 5 larger files, little memory", outcomes)


# -- 7: the whole file in memory


def whole_file(bench: Bench) -> Iterator[Row]:
    """The peak of the process tree, for a file and one five times as long."""
    short = bench.recording(SHORT_SECONDS, **STEREO)
    long = bench.recording(LONG_SECONDS, **STEREO)

    def measure(side: str) -> Measured:
        peaks = [bench.host(Order(side, "transcribe", (url,)), watch=True).peak_bytes for url in (short, long)]
        more_bytes = (LONG_SECONDS - SHORT_SECONDS) * STEREO_BYTES_PER_SECOND
        return Measured(
            f"peak {size(peaks[0])}, then {size(peaks[1])}",
            peaks[1] - peaks[0] > more_bytes // 4,
        )

    yield rows_of("7 whole file in memory: 1 minute, then 5", measure)


FINDINGS: dict[int, Callable[[Bench], Iterator[Row]]] = {
    0: good_day,
    1: temp_files,
    2: memory_checks,
    3: late_size_check,
    4: too_many_at_once,
    5: cleanup,
    6: fixed_batch,
    7: whole_file,
}
