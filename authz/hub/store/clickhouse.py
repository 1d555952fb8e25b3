"""The store for more than one machine holds: ClickHouse, by clickhouse-connect.

The same tables and questions as everywhere (:mod:`authz.hub.store.store`). Flows are added up by materialized views,
rows of the same time and series by merges and by every question. There are no transactions: what is added is written
down first (:mod:`authz.hub.store.block`), and what failed half way, or with this process, is added again before
anything else is, under the same token; the engine leaves out what it has already.

    clickhouse://USER:PASSWORD@HOST:PORT/DATABASE   clickhouses:// by TLS   chdb://FOLDER the engine in this process

https://clickhouse.com/docs/guides/developer/deduplicating-inserts-on-retries
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from dataclasses import fields
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

import clickhouse_connect
from clickhouse_connect.driver.exceptions import Error as DriverError

from authz.hub.columns import COLUMNS
from authz.hub.errors import StoreError
from authz.hub.store.block import FLOW_COLUMNS, Block, Rows, blocks_of, flows_of, read_block, token_of
from authz.hub.store.migration import Migration, Step, StepProgress, steps_from
from authz.hub.store.migrations import MIGRATIONS
from authz.hub.store.spans import cut
from authz.hub.store.store import (
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
from authz.hub.window_attempts import ATTEMPT_COLUMNS, WindowAttempts
from authz.instant import NS_PER_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from clickhouse_connect.driver.client import Client

    from authz.hub.arrival import Arrival

#: Blocks that are remembered: a batch that failed comes again within seconds, or after the hub was away for hours.
_REMEMBERED: Final = 100_000
_DURABLE: Final = (
    f"SETTINGS non_replicated_deduplication_window = {_REMEMBERED}, fsync_after_insert = 1, fsync_part_directory = 1"
)
_COUNTS: Final = ", ".join(f"{column} Int64" for column in COLUMNS)
_SUMS: Final = ", ".join(f"sum({column}) AS {column}" for column in COLUMNS)
_WORD: Final = "LowCardinality(String)"
_WORD_OR_NOT: Final = "LowCardinality(Nullable(String))"
#: how often it is looked for what is too old
_FORGET_EVERY_S: Final = 3600
_DAY_S: Final = 86_400
#: An alias never hides a column, as in SQLite and in the standard.
_SETTINGS: Final = {"prefer_column_name_to_alias": 1, "deduplicate_blocks_in_dependent_materialized_views": 1}
_VALUE: Final = re.compile(r":([a-z]+[0-9]*)\b")

#: the tables of version 1; what has changed since stands in :mod:`authz.hub.store.migrations`
_SCHEMA: Final = (
    f"""CREATE TABLE IF NOT EXISTS batches (sidecar {_WORD}, boot String, sequence Int64, received_ms Int64)
        ENGINE = ReplacingMergeTree ORDER BY (sidecar, boot, sequence) {_DURABLE}""",
    f"""CREATE TABLE IF NOT EXISTS sidecar_rows (sidecar {_WORD}, service {_WORD}, boot String, sequence Int64,
        sent_ms Int64, received_ms Int64, revision Nullable(String), svid_expires_ms Nullable(Int64), spooled Int64,
        lost Int64, unjoined Int64, dropped Int64, failed_handshakes Int64, ready UInt8)
        ENGINE = ReplacingMergeTree(sent_ms) ORDER BY sidecar""",
    "CREATE VIEW IF NOT EXISTS sidecars AS SELECT * FROM sidecar_rows FINAL",
    f"""CREATE TABLE IF NOT EXISTS revision_rows (revision String, sidecar {_WORD},
        first_ms SimpleAggregateFunction(min, Int64), last_ms SimpleAggregateFunction(max, Int64))
        ENGINE = AggregatingMergeTree ORDER BY (revision, sidecar)""",
    """CREATE VIEW IF NOT EXISTS revisions AS SELECT revision, sidecar, min(first_ms) AS first_ms,
        max(last_ms) AS last_ms FROM revision_rows GROUP BY revision, sidecar""",
    f"""CREATE TABLE IF NOT EXISTS series_rows (id Int64, sidecar {_WORD}, direction {_WORD}, source String,
        source_kind {_WORD}, target String, target_kind {_WORD}, identity Nullable(String),
        presented_by Nullable(String), address Nullable(String), host String, method {_WORD}, route Nullable(String),
        protocol {_WORD_OR_NOT}, decision {_WORD}, reason {_WORD}, policy {_WORD_OR_NOT},
        shadow_reason {_WORD_OR_NOT}, shadow_policy {_WORD_OR_NOT}, tls_version {_WORD_OR_NOT},
        tls_cipher {_WORD_OR_NOT}, counted UInt8) ENGINE = ReplacingMergeTree ORDER BY id""",
    """CREATE TABLE IF NOT EXISTS series_seen (series Int64, first_s SimpleAggregateFunction(min, Int64),
        last_s SimpleAggregateFunction(max, Int64)) ENGINE = AggregatingMergeTree ORDER BY series""",
    *(
        f"""CREATE TABLE IF NOT EXISTS {table} (time Int64, series Int64, {_COUNTS})
            ENGINE = SummingMergeTree ORDER BY (time, series) {_DURABLE}"""
        for table in STEP_S
    ),
    # The history of one edge over weeks: what it has lies together.
    f"""CREATE TABLE IF NOT EXISTS edge_hours (time Int64, series Int64, {_COUNTS})
        ENGINE = SummingMergeTree ORDER BY (series, time) {_DURABLE}""",
    *(
        f"""CREATE MATERIALIZED VIEW IF NOT EXISTS to_{table} TO {table} AS
            SELECT time - time % {step} AS time, series, {_SUMS} FROM {SECONDS} GROUP BY time, series
            SETTINGS prefer_column_name_to_alias = 0"""  # noqa: S608 names of this program
        for table, step in ((MINUTES, 60), (HOURS, 3600), ("edge_hours", 3600))
    ),
    f"""CREATE MATERIALIZED VIEW IF NOT EXISTS to_series_seen TO series_seen AS
        SELECT series, min(time) AS first_s, max(time) AS last_s FROM {SECONDS} WHERE calls > 0 GROUP BY series""",  # noqa: S608 same
    """CREATE VIEW IF NOT EXISTS series AS SELECT r.*, nullIf(seen.first_s, 0) AS first_s,
        nullIf(seen.last_s, 0) AS last_s FROM (SELECT * FROM series_rows FINAL) AS r
        LEFT JOIN (SELECT series, min(first_s) AS first_s, max(last_s) AS last_s FROM series_seen
        GROUP BY series) AS seen ON seen.series = r.id""",
    f"""CREATE TABLE IF NOT EXISTS records (n Int64, decision_id String, time_ms Int64, decision {_WORD},
        reason {_WORD}, source String, target String, policy {_WORD_OR_NOT}, revision {_WORD}, cut UInt8,
        handshakes Int64, body String, INDEX by_id decision_id TYPE bloom_filter(0.001) GRANULARITY 1)
        ENGINE = MergeTree ORDER BY (time_ms, n) {_DURABLE}""",
)
_FIRST: Final = Migration(what="make the store", sqlite=(), clickhouse=_SCHEMA)
#: The number of the version: the first program wrote none, and it is 1 where its tables are.
_VERSIONS: Final = """CREATE TABLE IF NOT EXISTS schema_versions (version Int64, reached_ms Int64)
    ENGINE = ReplacingMergeTree ORDER BY version SETTINGS fsync_after_insert = 1, fsync_part_directory = 1"""


class ClickHouseStore:
    """A store in one database."""

    def __init__(
        self,
        url: str,
        retention: Retention,
        progress: Callable[[str], None],
        migrations: Sequence[Migration] = MIGRATIONS,
    ) -> None:
        self._url = url
        self._retention = retention
        self._readers = threading.local()
        self._open: list[Client] = []
        self._guard = threading.Lock()
        self._forgot_at_s = 0
        self._attempts = WindowAttempts()
        self._failed = True
        #: batches whose sender was told that they are not stored, and which may be
        self._untold: set[tuple[str, str, int]] = set()
        try:
            self._writer = self._connected()
            for step in steps_from(self._version(), (_FIRST, *migrations), _shown(url)):
                self._migrate(step, progress)
        except (DriverError, OSError, ValueError) as error:
            raise StoreError(f"--store: {_shown(url)}: {_why(error)}") from error

    def _version(self) -> int:
        """Give the version of what is stored: 0 where there is nothing, or where its first tables are not all there."""
        self._writer.command(_VERSIONS)
        ((version,),) = self._writer.query("SELECT max(version) FROM schema_versions").result_rows
        if version:
            return int(version)
        # `records` is what the first program made last.
        ((has_tables,),) = self._writer.query(
            "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'records'"
        ).result_rows
        return 1 if has_tables else 0

    def _migrate(self, step: Step, say: Callable[[str], None]) -> None:
        progress = StepProgress(step, _shown(self._url), say)
        for work in step.migration.clickhouse:
            if isinstance(work, str):
                self._writer.command(work, settings={"prefer_column_name_to_alias": 0})
            else:
                work(self._writer, progress.told)
            progress.beat()
        # INVARIANT (forward): written behind all of its statements.
        reached_ms = time.time_ns() // NS_PER_MS
        self._writer.insert("schema_versions", [(step.version, reached_ms)], column_names=("version", "reached_ms"))
        progress.end()

    def _connected(self) -> Client:
        scheme, _, rest = self._url.partition("://")
        if scheme == "chdb":
            client = clickhouse_connect.get_client(interface="chdb", path=rest, settings=dict(_SETTINGS))
        else:
            http = {"clickhouse": "http", "clickhouses": "https"}.get(scheme)
            if http is None:
                raise StoreError(f"--store: {_shown(self._url)}: give clickhouse://HOST:PORT/DATABASE")
            client = clickhouse_connect.get_client(
                dsn=f"{http}://{rest}", autogenerate_session_id=False, settings=dict(_SETTINGS)
            )
        with self._guard:
            self._open.append(client)
        return client

    def add(self, batches: Sequence[Arrival], received_ms: int) -> list[bool]:
        """Add batches for good, many of them as one block."""
        try:
            self._finish()
            known = self._taken(batches)
            stored, new = [], []
            for batch in batches:
                key = batch.sidecar, batch.boot, batch.sequence
                stored.append(key not in known or key in self._untold)
                self._untold.discard(key)
                if key not in known:
                    new.append(batch)
                    known.add(key)
            for block in [self._block(each, received_ms) for each in blocks_of(new)]:
                self._add(block)
        except (DriverError, OSError, ValueError, TypeError, IndexError, OverflowError) as error:
            # Whoever was seen in what was not added will be seen in it again.
            self._attempts = WindowAttempts()
            self._failed = True
            self._untold.update((each.sidecar, each.boot, each.sequence) for each in batches)
            raise StoreError(f"{_shown(self._url)}: {_why(error)}") from error
        return stored

    def _finish(self) -> None:
        """Add what was written down and is not crossed off: another add failed, here or in a process before."""
        if self._failed:
            for (content,) in self._writer.query("SELECT content FROM pending").result_rows:
                self._add_written(read_block(content))
            self._failed = False

    def _taken(self, batches: Sequence[Arrival]) -> set[tuple[str, str, int]]:
        found = self._writer.query(
            """SELECT DISTINCT sidecar, boot, sequence FROM batches
            WHERE sidecar IN {sidecars:Array(String)} AND boot IN {boots:Array(String)}
            AND sequence IN {sequences:Array(Int64)}""",
            parameters={
                "sidecars": sorted({each.sidecar for each in batches}),
                "boots": sorted({each.boot for each in batches}),
                "sequences": sorted({each.sequence for each in batches}),
            },
        )
        return {(sidecar, boot, sequence) for sidecar, boot, sequence in found.result_rows}

    def _block(self, batches: Sequence[Arrival], received_ms: int) -> Block:
        series = {key: each for batch in batches for key, each in batch.series.items()}
        records = [
            (_number(f"{batch.sidecar}/{batch.boot}/{batch.sequence}", place), *_values(each))
            for batch in batches
            for place, each in enumerate(batch.records)
        ]
        attempts = self._attempts.rows([each for batch in batches for each in batch.records])
        revisions = [
            (each, batch.sidecar, batch.sent_ms, batch.sent_ms) for batch in batches for each in _revisions(batch)
        ]
        taken = [(batch.sidecar, batch.boot, batch.sequence, received_ms) for batch in batches]
        return Block(
            token=token_of(batches),
            flows=flows_of(batches),
            tables=(
                Rows(table="series_rows", columns=SERIES_COLUMNS, rows=[_values(each) for each in series.values()]),
                Rows(table="records", columns=("n", *RECORD_COLUMNS), rows=records),
                Rows(table="attempt_rows", columns=ATTEMPT_COLUMNS, rows=list(attempts)),
                Rows(
                    table="sidecar_rows",
                    columns=SIDECAR_COLUMNS,
                    rows=[_sidecar(batch, received_ms) for batch in batches],
                ),
                Rows(table="revision_rows", columns=("revision", "sidecar", "first_ms", "last_ms"), rows=revisions),
                # INVARIANT (once): nobody is told that it was taken before all of it is there.
                Rows(table="batches", columns=("sidecar", "boot", "sequence", "received_ms"), rows=taken),
            ),
        )

    def _add(self, block: Block) -> None:
        # INVARIANT (whole): it is on disk before the first of its rows is in any table.
        self._writer.insert("pending", [(block.token, block.written())], column_names=("token", "content"))
        self._add_written(block)

    def _add_written(self, block: Block) -> None:
        settings = {"insert_deduplication_token": block.token}
        if block.flows:
            self._writer.raw_insert(SECONDS, FLOW_COLUMNS, block.flows, settings=settings, fmt="RowBinary")
        for each in block.tables:
            if each.rows:
                self._writer.insert(each.table, each.rows, column_names=each.columns, settings=settings)
        self._writer.command(f"ALTER TABLE pending DROP PARTITION '{block.token}'")

    def rows(self, question: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Answer a question, on a connection of the thread's own."""
        try:
            reader: Client | None = getattr(self._readers, "client", None)
            if reader is None:
                reader = self._readers.client = self._connected()
            used: dict[str, Any] = {}

            def place(found: re.Match[str]) -> str:
                used[found[1]] = values[found[1]]
                return f"{{{found[1]}:{'String' if isinstance(used[found[1]], str) else 'Int64'}}}"

            asked = _VALUE.sub(place, question)
            formats: dict[str, str | dict[str, str]] | None = {"body": "bytes"} if "body" in question else None
            return [tuple(row) for row in reader.query(asked, parameters=used, column_formats=formats).result_rows]
        except (DriverError, OSError, ValueError, KeyError) as error:
            raise StoreError(f"{_shown(self._url)}: {_why(error)}") from error

    def text_of(self, numbers: Sequence[str]) -> str:
        """Give, in SQL, one text of these numbers, with commas between them."""
        return f"arrayStringConcat([{', '.join(f'toString({number})' for number in numbers)}], ',')"

    @property
    def retention(self) -> Retention:
        """For how long it keeps what it was given."""
        return self._retention

    def parts(self, from_s: int, until_s: int, now_s: int, coarsest_s: int, *, of_edge: bool = False) -> list[Part]:
        """Say where the flows of a span are."""
        parts = cut(from_s, until_s, now_s, self._retention, coarsest_s)
        if not of_edge:
            return parts
        return [Part("edge_hours", each.from_s, each.until_s) if each.table == HOURS else each for each in parts]

    def tidy(self, now_s: int) -> bool:
        """Forget what is older than it is kept, once an hour; the engine itself does what else there is to do."""
        if now_s - self._forgot_at_s < _FORGET_EVERY_S:
            return False
        self._forgot_at_s = now_s
        retention = self._retention
        try:
            for table in (*STEP_S, "edge_hours"):
                first = now_s - retention.flows_s(HOURS if table == "edge_hours" else table) - _FORGET_EVERY_S
                self._forget(table, f"time < {first}")
            for decision, days in (("allow", retention.allowed_days), ("deny", retention.denied_days)):
                self._forget("records", f"decision = '{decision}' AND time_ms < {(now_s - days * _DAY_S) * 1000}")
            self._forget("attempt_rows", f"day < {now_s // _DAY_S - retention.denied_days}")
        except DriverError as error:
            raise StoreError(f"{_shown(self._url)}: {_why(error)}") from error
        return False

    def _forget(self, table: str, which: str) -> None:
        question = f"SELECT count() FROM {table} WHERE {which}"  # noqa: S608 names and numbers of this program
        if self._writer.query(question).result_rows[0][0]:
            self._writer.command(f"DELETE FROM {table} WHERE {which}")  # noqa: S608 same

    def facts(self) -> StoreFacts:
        """Say how much is stored."""
        ((records, series, oldest),) = self.rows(
            """SELECT (SELECT count() FROM records), (SELECT count() FROM series_rows FINAL),
            (SELECT min(time) FROM hours)""",
            {},
        )
        ((size_bytes,),) = self.rows(
            "SELECT coalesce(sum(bytes_on_disk), 0) FROM system.parts WHERE active AND database = currentDatabase()", {}
        )
        return StoreFacts(
            kind="clickhouse",
            size_bytes=int(size_bytes),
            records=int(records),
            series=int(series),
            oldest_s=int(oldest) or None,
        )

    def close(self) -> None:
        """Close every connection; nothing may be asked any more."""
        with self._guard:
            for client in self._open:
                with contextlib.suppress(DriverError):
                    client.close()
            self._open.clear()


