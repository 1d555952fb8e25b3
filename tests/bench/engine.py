"""What one decision costs, by the number of policies, beside other policy engines; and a check from bytes to bytes.

Run by `make bench-engine` (and, without the other engines, by `make bench`). Every engine with its rules is a process
of its own; they take turns within each round, so that the machine's drift hits all alike. All get the same calls, and
every answer is compared with the expected one before anything is measured.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from authz.identity.authority import Authority
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.policy.evaluation import evaluate
from authz.policy.index import compile_index
from authz.policy.policy_set import parse_policy_set
from authz.request import Call, Direction
from authz.sidecar.check.checker import Checker, Workload
from authz.sidecar.in_force import InForce, PolicyInForce
from tests.bench.other_engines import OPA, Casbin, Cedar, OpenPolicyAgent
from tests.bench.rules import (
    CALLS,
    CONDITION,
    HOURS,
    LATER_GUARD,
    MAX_WINDOW,
    NOW_S,
    PLAIN,
    RULES_A_PAIR,
    SERVICES,
    Asked,
    Rule,
    asked,
    rules,
    source_files,
)
from tests.support.check_request import check_request

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

    from authz.identity.verification import VerifiedIdentity
    from authz.policy.index import PolicyIndex

_HEADERS = (("accept", b"*/*"), ("x-tenant", b"a"))
SIZES = (10, 1_000, 10_000, 100_000)
ROUNDS = 5
CALLS_A_ROUND = 4_000
#: a slow engine answers fewer calls a round
ROUND_S = 1.0
#: 100 calls to one destination, over and over; 1,000 calls to any, so that what they need lies in no near cache
ONE_SIDECAR, ALL_SIDECARS = "picoseg, one destination", "picoseg, all destinations"
#: what would take minutes for one call is not asked
CASBIN_SIZES = SIZES[:3]


#: `authz check --calls`
STREAM_CALLS, STREAM_RULES = 200_000, 1_000


class Engine(Protocol):
    """Rules that are loaded, and calls that they decide."""

    def decider(self, asked: Asked) -> Callable[[], bool]:
        """Give what decides one call, everything that is the caller's prepared."""
        ...


class Picoseg:
    #: what the set has besides
    also = PLAIN

    def __init__(self, of: list[Rule]) -> None:
        # As a sidecar does it, with the edges of hours worked out.
        self.index: PolicyIndex = compile_index(parse_policy_set(source_files(of, self.also)), NOW_S * 10**9)

    def decider(self, asked: Asked) -> Callable[[], bool]:
        call = Call(
            direction=Direction.INBOUND,
            service=asked.destination,
            caller=SpiffeId.parse(f"spiffe://shop.example/{asked.caller}"),
            method="GET",
            path=asked.path,
            host=asked.destination,
            headers=_HEADERS,
        )
        index, now_ns = self.index, NOW_S * 10**9
        return lambda: evaluate(index, call, now_ns).reason.value == "allowed"


class WithCondition(Picoseg):
    also = CONDITION


class WithHours(Picoseg):
    also = HOURS


class WithMaxWindow(Picoseg):
    also = MAX_WINDOW


class WithLaterGuardrail(Picoseg):
    also = LATER_GUARD


class PicosegCheck(Picoseg):
    """A check as the sidecar answers it: certificate, decision, record, from bytes to bytes, without transport."""

    def __init__(self, of: list[Rule]) -> None:
        super().__init__(of)
        self._deciders: dict[Asked, Callable[[], bool]] = {}

    def decider(self, asked: Asked) -> Callable[[], bool]:
        decider = self._deciders.get(asked)
        if decider is None:
            decider = self._deciders[asked] = self._decider(asked)
        return decider

    def _decider(self, asked: Asked) -> Callable[[], bool]:
        now = datetime.now(UTC)
        authority = Authority.generate(TrustDomain.parse("shop.example"), now, timedelta(hours=1))
        caller = SpiffeId.parse(f"spiffe://shop.example/{asked.caller}")
        certificate = authority.issue_x509_svid(caller, now, timedelta(hours=1)).certificate_pem
        headers = tuple((f"x-header-{number}", b"some value of a usual length") for number in range(16))
        message = check_request(
            certificate_pem=certificate, headers=headers, path=asked.path, host=asked.destination
        ).SerializeToString()
        in_force = InForce()
        in_force.policy = PolicyInForce(index=self.index)
        checker = Checker(
            workload=Workload(service=asked.destination, identity=_nobody), in_force=in_force, record=_taken
        )
        return lambda: b"allowed" in checker.answer(message)


