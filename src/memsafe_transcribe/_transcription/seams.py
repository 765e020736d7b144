"""Pure: where one chunk's result ends and the next one's begins, if both heard the sound around the cut.

By the finest times that both sides have:

  words      Words with the same text that are nearest in time are the same word; the pair nearest to the border is
             the seam, and its word is taken from the side of the border that it is on. No pair: words belong to the
             side of the border that their middle is on; one that is on both sides is taken once, one that is on
             neither is taken all the same.
  segments   Where the border falls into no segment of either side, by their middles. Else, or where a time near it is
             a guess, by text; and if that fails, the segments across the border are kept from both sides.
  none       By text: the seam lies in a run of tokens that both sides have, with three in a row that are found only
             once near the seam on each side. No such run: all of both is kept.

Not covered: text without times in which the same words are said before and after the overlap, but none of it in it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from itertools import takewhile

from .placing import Piece, Times, split
from .scripts import Token, join_text, key_of, tokens_of

_FARTHEST_SECONDS = 1.0  # between two reports of one word
_RUN_TOKENS = 3
_SLACK_SECONDS = 0.5  # of speech, besides the overlap: words that reach into it
_EDGE_SECONDS = 0.17  # of speech: one word, or two characters, that the edge of the overlap may have garbled


@dataclass(frozen=True, slots=True)
class Overlap:
    """What both chunks heard, in seconds of the whole audio, and the border of their cores."""

    start_seconds: float
    border_seconds: float
    end_seconds: float

    def is_inner(self, seconds: float) -> bool:
        """Whether it is nearer to the border than to the edge, where words are cut off."""
        early = (self.start_seconds + self.border_seconds) / 2
        late = (self.end_seconds + self.border_seconds) / 2
        return early <= seconds <= late

    @property
    def speech_seconds(self) -> float:
        """How much can have been said in it, for the window that text is compared in."""
        return self.end_seconds - self.start_seconds + _SLACK_SECONDS


def reconcile(left: list[Piece], right: list[Piece], overlap: Overlap) -> list[Piece]:
    """What was said, of two chunks' pieces that overlap: none lost, and where it can be told, none doubled.

    Args:
        left: what is held back of all before, from the overlap on at least; not empty.
        right: all of the next chunk; not empty.
        overlap: what both heard.

    Returns:
        The pieces in order; the first one after the seam is marked where words may be doubled.
    """
    times = min((piece.times for piece in [*left, *right]), default=Times.WORD)
    if times is Times.WORD:
        return _by_words(left, right, overlap)
    if times is Times.SEGMENT:
        return _by_segments(left, right, overlap)
    return _by_text(left, right, overlap) or left + marked(right)


def marked(right: list[Piece]) -> list[Piece]:
    """The same pieces; where they begin, words may be doubled."""
    return [replace(piece, unsure=True) if index == 0 else piece for index, piece in enumerate(right)]


def _by_words(left: list[Piece], right: list[Piece], overlap: Overlap) -> list[Piece]:
    near_left = [*takewhile(lambda piece: piece.end_seconds >= overlap.start_seconds, reversed(left))][::-1]
    near_right = [piece for piece in right if piece.start_seconds <= overlap.end_seconds]
    pairs = _same_words(near_left, near_right, overlap)
    if pairs:
        i, j = min(pairs, key=lambda pair: abs(_middle_seconds(near_left, near_right, pair) - overlap.border_seconds))
        first = len(left) - len(near_left) + i
        # The side whose core it is in has heard it wholly; of the other one's report, a third chunk may tell nothing.
        if _middle_seconds(near_left, near_right, (i, j)) < overlap.border_seconds:
            return left[: first + 1] + right[j + 1 :]
        return left[:first] + right[j:]
    keep, skip = _by_middles(left, right, overlap)
    disagree = any(overlap.is_inner(piece.middle_seconds) for piece in [*near_left, *near_right])
    return left[:keep] + (marked(right[skip:]) if disagree else right[skip:])


def _middle_seconds(left: list[Piece], right: list[Piece], pair: tuple[int, int]) -> float:
    return (left[pair[0]].middle_seconds + right[pair[1]].middle_seconds) / 2


def _same_words(left: list[Piece], right: list[Piece], overlap: Overlap) -> list[tuple[int, int]]:
    """Indexes of words that both heard, in order.

    If reports of one word differ by less than reports of different words with the same text do, then all words that
    both heard wholly are found. What else is found, of words that one side heard in part, is farther apart, and takes
    the place of one of these or lies across all of them: the longest and nearest chain in order is theirs.
    """
    farthest = min(_FARTHEST_SECONDS, (overlap.end_seconds - overlap.start_seconds) / 3)
    keys_left = [key_of(piece.text) for piece in left]
    keys_right = [key_of(piece.text) for piece in right]

    def apart(i: int, j: int) -> float:
        return abs(left[i].middle_seconds - right[j].middle_seconds)

    pairs: list[tuple[int, int]] = []
    for i, key in enumerate(keys_left):
        same = [j for j, other in enumerate(keys_right) if key and other == key]
        j = min(same, key=lambda j: apart(i, j), default=None)
        if j is not None and apart(i, j) <= farthest:
            pairs.append((i, j))
    return nearest_chain(pairs, apart)


def nearest_chain(pairs: list[tuple[int, int]], apart: Callable[[int, int], float]) -> list[tuple[int, int]]:
    """The most pairs that are in order on both sides; of those that are equally many, the nearest."""
    chains: list[tuple[int, float, list[tuple[int, int]]]] = []
    for i, j in pairs:
        before = [chain for chain in chains if chain[2][-1][0] < i and chain[2][-1][1] < j]
        count, cost, chain = max(before, key=lambda chain: (chain[0], -chain[1]), default=(0, 0.0, []))
        chains.append((count + 1, cost + apart(i, j), [*chain, (i, j)]))
    return max(chains, key=lambda chain: (chain[0], -chain[1]), default=(0, 0.0, []))[2]


def _by_middles(left: Sequence[Piece], right: Sequence[Piece], overlap: Overlap) -> tuple[int, int]:
    """(how many of the left to keep, how many of the right to skip), by the border alone."""
    border = overlap.border_seconds
    keep = next((i for i, piece in enumerate(left) if piece.middle_seconds >= border), len(left))
    skip = next((j for j, piece in enumerate(right) if piece.middle_seconds >= border), len(right))
    if keep and skip < len(right) and _share_time(left[keep - 1], right[skip]):
        return keep, skip + 1
    return _with_the_unanswered(left, right, keep, skip, overlap)


def _share_time(a: Piece, b: Piece) -> bool:
    """Whether they are one word: neighbours may overlap a little, if only by rounding."""
    shared = min(a.end_seconds, b.end_seconds) - max(a.start_seconds, b.start_seconds)
    return shared > min(a.end_seconds - a.start_seconds, b.end_seconds - b.start_seconds) / 4


def _with_the_unanswered(
    left: Sequence[Piece], right: Sequence[Piece], keep: int, skip: int, overlap: Overlap
) -> tuple[int, int]:
    """Keep besides what lies on the wrong side of the border, but in a time for which the right side has nothing."""
    while skip and overlap.is_inner(right[skip - 1].start_seconds):
        if keep and right[skip - 1].middle_seconds <= left[keep - 1].end_seconds:
            break
        skip -= 1
    while keep < len(left) and overlap.is_inner(left[keep].end_seconds):
        if skip < len(right) and left[keep].middle_seconds >= right[skip].start_seconds:
            break
        keep += 1
    return keep, skip


def _by_segments(left: list[Piece], right: list[Piece], overlap: Overlap) -> list[Piece]:
    near = [piece for piece in left if piece.end_seconds >= overlap.start_seconds]
    near += [piece for piece in right if piece.start_seconds <= overlap.end_seconds]
    border = overlap.border_seconds
    guessed = any(not piece.trusted for piece in near)  # cut at an earlier seam, for one
    if not guessed and not any(piece.start_seconds < border < piece.end_seconds for piece in near):
        keep, skip = _by_middles(left, right, overlap)
        return left[:keep] + right[skip:]
    if spliced := _by_text(left, right, overlap):
        return spliced
    if guessed:
        return left + marked(right)
    keep = next((i for i, piece in enumerate(left) if piece.start_seconds >= border), len(left))
    skip = next((j for j, piece in enumerate(right) if piece.end_seconds > border), len(right))
    keep, skip = _with_the_unanswered(left, right, keep, skip, overlap)
    return left[:keep] + marked(right[skip:])


@dataclass(frozen=True, slots=True)
class _Place:
    """A token, and where it stands: in which piece, and at which offset of its text."""

    token: Token
    piece: int
    may_cut: bool


@dataclass(frozen=True, slots=True)
class _Run:
    """Tokens that both windows have: from `i` on the left one, from `j` on the right one."""

    i: int
    j: int
    length: int


def _by_text(left: list[Piece], right: list[Piece], overlap: Overlap) -> list[Piece] | None:
    tail = _window(reversed(list(_places(left))), overlap.speech_seconds)[::-1]
    head = _window(_places(right), overlap.speech_seconds)
    run, agree = _best_run([place.token for place in tail], [place.token for place in head])
    if not run:
        return None
    cuts = [cut for cut in range(1, run.length) if tail[run.i + cut].may_cut and head[run.j + cut].may_cut]
    if not cuts:
        return None
    # In the middle: at its text's ends an engine puts capitals and full stops that nobody said.
    cut = min(cuts, key=lambda cut: abs(cut - run.length / 2))
    before, _ = _cut(left, tail[run.i + cut])
    _, after = _cut(right, head[run.j + cut])
    return _joined(before, after) if agree else before + marked(after)


def _places(pieces: Iterable[Piece]) -> Iterator[_Place]:
    for index, piece in enumerate(pieces):
        for number, token in enumerate(tokens_of(piece.text)):
            yield _Place(token, index, may_cut=piece.word is None or number == 0)


def _window(places: Iterable[_Place], seconds: float) -> list[_Place]:
    """The first of them, as many as can be said in a time."""
    window: list[_Place] = []
    for place in places:
        seconds -= place.token.seconds
        if seconds < 0:
            break
        window.append(place)
    return window


def _cut(pieces: list[Piece], place: _Place) -> tuple[list[Piece], list[Piece]]:
    if place.token.start == 0:
        return pieces[: place.piece], pieces[place.piece :]
    first, second = split(pieces[place.piece], place.token.start)
    return [*pieces[: place.piece], first], [second, *pieces[place.piece + 1 :]]


def _joined(before: list[Piece], after: list[Piece]) -> list[Piece]:
    """With text that has no times made one, so that no caption ends where only a chunk did."""
    if before and after and all(p.word is None and p.times is Times.NONE for p in (before[-1], after[0])):
        text = join_text([before[-1].text, after[0].text])
        return [*before[:-1], replace(before[-1], text=text, end_seconds=after[0].end_seconds), *after[1:]]
    return before + after


def _best_run(tail: Sequence[Token], head: Sequence[Token]) -> tuple[_Run | None, bool]:
    """The run to put the seam in, and whether nothing speaks against it.

    If the sides agree, the run is all that they have in common: it begins where the head does, and ends where the tail
    does, but for a word at each edge that was cut off. Else the longest, if most of what it drops is on the other side.
    """
    runs = _runs([token.key for token in tail], [token.key for token in head])
    whole = [run for run in runs if all(_seconds(part) <= _EDGE_SECONDS for part in _dropped(run, tail, head))]
    if whole:
        return min(whole, key=lambda run: (sum(map(len, _dropped(run, tail, head))), -run.length, run.i)), True
    backed = [run for run in runs if _is_backed(run, tail, head)]
    return min(backed, key=lambda run: (-run.length, run.i), default=None), False


def _runs(tail: list[str], head: list[str]) -> set[_Run]:
    """The longest common runs with a triple that is found once in each."""
    once_in_tail, once_in_head = _single_triples(tail), _single_triples(head)
    runs = set()
    for triple in once_in_tail.keys() & once_in_head.keys():
        i, j = once_in_tail[triple], once_in_head[triple]
        length = _RUN_TOKENS
        while i and j and tail[i - 1] == head[j - 1]:
            i, j, length = i - 1, j - 1, length + 1
        while i + length < len(tail) and j + length < len(head) and tail[i + length] == head[j + length]:
            length += 1
        runs.add(_Run(i, j, length))
    return runs


def _single_triples(keys: list[str]) -> dict[tuple[str, ...], int]:
    triples = [tuple(keys[index : index + _RUN_TOKENS]) for index in range(len(keys) - _RUN_TOKENS + 1)]
    counts = Counter(triples)
    return {triple: index for index, triple in enumerate(triples) if counts[triple] == 1}


def _dropped(run: _Run, tail: Sequence[Token], head: Sequence[Token]) -> tuple[Sequence[Token], Sequence[Token]]:
    return tail[run.i + run.length :], head[: run.j]


def _seconds(tokens: Iterable[Token]) -> float:
    return sum(token.seconds for token in tokens)


def _is_backed(run: _Run, tail: Sequence[Token], head: Sequence[Token]) -> bool:
    after, before = _dropped(run, tail, head)
    end = run.j + run.length
    right_has = head[end : end + len(after) + 1]
    left_has = tail[max(0, run.i - len(before) - 1) : run.i]
    return _most_of(after, right_has) and _most_of(before, left_has)


def _most_of(dropped: Sequence[Token], other: Sequence[Token]) -> bool:
    if _seconds(dropped) <= _EDGE_SECONDS:
        return True
    matcher = SequenceMatcher(None, [token.key for token in dropped], [token.key for token in other], autojunk=False)
    return sum(block.size for block in matcher.get_matching_blocks()) * 2 >= len(dropped)
