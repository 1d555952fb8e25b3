"""What a real Envoy does with a rendered sidecar: what it lets in, what it tells the check, and what the app gets.

One Envoy is both sides of a call here: the app's calls leave by its outbound listener and come back, over mTLS, by
its inbound one. The check server is a recorder, the app and the ThirdParty write down what reaches them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import ssl
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from authz.identity.authority import Authority
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.proxy.addresses import TcpAddress, UnixAddress
from authz.proxy.bootstrap import sidecar_bootstrap
from authz.proxy.header_names import OVERRIDE_HEADERS
from authz.proxy.spec import (
    ServiceDestination,
    SidecarSpec,
    ThirdPartyDestination,
    ThirdPartyHost,
    TrustBundle,
)
from authz.proxy.tls import svid_secret
from authz.request import TlsVersion
from authz.svid_files import write_svid
from tests.support.check_recorder import CheckRecorder, allow, deny
from tests.support.envoy_process import EnvoyProcess, validation
from tests.support.local_mesh import CALL_PATIENCE_S, Answer, raw_request, tls_context
from tests.support.raw_http2 import RawHttp2
from tests.support.recording_app import FORGED, RecordingApp

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from envoy.service.auth.v3 import external_auth_pb2

pytestmark = pytest.mark.envoy

NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)
ORDERS = "spiffe://shop.example/ns/shop/sa/orders"
CALLER = "spiffe://shop.example/ns/shop/sa/caller"
PARTNER = "spiffe://acme.example/pull"
#: the bound that is promised; it takes a few milliseconds
RECOVERY_S = 2
FORGERIES = (
    ("x-authz-caller", "spiffe://shop.example/admin"),
    ("x-authz-tls-version", "TLSv9"),
    ("x-authz-invented-later", "1"),
    ("x-forwarded-client-cert", "URI=spiffe://shop.example/admin"),
    ("x-envoy-original-path", "/admin"),
    ("x-envoy-upstream-rq-timeout-ms", "1"),
    ("x-envoy-internal", "true"),
    ("x-envoy-invented-later", "1"),
    *((name, "DELETE") for name in OVERRIDE_HEADERS),
)


@dataclass(slots=True, kw_only=True)
class Bench:
    """A running sidecar and the parties around it."""

    folder: Path
    authority: Authority
    spec: SidecarSpec
    recorder: CheckRecorder
    app: RecordingApp
    third_party: RecordingApp
    envoy: EnvoyProcess
    inbound: int
    outbound: int

    def out(self) -> socket.socket:
        return _connection(self.outbound)

    def context(self, svid: str | None) -> ssl.SSLContext:
        folder = self.folder / str(svid)
        return tls_context(certificate=str(folder / "svid.pem") if svid else "", key=str(folder / "key.pem"))

    def into(self, svid: str | None = "caller", alpn: Sequence[str] = ()) -> ssl.SSLSocket:
        """Connect to the inbound listener with the SVID of a folder, or with none."""
        context = self.context(svid)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context.wrap_socket(_connection(self.inbound))

    def call(self, method: str, target: str, host: str, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
        with self.out() as connection:
            return raw_request(connection, method, target, host, headers)

    def call_in(self, method: str, target: str, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
        with self.into() as connection:
            return raw_request(connection, method, target, "orders", headers)

    def issue(self, name: str, spiffe_id: str, authority: Authority | None = None) -> None:
        authority = authority or self.authority
        svid = authority.issue_x509_svid(SpiffeId.parse(spiffe_id), NOW, HOUR)
        write_svid(self.folder / name, svid, authority.certificate_pem)


def _connection(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=CALL_PATIENCE_S)


def _reserved(stack: contextlib.ExitStack) -> int:
    """Hold a port: bound, not listening, and shared with Envoy by SO_REUSEPORT."""
    holder = stack.enter_context(socket.socket())
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    holder.bind(("127.0.0.1", 0))
    port: int = holder.getsockname()[1]
    return port


def _local(port: int) -> TcpAddress:
    return TcpAddress(host="127.0.0.1", port=port)


def _third_party_tls(folder: Path, authority: Authority) -> ssl.SSLContext:
    names = ["api.acme.example", "*.cdn.example", "old.acme.example"]
    certificate = authority.issue_server_certificate(names, NOW, HOUR)
    (folder / "acme.pem").write_bytes(certificate.certificate_pem)
    (folder / "acme.key").write_bytes(certificate.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "acme.pem", folder / "acme.key")
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("envoy")
    authority = Authority.generate(TrustDomain.parse("shop.example"), NOW, 24 * HOUR)
    partner = Authority.generate(TrustDomain.parse("acme.example"), NOW, 24 * HOUR)
    (folder / "acme.example.pem").write_bytes(partner.certificate_pem)
    (folder / "svid.json").write_text(svid_secret(str(folder / "orders")))
    with contextlib.ExitStack() as stack:
        app = stack.enter_context(RecordingApp())
        third_party = stack.enter_context(RecordingApp(_third_party_tls(folder, partner)))
        recorder = stack.enter_context(CheckRecorder(str(folder / "check.sock")))
        inbound, outbound = _reserved(stack), _reserved(stack)

        def destination(name: str, *identities: str) -> ServiceDestination:
            return ServiceDestination(
                name=name, hosts=(f"{name}.shop.local",), identities=identities, address=_local(inbound)
            )

        spec = SidecarSpec(
            service="orders",
            identity=ORDERS,
            svid_directory=str(folder / "orders"),
            svid_secret_file=str(folder / "svid.json"),
            trust_domains=(
                TrustBundle(trust_domain="shop.example", file=str(folder / "orders/bundle.pem")),
                TrustBundle(trust_domain="acme.example", file=str(folder / "acme.example.pem")),
            ),
            inbound=_local(inbound),
            outbound=_local(outbound),
            app=_local(app.port),
            admin=UnixAddress(path=str(folder / "admin.sock")),
            authz_sockets=(recorder.socket,),
            destinations=(
                destination("orders", ORDERS),
                destination("by-pattern", "spiffe://shop.example/ns/*/sa/orders"),
                destination("somebody-else", "spiffe://shop.example/ns/shop/sa/somebody-else"),
                destination("other-pattern", "spiffe://shop.example/ns/*"),
                ServiceDestination(
                    name="by-dns", identities=(ORDERS,), address=TcpAddress(host="localhost", port=inbound)
                ),
            ),
            third_parties=(
                ThirdPartyDestination(
                    name="acme",
                    hosts=(
                        ThirdPartyHost(name="api.acme.example"),
                        ThirdPartyHost(name="old.acme.example", port=8443),
                        ThirdPartyHost(name="cdn.example", wildcard=True),
                        ThirdPartyHost(name="another.example"),
                    ),
                    authority_file=str(folder / "acme.example.pem"),
                    address=_local(third_party.port),
                    min_tls=TlsVersion.TLS_1_2,
                ),
            ),
        )
        (folder / "envoy.json").write_text(sidecar_bootstrap(spec))
        bench = Bench(
            folder=folder,
            authority=authority,
            spec=spec,
            recorder=recorder,
            app=app,
            third_party=third_party,
            envoy=EnvoyProcess(folder / "envoy.json", str(folder / "admin.sock")),
            inbound=inbound,
            outbound=outbound,
        )
        bench.issue("orders", ORDERS)
        bench.issue("caller", CALLER)
        bench.issue("partner", PARTNER, partner)
        with bench.envoy:
            yield bench


@pytest.fixture(autouse=True)
def _everything_is_allowed(bench: Bench) -> None:
    bench.recorder.answer = lambda _request: allow()
    bench.recorder.taken()
    bench.app.forget()
    bench.third_party.forget()


class TestACall:
    def test_is_checked_where_it_leaves_and_where_it_enters(self, bench: Bench) -> None:
        answer = bench.call("GET", "/items/42?a=1", "orders")
        assert answer.status == 200
        out, into = bench.recorder.next(), bench.recorder.next()
        own = {"service": "orders", "workload": ORDERS}
        assert out.extensions == {"direction": "outbound", **own, "destination": "orders"}
        assert into.extensions == {"direction": "inbound", **own}
        assert (out.request.attributes.source.principal, out.certificate_pem) == ("", "")
        assert into.request.attributes.source.principal == ORDERS
        assert into.certificate_pem == (bench.folder / "orders/svid.pem").read_text()
        assert out.one("x-request-id") == into.one("x-request-id") is not None
        assert bench.app.next().all("x-request-id") == [out.one("x-request-id")]

    def test_keeps_a_request_id_that_it_has(self, bench: Bench) -> None:
        bench.call("GET", "/", "orders", (("x-request-id", "made-by-the-edge"),))
        assert [check.one("x-request-id") for check in bench.recorder.taken()] == ["made-by-the-edge"] * 2
        assert bench.app.next().all("x-request-id") == ["made-by-the-edge"]

    def test_reaches_the_app_with_what_its_check_server_set(self, bench: Bench) -> None:
        bench.recorder.answer = lambda _request: allow(x_authz_caller=CALLER)
        bench.call_in("GET", "/")
        assert bench.app.next().all("x-authz-caller") == [CALLER]

    @pytest.mark.parametrize("header", ["host", "authorization", "x-envoy-retry-on", "x-other"])
    def test_is_refused_where_a_check_server_writes_other_headers(self, bench: Bench, header: str) -> None:
        bench.recorder.answer = lambda _request: allow(**{header: "a"})
        assert bench.call_in("GET", "/").status == 500
        assert bench.app.saw_nothing()

    def test_keeps_its_protocol_end_to_end(self, bench: Bench) -> None:
        with bench.out() as connection:
            answer = RawHttp2(connection).request(_get("/h2", "orders"))
        assert answer.status == 200
        assert [check.request.attributes.request.http.protocol for check in bench.recorder.taken()] == ["HTTP/2"] * 2
        assert bench.app.next().protocol == "h2"
        bench.call("GET", "/h1", "orders")
        assert bench.app.next().protocol == "http/1.1"

    def test_may_have_a_body_of_any_size(self, bench: Bench) -> None:
        with bench.out() as connection:
            body = os.urandom(3 * 1024 * 1024)
            assert raw_request(connection, "PUT", "/", "orders", body=body).status == 200
        assert bench.app.next().all("content-length") == [str(len(body))]

    @pytest.mark.parametrize(("offered", "spoken"), [(["h2", "http/1.1"], "h2"), (["http/1.1"], "http/1.1")])
    def test_negotiates_its_protocol_by_alpn(self, bench: Bench, offered: list[str], spoken: str) -> None:
        with bench.into(alpn=offered) as connection:
            assert (connection.selected_alpn_protocol(), connection.version()) == (spoken, "TLSv1.3")

    def test_may_wait_for_100_continue_but_not_before_it_was_checked(self, bench: Bench) -> None:
        bench.recorder.answer = lambda _request: deny()
        with bench.out() as connection:
            connection.sendall(b"PUT / HTTP/1.1\r\nhost: orders\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 403 ")


class TestForgedHeaders:
    def test_have_no_effect_and_do_not_arrive_by_the_mesh(self, bench: Bench) -> None:
        assert bench.call_in("GET", "/items", FORGERIES).status == 200
        check, request = bench.recorder.next(), bench.app.next()
        _proves_who_calls(check.all("x-forwarded-client-cert"), CALLER)
        _proves_who_calls(request.all("x-forwarded-client-cert"), CALLER)
        assert check.request.attributes.source.principal == CALLER
        assert (check.one("x-authz-tls-version"), request.target) == ("TLSv1.3", "/items")
        assert not {name for name in request.names() if name.startswith(("x-authz-", "x-envoy-"))}
        assert not request.names() & set(OVERRIDE_HEADERS)
        assert not {name for name, _ in check.headers} & set(OVERRIDE_HEADERS)
        assert {name for name, _ in check.headers if name.startswith("x-authz-")} == {
            "x-authz-tls-version",
            "x-authz-tls-cipher",
        }

    def test_have_no_effect_and_do_not_arrive_from_the_app(self, bench: Bench) -> None:
        assert bench.call("GET", "/items", "orders", FORGERIES).status == 200
        out = bench.recorder.next()
        assert not {name for name, _ in out.headers if name.startswith(("x-authz-", "x-envoy-", "x-forwarded-client"))}
        assert not {name for name, _ in out.headers} & set(OVERRIDE_HEADERS)
        _proves_who_calls(bench.app.next().all("x-forwarded-client-cert"), ORDERS)

    def test_do_not_leave_the_mesh(self, bench: Bench) -> None:
        assert bench.call("GET", "/", "api.acme.example", FORGERIES).status == 200
        request = bench.third_party.next()
        assert not {name for name in request.names() if name.startswith(("x-authz-", "x-envoy-"))}
        assert not request.names() & {*OVERRIDE_HEADERS, "x-forwarded-client-cert"}

    def test_do_not_arrive_as_trailers(self, bench: Bench) -> None:
        forged = [
            ("x-authz-caller", "admin"),
            ("x-envoy-internal", "true"),
            ("x-forwarded-client-cert", "URI=spiffe://shop.example/admin"),
            ("x-http-method-override", "DELETE"),
            ("x-original-url", "/admin"),
            ("x-checksum", "1"),
        ]
        with bench.into(alpn=["h2"]) as connection:
            RawHttp2(connection).request(_get("/", "orders", "POST"), body=b"x", trailers=forged)
        assert bench.app.next().trailers == [("x-checksum", "1")]

    def test_with_underscores_are_refused(self, bench: Bench) -> None:
        assert bench.call_in("GET", "/", (("x_authz_caller", "admin"),)).status == 400
        assert bench.app.saw_nothing()

    def test_do_not_make_a_peer_internal_or_its_scheme_another(self, bench: Bench) -> None:
        bench.call_in("GET", "/", (("x-forwarded-for", "10.0.0.1"), ("x-forwarded-proto", "http")))
        request = bench.app.next()
        assert request.all("x-forwarded-proto") == ["https"]
        assert len(request.all("x-forwarded-for")[0].split(",")) == 2
        assert bench.recorder.next().one("x-envoy-internal") is None

    def test_of_a_denial_do_not_come_from_an_app_or_a_third_party(self, bench: Bench) -> None:
        for host in ("orders", "api.acme.example"):
            answer = bench.call("GET", "/", host)
            assert answer.status == 200
            assert not answer.headers.keys() & dict(FORGED).keys()

    def test_of_a_denial_come_from_a_check_server(self, bench: Bench) -> None:
        bench.recorder.answer = lambda request: (
            deny(403, x_authz_reason="closed", x_authz_decision_id="id") if _is_inbound(request) else allow()
        )
        answer = bench.call("GET", "/", "orders")
        assert (answer.status, answer.reason, answer.headers["x-authz-decision-id"]) == (403, "closed", "id")


class TestWhatTheCheckLearns:
    @pytest.mark.parametrize(
        "target",
        [
            "/a%2fb",
            "/a/../b",
            "/a/./b",
            "//a",
            "/a;x=1",
            "/a%2e%2e/b",
            "/a%00",
            "/a%zz",
            "/a\\b",
            "/s?next=https://x/a;b&q=100%",
            "/?",
        ],
    )
    def test_a_path_reaches_check_and_app_byte_for_byte(self, bench: Bench, target: str) -> None:
        assert bench.call("GET", target, "orders").status == 200
        checks = bench.recorder.taken()
        assert [check.one(":path") for check in checks] == [target, target]
        assert [check.request.attributes.request.http.path for check in checks] == [target, target]
        assert bench.app.next().target == target

    def test_a_repeated_header_is_seen_line_by_line(self, bench: Bench) -> None:
        bench.call_in("GET", "/", (("x-tenant", "a"), ("x-other", "1"), ("x-tenant", "b")))
        check = bench.recorder.next()
        assert check.all("x-tenant") == ["a", "b"]
        assert not check.request.attributes.request.http.headers
        assert bench.app.next().all("x-tenant") == ["a", "b"]

    def test_tls_version_and_cipher_are_for_the_check_alone(self, bench: Bench) -> None:
        bench.call_in("GET", "/")
        check = bench.recorder.next()
        assert check.one("x-authz-tls-version") == "TLSv1.3"
        assert str(check.one("x-authz-tls-cipher")).startswith("TLS_")
        assert not bench.app.next().names() & {"x-authz-tls-version", "x-authz-tls-cipher"}

    def test_a_method_over_http2_is_seen_as_it_was_sent(self, bench: Bench) -> None:
        with bench.out() as connection:
            RawHttp2(connection).request(_get("/", "orders", "get"))
        assert bench.recorder.next().one(":method") == "get"

    def test_a_duplicate_host_is_seen_joined(self, bench: Bench) -> None:
        with bench.out() as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nhost: orders\r\nhost: admin\r\nconnection: close\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 503 ")
        assert bench.recorder.next().one(":authority") == "orders,admin"


class TestNothingIsAnsweredWithoutACheck:
    @pytest.mark.parametrize("host", ["nowhere", "169.254.169.254", "[::1]", "", "orders:", "orders:http", "orders.x"])
    def test_a_host_that_is_nobodys_is_checked_and_goes_nowhere(self, bench: Bench, host: str) -> None:
        assert bench.call("GET", "/", host).status == 503
        (check,) = bench.recorder.taken()
        assert (check.direction, check.one(":authority")) == ("outbound", host)

    def test_any_host_is_checked_inbound(self, bench: Bench) -> None:
        with bench.into() as connection:
            assert raw_request(connection, "GET", "/", "nowhere").status == 200
        assert bench.recorder.next().direction == "inbound"
        assert bench.app.next().all("host") == ["nowhere"]

    @pytest.mark.parametrize("version", ["http/1.1", "h2"])
    def test_connect_is_checked_and_makes_no_tunnel(self, bench: Bench, version: str) -> None:
        for connection in (bench.out(), bench.into(alpn=[version])):
            with connection:
                if version == "h2":
                    pseudo = [(":method", "CONNECT"), (":authority", "orders:80")]
                    status = RawHttp2(connection).request(pseudo).status
                else:
                    status = raw_request(connection, "CONNECT", "orders:80", "orders:80").status
            assert status == 503
            (check,) = bench.recorder.taken()
            assert (check.one(":method"), check.request.attributes.request.http.path) == ("CONNECT", "")
        assert bench.app.saw_nothing()

    def test_options_of_everything_is_refused_and_counted(self, bench: Bench) -> None:
        # Envoy answers it before any filter: the one well-formed request without a check, and it goes nowhere.
        before = bench.envoy.stat("http.inbound.downstream_rq_non_relative_path")
        assert bench.call_in("OPTIONS", "*").status == 404
        assert bench.envoy.counts("http.inbound.downstream_rq_non_relative_path", before)
        assert bench.app.saw_nothing()

    @pytest.mark.parametrize("upgrade", ["h2c", "TLS/1.2", "connect", "foo", "websocket2"])
    def test_an_unknown_upgrade_is_checked_as_the_request_that_it_is_without(self, bench: Bench, upgrade: str) -> None:
        headers = (("connection", "upgrade"), ("upgrade", upgrade))
        assert bench.call("GET", "/", "orders", headers).status == 200
        assert len(bench.recorder.taken()) == 2
        assert not bench.app.next().all("upgrade")

    @pytest.mark.parametrize("head", [b"get / HTTP/1.1\r\nhost: a", b"GET foo HTTP/1.1\r\nhost: a", b"GET / HTTP/1.1"])
    def test_what_is_no_request_gets_a_400(self, bench: Bench, head: bytes) -> None:
        with bench.out() as connection:
            connection.sendall(head + b"\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")
        assert bench.recorder.taken() == []


class TestWebSockets:
    def test_run_over_http1(self, bench: Bench) -> None:
        with bench.out() as connection:
            connection.sendall(b"GET /ws HTTP/1.1\r\nhost: orders\r\nconnection: upgrade\r\nupgrade: WebSocket\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 101 ")
            connection.sendall(b"hello")
            assert connection.recv(65536) == b"hello"
        assert [check.one(":method") for check in bench.recorder.taken()] == ["GET", "GET"]
        assert bench.app.next().target == "/ws"

    def test_run_over_http2(self, bench: Bench) -> None:
        extended_connect = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http")]
        with bench.out() as connection:
            client = RawHttp2(connection)
            stream = client.begin([*extended_connect, (":path", "/ws"), (":authority", "orders")])
            client.send(stream, b"hello")
            answer = client.rest(stream, until_bytes=5)
        assert (answer.status, answer.body) == (200, b"hello")
        assert [check.one(":method") for check in bench.recorder.taken()] == ["GET", "GET"]
        assert bench.app.next().protocol == "h2"

    def test_are_refused_like_any_call(self, bench: Bench) -> None:
        bench.recorder.answer = lambda _request: deny()
        assert bench.call("GET", "/", "orders", (("connection", "upgrade"), ("upgrade", "websocket"))).status == 403
        assert bench.app.saw_nothing()


class TestDestinations:
    @pytest.mark.parametrize(
        "host", ["orders", "ORDERS", "orders.", "orders:8080", "orders.shop.local:1", "by-pattern", "by-dns"]
    )
    def test_a_service_is_addressed_by_its_names_whatever_the_port(self, bench: Bench, host: str) -> None:
        assert bench.call("GET", "/", host).status == 200
        assert bench.app.next().all("host") == [host]

    @pytest.mark.parametrize("name", ["somebody-else", "other-pattern"])
    def test_a_service_is_believed_only_with_its_own_identity(self, bench: Bench, name: str) -> None:
        counter = f"cluster.service_{name}.ssl.fail_verify_san"
        before = bench.envoy.stat(counter)
        assert bench.call("GET", "/", name).status == 503
        assert [check.direction for check in bench.recorder.taken()] == ["outbound"]
        assert bench.envoy.counts(counter, before)

    @pytest.mark.parametrize(
        "host",
        [
            "api.acme.example",
            "API.acme.example:80",
            "api.acme.example:443",
            "api.acme.example.",
            "old.acme.example:8443",
            "a.cdn.example",
            "A.cdn.example:443",
        ],
    )
    def test_a_third_party_is_reached_over_tls_by_its_hosts(self, bench: Bench, host: str) -> None:
        assert bench.call("GET", "/v1", host).status == 200
        request = bench.third_party.next()
        assert request.all("host") == [host]
        assert request.tls == ("TLSv1.3", "http/1.1")

    def test_a_third_party_is_spoken_to_in_the_protocol_of_the_app(self, bench: Bench) -> None:
        with bench.out() as connection:
            assert RawHttp2(connection).request(_get("/", "api.acme.example")).status == 200
        request = bench.third_party.next()
        assert (request.tls, request.all(":scheme")) == (("TLSv1.3", "h2"), ["https"])

    @pytest.mark.parametrize("host", ["api.acme.example:8443", "old.acme.example", "a.b.cdn.example", "cdn.example"])
    def test_another_port_or_label_is_another_host(self, bench: Bench, host: str) -> None:
        assert bench.call("GET", "/", host).status == 503
        assert bench.third_party.saw_nothing()

    def test_a_third_party_is_believed_only_under_its_name(self, bench: Bench) -> None:
        counter = "cluster.third_party_acme_another.example_443.ssl.fail_verify_san"
        before = bench.envoy.stat(counter)
        assert bench.call("GET", "/", "another.example").status == 503
        assert bench.envoy.counts(counter, before)
        assert bench.third_party.saw_nothing()


class TestHandshakes:
    def test_succeed_for_a_federated_trust_domain(self, bench: Bench) -> None:
        with bench.into("partner") as connection:
            assert raw_request(connection, "GET", "/", "orders").status == 200
        assert bench.recorder.next().request.attributes.source.principal == PARTNER

    def test_fail_without_a_certificate(self, bench: Bench) -> None:
        self._is_refused(bench, None, "fail_verify_no_cert")

    def test_fail_with_a_certificate_of_another_authority(self, bench: Bench) -> None:
        stranger = Authority.generate(TrustDomain.parse("shop.example"), NOW, HOUR)
        bench.issue("stranger", CALLER, stranger)
        self._is_refused(bench, "stranger", "fail_verify_error")

    def test_fail_for_an_unknown_trust_domain(self, bench: Bench) -> None:
        stranger = Authority.generate(TrustDomain.parse("else.example"), NOW, HOUR)
        bench.issue("unknown", "spiffe://else.example/a", stranger)
        self._is_refused(bench, "unknown", "fail_verify_error")

    @pytest.mark.parametrize(
        ("name", "subject_names", "not_after"),
        [
            ("our-id-of-a-partner", [x509.UniformResourceIdentifier(PARTNER)], NOW + HOUR),
            ("a-host-name-only", [x509.DNSName("orders")], NOW + HOUR),
            ("no-path", [x509.UniformResourceIdentifier("spiffe://shop.example")], NOW + HOUR),
            ("another-scheme", [x509.UniformResourceIdentifier("https://shop.example/a")], NOW + HOUR),
            ("expired", [x509.UniformResourceIdentifier(CALLER)], NOW - timedelta(minutes=1)),
        ],
    )
    def test_fail_with_what_is_no_svid_of_its_trust_domain(
        self, bench: Bench, name: str, subject_names: list[x509.GeneralName], not_after: datetime
    ) -> None:
        _sign(bench, name, subject_names, not_after)
        self._is_refused(bench, name, "fail_verify_error")

    def test_fail_without_tls_1_3(self, bench: Bench) -> None:
        before = bench.envoy.stat("listener.inbound.ssl.connection_error")
        context = bench.context("caller")
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with _connection(bench.inbound) as connection, pytest.raises(OSError, match=r"(?i)protocol"):
            context.wrap_socket(connection)
        assert bench.envoy.counts("listener.inbound.ssl.connection_error", before)

    def test_fail_without_tls(self, bench: Bench) -> None:
        before = bench.envoy.stat("listener.inbound.ssl.connection_error")
        with _connection(bench.inbound) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n")
            assert connection.recv(65536) == b""
        assert bench.envoy.counts("listener.inbound.ssl.connection_error", before)
        assert bench.recorder.taken() == []

    def test_are_never_resumed(self, bench: Bench) -> None:
        context = bench.context("caller")
        with context.wrap_socket(_connection(bench.inbound)) as first:
            raw_request(first, "GET", "/", "orders")
            assert first.session is None or not first.session.has_ticket
            session = first.session
        with context.wrap_socket(_connection(bench.inbound), session=session) as second:
            raw_request(second, "GET", "/", "orders")
            assert not second.session_reused

    def _is_refused(self, bench: Bench, svid: str | None, counter: str) -> None:
        counter = f"listener.inbound.ssl.{counter}"
        before = bench.envoy.stat(counter)
        # TLS 1.3: a client learns that its certificate was refused when it next reads or writes.
        with pytest.raises(OSError, match=r"."), bench.into(svid) as connection:
            raw_request(connection, "GET", "/", "orders")
        assert bench.envoy.counts(counter, before)
        assert bench.recorder.taken() == []
        assert bench.app.saw_nothing()


class TestTheCheckServer:
    @pytest.mark.parametrize("left_behind", [False, True])
    def test_down_means_503_and_back_means_200_at_once(self, bench: Bench, left_behind: bool) -> None:  # noqa: FBT001
        assert bench.call("GET", "/", "orders").status == 200
        bench.recorder.stop()
        try:
            assert not os.path.exists(bench.recorder.socket)  # noqa: PTH110
            with socket.socket(socket.AF_UNIX) as nobody_listens:
                if left_behind:
                    nobody_listens.bind(bench.recorder.socket)
                for _ in range(20):
                    answer = bench.call("GET", "/", "orders")
                    assert (answer.status, answer.reason) == (503, None)
        finally:
            bench.recorder.start()
        back_s = time.monotonic()
        while bench.call("GET", "/", "orders").status != 200:
            assert time.monotonic() - back_s < RECOVERY_S

    def test_that_hangs_means_503(self, bench: Bench) -> None:
        bench.recorder.hang()
        try:
            assert bench.call("GET", "/", "orders").status == 503
        finally:
            bench.recorder.go_on()

    def test_that_answers_nothing_allows_and_so_must_never_do_it(self, bench: Bench) -> None:
        bench.recorder.answer = lambda _request: type(deny())()
        assert bench.call_in("GET", "/").status == 200

    def test_of_two_one_is_enough(self, bench: Bench, tmp_path: Path) -> None:
        with contextlib.ExitStack() as stack:
            inbound, outbound = _reserved(stack), _reserved(stack)
            spec = dataclasses.replace(
                bench.spec,
                inbound=_local(inbound),
                outbound=_local(outbound),
                admin=UnixAddress(path=str(tmp_path / "admin.sock")),
                authz_sockets=(bench.recorder.socket, str(tmp_path / "dead.sock")),
            )
            (tmp_path / "envoy.json").write_text(sidecar_bootstrap(spec))
            stack.enter_context(EnvoyProcess(tmp_path / "envoy.json", spec.admin.path))
            for _ in range(20):
                with _connection(outbound) as connection:
                    assert raw_request(connection, "GET", "/", "api.acme.example").status == 200


class TestARenewedSvid:
    def test_is_used_without_a_restart(self, bench: Bench) -> None:
        with bench.into() as connection:
            before = connection.getpeercert(binary_form=True)
        bench.issue("orders", ORDERS)
        renewed = ssl.PEM_cert_to_DER_cert((bench.folder / "orders/svid.pem").read_text())
        assert renewed != before
        end_s = time.monotonic() + CALL_PATIENCE_S
        shown = before
        while shown != renewed:
            assert time.monotonic() < end_s
            with bench.into() as connection:
                shown = connection.getpeercert(binary_form=True)
        assert bench.call("GET", "/", "orders").status == 200


class TestTheAdmin:
    def test_is_its_owners_alone(self, bench: Bench) -> None:
        assert os.stat(bench.folder / "admin.sock").st_mode & 0o777 == 0o600  # noqa: PTH116

    @pytest.mark.parametrize(
        "path", ["/quitquitquit", "/runtime_modify?a=b", "/logging?level=trace", "/healthcheck/fail"]
    )
    def test_changes_nothing(self, bench: Bench, path: str) -> None:
        assert bench.envoy.ask(path, "POST")[0] == 403

    def test_shows_no_private_key(self, bench: Bench) -> None:
        status, shown = bench.envoy.ask("/config_dump")
        assert status == 200
        assert "PRIVATE KEY" not in shown


class TestTheConfiguration:
    def test_gives_envoy_nothing_to_warn_of(self, bench: Bench) -> None:
        assert bench.envoy.log() == ""

    def test_may_have_unix_sockets_and_names_to_resolve(self, bench: Bench, tmp_path: Path) -> None:
        def pipe(name: str) -> UnixAddress:
            return UnixAddress(path=str(tmp_path / name))

        spec = dataclasses.replace(
            bench.spec,
            inbound=TcpAddress(host="::1", port=15006),
            outbound=pipe("out.sock"),
            app=pipe("app.sock"),
            admin=pipe("admin.sock"),
            destinations=(
                ServiceDestination(
                    name="peer", identities=(CALLER,), address=TcpAddress(host="peer.example", port=15006)
                ),
            ),
        )
        (tmp_path / "envoy.json").write_text(sidecar_bootstrap(spec))
        said = validation(tmp_path / "envoy.json")
        assert said.returncode == 0, said.stderr


def _get(path: str, authority: str, method: str = "GET") -> list[tuple[str, str]]:
    return [(":method", method), (":path", path), (":scheme", "http"), (":authority", authority)]


def _is_inbound(request: external_auth_pb2.CheckRequest) -> bool:
    return str(request.attributes.context_extensions["direction"]) == "inbound"


def _proves_who_calls(values: list[str], spiffe_id: str) -> None:
    (value,) = values
    assert value.split(";")[-1] == f"URI={spiffe_id}"
    assert "admin" not in value


def _sign(bench: Bench, name: str, subject_names: list[x509.GeneralName], not_after: datetime) -> None:
    """Sign with the real authority what it would never sign itself."""
    authority_pem = bench.authority.to_pem()
    signer = load_pem_private_key(authority_pem, password=None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    issuer = x509.load_pem_x509_certificate(authority_pem)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder(issuer.subject, x509.Name([]), key.public_key(), x509.random_serial_number())
        .not_valid_before(NOW - HOUR)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectAlternativeName(subject_names), critical=True)
        .sign(signer, hashes.SHA256())
    )
    folder = bench.folder / name
    folder.mkdir()
    (folder / "svid.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
