"""The main job, end to end, on real Envoys: both sidecars, mTLS, windows, and whoever tries to get round them."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h2.config
import h2.connection
import h2.events
import pytest

from authz.identity.authority import Authority
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.policy_folder import load_policy_folder
from authz.sidecar.control.call_recording import JOINED_WITHIN_S
from tests.support.conditions import eventually
from tests.support.local_mesh import (
    CALL_PATIENCE_S,
    LocalMesh,
    admin_stats,
    mesh_of,
    raw_request,
    request,
    tls_connection,
    tls_context,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.envoy

SET = """
apiVersion: authz/v1
kind: Mesh
metadata: {name: shop}
spec: {trustDomains: [shop.example], federates: [{trustDomain: acme.example, bundle: acme.pem}]}
---
apiVersion: authz/v1
kind: Service
metadata: {name: orders}
spec: {identities: ["spiffe://shop.example/orders"]}
---
apiVersion: authz/v1
kind: Service
metadata: {name: catalog}
spec: {identities: ["spiffe://shop.example/catalog"], hosts: [catalog.shop.local]}
---
apiVersion: authz/v1
kind: ThirdParty
metadata: {name: acme}
spec:
  identities: ["spiffe://acme.example/pull"]
  hosts: [api.acme.example]
  window: {opens: 2026-01-01T00:00:00Z, closes: 2099-01-01T00:00:00Z}
---
apiVersion: authz/v1
kind: MicroPolicy
metadata: {name: orders-use-catalog}
spec:
  from: [{services: [orders]}]
  to:
    - services: [catalog]
      operations: [{methods: [GET, POST], paths: ["/items/{id}", /s]}, {grpc: [shop.v1.Catalog/Get]}]
---
apiVersion: authz/v1
kind: MicroPolicy
metadata: {name: acme-both-ways}
spec:
  from: [{thirdParties: [acme]}]
  to: [{services: [catalog], operations: [{methods: [GET], paths: [/report]}]}]
---
apiVersion: authz/v1
kind: MicroPolicy
metadata: {name: orders-to-acme}
spec:
  from: [{services: [orders]}]
  to: [{thirdParties: [acme], operations: [{methods: [POST], paths: [/v1/events]}]}]
"""
TIMED = """
apiVersion: authz/v1
kind: MicroPolicy
metadata: {{name: timed}}
spec:
  from: [{{services: [orders]}}]
  to: [{{services: [catalog], operations: [{{methods: [GET], paths: [/timed]}}]}}]
  window: {{opens: {opens}, closes: {closes}}}
"""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    with mesh_of(tmp_path_factory.mktemp("mesh"), SET) as running:
        yield running


@pytest.fixture(scope="module")
def orders(mesh: LocalMesh) -> dict[str, Any]:
    return mesh.service("orders")


@pytest.fixture(scope="module")
def catalog(mesh: LocalMesh) -> dict[str, Any]:
    return mesh.service("catalog")


def wall(instant: datetime) -> str:
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def edit(mesh: LocalMesh, name: str, text: str | None) -> None:
    """Put a file into the policy folder (None: take it out), and wait until every sidecar decides by the folder."""
    path = mesh.policies / name
    if text is None:
        path.unlink()
    else:
        draft = mesh.policies / f".{name}"
        draft.write_text(text)
        draft.replace(path)

    # Not just "another revision": an edit before this one may come into force only now.
    revision = load_policy_folder(str(mesh.policies)).revision

    def in_force() -> bool:
        return all(service["policy"]["revision"] == revision for service in mesh.status()["services"])

    assert eventually(in_force)


def records(service: dict[str, Any]) -> list[dict[str, Any]]:
    """Give what a sidecar has recorded, once no more is being written: a record follows its call's end."""
    log, seen = Path(service["decision_log"]), -1
    while (size := log.stat().st_size) != seen:
        seen = size
        time.sleep(JOINED_WITHIN_S + 0.1)
    return [json.loads(line) for line in log.read_text(encoding="ascii").splitlines()]


