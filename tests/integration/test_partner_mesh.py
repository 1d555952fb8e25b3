"""Two meshes, each with an authority, policies, an Envoy and a sidecar of its own: who comes in from the other one."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import tempfile
import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from authz.federation.endpoint_certificate import SvidCertificate
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.mesh.ports import ReservedPorts
from authz.proxy.addresses import TcpAddress, UnixAddress
from authz.proxy.bootstrap import sidecar_bootstrap
from authz.proxy.spec import ServiceDestination, SidecarSpec
from authz.svid_files import write_svid
from tests.support.bundle_site import serving, svid_of
from tests.support.conditions import eventually
from tests.support.echo_process import EchoProcess
from tests.support.envoy_process import EnvoyProcess
from tests.support.local_mesh import Answer, raw_request, tls_connection, tls_context
from tests.support.partner import ACME, ACME_SERVER, bundle_of, new_authority
from tests.support.policy_sets import OPEN, service
from tests.support.policy_texts import document
from tests.support.sidecar_process import SidecarProcess

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from authz.identity.authority import Authority
    from authz.identity.bundle import Bundle

pytestmark = pytest.mark.envoy

#: a bound for what must happen, never a measure of how fast it does
PATIENCE_S = 60
SHOP = TrustDomain.parse("shop.example")
CATALOG, PARTNER = "spiffe://shop.example/catalog", "spiffe://acme.example/shop/orders"
READ = '[{methods: [GET], paths: ["/items/{id}"]}]'
PARTNER_READS_CATALOG = document(
    "MicroPolicy",
    "partner-reads-catalog",
    f"{{from: [{{thirdParties: [acme]}}], to: [{{services: [catalog], operations: {READ}}}]}}",
)
ACME_PARTY = document("ThirdParty", "acme", f'{{identities: ["spiffe://acme.example/shop/**"], window: {OPEN}}}')
#: what acme's own mesh says: its workload may call whatever it likes at the shop's catalog
ACME_SET = (
    document(
        "Mesh", "acme", "{trustDomains: [acme.example], federates: [{trustDomain: shop.example, bundle: shop.pem}]}"
    ),
    service("orders", PARTNER),
    service("catalog", CATALOG),
    document("MicroPolicy", "out", "{from: [{services: [orders]}], to: [{services: [catalog], operations: all}]}"),
)


class PartnersEndpoint:
    """The partner's bundle endpoint (https_spiffe), in a thread; `bundle` and `authority` may be replaced."""

    def __init__(self, authority: Authority) -> None:
        self.bundle: Bundle = bundle_of(authority, sequence=1, refresh_hint=timedelta(seconds=5))
        self._svid = svid_of(authority, ACME_SERVER)
        self._loop = asyncio.new_event_loop()
        self._ready, self._end = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._serve()])
        self.url = ""

    async def _serve(self) -> None:
        async with serving(lambda: self.bundle, SvidCertificate(lambda: self._svid)) as self.url:
            self._ready.set()
            await self._end.wait()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(PATIENCE_S)
        self._loop.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One workload with its Envoy and sidecar."""

    folder: Path
    sidecar: SidecarProcess
    inbound: TcpAddress
    outbound: TcpAddress

    @property
    def policies(self) -> Path:
        return self.folder / "policies"

    def write(self, *documents: str) -> None:
        draft = self.policies / ".draft"
        draft.write_text("---\n".join(documents))
        draft.replace(self.policies / "set.yaml")

    def decisions(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in (self.folder / "decisions").read_text().splitlines()]


def shop_set(url: str, *more: str) -> tuple[str, ...]:
    endpoint = f'{{url: "{url}", profile: https_spiffe, spiffeId: "{ACME_SERVER}"}}'
    federates = f"[{{trustDomain: acme.example, bundle: acme.json, endpoint: {endpoint}}}]"
    return (
        document("Mesh", "shop", f"{{trustDomains: [shop.example], federates: {federates}}}"),
        service("catalog", CATALOG),
        *more,
    )


ALONE = (document("Mesh", "shop", "{trustDomains: [shop.example]}"), service("catalog", CATALOG))


@contextlib.contextmanager
def side(
    name: str,
    identity: str,
    authority: Authority,
    files: dict[str, bytes],
    documents: tuple[str, ...],
    *,
    peer: TcpAddress | None,
) -> Iterator[Side]:
    """Run one side; `files` are the bundles that its operator was given."""
    with contextlib.ExitStack() as stack:
        # Sockets have short paths.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pm-")))
        policies = folder / "policies"
        policies.mkdir()
        for file, content in files.items():
            (policies / file).write_bytes(content)
        (policies / "set.yaml").write_text("---\n".join(documents))
        svid = authority.issue_x509_svid(SpiffeId.parse(identity), datetime.now(UTC), timedelta(hours=1))
        write_svid(folder / "svid", svid, authority.certificate_pem)
        app = stack.enter_context(EchoProcess(service=name, folder=folder))
        ports = stack.enter_context(ReservedPorts())
        inbound, outbound = ports.reserve(), ports.reserve()
        sidecar = stack.enter_context(
            SidecarProcess(
                *("--decision-log", str(folder / "decisions"), "--state", str(folder / "state"), "--workers", "1"),
                *("--identity", f"files:{folder / 'svid'}", "--sds-socket", str(folder / "sds.sock")),
                service=name,
                policies=policies,
                folder=folder,
            )
        )
        sidecar.wait_for("READY=1")
        spec = SidecarSpec(
            service=name,
            identity=identity,
            svid_directory="",
            svid_secret_file="",
            trust_domains=(),
            inbound=inbound,
            outbound=outbound,
            app=TcpAddress(host="127.0.0.1", port=app.address[1]),
            admin=UnixAddress(path=str(folder / "admin")),
            authz_sockets=(str(sidecar.socket),),
            destinations=()
            if peer is None
            else (ServiceDestination(name="catalog", identities=(CATALOG,), address=peer),),
            sds_socket=str(folder / "sds.sock"),
        )
        (folder / "envoy.json").write_text(sidecar_bootstrap(spec))
        stack.enter_context(EnvoyProcess(folder / "envoy.json", str(folder / "admin")))
        yield Side(folder=folder, sidecar=sidecar, inbound=inbound, outbound=outbound)


SHOPS, PARTNERS, PARTNERS_NEXT = new_authority(SHOP), new_authority(), new_authority()


@pytest.fixture
def endpoint() -> Iterator[PartnersEndpoint]:
    with PartnersEndpoint(PARTNERS) as endpoint:
        yield endpoint


@pytest.fixture
def shop(endpoint: PartnersEndpoint) -> Iterator[Side]:
    documents = shop_set(endpoint.url, ACME_PARTY, PARTNER_READS_CATALOG)
    files = {"acme.json": bundle_of(PARTNERS).to_json()}
    with side("catalog", CATALOG, SHOPS, files, documents, peer=None) as shop:
        yield shop


def tls_of(authority: Authority, identity: str, folder: Path) -> ssl.SSLContext:
    svid = authority.issue_x509_svid(SpiffeId.parse(identity), datetime.now(UTC), timedelta(hours=1))
    both = folder / "caller.pem"
    both.write_bytes(svid.certificate_pem + svid.key_pem)
    return tls_context(certificate=str(both), key=str(both))


def forged(authority: Authority, trust_domain: TrustDomain) -> Authority:
    """Give what an authority would have to be to speak for another trust domain than its own."""
    return replace(authority, trust_domain=trust_domain)


def asked(shop: Side, context: ssl.SSLContext, path: str = "/items/1") -> Answer | None:
    """Ask the shop's Envoy on a connection of its own; None where the handshake fails."""
    try:
        with tls_connection(str(shop.inbound), context) as connection:
            return raw_request(connection, "GET", path, "catalog")
    except (OSError, http.client.HTTPException):
        return None


