"""A new set of 100,000 policies while calls are answered: how many fail, and how long they take meanwhile."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from authz.request import Direction
from tests.bench.check_path import wrk
from tests.bench.check_path.findings import Finding
from tests.bench.check_path.line import LOAD_CORE, running_line
from tests.bench.check_path.processes import MemoryWatch
from tests.bench.check_path.servers import READY_WITHIN_S, policy_folder
from tests.bench.check_path.spread import Spread
from tests.bench.check_path.wrk import RunningWrk

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from tests.bench.check_path.servers import Server
    from tests.bench.check_path.variants import Variant

CONNECTIONS = 16
#: how long is measured before; and after, as those that answered before go on for a moment
BEFORE_S, AFTER_S = 5, 3
_BETWEEN_LOOKS_S = 0.1


def measure(variant: Variant, folder: Path, *, known: Collection[str], times: int) -> list[Finding]:
    place = folder / "reload"
    place.mkdir()
    failed, ratios, took_s, memories, calls = [], [], [], [], 0
    with running_line(variant, place, known=known) as line:
        line.prove()
        target, server = line.targets[Direction.OUTBOUND], line.server
        assert server is not None
        policies = policy_folder(variant.rules, place)
        for number in range(times):
            before = wrk.measured(target, connections=CONNECTIONS, seconds=BEFORE_S, core=LOAD_CORE)
            with RunningWrk(target, connections=CONNECTIONS, core=LOAD_CORE) as load:
                began_s = time.monotonic()
                with MemoryWatch(server.root) as memory:
                    _reload(server, policies, number)
                took_s.append(time.monotonic() - began_s)
                memories.append(memory)
                time.sleep(AFTER_S)
                during = load.stop()
            failed.append(before.failed + during.failed)
            ratios.append(during.p99_us / before.p99_us)
            calls += during.requests
            print(
                f"reload {number + 1} of {times}: {took_s[-1]:.1f} s, p99 {before.p99_us / 1e3:.1f} ms before,"
                f" {during.p99_us / 1e3:.1f} ms during, {during.failed} failed",
                flush=True,
            )
    what = f"reload of {variant.rules:,} policies under load"
    return [
        Finding(what=f"{what}, {times} times: failed calls of {calls:,}", measured=str(sum(failed)), aim="0"),
        Finding(what=f"{what}: p99 during it to p99 before", measured=Spread.of(ratios).text(2), aim="2 or less"),
        Finding(what=f"{what}: until the new set decides, s", measured=Spread.of(took_s).text(1)),
        Finding(
            what=f"{what}: MB of all processes before, and the most",
            measured=f"{memories[0].before_mb:.0f}, {max(each.most_mb for each in memories):.0f}",
        ),
    ]


def _reload(server: Server, policies: Path, number: int) -> None:
    """Change one rule and wait until the new set is in force."""
    assert server.status is not None
    revision = _revision(server.status)
    file = max(policies.iterdir(), key=lambda each: int(each.stem))
    head, window, tail = file.read_text().rpartition("opens: 20")
    draft = policies.with_suffix(".draft")
    # Another year each time, all of them in the past.
    draft.write_text(f"{head}{window}{10 + number % 10:02}{tail[2:]}")
    draft.replace(file)
    end_s = time.monotonic() + READY_WITHIN_S
    while _revision(server.status) == revision:
        if time.monotonic() > end_s:
            raise SystemExit("bench: the new set does not come into force")
        time.sleep(_BETWEEN_LOOKS_S)


def _revision(status: Path) -> str:
    return str(json.loads(status.read_text())["revision"])
