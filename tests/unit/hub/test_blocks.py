"""Blocks of batches: what is written down is read again, and what failed anywhere is in ClickHouse once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, strategies

from authz.hub.errors import StoreError
from authz.hub.records_query import Records
from authz.hub.store.block import FLOW_COLUMNS, Block, Rows, blocks_of, flows_of, read_block, token_of
from authz.hub.store.store import Retention, Store
from tests.support.hub_process import flow, record
from tests.unit.hub.test_stores import EDGE, NOON_S, _stores, arrival, at, calls

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from authz.hub.arrival import Arrival

_CELLS = strategies.one_of(
    strategies.none(),
    strategies.integers(-(2**63), 2**63 - 1),
    strategies.text(max_size=20),
    strategies.binary(max_size=20),
)
_ROWS = strategies.builds(
    Rows,
    table=strategies.text(max_size=9),
    columns=strategies.lists(strategies.text(max_size=9), max_size=3).map(tuple),
    rows=strategies.lists(strategies.lists(_CELLS, max_size=3).map(tuple), max_size=3),
)
_BLOCKS = strategies.builds(
    Block,
    token=strategies.binary(min_size=16, max_size=16).map(bytes.hex),
    flows=strategies.binary(max_size=99),
    tables=strategies.lists(_ROWS, max_size=3).map(tuple),
)


def some(*sequences: int) -> list[Arrival]:
    return [arrival(each, flow(time=at(NOON_S), count=1 << each), records=[record(each)]) for each in sequences]


class TestWritten:
    @given(_BLOCKS)
    def test_it_is_read_as_it_was(self, block: Block) -> None:
        assert read_block(block.written()) == block

    @given(strategies.one_of(strategies.text(), _BLOCKS.map(lambda each: each.written()[:-1])))
    def test_any_other_text_is_an_error(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"."):
            read_block(text)

    def test_a_token_that_is_no_name_of_batches_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="no block"):
            read_block(Block(token="' OR 1", flows=b"", tables=()).written())  # noqa: S106 no password


class TestCut:
    def test_every_batch_is_in_one_block_and_in_its_place(self) -> None:
        batches = [arrival(each, *[flow(time=at(NOON_S))] * 1) for each in range(1, 9)]
        assert list(blocks_of(batches)) == [batches]
        assert list(blocks_of([])) == []

    def test_a_block_ends_before_it_is_too_long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("authz.hub.store.block._MOST_FLOWS", 2)
        batches = [arrival(each, flow(time=at(NOON_S))) for each in range(1, 6)]
        assert [len(each) for each in blocks_of(batches)] == [2, 2, 1]

    def test_others_have_another_token_and_the_same_ones_the_same(self) -> None:
        assert token_of(some(1, 2)) == token_of(some(1, 2))
        assert len({token_of(some(1, 2)), token_of(some(1)), token_of(some(2, 1)), token_of([])}) == 4

    def test_flows_are_rows_of_numbers_of_eight_bytes(self) -> None:
        packed = flows_of(some(1, 2))
        assert len(packed) == 2 * 8 * len(FLOW_COLUMNS)
        assert int.from_bytes(packed[:8], "little") == NOON_S


@pytest.mark.skipif("clickhouse" not in _stores(), reason="`make test-store` brings ClickHouse's engine")
class TestInClickHouse:
    """Three batches are one block; a fault comes before or behind the n-th of all writes."""

    # pending, flows, series, records, sidecars, revisions, batches, crossed off
    @pytest.mark.parametrize("behind", [False, True], ids=["not done", "done and not told"])
    @pytest.mark.parametrize("again", [False, True], ids=["the same process", "another process"])
    @pytest.mark.parametrize("nth", range(1, 9))
    def test_what_failed_at_any_write_is_there_once(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        nth: int,
        again: bool,  # noqa: FBT001
        behind: bool,  # noqa: FBT001
    ) -> None:
        store = _clickhouse(tmp_path)
        writes = 0

        def failing(done: Callable[..., Any]) -> Callable[..., Any]:
            def write(*arguments: Any, **named: Any) -> Any:
                nonlocal writes
                writes += 1
                if writes == nth and not behind:
                    raise OSError("away")
                answer = done(*arguments, **named)
                if writes == nth:
                    raise OSError("away")
                return answer

            return write

        writer: Any = store
        with monkeypatch.context() as patched:
            for name in ("insert", "raw_insert", "command"):
                patched.setattr(writer._writer, name, failing(getattr(writer._writer, name)))
            with pytest.raises(StoreError, match="away"):
                store.add(some(1, 2, 3), 1)
        assert writes == nth
        if again:
            store.close()
            store = _clickhouse(tmp_path)
        # They come again one by one, and in other company; whose sender was told that it failed is new to this process.
        told = [store.add(some(2), 2), store.add(some(4, 3, 1), 3), store.add(some(1, 2, 3, 4), 4)]
        assert calls(store, NOON_S, NOON_S + 10) == {EDGE: 2 + 4 + 8 + 16}
        assert len(Records(store).calls({}, None, None, 10, None)["calls"]) == 4
        assert store.rows("SELECT count(*) FROM pending", {}) == [(0,)]
        assert told[2] == [False] * 4
        if not again:
            assert told[:2] == [[True], [True] * 3]
        store.close()


def _clickhouse(folder: Path) -> Store:
    from authz.hub.store.clickhouse import ClickHouseStore  # noqa: PLC0415 its driver is there in `make test-store`

    return ClickHouseStore(f"chdb://{folder}/clickhouse", Retention(), lambda _: None)
