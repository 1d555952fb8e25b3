"""Long calls that nothing holds, and whose grant is taken back: real Envoys end them, by draining their connections."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import stat
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from authz.proxy.listener_names import HELD_SERVER_NAME
from tests.support.conditions import eventually
from tests.support.local_mesh import LocalMesh, mesh_of, request
from tests.support.long_streams import LongStream, every_long_stream
from tests.support.revoking_edit import (
    DRAINED_KINDS,
    EARLY_S,
    EDITS,
    KEPT,
    allow_for_an_hour,
    cut_by,
    ends_of,
    opened,
    remove_policy,
    replace_file,
)
from tests.support.window_close import PATIENCE_S, SET, Close, closing, records_since

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.envoy

HELD_AND_NOT = ("server-sent events, HTTP/1.1", "WebSocket, active, HTTP/2", "gRPC bidirectional, active")


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    with mesh_of(tmp_path_factory.mktemp("mesh"), SET) as running:
        yield running


@pytest.fixture(scope="module", params=EDITS)
def edit(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def close(mesh: LocalMesh, edit: str) -> Close:
    return cut_by(mesh, EDITS[edit][0], DRAINED_KINDS)


def drain_of(mesh: LocalMesh, service: str) -> dict[str, int]:
    counts: dict[str, int] = mesh.service(service)["drain"]
    return counts


def listeners_of(mesh: LocalMesh, service: str) -> Path:
    return mesh.state / "envoy" / f"{service}.listeners" / "listeners.json"


@pytest.mark.parametrize("kind", DRAINED_KINDS)
def test_a_call_that_is_not_held_ends_with_its_grant_and_nothing_gets_through_afterwards(
    close: Close, kind: str
) -> None:
    end, record = close.ended[kind], close.cuts[kind]["outbound"]
    assert end.at_s > close.at_s
    assert 0 < end.received_bytes <= record["bytes_sent"]


@pytest.mark.parametrize("direction", ["inbound", "outbound"])
@pytest.mark.parametrize("kind", DRAINED_KINDS)
def test_each_sidecar_records_the_drained_call_with_what_a_new_one_gets(
    close: Close, edit: str, kind: str, direction: str
) -> None:
    record = close.cuts[kind][direction]
    allowed = close.allowed[record["decision_id"]]
    assert (record["decision"], record["policy"]) == ("deny", "timed")
    assert record["reason"] in (EDITS[edit][1] if direction == "outbound" else EDITS[edit][1] - {"internal_error"})
    for same in ("sidecar", "direction", "request_id", "policy", "protocol", "method", "tls"):
        assert record[same] == allowed[same], same
    assert record["bytes_sent"] > 0


def test_held_calls_that_keep_their_grant_and_new_calls_go_on_meanwhile(mesh: LocalMesh) -> None:
    begun_s = time.time()
    replace_file(mesh, "kept.yaml", KEPT)
    allow_for_an_hour(mesh)
    kept = opened(mesh, HELD_AND_NOT, "/kept/x")
    lost = opened(mesh, DRAINED_KINDS)
    before = drain_of(mesh, "catalog")
    outbound = mesh.service("orders")["outbound"]
    over = threading.Event()
    answers: list[int] = []

    def call() -> None:
        while not over.is_set():
            answers.append(request(outbound, "GET", "/kept/short", "catalog").status)

    caller = threading.Thread(target=call)
    caller.start()
    try:
        remove_policy(mesh)
        ends_of(lost)
    finally:
        over.set()
        caller.join(PATIENCE_S)
    assert answers
    assert set(answers) == {200}
    heard = [stream.received_bytes for stream in kept]
    assert eventually(
        lambda: all(stream.received_bytes > count + 100 for stream, count in zip(kept, heard, strict=True))
    )
    assert eventually(lambda: drain_of(mesh, "catalog")["ended_calls"] >= before["ended_calls"] + len(DRAINED_KINDS))
    assert drain_of(mesh, "catalog")["drains"] > before["drains"]
    (mesh.policies / "kept.yaml").unlink()
    ends_of(kept)
    reasons = {one["reason"] for one in records_since(mesh, begun_s) if one["cut"]}
    assert reasons == {"no_policy"}


def test_a_running_call_ends_when_its_close_is_moved_to_a_near_instant_and_not_before(mesh: LocalMesh) -> None:
    closes = datetime.now(UTC)

    def near(mesh: LocalMesh) -> None:
        nonlocal closes
        closes = datetime.now(UTC) + timedelta(seconds=4)
        replace_file(mesh, "timed.yaml", closing(closes))

    close = cut_by(mesh, near, DRAINED_KINDS)
    for kind, end in close.ended.items():
        assert end.at_s >= closes.timestamp() - EARLY_S, kind
        assert {record["reason"] for record in close.cuts[kind].values()} == {"closed"}, kind


def test_without_the_callees_sidecar_the_callers_drains_its_own_listener(mesh: LocalMesh) -> None:
    allow_for_an_hour(mesh)
    streams = opened(mesh, DRAINED_KINDS)
    before = drain_of(mesh, "orders")
    # What is refused on this side alone: the callee's policies are not read any more.
    control = control_of(mesh, "catalog")
    os.kill(control, signal.SIGSTOP)
    try:
        remove_policy(mesh)
        ends_of(streams)
    finally:
        os.kill(control, signal.SIGKILL)
    assert eventually(lambda: drain_of(mesh, "orders")["drains"] > before["drains"])


def test_what_runs_is_known_again_after_control_began_anew(mesh: LocalMesh) -> None:
    allow_for_an_hour(mesh)
    streams = opened(mesh, DRAINED_KINDS)
    for side in ("catalog", "orders"):
        os.kill(control_of(mesh, side), signal.SIGKILL)
    remove_policy(mesh)
    assert set(ends_of(streams)) == set(DRAINED_KINDS)


def test_a_drain_that_fails_is_counted_and_tried_again(mesh: LocalMesh) -> None:
    allow_for_an_hour(mesh)
    streams = opened(mesh, DRAINED_KINDS)
    files = [listeners_of(mesh, side) for side in ("catalog", "orders")]
    before = {side: drain_of(mesh, side)["failed"] for side in ("catalog", "orders")}
    for file in files:
        file.rename(file.with_name("away"))
    remove_policy(mesh)
    assert eventually(lambda: all(drain_of(mesh, side)["failed"] > before[side] for side in before), PATIENCE_S)
    assert all(stream.ended.empty() for stream in streams)
    for file in files:
        file.with_name("away").rename(file)
    ends_of(streams)


def test_the_file_of_listeners_keeps_all_but_the_number_and_who_may_read_it(mesh: LocalMesh) -> None:
    allow_for_an_hour(mesh)
    file = listeners_of(mesh, "catalog")
    before, mode = json.loads(file.read_bytes()), stat.S_IMODE(file.stat().st_mode)
    streams = opened(mesh, DRAINED_KINDS)
    remove_policy(mesh)
    ends_of(streams)
    after = json.loads(file.read_bytes())
    assert after != before
    for document in (before, after):
        for listener in document["resources"]:
            for chain in listener["filter_chains"]:
                chain["metadata"]["filter_metadata"]["authz"].pop("drained")
    assert after == before
    assert stat.S_IMODE(file.stat().st_mode) == mode


def test_an_envoy_that_begins_anew_reads_the_file_as_it_was_left(mesh: LocalMesh) -> None:
    allow_for_an_hour(mesh)
    os.kill(mesh.service("catalog")["pids"]["envoy"], signal.SIGKILL)
    outbound = mesh.service("orders")["outbound"]
    assert eventually(lambda: request(outbound, "GET", "/x", "catalog").status == 200, PATIENCE_S)
    streams = opened(mesh, DRAINED_KINDS[:2])
    remove_policy(mesh)
    ends_of(streams)


def control_of(mesh: LocalMesh, service: str) -> int:
    sidecar = mesh.service(service)["pids"]["sidecar"]
    for one in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, name, rest = one.read_text().replace("(", ")").split(")", 2)
        except (OSError, ValueError):
            continue
        if name == "authz-control" and int(rest.split()[1]) == sidecar:
            return int(one.parent.name)
    raise AssertionError(f"the sidecar of {service} has no control")


def test_a_cut_is_told_once_of_each_side(mesh: LocalMesh) -> None:
    begun_s = time.time()
    close = cut_by(mesh, remove_policy, DRAINED_KINDS)
    ids: list[Any] = [one["decision_id"] for one in records_since(mesh, begun_s) if one["cut"]]
    assert len(ids) == len(set(ids)) == 2 * len(close.ended)


def test_who_asks_for_the_chain_of_held_calls_has_every_call_held(mesh: LocalMesh) -> None:
    """A server name chooses the chain, and so whether a drain ends the call: it is cut by the hold instead."""
    allow_for_an_hour(mesh)
    begun_s = time.time()
    caller, called = mesh.service("orders"), mesh.service("catalog")
    context = ssl.create_default_context(cafile=caller["bundle"])
    context.check_hostname = False  # an SVID has no DNS name (X509-SVID 5.1)
    context.load_cert_chain(caller["certificate"], caller["key"])
    host, _, port = called["inbound"].rpartition(":")
    before = drain_of(mesh, "catalog")
    with (
        socket.create_connection((host, int(port)), timeout=PATIENCE_S) as plain,
        context.wrap_socket(plain, server_hostname=HELD_SERVER_NAME) as connection,
    ):
        connection.sendall(b"GET /plain HTTP/1.1\r\nhost: catalog\r\nx-echo-stream: 120\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        remove_policy(mesh)
        while connection.recv(4096):
            pass

    def cuts() -> list[dict[str, Any]]:
        return [one for one in records_since(mesh, begun_s) if one["cut"] and one["path"] == "/plain"]

    assert eventually(lambda: len(cuts()) == 1, PATIENCE_S)
    assert cuts()[0]["reason"] == "no_policy"
    assert drain_of(mesh, "catalog") == before


PARTNER = """
---
apiVersion: authz/v1
kind: ThirdParty
metadata: {{name: acme}}
spec: {{hosts: [api.acme.example], window: {{opens: 2026-01-01T00:00:00Z, closes: {closes}}}}}
---
apiVersion: authz/v1
kind: MicroPolicy
metadata: {{name: to-acme}}
spec:
  from: [{{services: [orders]}}]
  to: [{{thirdParties: [acme], operations: all}}]
