"""The store in one file: SQLite with a write-ahead log that is synced at every commit.

A flow is appended to `tail` first, which has no index; :meth:`SqliteStore.tidy` moves many at once into `seconds`,
`minutes` and `hours`, where rows of the same time and series are one, in one transaction. Every question looks at the
tail too: a flow is counted once, whenever it came and whatever its time is. Hours that are over become days
(:mod:`authz.hub.store.days_table`).

https://www.sqlite.org/wal.html https://www.sqlite.org/pragma.html#pragma_synchronous
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import contextmanager
from dataclasses import fields, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from authz.hub.columns import COLUMNS, DURATIONS
from authz.hub.errors import StoreError
from authz.hub.histogram_text import packed
from authz.hub.store.attempts_table import ADD_ATTEMPTS
from authz.hub.store.days_table import DAY_S, Days
from authz.hub.store.first_tables import FIRST_TABLES
from authz.hub.store.migration import Migration, Step, StepProgress, steps_from
from authz.hub.store.migrations import MIGRATIONS
from authz.hub.store.minutes_table import ADD_MINUTES, PACKED, add_functions
from authz.hub.store.spans import cut, first_kept
from authz.hub.store.store import (
    ANY_STEP_S,
    HOURS,
    MINUTES,
    RECORD_COLUMNS,
    SECONDS,
    SERIES_COLUMNS,
    SIDECAR_COLUMNS,
    STEP_S,
    Part,
    Retention,
    StoreFacts,
)
from authz.hub.window_attempts import DAY_MS, WindowAttempts
from authz.instant import NS_PER_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from authz.hub.arrival import Arrival
    from authz.hub.kept_record import KeptRecord
    from authz.hub.series import Series

_FILE: Final = "hub.sqlite"
#: the database, its write-ahead log and the log's index: all of them take room (sqlite.org/tempfiles.html)
_FILE_ENDS: Final = ("", "-wal", "-shm")
#: rows that are moved in one transaction: intake waits for it, a tenth of a second or a few
_MOVED_AT_ONCE: Final = 50_000
_FORGOTTEN_AT_ONCE: Final = 20_000
_BUSY_S: Final = 60.0
#: how many steps of SQLite's machine there are between two looks at the clock: some milliseconds
_LOOK_EVERY: Final = 1_000_000
#: of pages that are kept in memory, by each connection; negative: KiB (sqlite.org/pragma.html#pragma_cache_size)
_CACHE_KIB: Final = -64 * 1024
#: Pages (4 KiB) of the log that are written back at once: pages that changed often are then written once. The log
#: grows to some 20 MiB. (sqlite.org/wal.html, "Avoiding Excessively Large WAL Files")
_CHECKPOINT_PAGES: Final = 4000
#: Rows that one statement adds: SQLite does not hold Python's lock while it runs, and gets it back seldom. A statement
#: has at most 32,766 values (sqlite.org/limits.html).
_ROWS_AT_ONCE: Final = (512, 64, 8, 1)
#: series of which it is known that they are stored, 8 bytes and what a set needs for each
_MOST_STORED: Final = 500_000
_TAIL: Final = "tail"
#: how long an hour that is over waits at most to be added to its day while there is always something else to do
_DAYS_EVERY_S: Final = 10.0

_NAMES: Final = ", ".join(COLUMNS)
_ADDED: Final = ", ".join(f"{column} = {column} + excluded.{column}" for column in COLUMNS)


def _insert(table: str, columns: Sequence[str], or_else: str = "", rows: int = 1) -> str:
    places = ", ".join([f"({', '.join('?' * len(columns))})"] * rows)
    return f"INSERT {or_else} INTO {table} ({', '.join(columns)}) VALUES {places}"  # noqa: S608 names of this program


_FLOW_COLUMNS: Final = ("time", "series", *COLUMNS, PACKED)
_BEFORE_DURATIONS: Final = -len(DURATIONS)
_ADD_SERIES: Final = _insert("series", SERIES_COLUMNS, "OR IGNORE")
_ADD_BATCH: Final = _insert("batches", ("sidecar", "boot", "sequence", "received_ms"), "OR IGNORE")
# A batch that was sent earlier and comes later says nothing of how the sidecar is.
_ADD_SIDECAR: Final = (
    _insert("sidecars", SIDECAR_COLUMNS)
    + " ON CONFLICT (sidecar) DO UPDATE SET "
    + ", ".join(f"{column} = excluded.{column}" for column in SIDECAR_COLUMNS[1:])
    + " WHERE excluded.sent_ms >= sidecars.sent_ms"
)
_ADD_REVISION: Final = (
    _insert("revisions", ("revision", "sidecar", "first_ms", "last_ms"))
    + " ON CONFLICT DO UPDATE SET first_ms = MIN(first_ms, excluded.first_ms), last_ms = MAX(last_ms, excluded.last_ms)"
)
_SEEN: Final = """UPDATE series SET first_s = MIN(COALESCE(series.first_s, seen.first_s), seen.first_s),
    last_s = MAX(COALESCE(series.last_s, seen.last_s), seen.last_s)
    FROM (SELECT series, MIN(time) AS first_s, MAX(time) AS last_s FROM tail WHERE n <= :last AND calls > 0
        GROUP BY series) AS seen
    WHERE series.id = seen.series"""


class SqliteStore:
    """The store of one hub, in one folder."""

    def __init__(
        self,
        folder: Path,
        retention: Retention,
        progress: Callable[[str], None],
        migrations: Sequence[Migration] = MIGRATIONS,
    ) -> None:
        self._path = folder / _FILE
        self._files = [folder / f"{_FILE}{end}" for end in _FILE_ENDS]
        self._retention = retention
        self._readers = threading.local()
        self._open: list[sqlite3.Connection] = []
        self._guard = threading.Lock()
        self._stored: set[int] = set()
        self._attempts = WindowAttempts()
        self._first_day = 0
        self._has_time = False
        self._days_at_s = 0.0
        try:
            self._writer = self._connected()
            add_functions(self._writer)
            self._writer.execute("PRAGMA journal_mode = WAL")
            # INVARIANT (durable): the log is synced before a commit returns.
            self._writer.execute("PRAGMA synchronous = FULL")
            self._writer.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
            (version,) = self._writer.execute("PRAGMA user_version").fetchone()
            for step in steps_from(version, (FIRST_TABLES, *migrations), str(self._path)):
                self._migrate(step, progress)
            self._days = Days(self._writer)
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: {error}") from error

    def _connected(self) -> sqlite3.Connection:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.close(descriptor)
        connection = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        connection.execute(f"PRAGMA cache_size = {_CACHE_KIB}")
        connection.execute("PRAGMA temp_store = MEMORY")
        with self._guard:
            self._open.append(connection)
        return connection

    def _migrate(self, step: Step, say: Callable[[str], None]) -> None:
        """Do one step with the number of its version in one transaction."""
        progress = StepProgress(step, str(self._path), say)
        self._writer.set_progress_handler(progress.beat, _LOOK_EVERY)
        try:
            with self._transaction() as connection:
                for work in step.migration.sqlite:
                    if isinstance(work, str):
                        connection.execute(work)
                    else:
                        work(connection, progress.told)
                connection.execute(f"PRAGMA user_version = {step.version}")
        finally:
            self._writer.set_progress_handler(None, 0)
        progress.end()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield self._writer
        except BaseException:
            self._writer.execute("ROLLBACK")
            raise
        self._writer.execute("COMMIT")

    def add(self, batches: Sequence[Arrival], received_ms: int) -> list[bool]:
        """Add batches for good, all of them in one transaction."""
        try:
            with self._transaction() as connection:
                taken = [_is_new(connection, batch, received_ms) for batch in batches]
                new = [batch for batch, is_new in zip(batches, taken, strict=True) if is_new]
                for batch in new:
                    _add_sidecar(connection, batch, received_ms)
                series = {key: each for batch in new for key, each in batch.series.items() if key not in self._stored}
                connection.executemany(_ADD_SERIES, [_values(each) for each in series.values()])
                flows = [(*row, packed(row[_BEFORE_DURATIONS:])) for batch in new for row in batch.rows]
                _add_rows(connection, _TAIL, _FLOW_COLUMNS, flows)
                kept = [each for batch in new for each in batch.records]
                _add_rows(connection, "records", RECORD_COLUMNS, [_values(each) for each in kept])
                connection.executemany(ADD_ATTEMPTS, self._attempts.rows(kept))
        except (sqlite3.Error, TypeError, ValueError) as error:
            # Whoever was seen in what was not added will be seen in it again.
            self._attempts = WindowAttempts()
            raise StoreError(f"{self._path}: {error}") from error
        if len(self._stored) > _MOST_STORED:
            self._stored.clear()
        self._stored.update(series)
        return taken

    def rows(self, question: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Answer a question, on a connection of the thread's own."""
        try:
            reader: sqlite3.Connection | None = getattr(self._readers, "connection", None)
            if reader is None:
                reader = self._readers.connection = self._connected()
                reader.execute("PRAGMA query_only = ON")
            return reader.execute(question, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: {error}") from error

    def text_of(self, numbers: Sequence[str]) -> str:
        """Give, in SQL, one text of these numbers: it is handed over in less time than they are."""
        return f"printf('{','.join(['%d'] * len(numbers))}', {', '.join(numbers)})"

    @property
    def retention(self) -> Retention:
        """For how long it keeps what it was given."""
        return self._retention

    def parts(self, from_s: int, until_s: int, now_s: int, coarsest_s: int, *, of_edge: bool = False) -> list[Part]:
        """Say where the flows of a span are: what has been added up, and the tail."""
        parts = [
            replace(part, packed=True)
            if part.table == MINUTES
            else replace(part, once=part.until_s - part.from_s == STEP_S[part.table])
            for part in cut(from_s, until_s, now_s, self._retention, coarsest_s)
        ]
        if coarsest_s == ANY_STEP_S and not of_edge:  # of an edge: an index of hours leads to them
            parts = [each for part in parts for each in self._with_days(part, now_s)]
        if parts:
            begin, end = min(part.from_s for part in parts), max(part.until_s for part in parts)
            parts.append(Part(_TAIL, begin, end))
        return parts

    def _with_days(self, part: Part, now_s: int) -> list[Part]:
        return self._days.instead_of(part, now_s, self._retention) if part.table == HOURS else [part]

    def tidy(self, now_s: int) -> bool:
        """Add up what waits in the tail, or else forget what is older than it is kept, or else add to days."""
        try:
            with self._transaction() as connection:
                if self._moved(connection, now_s) or self._forgotten(connection, now_s):
                    self._has_time = False
                    return True
                # While much comes there is hardly ever nothing to move twice in a row: that is not the time for days.
                had_time, self._has_time = self._has_time, True
                if not had_time and time.monotonic() < self._days_at_s:
                    return False
                added = self._days.add_hour(connection, now_s)
            self._days.reached(self._writer)
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: {error}") from error
        self._days_at_s = time.monotonic() + _DAYS_EVERY_S
        return added

    def _moved(self, connection: sqlite3.Connection, now_s: int) -> bool:
        (last,) = connection.execute(
            "SELECT MAX(n) FROM (SELECT n FROM tail ORDER BY n LIMIT ?)", (_MOVED_AT_ONCE,)
        ).fetchone()
        if last is None:
            return False
        connection.execute(_SEEN, {"last": last})
        values = {"last": last, "first": first_kept(MINUTES, now_s, self._retention)}
        connection.execute(ADD_MINUTES, values)
        for table in (SECONDS, HOURS):
            # Row by row: to sort and group them first costs twice as much, even where three of them become one.
            connection.execute(
                f"""INSERT INTO {table} (time, series, {_NAMES})
                    SELECT time - time % {STEP_S[table]}, series, {_NAMES} FROM tail WHERE n <= :last AND time >= :first
                    ON CONFLICT (time, series) DO UPDATE SET {_ADDED}""",  # noqa: S608 names of this program
                {"last": last, "first": first_kept(table, now_s, self._retention)},
            )
        self._days.add_late(connection, last, now_s, self._retention)
        connection.execute("DELETE FROM tail WHERE n <= ?", (last,))
        return True

    def _forgotten(self, connection: sqlite3.Connection, now_s: int) -> bool:
        for table in (SECONDS, MINUTES, HOURS):
            (edge,) = connection.execute(
                f"""SELECT MAX(time) FROM (SELECT time FROM {table} WHERE time < ? ORDER BY time LIMIT ?)""",  # noqa: S608
                (first_kept(table, now_s, self._retention), _FORGOTTEN_AT_ONCE),
            ).fetchone()
            if edge is not None:
                connection.execute(f"DELETE FROM {table} WHERE time <= ?", (edge,))  # noqa: S608
                return True
        for decision, days in (("allow", self._retention.allowed_days), ("deny", self._retention.denied_days)):
            gone = connection.execute(
                "DELETE FROM records WHERE n IN (SELECT n FROM records WHERE decision = ? AND time_ms < ? LIMIT ?)",
                (decision, now_s * 1000 - days * DAY_MS, _FORGOTTEN_AT_ONCE),
            ).rowcount
            if gone:
                return True
        first_day = now_s * 1000 // DAY_MS - self._retention.denied_days
        if first_day != self._first_day:
            # All of them are looked at for it: once a day.
            connection.execute("DELETE FROM attempts WHERE day < ?", (first_day,))
            connection.execute("DELETE FROM days WHERE time < ?", (first_kept(HOURS, now_s, self._retention) - DAY_S,))
            self._first_day = first_day
        return False

    def facts(self) -> StoreFacts:
        """Say how much is stored."""
        ((records, series, oldest),) = self.rows(
            "SELECT (SELECT COUNT(*) FROM records), (SELECT COUNT(*) FROM series), (SELECT MIN(time) FROM hours)", {}
        )
        size = sum(map(_size_bytes, self._files))
        return StoreFacts(kind="sqlite", size_bytes=size, records=records, series=series, oldest_s=oldest)

    def close(self) -> None:
        """Close every connection; nothing may be asked any more."""
        with self._guard:
            for connection in self._open:
                connection.close()
            self._open.clear()


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _is_new(connection: sqlite3.Connection, batch: Arrival, received_ms: int) -> bool:
    key = batch.sidecar, batch.boot, batch.sequence, received_ms
    return connection.execute(_ADD_BATCH, key).rowcount == 1


def _add_rows(
    connection: sqlite3.Connection, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> None:
    begin = 0
    for count in _ROWS_AT_ONCE:
        statement = _insert(table, columns, rows=count)
        while len(rows) - begin >= count:
            connection.execute(statement, list(chain.from_iterable(rows[begin : begin + count])))
            begin += count


def _add_sidecar(connection: sqlite3.Connection, batch: Arrival, received_ms: int) -> None:
    status = batch.status
    connection.execute(
        _ADD_SIDECAR,
        (
            batch.sidecar,
            batch.service,
            batch.boot,
            batch.sequence,
            batch.sent_ms,
            received_ms,
            status.revision,
            None if status.svid_expires_ns is None else status.svid_expires_ns // NS_PER_MS,
            status.spooled,
            status.lost,
            status.unjoined,
            status.dropped,
            status.failed_handshakes,
            status.ready,
        ),
    )
    told = batch.revisions if status.revision is None else batch.revisions | {status.revision}
    connection.executemany(_ADD_REVISION, [(each, batch.sidecar, batch.sent_ms, batch.sent_ms) for each in told])


def _values(value: Series | KeptRecord) -> tuple[Any, ...]:
    return tuple(getattr(value, field.name) for field in fields(value))
