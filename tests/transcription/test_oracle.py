"""An oracle that knows what was said, and when, hears chunks of it: what is stitched must be what was said."""

import random
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

from hypothesis import assume, given, strategies as st

import memsafe_transcribe as mt
from memsafe_transcribe._transcription.scripts import join_text
from memsafe_transcribe._transcription.stitching import ChunkSpan, Stitcher

RATE = 16_000
CHARACTERS = [chr(0x4E00 + index) for index in range(400)]


@dataclass(frozen=True)
class Said:
    """One word of the oracle, in samples."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Oracle:
    """What was said, and how badly an engine tells it: every time off by up to `jitter` samples."""

    said: list[Said]
    jitter: int
    edges: str  # half-heard words are left "out", "garbled", or "guessed"

    @property
    def texts(self) -> list[str]:
        return [word.text for word in self.said]

    @property
    def longest(self) -> int:
        return max(word.end - word.start for word in self.said)

    def heard(self, start: int, end: int) -> list[Said]:
        """What an engine says to have heard, without jitter."""
        heard = []
        for index, word in enumerate(self.said):
            begin, stop = max(word.start, start), min(word.end, end)
            if begin >= stop:
                continue
            if (begin, stop) == (word.start, word.end) or self.edges == "guessed":
                heard.append(Said(word.text, begin, stop))
            elif self.edges == "garbled":
                heard.append(Said(f"half{index}x{start}", begin, stop))
        return heard

    def words(self, start: int, end: int, dice: random.Random) -> tuple[mt.Word, ...]:
        """The same with jitter, in seconds from `start`; often all times are off into the same direction."""
        bias = dice.choice([-self.jitter, self.jitter, None])

        def off(sample: int) -> float:
            moved = sample + (dice.randint(-self.jitter, self.jitter) if bias is None else bias)
            return (min(max(moved, start), end) - start) / RATE

        times = [(word.text, off(word.start), off(word.end)) for word in self.heard(start, end)]
        return tuple(mt.Word(text, begin, max(begin, stop)) for text, begin, stop in times)


def words_of(segments: list[mt.Segment]) -> list[str]:
    return [word for segment in segments for word in segment.text.split()]


def is_subsequence(part: list[str], whole: list[str]) -> bool:
    rest = iter(whole)
    return all(word in rest for word in part)


@st.composite
def oracles(draw: st.DrawFn, vocabulary: int, shortest: int = 400) -> Oracle:
    """Words of at least two shortest gaps, times that are off by less than half of one."""
    gap = draw(st.integers(0, 2_000))
    count = draw(st.integers(1, 40))
    dice = random.Random(draw(st.integers()))
    longest = max(shortest, 2 * gap) + draw(st.sampled_from([1, 1_000, 8_000]))
    said, clock = [], dice.randint(0, 20_000)
    for index in range(count):
        length = dice.randint(max(shortest, 2 * gap, 2), longest)
        text = f"w{dice.randrange(vocabulary) if vocabulary else index}"
        said.append(Said(text, clock, clock + length))
        clock += length + (gap if dice.random() < 0.6 else gap + dice.randint(0, 24_000))
    return Oracle(said, max(0, (gap - 1) // 2), draw(st.sampled_from(["out", "garbled", "guessed"])))


def spans_of(oracle: Oracle, dice: random.Random, wanted_overlap: int) -> list[tuple[int, int, int, int]]:
    """Random cuts, in pauses and through sound, as (core_start, core_end, start, end)."""
    total = oracle.said[-1].end + 8_000
    before = max(wanted_overlap, oracle.longest // 2 + oracle.jitter + 1) + dice.randint(0, 4_000)
    after = max(wanted_overlap, oracle.longest // 2 + oracle.jitter + 1) + dice.randint(0, 4_000)
    before += max(0, 3 * (oracle.longest + 2 * oracle.jitter) // 2 + 2 - before - after)
    cuts: list[tuple[int, bool]] = [(0, True)]
    for cut in sorted(dice.randrange(total) for _ in range(dice.randint(1, 8))):
        in_pause = dice.random() < 0.5 and not any(word.start < cut < word.end for word in oracle.said)
        last, last_in_pause = cuts[-1]
        if cut - last < 1 or (not last_in_pause and in_pause and cut < last + after):
            continue
        last_pause = max(place for place, pause in cuts if pause)
        if not in_pause and (cut - before < last_pause or cut + after > total):
            continue
        cuts.append((cut, in_pause))
    cuts.append((total, True))
    return [
        (left, right, left if left_pause else left - before, right if right_pause else right + after)
        for (left, left_pause), (right, right_pause) in pairwise(cuts)
    ]


def span_of(samples: tuple[int, int, int, int]) -> ChunkSpan:
    return ChunkSpan(*(sample / RATE for sample in samples))


def stitched(results: list[tuple[tuple[int, int, int, int], mt.ChunkResult]]) -> list[mt.Segment]:
    stitcher = Stitcher()
    segments = [segment for span, result in results for segment in stitcher.push(span_of(span), result)]
    return segments + stitcher.finish()


def assert_times_run_forwards(segments: list[mt.Segment], end_seconds: float) -> None:
    latest = 0.0
    for segment in segments:
        assert latest <= segment.start_seconds <= segment.end_seconds <= end_seconds
        latest = segment.start_seconds
        for word in segment.words:
            assert latest <= word.start_seconds <= word.end_seconds <= end_seconds
            latest = word.start_seconds


def in_segments(words: tuple[mt.Word, ...], dice: random.Random, keep_words: bool) -> tuple[mt.Segment, ...]:
    segments = []
    while words:
        count = dice.randint(1, 6)
        group, words = words[:count], words[count:]
        text = " ".join(word.text for word in group)
        kept = group if keep_words else ()
        segments.append(mt.Segment(text, group[0].start_seconds, group[-1].end_seconds, words=kept))
    return tuple(segments)


@given(oracle=st.one_of(oracles(0), oracles(1), oracles(2), oracles(4)), seed=st.integers())
def test_words_with_times_are_exactly_what_was_said(oracle: Oracle, seed: int) -> None:
    """Any words, also one word over and over; any cuts; any half-heard edges; with the engine's segments or not."""
    dice = random.Random(seed)
    results = []
    for span in spans_of(oracle, dice, 0):
        words = oracle.words(span[2], span[3], dice)
        if dice.random() < 0.5:
            results.append((span, mt.ChunkResult(words=words)))
        else:
            results.append((span, mt.ChunkResult(segments=in_segments(words, dice, keep_words=True))))
    segments = stitched(results)
    assert words_of(segments) == oracle.texts
    assert [word.text for segment in segments for word in segment.words] == oracle.texts
    assert_times_run_forwards(segments, results[-1][0][3] / RATE)


