"""Calls that are under way when their permission ends: a real Envoy cuts them, in both directions of every protocol."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tests.integration.test_failed_handshakes import running, tls
from tests.support.conditions import eventually
from tests.support.local_mesh import LocalMesh, authz, mesh_of, request
from tests.support.long_streams import Ended, LongStream, grpc_unanswered
from tests.support.window_close import KINDS, PATIENCE_S, SET, Close, close_on_every_stream, closing, put

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.envoy

#: rounding down to whole milliseconds, and the clocks' reading
EARLY_S = 0.05
#: enough for a loaded machine to begin a call
SVIDS_LIFE = timedelta(seconds=8)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    with mesh_of(tmp_path_factory.mktemp("mesh"), SET) as running:
        yield running


@pytest.fixture
def open_window(mesh: LocalMesh) -> dict[str, Any]:
    """Give the caller's Service, with an hour left."""
    put(mesh, closing(datetime.now(UTC) + timedelta(hours=1)))
    return mesh.service("orders")


@pytest.fixture(scope="module")
def close(mesh: LocalMesh) -> Close:
    return close_on_every_stream(mesh)


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_under_way_ends_with_its_window(close: Close, kind: str) -> None:
    end = close.ended[kind]
    assert end.at_s >= close.at_s - EARLY_S, "it was still allowed"
    assert end.last_data_s <= end.at_s


@pytest.mark.parametrize("direction", ["inbound", "outbound"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_sidecar_records_the_cut(close: Close, kind: str, direction: str) -> None:
    record = close.cuts[kind][direction]
    allowed = close.allowed[record["decision_id"]]
    assert (record["decision"], record["reason"], record["policy"]) == ("deny", "closed", "timed")
    for same in ("sidecar", "direction", "request_id", "policy", "protocol", "method", "tls"):
        assert record[same] == allowed[same], same
    assert record["caller"]["identity"] == allowed["caller"]["identity"] == "spiffe://shop.example/orders"
    assert record["destination"] == allowed["destination"]
    assert (allowed["decision"], allowed["cut"], allowed["bytes_sent"]) == ("allow", False, None)
    assert record["duration_ms"] > 0
    assert record["bytes_received"] + record["bytes_sent"] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_both_records_of_a_cut_call_have_its_request_id(close: Close, kind: str) -> None:
    assert close.cuts[kind]["inbound"]["request_id"] == close.cuts[kind]["outbound"]["request_id"] is not None


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_gets_through_after_the_cut(close: Close, kind: str) -> None:
    end, record = close.ended[kind], close.cuts[kind]["outbound"]
    # The sidecar's count ended with the cut: who called has not heard a byte more.
    assert 0 < end.received_bytes <= record["bytes_sent"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "upload" in kind])
def test_nothing_of_an_upload_arrives_after_the_cut(close: Close, kind: str) -> None:
    end, outbound, inbound = close.ended[kind], close.cuts[kind]["outbound"], close.cuts[kind]["inbound"]
    assert end.sent_bytes >= outbound["bytes_received"] >= inbound["bytes_received"] > 0


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "upload" in kind])
def test_a_call_without_an_answer_hears_what_a_new_call_would(close: Close, kind: str) -> None:
    end = close.ended[kind]
    assert (end.status, end.reason) == (403, "closed")


def test_calls_that_were_cut_are_no_attempts_after_the_close(mesh: LocalMesh, close: Close) -> None:
    told = authz("windows", "list", "--policies", str(mesh.policies), "--state", str(mesh.state), "-o", "json")
    assert told.returncode == 0, told.stderr
    assert close.cuts
    (window,) = json.loads(told.stdout)["windows"]
    assert (window["name"], window["attempts_after"]["count"]) == ("timed", 0)


def test_a_call_that_ends_by_itself_has_no_second_record(open_window: dict[str, Any], mesh: LocalMesh) -> None:
    answer = request(open_window["outbound"], "GET", "/ends-by-itself", "catalog", (("x-echo-stream", "0.2"),))
    assert answer.status == 200
    with socket.create_connection(open_window["outbound"].rsplit(":", 1), timeout=PATIENCE_S) as connection:
        connection.sendall(b"GET /broken-off HTTP/1.1\r\nhost: catalog\r\nx-echo-stream: 60\r\n\r\n")
        assert connection.recv(1)

    def one(path: str) -> list[bool]:
        log = Path(mesh.service("catalog")["decision_log"])
        return [record["cut"] for record in map(json.loads, log.read_bytes().splitlines()) if record["path"] == path]

    # A stream that is cut later is told of later: what there was to tell of these two has been told by then.
    closes = datetime.now(UTC) + timedelta(seconds=3)
    put(mesh, closing(closes))
    with pytest.raises(http.client.IncompleteRead):
        request(open_window["outbound"], "GET", "/cut", "catalog", (("x-echo-stream", "60"),))
    assert eventually(lambda: one("/cut") == [False, True], PATIENCE_S)
    assert (one("/ends-by-itself"), one("/broken-off")) == ([False], [False])


