"""How fast a hub takes and answers, by how much is in it: `make bench-hub`.

A real `authz hub` is sent everything through its intake, packed, as sidecars send it, and 64 of them at once; the rate
is that of acknowledged flow rows, from the first request to the last answer, on cores that the sender uses too. The
batches are made before and lie in files. Then it is asked over HTTP, one question after the other, while 1,000 flow
rows a second go on coming. Nothing is put into the store in any other way.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

import aiohttp

from authz.records.batch import PATH
from tests.bench.hub.prepared import Prepared, Recipe, packed, prepare, prepared
from tests.support.hub_process import Hub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.bench.hub.traffic import Traffic

_SENDERS = 64
_ASKED, _ASKED_AT_LEAST, _ASKED_S = 60, 20, 8.0
#: flow rows that are added while it is asked: five a second from each of 200 services
INGEST_A_SECOND = 1000
#: the hub answers 50 questions a second of one asker
_BETWEEN_S = 0.021
_PROGRESS_S = 5.0
_OK = 200
#: how long it is waited for a hub that has been given a month at once, and the share of a processor that is none
_REST_S, _IDLE = 120.0, 0.1
#: the fields of /proc/PID/stat that count the time of a processor (proc(5)), behind the name
_UTIME, _STIME = 11, 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decisions", type=int, nargs="+", default=[500_000, 5_000_000])
    parser.add_argument("--services", type=int, default=200)
    parser.add_argument("--days", type=float, default=30)
    parser.add_argument("--store", choices=["sqlite", "clickhouse"], nargs="+", default=["sqlite", "clickhouse"])
    parser.add_argument("--folder", type=Path, help="where the stores are made; default: a temporary folder")
    given = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for decisions in given.decisions:
        with tempfile.TemporaryDirectory(dir=given.folder, prefix="bench-hub-") as folder:
            until_s = int(time.time())
            recipe = Recipe(services=given.services, decisions=decisions, days=given.days, until_s=until_s)
            began = time.perf_counter()
            files = prepare(Path(folder), recipe, progress)
            more = list(packed(Recipe(services=given.services, decisions=50_000, days=1 / 24, until_s=until_s, seed=9)))
            print(f"\n{decisions:,} decisions of {given.services} services over {given.days:g} days")
            print(f"  batches made beforehand in {time.perf_counter() - began:.0f} s", flush=True)
            for kind in given.store:
                store = Path(folder) / kind
                store.mkdir()
                asyncio.run(measure(kind, decisions, recipe.traffic(), files, more, store))


def progress(text: str) -> None:
    """Show how far it is, on a line of its own that the next one replaces where somebody looks."""
    print(text, file=sys.stderr, end="\r" if sys.stderr.isatty() else "\n", flush=True)


async def measure(
    kind: str, decisions: int, traffic: Traffic, files: list[Path], more: list[Prepared], folder: Path
) -> None:
    """Fill a hub, and ask it; prints what came of it."""
    arguments = ("--store", f"chdb://{folder}/clickhouse") if kind == "clickhouse" else ()
    with Hub(*arguments, folder=folder) as hub:
        assert hub.process is not None
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            flows, records, took_s, cpu_s = await filled(hub, hub.process.pid, session, files)
            size, log = _size(folder, "*"), _size(folder, "*-wal")
            store_bytes = hub.answer("/status")["store"]["size_bytes"]
            print(
                f"{kind}, {decisions:,} decisions: {flows:,} flow rows and {records:,} records in {took_s:.0f} s\n"
                f"  ingest     {flows / took_s:>10,.0f} flow rows/s acknowledged"
                f" ({cpu_s / flows * 1e6:.1f} us of a processor a row in the hub)\n"
                f"  disk       {store_bytes / decisions * 1e6 / 2**20:>10,.1f} MiB per million calls"
                f" ({(size - log) / 2**20:,.0f} MiB of files, and a log of {log / 2**20:,.0f} MiB whatever is kept)\n"
                f"  memory     {_memory(hub.process.pid, 'VmRSS'):>10,.0f} MiB, at most"
                f" {_memory(hub.process.pid, 'VmHWM'):,.0f} MiB",
                flush=True,
            )
            print(f"  at rest    {await at_rest(hub.process.pid):>10,.0f} s after the last answer", flush=True)
            ingest = asyncio.create_task(_go_on(hub, session, more))
            try:
                for name, urls in questions(traffic).items():
                    times = sorted(await asked(hub, session, urls))
                    print(
                        f"  {name:<42} p50 {statistics.median(times) * 1000:7.1f} ms"
                        f"   p95 {times[int(len(times) * 0.95)] * 1000:7.1f} ms   ({len(times)} times)",
                        flush=True,
                    )
            finally:
                ingest.cancel()
                await asyncio.gather(ingest, return_exceptions=True)


async def filled(
    hub: Hub, pid: int, session: aiohttp.ClientSession, files: list[Path]
) -> tuple[int, int, float, float]:
    """Send everything; give flows, records, how long it took, and how much of a processor the hub used (s)."""
    batches = prepared(files)
    size = sum(each.stat().st_size for each in files)
    flows = records = sent = 0
    began = said = time.perf_counter()
    began_cpu = _cpu_s(pid)

    async def send_all() -> None:
        nonlocal flows, records, sent, said
        for each in batches:
            await send(hub, session, each.content)
            flows += each.flows
            records += each.records
            sent += len(each.content)
            if time.perf_counter() - said > _PROGRESS_S:
                said = time.perf_counter()
                progress(f"  sending  {sent * 100 // size:3} %, {flows / (said - began):,.0f} flow rows/s")

    await asyncio.gather(*(send_all() for _ in range(_SENDERS)))
    return flows, records, time.perf_counter() - began, _cpu_s(pid) - began_cpu


async def at_rest(pid: int) -> float:
    """Wait until the hub has tidied up what came at once, where usually days pass; give how long that took (s)."""
    began = time.perf_counter()
    while (waited := time.perf_counter() - began) < _REST_S:
        used = _cpu_s(pid)
        await asyncio.sleep(1.0)
        if _cpu_s(pid) - used < _IDLE:
            return waited
    return waited


async def send(hub: Hub, session: aiohttp.ClientSession, content: bytes) -> None:
    """Send one batch until it is taken, as a sidecar does."""
    while True:
        async with session.post(f"{hub.url}{PATH}", data=content, headers={"content-encoding": "gzip"}) as answer:
            if answer.status == _OK:
                return
            if answer.status != 503:
                raise SystemExit(f"{answer.status}: {await answer.text()}")
        await asyncio.sleep(0.1)


async def _go_on(hub: Hub, session: aiohttp.ClientSession, more: list[Prepared]) -> None:
    """Go on sending flows of the last hour, as many a second as a busy mesh of that size would have."""
    began, sent = time.perf_counter(), 0
    for each in itertools.chain(more, _again(more)):
        await asyncio.sleep(max(0.0, sent / INGEST_A_SECOND - (time.perf_counter() - began)))
        await send(hub, session, each.content)
        sent += each.flows


def _again(more: list[Prepared]) -> Iterator[Prepared]:
    """Give the same flows as another boot would send them: added to those that are there."""
    import gzip  # noqa: PLC0415 seldom

    for number in itertools.count(1):
        for each in more:
            batch = json.loads(gzip.decompress(each.content))
            batch["boot"] = f"{number + 1000:016x}"
            yield each._replace(content=gzip.compress(json.dumps(batch, separators=(",", ":")).encode("ascii"), 1))


def questions(traffic: Traffic) -> dict[str, Callable[[int], str]]:
    """Give what is asked: each time something else, so that nothing is found where it was left."""
    edges = [(each.source, each.target) for each in traffic.edges]

    def of_edge(number: int) -> tuple[str, str]:
        return edges[number * 37 % len(edges)]

    def edge(number: int, rest: str, **query: str) -> str:
        source, target = of_edge(number)
        return f"/edges/{quote(source, safe='')}/{quote(target, safe='')}{rest}?{urlencode(query)}"

    return {
        "map of an hour": lambda number: f"/edges?since={2 + number}h&until={1 + number}h",
        "map of the last hour": lambda _: "/edges?since=1h",
        "map of 30 days": lambda _: "/edges?since=30d",
        "history of an edge over 30 days": lambda number: edge(number, "/history", since="30d"),
        "an edge with its routes over 30 days": lambda number: edge(number, "", since="30d"),
        "first page of calls": lambda _: "/calls",
        "first page of denied calls": lambda _: "/calls?decision=deny",
        "first page of calls to one service": lambda number: "/calls?decision=deny&to=" + of_edge(number)[1],
        "first page of one reason from one caller": lambda number: "/calls?reason=closed&from=" + of_edge(number)[0],
    }


async def asked(hub: Hub, session: aiohttp.ClientSession, url_of: Callable[[int], str]) -> list[float]:
    """Ask one question many times; give how long each answer took (s)."""
    times: list[float] = []
    until_s = time.perf_counter() + _ASKED_S
    number = 0
    while len(times) < _ASKED and (len(times) < _ASKED_AT_LEAST or time.perf_counter() < until_s):
        began = time.perf_counter()
        async with session.get(f"{hub.url}/api/v1{url_of(number)}") as answer:
            await answer.read()
            if answer.status == _OK:
                times.append(time.perf_counter() - began)
                number += 1
            elif answer.status != 429:
                raise SystemExit(f"{url_of(number)}: {answer.status}: {await answer.text()}")
        await asyncio.sleep(_BETWEEN_S)
    return times


def _size(folder: Path, pattern: str) -> int:
    return sum(each.stat().st_size for each in folder.rglob(pattern) if each.is_file())


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[_UTIME]) + int(fields[_STIME])) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int, name: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) / 1024


if __name__ == "__main__":
    main()
