"""Minutes, whose latencies are packed, say what was counted: of a new store, and of one of before."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from authz.hub.columns import COLUMNS, DURATIONS, MAX_NUMBER
from authz.hub.histogram_text import counts_of
from authz.hub.latency import quantiles_ms
from authz.hub.query import Flows
from authz.hub.span import Span
from authz.hub.store.migrations import MIGRATIONS
from authz.hub.store.minutes_table import MINUTES_TABLE
from authz.hub.store.sqlite import SqliteStore
from authz.hub.store.store import Retention
from tests.support.hub_process import flow
from tests.unit.hub.test_stores import EDGE, NOON_S, arrival, at, tidied

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from authz.hub.arrival import Arrival

BEGIN_S = NOON_S - 3600
BEFORE = MIGRATIONS[: MIGRATIONS.index(MINUTES_TABLE)]

#: opens a store of the version before, does the step, says so before it is committed, and never ends
_STOPS_AT_THE_END = """
import sys
from dataclasses import replace
from pathlib import Path
from authz.hub.store.migrations import MIGRATIONS
from authz.hub.store.minutes_table import MINUTES_TABLE
from authz.hub.store.sqlite import SqliteStore
from authz.hub.store.store import Retention

def stop(connection, told):
    print("all is packed", flush=True)
    sys.stdin.read()

before = MIGRATIONS[: MIGRATIONS.index(MINUTES_TABLE)]
step = replace(MINUTES_TABLE, sqlite=(*MINUTES_TABLE.sqlite, stop))
SqliteStore(Path(sys.argv[1]), Retention(), lambda _: None, (*before, step))
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    made = SqliteStore(tmp_path, Retention(), lambda _: None)
    yield made
    made.close()


def some_flows(rng: random.Random, count: int, routes: tuple[str | None, ...] = ("/a", "/b", None)) -> list[Any]:
    """Give flows of few kinds in few minutes, with latencies of any size."""
    found = []
    for _ in range(count):
        size = rng.choice((1, 1, 1, 9, 1000, MAX_NUMBER))
        histogram = [rng.choice((0, 0, rng.randint(0, size))) for _ in range(rng.randint(0, 38))]
        histogram = [*histogram, size] if histogram else []
        kind = rng.choice(
            (
                {"count": rng.randint(1, 5)},
                {"count": 1, "decision": "deny", "reason": "no_policy", "policy": None},
                {"count": 0, "statuses": {}, "bytes_received": 0, "bytes_sent": 0},
            )
        )
        caller = {**flow()["caller"], "service": rng.choice(("storefront", "orders"))}
        when = at(BEGIN_S + 10 * rng.randrange(60))
        found.append(
            flow(time=when, caller=caller, route=rng.choice(routes), **{**kind, "duration_us_log2": histogram})
        )
    return found


def wide(store_rows: list[tuple[int, ...]], step_s: int) -> list[tuple[int, ...]]:
    """Add up rows of flows by step and series, as the program of before kept them."""
    sums: dict[tuple[int, int], list[int]] = {}
    for at_s, series, *counts in store_rows:
        key = at_s - at_s % step_s, series
        sums[key] = [one + other for one, other in zip(sums.get(key, [0] * len(counts)), counts, strict=True)]
    return [(*key, *counts) for key, counts in sums.items()]


def counted(arrivals: list[Arrival], from_s: int, until_s: int) -> dict[tuple[str, str], tuple[int, Any]]:
    """Give calls and latencies of each edge as they follow from what arrived."""
    calls: Counter[tuple[str, str]] = Counter()
    histograms: dict[tuple[str, str], list[int]] = {}
    for each in arrivals:
        for at_s, number, *counts in each.rows:
            row = dict(zip(COLUMNS, counts, strict=True))
            moved = row["cut"] + row["received"] + row["sent"] + sum(counts[8:])
            if not from_s <= at_s < until_s or not (row["calls"] or (not row["count"] and moved)):
                continue
            ends = each.series[number].source, each.series[number].target
            calls[ends] += row["calls"]
            total = histograms.setdefault(ends, [0] * len(DURATIONS))
            for place, name in enumerate(DURATIONS):
                total[place] += row[name]
    return {ends: (calls[ends], quantiles_ms(total, (0.5, 0.99))) for ends, total in histograms.items()}


def answered(store: SqliteStore, from_s: int, until_s: int) -> dict[tuple[str, str], tuple[int, Any]]:
    found = Flows(store).edges(Span(from_s=from_s, until_s=until_s), NOON_S, None)
    return {ends: (edge["calls"], [edge["p50_ms"], edge["p99_ms"]]) for ends, edge in found.items()}


