"""Attempts on a window that is not open: what one line of a decision log tells of them.

A line is JSON that a sidecar wrote (`records.record_lines`), and what it quotes came from callers. Only the few
lines that can be about a window are read in full: of the others no more is judged than that they begin and end as a
record does, so that a log of millions of allowed calls costs little.

# INVARIANT (total): any bytes give an attempt, None, or a DamagedLineError; nothing else is raised.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from authz.errors import AuthzError
from authz.insight.errors import DamagedLineError
from authz.policy.window import parse_instant_ns
from authz.request import Direction

#: A record has about 1 KiB; its longest parts are a path and a host of some hundred bytes, an identity of 2,048, a
#: route of 8,192, each up to six times as long where it is escaped.
MAX_LINE_BYTES: Final = 128 * 1024
#: Names of policies are DNS labels, an identity has 2,048 bytes; no more of a text is kept from a record.
MAX_KEPT_CHARACTERS: Final = 2048


class WindowKind(StrEnum):
    """Whose window it is."""

    THIRD_PARTY = "third_party"
    MICRO_POLICY = "micro_policy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Who tried, in which direction, and which sidecar refused it; `address` is without its port."""

    identity: str | None
    service: str | None
    address: str
    direction: Direction
    sidecar: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A call that was denied because a window had not opened yet, or had closed (`after`)."""

    kind: WindowKind
    name: str
    after: bool
    time_ns: int
    request_id: str | None
    decision_id: str | None
    source: Source


#: what a record of an attempt says: the kind of the window, and whether it had closed
_REASONS: Final = {
    "decommissioned": (WindowKind.THIRD_PARTY, True),
    "not_commissioned": (WindowKind.THIRD_PARTY, False),
    "closed": (WindowKind.MICRO_POLICY, True),
    "not_yet_open": (WindowKind.MICRO_POLICY, False),
}
_WORDS: Final = tuple(f'"{reason}"'.encode() for reason in _REASONS)


def attempt_of_line(line: bytes) -> Attempt | None:
    """Read a line without its end: an attempt, None for another record; raises DamagedLineError for what is none."""
    if len(line) > MAX_LINE_BYTES:
        raise DamagedLineError(f"longer than {MAX_LINE_BYTES} bytes")
    line = line.strip()
    if not line.startswith(b"{") or not line.endswith(b"}"):
        raise DamagedLineError("no JSON object")
    if not any(word in line for word in _WORDS):
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DamagedLineError("no JSON object") from error
    if not isinstance(record, dict):
        raise DamagedLineError("no JSON object")
    return _attempt(record)


def _attempt(record: dict[str, Any]) -> Attempt | None:
    reason = record.get("reason")
    known = _REASONS.get(reason) if isinstance(reason, str) else None
    # A call that ran when the window closed, and was cut, is no attempt.
    if known is None or record.get("decision") != "deny" or record.get("cut") is True:
        return None
    kind, after = known
    caller = record.get("caller")
    if not isinstance(caller, dict):
        raise DamagedLineError("`caller` is no object")
    try:
        time_ns = parse_instant_ns(_text(record, "time"))
        direction = Direction(_text(record, "direction"))
    except (AuthzError, ValueError) as error:
        raise DamagedLineError("`time` or `direction` is none") from error
    return Attempt(
        kind=kind,
        name=_text(record, "policy"),
        after=after,
        time_ns=time_ns,
        request_id=_optional(record, "request_id"),
        decision_id=_optional(record, "decision_id"),
        source=Source(
            identity=_optional(caller, "identity"),
            service=_optional(caller, "service"),
            address=without_port(_optional(caller, "address") or ""),
            direction=direction,
            sidecar=_text(record, "sidecar"),
        ),
    )


def without_port(address: str) -> str:
    """Give the host of `host:port`, `[v6]:port` or `v6`; what is none of them as it is."""
    host, colon, port = address.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()):
        return address
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1]
    # More colons, and no brackets: an IPv6 address without a port.
    return address if ":" in host else host


def _text(values: dict[str, Any], field: str) -> str:
    value = _optional(values, field)
    if value is None:
        raise DamagedLineError(f"`{field}` is missing")
    return value


def _optional(values: dict[str, Any], field: str) -> str | None:
    value = values.get(field)
    if value is not None and not isinstance(value, str):
        raise DamagedLineError(f"`{field}` is no string")
    return None if value is None else value[:MAX_KEPT_CHARACTERS]