def test_a_partners_workload_comes_in_by_a_policy_that_names_it_and_only_so(shop: Side, tmp_path: Path) -> None:
    files = {"shop.pem": SHOPS.certificate_pem}
    with side("orders", PARTNER, PARTNERS, files, ACME_SET, peer=shop.inbound) as acme:
        with contextlib.closing(
            http.client.HTTPConnection(acme.outbound.host, acme.outbound.port, timeout=PATIENCE_S)
        ) as connection:
            answers = []
            for path in ("/items/1", "/other"):
                connection.request("GET", path, headers={"Host": "catalog"})
                answer = connection.getresponse()
                answers.append((answer.status, answer.headers["x-authz-reason"], json.loads(answer.read())))
        allowed, refused = answers
        assert allowed[0] == 200, allowed
        assert allowed[2]["headers"]["x-authz-caller"] == PARTNER
        assert refused[:2] == (403, "no_policy")
    # of the federated trust domain, and nobody that the set knows
    stranger = asked(shop, tls_of(PARTNERS, "spiffe://acme.example/stranger", tmp_path))
    assert stranger is not None
    assert (stranger.status, stranger.reason) == (401, "untrusted")
    last = shop.decisions()[-1]["caller"]
    assert isinstance(last, dict)
    assert last["identity"] == "spiffe://acme.example/stranger"
    # Neither authority speaks for the other's trust domain: no handshake, so no check.
    checks = len(shop.decisions())
    for authority, identity in (
        (forged(PARTNERS, SHOP), "spiffe://shop.example/catalog"),
        (forged(SHOPS, ACME), PARTNER),
        (new_authority(), PARTNER),
    ):
        assert asked(shop, tls_of(authority, identity, tmp_path)) is None
    assert len(shop.decisions()) == checks


