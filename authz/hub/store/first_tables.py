"""The tables of SQLite's version 1; what has changed since stands in :mod:`authz.hub.store.migrations`."""

from __future__ import annotations

from typing import Final

from authz.hub.columns import COLUMNS
from authz.hub.store.migration import Migration
from authz.hub.store.store import STEP_S

_COUNTS: Final = ", ".join(f"{column} INTEGER NOT NULL" for column in COLUMNS)
_SCHEMA: Final = (
    """CREATE TABLE batches (sidecar TEXT NOT NULL, boot TEXT NOT NULL, sequence INTEGER NOT NULL,
        received_ms INTEGER NOT NULL, PRIMARY KEY (sidecar, boot, sequence)) WITHOUT ROWID""",
    """CREATE TABLE sidecars (sidecar TEXT PRIMARY KEY, service TEXT NOT NULL, boot TEXT NOT NULL,
        sequence INTEGER NOT NULL, sent_ms INTEGER NOT NULL, received_ms INTEGER NOT NULL, revision TEXT,
        svid_expires_ms INTEGER, spooled INTEGER NOT NULL, lost INTEGER NOT NULL, unjoined INTEGER NOT NULL,
        dropped INTEGER NOT NULL, failed_handshakes INTEGER NOT NULL, ready INTEGER NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE revisions (revision TEXT NOT NULL, sidecar TEXT NOT NULL, first_ms INTEGER NOT NULL,
        last_ms INTEGER NOT NULL, PRIMARY KEY (revision, sidecar)) WITHOUT ROWID""",
    """CREATE TABLE series (id INTEGER PRIMARY KEY, sidecar TEXT NOT NULL, direction TEXT NOT NULL,
        source TEXT NOT NULL, source_kind TEXT NOT NULL, target TEXT NOT NULL, target_kind TEXT NOT NULL,
        identity TEXT, presented_by TEXT, address TEXT, host TEXT NOT NULL, method TEXT NOT NULL, route TEXT,
        protocol TEXT, decision TEXT NOT NULL, reason TEXT NOT NULL, policy TEXT, shadow_reason TEXT,
        shadow_policy TEXT, tls_version TEXT, tls_cipher TEXT, counted INTEGER NOT NULL,
        first_s INTEGER, last_s INTEGER)""",
    "CREATE INDEX series_target ON series (target, source)",
    "CREATE INDEX series_policy ON series (policy)",
    f"CREATE TABLE tail (n INTEGER PRIMARY KEY, time INTEGER NOT NULL, series INTEGER NOT NULL, {_COUNTS})",
    *(
        f"""CREATE TABLE {table} (time INTEGER NOT NULL, series INTEGER NOT NULL, {_COUNTS},
            PRIMARY KEY (time, series)) WITHOUT ROWID"""
        for table in STEP_S
    ),
    """CREATE TABLE records (n INTEGER PRIMARY KEY, decision_id TEXT NOT NULL, time_ms INTEGER NOT NULL,
        decision TEXT NOT NULL, reason TEXT NOT NULL, source TEXT NOT NULL, target TEXT NOT NULL, policy TEXT,
        revision TEXT NOT NULL, cut INTEGER NOT NULL, handshakes INTEGER NOT NULL, body BLOB NOT NULL)""",
    # The history of one edge over weeks; what is read of a span finds its rows by time.
    "CREATE INDEX hours_series ON hours (series, time)",
    "CREATE INDEX records_time ON records (time_ms)",
    "CREATE INDEX records_decision ON records (decision, time_ms)",
    "CREATE INDEX records_reason ON records (reason, time_ms)",
    "CREATE INDEX records_source ON records (source, time_ms)",
    "CREATE INDEX records_target ON records (target, time_ms)",
    "CREATE INDEX records_policy ON records (policy, time_ms) WHERE policy IS NOT NULL",
    "CREATE INDEX records_id ON records (decision_id)",
)

FIRST_TABLES: Final = Migration(what="make the store", sqlite=_SCHEMA)
