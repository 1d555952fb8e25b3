"""The dates of windows as a calendar feed: when each opens, and when it closes, with alarms before the close.

An event keeps its UID when its date moves: a calendar that reads the feed again moves the entry. Daily hours are no
events. What a policy says of itself (owner, names) is escaped: it adds no line to the feed.

RFC 5545, https://www.rfc-editor.org/rfc/rfc5545
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from authz.insight.attempt import WindowKind
from authz.insight.window_dates import WindowStage
from authz.instant import FIRST_S, LAST_S, NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from authz.insight.window_report import WindowReport

#: 3.1: a line is not longer than 75 octets, its end aside
MAX_LINE_OCTETS: Final = 75
#: when a calendar reminds of a close: RFC 5545 durations before it
ALARMS: Final = ("-P14D", "-P1D", "-PT1H")
#: of a text; an owner is a word or two
MAX_TEXT_CHARACTERS: Final = 512
#: 3.3.11: TEXT has no control characters but the tab; and what only some readers take for the end of a line has no
#: business in it, nor has half of a character of UTF-16
_FORBIDDEN: Final = {
    **dict.fromkeys(
        [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0xD800, 0xE000)], "\N{REPLACEMENT CHARACTER}"
    ),
    0x09: "\t",
    0x0A: "\n",
}
_ESCAPED: Final = str.maketrans({"\\": "\\\\", ";": "\\;", ",": "\\,", "\n": "\\n"})
_KINDS: Final = {WindowKind.THIRD_PARTY: "ThirdParty", WindowKind.MICRO_POLICY: "MicroPolicy"}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def calendar(reports: Iterable[WindowReport], *, mesh: str, trust_domain: str, now_ns: int) -> str:
    """Give the feed of a mesh, its lines ended by CRLF; `trust_domain` makes UIDs unique in the world."""
    lines = [
        "BEGIN:VCALENDAR",
        "VERSION:2.0",
        "PRODID:-//Picoseg//authz windows//EN",
        "CALSCALE:GREGORIAN",
        f"X-WR-CALNAME:{_text(f'Windows of {mesh}')}",
        "REFRESH-INTERVAL;VALUE=DURATION:PT1H",  # RFC 7986 5.7
    ]
    events = [line for report in reports for line in _events(report, mesh, trust_domain, now_ns)]
    lines += events or _no_events(mesh, trust_domain, now_ns)
    lines.append("END:VCALENDAR")
    return "".join(f"{folded}\r\n" for line in lines for folded in _folded(line))


def _no_events(mesh: str, trust_domain: str, now_ns: int) -> list[str]:
    """Give what stands in a feed without dates: 3.6 demands a component, and this one shows nothing."""
    about = [f"UID:none.{mesh}@{trust_domain}", f"DTSTAMP:{_date_time(now_ns)}"]
    return ["BEGIN:VFREEBUSY", *about, "END:VFREEBUSY"]


def _events(report: WindowReport, mesh: str, trust_domain: str, now_ns: int) -> Iterator[str]:
    window = report.window
    for word, instant_ns in (("opens", window.opens_ns), ("closes", window.closes_ns)):
        if instant_ns is None:
            continue
        closes = word == "closes"
        yield "BEGIN:VEVENT"
        # The name is unique in its kind, and the kind in the mesh.
        yield f"UID:{word}.{window.kind.value}.{window.name}.{mesh}@{trust_domain}"
        yield f"DTSTAMP:{_date_time(now_ns)}"
        yield f"DTSTART:{_date_time(instant_ns)}"
        yield f"SUMMARY:{_text(f'{_KINDS[window.kind]} {window.name} {word}')}"
        yield f"DESCRIPTION:{_text(_description(report, closes=closes))}"
        yield f"CATEGORIES:{_text(window.kind.value)}"
        yield "TRANSP:TRANSPARENT"
        if closes and report.stage is not WindowStage.ENDED:
            for trigger in ALARMS:
                yield "BEGIN:VALARM"
                yield "ACTION:DISPLAY"
                yield f"DESCRIPTION:{_text(f'{_KINDS[window.kind]} {window.name} closes')}"
                yield f"TRIGGER:{trigger}"
                yield "END:VALARM"
        yield "END:VEVENT"


def _description(report: WindowReport, *, closes: bool) -> str:
    window = report.window
    lines = [f"{window.path}:{window.line}"]
    if window.owner is not None:
        lines.append(f"owner: {window.owner}")
    if window.hours is not None:
        lines.append(f"hours: {window.hours}")
    attempts = report.after if closes else report.before
    if attempts.count:
        lines.append(f"attempts {'since the close' if closes else 'before it opened'}: {attempts.count}")
    return "\n".join(line[:MAX_TEXT_CHARACTERS].replace("\n", " ") for line in lines)


def _date_time(instant_ns: int) -> str:
    """Write an instant in UTC (3.3.5, form 2), cut to the second."""
    moment = _EPOCH + timedelta(seconds=max(FIRST_S, min(instant_ns // NS_PER_S, LAST_S)))
    return f"{moment.year:04d}{moment:%m%dT%H%M%SZ}"


def _text(text: str) -> str:
    """Escape a TEXT (3.3.11)."""
    return text.translate(_FORBIDDEN).translate(_ESCAPED)


def _folded(line: str) -> Iterator[str]:
    """Cut a content line where it has to be (3.1), never within a character; the pieces go on with a space."""
    piece, octets = "", 0
    for character in line:
        size = len(character.encode("utf-8"))
        if octets + size > MAX_LINE_OCTETS:
            yield piece
            piece, octets = " ", 1
        piece += character
        octets += size
    yield piece
