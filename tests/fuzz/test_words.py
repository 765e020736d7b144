"""The words of a decoding process that a media file has taken over: what they say, or nonsense by the listed errors."""

import json
import math
import struct
from array import array

from hypothesis import strategies as st

from memsafe_transcribe._audio.words import block_of, gaps_of, info_of, refusal_of
from memsafe_transcribe._worker.frames import MAX_PAYLOAD_BYTES, FrameError, FrameReader, header

from ..support.targets import damaged, fuzz

# What the reader of these words takes for nonsense, and ends the process for.
NONSENSE = (ValueError, TypeError, LookupError, ArithmeticError, RecursionError, struct.error)
BLOCK = struct.pack("<I", 2) + array("f", [0.1, 0.2]).tobytes() + bytes(2 * 200)
INFO = json.dumps({"format": "mp3", "codec": "mp3", "duration_seconds": 1.5, "is_confined": True}).encode()
GAPS = json.dumps({"gaps": [[0, 100, "damaged"], [200, 300, "damaged"]]}).encode()
REFUSAL = json.dumps({"kind": "limit", "message": "too long"}).encode()
WHOLE = b"".join(header(kind, len(said)) + said for kind, said in ((b"I", INFO), (b"P", BLOCK), (b"D", GAPS)))
MOST_SAMPLES = 16_000


def test_words_of_the_decoder() -> None:
    """Frames of any cut; each payload is a block, an info, gaps in order or a refusal, of bounded size, or nonsense."""

    def judge(case: tuple[bytes, int]) -> None:
        data, every = case
        reader = FrameReader()
        came = 0
        try:
            for at in range(0, len(data), every):
                for _, payload in reader.feed(data[at : at + every]):
                    came += len(payload)
                    assert len(payload) <= MAX_PAYLOAD_BYTES
                    judge_payload(payload)
        except FrameError:
            pass
        assert came <= len(data)
        judge_payload(data)

    long_inputs = ((said, 65_536) for said in (b'{"gaps":' * 100_000, b"[" * MAX_PAYLOAD_BYTES, b"9" * 100_000))
    fuzz("words of the decoder", st.tuples(damaged(WHOLE, BLOCK, INFO, GAPS, REFUSAL), st.sampled_from((1, 7, 65_536))),
         judge, long_inputs)  # fmt: skip


def judge_payload(payload: bytes) -> None:
    try:
        block = block_of(payload)
        assert block.samples and len(block.levels) == math.ceil(len(block.samples) / 320)
    except NONSENSE:
        pass
    try:
        info = info_of(payload)
        assert info.duration_seconds is None or 0 <= info.duration_seconds < math.inf
        assert len(info.format) <= 500 and len(info.codec) <= 500 and type(info.is_confined) is bool
    except NONSENSE:
        pass
    try:
        at = 0.0
        for gap in gaps_of(payload, MOST_SAMPLES):
            assert at <= gap.start_seconds <= gap.end_seconds <= 1.0
            at = gap.start_seconds
    except NONSENSE:
        pass
    try:
        kind, message = refusal_of(payload)
        assert len(kind) <= 500 and len(message) <= 500
    except NONSENSE:
        pass
