"""Attempts on windows that are not open, added up by day and source as their records come. Pure.

`GET /windows` would else read every such record that was ever kept. An attempt is one request, whoever told of it first
(:mod:`authz.insight.attempt_tally`); `refusals` counts every record.

    policy reason day    which window, which side of it, and the day (UTC, since the epoch)
    identity service address direction sidecar    the source; what it has not is empty
    tries refusals first_ms last_ms

# INVARIANT (bounded): of one side of a window at most MOST_SOURCES a day are told apart, the rest is one.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from authz.hub.kept_record import unpacked
from authz.insight.attempt import Attempt, attempt_of_line
from authz.insight.attempt_tally import RequestMemory, untold
from authz.insight.errors import DamagedLineError
from authz.instant import NS_PER_MS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from authz.hub.kept_record import KeptRecord
    from authz.insight.attempt import Source

DAY_MS: Final = 86_400_000
#: what is denied because a window is not open
WINDOW_REASONS: Final = ("decommissioned", "not_commissioned", "closed", "not_yet_open")
_REASONS: Final = frozenset(WINDOW_REASONS)
MOST_SOURCES: Final = 1000
#: sides of windows and days whose sources are remembered: each has at most MOST_SOURCES
_MOST_DAYS: Final = 1000

KEY_COLUMNS: Final = ("policy", "reason", "day", "identity", "service", "address", "direction", "sidecar")
COUNT_COLUMNS: Final = ("tries", "refusals", "first_ms", "last_ms")
ATTEMPT_COLUMNS: Final = (*KEY_COLUMNS, *COUNT_COLUMNS)

#: KEY_COLUMNS
Key = tuple[str, str, int, str, str, str, str, str]
#: ATTEMPT_COLUMNS
AttemptRow = tuple[str, str, int, str, str, str, str, str, int, int, int, int]


class WindowAttempts:
    """Makes rows of records; for one thread, and bounded."""

    def __init__(self) -> None:
        self._requests = RequestMemory()
        self._sources: OrderedDict[tuple[str, str, int], set[Source]] = OrderedDict()

    def rows(self, records: Iterable[KeptRecord]) -> list[AttemptRow]:
        """Give what some records add, one row a key."""
        return self.rows_of_bodies((each.reason, each.body) for each in records if is_of_window(each))

    def rows_of_bodies(self, bodies: Iterable[tuple[str, bytes]]) -> list[AttemptRow]:
        """Give what the records of attempts add: reasons, and the packed records."""
        found: dict[Key, tuple[int, int, int, int]] = {}
        for reason, body in bodies:
            attempt = attempt_of_body(body)
            if attempt is None:
                continue
            key, at_ms = self._key(attempt, reason), attempt.time_ns // NS_PER_MS
            tries, refusals, first_ms, last_ms = found.get(key, (0, 0, at_ms, at_ms))
            is_new = self._requests.is_new(attempt)
            found[key] = tries + is_new, refusals + 1, min(first_ms, at_ms), max(last_ms, at_ms)
        return [(*key, *counts) for key, counts in found.items()]

    def _key(self, attempt: Attempt, reason: str) -> Key:
        day = attempt.time_ns // NS_PER_MS // DAY_MS
        sources = self._sources.setdefault((attempt.name, reason, day), set())
        self._sources.move_to_end((attempt.name, reason, day))
        if len(self._sources) > _MOST_DAYS:
            self._sources.popitem(last=False)
        source = attempt.source
        if source not in sources and len(sources) >= MOST_SOURCES:
            source = untold(source)
        sources.add(source)
        return (
            attempt.name,
            reason,
            day,
            source.identity or "",
            source.service or "",
            source.address,
            source.direction.value,
            source.sidecar,
        )


def is_of_window(record: KeptRecord) -> bool:
    """Whether a record tells of an attempt; the end of a call that ran when its window closed does not."""
    return record.reason in _REASONS and not record.cut


def attempt_of_body(body: bytes) -> Attempt | None:
    """Read the attempt of a packed record, None where it tells of none."""
    try:
        return attempt_of_line(json.dumps(unpacked(body)).encode())
    except DamagedLineError:
        return None
