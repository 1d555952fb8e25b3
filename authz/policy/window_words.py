"""How a window stands at an instant, in the words of a person: `closed 3 days ago`, `opens in 2 hours`."""

from __future__ import annotations

from typing import Final

from authz.instant import NS_PER_S, rfc3339_from_ns
from authz.policy.window import NS_PER_DAY, Window, WindowState

_UNITS: Final = (("days", NS_PER_DAY), ("hours", 3600 * NS_PER_S), ("minutes", 60 * NS_PER_S), ("seconds", NS_PER_S))
#: Of a unit there are at least so many: `36 hours` says more than `1 day`.
_AT_LEAST: Final = 2


def window_in_words(window: Window, now_ns: int) -> str:
    """Say how a window stands, since when or until when, and how far away that is."""
    match window.state(now_ns):
        case WindowState.NOT_YET_OPEN:
            # The hours, where there are some, may keep it closed beyond its first instant.
            opening_ns = window.next_opening_ns(now_ns)
            return _ahead("opens", window.opens_ns if opening_ns is None else opening_ns, now_ns)
        case WindowState.OPEN:
            until_ns = window.open_until_ns(now_ns)
            if until_ns is None:
                return "open without end"
            return f"open until {instant(until_ns)}, {duration(until_ns - now_ns)} more"
        case WindowState.OUTSIDE_HOURS:
            return f"outside its hours ({window}); {_ahead('open again', window.next_opening_ns(now_ns), now_ns)}"
        case WindowState.CLOSED:
            closed_ns = now_ns if window.closes_ns is None else window.closes_ns
            if closed_ns == now_ns:
                return f"closed at this very instant, {instant(closed_ns)}"
            return f"closed {duration(now_ns - closed_ns)} ago, at {instant(closed_ns)}"


def _ahead(word: str, opening_ns: int | None, now_ns: int) -> str:
    if opening_ns is None:
        return f"never {word}"
    return f"{word} in {duration(opening_ns - now_ns)}, at {instant(opening_ns)}"


def duration(length_ns: int) -> str:
    """Give a length of time in its largest unit that comes at least twice, cut to whole ones."""
    for name, unit_ns in _UNITS:
        if length_ns >= _AT_LEAST * unit_ns:
            return f"{length_ns // unit_ns} {name}"
    return "1 second" if length_ns >= NS_PER_S else "less than a second"


def instant(instant_ns: int) -> str:
    """Write an instant as RFC 3339, without the milliseconds where there are none."""
    return rfc3339_from_ns(instant_ns).replace(".000Z", "Z")
