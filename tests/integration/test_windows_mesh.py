"""A third party ends on real Envoys: what it tries then is counted, and who it was is named."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.conditions import eventually
from tests.support.local_mesh import LocalMesh, authz, raw_request, request, tls_connection, tls_context
from tests.support.long_streams import Ended, LongStream, every_long_stream
from tests.support.policy_sets import service, write
from tests.support.policy_texts import document
from tests.support.webhook_receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.envoy

MESH = "{trustDomains: [shop.example], federates: [{trustDomain: acme.example, bundle: acme.pem}]}"
WINDOW = "{opens: 2026-01-01T00:00:00Z, closes: 2099-01-01T00:00:00Z}"
INWARDS, OUTWARDS = 12, 8
#: what is held from its start, and so ends with its grant at any moment
HELD_KINDS = ("server-sent events, HTTP/1.1", "WebSocket, idle, HTTP/1.1", "WebSocket, active, HTTP/1.1")


def windows(mesh: LocalMesh) -> list[dict[str, Any]]:
    ended = authz("windows", "list", "--state", str(mesh.state), "-o", "json", check=True)
    told: list[dict[str, Any]] = json.loads(ended.stdout)["windows"]
    return told


def pulled_stream(to: dict[str, Any], acme: dict[str, Any]) -> LongStream:
    """Have acme hear server-sent events for as long as it may."""

    def run(stream: LongStream) -> None:
        lines = ("GET /report HTTP/1.1", f"host: {to['name']}", "accept: text/event-stream", "x-echo-stream: 600")
        with tls_connection(to["inbound"], tls_context(acme)) as connection:
            connection.settimeout(60)
            connection.sendall("\r\n".join([*lines, "", ""]).encode())
            with contextlib.suppress(ConnectionError):
                while data := connection.recv(65536):
                    stream.received(len(data))
                    stream.begun.set()

    return LongStream(f"pull from {to['name']}", run)


@contextlib.contextmanager
def watching(mesh: LocalMesh, receiver: Receiver) -> Iterator[None]:
    words = ("windows", "watch", "--state", str(mesh.state), "--notify", receiver.url)
    with subprocess.Popen([sys.executable, "-m", "authz", *words], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert any(each.startswith("watching ") for each in process.stderr)
            yield
        finally:
            process.terminate()


def test_a_third_party_is_closed_by_a_command_and_its_attempts_from_two_sources_are_counted(tmp_path: Path) -> None:
    policies = write(
        tmp_path / "policies",
        document("Mesh", "shop", MESH),
        service("orders"),
        service("catalog"),
        document(
            "ThirdParty",
            "acme",
            f'{{identities: ["spiffe://acme.example/pull"], hosts: [api.acme.example], window: {WINDOW}}}',
        ),
        document(
            "MicroPolicy",
            "acme-pulls",
            "{from: [{thirdParties: [acme]}],"
            " to: [{services: [orders, catalog], operations: [{methods: [GET], paths: [/report]}]}]}",
        ),
        document(
            "MicroPolicy",
            "orders-push",
            "{from: [{services: [orders]}],"
            " to: [{thirdParties: [acme], operations: [{methods: [GET, POST], paths: all}]}]}",
        ),
    )
    file = tmp_path / "policies" / "set.yaml"
    before_edit = file.read_text().replace("kind: ThirdParty", "kind: ThirdParty  # acme's contract")
    file.write_text(before_edit)
    with contextlib.ExitStack() as stack:
        receiver = stack.enter_context(Receiver().serving())
        mesh = stack.enter_context(LocalMesh(policies=tmp_path / "policies", state=tmp_path / "state").running())
        orders = mesh.service("orders")
        third_parties = json.loads((mesh.state / "state.json").read_text())["third_parties"]
        (acme,) = (each for each in third_parties if each["name"] == "acme")

        def pull(to: dict[str, Any] = orders) -> str | None:
            with tls_connection(to["inbound"], tls_context(acme)) as connection:
                answer = raw_request(connection, "GET", "/report", to["name"])
            return answer.reason or str(answer.status)

        def push() -> str | None:
            answer = request(orders["outbound"], "POST", "/v1/events", "api.acme.example", body=b"{}")
            return answer.reason or str(answer.status)

        assert (pull(), push()) == ("200", "200")
        (before,) = windows(mesh)
        assert (before["state"], before["attempts_after"]["count"]) == ("open", 0)

        stack.enter_context(watching(mesh, receiver))
        streams = [pulled_stream(each, acme) for each in (orders, mesh.service("catalog"))]
        outward = every_long_stream(orders["outbound"], "api.acme.example", "/stream")
        streams += [LongStream(kind, outward[kind]) for kind in HELD_KINDS]
        for stream in streams:
            assert stream.begun.wait(60), stream.name

        words = ("windows", "close", "acme", "--now", "--policies", policies, "--state", str(mesh.state), "-o", "json")
        closed = json.loads(authz(*words, check=True).stdout)
        assert closed["ends"] == ["acme-pulls", "orders-push"]
        # It returns when it is in force, on every sidecar, both ways.
        assert (closed["in_force"]["services"], closed["in_force"]["missing"]) == (["catalog", "orders"], [])
        assert mesh.status()["revision"] == closed["in_force"]["revision"]
        edited = file.read_text()
        assert edited == before_edit.replace(closed["old"], closed["new"])
        assert "# acme's contract" in edited

        # What was under way ends, in both directions.
        for stream in streams:
            end = stream.ended.get(timeout=60)
            assert isinstance(end, Ended), (stream.name, end)

        assert {pull() for _ in range(INWARDS)} == {"decommissioned"}
        assert pull(mesh.service("catalog")) == "decommissioned"
        assert {push() for _ in range(OUTWARDS)} == {"decommissioned"}
        # Records are written after their answers.
        assert eventually(lambda: windows(mesh)[0]["attempts_after"]["count"] == INWARDS + OUTWARDS + 1, 60)
        (ended,) = windows(mesh)
        after = ended["attempts_after"]
        assert (ended["name"], ended["kind"], ended["state"]) == ("acme", "third_party", "ended")
        assert [(each["identity"], each["service"], each["direction"], each["count"]) for each in after["sources"]] == [
            ("spiffe://acme.example/pull", None, "inbound", INWARDS),
            ("spiffe://shop.example/orders", "orders", "outbound", OUTWARDS),
            ("spiffe://acme.example/pull", None, "inbound", 1),
        ]
        assert [each["sidecar"] for each in after["sources"]] == ["orders", "orders", "catalog"]
        assert {each["address"] for each in after["sources"]} == {"127.0.0.1"}
        now = datetime.now(UTC)
        for edge in ("first", "last"):
            assert now - timedelta(minutes=5) < datetime.fromisoformat(after[edge]) <= now
        assert ended["closes"] <= after["first"] <= after["last"]

        # Told once for the whole mesh, by one of the first attempts.
        told = [receiver.next().told for _ in range(2)]
        assert [each["type"] for each in told] == ["window.closed", "window.attempt"]
        assert after["first"] <= told[1]["attempt"]["time"] <= after["last"]
    assert receiver.received.empty()