@given(oracle=oracles(0, shortest=2_700), seed=st.integers(), kind=st.sampled_from(["text", "segments", "mixed"]))
def test_nothing_is_lost_whatever_the_engine_gives(oracle: Oracle, seed: int, kind: str) -> None:
    """Text, segments, or another kind with each chunk: no word is lost, and where no seam is unsure, all is exact."""
    dice = random.Random(seed)
    results = []
    for span in spans_of(oracle, dice, dice.choice([0, 16_000, 32_000])):
        words = oracle.words(span[2], span[3], dice)
        choice = dice.choice(["text", "segments", "words"]) if kind == "mixed" else kind
        if choice == "text":
            results.append((span, mt.ChunkResult(text=" ".join(word.text for word in words))))
        elif choice == "words":
            results.append((span, mt.ChunkResult(words=words)))
        else:
            results.append((span, mt.ChunkResult(segments=in_segments(words, dice, keep_words=False))))
    segments = stitched(results)
    assert is_subsequence(oracle.texts, words_of(segments))
    if not any(segment.unsure_seam for segment in segments):
        assert words_of(segments) == oracle.texts
    assert_times_run_forwards(segments, results[-1][0][3] / RATE)


@given(oracle=oracles(0, shortest=2_700), seed=st.integers(), with_segments=st.booleans())
def test_three_words_in_every_overlap_make_it_exact(oracle: Oracle, seed: int, with_segments: bool) -> None:
    """Text alone, or segments: if each overlap has three whole words, each said once, no seam is unsure."""
    dice = random.Random(seed)
    spans = spans_of(oracle, dice, 32_000)
    for left, right in pairwise(spans):
        if right[2] < left[3]:
            assume(sum(right[2] <= word.start and word.end <= left[3] for word in oracle.said) >= 3)
    results = []
    for span in spans:
        words = oracle.words(span[2], span[3], dice)
        text = " ".join(word.text for word in words)
        parts = in_segments(words, dice, keep_words=False) if with_segments else ()
        results.append((span, mt.ChunkResult(text=text, segments=parts)))
    segments = stitched(results)
    assert words_of(segments) == oracle.texts
    assert not any(segment.unsure_seam for segment in segments)


def triples(words: list[str]) -> list[tuple[str, ...]]:
    return [tuple(words[index : index + 3]) for index in range(len(words) - 2)]


