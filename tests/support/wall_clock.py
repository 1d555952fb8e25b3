"""The rule of recurring hours, word for word, with the standard library's zoneinfo: what the engine is tested against.

It shares no code with the engine: another reader of the zones' data, another calendar, no weeks and no edges.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from authz.policy.hours import Day, HoursEntry, parse_from_minute, parse_until_minute
from authz.policy.zone import zone_named

if TYPE_CHECKING:
    from collections.abc import Iterable

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
WORKDAYS = DAYS[:5]


@dataclass(frozen=True, slots=True)
class Written:
    """An entry of `during` in a policy's own words."""

    days: tuple[str, ...]
    since: str
    until: str
    timezone: str

    def entry(self) -> HoursEntry:
        return HoursEntry(
            days=frozenset(Day(day) for day in self.days),
            from_minute=parse_from_minute(self.since),
            until_minute=parse_until_minute(self.until),
            zone=zone_named(self.timezone),
        )

    def yaml(self) -> str:
        days = ", ".join(self.days)
        return f'{{days: [{days}], from: "{self.since}", until: "{self.until}", timezone: {self.timezone}}}'

    def is_inside(self, weekday: int, clock: str) -> bool:
        """Whether a day of the week and a time such as `08:00` on the wall are inside; times compare as texts."""
        today, yesterday = DAYS[weekday], DAYS[weekday - 1]
        if self.since < self.until:
            return today in self.days and self.since <= clock < self.until
        return (today in self.days and clock >= self.since) or (yesterday in self.days and clock < self.until)


@cache
def zone_info(name: str) -> ZoneInfo:
    """Give zoneinfo's own reading of the same data."""
    data = files("tzdata").joinpath("zoneinfo", *name.split("/")).read_bytes()
    return ZoneInfo.from_file(io.BytesIO(data), key=name)


def at(text: str) -> int:
    """Give the nanoseconds of an ISO time; in UTC where no offset is written."""
    moment = datetime.fromisoformat(text)
    since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - EPOCH
    return (since // timedelta(microseconds=1)) * 1000


def is_inside(entries: Iterable[Written], at_ns: int) -> bool:
    """Whether an instant is inside any of the entries."""
    moment = EPOCH + timedelta(seconds=at_ns // 10**9)
    for entry in entries:
        local = moment.astimezone(zone_info(entry.timezone))
        if entry.is_inside(local.weekday(), f"{local.hour:02d}:{local.minute:02d}"):
            return True
    return False
