"""Who tried windows that are not open: from what the store has added up by day and source.

The dates of a window may change, and an attempt is one on the dates that are in force. A day and source whose attempts
are all on one side of a date is taken as it is added up; one that lies across is counted from its records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from authz.hub.window_attempts import COUNT_COLUMNS, DAY_MS, KEY_COLUMNS, attempt_of_body
from authz.insight.attempt import Source, WindowKind
from authz.insight.attempt_tally import MAX_SOURCES, NO_ATTEMPTS, Attempts, AttemptTally, attempts_of, untold
from authz.instant import NS_PER_MS
from authz.request import Direction

if TYPE_CHECKING:
    from collections.abc import Iterable

    from authz.hub.store.store import Store
    from authz.insight.window_dates import WindowDates


_REASON: Final = {
    (WindowKind.THIRD_PARTY, True): "decommissioned",
    (WindowKind.THIRD_PARTY, False): "not_commissioned",
    (WindowKind.MICRO_POLICY, True): "closed",
    (WindowKind.MICRO_POLICY, False): "not_yet_open",
}
_ROWS: Final = f"SELECT {', '.join((*KEY_COLUMNS, *COUNT_COLUMNS))} FROM attempts"  # noqa: S608 our own names
_RECORDS: Final = """SELECT body FROM records WHERE policy = :policy AND reason = :reason AND cut = 0
    AND time_ms >= :since AND time_ms < :until ORDER BY time_ms"""


class WindowsQuery:
    """Answers for the windows that it is made for; asks the store once, and again for days that lie across a date."""

    def __init__(self, store: Store, windows: Iterable[WindowDates]) -> None:
        self._store = store
        self._windows = {(each.kind, each.name): each for each in windows}
        self._rows: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
        for row in store.rows(_ROWS, {}) if self._windows else ():
            self._rows.setdefault((row[0], row[1]), []).append(row)

    def attempts(self, kind: WindowKind, name: str, *, after: bool) -> Attempts:
        """Give what was counted of one side of a window."""
        window, reason = self._windows[kind, name], _REASON[kind, after]
        sources: dict[Source, int] = {}
        refusals, instants, across = 0, list[int](), set[int]()
        rows = self._rows.get((name, reason), [])
        # Each of a day's sources that lies across is counted anew, and with it all of that day: a request is one
        # attempt, whichever of its sources told of it first.
        for row in rows:
            if _side(window, row[10], after=after) != _side(window, row[11], after=after):
                across.add(row[2])
        for row in rows:
            if row[2] not in across and _side(window, row[10], after=after):
                refusals += row[9]
                instants += row[10:12]
                _add(sources, _source(row), row[8])
        ends_ns = [each * NS_PER_MS for each in instants]
        for day in sorted(across):
            counted = self._of_day(window, reason, day, after=after)
            refusals += counted.records
            ends_ns += [each for each in (counted.first_ns, counted.last_ns) if each is not None]
            for each in counted.sources:
                _add(sources, each.source, each.count)
        return attempts_of(sources, refusals, min(ends_ns), max(ends_ns)) if ends_ns else NO_ATTEMPTS

    def _of_day(self, window: WindowDates, reason: str, day: int, *, after: bool) -> Attempts:
        tally = AttemptTally({(window.kind, window.name): window})
        span = {"since": day * DAY_MS, "until": (day + 1) * DAY_MS}
        for (body,) in self._store.rows(_RECORDS, {"policy": window.name, "reason": reason, **span}):
            attempt = attempt_of_body(body)
            if attempt is not None:
                tally.add(attempt)
        return tally.attempts(window.kind, window.name, after=after)


def _side(window: WindowDates, time_ms: int, *, after: bool) -> bool:
    return window.was_tried_at(time_ms * NS_PER_MS, after=after)


def _source(row: tuple[Any, ...]) -> Source:
    return Source(
        identity=row[3] or None, service=row[4] or None, address=row[5], direction=Direction(row[6]), sidecar=row[7]
    )


def _add(sources: dict[Source, int], source: Source, tries: int) -> None:
    if source not in sources and len(sources) >= MAX_SOURCES:
        source = untold(source)
    sources[source] = sources.get(source, 0) + tries
