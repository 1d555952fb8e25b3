"""A third party from before its first day until long after its last one, on real Envoys, in both directions."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.conditions import eventually
from tests.support.local_mesh import (
    LocalMesh,
    admin_stats,
    authz,
    raw_request,
    request,
    tls_context,
)
from tests.support.long_streams import STREAM_S, Ended, LongStream, every_long_stream
from tests.support.policy_sets import service
from tests.support.policy_texts import document
from tests.support.webhook_receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.envoy

#: bounds for what must happen, never a measure of how fast it does
PATIENCE_S = 90
#: enough for a loaded machine to begin what is to run when the window closes
COMMISSIONED_FOR = timedelta(seconds=45)
LEAD = "10s"
#: rounding down to whole milliseconds, and the clocks' reading
EARLY_S = 0.05
#: who tries afterwards, and how often: 500 in all
PULLS_OF_REPORTS, PULLS_OF_ITEMS, PUSHES = 260, 140, 100
REPORTS_FROM, ITEMS_FROM = "127.0.0.2", "127.0.0.3"
HOST = "api.acme.example"
OUTWARD_KINDS = ("chunked answer, HTTP/1.1", "server-sent events, HTTP/1.1", "WebSocket, idle, HTTP/1.1")
IDENTITY = 'identities: ["spiffe://acme.example/pull"]'
CERTIFICATE = "certificates: [{authority: acme-ca.pem, dns: [feed.acme.example]}]"


def rule(name: str, callers: str, to: str) -> str:
    return document("MicroPolicy", name, f"{{from: [{{{callers}}}], to: [{{{to}, operations: all}}]}}")


def the_set(known_by: str, *, opens: datetime, closes: datetime) -> str:
    window = f"{{opens: {opens:%Y-%m-%dT%H:%M:%S.000Z}, closes: {closes:%Y-%m-%dT%H:%M:%S.000Z}}}"
    return "---\n".join((
        document(
            "Mesh", "shop", "{trustDomains: [shop.example], federates: [{trustDomain: acme.example, bundle: acme.pem}]}"
        ),
        service("orders"),
        service("catalog"),
        document("ThirdParty", "acme", f"{{{known_by}, hosts: [{HOST}], window: {window}}}"),
        rule("acme-pulls-reports", "thirdParties: [acme]", "services: [orders]"),
        rule("acme-pulls-items", "thirdParties: [acme]", "services: [catalog]"),
        rule("orders-push", "services: [orders]", "thirdParties: [acme]"),
        # What goes on when acme has gone.
        rule("orders-read-catalog", "services: [orders]", "services: [catalog]"),
    ))  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """The mesh, and acme's place in it."""

    mesh: LocalMesh
    known_by: str
    orders: dict[str, Any]
    catalog: dict[str, Any]
    acme: dict[str, Any]

    def put(self, *, opens: datetime, closes: datetime) -> None:
        """Move acme's dates, and wait until every sidecar decides by them."""
        file = self.mesh.policies / "set.yaml"
        draft = self.mesh.policies / ".draft"
        draft.write_text(the_set(self.known_by, opens=opens, closes=closes))
        draft.replace(file)
        asked = authz("check", "--policies", str(self.mesh.policies), "--from", "acme", "--to", "orders", "--method",
                      "GET", "--path", "/report", "-o", "json")  # fmt: skip
        revision = json.loads(asked.stdout)["revision"]
        assert eventually(lambda: self.mesh.status()["revision"] == revision, PATIENCE_S)

    def _door(self, to: dict[str, Any]) -> tuple[str, int]:
        host, _, port = str(to["third_party_inbound" if self.known_by == CERTIFICATE else "inbound"]).rpartition(":")
        return host, int(port)

    @contextlib.contextmanager
    def connection(self, to: dict[str, Any], source: str) -> Iterator[socket.socket]:
        """Connect as acme, from an address of the machine."""
        with (
            socket.create_connection(self._door(to), timeout=PATIENCE_S, source_address=(source, 0)) as plain,
            tls_context(self.acme).wrap_socket(plain) as encrypted,
        ):
            yield encrypted

    def pull(self, to: dict[str, Any], source: str, times: int = 1) -> set[str]:
        """Have acme ask so often on one connection; gives what it heard."""
        with self.connection(to, source) as connection:
            answers = [raw_request(connection, "GET", f"/x/{number}", to["name"]) for number in range(times)]
        return {answer.reason or str(answer.status) for answer in answers}

    def push(self, times: int = 1) -> set[str]:
        """Have orders call acme so often."""
        answers = [
            request(self.orders["outbound"], "POST", f"/v1/{number}", HOST, body=b"{}") for number in range(times)
        ]
        return {answer.reason or str(answer.status) for answer in answers}

    def tried(self) -> set[str]:
        return self.pull(self.orders, REPORTS_FROM) | self.pull(self.catalog, ITEMS_FROM) | self.push()

    def pulled_stream(self, to: dict[str, Any], source: str) -> LongStream:
        def run(stream: LongStream) -> None:
            with self.connection(to, source) as connection:
                lines = ("GET /stream HTTP/1.1", f"host: {to['name']}", f"x-echo-stream: {STREAM_S}", "", "")
                connection.sendall("\r\n".join(lines).encode())
                stream.heard({":status": connection.recv(12).decode()[-3:]})
                with contextlib.suppress(OSError):  # a connection may end without a word of TLS
                    while data := connection.recv(65536):
                        stream.received(len(data))
                        stream.begun.set()

        return LongStream(f"pull from {to['name']}", run)

    def streams(self) -> list[LongStream]:
        outward = every_long_stream(self.orders["outbound"], HOST, "/stream")
        streams = [LongStream(kind, outward[kind]) for kind in OUTWARD_KINDS]
        streams += [self.pulled_stream(self.orders, REPORTS_FROM), self.pulled_stream(self.catalog, ITEMS_FROM)]
        for stream in streams:
            assert stream.begun.wait(PATIENCE_S), stream.name
        return streams

    def window(self) -> dict[str, Any]:
        told = authz("windows", "list", "--state", str(self.mesh.state), "-o", "json", check=True)
        (window,) = json.loads(told.stdout)["windows"]
        return dict(window)

    def decisions(self) -> list[dict[str, Any]]:
        logs = [Path(each["decision_log"]) for each in (self.orders, self.catalog)]
        return [json.loads(line) for log in logs for line in log.read_bytes().splitlines()]

    def passed(self) -> dict[str, int]:
        """Give how many requests each Envoy has let through to the apps and to acme."""
        found = {}
        for each in (self.orders, self.catalog):
            counters = admin_stats(each["admin"], "upstream_rq_total")
            for name, value in counters.items():
                if name.startswith(("cluster.app.", "cluster.third_party")):
                    found[f"{each['name']} {name}"] = value
        return found


