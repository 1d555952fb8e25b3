"""The table of flows by the minute, in which SQLite keeps latency histograms packed, and how an older store gets it.

A map of an hour reads ten thousand rows of it, and puts them in the order of their series: 24 columns less are half of
its time. Most rows have one call. What is packed is added up by writing one text behind the other
(:mod:`authz.hub.histogram_text`), and is packed anew where that becomes long. What waits in the tail has both forms.

Seconds are read of less than a minute; hours and days have many calls in each row, and keep their columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from authz.hub.columns import COUNTS, DURATIONS, STATUSES
from authz.hub.histogram_text import packed, summed
from authz.hub.store.migration import Migration
from authz.hub.store.store import MINUTES, STEP_S

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

#: the column of the packed histogram
PACKED: Final = "durations"
#: Characters from which on a text is packed anew when more is added. All buckets with five digits each have 144.
_LONG: Final = 160
_STEP_S: Final = STEP_S[MINUTES]
#: minutes that are packed in one statement
_AT_ONCE_S: Final = 3600
_NUMBERS: Final = (*COUNTS, *STATUSES)
_NAMES: Final = ", ".join(_NUMBERS)
_OF_COLUMNS: Final = f"packed({', '.join(DURATIONS)})"

_MINUTES: Final = f"""CREATE TABLE packed_minutes (time INTEGER NOT NULL, series INTEGER NOT NULL,
    {", ".join(f"{column} INTEGER NOT NULL" for column in _NUMBERS)}, {PACKED} TEXT NOT NULL,
    PRIMARY KEY (time, series)) WITHOUT ROWID"""

#: adds what the tail has up to its row `last`, from the first minute on that is kept
ADD_MINUTES: Final = f"""INSERT INTO {MINUTES} (time, series, {_NAMES}, {PACKED})
    SELECT time - time % {_STEP_S}, series, {_NAMES}, {PACKED} FROM tail WHERE n <= :last AND time >= :first
    ON CONFLICT (time, series) DO UPDATE SET {", ".join(f"{each} = {each} + excluded.{each}" for each in _NUMBERS)},
    {PACKED} = CASE WHEN length({PACKED}) + length(excluded.{PACKED}) < {_LONG} THEN {PACKED} || excluded.{PACKED}
        ELSE summed({PACKED} || excluded.{PACKED}) END"""  # noqa: S608 names of this program


def add_functions(connection: sqlite3.Connection) -> None:
    """Give the writer's connection what its statements use; nothing that is stored does."""
    connection.create_function("packed", len(DURATIONS), lambda *counts: packed(counts), deterministic=True)
    connection.create_function("summed", 1, summed, deterministic=True)


def _pack(connection: sqlite3.Connection, told: Callable[[int, int], None]) -> None:
    connection.execute(_MINUTES)
    first, last = connection.execute(f"SELECT MIN(time), MAX(time) FROM {MINUTES}").fetchone()  # noqa: S608 same
    if first is not None:
        for begin in range(first, last + 1, _AT_ONCE_S):
            connection.execute(
                f"""INSERT INTO packed_minutes SELECT time, series, {_NAMES}, {_OF_COLUMNS} FROM {MINUTES}
                WHERE time >= ? AND time < ?""",  # noqa: S608 same
                (begin, begin + _AT_ONCE_S),
            )
            told((begin - first) // 60, (last - first) // 60)
    connection.execute(f"DROP TABLE {MINUTES}")
    connection.execute(f"ALTER TABLE packed_minutes RENAME TO {MINUTES}")


MINUTES_TABLE: Final = Migration(
    what="pack the latencies of minutes",
    sqlite=(
        _pack,
        f"ALTER TABLE tail ADD COLUMN {PACKED} TEXT NOT NULL DEFAULT ''",
        f"UPDATE tail SET {PACKED} = {_OF_COLUMNS}",  # noqa: S608 same
    ),
)
