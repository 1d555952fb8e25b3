"""Fills a running hub through its intake.

python -m tests.bench.hub.fill --hub http://127.0.0.1:8800 --decisions 100000 --services 20 --days 7
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import time

import aiohttp

from authz.records.batch import PATH
from tests.bench.hub.traffic import Traffic


async def fill(hub: str, traffic: Traffic) -> tuple[int, int]:
    """Send everything; give how many flows and records that were."""
    flows = records = 0
    async with aiohttp.ClientSession() as session:
        for batch in traffic.batches():
            content = gzip.compress(json.dumps(batch).encode(), 1)
            async with session.post(f"{hub}{PATH}", data=content, headers={"content-encoding": "gzip"}) as answer:
                if answer.status != 200:
                    raise SystemExit(f"{answer.status}: {await answer.text()}")
            flows += len(batch["flows"])
            records += len(batch["records"])
    return flows, records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hub", default="http://127.0.0.1:8800")
    parser.add_argument("--decisions", type=int, default=100_000)
    parser.add_argument("--services", type=int, default=20)
    parser.add_argument("--days", type=float, default=7)
    parser.add_argument("--edges-a-service", type=int, default=10)
    given = parser.parse_args()
    traffic = Traffic(
        services=given.services,
        decisions=given.decisions,
        days=given.days,
        until_s=int(time.time()),
        edges_a_service=given.edges_a_service,
    )
    began = time.perf_counter()
    flows, records = asyncio.run(fill(given.hub, traffic))
    print(f"{flows} flows and {records} records in {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
