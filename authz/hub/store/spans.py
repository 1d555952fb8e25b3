"""How a span of time is cut into pieces that tables of coarser and finer steps can answer. Pure."""

from __future__ import annotations

from authz.hub.store.store import HOURS, MINUTES, SECONDS, STEP_S, Part, Retention


def cut(from_s: int, until_s: int, now_s: int, retention: Retention, coarsest_s: int) -> list[Part]:
    """Cut `from_s <= time < until_s` into whole hours, and at its ends whole minutes and seconds.

    Where the finer step of an end is no longer kept, the end is moved outwards to one that is. No table is read whose
    step does not divide `coarsest_s`.
    """
    from_s, until_s = outwards(from_s, until_s, now_s, retention)
    parts: list[Part] = []
    _cut(from_s, until_s, [table for table in (HOURS, MINUTES, SECONDS) if coarsest_s % STEP_S[table] == 0], parts)
    return parts


def outwards(from_s: int, until_s: int, now_s: int, retention: Retention) -> tuple[int, int]:
    """Move the ends of a span outwards to steps that are kept."""
    step = finest_step_s(from_s, now_s, retention)
    begin = from_s - from_s % step
    step = finest_step_s(until_s, now_s, retention)
    return begin, max(begin, until_s + -until_s % step)


def finest_step_s(at_s: int, now_s: int, retention: Retention) -> int:
    """Give the finest step that is still kept of an instant."""
    for table in (SECONDS, MINUTES):
        if at_s >= first_kept(table, now_s, retention):
            return STEP_S[table]
    return STEP_S[HOURS]


def first_kept(table: str, now_s: int, retention: Retention) -> int:
    """Give the first instant whose flows a table still has, all of its hour included."""
    first = now_s - retention.flows_s(table)
    return first + -first % STEP_S[HOURS]


def _cut(from_s: int, until_s: int, tables: list[str], parts: list[Part]) -> None:
    if from_s >= until_s or not tables:
        return
    table, *finer = tables
    step = STEP_S[table]
    begin, end = from_s + -from_s % step, until_s - until_s % step
    if begin >= end:
        _cut(from_s, until_s, finer, parts)
        return
    parts.append(Part(table, begin, end))
    _cut(from_s, begin, finer, parts)
    _cut(end, until_s, finer, parts)