def test_who_ends_federation_ends_it_on_connections_that_are_open(
    shop: Side, endpoint: PartnersEndpoint, tmp_path: Path
) -> None:
    partner = tls_of(PARTNERS, PARTNER, tmp_path)
    with tls_connection(str(shop.inbound), partner) as connection:
        assert raw_request(connection, "GET", "/items/1", "catalog").status == 200
        # without the policy that names it
        shop.write(*shop_set(endpoint.url, ACME_PARTY))
        shop.sidecar.wait_for("revision")
        answer = raw_request(connection, "GET", "/items/1", "catalog")
        assert (answer.status, answer.reason) == (403, "no_policy")
        # without federation
        shop.write(*ALONE)
        shop.sidecar.wait_for("revision")
        answer = raw_request(connection, "GET", "/items/1", "catalog")
        assert (answer.status, answer.reason) == (401, "untrusted")
    # Whoever comes anew does not even get a handshake, once Envoy has heard of it.
    assert eventually(lambda: asked(shop, partner) is None)
    assert eventually(lambda: not list((shop.folder / "state").rglob("acme.example.json")))


def test_a_partners_new_authority_comes_over_its_endpoint_and_the_old_one_goes(
    shop: Side, endpoint: PartnersEndpoint, tmp_path: Path
) -> None:
    old, new = tls_of(PARTNERS, PARTNER, tmp_path), tls_of(PARTNERS_NEXT, PARTNER, tmp_path)
    assert asked(shop, new) is None
    endpoint.bundle = bundle_of(PARTNERS, PARTNERS_NEXT, sequence=2, refresh_hint=timedelta(seconds=5))
    assert eventually(lambda: asked(shop, new) is not None)
    answer = asked(shop, old)
    assert answer is not None
    assert answer.status == 200
    endpoint.bundle = bundle_of(PARTNERS_NEXT, sequence=3, refresh_hint=timedelta(seconds=5))
    assert eventually(lambda: asked(shop, old) is None)
    answer = asked(shop, new)
    assert answer is not None
    assert answer.status == 200