def _nobody() -> VerifiedIdentity | None:
    return None


def _taken(_packed: bytes) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: an engine with so many rules."""

    name: str
    engine: Callable[[list[Rule]], Engine]
    size: int
    a_pair: int = RULES_A_PAIR
    calls: int = CALLS
    #: the calls of one sidecar: all to the same destination
    one_destination: bool = False


def rows() -> list[Row]:
    found = [Row(name=ONE_SIDECAR, engine=Picoseg, size=size, one_destination=True, calls=100) for size in SIZES]
    found += [Row(name=ALL_SIDECARS, engine=Picoseg, size=size) for size in SIZES]
    found.append(Row(name="picoseg, all for one pair", engine=Picoseg, size=10_000, a_pair=10_000))
    found += [
        Row(name=f"picoseg, {engine.also}", engine=engine, size=1_000)
        for engine in (WithHours, WithCondition, WithMaxWindow, WithLaterGuardrail)
    ]
    found.append(Row(name="picoseg, bytes to bytes", engine=PicosegCheck, size=10_000, calls=50))
    if find_spec("cedarpy"):
        found += [Row(name="Cedar (cedarpy)", engine=Cedar, size=size) for size in SIZES]
    else:
        print("Cedar is left out: no cedarpy here; `make bench-engine` installs it")
    if find_spec("casbin"):
        found += [Row(name="Casbin (casbin)", engine=Casbin, size=size) for size in CASBIN_SIZES]
    else:
        print("Casbin is left out: no casbin here; `make bench-engine` installs it")
    if os.environ.get(OPA):
        found += [Row(name="OPA, indexed document", engine=OpenPolicyAgent, size=size) for size in SIZES]
    else:
        print(f"OPA is left out: no {OPA}=/path/to/opa in the environment")
    return found


# --- one process for each row ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What it took to load: seconds, and memory after and, at most, meanwhile."""

    load_s: float
    memory_mb: float
    peak_mb: float


def answer_rounds(connection: Connection, row: Row) -> None:
    """Load the rules of a row, then answer a round of calls for each word that comes; ends with the connection."""
    of = list(rules(row.size, a_pair=row.a_pair))
    before_mb = _memory_mb(os.getpid())
    began = time.perf_counter()
    engine = row.engine(of)
    load_s = time.perf_counter() - began
    gc.collect()
    process = getattr(engine, "process", None)
    memory_mb = _memory_mb(process.pid) if process else _memory_mb(os.getpid()) - before_mb
    peak_mb = memory_mb if process else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before_mb
    questions = asked([rule for rule in of if not row.one_destination or rule.destination == of[0].destination])
    questions = questions[: row.calls]
    end = time.perf_counter() + 5 * ROUND_S
    for question in questions:
        assert engine.decider(question)() == question.allowed, (row.name, question)
        if time.perf_counter() > end:
            break
    connection.send(Loaded(load_s=load_s, memory_mb=memory_mb, peak_mb=peak_mb))
    while connection.recv():
        connection.send(_round(engine, questions))
    if hasattr(engine, "close"):
        engine.close()


def _round(engine: Any, questions: list[Asked]) -> list[int]:
    taken: list[int] = []
    tells_itself = hasattr(engine, "took_ns")
    clock = time.perf_counter_ns
    end_ns = clock() + int(ROUND_S * 10**9)
    for number in range(CALLS_A_ROUND):
        # Made just before it is asked about, as a call is that has just been read.
        decide = engine.decider(questions[number % len(questions)])
        began = clock()
        decide()
        ended = clock()
        taken.append(engine.took_ns if tells_itself else ended - began)
        if ended > end_ns:
            break
    return taken


