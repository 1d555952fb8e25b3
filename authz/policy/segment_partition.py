"""Every way in which patterns of segments can match together, with one example of each.

Patterns divide all texts of segments into classes: two texts are in the same class if the same patterns match them.
There are finitely many, and this finds them all, by following all patterns at once, segment by segment. It serves paths
and identities alike: literals, one whole segment, and all the rest.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from authz.policy.errors import PolicyError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

T = TypeVar("T")

#: More classes than this are no policy that anyone could review.
MAX_CLASSES: Final = 100_000
#: What stands for a segment that no pattern names.
_FRESH: Final = "any"

_State = frozenset[tuple[int, int]]


class TooManyClassesError(PolicyError):
    """Patterns overlap in more ways than can be looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentClass(Generic[T]):
    """What exactly `matched` match: `example` is one such text, `shape` the same with wildcards for what is free."""

    example: tuple[str, ...]
    shape: tuple[str, ...]
    matched: frozenset[T]


def segment_classes(
    patterns: Sequence[tuple[Sequence[str], T]], *, any_segment: str, rest: str
) -> Iterator[SegmentClass[T]]:
    """Give each class that some pattern matches, the shortest example of it first; raises TooManyClassesError.

    `rest` stands for one or more segments, last or before an empty last one; no wildcard matches an empty segment.
    """
    told: set[frozenset[T]] = set()
    # A state is where each pattern stands that still fits: its number, and how many of its segments are used up; that
    # many, but negative, within its rest.
    start: _State = frozenset((number, 0) for number in range(len(patterns)))
    seen = {start}
    reached: list[tuple[_State, tuple[str, ...], tuple[str, ...]]] = [(start, (), ())]
    for state, example, shape in reached:
        for segment, next_state in _onward(state, patterns, any_segment, rest):
            if not next_state or next_state in seen:
                continue
            seen.add(next_state)
            if len(seen) > MAX_CLASSES:
                raise TooManyClassesError(
                    f"the patterns overlap in more than {MAX_CLASSES} ways; they are not compared"
                )
            chosen = _fresh(state, patterns) if segment is None else segment
            onward = next_state, (*example, chosen), (*shape, any_segment if segment is None else segment)
            reached.append(onward)
            matched = frozenset(
                patterns[number][1] for number, used in next_state if _is_whole(patterns[number][0], used)
            )
            if matched and matched not in told:
                told.add(matched)
                yield SegmentClass(example=onward[1], shape=onward[2], matched=matched)


def unmatched_example(
    patterns: Sequence[tuple[Sequence[str], T]], *, any_segment: str, rest: str, empty_last: bool
) -> tuple[str, ...] | None:
    """Give the shortest segments that no pattern matches, none empty but the last if it may be; None without any."""
    state: _State = frozenset((number, 0) for number in range(len(patterns)))
    seen: set[_State] = set()
    example: tuple[str, ...] = ()
    # Where a segment is named, patterns match more, never less: what is free in every segment is matched the least.
    while state not in seen:
        seen.add(state)
        onward = dict(_onward(state, patterns, any_segment, rest))
        fresh = _fresh(state, patterns)
        for segment, chosen in ((None, fresh), ("", "")) if empty_last else ((None, fresh),):
            reached = onward.get(segment, frozenset())
            if not any(_is_whole(patterns[number][0], used) for number, used in reached):
                return (*example, chosen)
        example = (*example, fresh)
        state = onward[None]
    return None


def _onward(
    state: _State, patterns: Sequence[tuple[Sequence[str], T]], any_segment: str, rest: str
) -> Iterator[tuple[str | None, _State]]:
    """Give the states that one more segment leads to: each literal, and (as None) any other that is not empty."""
    free: set[tuple[int, int]] = set()
    literal: defaultdict[str, set[tuple[int, int]]] = defaultdict(set)
    for number, used in state:
        segments = patterns[number][0]
        if used < 0:  # within the rest: it takes this segment and any further one
            free.add((number, used))
            if -used < len(segments):
                literal[segments[-used]].add((number, -used + 1))
        elif used == len(segments):
            continue
        elif segments[used] == rest:
            free.add((number, -used - 1))
        elif segments[used] == any_segment:
            free.add((number, used + 1))
        else:
            literal[segments[used]].add((number, used + 1))
    for segment in sorted(literal):
        yield segment, frozenset(literal[segment] | free if segment else literal[segment])
    yield None, frozenset(free)


def _is_whole(segments: Sequence[str], used: int) -> bool:
    """Whether a pattern is used up: it may be within its rest, if that is the last of it."""
    return used == len(segments) or -used == len(segments)


def _fresh(state: _State, patterns: Sequence[tuple[Sequence[str], T]]) -> str:
    taken = {patterns[number][0][used] for number, used in state if 0 <= used < len(patterns[number][0])}
    fresh = _FRESH
    while fresh in taken:
        fresh += "-other"
    return fresh
