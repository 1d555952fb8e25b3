"""A strict reader of iCalendar, from RFC 5545 alone: what the feed is tested against.

It knows the components and properties that a feed of dates needs, and refuses everything else; so it does METHOD, with
which RFC 5546 would demand an ORGANIZER of each event.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

#: 3.1: contentline = name *(";" param) ":" value; our names are those of section 3.8, RFC 7986, and X-names
_LINE = re.compile(r"([A-Z0-9-]+)((?:;[A-Z0-9-]+=[^\";:,\x00-\x1f\x7f]+)*):(.*)", re.DOTALL)
_DATE_TIME = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_DURATION = re.compile(r"(-?)P(?:([0-9]+)D|T([0-9]+)H|([0-9]+)W)")
#: 3.3.11: TSAFE-CHAR, and the four escapes
_TEXT = re.compile(r"(?:[^\x00-\x08\x0a-\x1f\x7f\\;,]|\\\\|\\;|\\,|\\[nN])*")

_TEXTS = {"SUMMARY", "DESCRIPTION", "CATEGORIES", "UID", "X-WR-CALNAME"}
_PROPERTIES = {
    "VCALENDAR": ({"VERSION", "PRODID"}, {"CALSCALE", "X-WR-CALNAME", "REFRESH-INTERVAL"}),
    "VEVENT": ({"UID", "DTSTAMP", "DTSTART"}, {"SUMMARY", "DESCRIPTION", "CATEGORIES", "TRANSP", "DTEND"}),
    "VFREEBUSY": ({"UID", "DTSTAMP"}, set()),
    "VALARM": ({"ACTION", "TRIGGER", "DESCRIPTION"}, set()),
}
_WITHIN = {"VCALENDAR": {"VEVENT", "VFREEBUSY"}, "VEVENT": {"VALARM"}, "VFREEBUSY": set(), "VALARM": set()}


@dataclass
class Component:
    name: str
    properties: dict[str, str] = field(default_factory=dict)
    components: list[Component] = field(default_factory=list)

    def time(self, name: str) -> datetime:
        value = self.properties[name]
        assert _DATE_TIME.fullmatch(value), value
        return datetime(int(value[:4]), int(value[4:6]), int(value[6:8]), int(value[9:11]), int(value[11:13]),
                        int(value[13:15]), tzinfo=UTC)  # fmt: skip

    def text(self, name: str) -> str:
        return re.sub(r"\\(.)", lambda found: "\n" if found[1] in "nN" else found[1], self.properties[name])

    def duration(self, name: str) -> timedelta:
        found = _DURATION.fullmatch(self.properties[name])
        assert found, self.properties[name]
        length = timedelta(days=int(found[2] or 0), hours=int(found[3] or 0), weeks=int(found[4] or 0))
        return -length if found[1] else length


def read(content: bytes) -> Component:
    """Read one VCALENDAR; fails an assertion that says which rule is broken."""
    assert content.endswith(b"\r\n"), "3.1: each line ends with CRLF"
    pieces = content.removesuffix(b"\r\n").split(b"\r\n")
    for piece in pieces:
        assert b"\r" not in piece, "3.1: a lone CR"
        assert b"\n" not in piece, "3.1: a lone LF"
        assert len(piece) <= 75, "3.1: longer than 75 octets"
        piece.decode("utf-8")  # ours never cuts within a character
    lines = re.sub(rb"\r\n[ \t]", b"", content.removesuffix(b"\r\n")).decode("utf-8").split("\r\n")
    stack: list[Component] = []
    root: Component | None = None
    for line in lines:
        assert root is None, "something behind END:VCALENDAR"
        found = _LINE.fullmatch(line)
        assert found, f"3.1: no content line: {line!r}"
        name, parameters, value = found[1], found[2], found[3]
        if name == "BEGIN":
            assert (value == "VCALENDAR") if not stack else value in _WITHIN[stack[-1].name], value
            stack.append(Component(value))
        elif name == "END":
            closed = stack.pop()
            assert closed.name == value
            _complete(closed)
            if stack:
                stack[-1].components.append(closed)
            else:
                root = closed
        else:
            _add(stack[-1], name, parameters, value)
    assert root is not None, "no END:VCALENDAR"
    uids = [each.properties["UID"] for each in root.components]
    assert len(uids) == len(set(uids)), "3.8.4.7: a UID twice"
    return root


def _add(component: Component, name: str, parameters: str, value: str) -> None:
    required, optional = _PROPERTIES[component.name]
    assert name in required | optional, f"{name} in {component.name}"
    assert name not in component.properties, f"{name} twice"
    if name == "REFRESH-INTERVAL":
        assert parameters == ";VALUE=DURATION", "RFC 7986 5.7: the VALUE parameter is required"
    else:
        assert not parameters
    if name in _TEXTS:
        assert _TEXT.fullmatch(value), f"3.3.11: {value!r}"
    component.properties[name] = value


def _complete(component: Component) -> None:
    required, _ = _PROPERTIES[component.name]
    assert required <= component.properties.keys(), f"{component.name} lacks {required - component.properties.keys()}"
    match component.name:
        case "VCALENDAR":
            assert component.properties["VERSION"] == "2.0"
            assert component.components, "3.6: at least one component"
        case "VEVENT":
            component.time("DTSTAMP")
            component.time("DTSTART")
            assert component.properties.get("TRANSP") in {None, "OPAQUE", "TRANSPARENT"}
        case "VFREEBUSY":
            component.time("DTSTAMP")
        case _:
            assert component.properties["ACTION"] == "DISPLAY"
            component.duration("TRIGGER")