"""


def test_a_download_from_a_third_party_ends_when_it_is_decommissioned(tmp_path: Path) -> None:
    with mesh_of(tmp_path, SET + PARTNER.format(closes="2099-01-01T00:00:00Z")) as mesh:
        begun_s = time.time()
        runs = every_long_stream(mesh.service("orders")["outbound"], "api.acme.example", "/export/")
        streams = [LongStream(kind, runs[kind]) for kind in DRAINED_KINDS]
        for stream in streams:
            assert stream.begun.wait(PATIENCE_S), stream.name
        assert eventually(lambda: len(records_since(mesh, begun_s)) >= len(DRAINED_KINDS))
        replace_file(mesh, "set.yaml", SET + PARTNER.format(closes="2026-01-02T00:00:00Z"))
        ends = ends_of(streams)

        def cuts() -> list[dict[str, Any]]:
            return [one for one in records_since(mesh, begun_s) if one["cut"]]

        assert eventually(lambda: len(cuts()) == len(DRAINED_KINDS)), [(one["path"], one["reason"]) for one in cuts()]
        for one in cuts():
            assert (one["direction"], one["reason"]) == ("outbound", "decommissioned")
            assert one["destination"]["third_party"] == "acme"
        assert max(end.received_bytes for end in ends.values()) <= max(one["bytes_sent"] for one in cuts())
        assert drain_of(mesh, "orders")["drains"] >= 1