def test_a_call_goes_through_both_sidecars_and_the_app_learns_who_calls(
    orders: dict[str, Any], catalog: dict[str, Any]
) -> None:
    answer = request(orders["outbound"], "GET", "/items/42?a=1&b=%20", "catalog")
    assert answer.status == 200
    assert answer.echo["service"] == "catalog"
    assert answer.echo["path"] == "/items/42?a=1&b=%20"
    assert answer.echo["headers"]["x-authz-caller"] == "spiffe://shop.example/orders"
    out, into = records(orders)[-1], records(catalog)[-1]
    assert (out["direction"], into["direction"]) == ("outbound", "inbound")
    assert out["request_id"] == into["request_id"] is not None
    assert (out["policy"], into["policy"]) == ("orders-use-catalog", "orders-use-catalog")
    assert into["tls"]["version"] == "TLSv1_3"
    assert into["tls"]["cipher"]
    assert into["tls"]["peer_serial"]
    assert into["caller"]["identity"] == "spiffe://shop.example/orders"
    assert into["route"] == "/items/{id}"
    assert into["path"] is None


@pytest.mark.parametrize("host", ["catalog", "CATALOG", "catalog:8080", "catalog.shop.local", "catalog."])
def test_a_service_is_addressed_by_its_names_whatever_the_port(orders: dict[str, Any], host: str) -> None:
    assert request(orders["outbound"], "GET", "/items/1", host).status == 200


@pytest.mark.parametrize(
    ("method", "target", "host", "status", "reason"),
    [
        ("DELETE", "/items/42", "catalog", 403, "no_policy"),
        ("GET", "/items", "catalog", 403, "no_policy"),
        ("GET", "/items/42/", "catalog", 403, "no_policy"),
        ("GET", "/items/42", "nowhere", 403, "unknown_destination"),
        ("GET", "/items/42", "169.254.169.254", 403, "unknown_destination"),
        ("GET", "/a%2fb", "catalog", 400, "malformed"),
        ("GET", "/a/../b", "catalog", 400, "malformed"),
        ("GET", "//a", "catalog", 400, "malformed"),
        ("GET", "/a;x=1", "catalog", 400, "malformed"),
        ("GET", "/a%00b", "catalog", 400, "malformed"),
        ("GET", "/%2e%2e/items/42", "catalog", 400, "malformed"),
        ("GET", "/items/%zz", "catalog", 400, "malformed"),
        ("GET", "/items/4\\2", "catalog", 400, "malformed"),
    ],
)
def test_what_is_not_allowed_is_refused_before_it_leaves(
    orders: dict[str, Any], catalog: dict[str, Any], method: str, target: str, host: str, status: int, reason: str
) -> None:
    seen = len(records(catalog))
    answer = request(orders["outbound"], method, target, host)
    assert (answer.status, answer.reason) == (status, reason)
    assert json.loads(answer.body) == {
        "error": "denied",
        "reason": reason,
        "decision_id": answer.headers["x-authz-decision-id"],
    }
    record = records(orders)[-1]
    assert (record["decision_id"], record["reason"]) == (answer.headers["x-authz-decision-id"], reason)
    assert len(records(catalog)) == seen


@pytest.mark.parametrize("target", ["/a%2fb", "/a/../b", "//a", "/a;x=1"])
def test_the_callees_sidecar_refuses_malformed_paths_itself(
    orders: dict[str, Any], catalog: dict[str, Any], target: str
) -> None:
    with tls_connection(catalog["inbound"], tls_context(orders)) as connection:
        answer = raw_request(connection, "GET", target, "catalog")
    assert (answer.status, answer.reason) == (400, "malformed")


def test_a_query_is_no_part_of_the_decision_and_arrives_as_sent(orders: dict[str, Any]) -> None:
    answer = request(orders["outbound"], "GET", "/s?next=https://x/a;b&q=100%", "catalog")
    assert answer.status == 200
    assert answer.echo["path"] == "/s?next=https://x/a;b&q=100%"


