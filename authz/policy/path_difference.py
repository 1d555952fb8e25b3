"""Where a path parts from a pattern: at which segment, and what stands there on either side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from authz.policy.errors import quoted
from authz.policy.route import ANY_SEGMENT, REST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from authz.policy.route import PathTemplate


@dataclass(frozen=True, slots=True, kw_only=True)
class PathDifference:
    """The first segment, from 1, at which a path does not fit, and in words what it is and what it would have to be."""

    segment: int
    found: str
    wanted: str


def path_difference(template: PathTemplate, segments: Sequence[str]) -> PathDifference | None:
    """Give where a path with these decoded segments parts from the pattern; None where it matches."""
    written = template.text[1:].split("/")
    for index, wanted in enumerate(template.segments):
        number = index + 1
        shown = quoted(written[index])
        if index == len(segments):
            # `/a` and `/a/` differ in nothing but an empty segment.
            missing = "a trailing slash" if wanted == "" else f"segment {number}, {shown}"
            return PathDifference(segment=number, found=f"the path ends before segment {number}", wanted=missing)
        if wanted == REST:
            return _rest_difference(segments, index, shown)
        found = segments[index]
        if wanted == ANY_SEGMENT:
            if found == "":
                return PathDifference(segment=number, found=_empty(segments, index), wanted=f"{shown}, not empty")
        elif found != wanted:
            is_ = _empty(segments, index) if found == "" else f"segment {number} is {quoted(found)}"
            return PathDifference(segment=number, found=is_, wanted=shown if wanted else "an empty segment")
    length = len(template.segments)
    if len(segments) == length:
        return None
    rest = segments[length:]
    found = "the path ends with a slash" if list(rest) == [""] else f"the path goes on with {quoted('/'.join(rest))}"
    return PathDifference(segment=length + 1, found=found, wanted=f"nothing after segment {length}")


def _rest_difference(segments: Sequence[str], index: int, shown: str) -> PathDifference | None:
    for position in range(index, len(segments)):
        if segments[position] == "":
            wanted = f"{shown}: segments that are not empty"
            return PathDifference(segment=position + 1, found=_empty(segments, position), wanted=wanted)
    return None


def _empty(segments: Sequence[str], index: int) -> str:
    if index and index + 1 == len(segments):
        return "the path ends with a slash"
    return f"segment {index + 1} is empty"