def _values(value: Any) -> tuple[Any, ...]:
    return tuple(getattr(value, field.name) for field in fields(value))


def _sidecar(batch: Arrival, received_ms: int) -> tuple[Any, ...]:
    status, expires_ns = batch.status, batch.status.svid_expires_ns
    return (
        batch.sidecar, batch.service, batch.boot, batch.sequence, batch.sent_ms, received_ms, status.revision,
        None if expires_ns is None else expires_ns // NS_PER_MS, status.spooled, status.lost, status.unjoined,
        status.dropped, status.failed_handshakes, status.ready,
    )  # fmt: skip


def _revisions(batch: Arrival) -> list[str]:
    revision = batch.status.revision
    return sorted(batch.revisions if revision is None else batch.revisions | {revision})


def _number(token: str, place: int) -> int:
    """Give a number of at most 18 digits that a record always has, whoever sends it how often."""
    digest = blake2b(f"{token}/{place}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 5


def _shown(url: str) -> str:
    """Give the URL without a password."""
    return re.sub(r"//[^@/]*@", "//", url)


def _why(error: Exception) -> str:
    # Where nobody answers the driver tells of its pool, its tries and its objects; the system's reason stands behind.
    behind: BaseException | None = error
    while behind is not None:
        if isinstance(behind, OSError) and behind.errno and behind.strerror:
            return f"the server cannot be reached: {behind.strerror.lower()}"
        behind = behind.__cause__ or behind.__context__
    return str(error).partition("\n")[0][:500]
