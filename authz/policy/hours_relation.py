"""How two windows' hours stand to each other: whether they ever meet, and whether one ever leaves the other.

Exact for all time, without looking at every day of it: as long as no zone changes its offset, each week is like the
other, so that one comparison of weeks answers for the whole span between two changes. Before the first change, and
from 400 years after the last rule was made, nothing new comes.

# INVARIANT (exact): what is found is an instant for which it is true; where nothing is found, there is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from authz.instant import NS_PER_S
from authz.policy.hours import MONDAY_S, WEEK_S, merged
from authz.policy.zone import CYCLE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from authz.policy.hours import Hours, LocalWeek

_Spans: TypeAlias = "tuple[tuple[int, int], ...]"

_WHOLE_WEEK: Final = ((0, WEEK_S),)


def instant_in_both_ns(one: Hours | None, other: Hours | None, from_ns: int | None, until_ns: int | None) -> int | None:
    """Find an instant of [from_ns, until_ns) that is inside both; None if there is none. No hours are always."""
    return _instant_ns(_common, one, other, from_ns, until_ns)


def instant_outside_ns(one: Hours | None, other: Hours | None, from_ns: int | None, until_ns: int | None) -> int | None:
    """Find an instant of [from_ns, until_ns) that is inside `one` and not inside `other`; None if there is none."""
    if other is None or one == other or _lies_within(one, other):
        return None
    return _instant_ns(_outside, one, other, from_ns, until_ns)


def _lies_within(one: Hours | None, other: Hours) -> bool:
    """Whether each zone's week lies within the other's of the same zone: the usual case, told without any offset."""
    if one is None:
        return False
    weeks = {week.zone: week.spans_s for week in other.weeks}
    return all(not _outside(week.spans_s, weeks.get(week.zone, ())) for week in one.weeks)


def _instant_ns(
    combine: Callable[[_Spans, _Spans], _Spans],
    one: Hours | None,
    other: Hours | None,
    from_ns: int | None,
    until_ns: int | None,
) -> int | None:
    if from_ns is not None and until_ns is not None and from_ns >= until_ns:
        return None
    weeks = (*(() if one is None else one.weeks), *(() if other is None else other.weeks))
    own = 0 if one is None else len(one.weeks)
    start_ns, end_ns = _where_all_is_seen(weeks, from_ns, until_ns)
    known: dict[tuple[int, ...], _Spans] = {}
    for first_ns, last_ns, offsets_s in _constant_spans(weeks, start_ns, end_ns):
        spans = known.get(offsets_s)
        if spans is None:
            ones = _WHOLE_WEEK if one is None else _week(weeks[:own], offsets_s[:own])
            others = _WHOLE_WEEK if other is None else _week(weeks[own:], offsets_s[own:])
            spans = known[offsets_s] = combine(ones, others)
        found_ns = _first_inside_ns(spans, first_ns, last_ns)
        if found_ns is not None:
            return found_ns
    return None


def _where_all_is_seen(weeks: tuple[LocalWeek, ...], from_ns: int | None, until_ns: int | None) -> tuple[int, int]:
    """Give a part of [from_ns, until_ns) in which everything happens that ever happens in all of it."""
    # Before the first change of all zones every week is the same: of what lies there, the last two are enough.
    steady_ns = min((week.zone.changes_from_s for week in weeks), default=0) * NS_PER_S
    if until_ns is not None:
        steady_ns = min(steady_ns, until_ns)
    steady_ns -= 2 * WEEK_S * NS_PER_S
    start_ns = steady_ns if from_ns is None else max(from_ns, steady_ns)
    # After the last of what is no rule, everything comes again after a cycle.
    repeats_ns = max((week.zone.repeats_from_s for week in weeks), default=0) * NS_PER_S
    seen_ns = max(start_ns, repeats_ns) + CYCLE_S * NS_PER_S
    return start_ns, seen_ns if until_ns is None else min(until_ns, seen_ns)


def _constant_spans(
    weeks: tuple[LocalWeek, ...], start_ns: int, end_ns: int
) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """Give the spans of [start_ns, end_ns) in which no zone changes its offset, with all zones' offsets."""
    start_s, end_s = start_ns // NS_PER_S, -(-end_ns // NS_PER_S)
    zones = [week.zone.segments(start_s, end_s) for week in weeks]
    current = [next(segments) for segments in zones]
    at_s = start_s
    while at_s < end_s:
        next_s = min((segment.end_s for segment in current), default=end_s)
        offsets_s = tuple(segment.offset_s for segment in current)
        yield max(at_s * NS_PER_S, start_ns), min(next_s * NS_PER_S, end_ns), offsets_s
        for index, segments in enumerate(zones):
            if current[index].end_s == next_s < end_s:
                current[index] = next(segments)
        at_s = next_s


def _week(weeks: tuple[LocalWeek, ...], offsets_s: tuple[int, ...]) -> _Spans:
    """Give what is inside of a week of real time while these are the zones' offsets."""
    return merged(
        span for week, offset_s in zip(weeks, offsets_s, strict=True) for span in week.spans_at_offset(offset_s)
    )


def _common(one: _Spans, other: _Spans) -> _Spans:
    found = []
    index = other_index = 0
    while index < len(one) and other_index < len(other):
        (start, end), (other_start, other_end) = one[index], other[other_index]
        if max(start, other_start) < min(end, other_end):
            found.append((max(start, other_start), min(end, other_end)))
        if end < other_end:
            index += 1
        else:
            other_index += 1
    return tuple(found)


def _outside(one: _Spans, other: _Spans) -> _Spans:
    gaps = zip((0, *(end for _, end in other)), (*(start for start, _ in other), WEEK_S), strict=True)
    return _common(one, tuple(gap for gap in gaps if gap[0] < gap[1]))


def _first_inside_ns(spans: _Spans, first_ns: int, last_ns: int) -> int | None:
    """Give the first instant of [first_ns, last_ns) that is in the spans of its week."""
    week_ns, monday_ns = WEEK_S * NS_PER_S, MONDAY_S * NS_PER_S
    week_start_ns = first_ns - (first_ns - monday_ns) % week_ns
    for start_ns in (week_start_ns, week_start_ns + week_ns):
        for start_s, end_s in spans:
            found_ns = max(start_ns + start_s * NS_PER_S, first_ns)
            if found_ns < min(start_ns + end_s * NS_PER_S, last_ns):
                return found_ns
    return None
