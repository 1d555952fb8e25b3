"""The table of attempts on windows (:mod:`authz.hub.window_attempts`), and how an older store gets it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from authz.hub.store.migration import Migration
from authz.hub.window_attempts import ATTEMPT_COLUMNS, KEY_COLUMNS, WINDOW_REASONS, WindowAttempts

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from clickhouse_connect.driver.client import Client

_REASONS: Final = ", ".join(f"'{reason}'" for reason in WINDOW_REASONS)
_OF_WINDOWS: Final = f"reason IN ({_REASONS}) AND cut = 0"
_COUNT: Final = f"SELECT COUNT(*) FROM records WHERE {_OF_WINDOWS}"  # noqa: S608 words of this program
_RECORDS: Final = f"SELECT reason, body FROM records WHERE {_OF_WINDOWS} ORDER BY time_ms, n"  # noqa: S608 same
#: records that are unpacked at once: 2 MiB
_AT_ONCE: Final = 5000

_SQLITE: Final = f"""CREATE TABLE attempts (policy TEXT NOT NULL, reason TEXT NOT NULL, day INTEGER NOT NULL,
    identity TEXT NOT NULL, service TEXT NOT NULL, address TEXT NOT NULL, direction TEXT NOT NULL,
    sidecar TEXT NOT NULL, tries INTEGER NOT NULL, refusals INTEGER NOT NULL, first_ms INTEGER NOT NULL,
    last_ms INTEGER NOT NULL, PRIMARY KEY ({", ".join(KEY_COLUMNS)})) WITHOUT ROWID"""
_CLICKHOUSE: Final = f"""CREATE TABLE IF NOT EXISTS attempt_rows (policy LowCardinality(String),
    reason LowCardinality(String), day Int64, identity String, service String, address String,
    direction LowCardinality(String), sidecar LowCardinality(String), tries SimpleAggregateFunction(sum, Int64),
    refusals SimpleAggregateFunction(sum, Int64), first_ms SimpleAggregateFunction(min, Int64),
    last_ms SimpleAggregateFunction(max, Int64)) ENGINE = AggregatingMergeTree ORDER BY ({", ".join(KEY_COLUMNS)})
    SETTINGS non_replicated_deduplication_window = 100000, fsync_after_insert = 1, fsync_part_directory = 1"""
_CLICKHOUSE_VIEW: Final = f"""CREATE VIEW IF NOT EXISTS attempts AS SELECT {", ".join(KEY_COLUMNS)},
    sum(tries) AS tries, sum(refusals) AS refusals, min(first_ms) AS first_ms, max(last_ms) AS last_ms
    FROM attempt_rows GROUP BY {", ".join(KEY_COLUMNS)}"""  # noqa: S608 same

ADD_ATTEMPTS: Final = f"""INSERT INTO attempts ({", ".join(ATTEMPT_COLUMNS)})
    VALUES ({", ".join("?" * len(ATTEMPT_COLUMNS))}) ON CONFLICT DO UPDATE SET tries = tries + excluded.tries,
    refusals = refusals + excluded.refusals, first_ms = MIN(first_ms, excluded.first_ms),
    last_ms = MAX(last_ms, excluded.last_ms)"""  # noqa: S608 same


def _fill(connection: sqlite3.Connection, told: Callable[[int, int], None]) -> None:
    (total,) = connection.execute(_COUNT).fetchone()
    attempts, records, done = WindowAttempts(), connection.execute(_RECORDS), 0
    while bodies := records.fetchmany(_AT_ONCE):
        connection.executemany(ADD_ATTEMPTS, attempts.rows_of_bodies(bodies))
        done += len(bodies)
        told(done, total)


def _fill_clickhouse(client: Client, told: Callable[[int, int], None]) -> None:
    ((total,),) = client.query(_COUNT).result_rows
    attempts = WindowAttempts()
    for start in range(0, total, _AT_ONCE):
        page = client.query(f"{_RECORDS} LIMIT {_AT_ONCE} OFFSET {start}", column_formats={"body": "bytes"})
        rows = attempts.rows_of_bodies((reason, body) for reason, body in page.result_rows)
        if rows:
            # Run again it makes the same blocks, and the engine leaves out those that it has.
            token = {"insert_deduplication_token": f"version 2 from {start}"}
            client.insert("attempt_rows", rows, column_names=ATTEMPT_COLUMNS, settings=token)
        told(min(start + _AT_ONCE, total), total)


ATTEMPTS_TABLE: Final = Migration(
    what="count attempts on windows by day and source",
    sqlite=(_SQLITE, _fill),
    clickhouse=(_CLICKHOUSE, _CLICKHOUSE_VIEW, _fill_clickhouse),
)
