"""Ten thousand held calls that lose their grant at one instant: `make bench-cuts`.

First a hold alone, with the bench in Envoy's place: from the edit to the cuts. Then through both sidecars of a local
mesh, mTLS between them: from the edit to the caller's ends, and what each process had of the processor meanwhile.
"""

from __future__ import annotations

import argparse
import os
import resource
import socket
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from envoy.service.auth.v3 import external_auth_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2

from tests.support import http2_frames
from tests.support.check_request import check_request
from tests.support.http2_frames import DATA, END_STREAM, HEADERS
from tests.support.local_mesh import LocalMesh, admin_stats
from tests.support.many_held import PATIENCE_S, HeldStreams, get_requests, grpc_requests, never, spent_s
from tests.support.sidecar_process import SidecarProcess
from tests.support.window_close import SET

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ALL: Final = """
apiVersion: authz/v1
kind: MicroPolicy
metadata: {name: all}
spec:
  from: [{services: [orders]}]
  to: [{services: [catalog], operations: all}]
"""
#: streams of a connection: fewer than either server lets one have
A_CONNECTION: Final = 200
TO_THE_HOLD: Final = 1000
A_BATCH: Final = 25
EVENTS: Final = check_request(direction="outbound", headers=(("accept", b"text/event-stream"),)).SerializeToString()
#: how each bound of a call's beginning is called, and how Envoy's counter of it ends
#: (docs/windows-that-close.md, "Refused at the beginning")
BOUNDS: Final = {
    "no answer to the check within 350 ms": (".ext_authz.inbound.error", ".ext_authz.outbound.error"),
    "refused by the check": (".ext_authz.inbound.denied", ".ext_authz.outbound.denied"),
    "no word of the hold within 1 s": (".ext_proc.message_timeouts",),
}
PROCESS: Final = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"


def edited(policies: Path) -> float:
    """Take the policy away; gives when."""
    (policies / "all.yaml").unlink()
    return time.monotonic()


def put_policies(folder: Path) -> Path:
    """Write the set."""
    policies = folder / "policies"
    policies.mkdir(parents=True)
    (policies / "set.yaml").write_text(SET)
    (policies / "all.yaml").write_text(ALL)
    return policies


def connected(path: str) -> socket.socket:
    """Connect to a unix socket."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return connection


def allowed_ids(path: str, count: int) -> list[str]:
    """Have so many long calls allowed; gives their decisions' ids."""
    ids: list[str] = []
    while len(ids) < count:  # a busy machine has some refused as too many at once
        with connected(path) as connection:
            some = range(min(A_BATCH, count - len(ids)))
            asked = grpc_requests(http2_frames.CHECK, [EVENTS] * len(some), end=True)
            connection.sendall(http2_frames.HANDSHAKE + b"".join(asked))
            connection.settimeout(PATIENCE_S)
            said = b""
            while not _have_ended(said, len(some)):
                received = connection.recv(1 << 20)
                assert received, "the sidecar has ended the connection"
                said += received
            for answered in http2_frames.heard(said).streams.values():
                if answered.message is None:
                    continue  # frames of the connection
                answer = external_auth_pb2.CheckResponse.FromString(answered.message)
                ids += [each.header.value for each in answer.ok_response.headers if each.header.key == "x-authz-hold"]
    return ids


def _have_ended(said: bytes, streams: int) -> bool:
    """Whether what was said is whole frames, and the last ones of so many streams."""
    at = ended = 0
    while at + 9 <= len(said):
        ended += said[at + 3] == HEADERS and bool(said[at + 4] & END_STREAM)
        at += 9 + int.from_bytes(said[at : at + 3], "big")
    return at == len(said) and ended == streams