def test_a_grpc_call_without_an_answer_hears_what_a_new_call_would(mesh: LocalMesh) -> None:
    closes = datetime.now(UTC) + timedelta(seconds=4)
    put(mesh, closing(closes))
    outbound, app = mesh.service("orders")["outbound"], mesh.service("catalog")["pids"]["app"]
    os.kill(app, signal.SIGSTOP)
    try:
        stream = LongStream(
            "unanswered", lambda stream: grpc_unanswered(stream, outbound, "catalog", "/shop.v1.Catalog/Watch")
        )
        end = stream.ended.get(timeout=PATIENCE_S)
    finally:
        os.kill(app, signal.SIGCONT)
    assert isinstance(end, Ended), end
    assert (end.grpc_status, end.reason) == (grpc.StatusCode.PERMISSION_DENIED.value[0], "closed")
    assert end.at_s >= closes.timestamp() - EARLY_S


@pytest.mark.usefixtures("open_window")
def test_only_a_grpc_app_learns_of_the_deadline(mesh: LocalMesh) -> None:
    plain = mesh.call(
        "--from", "orders", "--to", "catalog", "--method", "GET", "--path", "/x", "-H", "grpc-timeout: 9S"
    )
    assert "grpc-timeout" not in json.loads(plain["body"])["headers"]
    asked = ("--from", "orders", "--to", "catalog", "--grpc", "shop.v1.Catalog/Get", "-H", "x-echo-headers: 1")
    told = json.loads(mesh.call(*asked)["headers"]["x-echo"])
    assert 0 < int(told["headers"]["grpc-timeout"][:-1]) <= 3_600_000


def test_a_callers_own_shorter_deadline_stays_its_own(open_window: dict[str, Any]) -> None:
    with grpc.insecure_channel(open_window["outbound"], options=[("grpc.default_authority", "catalog")]) as channel:
        call = channel.unary_stream("/shop.v1.Catalog/Watch")(b"m", timeout=1, metadata=[("x-echo-stream", "60")])
        with pytest.raises(grpc.RpcError):
            list(call)
        # Its own clock or the sidecar, which ends an answer that has begun with a reset: whichever comes first.
        assert call.code() in {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.INTERNAL}


def test_a_plain_callers_grpc_timeout_bounds_nothing(open_window: dict[str, Any]) -> None:
    fields = (("grpc-timeout", "1m"), ("x-echo-stream", "0.5"))
    answer = request(open_window["outbound"], "GET", "/x", "catalog", fields)
    assert answer.status == 200
    assert len(answer.body.splitlines()) > 2


def test_a_call_is_cut_when_its_callers_svid_ends(tmp_path: Path) -> None:
    with running(tmp_path) as bench:
        issued = datetime.now(UTC)
        certificate = bench.svid(bench.own, issued=issued, life=SVIDS_LIFE)
        heard = b""
        with bench.connection() as connection, tls(certificate).wrap_socket(connection) as stream:
            stream.sendall(b"GET /items/1 HTTP/1.1\r\nhost: catalog\r\nx-echo-stream: 60\r\n\r\n")
            with contextlib.suppress(OSError):
                while data := stream.recv(65_536):
                    heard += data
            ended = datetime.now(UTC)
        assert heard.startswith(b"HTTP/1.1 200 "), heard
        # A certificate says whole seconds.
        assert ended >= issued.replace(microsecond=0) + SVIDS_LIFE - timedelta(seconds=EARLY_S)
        assert eventually(lambda: any(record["cut"] for record in bench.records()), PATIENCE_S), bench.envoy.log()
        (allowed, cut) = bench.records()
    assert (cut["decision_id"], cut["decision"], cut["reason"]) == (allowed["decision_id"], "deny", "unidentified")
    assert (cut["policy"], cut["caller"]["identity"]) == (allowed["policy"], "spiffe://shop.example/orders")
    assert cut["tls"] == allowed["tls"]
    assert 0 < cut["bytes_sent"] < len(heard)
