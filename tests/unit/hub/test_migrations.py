"""A store of an earlier version becomes one of this version, wholly or not at all; nothing in it is lost."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from authz.hub.errors import StoreError
from authz.hub.query import Flows
from authz.hub.records_query import Records
from authz.hub.span import Span
from authz.hub.store.migration import TELL_EVERY_S, Migration, StepProgress, steps_from
from authz.hub.store.migrations import MIGRATIONS
from authz.hub.store.pending_table import PENDING_TABLE
from authz.hub.store.sqlite import SqliteStore
from authz.hub.store.store import Retention
from tests.support.hub_process import flow
from tests.unit.hub.test_stores import EDGE, NOON_S, _stores, arrival, at, calls, tidied

VERSION = 1 + len(MIGRATIONS)
#: a store that the program of version 1 has written, as SQL
FIRST = Path(__file__).parent / "stores" / "version-1.sql"
NOTES = Migration(
    what="take notes",
    sqlite=("CREATE TABLE notes (text TEXT)", "INSERT INTO notes SELECT 'of ' || sidecar FROM sidecars"),
)
BROKEN = Migration(what="break", sqlite=(*NOTES.sqlite, "INSERT INTO nowhere VALUES (1)"))

#: opens a store with a step that writes, says so, and never ends
_STOPS_HALF_WAY = """
import sys
from pathlib import Path
from authz.hub.store.migration import Migration
from authz.hub.store.migrations import MIGRATIONS
from authz.hub.store.pending_table import PENDING_TABLE
from authz.hub.store.sqlite import SqliteStore
from authz.hub.store.store import Retention

def work(connection, told):
    connection.execute("DELETE FROM records")
    connection.execute("DROP TABLE hours")
    print("half way", flush=True)
    sys.stdin.read()