def test_options_for_the_whole_server_goes_nowhere(orders: dict[str, Any], catalog: dict[str, Any]) -> None:
    # Envoy 1.40 answers this one itself, before its routes: a bare 404, no check, and nothing goes on.
    asked = len(records(catalog)), len(records(orders))
    assert request(orders["outbound"], "OPTIONS", "*", "catalog").status == 404
    with tls_connection(catalog["inbound"], tls_context(orders)) as connection:
        assert raw_request(connection, "OPTIONS", "*", "catalog").status == 404
    name, _, port = orders["outbound"].rpartition(":")
    headers = [(":method", "OPTIONS"), (":path", "*"), (":scheme", "http"), (":authority", "catalog")]
    assert http2_response_headers((name, int(port)), headers)[":status"] in {"400", "404"}
    assert asked == (len(records(catalog)), len(records(orders)))


def test_a_lower_case_method_is_malformed_over_http2_and_envoys_own_400_over_http1(orders: dict[str, Any]) -> None:
    assert request(orders["outbound"], "get", "/items/42", "catalog").status == 400
    name, _, port = orders["outbound"].rpartition(":")
    headers = http2_response_headers(
        (name, int(port)), [(":method", "get"), (":path", "/items/42"), (":scheme", "http"), (":authority", "catalog")]
    )
    assert (headers[":status"], headers["x-authz-reason"]) == ("400", "malformed")


def http2_response_headers(address: tuple[str, int], headers: list[tuple[str, str]]) -> dict[str, str]:
    configuration = h2.config.H2Configuration(
        validate_outbound_headers=False, normalize_outbound_headers=False, header_encoding="utf-8"
    )
    client = h2.connection.H2Connection(configuration)
    client.initiate_connection()
    client.send_headers(1, headers, end_stream=True)
    with socket.create_connection(address, timeout=CALL_PATIENCE_S) as connection:
        connection.sendall(client.data_to_send())
        while data := connection.recv(65536):
            for event in client.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived):
                    return dict(event.headers)  # type: ignore[arg-type]
            connection.sendall(client.data_to_send())
    pytest.fail("the connection ended without an answer")


FORGED = (
    ("x-forwarded-client-cert", "By=spiffe://shop.example/catalog;URI=spiffe://shop.example/orders"),
    ("x-authz-caller", "spiffe://shop.example/admin"),
    ("x-authz-tls-version", "TLSv1.0"),
    ("x-authz-reason", "allowed"),
    ("x-envoy-original-path", "/items/42"),
    ("x-envoy-upstream-rq-timeout-ms", "1"),
    ("x-envoy-internal", "true"),
    ("x-http-method-override", "DELETE"),
    ("x-original-url", "/admin"),
)


@pytest.mark.parametrize(("target", "status"), [("/items/42", 200), ("/admin", 403)])
def test_forged_headers_have_no_effect_and_do_not_reach_the_app(
    orders: dict[str, Any], catalog: dict[str, Any], target: str, status: int
) -> None:
    through = request(orders["outbound"], "GET", target, "catalog", FORGED)
    with tls_connection(catalog["inbound"], tls_context(orders)) as connection:
        direct = raw_request(connection, "GET", target, "catalog", FORGED)
    for answer in (through, direct):
        assert answer.status == status
        if status == 200:
            seen = answer.echo["headers"]
            assert seen["x-authz-caller"] == "spiffe://shop.example/orders"
            assert [name for name in seen if name.startswith("x-authz-")] == ["x-authz-caller"]
            assert not {"x-http-method-override", "x-original-url", "x-envoy-original-path", "x-envoy-internal"} & set(
                seen
            )
            assert "admin" not in json.dumps(seen)
            assert seen.get("x-forwarded-client-cert", "").count("URI=") <= 1


