"""What a hub tells of attempts on windows: the answer of its `GET /api/v1/windows`, read strictly.

# INVARIANT (total): any bytes give values or an InsightError; nothing else is raised.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from authz.errors import AuthzError
from authz.insight.attempt import MAX_KEPT_CHARACTERS, Source, WindowKind
from authz.insight.attempt_tally import MAX_SOURCES, NO_ATTEMPTS, Attempts, SourceCount
from authz.insight.errors import InsightError
from authz.policy.window import parse_instant_ns
from authz.request import Direction

#: 1,000 windows with a hundred sources each, ten times over
MAX_ANSWER_BYTES: Final = 256 * 1024 * 1024
#: as many as a set may have policies
MAX_WINDOWS: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class HubWindow:
    """A window as a hub knows it: its end, and the attempts before it opened and since its end."""

    closes_ns: int | None
    before: Attempts
    after: Attempts


def hub_windows(content: bytes) -> dict[tuple[WindowKind, str], HubWindow]:
    """Read the answer of a hub; raises InsightError for what is none."""
    if len(content) > MAX_ANSWER_BYTES:
        raise InsightError(f"more than {MAX_ANSWER_BYTES} bytes")
    try:
        windows = json.loads(content)["windows"]
        if not isinstance(windows, list) or len(windows) > MAX_WINDOWS:
            raise InsightError("no list of windows")
        return {(WindowKind(each["kind"]), _text(each["name"])): _window(each) for each in windows}
    except (ValueError, TypeError, KeyError, RecursionError, AuthzError) as error:
        raise InsightError("it is no answer of a hub's `GET /api/v1/windows`") from error


def _window(data: dict[str, Any]) -> HubWindow:
    return HubWindow(
        closes_ns=_instant_ns(data["closes"]),
        before=_attempts(data["attempts_before"]) if "attempts_before" in data else NO_ATTEMPTS,
        after=_attempts(data["attempts_after"]),
    )


def _attempts(data: dict[str, Any]) -> Attempts:
    count = _count(data["count"])
    sources = tuple(map(_source, data["sources"][:MAX_SOURCES]))
    return Attempts(
        count=count,
        records=_count(data.get("records", count)),
        first_ns=_instant_ns(data["first"]),
        last_ns=_instant_ns(data["last"]),
        sources=tuple(sorted(sources, key=lambda each: -each.count)),
    )


def _source(data: dict[str, Any]) -> SourceCount:
    return SourceCount(
        source=Source(
            identity=_optional(data["identity"]),
            service=_optional(data["service"]),
            address=_optional(data["address"]) or "",
            direction=Direction(data["direction"]),
            sidecar=_text(data["sidecar"]),
        ),
        count=_count(data["count"]),
    )


def _instant_ns(value: Any) -> int | None:
    return None if value is None else parse_instant_ns(_text(value))


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError
    return value


def _optional(value: Any) -> str | None:
    return None if value is None else _text(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value[:MAX_KEPT_CHARACTERS]