@given(oracle=st.one_of(oracles(3, 2_700), oracles(8, 2_700), oracles(30, 2_700)), seed=st.integers())
def test_repeated_words_without_times(oracle: Oracle, seed: int) -> None:
    """Exact where the overlap has three words that both texts have once; if they share no three: flagged, none lost."""
    dice = random.Random(seed)
    cut, overlap = dice.randrange(oracle.said[-1].end), max(oracle.longest // 2 + 1, dice.randint(4_000, 32_000))
    total = oracle.said[-1].end + overlap
    spans = [(0, cut, 0, cut + overlap), (cut, total, max(0, cut - overlap), total)]
    left, right = ([word.text for word in oracle.heard(span[2], span[3])] for span in spans)
    segments = stitched(
        [(spans[0], mt.ChunkResult(text=" ".join(left))), (spans[1], mt.ChunkResult(text=" ".join(right)))]
    )
    both = [w.text for w in oracle.said if w.start >= spans[1][2] and w.end <= spans[0][3]]
    in_left, in_right = Counter(triples(left)), Counter(triples(right))
    if any(in_left[triple] == in_right[triple] == 1 for triple in triples(both)):
        assert words_of(segments) == oracle.texts
        assert not any(segment.unsure_seam for segment in segments)
    elif not in_left.keys() & in_right.keys():
        assert is_subsequence(oracle.texts, words_of(segments))
        assert any(segment.unsure_seam for segment in segments) == bool(left and right)


@given(
    count=st.integers(3, 120), cut=st.floats(0.01, 0.99), edges=st.sampled_from(["out", "garbled"]), seed=st.integers()
)
def test_scripts_without_spaces(count: int, cut: float, edges: str, seed: int) -> None:
    """Characters instead of words, a Latin word in between, no space put in where there was none."""
    dice = random.Random(seed)
    texts = [*dice.sample(CHARACTERS, count), "Tokyo"]
    dice.shuffle(texts)
    said, clock = [], 0
    for text in texts:
        said.append(Said(text, clock, clock + (1_100 if len(text) == 1 else 2_700)))
        clock = said[-1].end
    border = int(clock * cut)
    spans = [(0, border, 0, min(clock, border + 16_000)), (border, clock, max(0, border - 16_000), clock)]
    heard = [[w for w in said if span[2] <= w.start and w.end <= span[3]] for span in spans]
    assume(len({w.text for w in heard[0]} & {w.text for w in heard[1]}) >= 3)
    half = "響" if edges == "garbled" else ""
    results = [mt.ChunkResult(text=join_text([*[w.text for w in heard[0]], half])),
               mt.ChunkResult(text=join_text([half, *[w.text for w in heard[1]]]))]  # fmt: skip
    segments = stitched(list(zip(spans, results, strict=True)))
    text = join_text(segment.text for segment in segments)
    assert text.replace(" ", "") in ("".join(texts), half + "".join(texts), "".join(texts) + half)
    assert text.strip(half) == join_text(texts)
    assert not any(segment.unsure_seam for segment in segments)


@given(seed=st.integers(), kind=st.sampled_from(["words", "text", "segments"]))
def test_what_is_held_back_does_not_grow(seed: int, kind: str) -> None:
    """However many chunks: what comes out at the end was said within the last overlap, and what reaches into it."""
    dice = random.Random(seed)
    said = [Said(f"w{index}", index * 4_000, index * 4_000 + 3_000) for index in range(300)]
    oracle = Oracle(said, 400, "garbled")
    stitcher = Stitcher()
    pushed: list[mt.Segment] = []
    cuts = [0]
    while cuts[-1] + 20_000 < said[-1].end - 32_000:
        cuts.append(cuts[-1] + dice.randint(20_000, 200_000))
        span = (cuts[-2], cuts[-1], max(0, cuts[-2] - 32_000), cuts[-1] + 32_000)
        words = oracle.words(span[2], span[3], dice)
        text = " ".join(word.text for word in words)
        parts = in_segments(words, dice, keep_words=False) if kind == "segments" else ()
        result = mt.ChunkResult(text=text, words=words if kind == "words" else (), segments=parts)
        pushed += stitcher.push(span_of(span), result)
    held = words_of(stitcher.finish())
    assert len(held) <= 4.5 * 6 + 6
    assert words_of(pushed) == oracle.texts[: len(words_of(pushed))]


def test_one_word_over_and_over_without_times_is_flagged() -> None:
    """Nobody can tell how many there were: all are kept."""
    spans = [(0, 80_000, 0, 112_000), (80_000, 160_000, 48_000, 160_000)]
    segments = stitched([(span, mt.ChunkResult(text="No, no, no, no! No, no.")) for span in spans])
    assert [word.strip(",.!").lower() for word in words_of(segments)] == ["no"] * 12
    assert [segment.unsure_seam for segment in segments].count(True) == 1