def test_a_caller_without_a_certificate_is_refused_in_the_handshake_and_counted(catalog: dict[str, Any]) -> None:
    refused_in_the_handshake(catalog, tls_context(), "no client certificate")


def test_a_caller_of_another_authority_is_refused_in_the_handshake_and_counted(
    catalog: dict[str, Any], tmp_path: Path
) -> None:
    other = Authority.generate(TrustDomain.parse("shop.example"), datetime.now(UTC), timedelta(hours=1))
    forged = other.issue_x509_svid(
        SpiffeId.parse("spiffe://shop.example/orders"), datetime.now(UTC), timedelta(hours=1)
    )
    (tmp_path / "c.pem").write_bytes(forged.certificate_pem)
    (tmp_path / "k.pem").write_bytes(forged.key_pem)
    context = tls_context(certificate=str(tmp_path / "c.pem"), key=str(tmp_path / "k.pem"))
    refused_in_the_handshake(catalog, context, "certificate not proven: unable to get local issuer certificate")


def refused_in_the_handshake(service: dict[str, Any], context: ssl.SSLContext, failure: str) -> None:
    recorded = len(records(service))
    before = failed_handshakes(service)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        speak(service, context)
    assert eventually(lambda: failed_handshakes(service) > before)
    assert eventually(lambda: len(records(service)) > recorded)
    # Nothing was asked and nothing was called; what failed is on record.
    assert [one.get("handshake", {}).get("failure") for one in records(service)[recorded:]] == [failure]


def speak(service: dict[str, Any], context: ssl.SSLContext) -> None:
    with tls_connection(service["inbound"], context) as connection:
        connection.sendall(b"GET /items/42 HTTP/1.1\r\nhost: catalog\r\n\r\n")
        # TLS 1.3: the client learns of the refusal when it reads
        if not connection.recv(1):
            raise ConnectionResetError


def failed_handshakes(service: dict[str, Any]) -> int:
    counters = admin_stats(service["admin"], "ssl.")
    return sum(
        value
        for name, value in counters.items()
        if "listener" in name and any(kind in name for kind in ("fail_verify", "connection_error"))
    )


def test_a_call_passes_just_before_the_close_and_is_refused_just_after(
    mesh: LocalMesh, orders: dict[str, Any], catalog: dict[str, Any]
) -> None:
    opens = datetime.now(UTC) + timedelta(seconds=8)
    closes = opens + timedelta(seconds=3)
    edit(mesh, "timed.yaml", TIMED.format(opens=wall(opens), closes=wall(closes)))
    revision = mesh.status()["revision"]
    edge = timedelta(milliseconds=500)
    assert datetime.now(UTC) < opens - edge, "the edit took too long for this test's window"

    def at(instant: datetime) -> str:
        time.sleep(max(0.0, (instant - datetime.now(UTC)).total_seconds()))  # the clock is what is tested
        answer = request(orders["outbound"], "GET", "/timed", "catalog")
        with tls_connection(catalog["inbound"], tls_context(orders)) as connection:
            direct = raw_request(connection, "GET", "/timed", "catalog")
        assert answer.reason == direct.reason
        return answer.reason or str(answer.status)

    assert at(opens - edge) == "not_yet_open"
    assert at(opens + edge) == "200"
    assert at(closes - edge) == "200"
    assert at(closes + edge) == "closed"
    assert mesh.status()["revision"] == revision
    edit(mesh, "timed.yaml", None)


def test_a_third_party_is_decommissioned_in_both_directions_by_one_date(mesh: LocalMesh) -> None:
    calls = (
        ("--from", "acme", "--to", "catalog", "--method", "GET", "--path", "/report"),
        ("--from", "orders", "--to", "acme", "--method", "POST", "--path", "/v1/events"),
    )
    for call in calls:
        assert mesh.call(*call)["status"] == 200
    for closes, opens, reason in (
        ("2026-02-01T00:00:00Z", "2026-01-01T00:00:00Z", "decommissioned"),
        ("2099-01-01T00:00:00Z", "2098-01-01T00:00:00Z", "not_commissioned"),
    ):
        edit(
            mesh,
            "set.yaml",
            SET.replace("2026-01-01T00:00:00Z, closes: 2099-01-01T00:00:00Z", f"{opens}, closes: {closes}"),
        )
        for call in calls:
            told = mesh.call(*call)
            assert (told["status"], told["reason"]) == (403, reason)
    edit(mesh, "set.yaml", SET)


