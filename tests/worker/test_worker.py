"""Workers: the frames that they speak in, and the lifeline that they hang on."""

import itertools
import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given, strategies as st

from memsafe_transcribe._worker.frames import FrameError, FrameReader, header
from memsafe_transcribe._worker.process import WorkerProcess

from ..conftest import Run

FRAMES = st.lists(st.tuples(st.binary(min_size=1, max_size=1), st.binary(max_size=50)))


@given(frames=FRAMES, cuts=st.lists(st.integers(0, 500)))
def test_frames_come_out_as_they_went_in_however_the_pipe_cuts_them(
    frames: list[tuple[bytes, bytes]], cuts: list[int]
) -> None:
    """Nothing is lost, nothing is doubled, nothing is kept."""
    data = b"".join(header(kind, len(payload)) + payload for kind, payload in frames)
    reader = FrameReader()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    assert [f for start, end in itertools.pairwise(edges) for f in reader.feed(data[start:end])] == frames


def test_a_worker_cannot_make_its_parent_hold_more_than_a_frame() -> None:
    """A length above the bound is refused before its payload is waited for."""
    with pytest.raises(FrameError, match="a frame of 101 bytes was announced, 100 are allowed"):
        list(FrameReader(max_payload_bytes=100).feed(header(b"P", 101)))


_HANGS = """
import re, sys
from memsafe_transcribe._worker import inside
inside.die_with_parent(int(sys.argv[1]))
print("armed", flush=True)
re.match("(a+)+$", "a" * 60 + "b")  # years, with the interpreter's lock held
"""


def test_a_worker_that_hangs_in_c_code_dies_with_its_parent() -> None:
    """The kernel kills it when the lifeline closes: no line of Python could run."""
    lifeline, writer = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", _HANGS, str(lifeline)], pass_fds=(lifeline,), stdout=subprocess.PIPE
    ) as worker:
        os.close(lifeline)
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"armed\n"
        os.close(writer)
        assert worker.wait(30) == -signal.SIGKILL


def test_a_worker_whose_parent_is_gone_already_does_not_begin() -> None:
    """The lifeline may have closed before it was listened to."""
    lifeline, writer = os.pipe()
    os.close(writer)
    script = (
        "import sys; from memsafe_transcribe._worker import inside; inside.die_with_parent(int(sys.argv[1])); 1 / 0"
    )
    done = subprocess.run([sys.executable, "-c", script, str(lifeline)], pass_fds=(lifeline,), capture_output=True)
    os.close(lifeline)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_worker_that_cannot_start_says_why(run: Run) -> None:
    """The last line of its standard error is in the reason."""

    async def main() -> None:
        async with WorkerProcess("no_such_module") as worker:
            assert await worker.receive() is None
            reason = await worker.exit_reason()
        assert reason.startswith("exit status 1: ")
        assert "No module named memsafe_transcribe.no_such_module" in reason

    run(main)
