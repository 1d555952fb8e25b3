"""A span of time as flows know it: whole intervals. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from authz.instant import NS_PER_S
from authz.records.flow import INTERVAL_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """`from_s <= time < until_s`, in whole intervals of flows."""

    from_s: int
    until_s: int

    @classmethod
    def around(cls, since_ns: int, until_ns: int) -> Span:
        """Give the intervals that a span touches: its beginning is moved down, its end up."""
        begin, end = since_ns // NS_PER_S, -(-until_ns // NS_PER_S)
        begin -= begin % INTERVAL_S
        return cls(from_s=begin, until_s=begin if until_ns <= since_ns else end + -end % INTERVAL_S)
