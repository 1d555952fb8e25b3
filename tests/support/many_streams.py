"""Many long calls at once through a local mesh, each with a close of its own, and what is left of them afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import resource
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import h2.config
import h2.connection
import h2.events

from authz.mesh.envoy_admin import envoy_counters
from tests.support.window_close import put

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support.local_mesh import LocalMesh

#: the ways in which calls are kept open, in turn; those that ask for events are held, the others have a deadline only
KINDS: Final = ("chunked, HTTP/1.1", "events, HTTP/1.1", "chunked, HTTP/2", "events, HTTP/2")
#: the app ends none of them
STREAM_S: Final = 3600
#: one of so many gets a line each 100 ms, the others one at the beginning and then silence
ACTIVE_ONE_OF: Final = 10
A_CONNECTION: Final = 50
#: so many are begun at once: an accept queue is as long as the machine says, and no longer
_BEGUN_AT_ONCE: Final = 64
#: a bound for what must happen, never a measure
PATIENCE_S: Final = 30.0
_MICRO_POLICY: Final = """
---
apiVersion: authz/v1
kind: MicroPolicy
metadata: {{name: s{number}}}
spec:
  from: [{{services: [orders]}}]
  to: [{{services: [catalog], operations: [{{methods: [GET], paths: ["/s/{number}"]}}]}}]
  window: {{closes: {closes}}}
"""


@dataclass(slots=True, kw_only=True)
class Stream:
    """One call; times are seconds since the epoch, None where it has not come to that."""

    number: int
    closes_s: float
    status: int | None = None
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    begun_s: float | None = None
    ended_s: float | None = None

    @property
    def kind(self) -> str:
        return KINDS[self.number % len(KINDS)]

    @property
    def fields(self) -> list[tuple[str, str]]:
        fields = [("x-echo-stream", str(STREAM_S))]
        if self.number // len(KINDS) % ACTIVE_ONE_OF:
            fields.append(("x-echo-idle", "1"))
        return [*fields, ("accept", "text/event-stream")] if self.kind.startswith("events") else fields

    @property
    def how(self) -> str:
        """What came of it, for people."""
        begun = "never" if self.begun_s is None else f"{self.closes_s - self.begun_s:.1f} s before its close"
        ended = "never" if self.ended_s is None else f"{self.late_s:.3f} s after it"
        return f"stream {self.number} ({self.kind}): status {self.status}, begun {begun}, ended {ended}"

    @property
    def late_s(self) -> float:
        """How long after its own close the caller heard the end."""
        assert self.ended_s is not None
        return self.ended_s - self.closes_s

    def has_begun(self) -> None:
        if self.begun_s is None:
            self.begun_s = time.time()
            self.begun.set()

    def has_ended(self) -> None:
        if self.ended_s is None:
            self.ended_s = time.time()
            self.begun.set()
            self.ended.set()


def closes_of(count: int, first_s: float, apart_s: float) -> tuple[float, ...]:
    """Give the close of each stream, in whole milliseconds; in another order than the streams' own."""
    # 7919 is a prime: neighbours of one kind, or on one connection, do not close one after the other.
    return tuple(round(first_s + apart_s * (number * 7919 % count), 3) for number in range(count))


def policies(closes_s: Sequence[float]) -> str:
    """Give a policy for each stream, whose window closes then."""
    instants = (datetime.fromtimestamp(each, UTC).isoformat(timespec="milliseconds") for each in closes_s)
    return "".join(_MICRO_POLICY.format(number=number, closes=closes) for number, closes in enumerate(instants))


async def run(address: str, closes_s: Sequence[float]) -> list[Stream]:
    """Open all streams, and wait for the end of each; one that does not end has no `ended_s`."""
    host, _, port = address.rpartition(":")
    streams = [Stream(number=number, closes_s=closes) for number, closes in enumerate(closes_s)]
    gate = asyncio.Semaphore(_BEGUN_AT_ONCE)
    one_by_one = [each for each in streams if "HTTP/1.1" in each.kind]
    together = [each for each in streams if "HTTP/2" in each.kind]
    tasks = [asyncio.create_task(_http1(host, int(port), stream, gate)) for stream in one_by_one]
    groups = [together[begin : begin + A_CONNECTION] for begin in range(0, len(together), A_CONNECTION)]
    tasks += [asyncio.create_task(_http2(host, int(port), group, gate)) for group in groups]
    done, pending = await asyncio.wait(tasks, timeout=PATIENCE_S + max(closes_s) - time.time())
    hung = [each for each in streams if each.ended_s is None]
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for stream in hung:
        stream.ended_s = None
    for task in done:
        task.result()
    return streams


