"""ThirdParties without SPIFFE IDs, known by certificates of an authority that the policies name, on real Envoys."""

from __future__ import annotations

import contextlib
import http.client
import json
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.mesh.ports import ReservedPorts
from authz.proxy.addresses import TcpAddress, UnixAddress
from authz.proxy.bootstrap import sidecar_bootstrap
from authz.proxy.spec import SidecarSpec
from authz.svid_files import write_svid
from tests.support.check_request import check_request
from tests.support.conditions import eventually
from tests.support.echo_process import EchoProcess
from tests.support.envoy_process import EnvoyProcess
from tests.support.local_mesh import Answer, LocalMesh, raw_request, tls_connection, tls_context
from tests.support.named_callers import CallersAuthority, dns, uri
from tests.support.partner import new_authority
from tests.support.policy_sets import ENDED, OPEN, service, write
from tests.support.policy_texts import document
from tests.support.sidecar_process import SidecarProcess, reason

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from tests.support.named_callers import Caller

pytestmark = pytest.mark.envoy

#: a bound for what must happen, never a measure of how fast it does
PATIENCE_S = 60
SHOP = TrustDomain.parse("shop.example")
ORDERS = "spiffe://shop.example/orders"
MESH = document("Mesh", "shop", "{trustDomains: [shop.example]}")
OUR_GATEWAY = "spiffe://shop.example/gateway"


def party(name: str, names: str, *, window: str = OPEN, file: str = "acme-ca.pem") -> str:
    return document("ThirdParty", name, f"{{certificates: [{{authority: {file}, {names}}}], window: {window}}}")


def reads(*names: str) -> str:
    to = "{services: [orders], operations: [{methods: [GET], paths: [/report]}]}"
    return document(
        "MicroPolicy", f"{names[0]}-reads", f"{{from: [{{thirdParties: [{', '.join(names)}]}}], to: [{to}]}}"
    )