@pytest.mark.parametrize("seed", range(4))
def test_any_minutes_are_answered_as_what_arrived_however_often_it_was_added_to(store: SqliteStore, seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311 the same every time
    arrivals = []
    for number in range(1, 13):
        arrivals.append(arrival(number, *some_flows(rng, 40)))
        store.add(arrivals[-1:], 1)
        if number % 4:
            tidied(store)
    for begin, end in ((0, 10), (0, 1), (3, 7), (1, 60)):
        span = BEGIN_S + 60 * begin, BEGIN_S + 60 * end
        assert answered(store, *span) == counted(arrivals, *span), (begin, end)
    for ends, (calls, latencies) in counted(arrivals, BEGIN_S + 60, BEGIN_S + 600).items():
        span = Span(from_s=BEGIN_S + 60, until_s=BEGIN_S + 600)
        edge = Flows(store).edge(span, NOON_S, *ends)
        assert edge is not None
        assert (edge["calls"], [edge["p50_ms"], edge["p99_ms"]]) == (calls, latencies)
        step, points = Flows(store).history(span, NOON_S, *ends, 60)
        assert step == 60
        assert sum(each["calls"] for each in points) == calls
        of_points = [counted(arrivals, BEGIN_S + 60 * number, BEGIN_S + 60 * number + 60) for number in range(1, 10)]
        assert [[each["p50_ms"], each["p99_ms"]] for each in points] == [
            each[ends][1] for each in of_points if ends in each
        ]


def test_what_is_packed_stays_short_however_often_it_is_added_to(store: SqliteStore) -> None:
    histogram = [3, 0, 0, 0, 0, 0, 0, 12345, 1, 1, 7, 99]
    for number in range(1, 151):
        store.add([arrival(number, flow(time=at(BEGIN_S), duration_us_log2=histogram))], 1)
        tidied(store)
    ((text,),) = store.rows("SELECT durations FROM minutes", {})
    assert len(text) < 200
    assert counts_of([text])[:7] == (450, 150 * 12345, 150, 150, 150 * 7, 150 * 99, 0)
    assert answered(store, BEGIN_S, BEGIN_S + 60)[EDGE][0] == 150


@pytest.fixture
def before(tmp_path: Path) -> tuple[Path, list[Arrival]]:
    """Give the folder of a store of the version before, and what it was given: minutes, and what waits in the tail."""
    rng = random.Random(5)  # noqa: S311 the same every time
    first, later = arrival(1, *some_flows(rng, 400)), arrival(2, *some_flows(rng, 200))
    SqliteStore(tmp_path, Retention(), lambda _: None, BEFORE).close()
    connection = sqlite3.connect(tmp_path / "hub.sqlite")
    places = ", ".join("?" * (2 + len(COLUMNS)))
    for table, step_s in (("seconds", 10), ("minutes", 60), ("hours", 3600)):
        connection.executemany(f"INSERT INTO {table} VALUES ({places})", wide(first.rows, step_s))  # noqa: S608 our own
    connection.executemany(f"INSERT INTO tail VALUES (NULL, {places})", later.rows)  # noqa: S608 same
    every = {**first.series, **later.series}
    connection.executemany(
        f"INSERT INTO series VALUES ({', '.join('?' * 22)}, NULL, NULL)",  # noqa: S608 same
        [tuple(getattr(each, name) for name in each.__slots__) for each in every.values()],
    )
    connection.commit()
    connection.close()
    return tmp_path, [first, later]


def dumped(folder: Path) -> list[str]:
    connection = sqlite3.connect(folder / "hub.sqlite")
    lines = list(connection.iterdump())
    connection.close()
    return lines


class TestAStoreOfTheVersionBefore:
    def test_answers_the_same_when_its_minutes_are_packed(self, before: tuple[Path, list[Arrival]]) -> None:
        folder, arrivals = before
        said: list[str] = []
        store = SqliteStore(folder, Retention(), said.append)
        assert f"version {1 + len(MIGRATIONS)} of" in said[-1]
        for tidy in (False, True):
            if tidy:
                tidied(store)
            for begin, end in ((0, 10), (2, 3), (4, 9)):
                span = BEGIN_S + 60 * begin, BEGIN_S + 60 * end
                assert answered(store, *span) == counted(arrivals, *span), (tidy, begin, end)
        store.close()

    def test_is_as_it_was_where_that_is_killed_at_its_end_and_is_packed_by_the_next_start(
        self, before: tuple[Path, list[Arrival]]
    ) -> None:
        folder, arrivals = before
        was = dumped(folder)
        with subprocess.Popen(
            [sys.executable, "-c", _STOPS_AT_THE_END, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"all is packed\n"
            os.kill(process.pid, signal.SIGKILL)
        assert dumped(folder) == was
        store = SqliteStore(folder, Retention(), lambda _: None)
        span = BEGIN_S, BEGIN_S + 600
        assert answered(store, *span) == counted(arrivals, *span)
        store.close()
