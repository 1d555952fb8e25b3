"""Values by path template, found by a path's segments.

A look-up costs as many steps as there are ways to match the path's segments, whatever the number of templates.

Where only one template goes on, its last segments stand as one tail instead of a node each: a path is found in fewer
steps, and what a look-up reads is smaller, which matters where a hundred thousand rules fit in no cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar

from authz.policy.route import ANY_SEGMENT, REST

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")

#: The segments that are left of one template, and then its values.
Tail: TypeAlias = tuple[tuple[str, ...], *tuple[T, ...]]
#: Tails that most templates end in: one of each for all tries.
_ONE_SEGMENT: Final = (ANY_SEGMENT,)
_USUAL_TAILS: Final[dict[tuple[str, ...], tuple[str, ...]]] = {each: each for each in ((), _ONE_SEGMENT, (REST,))}
#: A longer one becomes a node, whose values can grow.
_LONGEST_TAIL: Final = 16


class SegmentTrie(Generic[T]):
    """Built once by :meth:`add`, then only read."""

    __slots__ = ("any_segment", "here", "literal", "rest")

    def __init__(self) -> None:
        self.literal: dict[str, SegmentTrie[T] | Tail[T]] | None = None
        self.any_segment: SegmentTrie[T] | Tail[T] | None = None
        #: values of the templates that end here
        self.here: list[T] | None = None
        #: values of the templates whose last segment takes all the rest
        self.rest: list[T] | None = None

    def add(self, segments: Sequence[str], value: T) -> None:
        """Add a value for every path that a template's segments match."""
        template = tuple(segments)
        node = self
        for depth, segment in enumerate(template):
            if segment == REST:
                if node.rest is None:
                    node.rest = []
                node.rest.append(value)
                return
            tail = template[depth + 1 :]
            child = node.child(segment)
            if child is None:
                node.put(segment, (_USUAL_TAILS.get(tail, tail), value))
                return
            if isinstance(child, tuple):
                if child[0] == tail and len(child) <= _LONGEST_TAIL:
                    node.put(segment, (*child, value))
                    return
                child = _parted(child)
                node.put(segment, child)
            node = child
        if node.here is None:
            node.here = []
        node.here.append(value)

    def matching(self, segments: list[str], depth: int = 0) -> list[T]:
        """Give the values of every template that matches the decoded segments of a path, from `depth` on."""
        found: list[T] = []
        length = len(segments)
        rest_from = _rest_from(segments)
        open_nodes: list[tuple[SegmentTrie[T], int]] = []
        node = self
        while True:
            if depth == length:
                if node.here is not None:
                    found += node.here
            else:
                if node.rest is not None and depth >= rest_from:
                    found += node.rest
                segment = segments[depth]
                depth += 1
                for child in (
                    None if node.literal is None else node.literal.get(segment),
                    node.any_segment if segment else None,
                ):
                    if isinstance(child, tuple):
                        if _fits(child[0], segments, depth, rest_from):
                            found += child[1:]
                    elif child is not None:
                        open_nodes.append((child, depth))
            if not open_nodes:
                return found
            node, depth = open_nodes.pop()

    def child(self, segment: str) -> SegmentTrie[T] | Tail[T] | None:
        """Give what stands behind a segment of a template."""
        if segment == ANY_SEGMENT:
            return self.any_segment
        return None if self.literal is None else self.literal.get(segment)

    def put(self, segment: str, child: SegmentTrie[T] | Tail[T]) -> None:
        """Set what stands behind a segment of a template."""
        if segment == ANY_SEGMENT:
            self.any_segment = child
            return
        if self.literal is None:
            self.literal = {}
        self.literal[segment] = child


def grown(child: SegmentTrie[T] | Tail[T] | None, template: tuple[str, ...], value: T) -> SegmentTrie[T] | Tail[T]:
    """Give what stands behind a segment with one more template added; a tail becomes a node where two part."""
    if child is None:
        return (_USUAL_TAILS.get(template, template), value)
    if isinstance(child, tuple):
        if child[0] == template and len(child) <= _LONGEST_TAIL:
            return (*child, value)
        child = _parted(child)
    child.add(template, value)
    return child


def matching_below(child: SegmentTrie[T] | Tail[T], segments: list[str], depth: int) -> Sequence[T]:
    """Give the values behind a segment whose templates match the segments from `depth` on."""
    if not isinstance(child, tuple):
        return child.matching(segments, depth)
    tail = child[0]
    if tail is _ONE_SEGMENT:  # `/items/{id}`, of which there are most, needs to know nothing of the rest
        return child[1:] if depth + 1 == len(segments) and segments[depth] else ()
    return child[1:] if _fits(tail, segments, depth, _rest_from(segments)) else ()


def _parted(tail: Tail[T]) -> SegmentTrie[T]:
    """Give a node for a tail that another template parts from."""
    segments, *values = tail
    node: SegmentTrie[T] = SegmentTrie()
    if not segments:
        node.here = values
    elif segments[0] == REST:
        node.rest = values
    else:
        left = segments[1:]
        node.put(segments[0], (_USUAL_TAILS.get(left, left), *values))
    return node


def _rest_from(segments: list[str]) -> int:
    """Give where `{**}` may begin: it takes non-empty segments only, so not at or before the last empty one."""
    return len(segments) - segments[::-1].index("") if "" in segments else 0


def _fits(tail: tuple[str, ...], segments: list[str], depth: int, rest_from: int) -> bool:
    """Whether a tail matches all segments from `depth` on."""
    length = len(segments)
    if tail is _ONE_SEGMENT:
        return depth + 1 == length and segments[depth] != ""
    for wanted in tail:
        if depth == length:
            return False
        if wanted == REST:  # first: a request, too, may have a segment of braces
            return depth >= rest_from
        segment = segments[depth]
        if wanted != segment and (wanted != ANY_SEGMENT or not segment):
            return False
        depth += 1
    return depth == length
