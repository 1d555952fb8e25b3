"""When recurring hours open and close, by a look at the wall clock on both sides of whatever may be an edge."""

from __future__ import annotations

from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING

from tests.support.wall_clock import EPOCH, Written, is_inside, zone_info

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DAY_NS = 86_400 * 10**9
#: Edges are kept for all instants of so many days.
BLOCK_DAYS = 200


def edges_of_hours_ns(entries: tuple[Written, ...], now_ns: int) -> Sequence[int]:
    """Give the instants after now, for 366 days and more, at which hours open or close."""
    if not entries:
        return ()
    edges = _edges_of_block(entries, now_ns // DAY_NS // BLOCK_DAYS)
    return edges[bisect_right(edges, now_ns) :]


@cache
def _edges_of_block(entries: tuple[Written, ...], block: int) -> list[int]:
    first_day, last_day = block * BLOCK_DAYS - 2, (block + 1) * BLOCK_DAYS + 370
    instants = {instant for entry in entries for instant in _candidates(entry, first_day, last_day)}
    return sorted(each for each in instants if is_inside(entries, each) != is_inside(entries, each - 1))


def _candidates(entry: Written, first_day: int, last_day: int) -> Iterator[int]:
    """Give every midnight, from and until of some days, both times where a clock repeats it, and the clock changes."""
    zone = zone_info(entry.timezone)
    for day in range(first_day, last_day):
        for clock in ("00:00", entry.since, entry.until.replace("24:00", "00:00")):
            local = datetime(1970, 1, 1, int(clock[:2]), int(clock[3:])) + timedelta(days=day)  # noqa: DTZ001 local
            for fold in (0, 1):
                moment = local.replace(tzinfo=zone, fold=fold).astimezone(UTC)
                yield _ns(moment)
        yield from _change(entry.timezone, day)


@cache
def _change(name: str, day: int) -> tuple[int, ...]:
    """Give the instant of a day, in UTC, at which the zone's offset changes; none if it does not."""
    zone = zone_info(name)
    low, high = day * 86_400, (day + 1) * 86_400

    def offset(second: int) -> timedelta | None:
        return (EPOCH + timedelta(seconds=second)).astimezone(zone).utcoffset()

    if offset(low) == offset(high):
        return ()
    while high - low > 1:
        middle = (low + high) // 2
        if offset(middle) == offset(low):
            low = middle
        else:
            high = middle
    return (high * 10**9,)


def _ns(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(seconds=1) * 10**9
