"""Real Envoy, sidecar and app: who could not even shake hands stands in the decision log, and nobody else does."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import ssl
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509

from authz.identity.authority import Authority
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.policy_folder import load_policy_folder
from authz.proxy.addresses import TcpAddress, UnixAddress
from authz.proxy.bootstrap import sidecar_bootstrap
from authz.proxy.spec import SidecarSpec, TrustBundle
from authz.proxy.tls import svid_secret
from authz.records.handshake_allowance import MOST_OF_AN_ADDRESS
from authz.svid_files import write_svid
from tests.support import certificates
from tests.support.conditions import eventually
from tests.support.echo_process import EchoProcess
from tests.support.envoy_process import EnvoyProcess
from tests.support.local_mesh import raw_request
from tests.support.policy_sets import ORDERS_AND_CATALOG, ORDERS_READ_CATALOG, write
from tests.support.sidecar_process import SidecarProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.envoy

NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)
ORDERS = "spiffe://shop.example/orders"
PATIENCE_S = 30
#: each test calls from an address of its own: what one of them does takes nothing of another's allowance
_ADDRESSES = (f"127.0.{net}.{host}" for net, host in itertools.product(range(1, 250), range(1, 250)))


def authority(trust_domain: str) -> Authority:
    return Authority.generate(TrustDomain.parse(trust_domain), NOW - 2 * HOUR, 5 * HOUR)


@dataclass
class Bench:
    """catalog's Envoy, sidecar and app."""

    folder: Path
    port: int
    own: Authority
    sidecar: SidecarProcess
    envoy: EnvoyProcess

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "decisions").read_bytes().splitlines()]

    def of(self, address: str) -> list[dict[str, Any]]:
        """Give the records of an address, with its port or without."""
        return [one for one in self.records() if address in {one["caller"]["address"], _host(one)}]

    def recorded(self, address: str) -> dict[str, Any]:
        """Wait for the record of one connection."""
        assert eventually(lambda: bool(self.of(address)), PATIENCE_S), self.envoy.log()
        (record,) = self.of(address)
        return record

    def fail_after(self) -> None:
        """Have one more handshake fail and wait for its record: what Envoy told before is in the log by then."""
        self.recorded(self.attempt(tls()))

    def attempt(self, context: ssl.SSLContext | None, sends: bytes = b"", *, source: str | None = None) -> str:
        """Connect from an address of its own, fail to call, and give the address with its port."""
        with self.connection(source) as connection:
            address = "{}:{}".format(*connection.getsockname())
            # In TLS 1.3 a client hears of its refusal when it reads.
            with contextlib.suppress(OSError), _stream(connection, context) as stream:
                stream.sendall(sends or b"GET /items/1 HTTP/1.1\r\nhost: catalog\r\n\r\n")
                assert b" 200 " not in stream.recv(4096)
        return address

    def connection(self, source: str | None = None) -> socket.socket:
        return socket.create_connection(
            ("127.0.0.1", self.port), timeout=PATIENCE_S, source_address=(source or next(_ADDRESSES), 0)
        )

    def svid(self, of: Authority, spiffe_id: str = ORDERS, *, issued: datetime = NOW, life: timedelta = HOUR) -> str:
        """Give a file with a certificate and its key."""
        folder = self.folder / f"svid-{os.urandom(4).hex()}"
        write_svid(folder, of.issue_x509_svid(SpiffeId.parse(spiffe_id), issued, life), of.certificate_pem)
        both = folder / "both.pem"
        both.write_bytes((folder / "svid.pem").read_bytes() + (folder / "key.pem").read_bytes())
        return str(both)

    def written(self, content: bytes) -> str:
        file = self.folder / f"certificate-{os.urandom(4).hex()}.pem"
        file.write_bytes(content)
        return str(file)