@contextlib.contextmanager
def watching(mesh: LocalMesh, receiver: Receiver) -> Iterator[None]:
    words = ("windows", "watch", "--state", str(mesh.state), "--notify", receiver.url, "--lead", LEAD)
    with subprocess.Popen([sys.executable, "-m", "authz", *words], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert any(each.startswith("watching ") for each in process.stderr)
            yield
        finally:
            process.terminate()


@pytest.mark.parametrize("known_by", [IDENTITY, CERTIFICATE], ids=["by-spiffe-id", "by-certificate"])
def test_a_third_party_lives_within_its_dates_and_is_seen_outside_of_them(known_by: str, tmp_path: Path) -> None:
    policies = tmp_path / "policies"
    policies.mkdir()
    far = datetime(2098, 1, 1, tzinfo=UTC)
    (policies / "set.yaml").write_text(the_set(known_by, opens=far, closes=far + timedelta(days=1)))
    with contextlib.ExitStack() as stack:
        receiver = stack.enter_context(Receiver().serving())
        mesh = stack.enter_context(LocalMesh(policies=policies, state=tmp_path / "state").running())
        third_parties = json.loads((mesh.state / "state.json").read_text())["third_parties"]
        life = Life(
            mesh=mesh,
            known_by=known_by,
            orders=mesh.service("orders"),
            catalog=mesh.service("catalog"),
            acme=next(each for each in third_parties if each["name"] == "acme"),
        )
        stack.enter_context(watching(mesh, receiver))

        # --- not commissioned
        assert life.tried() == {"not_commissioned"}
        assert eventually(lambda: life.window()["attempts_before"]["count"] == 3, PATIENCE_S)
        assert (life.window()["state"], life.window()["attempts_after"]["count"]) == ("opening", 0)

        # --- commissioned, and used in both directions until its last instant
        closes = datetime.now(UTC).replace(microsecond=0) + COMMISSIONED_FOR
        life.put(opens=datetime(2026, 1, 1, tzinfo=UTC), closes=closes)
        assert life.tried() == {"200"}
        assert life.window()["state"] == "closing"
        streams = life.streams()
        ended = {stream.name: stream.ended.get(timeout=PATIENCE_S) for stream in streams}
        for name, end in ended.items():
            assert isinstance(end, Ended), (name, end)
            assert end.at_s >= closes.timestamp() - EARLY_S, f"{name} was still allowed"
            assert end.received_bytes > 0, name
        assert eventually(lambda: time.time() >= closes.timestamp(), PATIENCE_S)

        # --- decommissioned
        before = life.passed()
        assert eventually(lambda: len([each for each in life.decisions() if each["cut"]]) == len(streams), PATIENCE_S)
        cut = [record for record in life.decisions() if record["cut"]]
        assert {record["reason"] for record in cut} == {"decommissioned"}
        assert sorted(record["policy"] for record in cut) == [
            "acme-pulls-items", "acme-pulls-reports", *["orders-push"] * len(OUTWARD_KINDS)
        ]  # fmt: skip
        assert life.window()["attempts_after"]["count"] == 0

        # --- 500 attempts afterwards
        assert life.pull(life.orders, REPORTS_FROM, PULLS_OF_REPORTS) == {"decommissioned"}
        assert life.pull(life.catalog, ITEMS_FROM, PULLS_OF_ITEMS) == {"decommissioned"}
        assert life.push(PUSHES) == {"decommissioned"}
        assert life.passed() == before, "something got through"
        # Records are written after their answers.
        assert eventually(lambda: life.window()["attempts_after"]["count"] >= 500, PATIENCE_S)
        window = life.window()
        after = window["attempts_after"]
        assert (window["state"], after["count"], after["records"]) == ("ended", 500, 500)
        pull = "spiffe://acme.example/pull" if known_by == IDENTITY else None
        assert [
            (each["identity"], each["service"], each["address"], each["direction"], each["sidecar"], each["count"])
            for each in after["sources"]
        ] == [
            (pull, None, REPORTS_FROM, "inbound", "orders", PULLS_OF_REPORTS),
            (pull, None, ITEMS_FROM, "inbound", "catalog", PULLS_OF_ITEMS),
            ("spiffe://shop.example/orders", "orders", "127.0.0.1", "outbound", "orders", PUSHES),
        ]
        assert window["closes"] <= after["first"] <= after["last"]
        allowed = [
            each for each in life.decisions() if each["decision"] == "allow" and each["time"] >= window["closes"]
        ]
        assert not [each for each in allowed if "acme" in json.dumps(each)]
        # Everybody else goes on.
        assert request(life.orders["outbound"], "GET", "/items/1", "catalog").status == 200

        # --- and whoever has to know was told: once before, once at the close, once of the first attempt
        told = [receiver.next().told for _ in range(3)]
        assert [(each["type"], each["window"]["name"]) for each in told] == [
            ("window.closing", "acme"), ("window.closed", "acme"), ("window.attempt", "acme")
        ]  # fmt: skip
        assert told[0]["time"] < window["closes"] <= told[1]["time"]
        first = told[2]["attempt"]
        assert (first["time"], first["address"], first["direction"]) == (after["first"], REPORTS_FROM, "inbound")
    assert receiver.received.empty()
