"""What clocks that are wrong have written into a batch, brought to times that the hub can keep. Pure.

A sidecar whose clock is ahead tells of calls that were made: they are kept at the time at which the hub hears of them,
because one in the year 9999 would be in no span that anybody looks at, and be seen last for ever. What is older than it
is kept is not added: it would be gone at once. Both are counted, and neither is an error: a batch that were refused
would be lost with all that is right in it.

# INVARIANT (once): every decision of an arrival is in the rows that are left, or in `too_old`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from authz.hub.store.store import HOURS
from authz.records.flow import INTERVAL_S

if TYPE_CHECKING:
    from authz.hub.arrival import Arrival
    from authz.hub.columns import Row
    from authz.hub.kept_record import KeptRecord
    from authz.hub.store.store import Retention

#: Machines that synchronise their clocks are within a second; Kerberos (RFC 4120 1.6) takes five minutes for bearable.
MAX_AHEAD_S: Final = 300
_DAY_MS: Final = 86_400_000
_COUNT: Final = 2
_TIME: Final = itemgetter(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """An arrival whose times are kept: how many decisions and records were ahead, and how many too old to be added."""

    arrival: Arrival
    ahead: int
    too_old: int


def timed(arrival: Arrival, now_ms: int, retention: Retention) -> Timed:
    """Bring the times of a batch that comes at `now_ms` into what is kept."""
    now_s = now_ms // 1000
    last_s, first_s = now_s + MAX_AHEAD_S, now_s - retention.flows_s(HOURS)
    rows, ahead, too_old = arrival.rows, 0, 0
    if rows and (max(map(_TIME, rows)) > last_s or min(map(_TIME, rows)) < first_s):
        rows, ahead, too_old = _rows(rows, now_s, first_s)
    records: list[KeptRecord] = []
    for each in arrival.records:
        days = retention.denied_days if each.decision == "deny" else retention.allowed_days
        if each.time_ms < now_ms - days * _DAY_MS:
            too_old += 1
        elif each.time_ms > now_ms + MAX_AHEAD_S * 1000:
            ahead += 1
            records.append(replace(each, time_ms=now_ms))
        else:
            records.append(each)
    # What a sidecar says of itself later has to be later.
    sent_ms = arrival.sent_ms if arrival.sent_ms <= now_ms + MAX_AHEAD_S * 1000 else now_ms
    return Timed(arrival=replace(arrival, rows=rows, records=records, sent_ms=sent_ms), ahead=ahead, too_old=too_old)


def _rows(rows: list[Row], now_s: int, first_s: int) -> tuple[list[Row], int, int]:
    kept: list[Row] = []
    ahead = too_old = 0
    for row in rows:
        if row[0] < first_s:
            too_old += row[_COUNT]
        elif row[0] > now_s + MAX_AHEAD_S:
            ahead += row[_COUNT]
            kept.append((now_s - now_s % INTERVAL_S, *row[1:]))
        else:
            kept.append(row)
    return kept, ahead, too_old
