"""Every way in which patterns of segments can match together, with one example of each.

Patterns divide all texts of segments into classes: two texts are in the same class if the same patterns match them.
There are finitely many, and this finds them all, by following all patterns at once, segment by segment. It serves paths
and identities alike: literals, one whole segment, and all the rest.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar

from authz.policy.errors import PolicyError

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence

T = TypeVar("T")

#: More classes than this are no policy that anyone could review.
MAX_CLASSES: Final = 100_000
#: What stands for a segment that no pattern names.
_FRESH: Final = "any"

_Positions = frozenset[tuple[int, int]]


class TooManyClassesError(PolicyError):
    """Patterns overlap in more ways than can be looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentClass(Generic[T]):
    """What exactly `matched` match: `example` is one such text, `shape` the same with wildcards for what is free.

    `gap` says that a segment of it is empty that is not the last. `again` says that the same was given before, without
    a free segment.
    """

    example: tuple[str, ...]
    shape: tuple[str, ...]
    matched: frozenset[T]
    gap: bool
    again: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Alphabet:
    """What texts are made of: the wildcards of patterns, and where a segment may be empty (nowhere, last, or anywhere).

    `rest` stands for one or more segments, last or before an empty last one; no wildcard matches an empty segment.
    """

    any_segment: str
    rest: str
    empty_last: bool = False
    empty_within: bool = False


class _State(NamedTuple):
    """Where each pattern stands that still fits: its number, and how many of its segments are used up.

    That many, but negative, within its rest. And what the text is like so far, as far as that makes a difference.
    """

    positions: _Positions
    ends_empty: bool
    gap: bool
    free: bool


def segment_classes(
    patterns: Sequence[tuple[Sequence[str], T]],
    alphabet: Alphabet,
    *,
    relevant: Container[int] | None = None,
    unmatched: bool = False,
    free: bool = False,
) -> Iterator[SegmentClass[T]]:
    """Give each class that some pattern matches, the shortest example of it first; raises TooManyClassesError.

    Of `relevant` patterns, by number, at least one matches; None: of all. `unmatched` gives also what no pattern
    matches. `free` gives classes again whose first example has no free segment, with one that has.
    """
    told: set[tuple[frozenset[T], bool]] = set()
    told_free: set[tuple[frozenset[T], bool]] = set()
    start = _State(frozenset((number, 0) for number in range(len(patterns))), ends_empty=False, gap=False, free=False)
    seen: set[_State] = set()  # not the start: without patterns, every text is like none
    reached: list[tuple[_State, tuple[str, ...], tuple[str, ...]]] = [(start, (), ())]
    for state, example, shape in reached:
        for segment, next_state in _onward(state, patterns, alphabet, free=free):
            if next_state in seen or not (unmatched or _is_relevant(next_state, relevant)):
                continue
            seen.add(next_state)
            if len(seen) > MAX_CLASSES:
                raise TooManyClassesError(
                    f"the patterns overlap in more than {MAX_CLASSES} ways; they are not compared"
                )
            chosen = _fresh(state, patterns) if segment is None else segment
            onward = (*example, chosen), (*shape, alphabet.any_segment if segment is None else segment)
            reached.append((next_state, *onward))
            matched = frozenset(
                patterns[number][1] for number, used in next_state.positions if _is_whole(patterns[number][0], used)
            )
            if not matched and not unmatched:
                continue
            key = matched, next_state.gap
            again = key in told
            if not again or (next_state.free and key not in told_free):
                told.add(key)
                if next_state.free:
                    told_free.add(key)
                yield SegmentClass(example=onward[0], shape=onward[1], matched=matched, gap=next_state.gap, again=again)


def _is_relevant(state: _State, relevant: Container[int] | None) -> bool:
    if relevant is None:
        return bool(state.positions)
    return any(number in relevant for number, _ in state.positions)


def _onward(
    state: _State, patterns: Sequence[tuple[Sequence[str], T]], alphabet: Alphabet, *, free: bool
) -> Iterator[tuple[str | None, _State]]:
    """Give the states that one more segment leads to: each literal, and (as None) any other that is not empty."""
    if state.ends_empty and not alphabet.empty_within:
        return
    gap = state.gap or state.ends_empty
    wild: set[tuple[int, int]] = set()
    literal: defaultdict[str, set[tuple[int, int]]] = defaultdict(set)
    for number, used in state.positions:
        segments = patterns[number][0]
        if used < 0:  # within the rest: it takes this segment and any further one
            wild.add((number, used))
            if -used < len(segments):
                literal[segments[-used]].add((number, -used + 1))
        elif used == len(segments):
            continue
        elif segments[used] == alphabet.rest:
            wild.add((number, -used - 1))
        elif segments[used] == alphabet.any_segment:
            wild.add((number, used + 1))
        else:
            literal[segments[used]].add((number, used + 1))
    empty = literal.pop("", set())
    if alphabet.empty_last:
        yield "", _State(frozenset(empty), ends_empty=True, gap=gap, free=state.free)
    for segment in sorted(literal):
        yield segment, _State(frozenset(literal[segment] | wild), ends_empty=False, gap=gap, free=state.free)
    yield None, _State(frozenset(wild), ends_empty=False, gap=gap, free=free)


def _is_whole(segments: Sequence[str], used: int) -> bool:
    """Whether a pattern is used up: it may be within its rest, if that is the last of it."""
    return used == len(segments) or -used == len(segments)


def _fresh(state: _State, patterns: Sequence[tuple[Sequence[str], T]]) -> str:
    # Within a rest, what may follow it is an empty segment only: that is no name.
    taken = {patterns[number][0][used] for number, used in state.positions if 0 <= used < len(patterns[number][0])}
    fresh = _FRESH
    while fresh in taken:
        fresh += "-other"
    return fresh
