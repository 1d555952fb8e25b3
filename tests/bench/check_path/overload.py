"""Ten times more checks under way than a server answers in time, and a long life: what is refused, and what grows.

Both ask the server without Envoy in between, from the other core.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.check_path import servers
from tests.bench.check_path.findings import Finding
from tests.bench.check_path.flood import Tally, flood, on_core, questions
from tests.bench.check_path.line import AUTHZ_CORE, LOAD_CORE
from tests.bench.check_path.processes import MemoryWatch, own_mb

if TYPE_CHECKING:
    from collections.abc import Collection

    from tests.bench.check_path.variants import Variant

#: as many as a busy Envoy has under way
STREAMS = 32
#: an answer that takes longer is of no use to Envoy, which asks twice within 350 ms
IN_TIME_S = 0.1
TIMES = 10
STREAMS_A_CONNECTION = 1_000
RECOVERED_WITHIN_S = 30.0
WARM_UP_S, CAPACITY_S, OVERLOAD_S = 2.0, 3.0, 5.0
#: callers at once, and how often all of them have new certificates
CALLERS, BATCHES = 64, 50
#: before that: new certificates so often, each shown so often, so that every memo that is bounded is full. The largest
#: keeps what 4,096 kinds of records have in common (records.record_lines), and each caller has one.
FILLING, FILLING_CHECKS = 80, 16
#: records are made and written; 5,000,000 of them need not be kept
NOWHERE = Path("/dev/null")


def measure(variant: Variant, folder: Path, *, known: Collection[str]) -> list[Finding]:
    place = folder / "overload"
    place.mkdir()
    policies = servers.policy_folder(variant.rules, folder)
    asked = questions(CALLERS)
    with servers.sidecar(variant, place, policies, core=AUTHZ_CORE, known=known) as server, on_core(LOAD_CORE):
        flood(server.sockets, asked, streams=STREAMS, seconds=WARM_UP_S)
        usual = flood(server.sockets, asked, streams=STREAMS, seconds=CAPACITY_S)
        if usual.allowed < usual.answers:
            raise SystemExit(f"bench: of {usual.answers} checks that are allowed {usual.allowed} were")
        capacity = usual.answers / CAPACITY_S
        under_way = capacity * IN_TIME_S * TIMES
        connections = max(1, math.ceil(under_way / STREAMS_A_CONNECTION / len(server.sockets)))
        streams = math.ceil(under_way / connections / len(server.sockets))
        with MemoryWatch(server.root) as memory:
            told = flood(server.sockets, asked, streams=streams, connections=connections, seconds=OVERLOAD_S)
        ended_s = time.monotonic()
        while flood(server.sockets, asked, streams=1, count=len(server.sockets)).allowed < len(server.sockets):
            if time.monotonic() > ended_s + RECOVERED_WITHIN_S:
                raise SystemExit("bench: after an overload nothing is allowed any more")
        recovered_ms = (time.monotonic() - ended_s) * 1e3
    what = "overload"
    return [
        Finding(what=f"{what}: checks/s that are answered at {STREAMS} under way", measured=f"{capacity:,.0f}"),
        Finding(
            what=f"{what}: with {under_way:,.0f} under way, allowed, `overloaded`, another answer, without an answer",
            measured=f"{told.allowed:,}, {told.refused:,}, {told.other:,}, {told.failed:,}",
        ),
        Finding(
            what=f"{what}: median and slowest answer meanwhile (before)",
            measured=f"{told.worst_ms(0.5):.0f} ms, {told.worst_ms():.0f} ms ({usual.worst_ms():.0f} ms)",
        ),
        Finding(
            what=f"{what}: MB of all processes, before, and the most",
            measured=f"{memory.before_mb:.0f}, {memory.most_mb:.0f}",
            aim="bounded",
        ),
        Finding(what=f"{what}: every worker allows again", measured=f"after {recovered_ms:.0f} ms", aim="at once"),
    ]


def measure_growth(variant: Variant, folder: Path, *, known: Collection[str], checks: int) -> list[Finding]:
    """Ask so many checks, all different, and see what memory comes to.

    What is remembered of callers is bounded, by 4,096 of them at most: it is full before the memory counts.
    """
    place = folder / "growth"
    place.mkdir()
    policies = servers.policy_folder(variant.rules, folder)
    sizes_mb, total = [], Tally()
    with (
        servers.sidecar(variant, place, policies, core=AUTHZ_CORE, known=known, log=NOWHERE) as server,
        on_core(LOAD_CORE),
    ):
        new_mb = own_mb(server.pids())
        for _ in range(FILLING):
            flood(server.sockets, questions(CALLERS), streams=STREAMS, count=CALLERS * FILLING_CHECKS)
        filled_mb = own_mb(server.pids())
        for _ in range(BATCHES):
            total.add(flood(server.sockets, questions(CALLERS), streams=STREAMS, count=checks // BATCHES))
            sizes_mb.append(own_mb(server.pids()))
            if len(sizes_mb) % 5 == 0:
                print(f"growth: {total.answers:,} checks, {sizes_mb[-1]:.1f} MB", flush=True)
    half = len(sizes_mb) // 2
    callers = f"{(FILLING + BATCHES) * CALLERS:,} certificates"
    return [
        Finding(
            what=f"{total.answers:,} checks, all different, {callers}: `overloaded`, another answer, none",
            measured=f"{total.refused:,}, {total.other:,}, {total.failed:,}",
            aim="-, 0, 0",
        ),
        Finding(
            what=f"MB of all processes: new, and after {FILLING * CALLERS:,} certificates, when all memos are full",
            measured=f"{new_mb:.1f}, {filled_mb:.1f}",
        ),
        Finding(
            what=f"{total.answers:,} checks more: MB, the most in the first half, the most in the second, at the end",
            measured=f"{max(sizes_mb[:half]):.1f}, {max(sizes_mb[half:]):.1f}, {sizes_mb[-1]:.1f}",
            aim="no growth",
        ),
    ]
