"""How fast a hub's store takes and answers, by how much is in it: `make bench-hub`.

A store is filled with the same made-up traffic, then asked while more is added. Times are of the store's own process:
what `GET /edges`, `/edges/{from}/{to}/history` and `/calls` do between reading their parameters and writing their JSON.
`work` is the time of a processor: on a machine that has other things to do it says more than the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from authz.hub.answering import Answering
from authz.hub.arrival import ArrivalReader
from authz.hub.intake import IntakeCounts
from authz.hub.known_policies import KnownPolicies
from authz.hub.operations import OPERATIONS
from authz.hub.store.sqlite import SqliteStore
from authz.hub.store.store import Retention
from tests.bench.hub.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from authz.hub.store.store import Store

_OPERATIONS = {each.name: each for each in OPERATIONS}
#: batches that are added in one transaction while a store is filled
_AT_ONCE = 32
_ASKED, _ASKED_AT_LEAST, _ASKED_S = 60, 20, 20.0
#: flow rows that are added while it is asked: five a second from each of 200 services
INGEST_A_SECOND = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decisions", type=int, nargs="+", default=[500_000, 5_000_000])
    parser.add_argument("--services", type=int, default=200)
    parser.add_argument("--days", type=float, default=30)
    parser.add_argument("--store", choices=["sqlite", "clickhouse"], nargs="+", default=["sqlite", "clickhouse"])
    parser.add_argument("--folder", type=Path, help="where the stores are made; default: a temporary folder")
    given = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for kind in given.store:
        for decisions in given.decisions:
            with tempfile.TemporaryDirectory(dir=given.folder, prefix="bench-hub-") as folder:
                measure(kind, decisions, given.services, given.days, Path(folder))


def opened(kind: str, folder: Path) -> Store:
    if kind == "sqlite":
        return SqliteStore(folder, Retention(), lambda _: None)
    from authz.hub.store.clickhouse import ClickHouseStore  # noqa: PLC0415 its engine is there in `make bench-hub` only

    return ClickHouseStore(f"chdb://{folder}/clickhouse", Retention(), lambda _: None)


def measure(kind: str, decisions: int, services: int, days: float, folder: Path) -> None:
    """Fill a store, and ask it; prints what came of it."""
    store = opened(kind, folder)
    now_s = int(time.time())
    traffic = Traffic(services=services, decisions=decisions, days=days, until_s=now_s)
    filled = fill(store, traffic, now_s)
    while store.tidy(now_s):
        pass
    size = sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())
    print(
        f"\n{kind}, {decisions:,} decisions of {services} services over {days:g} days:"
        f" {filled['flows']:,.0f} flows, {filled['records']:,.0f} records\n"
        f"  taken  {filled['flows'] / filled['read_s']:>10,.0f} flow rows/s read and checked\n"
        f"         {filled['flows'] / filled['add_s']:>10,.0f} flow rows/s added for good and added up\n"
        f"         {filled['flows'] / (filled['read_s'] + filled['add_s']):>10,.0f} flow rows/s, one after the other\n"
        f"  work   {filled['read_cpu_s'] / filled['flows'] * 1e6:>10,.1f} us of a processor a flow row to read it,"
        f" {filled['add_cpu_s'] / filled['flows'] * 1e6:,.1f} us to add it\n"
        f"  disk   {size / decisions * 1e6 / 1024 / 1024:>10,.1f} MiB per million calls",
        flush=True,
    )
    more = Traffic(services=services, decisions=50_000, days=1 / 24, until_s=now_s, seed=9)
    stop = threading.Event()
    ingest = threading.Thread(target=_go_on, args=(store, more, stop))
    ingest.start()
    try:
        for name, (question, query) in questions(traffic).items():
            found = asked(store, folder, question, query)
            times, work = sorted(each[0] for each in found), sorted(each[1] for each in found)
            print(
                f"  {name:<42} p50 {statistics.median(times) * 1000:7.1f} ms"
                f"   p95 {times[int(len(times) * 0.95)] * 1000:7.1f} ms"
                f"   work p50 {statistics.median(work) * 1000:7.1f} ms"
                f"   p95 {work[int(len(work) * 0.95)] * 1000:7.1f} ms",
                flush=True,
            )
    finally:
        stop.set()
        ingest.join()
        store.close()


def fill(store: Store, traffic: Traffic, now_s: int) -> dict[str, float]:
    """Add everything as intake does; give what it was and how long its parts took."""
    reader = ArrivalReader()
    told = dict.fromkeys(("flows", "records", "read_s", "add_s", "read_cpu_s", "add_cpu_s"), 0.0)
    untidy = 0
    for batches in _groups(traffic.batches()):
        contents = [json.dumps(each).encode() for each in batches]
        began, began_cpu = time.perf_counter(), time.thread_time()
        arrivals = [reader.read(content) for content in contents]
        read, read_cpu = time.perf_counter(), time.thread_time()
        store.add(arrivals, now_s * 1000)
        untidy += sum(len(each.rows) for each in arrivals)
        if untidy >= 50_000:
            while store.tidy(now_s):
                pass
            untidy = 0
        told["add_s"] += time.perf_counter() - read
        told["read_s"] += read - began
        told["add_cpu_s"] += time.thread_time() - read_cpu
        told["read_cpu_s"] += read_cpu - began_cpu
        told["flows"] += sum(len(each.rows) for each in arrivals)
        told["records"] += sum(len(each.records) for each in arrivals)
    return told


def _groups(batches: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    for each in batches:
        group.append(each)
        if len(group) == _AT_ONCE:
            yield group
            group = []
    if group:
        yield group


def _go_on(store: Store, traffic: Traffic, stop: threading.Event) -> None:
    """Add flows, as many a second as a busy mesh of that size would have, until it is told to stop."""
    reader = ArrivalReader()
    while not stop.is_set():
        for number, each in enumerate(traffic.batches()):
            each["boot"] = f"{time.time_ns():016x}"
            arrival = reader.read(json.dumps(each).encode())
            store.add([arrival], time.time_ns() // 1_000_000)
            if number % 20 == 0:
                while store.tidy(int(time.time())) and not stop.is_set():
                    pass
            if stop.wait(len(arrival.rows) / INGEST_A_SECOND):
                return


def questions(traffic: Traffic) -> dict[str, tuple[str, Callable[[int], tuple[dict[str, str], list[tuple[str, str]]]]]]:
    """Give what is asked: each time something else, so that nothing is found where it was left."""
    edges = [(each.source, each.target) for each in traffic.edges]

    def of_edge(number: int) -> dict[str, str]:
        source, target = edges[number * 37 % len(edges)]
        return {"from": source, "to": target}

    return {
        "map of an hour": ("edges", lambda number: ({}, [("since", f"{2 + number}h"), ("until", f"{1 + number}h")])),
        "map of the last hour": ("edges", lambda _: ({}, [("since", "1h")])),
        "map of 30 days": ("edges", lambda _: ({}, [("since", "30d")])),
        "history of an edge over 30 days": ("history", lambda number: (of_edge(number), [("since", "30d")])),
        "an edge with its routes over 30 days": ("edge", lambda number: (of_edge(number), [("since", "30d")])),
        "first page of calls": ("calls", lambda _: ({}, [])),
        "first page of denied calls": ("calls", lambda _: ({}, [("decision", "deny")])),
        "first page of calls to one service": (
            "calls",
            lambda number: ({}, [("decision", "deny"), ("to", of_edge(number)["to"])]),
        ),
        "first page of one reason from one caller": (
            "calls",
            lambda number: ({}, [("reason", "closed"), ("from", of_edge(number)["from"])]),
        ),
    }


def asked(
    store: Store,
    folder: Path,
    operation: str,
    query: Callable[[int], tuple[dict[str, str], list[tuple[str, str]]]],
) -> list[tuple[float, float]]:
    """Ask one question many times; give how long each answer took, and how much of a processor (s)."""
    answering = Answering(store, KnownPolicies(folder=None, kept=folder), IntakeCounts())
    times = []
    until_s = time.perf_counter() + _ASKED_S
    for number in range(_ASKED):
        if len(times) >= _ASKED_AT_LEAST and time.perf_counter() > until_s:
            break
        path, parameters = query(number)
        now_ns = time.time_ns()
        values = _OPERATIONS[operation].values(path, parameters, now_ns)
        began, began_cpu = time.perf_counter(), time.thread_time()
        json.dumps(answering.answer(operation, values, now_ns), separators=(",", ":")).encode("ascii")
        times.append((time.perf_counter() - began, time.thread_time() - began_cpu))
    return times


if __name__ == "__main__":
    main()