step = Migration(what="stop half way", sqlite=("CREATE TABLE notes (text TEXT)", work))
SqliteStore(Path(sys.argv[1]), Retention(), lambda _: None, (*MIGRATIONS, step))
"""


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """Give the folder of a store of version 1."""
    connection = sqlite3.connect(tmp_path / "hub.sqlite")
    connection.executescript(FIRST.read_text())
    connection.close()
    return tmp_path


def opened(folder: Path, *steps: Migration, said: list[str] | None = None) -> SqliteStore:
    return SqliteStore(folder, Retention(), (said if said is not None else []).append, (*MIGRATIONS, *steps))


def version(folder: Path) -> int:
    connection = sqlite3.connect(folder / "hub.sqlite")
    (number,) = connection.execute("PRAGMA user_version").fetchone()
    connection.close()
    return int(number)


def content(folder: Path) -> list[str]:
    connection = sqlite3.connect(folder / "hub.sqlite")
    lines = list(connection.iterdump())
    connection.close()
    return lines


class TestAStoreOfVersionOne:
    def test_has_everything_that_it_had_when_it_is_of_this_version(self, first: Path) -> None:
        store = opened(first)
        found = Flows(store).edges(Span(from_s=NOON_S - 7200, until_s=NOON_S + 3600), NOON_S, None)
        assert {ends: (each["calls"], each["denied"]) for ends, each in found.items()} == {
            EDGE: (9, 2),
            ("catalog", "orders"): (5, 0),
        }
        assert len(Records(store).calls({}, None, None, 10, None)["calls"]) == 5
        assert Records(store).decision(f"{5:032x}") is not None
        store.close()
        assert version(first) == VERSION

    def test_takes_what_comes_and_knows_what_it_has_taken(self, first: Path) -> None:
        store = opened(first)
        assert store.add([arrival(2), arrival(3, flow(time=at(NOON_S), count=6))], 1) == [False, True]
        tidied(store)
        assert calls(store, NOON_S, NOON_S + 10)[EDGE] == 13
        store.close()

    def test_has_the_tables_of_a_new_one_when_it_is_of_this_version(self, first: Path, tmp_path: Path) -> None:
        opened(first).close()
        new = tmp_path / "new"
        new.mkdir()
        opened(new).close()
        told = []
        for folder in (first, new):
            connection = sqlite3.connect(folder / "hub.sqlite")
            told.append(connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall())
            connection.close()
        assert told[0] == told[1]


class TestAStep:
    def test_is_done_once_behind_those_before_it(self, first: Path) -> None:
        said: list[str] = []
        store = opened(first, NOTES, said=said)
        assert store.rows("SELECT text FROM notes ORDER BY 1", {}) == [("of catalog",), ("of orders",)]
        store.close()
        assert f"version {VERSION + 1} of {VERSION + 1}: take notes" in said[-1]
        said.clear()
        opened(first, NOTES, said=said).close()
        assert said == []

    def test_that_fails_leaves_the_store_as_it_was(self, first: Path) -> None:
        opened(first).close()
        before = content(first)
        with pytest.raises(StoreError, match="nowhere"):
            opened(first, BROKEN)
        assert content(first) == before
        assert version(first) == VERSION
        store = opened(first, NOTES)
        assert len(store.rows("SELECT text FROM notes", {})) == 2
        store.close()

    def test_that_is_killed_half_way_loses_nothing_and_is_done_by_the_next_start(self, first: Path) -> None:
        opened(first).close()
        before = content(first)
        with subprocess.Popen(
            [sys.executable, "-c", _STOPS_HALF_WAY, str(first)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"half way\n"
            os.kill(process.pid, signal.SIGKILL)
        assert content(first) == before
        assert version(first) == VERSION
        store = opened(first, NOTES)
        assert len(store.rows("SELECT text FROM notes", {})) == 2
        assert len(store.rows("SELECT n FROM records", {})) == 5
        store.close()

    def test_may_be_work_in_python_that_says_how_far_it_is(self, first: Path) -> None:
        def work(connection: sqlite3.Connection, told: object) -> None:
            assert callable(told)
            connection.execute("CREATE TABLE notes (text TEXT)")
            told(1, 1)

        store = opened(first, Migration(what="work", sqlite=(work,)))
        assert store.rows("SELECT text FROM notes", {}) == []
        store.close()


class TestProgress:
    def test_of_a_short_step_is_one_line_and_of_a_long_one_tells_how_far_it_is(self) -> None:
        (step,) = steps_from(0, [NOTES], "here")
        now_s, said = 0.0, list[str]()
        progress = StepProgress(step, "here", said.append, lambda: now_s)
        progress.told(1, 100)
        progress.end()
        assert said == ["here: version 1 of 1: take notes"]
        now_s = TELL_EVERY_S
        progress.told(50, 100)
        progress.beat()
        progress.end()
        assert said[1:] == [
            "here: version 1 of 1: take notes, 50 of 100, 5 s",
            "here: version 1 of 1: take notes: done in 5 s",
        ]

    def test_of_one_long_statement_is_told_by_the_clock(self, tmp_path: Path) -> None:
        beats: list[str] = []
        store = opened(tmp_path)
        many = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 400000) SELECT i FROM n"
        store._writer.set_progress_handler(lambda: beats.append("beat"), 1_000_000)
        store._writer.execute("CREATE TABLE notes AS " + many)
        store.close()
        assert beats


class TestAStoreOfALaterProgram:
    def test_is_refused_in_words_that_say_what_to_do_and_is_not_touched(self, first: Path) -> None:
        opened(first, NOTES).close()
        before = content(first)
        with pytest.raises(StoreError, match="a later version of authz has written it") as refused:
            opened(first)
        assert f"its version is {VERSION + 1}, this one knows {VERSION}" in str(refused.value)
        assert content(first) == before


@pytest.mark.skipif("clickhouse" not in _stores(), reason="`make test-store` brings ClickHouse's engine")
class TestInClickHouse:
    def test_a_step_that_failed_is_run_again_and_its_version_is_written_last(self, tmp_path: Path) -> None:
        from authz.hub.store.clickhouse import ClickHouseStore  # noqa: PLC0415 its driver is there in `make test-store`

        url, made = f"chdb://{tmp_path}/clickhouse", "CREATE TABLE IF NOT EXISTS notes (n Int64) ENGINE = Log"
        broken = Migration(what="break", sqlite=(), clickhouse=(made, "INSERT INTO nowhere VALUES (1)"))
        mended = Migration(what="mend", sqlite=(), clickhouse=(made, "INSERT INTO notes VALUES (7)"))
        store = ClickHouseStore(url, Retention(), lambda _: None)
        store.add([arrival(1, flow(time=at(NOON_S), count=3))], 1)
        store.close()
        with pytest.raises(StoreError, match="nowhere"):
            ClickHouseStore(url, Retention(), lambda _: None, (*MIGRATIONS, broken))
        for _ in range(2):
            store = ClickHouseStore(url, Retention(), lambda _: None, (*MIGRATIONS, mended))
            assert store.rows("SELECT n FROM notes", {}) == [(7,)]
            assert calls(store, NOON_S, NOON_S + 10) == {EDGE: 3}
            store.close()
        with pytest.raises(StoreError, match="a later version of authz"):
            ClickHouseStore(url, Retention(), lambda _: None)

    def test_a_store_of_the_first_program_which_wrote_no_version_is_version_one(self, tmp_path: Path) -> None:
        from authz.hub.store.clickhouse import ClickHouseStore  # noqa: PLC0415 as above

        url, said = f"chdb://{tmp_path}/clickhouse", list[str]()
        # It added by itself what needs `pending` now.
        store = ClickHouseStore(url, Retention(), lambda _: None, (PENDING_TABLE,))
        store._writer.command("DROP TABLE schema_versions")
        store.add([arrival(1, flow(time=at(NOON_S), count=3))], 1)
        store.close()
        store = ClickHouseStore(url, Retention(), said.append)
        assert calls(store, NOON_S, NOON_S + 10) == {EDGE: 3}
        assert not any("version 1 of" in each for each in said)
        store.close()
