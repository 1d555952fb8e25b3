"""The table of blocks of batches that are being added to ClickHouse (:mod:`authz.hub.store.block`)."""

from __future__ import annotations

from typing import Final

from authz.hub.store.migration import Migration

#: A partition each: it is crossed off by itself, and at once.
PENDING_TABLE: Final = Migration(
    what="keep what is added until all of it is there",
    sqlite=(),
    clickhouse=(
        """CREATE TABLE IF NOT EXISTS pending (token String, content String) ENGINE = MergeTree
        PARTITION BY token ORDER BY token SETTINGS fsync_after_insert = 1, fsync_part_directory = 1""",
    ),
)
