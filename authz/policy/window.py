"""When a rule is open: [opens, closes), as whole nanoseconds since the epoch, so that no comparison ever rounds.

Decides what an instant and a window are, and in which state a window is at an instant. Whose window counts, and
what follows from it, is decided elsewhere.

# INVARIANT (total): every integer is an instant; no question about a window raises.

RFC 3339, https://www.rfc-editor.org/rfc/rfc3339#section-5.6
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Final

from authz.instant import NS_PER_MS, NS_PER_S, rfc3339_from_ns
from authz.policy.errors import PolicyError, quoted

NS_PER_DAY: Final = 86_400 * NS_PER_S
#: How far ahead an answer looks: a year and a day, so that what happens once a year is seen.
HORIZON_NS: Final = 366 * NS_PER_DAY

_INSTANT: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,3}))?"
    r"(?:([Zz])|([+-])([0-9]{2}):([0-9]{2}))"
)
_NO_OFFSET: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[Tt ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?)?")
_LONG_FRACTION: Final = re.compile(r".*\.[0-9]{4,}(?:[Zz]|[+-][0-9]{2}:[0-9]{2})", re.DOTALL)
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
#: An instant is written as text of four-digit years; what an offset pushes out of them could not be.
_FIRST_NS: Final = (date.min.toordinal() - _EPOCH_DAY) * NS_PER_DAY
_END_NS: Final = (date.max.toordinal() + 1 - _EPOCH_DAY) * NS_PER_DAY


class InstantError(PolicyError):
    """A text is no instant."""


def parse_instant_ns(text: str) -> int:
    """Read RFC 3339 with an offset and at most three digits of a second's fraction; raises InstantError."""
    found = _INSTANT.fullmatch(text)
    if found is None:
        raise InstantError(f"{quoted(text)} {_why_no_instant(text)}")
    year, month, day, hour, minute, second = (int(found[index]) for index in range(1, 7))
    try:
        days = date(year, month, day).toordinal() - _EPOCH_DAY
    except ValueError as error:
        raise InstantError(f"{quoted(text)}: there is no such day") from error
    offset_hours, offset_minutes = (int(found[10] or 0), int(found[11] or 0))
    if hour > 23 or minute > 59 or second > 59 or offset_hours > 23 or offset_minutes > 59:  # noqa: PLR2004 RFC 3339 5.7
        raise InstantError(f"{quoted(text)}: there is no such time of day")
    offset_s = (offset_hours * 3600 + offset_minutes * 60) * (-1 if found[9] == "-" else 1)
    fraction_ns = int((found[7] or "0").ljust(3, "0")) * NS_PER_MS
    instant_ns = days * NS_PER_DAY + (hour * 3600 + minute * 60 + second - offset_s) * NS_PER_S + fraction_ns
    if not _FIRST_NS <= instant_ns < _END_NS:
        raise InstantError(f"{quoted(text)} is outside the years 1 to 9999 in UTC")
    return instant_ns


def _why_no_instant(text: str) -> str:
    example = "such as 2026-11-01T00:00:00Z"
    if _NO_OFFSET.fullmatch(text):
        return f"has no offset; write a time with `Z` or an offset like `+01:00`, {example}"
    if _LONG_FRACTION.fullmatch(text):
        return "has more than 3 digits of a second's fraction"
    return f"is no time of RFC 3339, {example}"


class WindowState(StrEnum):
    """How a window stands at an instant."""

    NOT_YET_OPEN = "not_yet_open"
    OPEN = "open"
    OUTSIDE_HOURS = "outside_hours"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The instants from `opens_ns` (inclusive) to `closes_ns` (exclusive); None is without end on that side."""

    opens_ns: int | None = None
    closes_ns: int | None = None

    @property
    def always(self) -> bool:
        """Whether the window is open at every instant."""
        return self.opens_ns is None and self.closes_ns is None

    def is_open(self, at_ns: int) -> bool:
        """Whether the instant is inside."""
        return (self.opens_ns is None or at_ns >= self.opens_ns) and (self.closes_ns is None or at_ns < self.closes_ns)

    def state(self, at_ns: int) -> WindowState:
        """Give the state at an instant."""
        if self.opens_ns is not None and at_ns < self.opens_ns:
            return WindowState.NOT_YET_OPEN
        if self.closes_ns is not None and at_ns >= self.closes_ns:
            return WindowState.CLOSED
        return WindowState.OPEN

    def open_until_ns(self, at_ns: int) -> int | None:
        """Give the end of the span that `at_ns`, an instant inside, lies in; None if it has no end."""
        del at_ns  # a window without hours is one span
        return self.closes_ns

    def next_opening_ns(self, from_ns: int) -> int | None:
        """Give the first instant at or after `from_ns` that is inside; None if there is none."""
        first_ns = from_ns if self.opens_ns is None else max(from_ns, self.opens_ns)
        return first_ns if self.is_open(first_ns) else None

    def covers(self, other: Window) -> bool:
        """Whether every instant inside the other window is inside this one, too."""
        return (self.opens_ns is None or (other.opens_ns is not None and other.opens_ns >= self.opens_ns)) and (
            self.closes_ns is None or (other.closes_ns is not None and other.closes_ns <= self.closes_ns)
        )

    def __str__(self) -> str:
        opens = "ever" if self.opens_ns is None else rfc3339_from_ns(self.opens_ns)
        closes = "ever" if self.closes_ns is None else rfc3339_from_ns(self.closes_ns)
        return f"from {opens} until {closes}"


#: The window of a rule that has none.
ALWAYS: Final = Window()