GATEWAY_READS = document(
    "MicroPolicy",
    "gateway-reads",
    "{from: [{services: [gateway]}], to: [{services: [orders], operations: [{methods: [GET], paths: [/report]}]}]}",
)
ACME, GLOBEX = party("acme", "dns: [feed.acme.example]"), party("globex", 'uri: ["urn:globex:feed"]')
SERVICES = (service("orders"), service("gateway"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """The sidecar and the Envoy of orders, with a door for ThirdParties without SPIFFE IDs."""

    folder: Path
    sidecar: SidecarProcess
    inbound: TcpAddress
    door: TcpAddress

    def write(self, *documents: str) -> None:
        replaced(self.folder / "policies" / "set.yaml", "---\n".join([MESH, *SERVICES, *documents]).encode())
        self.sidecar.wait_for("revision")

    def authority(self, *parts: bytes, name: str = "acme-ca.pem") -> None:
        replaced(self.folder / "policies" / name, b"".join(parts))

    def decisions(self) -> list[dict[str, Any]]:
        whole_lines = (self.folder / "decisions").read_text().rpartition("\n")[0]
        records = [json.loads(line) for line in whole_lines.splitlines()]
        # Handshakes that failed are told of later, in no certain order.
        return [each for each in records if each["method"]]

    def recorded(self, before: int, count: int) -> list[dict[str, Any]]:
        """Give the records that have come since there were so many: they are written after their answers."""
        assert eventually(lambda: len(self.decisions()) >= before + count, PATIENCE_S)
        return self.decisions()[before:]

    def context(self, caller: Caller) -> ssl.SSLContext:
        file = caller.write(self.folder / "caller.pem")
        return tls_context(certificate=file, key=file)

    def asked(
        self, caller: Caller, *, path: str = "/report", headers: tuple[tuple[str, str], ...] = ()
    ) -> Answer | None:
        """Ask at the door; None where the handshake fails."""
        return asked(self.door, self.context(caller), path, headers)

    def outcome(self, caller: Caller) -> str:
        answer = self.asked(caller)
        return "no handshake" if answer is None else answer.reason or str(answer.status)


def asked(
    address: TcpAddress, context: ssl.SSLContext, path: str = "/report", headers: tuple[tuple[str, str], ...] = ()
) -> Answer | None:
    try:
        with tls_connection(str(address), context) as connection:
            return raw_request(connection, "GET", path, "orders", headers)
    except (OSError, http.client.HTTPException):
        return None


def replaced(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.draft")
    draft.write_bytes(content)
    draft.replace(path)


SHOPS = new_authority(SHOP)


@pytest.fixture
def acmes() -> CallersAuthority:
    return CallersAuthority("acme")


@pytest.fixture
def shop(acmes: CallersAuthority) -> Iterator[Shop]:
    with contextlib.ExitStack() as stack:
        # Unix sockets have short paths.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        policies = folder / "policies"
        policies.mkdir()
        (policies / "acme-ca.pem").write_bytes(acmes.pem)
        documents = (MESH, *SERVICES, ACME, GLOBEX, reads("acme", "globex"), GATEWAY_READS)
        (policies / "set.yaml").write_text("---\n".join(documents))
        svid = SHOPS.issue_x509_svid(SpiffeId.parse(ORDERS), datetime.now(UTC), timedelta(hours=1))
        write_svid(folder / "svid", svid, SHOPS.certificate_pem)
        app = stack.enter_context(EchoProcess(service="orders", folder=folder))
        ports = stack.enter_context(ReservedPorts())
        inbound, outbound, door = ports.reserve(), ports.reserve(), ports.reserve()
        sidecar = stack.enter_context(
            SidecarProcess(
                *("--decision-log", str(folder / "decisions"), "--state", str(folder / "state"), "--workers", "1"),
                *("--identity", f"files:{folder / 'svid'}", "--sds-socket", str(folder / "sds.sock")),
                *("--hold-socket", str(folder / "hold.sock"), "--access-log-socket", str(folder / "access-log.sock")),
                service="orders",
                policies=policies,
                folder=folder,
            )
        )
        sidecar.wait_for("READY=1")
        spec = SidecarSpec(
            service="orders",
            identity=ORDERS,
            svid_directory="",
            svid_secret_file="",
            trust_domains=(),
            inbound=inbound,
            outbound=outbound,
            third_party_inbound=door,
            app=TcpAddress(host="127.0.0.1", port=app.address[1]),
            admin=UnixAddress(path=str(folder / "admin")),
            authz_sockets=(str(sidecar.socket),),
            sds_socket=str(folder / "sds.sock"),
            hold_socket=str(folder / "hold.sock"),
            access_log_socket=str(folder / "access-log.sock"),
        )
        (folder / "envoy.json").write_text(sidecar_bootstrap(spec))
        stack.enter_context(EnvoyProcess(folder / "envoy.json", str(folder / "admin")))
        shop = Shop(folder=folder, sidecar=sidecar, inbound=inbound, door=door)
        # Envoy is told of authorities after its SVID: it has them when one of its callers gets a handshake.
        assert eventually(lambda: shop.asked(acmes.issue(dns("feed.acme.example"))) is not None, PATIENCE_S)
        yield shop


def test_a_caller_is_the_third_party_whose_name_its_certificate_has_and_nobody_else(
    shop: Shop, acmes: CallersAuthority
) -> None:
    assert eventually(lambda: len(shop.decisions()) > 0, PATIENCE_S)
    before = len(shop.decisions())
    answer = shop.asked(acmes.issue(dns("feed.acme.example")))
    assert answer is not None
    assert answer.status == 200
    assert "x-authz-caller" not in answer.echo["headers"]
    assert shop.outcome(acmes.issue(uri("urn:globex:feed"))) == "200"
    assert shop.outcome(acmes.issue(dns("FEED.ACME.example"))) == "200"  # RFC 4343: letters of either case
    records = shop.recorded(before, 3)
    assert [each["caller"]["third_party"] for each in records] == ["acme", "globex", "acme"]
    last = records[-1]
    assert (last["caller"]["identity"], last["policy"]) == (None, "acme-reads")
    assert last["tls"]["peer_serial"]
    for strangers in (
        dns("other.acme.example"),
        dns("*.acme.example"),
        dns("x.feed.acme.example"),
        uri("urn:globex:FEED"),
        dns("urn.globex.feed"),
        [*dns("feed.acme.example"), *uri("urn:globex:feed")],  # whose is it?
        [*dns("feed.acme.example"), *uri(OUR_GATEWAY)],
        uri(OUR_GATEWAY),
    ):
        before = len(shop.decisions())
        assert shop.outcome(acmes.issue(strangers)) == "unidentified"
        (record,) = shop.recorded(before, 1)
        assert record["caller"]["third_party"] is None
    # What is allowed to it is what the policies say.
    refused = shop.asked(acmes.issue(dns("feed.acme.example")), path="/other")
    assert refused is not None
    assert (refused.status, refused.reason) == (403, "no_policy")


def test_each_door_is_for_its_own_callers_whatever_their_certificates_say(
    shop: Shop, acmes: CallersAuthority, tmp_path: Path
) -> None:
    svid = SHOPS.issue_x509_svid(SpiffeId.parse(OUR_GATEWAY), datetime.now(UTC), timedelta(hours=1))
    (tmp_path / "gateway.pem").write_bytes(svid.certificate_pem + svid.key_pem)
    gateway = tls_context(certificate=str(tmp_path / "gateway.pem"), key=str(tmp_path / "gateway.pem"))
    answer = asked(shop.inbound, gateway)
    assert answer is not None
    assert answer.status == 200
    # An authority of the shop vouches for nobody at the door of the others, and theirs for nobody at the shop's.
    assert asked(shop.door, gateway) is None
    for names in (dns("feed.acme.example"), uri(OUR_GATEWAY)):
        assert asked(shop.inbound, shop.context(acmes.issue(names))) is None
    # Theirs may sign a SPIFFE ID of ours: it is nobody's, at the one door where its chain counts.
    assert shop.outcome(acmes.issue(uri(OUR_GATEWAY))) == "unidentified"
    assert shop.outcome(CallersAuthority("acme").issue(dns("feed.acme.example"))) == "no handshake"
    assert asked(shop.door, tls_context()) is None


def test_what_ends_a_certificate_ends_its_calls_on_an_open_connection(shop: Shop, acmes: CallersAuthority) -> None:
    caller, other = acmes.issue(dns("feed.acme.example")), acmes.issue(dns("feed.acme.example"))
    brief = acmes.issue(dns("feed.acme.example"), lifetime=timedelta(minutes=1, seconds=4))

    def answered(connection: ssl.SSLSocket) -> str:
        answer = raw_request(connection, "GET", "/report", "orders")
        return answer.reason or str(answer.status)

    with contextlib.ExitStack() as stack:
        connections = [
            stack.enter_context(tls_connection(str(shop.door), shop.context(each))) for each in (caller, other, brief)
        ]
        assert [answered(each) for each in connections] == ["200"] * 3
        shop.authority(acmes.pem, acmes.revoke(caller))
        assert eventually(lambda: answered(connections[0]) == "unidentified", PATIENCE_S)
        assert answered(connections[1]) == "200"
        assert eventually(lambda: answered(connections[2]) == "unidentified", PATIENCE_S)  # it has expired
        # A file that cannot be read changes nothing; one that has gone vouches for nobody.
        shop.authority(b"no authority\n")
        assert eventually(lambda: "not a PEM certificate; what it said before stays" in shop.sidecar.errors.read_text())
        assert [answered(each) for each in connections[:2]] == ["unidentified", "200"]
        (shop.folder / "policies" / "acme-ca.pem").unlink()
        assert eventually(lambda: answered(connections[1]) == "unidentified", PATIENCE_S)
    assert eventually(lambda: shop.outcome(other) == "no handshake", PATIENCE_S)
    # Another authority in its place, without a restart: its callers come in, and those of the one before do not.
    successor = CallersAuthority("acme")
    shop.authority(successor.pem)
    assert eventually(lambda: shop.outcome(successor.issue(dns("feed.acme.example"))) == "200", PATIENCE_S)
    assert shop.outcome(other) == "no handshake"


def test_a_live_stream_ends_with_the_certificate_that_it_began_with(shop: Shop, acmes: CallersAuthority) -> None:
    """Each of them is held: server-sent events without an end."""
    revoked, other = acmes.issue(dns("feed.acme.example")), acmes.issue(dns("feed.acme.example"))
    events = b"GET /report HTTP/1.1\r\nhost: orders\r\naccept: text/event-stream\r\nx-echo-stream: 600\r\n\r\n"
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(tls_connection(str(shop.door), shop.context(each))) for each in (revoked, other)]
        for each in streams:
            each.settimeout(PATIENCE_S)
            each.sendall(events)
            assert each.recv(4096).startswith(b"HTTP/1.1 200")

        def ends(stream: ssl.SSLSocket) -> bool:
            with contextlib.suppress(ConnectionError):
                while stream.recv(4096):
                    pass
            return True

        shop.authority(acmes.pem, acmes.revoke(revoked))
        assert ends(streams[0])
        assert streams[1].recv(4096), "it goes on"
        # Its authority goes, and nobody is vouched for any more.
        (shop.folder / "policies" / "acme-ca.pem").unlink()
        assert ends(streams[1])
    assert eventually(lambda: sum(each["cut"] for each in shop.decisions()) == 2, PATIENCE_S)
    cut = [each for each in shop.decisions() if each["cut"]]
    assert {(each["reason"], each["policy"]) for each in cut} == {("unidentified", "acme-reads")}


def test_its_window_is_that_of_every_third_party_and_a_name_that_goes_takes_the_caller_along(
    shop: Shop, acmes: CallersAuthority
) -> None:
    caller = acmes.issue(dns("feed.acme.example"))
    shop.write(party("acme", "dns: [feed.acme.example]", window=ENDED), reads("acme"))
    assert shop.outcome(caller) == "decommissioned"
    assert eventually(
        lambda: (
            [each["caller"]["third_party"] for each in shop.decisions() if each["reason"] == "decommissioned"]
            == ["acme"]
        ),
        PATIENCE_S,
    )
    shop.write(party("acme", "dns: [another.acme.example]"), reads("acme"))
    assert shop.outcome(caller) == "unidentified"
    # A leaf of an intermediate is known where the intermediate stands in the file: a check is told of the leaf alone.
    between = CallersAuthority("between", above=acmes)
    below = between.issue(dns("another.acme.example"))
    shop.authority(acmes.pem)
    assert shop.outcome(below) in {"no handshake", "unidentified"}
    shop.authority(between.pem)
    assert eventually(lambda: shop.outcome(below) == "200", PATIENCE_S)


def test_a_bearer_token_of_a_workload_is_never_answered_as_the_call_of_the_third_party(
    shop: Shop, acmes: CallersAuthority
) -> None:
    accepting = service("orders", more=", accepts: [x509-svid, jwt-svid]")
    documents = "---\n".join([MESH, accepting, service("gateway"), ACME, reads("acme")])
    replaced(shop.folder / "policies" / "set.yaml", documents.encode())
    shop.sidecar.wait_for("revision")
    caller = acmes.issue(dns("feed.acme.example"))
    assert shop.outcome(caller) == "200"
    token = SHOPS.issue_jwt_svid(SpiffeId.parse(OUR_GATEWAY), [ORDERS], datetime.now(UTC), timedelta(minutes=5)).token
    answer = shop.asked(caller, headers=(("authorization", f"Bearer {token}"),))
    assert answer is not None
    assert (answer.status, answer.reason) == (401, "unidentified")


@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_whoever_asks_gets_the_third_party_that_a_leaf_proves_by_the_file_of_its_authority(
    transport: str, acmes: CallersAuthority, tmp_path: Path
) -> None:
    policies = tmp_path / "policies"
    policies.mkdir()
    file = tmp_path / "elsewhere.pem"
    file.write_bytes(acmes.pem)
    (policies / "set.yaml").write_text("---\n".join([MESH, *SERVICES, ACME, GLOBEX, reads("acme"), GATEWAY_READS]))
    words = ("--check-transport", transport, "--authority", f"./acme-ca.pem={file}")
    with SidecarProcess(*words, service="orders", policies=policies, folder=tmp_path) as sidecar:
        sidecar.wait_for("READY=1")

        def answer(caller: Caller, **extensions: str) -> str:
            request = check_request(
                path="/report", host="orders", certificate_pem=caller.pem, extensions=extensions or None
            )
            return reason(sidecar.check(request))

        caller = acmes.issue(dns("feed.acme.example"))
        assert eventually(lambda: answer(caller) == "allowed", PATIENCE_S)
        assert answer(caller, callers="certificates") == "allowed"
        assert answer(caller, callers="anybody") == "internal_error"
        assert answer(acmes.issue(uri("urn:globex:feed"))) == "no_policy"
        assert answer(CallersAuthority("acme").issue(dns("feed.acme.example"))) == "unidentified"
        # An SVID of ours that somebody shows at the other door is nobody's there.
        svid = SHOPS.issue_x509_svid(SpiffeId.parse(OUR_GATEWAY), datetime.now(UTC), timedelta(hours=1))
        request = check_request(path="/report", host="orders", certificate_pem=svid.certificate_pem)
        assert reason(sidecar.check(request)) == "allowed"
        request.attributes.context_extensions["callers"] = "certificates"
        assert reason(sidecar.check(request)) == "unidentified"


def test_the_local_mesh_has_a_caller_with_a_certificate_for_such_a_third_party(tmp_path: Path) -> None:
    write(tmp_path / "policies", MESH, *SERVICES, ACME, GLOBEX, reads("acme"), GATEWAY_READS)
    with LocalMesh(policies=tmp_path / "policies", state=tmp_path / "state").running() as mesh:
        words = ("--to", "orders", "--method", "GET", "--path", "/report")
        assert mesh.call("--from", "acme", *words)["status"] == 200
        assert mesh.call("--from", "globex", *words)["reason"] == "no_policy"
        assert mesh.call("--from", "gateway", *words)["status"] == 200
        assert mesh.call("--from", "acme", "--to", "orders", "--grpc", "a.B/C")["grpc_status"] == 7
        log = Path(mesh.service("orders")["decision_log"])

        def acmes() -> list[str | None]:
            callers = [json.loads(line)["caller"] for line in log.read_text().rpartition("\n")[0].splitlines()]
            return [each["identity"] for each in callers if each["third_party"] == "acme"]

        assert eventually(lambda: acmes() == [None, None], PATIENCE_S)