def hold_alone(count: int) -> Iterator[str]:
    """Measure the hold with the bench in Envoy's place, over one connection."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        policies = put_policies(folder)
        flags = ("--hold-socket", str(folder / "hold"), "--state", str(folder / "state"))
        with SidecarProcess(*flags, service="orders", policies=policies, folder=folder) as sidecar:
            sidecar.wait_for("READY=1")
            messages = []
            for each in allowed_ids(str(sidecar.socket), count):
                begin = external_processor_pb2.ProcessingRequest()
                header = begin.request_headers.headers.headers.add()
                header.key, header.raw_value = "x-authz-hold", each.encode()
                messages.append(begin.SerializeToString())
            streams = HeldStreams(
                lambda: connected(str(folder / "hold")),
                ends=lambda kind, _flags, payload: kind == DATA and b"authz_hold_cut" in payload,
                answer=True,
            )
            begun_s = time.monotonic()
            for first in range(0, count, TO_THE_HOLD):
                streams.open(grpc_requests(PROCESS, messages[first : first + TO_THE_HOLD]))
            begin_ms = (time.monotonic() - begun_s) * 1000
            before = spent_s(sidecar.process.pid)
            at_s = edited(policies)
            streams.until(lambda: len(streams.ended_s) >= count)
            yield _line(f"hold alone, {count:,} begun in {begin_ms:.0f} ms", streams.ended_s, at_s)
            yield _spent("sidecar", before, spent_s(sidecar.process.pid))
            streams.close()


def through_the_mesh(count: int) -> Iterator[str]:
    """Measure both sidecars."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        policies = put_policies(folder)
        with LocalMesh(policies=policies, state=folder / "state").running() as mesh:
            address, _, port = mesh.service("orders")["outbound"].rpartition(":")
            streams = HeldStreams(lambda: socket.create_connection((address, int(port))), ends=never)
            fields = (("x-echo-stream", "3600"), ("x-echo-idle", "1"), ("accept", "text/event-stream"))
            begun_s = time.monotonic()
            for first in range(0, count, A_CONNECTION):
                streams.open(get_requests(min(A_CONNECTION, count - first), "/feed", *fields), at_once=A_BATCH)
            begin_s = time.monotonic() - begun_s
            refused = list(_refused(mesh, streams.refused)) if streams.refused else []
            pids = {
                f"{one['name']} {role}": pid for one in mesh.status()["services"] for role, pid in one["pids"].items()
            }
            before = {name: spent_s(pid) for name, pid in pids.items()}
            own_s = time.process_time()
            at_s = edited(policies)
            streams.until(lambda: len(streams.ended_s) >= streams.begun)
            own_s = time.process_time() - own_s
            after = {name: spent_s(pid) for name, pid in pids.items()}
            yield _line(f"mesh, {streams.begun:,} begun in {begin_s:.1f} s", streams.ended_s, at_s)
            yield from refused
            for name in pids:
                yield _spent(name, before[name], after[name])
            yield f"  client: {own_s * 1000:.0f} ms"
            streams.close()


def _refused(mesh: LocalMesh, count: int) -> Iterator[str]:
    yield f"  {count:,} refused at their beginning, by what Envoys counted:"
    for one in mesh.status()["services"]:
        for bound, refused in refused_by(admin_stats(one["admin"], "http.")).items():
            yield f"  {one['name']}: {bound}: {refused:,}"


def refused_by(counters: Mapping[str, int]) -> dict[str, int]:
    """Give how many calls an Envoy refused at their beginning, by the bound that they met; counters of its listeners.

    A cluster counts what its listener does once more.
    """
    found = {
        bound: sum(value for name, value in counters.items() if name.startswith("http.") and name.endswith(ends))
        for bound, ends in BOUNDS.items()
    }
    return {bound: count for bound, count in found.items() if count}


def _line(what: str, ended_s: object, at_s: float) -> str:
    late_ms = sorted((each - at_s) * 1000 for each in ended_s)
    return (
        f"{what}: ends, ms after the edit: first {late_ms[0]:.0f}, median {statistics.median(late_ms):.0f},"
        f" last {late_ms[-1]:.0f}; from first to last {late_ms[-1] - late_ms[0]:.0f}"
    )


def _spent(what: str, before: dict[str, float], after: dict[str, float]) -> str:
    parts = {name: (spent - before.get(name, 0.0)) * 1000 for name, spent in after.items()}
    told = ", ".join(f"{name} {ms:.0f}" for name, ms in sorted(parts.items(), key=lambda each: -each[1]) if ms >= 1)
    return f"  {what}, ms of processor: {told}"


def main() -> None:
    """Say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--only", choices=["alone", "mesh"])
    given = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(f"one-minute load {os.getloadavg()[0]:.1f}", flush=True)
    for _ in range(given.runs):
        for measure in (hold_alone, through_the_mesh):
            if given.only in {None, {hold_alone: "alone", through_the_mesh: "mesh"}[measure]}:
                for line in measure(given.calls):
                    print(line, flush=True)


if __name__ == "__main__":
    main()