async def _http1(host: str, port: int, stream: Stream, gate: asyncio.Semaphore) -> None:
    async with gate:
        reader, writer = await asyncio.open_connection(host, port)
        lines = [f"GET /s/{stream.number} HTTP/1.1", "host: catalog", *map(": ".join, stream.fields), "", ""]
        writer.write("\r\n".join(lines).encode())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = await reader.readuntil(b"\r\n\r\n")
            stream.status = int(head.split(b" ", 2)[1])
            if stream.status == 200:
                await reader.readexactly(1)
                stream.has_begun()
    # A refusal leaves the connection open.
    with contextlib.suppress(ConnectionError):
        while stream.status == 200 and await reader.read(65536):
            pass
    stream.has_ended()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def _http2(host: str, port: int, streams: Sequence[Stream], gate: asyncio.Semaphore) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    connection.initiate_connection()
    known: dict[int, Stream] = {}

    async def begin() -> None:
        for stream in streams:
            async with gate:
                number = connection.get_next_available_stream_id()
                known[number] = stream
                pseudo = [(":method", "GET"), (":path", f"/s/{stream.number}"), (":authority", "catalog")]
                connection.send_headers(number, [*pseudo, (":scheme", "http"), *stream.fields], end_stream=True)
                writer.write(connection.data_to_send())
                await stream.begun.wait()

    beginning = asyncio.create_task(begin())
    try:
        while not all(each.ended.is_set() for each in streams) and (data := await reader.read(65536)):
            for event in connection.receive_data(data):
                _take(event, known, connection)
            writer.write(connection.data_to_send())
    finally:
        beginning.cancel()
        for stream in streams:
            stream.has_ended()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def _take(event: h2.events.Event, known: dict[int, Stream], connection: h2.connection.H2Connection) -> None:
    match event:
        case h2.events.ResponseReceived(stream_id=number, headers=headers):
            known[number].status = int(dict(headers)[":status"])
        case h2.events.DataReceived(stream_id=number, flow_controlled_length=length):
            connection.acknowledge_received_data(length, number)
            known[number].has_begun()
        case h2.events.StreamEnded(stream_id=number) | h2.events.StreamReset(stream_id=number):
            known[number].has_ended()
        case _:
            pass


def round_of(mesh: LocalMesh, count: int, *, lead_s: float, apart_s: float) -> list[Stream]:
    """Have the policies of one round put in place, open its streams, and wait for the end of each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4 * count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4 * count, hard), hard))
    closes_s = closes_of(count, time.time() + lead_s, apart_s)
    put(mesh, policies(closes_s))
    return asyncio.run(run(mesh.service("orders")["outbound"], closes_s))


def cuts(mesh: LocalMesh, since_s: float) -> Counter[tuple[str, str]]:
    """Count the records of cuts since then, by direction and path."""
    found: Counter[tuple[str, str]] = Counter()
    for service in mesh.status()["services"]:
        with Path(service["decision_log"]).open("rb") as log:
            for record in map(json.loads, log):
                if record["cut"] and datetime.fromisoformat(record["time"]).timestamp() >= since_s:
                    found[record["direction"], record["path"]] += 1
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What the processes of a mesh hold: open files and memory by process, and what is under way by Envoy's counts."""

    files: dict[str, int]
    memory_mb: dict[str, float]
    under_way: dict[str, int]

    @property
    def is_idle(self) -> bool:
        return not any(self.under_way.values())


#: gauges of an Envoy that are 0 when nothing is under way; `cluster.hold` are its ext_proc streams
_UNDER_WAY: Final = (".downstream_rq_active", ".upstream_rq_active", ".upstream_rq_pending_active")
#: streams to its own servers, which stay
_STAY: Final = ("cluster.access_log.", "cluster.sds.", "admin.")


def held(mesh: LocalMesh) -> Held:
    """Look at all processes of a mesh."""
    files, memory, under_way = {}, {}, {}
    for service in mesh.status()["services"]:
        for name, pid in _processes(service):
            with contextlib.suppress(OSError):
                files[name] = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 only how many
                memory[name] = _rss_mb(pid)
        gauges = envoy_counters(service["admin"].removeprefix("unix:"), "_active")
        for name, value in gauges.items():
            if name.endswith(_UNDER_WAY) and not any(each in name for each in _STAY):
                under_way[f"{service['name']} {name}"] = value
    return Held(files=files, memory_mb=memory, under_way=under_way)


def _processes(service: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Give the processes of a Service by what they are; a worker by its place, since it may be another one by now."""
    for role, root in service["pids"].items():
        yield f"{service['name']} {role}", root
        for number, pid in zip(itertools.count(), _children(root), strict=False):
            with contextlib.suppress(OSError):
                name = Path(f"/proc/{pid}/comm").read_text().strip()
                yield f"{service['name']} {name}" + ("" if name.startswith("authz-") else f" {number}"), pid


def _children(root: int) -> list[int]:
    return [
        int(pid) for children in Path(f"/proc/{root}/task").glob("*/children") for pid in children.read_text().split()
    ]


def _rss_mb(pid: int) -> float:
    line = next(each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if each.startswith("VmRSS"))
    return int(line.split()[1]) / 1024