def _memory_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


# --- the table ------------------------------------------------------------------------------------------------------


def heap_mb(connection: Connection, size: int) -> None:
    """Tell the bytes that the values of an index take, by themselves, without what its files and its set took."""
    policy_set = parse_policy_set(source_files(list(rules(size))))
    tracemalloc.start()
    index = compile_index(policy_set, NOW_S * 10**9)
    gc.collect()
    connection.send(tracemalloc.get_traced_memory()[0] / 2**20)
    del index


def stream_calls_per_s() -> float:
    """Give how many calls `authz check --calls` answers in a second, once the set is loaded."""
    of = list(rules(STREAM_RULES))
    with tempfile.TemporaryDirectory() as folder:
        for file in source_files(of):
            Path(folder, file.path).write_bytes(file.content)
        lines = [
            json.dumps({"from": each.caller, "to": each.destination, "method": "GET", "path": each.path}) + "\n"
            for each in asked(of)
        ]
        taken_s = []
        for count in (1, STREAM_CALLS // len(lines)):
            calls = Path(folder, "calls.jsonl")
            calls.write_text("".join(lines * count), "utf-8")
            authz = str(Path(sys.executable).with_name("authz"))
            began = time.perf_counter()
            subprocess.run(
                [authz, "check", "--policies", folder, "--calls", str(calls)], check=True, stdout=subprocess.DEVNULL
            )
            taken_s.append(time.perf_counter() - began)
    return (STREAM_CALLS - len(lines)) / (taken_s[1] - taken_s[0])


def main() -> None:
    context = multiprocessing.get_context("spawn")
    measured: list[tuple[Row, Any, Connection, Loaded]] = []
    for row in rows():
        here, there = context.Pipe()
        process = context.Process(target=answer_rounds, args=(there, row))
        process.start()
        there.close()
        measured.append((row, process, here, here.recv()))
    taken: dict[int, list[int]] = {place: [] for place in range(len(measured))}
    for _ in range(ROUNDS):
        for place, (_, _, connection, _) in enumerate(measured):
            connection.send("round")
            taken[place] += connection.recv()
    for _, process, connection, _ in measured:
        connection.send("")
        process.join()
    print_table([(row, loaded, taken[place]) for place, (row, _, _, loaded) in enumerate(measured)])
    for size in SIZES:
        here, there = context.Pipe()
        process = context.Process(target=heap_mb, args=(there, size))
        process.start()
        there.close()
        print(f"the index of {size} policies and {SERVICES} Services takes {here.recv():.1f} MB")
        process.join()
    print(f"authz check --calls: {stream_calls_per_s():.0f} calls/s with {STREAM_RULES} policies")


def print_table(table: list[tuple[Row, Loaded, list[int]]]) -> None:
    print(
        f"python {platform.python_version()}, {_processor()}, {os.cpu_count()} cores; {SERVICES} Services, "
        f"at most {RULES_A_PAIR} rules a pair; {ROUNDS} interleaved rounds of {CALLS_A_ROUND} calls or {ROUND_S:g} s"
    )
    print(f"{'':28} {'rules':>7} {'p50 us':>10} {'p99 us':>10} {'load s':>8} {'MB':>6} {'peak MB':>8} {'calls':>7}")
    p50_us: dict[tuple[str, int], float] = {}
    for row, loaded, taken in table:
        cuts = statistics.quantiles(taken, n=100)
        p50_us[row.name, row.size] = cuts[49] / 1000
        print(
            f"{row.name:28} {row.size:7} {cuts[49] / 1000:10.1f} {cuts[98] / 1000:10.1f} {loaded.load_s:8.2f} "
            f"{loaded.memory_mb:6.0f} {loaded.peak_mb:8.0f} {len(taken):7}"
        )
    for name in (ONE_SIDECAR, ALL_SIDECARS):
        few, many = p50_us[name, SIZES[0]], p50_us[name, SIZES[-1]]
        print(f"{name}: p50 with {SIZES[-1]} policies is {many / few:.2f} times that with {SIZES[0]}")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    sys.exit(main())
