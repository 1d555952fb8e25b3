"""The table of flows by the day, which SQLite reads in place of the hours of whole days.

A map of 30 days would sort every hour of every series. Rows of a day are kept in the order of their series, so that
nothing is sorted, and are a tenth as many. Hours are added to their days when they are over and nothing else waits
(:meth:`Days.add_hour`): `days_until` says how far that is. What comes later for an hour that was added already is added
to its day together with its hour. A store of before gets its days in the same way, one hour after the other.

Days have the same sums as their counted hours, and the first and the last of these: an answer does not say whether it
was read from days or from hours.

# INVARIANT (once): `days` has all of the hours before `days_until` that are counted, and none after.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from authz.hub.columns import COLUMNS, COUNTED
from authz.hub.store.migration import Migration
from authz.hub.store.spans import first_kept
from authz.hub.store.store import HOURS, STEP_S, Part, Retention

if TYPE_CHECKING:
    import sqlite3

DAY_S: Final = 86_400
_HOUR_S: Final = STEP_S[HOURS]
#: what is late comes within the hour, mostly
_OVER_FOR_S: Final = 3600
_NAMES: Final = ", ".join(COLUMNS)
_ADDED: Final = ", ".join(f"{column} = {column} + excluded.{column}" for column in COLUMNS)

DAYS_TABLE: Final = Migration(
    what="make room for flows by the day",
    sqlite=(
        f"""CREATE TABLE days (time INTEGER NOT NULL, series INTEGER NOT NULL, first_s INTEGER NOT NULL,
            last_s INTEGER NOT NULL, {", ".join(f"{column} INTEGER NOT NULL" for column in COLUMNS)},
            PRIMARY KEY (series, time)) WITHOUT ROWID""",
        "CREATE TABLE days_until (until_s INTEGER NOT NULL)",
        "INSERT INTO days_until VALUES (0)",
    ),
)

#: Few of the days that there are: each series leads to its own, in the order of their ids (an index of series would be
#: in another), so that nothing is sorted to be grouped by series.
_OF_DAYS: Final = f"""(SELECT each.id AS series, time, days.first_s, days.last_s, {_NAMES}
    FROM series AS each NOT INDEXED CROSS JOIN days ON days.series = each.id)"""  # noqa: S608 names of this program
#: as of the question's own instant, and not of when it was thought up
_NOT_IN_DAYS: Final = "(SELECT * FROM hours WHERE time >= (SELECT until_s FROM days_until))"


def _add(table: str, where: str) -> str:
    return f"""INSERT INTO days (time, series, first_s, last_s, {_NAMES})
        SELECT time - time % {DAY_S}, series, time - time % {_HOUR_S}, time - time % {_HOUR_S}, {_NAMES} FROM {table}
        WHERE {where} AND {COUNTED}
        ON CONFLICT (series, time) DO UPDATE SET first_s = MIN(first_s, excluded.first_s),
        last_s = MAX(last_s, excluded.last_s), {_ADDED}"""  # noqa: S608 names of this program


_ADD_LATE: Final = _add("tail", "n <= :last AND time >= :first AND time < :until")
_ADD_HOUR: Final = _add(HOURS, "time = :hour")


class Days:
    """The days of one store; all but `instead_of` is called inside of a transaction of the writer."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._until_s = 0
        self.reached(connection)

    def add_late(self, connection: sqlite3.Connection, last: int, now_s: int, retention: Retention) -> None:
        """Add what the tail has, up to its row `last`, of hours that are in their days already."""
        (until_s,) = connection.execute("SELECT until_s FROM days_until").fetchone()
        values = {"last": last, "first": first_kept(HOURS, now_s, retention), "until": until_s}
        connection.execute(_ADD_LATE, values)

    def add_hour(self, connection: sqlite3.Connection, now_s: int) -> bool:
        """Add the next hour that is over; say whether there was one."""
        (hour,) = connection.execute(
            "SELECT MIN(time) FROM hours WHERE time >= (SELECT until_s FROM days_until)"
        ).fetchone()
        if hour is None or hour + _HOUR_S + _OVER_FOR_S > now_s:
            return False
        connection.execute(_ADD_HOUR, {"hour": hour})
        connection.execute("UPDATE days_until SET until_s = ?", (hour + _HOUR_S,))
        return True

    def reached(self, connection: sqlite3.Connection) -> None:
        """Take in, behind a commit, how far days are."""
        (self._until_s,) = connection.execute("SELECT until_s FROM days_until").fetchone()

    def instead_of(self, hours: Part, now_s: int, retention: Retention) -> list[Part]:
        """Give the parts that answer as these hours do, with days where there are some."""
        begin = max(hours.from_s, first_kept(HOURS, now_s, retention))
        begin += -begin % DAY_S
        until_s = self._until_s
        if hours.until_s >= now_s:
            # Days may go on to be added to: all of them are of the span, and which hours they lack is asked with them.
            end = hours.until_s
            rest = Part(_NOT_IN_DAYS, max(begin, until_s), end)
        else:
            end = min(hours.until_s, until_s)
            end -= end % DAY_S
            rest = Part(HOURS, end, hours.until_s)
        if begin >= min(end, until_s):
            return [hours]
        parts = (Part(HOURS, hours.from_s, begin), Part(_OF_DAYS, begin, end, "first_s", "last_s"), rest)
        return [part for part in parts if part.from_s < part.until_s]
