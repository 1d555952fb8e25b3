"""Spans of time as values: when windows are open within a part of all time, and what is so when of them.

Whatever asks about many combinations of windows at every instant puts whole spans together instead of asking instant
by instant: a year of hours is some hundred spans, and each operation goes through them once.

# INVARIANT (apart): the spans of a value are sorted, not empty, and neither touch nor overlap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from authz.policy.hours import merged

if TYPE_CHECKING:
    from collections.abc import Iterable

    from authz.policy.window import Window

#: From the first instant (inclusive) to the second (exclusive).
Spans: TypeAlias = "tuple[tuple[int, int], ...]"

NEVER: Spans = ()


def open_spans(window: Window, from_ns: int, until_ns: int) -> Spans:
    """Give when a window is open within [from_ns, until_ns), of 366 days at most."""
    start_ns = from_ns if window.opens_ns is None else max(from_ns, window.opens_ns)
    end_ns = until_ns if window.closes_ns is None else min(until_ns, window.closes_ns)
    if start_ns >= end_ns:
        return NEVER
    if window.hours is None:
        return ((start_ns, end_ns),)
    edges = window.hours.spans_seen_from(start_ns).edges_ns
    return common(tuple(zip(edges[::2], edges[1::2], strict=True)), ((start_ns, end_ns),))


def any_of(parts: Iterable[Spans]) -> Spans:
    """Give when any of some spans is."""
    given = [part for part in parts if part]
    return merged(span for part in given for span in part) if len(given) > 1 else given[0] if given else NEVER


def common(one: Spans, other: Spans) -> Spans:
    """Give when both are."""
    found = []
    index = other_index = 0
    while index < len(one) and other_index < len(other):
        (start, end), (other_start, other_end) = one[index], other[other_index]
        first, last = max(start, other_start), min(end, other_end)
        if first < last:
            found.append((first, last))
        if end < other_end:
            index += 1
        else:
            other_index += 1
    return tuple(found)


def without(one: Spans, other: Spans) -> Spans:
    """Give when the one is and the other is not."""
    if not one or not other:
        return one
    starts = (one[0][0], *(end for _, end in other))
    ends = (*(start for start, _ in other), one[-1][1])
    return common(one, tuple(gap for gap in zip(starts, ends, strict=True) if gap[0] < gap[1]))
