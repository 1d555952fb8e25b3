"""When a rule is open: [opens, closes), and there inside its hours, where it has some.

Instants are whole nanoseconds since the epoch, so that no comparison ever rounds. Decides what an instant and a window
are, and in which state a window is at an instant; which instants hours are, `hours` decides. Whose window counts, and
what follows from it, is decided elsewhere.

A window with hours answers for every instant. One that is expanded around an instant answers by bisection, and for
about 400 days: past that horizon it is open to nobody.

# INVARIANT (total): every integer is an instant; no question about a window raises.

RFC 3339, https://www.rfc-editor.org/rfc/rfc3339#section-5.6
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import date
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from authz.instant import NS_PER_MS, NS_PER_S, rfc3339_from_ns
from authz.policy.errors import PolicyError, quoted
from authz.policy.hours import union
from authz.policy.hours_relation import instant_in_both_ns, instant_outside_ns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from authz.policy.hours import Hours, OpenSpans

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
    """The instants from `opens_ns` (inclusive) to `closes_ns` (exclusive) that are inside `hours`.

    None is without end on that side, and without hours all day. `spans` are the hours' edges, where they have been
    worked out; windows that differ in nothing else are equal.
    """

    opens_ns: int | None = None
    closes_ns: int | None = None
    hours: Hours | None = None
    spans: OpenSpans | None = field(default=None, compare=False, repr=False)

    @property
    def always(self) -> bool:
        """Whether the window is open at every instant."""
        return self.opens_ns is None and self.closes_ns is None and self.hours is None

    def expanded(self, around_ns: int, shared: dict[Hours, OpenSpans] | None = None) -> Window:
        """Give the window with its hours' edges worked out around an instant; equal hours in `shared` share them."""
        if self.hours is None:
            return self
        spans = None if shared is None else shared.get(self.hours)
        if spans is None:
            spans = self.hours.spans(around_ns)
            if shared is not None:
                shared[self.hours] = spans
        return replace(self, spans=spans)

    def is_open(self, at_ns: int) -> bool:
        """Whether the instant is inside."""
        if (self.opens_ns is not None and at_ns < self.opens_ns) or (
            self.closes_ns is not None and at_ns >= self.closes_ns
        ):
            return False
        hours = self.spans or self.hours
        return hours is None or hours.is_open(at_ns)

    def state(self, at_ns: int) -> WindowState:
        """Give the state at an instant."""
        if self.opens_ns is not None and at_ns < self.opens_ns:
            return WindowState.NOT_YET_OPEN
        if self.closes_ns is not None and at_ns >= self.closes_ns:
            return WindowState.CLOSED
        hours = self.spans or self.hours
        return WindowState.OPEN if hours is None or hours.is_open(at_ns) else WindowState.OUTSIDE_HOURS

    def open_until_ns(self, at_ns: int) -> int | None:
        """Give the end of the span that `at_ns`, an instant inside, lies in; None if it has no end.

        An end later than 366 days after may be told as none. A window that is expanded ends at its horizon.
        """
        hours = self.spans or self.hours
        end_ns = None if hours is None else hours.open_until_ns(at_ns)
        if end_ns is None or (self.closes_ns is not None and self.closes_ns < end_ns):
            return self.closes_ns
        return end_ns

    def next_opening_ns(self, from_ns: int) -> int | None:
        """Give the first instant at or after `from_ns` that is inside; None if there is none."""
        first_ns = from_ns if self.opens_ns is None else max(from_ns, self.opens_ns)
        hours = self.spans or self.hours
        opening_ns = first_ns if hours is None else hours.next_opening_ns(first_ns)
        if opening_ns is None or (self.closes_ns is not None and opening_ns >= self.closes_ns):
            return None
        return opening_ns

    def covers(self, other: Window) -> bool:
        """Whether every instant inside the other window is inside this one, too; for all time, expanded or not."""
        before = self.opens_ns is not None and other._ever_open(None, self.opens_ns)
        after = self.closes_ns is not None and other._ever_open(self.closes_ns, None)
        if before or after:
            return False
        return instant_outside_ns(other.hours, self.hours, *_common_dates(self, other)) is None

    def meets(self, other: Window) -> bool:
        """Whether some instant is inside both windows; for all time, expanded or not."""
        return instant_in_both_ns(self.hours, other.hours, *_common_dates(self, other)) is not None

    def _ever_open(self, from_ns: int | None, until_ns: int | None) -> bool:
        """Whether some instant of [from_ns, until_ns) is inside."""
        return self.meets(Window(opens_ns=from_ns, closes_ns=until_ns))

    def __str__(self) -> str:
        dates = [
            f"{word} {rfc3339_from_ns(edge_ns)}"
            for word, edge_ns in (("from", self.opens_ns), ("until", self.closes_ns))
            if edge_ns is not None
        ]
        return " ".join([*dates, *([] if self.hours is None else [f"during {self.hours}"])]) or "always"


def joined(windows: Sequence[Window], now_ns: int) -> Sequence[Window]:
    """Give fewer windows that together are open when these are, at every instant from `now_ns` to 366 days later.

    Windows of the same dates become one, whose hours are those of all: a day and a night that follow on each other
    are open for ever, and nobody wants to go through a year of them to see it.
    """
    tables: dict[tuple[int | None, int | None], list[OpenSpans]] = {}
    others = []
    for window in windows:
        if window.hours is None:
            others.append(window)
            continue
        # Dates that are over, and those beyond the horizon, are none.
        opens_ns = None if window.opens_ns is None or window.opens_ns <= now_ns else window.opens_ns
        closes_ns = None if window.closes_ns is None or window.closes_ns > now_ns + HORIZON_NS else window.closes_ns
        spans = window.hours.spans_seen_from(now_ns) if window.spans is None else window.spans
        tables.setdefault((opens_ns, closes_ns), []).append(spans)
    for (opens_ns, closes_ns), same in tables.items():
        spans = same[0] if len(same) == 1 else union(frozenset(same))
        others.append(Window(opens_ns=opens_ns, closes_ns=closes_ns, spans=spans))
    return others


def _common_dates(one: Window, other: Window) -> tuple[int | None, int | None]:
    """Give the later opens and the earlier closes of two windows."""
    opens_ns = max((each for each in (one.opens_ns, other.opens_ns) if each is not None), default=None)
    closes_ns = min((each for each in (one.closes_ns, other.closes_ns) if each is not None), default=None)
    return opens_ns, closes_ns


#: The window of a rule that has none.
ALWAYS: Final = Window()
