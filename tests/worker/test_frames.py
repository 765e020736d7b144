"""The frames that workers speak in."""

import itertools

import pytest
from hypothesis import given, strategies as st

from memsafe_transcribe._worker.frames import MAX_PAYLOAD_BYTES, FrameError, FrameReader, header

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


def test_a_frame_comes_out_with_its_last_byte() -> None:
    """One without a payload with its header; the next one is not waited for."""
    reader = FrameReader()
    data = header(b"A", 3) + b"abc" + header(b"B", 0) + header(b"C", 1) + b"c"
    came = {number: frames for number, byte in enumerate(data) if (frames := list(reader.feed(bytes([byte]))))}
    assert came == {7: [(b"A", b"abc")], 12: [(b"B", b"")], 18: [(b"C", b"c")]}


def test_a_worker_cannot_make_its_parent_hold_more_than_a_frame() -> None:
    """A length above the bound is refused before its payload is waited for, and a whole frame before it is not lost."""
    with pytest.raises(FrameError, match="a frame of 101 bytes was announced, 100 are allowed"):
        list(FrameReader(max_payload_bytes=100).feed(header(b"P", 101)))
    frames = FrameReader().feed(header(b"A", 1) + b"a" + header(b"P", MAX_PAYLOAD_BYTES + 1))
    assert next(frames) == (b"A", b"a")
    with pytest.raises(FrameError, match="a frame of 1048577 bytes was announced, 1048576 are allowed"):
        next(frames)
    most = header(b"P", 100) + bytes(100)
    assert list(FrameReader(max_payload_bytes=100).feed(most)) == [(b"P", bytes(100))]