def tls(certificate: str | None = None, *, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = newest
    if certificate is not None:
        context.load_cert_chain(certificate)
    return context


def _stream(connection: socket.socket, context: ssl.SSLContext | None) -> socket.socket:
    return connection if context is None else context.wrap_socket(connection)


def _host(record: dict[str, Any]) -> str:
    return str(record["caller"]["address"]).rpartition(":")[0] or str(record["caller"]["address"])


@contextlib.contextmanager
def running(folder: Path, *arguments: str, heard: bool = True) -> Iterator[Bench]:
    """Run them; where nothing is `heard`, Envoy tells a socket on which nobody listens."""
    policies = Path(write(folder / "policies", *ORDERS_AND_CATALOG, ORDERS_READ_CATALOG))
    own = authority("shop.example")
    catalog = SpiffeId.parse("spiffe://shop.example/catalog")
    write_svid(folder / "svids", own.issue_x509_svid(catalog, NOW, HOUR), own.certificate_pem)
    (folder / "acme.pem").write_bytes(authority("acme.example").certificate_pem)
    (folder / "svid.json").write_text(svid_secret(str(folder / "svids")))
    access_log = str(folder / "access-log")
    with contextlib.ExitStack() as stack:
        reserved = stack.enter_context(socket.socket())
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        app = stack.enter_context(EchoProcess(service="catalog", folder=folder))
        flags = ("--access-log-socket", access_log) if heard else ()
        sidecar = stack.enter_context(
            SidecarProcess(
                *("--decision-log", str(folder / "decisions"), *flags, *arguments),
                service="catalog",
                policies=policies,
                folder=folder,
            )
        )
        sidecar.wait_for("READY=1")
        spec = SidecarSpec(
            service="catalog",
            identity=str(catalog),
            svid_directory=str(folder / "svids"),
            svid_secret_file=str(folder / "svid.json"),
            trust_domains=(
                TrustBundle(trust_domain="shop.example", file=str(folder / "svids/bundle.pem")),
                TrustBundle(trust_domain="acme.example", file=str(folder / "acme.pem")),
            ),
            inbound=TcpAddress(host="127.0.0.1", port=reserved.getsockname()[1]),
            outbound=UnixAddress(path=str(folder / "outbound")),
            app=TcpAddress(host="127.0.0.1", port=app.address[1]),
            admin=UnixAddress(path=str(folder / "admin")),
            authz_sockets=(str(sidecar.socket),),
            access_log_socket=access_log,
        )
        configuration = folder / "envoy.json"
        configuration.write_text(sidecar_bootstrap(spec))
        envoy = stack.enter_context(EnvoyProcess(configuration, str(folder / "admin")))
        yield Bench(folder=folder, port=reserved.getsockname()[1], own=own, sidecar=sidecar, envoy=envoy)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with running(tmp_path_factory.mktemp("h")) as made:
        yield made


def told(record: dict[str, Any]) -> tuple[str, str, str | None]:
    """Give what is said of a failure, after what every such record says."""
    assert (record["direction"], record["decision"], record["destination"]["service"]) == ("inbound", "deny", "catalog")
    assert record["caller"]["identity"] is None
    assert record["handshake"]["count"] == 1
    return record["reason"], record["handshake"]["failure"], record["handshake"]["claimed"]


class TestARecordOfThatVeryConnectionComesOfACallerThat:
    def test_shows_no_certificate(self, bench: Bench) -> None:
        record = bench.recorded(bench.attempt(tls()))
        assert told(record) == ("unidentified", "no client certificate", None)
        assert record["tls"]["version"] == "TLSv1_3"
        assert record["revision"] == load_policy_folder(str(bench.folder / "policies")).revision
        age = datetime.now(UTC) - datetime.fromisoformat(record["time"])
        assert timedelta(0) <= age < timedelta(minutes=5)

    def test_has_another_authority_under_our_name(self, bench: Bench) -> None:
        forged = bench.svid(authority("shop.example"))
        record = bench.recorded(bench.attempt(tls(forged)))
        assert told(record) == (
            "untrusted",
            "certificate not proven: unable to get local issuer certificate",
            ORDERS,
        )

    def test_is_of_a_trust_domain_that_nobody_knows(self, bench: Bench) -> None:
        foreign = bench.svid(authority("evil.example"), "spiffe://evil.example/orders")
        record = bench.recorded(bench.attempt(tls(foreign)))
        assert told(record) == (
            "untrusted",
            "certificate not proven: its trust domain has no bundle",
            "spiffe://evil.example/orders",
        )

    def test_is_signed_by_nobody_for_a_federated_domain(self, bench: Bench) -> None:
        forged = certificates.leaf((certificates.URI("spiffe://acme.example/pull"),), **_VALID)
        record = bench.recorded(bench.attempt(tls(bench.written(certificates.with_key(forged)))))
        assert told(record)[0] == "untrusted"

    @pytest.mark.parametrize(
        ("issued", "words"),
        [(NOW - HOUR, "certificate has expired"), (NOW + HOUR, "certificate is not yet valid")],
    )
    def test_has_one_out_of_its_time(self, bench: Bench, issued: datetime, words: str) -> None:
        late = bench.svid(bench.own, issued=issued, life=timedelta(minutes=10))
        record = bench.recorded(bench.attempt(tls(late)))
        assert told(record) == ("unidentified", f"certificate not proven: {words}", ORDERS)

    def test_has_one_without_a_spiffe_id(self, bench: Bench) -> None:
        dns = certificates.leaf((certificates.DNS("orders.shop.example"),), **_VALID)
        record = bench.recorded(bench.attempt(tls(bench.written(certificates.with_key(dns)))))
        assert told(record) == (
            "unidentified",
            "certificate not proven: no spiffe id of a trust domain that has a bundle",
            None,
        )

    def test_shows_the_certificate_of_an_authority(self, bench: Bench) -> None:
        signer = certificates.leaf(constraints=x509.BasicConstraints(ca=True, path_length=None), **_VALID)
        record = bench.recorded(bench.attempt(tls(bench.written(certificates.with_key(signer)))))
        assert told(record) == ("unidentified", "certificate not proven: cert precheck", certificates.SPIFFE_ID)

    def test_does_not_trust_the_certificate_that_it_is_shown(self, bench: Bench) -> None:
        suspicious = tls(bench.svid(bench.own))
        suspicious.verify_mode = ssl.CERT_REQUIRED
        reason, failure, claimed = told(bench.recorded(bench.attempt(suspicious)))
        assert (reason, bool(failure), claimed) == ("unidentified", True, None)

    def test_speaks_an_older_tls(self, bench: Bench) -> None:
        old = tls(bench.svid(bench.own), newest=ssl.TLSVersion.TLSv1_2)
        record = bench.recorded(bench.attempt(old))
        assert told(record) == ("unidentified", "no tls version in common", None)
        assert record["tls"]["version"] is None

    def test_speaks_http_without_tls(self, bench: Bench) -> None:
        record = bench.recorded(bench.attempt(None))
        assert told(record) == ("unidentified", "http without tls", None)

    def test_speaks_something_else(self, bench: Bench) -> None:
        record = bench.recorded(bench.attempt(None, b"SSH-2.0-OpenSSH_9.2\r\n"))
        assert told(record)[0] == "unidentified"

    def test_says_nothing_until_its_time_is_over(self, bench: Bench) -> None:
        with bench.connection() as silent:
            address = "{}:{}".format(*silent.getsockname())
            assert silent.recv(1) == b""
        assert told(bench.recorded(address)) == ("unidentified", "the handshake took too long", None)

    def test_shows_names_that_are_no_text(self, bench: Bench) -> None:
        # A message with text that is none could not be parsed: one such caller would hide the others.
        named = certificates.leaf((certificates.URI("spiffe://shop.example/aa\x1b[31mzz"),), **_VALID)
        pem = certificates.with_key(named)
        content = certificates.der(named).replace(b"31mzz", b"31m\xff\xfe")
        key = pem[pem.index(b"-----BEGIN PRIVATE KEY") :]
        bad = bench.written(ssl.DER_cert_to_PEM_cert(content).encode() + key)
        beside = bench.attempt(tls())
        record = bench.recorded(bench.attempt(tls(bad)))
        assert told(record)[2] is None
        assert bench.recorded(beside)

    def test_shows_more_names_than_fit_into_a_buffer(self, bench: Bench) -> None:
        many = tuple(certificates.URI(f"spiffe://shop.example/{'x' * 1900}{number}") for number in range(40))
        giant = certificates.with_key(certificates.leaf(many, **_VALID))
        record = bench.recorded(bench.attempt(tls(bench.written(giant))))
        assert told(record)[2] is None
        assert len(json.dumps(record)) < 6 * 1024


_VALID: dict[str, Any] = {"not_before": NOW - HOUR, "not_after": NOW + HOUR}


class TestNoRecordButThatOfItsCallComesOfAConnection:
    def test_that_shook_hands(self, bench: Bench) -> None:
        with tls(bench.svid(bench.own)).wrap_socket(bench.connection()) as good:
            address = "{}:{}".format(*good.getsockname())
            assert raw_request(good, "GET", "/items/1", "catalog").status == 200
        bench.fail_after()
        record = bench.recorded(address)
        assert (record["reason"], "handshake" in record) == ("allowed", False)

    def test_that_shook_hands_and_was_reset(self, bench: Bench) -> None:
        # Envoy says of it what it says of one that was reset in its handshake.
        with bench.connection() as connection:
            good = tls(bench.svid(bench.own)).wrap_socket(connection)
            address = "{}:{}".format(*good.getsockname())
            assert raw_request(good, "GET", "/items/1", "catalog").status == 200
            good.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            good.close()
        bench.fail_after()
        assert bench.recorded(address)["reason"] == "allowed"


def test_the_socket_is_the_users_alone(bench: Bench) -> None:
    assert (bench.folder / "access-log").stat().st_mode & 0o777 == 0o600


def test_after_kill_9_of_control_records_come_again(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running(tmp_path_factory.mktemp("k")) as bench:
        bench.fail_after()
        (control,) = bench.sidecar.forked()["authz-control"]
        os.kill(control, signal.SIGKILL)

        def heard_again() -> bool:
            # What Envoy tells while nobody listens is lost.
            address = bench.attempt(tls())
            return eventually(lambda: bool(bench.of(address)), 1)

        assert eventually(heard_again, PATIENCE_S)
        revisions = {one["revision"] for one in bench.records()}
        assert revisions == {load_policy_folder(str(bench.folder / "policies")).revision}


def test_where_nobody_listens_envoy_goes_on_and_counts(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running(tmp_path_factory.mktemp("n"), heard=False) as bench:
        for _ in range(20):
            bench.attempt(tls())
        assert bench.envoy.counts("listener.inbound.ssl.fail_verify_no_cert", 19)
        with tls(bench.svid(bench.own)).wrap_socket(bench.connection()) as good:
            assert raw_request(good, "GET", "/items/1", "catalog").status == 200
        assert eventually(lambda: [one["reason"] for one in bench.records()] == ["allowed"], PATIENCE_S)


def test_a_flood_is_counted_and_not_written_one_by_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    attempts = 1500
    with running(tmp_path_factory.mktemp("f")) as bench:
        for _ in range(attempts):
            bench.attempt(None, source="127.9.9.9")
        bench.fail_after()
        assert bench.sidecar.stop() == 0
        written = bench.of("127.9.9.9")
        # The test may take longer than an interval.
        assert len(written) <= attempts // 10
        assert all(one["handshake"]["count"] == 1 for one in written[:MOST_OF_AN_ADDRESS])
        assert sum(one["handshake"]["count"] for one in written) == attempts
        last = written[-1]
        assert last["caller"]["address"] == "127.9.9.9"
        assert last["handshake"]["failure"] == f"and {last['handshake']['count']} more from 127.9.9.9"
