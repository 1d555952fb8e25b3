"""Values by path template, found by a path's segments.

A look-up costs as many steps as there are ways to match the path's segments, whatever the number of templates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from authz.policy.route import ANY_SEGMENT, REST

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")


class SegmentTrie(Generic[T]):
    """Built once by :meth:`add`, then only read."""

    __slots__ = ("any_segment", "here", "literal", "rest")

    def __init__(self) -> None:
        self.literal: dict[str, SegmentTrie[T]] | None = None
        self.any_segment: SegmentTrie[T] | None = None
        #: values of the templates that end here
        self.here: list[T] | None = None
        #: values of the templates whose last segment takes all the rest
        self.rest: list[T] | None = None

    def add(self, segments: Sequence[str], value: T) -> None:
        """Add a value for every path that a template's segments match."""
        node = self
        for segment in segments:
            if segment == REST:
                if node.rest is None:
                    node.rest = []
                node.rest.append(value)
                return
            if segment == ANY_SEGMENT:
                if node.any_segment is None:
                    node.any_segment = SegmentTrie()
                node = node.any_segment
            else:
                if node.literal is None:
                    node.literal = {}
                node = node.literal.setdefault(segment, SegmentTrie())
        if node.here is None:
            node.here = []
        node.here.append(value)

    def matching(self, segments: list[str]) -> list[T]:
        """Give the values of every template that matches a path with these decoded segments."""
        found: list[T] = []
        length = len(segments)
        # `{**}` takes non-empty segments only: it cannot begin at or before the last empty one.
        rest_from = length - segments[::-1].index("") if "" in segments else 0
        open_nodes: list[tuple[SegmentTrie[T], int]] = [(self, 0)]
        while open_nodes:
            node, depth = open_nodes.pop()
            if depth == length:
                if node.here:
                    found.extend(node.here)
                continue
            if node.rest and depth >= rest_from:
                found.extend(node.rest)
            segment = segments[depth]
            if node.literal is not None:
                child = node.literal.get(segment)
                if child is not None:
                    open_nodes.append((child, depth + 1))
            if node.any_segment is not None and segment:
                open_nodes.append((node.any_segment, depth + 1))
        return found
