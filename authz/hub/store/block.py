"""What several batches bring to ClickHouse at once, as it is kept until all of it is there.

There are no transactions: a block is written down whole first, then added table by table, then crossed off. After a
failure at any point it is added again as it was written down, under the same token, and the engine leaves out what it
has (insert_deduplication_token). So many batches are one block, whoever sends them again in whatever company.
Pure.
"""

from __future__ import annotations

import base64
import json
import re
from array import array
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from authz.hub.columns import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from authz.hub.arrival import Arrival

#: of one block, unless a batch alone has more; some 6 and some 3 MB
_MOST_FLOWS, _MOST_RECORDS = 20_000, 5_000
FLOW_COLUMNS: Final = ("time", "series", *COLUMNS)
_BYTES: Final = "base64"
_TOKEN: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What is added to one table."""

    table: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """What is added together: `flows` in ClickHouse's RowBinary, `tables` behind them in this order."""

    token: str
    flows: bytes
    tables: tuple[Rows, ...]

    def written(self) -> str:
        """Give it as :func:`read_block` reads it."""
        tables = [[each.table, each.columns, each.rows] for each in self.tables]
        return json.dumps([self.token, _of_bytes(self.flows), tables], default=_of_bytes, separators=(",", ":"))


def read_block(text: str) -> Block:
    """Read a block that was written; raises ValueError."""
    try:
        token, flows, tables = json.loads(text, object_hook=_to_bytes)
        if not _TOKEN.fullmatch(token) or type(flows) is not bytes:
            raise ValueError("it is no block of batches")
        return Block(
            token=token,
            flows=flows,
            tables=tuple(
                Rows(table=table, columns=tuple(columns), rows=[tuple(row) for row in rows])
                for table, columns, rows in tables
            ),
        )
    except (TypeError, KeyError, RecursionError) as error:
        raise ValueError("it is no block of batches") from error


def blocks_of(batches: Sequence[Arrival]) -> Iterator[list[Arrival]]:
    """Cut batches into as many blocks as they need, in their order."""
    block: list[Arrival] = []
    flows = records = 0
    for batch in batches:
        flows += len(batch.rows)
        records += len(batch.records)
        if block and (flows > _MOST_FLOWS or records > _MOST_RECORDS):
            yield block
            block, flows, records = [], len(batch.rows), len(batch.records)
        block.append(batch)
    if block:
        yield block


def token_of(batches: Sequence[Arrival]) -> str:
    """Give the name of these batches together: the same for the same ones."""
    names = json.dumps([(each.sidecar, each.boot, each.sequence) for each in batches])
    return blake2b(names.encode(), digest_size=16).hexdigest()


def flows_of(batches: Sequence[Arrival]) -> bytes:
    """Give all flows as rows of Int64; raises TypeError, ValueError or OverflowError where one is none.

    https://clickhouse.com/docs/interfaces/formats/RowBinary
    """
    rows = [row for batch in batches for row in batch.rows]
    if any(len(row) != len(FLOW_COLUMNS) for row in rows):
        raise ValueError("a flow has not the columns that a flow has")
    numbers = array("q", chain.from_iterable(rows))
    if _BIG_ENDIAN:
        numbers.byteswap()
    return numbers.tobytes()


_BIG_ENDIAN: Final = array("q", [1]).tobytes()[0] == 0


def _of_bytes(value: bytes) -> dict[str, str]:
    return {_BYTES: base64.b64encode(value).decode("ascii")}


def _to_bytes(value: dict[str, str]) -> bytes:
    return base64.b64decode(value[_BYTES], validate=True)