def test_a_host_that_policies_give_to_another_service_is_not_reached_under_the_old_ones_route(
    mesh: LocalMesh, orders: dict[str, Any], catalog: dict[str, Any]
) -> None:
    host = "catalog.shop.local"
    assert request(orders["outbound"], "GET", "/items/1", host).status == 200
    moved = SET.replace(f", hosts: [{host}]", "").replace(
        '["spiffe://shop.example/orders"]', f'["spiffe://shop.example/orders"], hosts: [{host}]'
    )
    to_itself = TIMED.format(opens="2026-01-01T00:00:00Z", closes="2099-01-01T00:00:00Z").replace("catalog", "orders")
    edit(mesh, "set.yaml", moved)
    edit(mesh, "timed.yaml", to_itself)
    seen = len(records(catalog))
    # The new policies allow it, to orders; this Envoy's routes still lead to catalog.
    answer = request(orders["outbound"], "GET", "/timed", host)
    assert (answer.status, answer.reason) == (503, "internal_error")
    assert len(records(catalog)) == seen
    edit(mesh, "timed.yaml", None)
    edit(mesh, "set.yaml", SET)
    assert request(orders["outbound"], "GET", "/items/1", host).status == 200


def test_grpc_callers_get_grpc_statuses(mesh: LocalMesh) -> None:
    allowed = mesh.call("--from", "orders", "--to", "catalog", "--grpc", "shop.v1.Catalog/Get", "--body", "hello")
    assert (allowed["grpc_status"], allowed["reason"]) == (0, None)
    denied = mesh.call("--from", "orders", "--to", "catalog", "--grpc", "shop.v1.Catalog/Drop")
    assert (denied["grpc_status"], denied["reason"]) == (7, "no_policy")
    unknown = mesh.call("--from", "orders", "--to", "nowhere", "--grpc", "shop.v1.Catalog/Get")
    assert (unknown["grpc_status"], unknown["reason"]) == (7, "unknown_destination")


def test_a_killed_authz_process_means_refusal_and_then_recovery(mesh: LocalMesh, orders: dict[str, Any]) -> None:
    pid = mesh.service("orders")["pids"]["sidecar"]
    os.kill(pid, signal.SIGSTOP)  # held first, so that it cannot be back before the call
    assert eventually(lambda: request(orders["outbound"], "GET", "/items/42", "catalog").status == 503)
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: request(orders["outbound"], "GET", "/items/42", "catalog").status == 200)
    assert mesh.service("orders")["pids"]["sidecar"] != pid


def test_a_broken_file_changes_nothing_and_is_shown_with_its_place(mesh: LocalMesh, orders: dict[str, Any]) -> None:
    assert eventually(lambda: mesh.status()["revision"])  # all at one: an edit before this one is in force
    before = mesh.status()
    path = mesh.policies / "set.yaml"
    path.write_text(SET.replace("kind: ThirdParty", "kind: ThirdPart"))
    try:
        assert eventually(lambda: all(service["policy"]["stale"] for service in mesh.status()["services"]))
        status = mesh.status()
        assert status["revision"] == before["revision"]
        assert status["ready"]
        for service in status["services"]:
            assert any("set.yaml:" in fault for fault in service["policy"]["faults"])
        assert request(orders["outbound"], "GET", "/items/42", "catalog").status == 200
    finally:
        path.write_text(SET)
    assert eventually(lambda: not any(service["policy"]["stale"] for service in mesh.status()["services"]))
