"""What is to be announced of windows, once each: that one will close, that it has closed, that somebody tried then.

An announcement's id follows from what it is about (the window, this very end, the occasion), so that it is the same one
whoever works it out, and how often. What has been told, and what waits to be told, is a memory that is kept on disk:
from the same memory, windows and instant follow the same announcements.

- before a close: at each lead. Of leads that are over already only the shortest is told: `in an hour` says it all.
- at the close: of windows that were open when they were last looked at, and of ends since the memory began. What had
  ended before that is no news.
- the first attempt after it, once for each end.

A window whose end is moved has another end: all of it is told anew.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from authz.errors import AuthzError
from authz.insight.attempt import WindowKind
from authz.insight.errors import InsightError
from authz.instant import NS_PER_S, rfc3339_from_ns
from authz.policy.errors import quoted
from authz.policy.window import NS_PER_DAY, parse_instant_ns

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from authz.insight.attempt import Attempt
    from authz.insight.window_dates import WindowDates

WindowKey = tuple[WindowKind, str]

MAX_LEADS: Final = 16
#: longer ahead nobody wants to be reminded
MAX_LEAD_NS: Final = 366 * NS_PER_DAY
_LEAD: Final = re.compile(r"([0-9]{1,9})([smhd])")
_UNIT_NS: Final = {"s": NS_PER_S, "m": 60 * NS_PER_S, "h": 3600 * NS_PER_S, "d": NS_PER_DAY}

#: 100,000 windows with three leads each, and what waits of them while nobody takes it
MAX_MEMORY_BYTES: Final = 256 * 1024 * 1024


class Occasion(StrEnum):
    """What is announced."""

    CLOSING = "window.closing"
    CLOSED = "window.closed"
    ATTEMPT = "window.attempt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """One announcement: its id, the same at every try, and its body, a JSON object."""

    id: str
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Whose windows they are: the Mesh by its name and its first trust domain."""

    mesh: str
    trust_domain: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What has been told (ids), what waits to be told, since when, and which windows had not ended at the last look."""

    since_ns: int
    not_ended: frozenset[WindowKey] = frozenset()
    told: frozenset[str] = frozenset()
    waiting: tuple[Announcement, ...] = ()

    def without(self, told: Announcement) -> Memory:
        """Give the memory when an announcement has been taken."""
        waiting = tuple(each for each in self.waiting if each.id != told.id)
        return replace(self, told=self.told | {told.id}, waiting=waiting)

    def to_json(self) -> str:
        """Write it down."""
        return json.dumps({
            "since": rfc3339_from_ns(self.since_ns),
            "not_ended": sorted([kind.value, name] for kind, name in self.not_ended),
            "told": sorted(self.told),
            "waiting": [{"id": each.id, "body": each.body} for each in self.waiting],
        })  # fmt: skip

    @classmethod
    def from_json(cls, content: bytes) -> Memory:
        """Read what `to_json` wrote; raises InsightError for anything else."""
        if len(content) > MAX_MEMORY_BYTES:
            raise InsightError(f"it has more than {MAX_MEMORY_BYTES} bytes")
        try:
            data = json.loads(content)
            return cls(
                since_ns=parse_instant_ns(data["since"]),
                not_ended=frozenset((WindowKind(kind), _text(name)) for kind, name in data["not_ended"]),
                told=frozenset(map(_text, data["told"])),
                waiting=tuple(Announcement(id=_text(each["id"]), body=_text(each["body"])) for each in data["waiting"]),
            )
        except (ValueError, TypeError, KeyError, RecursionError, AuthzError) as error:
            raise InsightError("it is no memory of announcements") from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def parse_leads_ns(text: str) -> tuple[int, ...]:
    """Read leads such as `14d,1d,1h`, the longest first; raises InsightError."""
    leads = []
    for word in text.split(","):
        found = _LEAD.fullmatch(word.strip())
        lead_ns = 0 if found is None else int(found[1]) * _UNIT_NS[found[2]]
        if not 0 < lead_ns <= MAX_LEAD_NS:
            raise InsightError(f"{quoted(word)} is no time up to 366d, such as 14d, 1h or 30m")
        leads.append(lead_ns)
    if len(leads) > MAX_LEADS:
        raise InsightError(f"{len(leads)} leads; {MAX_LEADS} are allowed")
    return tuple(sorted(set(leads), reverse=True))


def looked_at(
    memory: Memory,
    windows: Sequence[WindowDates],
    tried: Mapping[WindowKey, Attempt],
    *,
    place: Place,
    leads_ns: Sequence[int],
    now_ns: int,
) -> Memory:
    """Give the memory with what there is to announce at an instant; `tried` has the first attempts after closes."""
    due: list[Announcement] = []
    known: set[str] = {each.id for each in memory.waiting}
    for window in windows:
        about = _About(place=place, window=window)
        known.update(about.id(Occasion.CLOSING, lead_ns) for lead_ns in leads_ns)
        known |= {about.id(Occasion.CLOSED), about.id(Occasion.ATTEMPT)}
        due.extend(_due(about, memory, tried, leads_ns, now_ns))
    # What was told of ends that there are no more need not be remembered.
    told = memory.told & known
    waiting = {each.id for each in memory.waiting}
    new = [each for each in due if each.id not in told and each.id not in waiting]
    return replace(
        memory,
        not_ended=frozenset(_key(each) for each in windows if _has_not_ended(each, now_ns)),
        told=told,
        waiting=(*memory.waiting, *new),
    )


def _due(
    about: _About, memory: Memory, tried: Mapping[WindowKey, Attempt], leads_ns: Sequence[int], now_ns: int
) -> Iterator[Announcement]:
    window = about.window
    closes_ns = window.closes_ns
    if closes_ns is None:
        return
    if now_ns < closes_ns:
        passed = [lead_ns for lead_ns in leads_ns if closes_ns - lead_ns <= now_ns]
        if passed:
            yield about.announcement(Occasion.CLOSING, now_ns, lead_ns=min(passed))
        return
    if closes_ns >= memory.since_ns or _key(window) in memory.not_ended:
        yield about.announcement(Occasion.CLOSED, now_ns)
    attempt = tried.get(_key(window))
    if attempt is not None:
        yield about.announcement(Occasion.ATTEMPT, now_ns, attempt=attempt)


def _has_not_ended(window: WindowDates, now_ns: int) -> bool:
    return window.closes_ns is None or now_ns < window.closes_ns


def _key(window: WindowDates) -> WindowKey:
    return window.kind, window.name


def next_due_ns(windows: Iterable[WindowDates], leads_ns: Sequence[int], now_ns: int) -> int | None:
    """Give the first instant after now at which something is to be announced; None if there is none."""
    ends_ns = [each.closes_ns for each in windows if each.closes_ns is not None and each.closes_ns > now_ns]
    return min((at for end in ends_ns for at in (end, *(end - lead for lead in leads_ns)) if at > now_ns), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _About:
    """One end of one window of one mesh."""

    place: Place
    window: WindowDates

    def id(self, occasion: Occasion, lead_ns: int = 0) -> str:
        window, place = self.window, self.place
        parts = [place.mesh, place.trust_domain, window.kind, window.name, window.closes_ns, occasion, lead_ns]
        return "evt_" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    def announcement(
        self, occasion: Occasion, now_ns: int, *, lead_ns: int = 0, attempt: Attempt | None = None
    ) -> Announcement:
        window = self.window
        announcement_id = self.id(occasion, lead_ns)
        body = {
            "id": announcement_id,
            "type": occasion.value,
            "time": rfc3339_from_ns(now_ns),
            "mesh": self.place.mesh,
            "trust_domain": self.place.trust_domain,
            "window": {
                "name": window.name,
                "kind": window.kind.value,
                "opens": None if window.opens_ns is None else rfc3339_from_ns(window.opens_ns),
                "closes": None if window.closes_ns is None else rfc3339_from_ns(window.closes_ns),
                "state": window.stage(now_ns).value,
                "owner": window.owner,
            },
            "lead_s": lead_ns // NS_PER_S if occasion is Occasion.CLOSING else None,
            "attempt": None if attempt is None else _attempt(attempt),
        }
        return Announcement(id=announcement_id, body=json.dumps(body))


def _attempt(attempt: Attempt) -> dict[str, Any]:
    source = attempt.source
    return {
        "time": rfc3339_from_ns(attempt.time_ns),
        "decision_id": attempt.decision_id,
        "request_id": attempt.request_id,
        "identity": source.identity,
        "service": source.service,
        "address": source.address,
        "direction": source.direction.value,
        "sidecar": source.sidecar,
    }
