"""Callers that are proven by tokens: at the sidecar's socket on both transports, and from Envoy to Envoy."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from authz.identity.authority import Authority
from authz.identity.authority_rotation import RotationPlan
from authz.identity.authority_state import authority_from_json
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.svid_files import write_svid
from tests.support.check_request import check_request
from tests.support.conditions import eventually
from tests.support.jwt_svids import NS_PER_S, TokenIssuer, bearer, unsigned_token
from tests.support.local_mesh import LocalMesh, raw_request, request, tls_connection, tls_context
from tests.support.policy_sets import document, service, write
from tests.support.sidecar_process import PATIENCE_S, SidecarProcess, ask, reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from authz.identity.bundle import Bundle

SHOP, ACME = TrustDomain.parse("shop.example"), TrustDomain.parse("acme.example")
ORDERS, GATEWAY, CATALOG = (f"spiffe://shop.example/{name}" for name in ("orders", "gateway", "catalog"))
ISSUER, STRANGER = TokenIssuer(trust_domain=SHOP), TokenIssuer(trust_domain=ACME)


def policies_of(folder: Path, *revoked: str) -> Path:
    """Orders may read catalog; the gateway may do nothing itself, and bring the tokens of others."""
    mesh = f"{{trustDomains: [shop.example], revoked: {json.dumps(revoked)}}}" if revoked else None
    return Path(
        write(
            folder,
            document("Mesh", "shop", mesh or "{trustDomains: [shop.example]}"),
            service("orders"),
            service("gateway"),
            service("catalog", more=", accepts: [x509-svid, jwt-svid], forwarders: [gateway]"),
            document(
                "MicroPolicy",
                "orders-read-catalog",
                "{from: [{services: [orders]}], to: [{services: [catalog], operations: all}]}",
            ),
        )
    )


def put(path: Path, content: bytes) -> None:
    draft = path.with_name("draft")
    draft.write_bytes(content)
    draft.replace(path)


def token(subject: str = ORDERS, *, issuer: TokenIssuer = ISSUER, **claims: object) -> bytes:
    return issuer.token(subject, CATALOG, now_ns=time.time_ns(), claims=claims)


def invalid_tokens(issuer: TokenIssuer = ISSUER) -> dict[str, bytes]:
    now_s = time.time_ns() // NS_PER_S
    claims = {"sub": ORDERS, "aud": CATALOG, "exp": now_s + 60}
    return {
        "expired": token(issuer=issuer, exp=now_s - 60),
        "for another audience": token(issuer=issuer, aud="catalog"),
        "signed by nobody": unsigned_token({"alg": "none", "kid": issuer.key_id}, claims, b"x"),
        "signed by another trust domain's key": token(issuer=STRANGER),
        "signed by a key that is no longer trusted": token(issuer=TokenIssuer(trust_domain=SHOP)),
    }


# --- at the sidecar's socket, on both transports


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.generate(SHOP, datetime.now(UTC), timedelta(hours=1))


@pytest.fixture(params=["native", "grpcio"])
def sidecar(
    tmp_path: Path, authority: Authority, request: pytest.FixtureRequest
) -> Iterator[Callable[..., SidecarProcess]]:
    """Start catalog's sidecar, with the bundle of its directory."""
    started: list[SidecarProcess] = []

    def starter(*bundle: Bundle) -> SidecarProcess:
        svid = authority.issue_x509_svid(SpiffeId.parse(CATALOG), datetime.now(UTC), timedelta(hours=1))
        write_svid(tmp_path / "svid", svid, authority.certificate_pem)
        for each in bundle:
            put(tmp_path / "svid/bundle.json", each.to_json())
        words = ("--check-transport", request.param, "--identity", f"files:{tmp_path}/svid")
        log = ("--decision-log", str(tmp_path / "decisions"))
        process = SidecarProcess(
            *words, *log, service="catalog", policies=policies_of(tmp_path / "policies"), folder=tmp_path
        )
        started.append(process)
        process.wait_for("READY=1")
        return process

    yield starter
    for process in started:
        process.__exit__()


def asked(authority: Authority, peer: str, *headers: tuple[str, bytes]) -> bytes:
    svid = authority.issue_x509_svid(SpiffeId.parse(peer), datetime.now(UTC), timedelta(minutes=30))
    return check_request(headers=headers, certificate_pem=svid.certificate_pem).SerializeToString()


def test_a_token_proves_its_subject_and_whatever_is_wrong_with_one_proves_nobody(
    sidecar: Callable[..., SidecarProcess], authority: Authority, tmp_path: Path
) -> None:
    process = sidecar(ISSUER.bundle(authority.certificate_pem))
    with process.channel() as channel:

        def answer(peer: str, *headers: tuple[str, bytes]) -> str:
            return reason(ask(channel, asked(authority, peer, *headers)))

        assert answer(ORDERS, bearer(token())) == "allowed"
        assert answer(GATEWAY, bearer(token())) == "allowed"
        assert answer(ORDERS, bearer(token(GATEWAY))) == "unidentified"
        for name, invalid in invalid_tokens().items():
            assert [answer(peer, bearer(invalid)) for peer in (ORDERS, GATEWAY)] == ["unidentified"] * 2, name
        assert answer(ORDERS, ("authorization", b"Basic YTpi"), bearer(token())) == "unidentified"
        anna = bearer(unsigned_token({"alg": "none"}, {"sub": "anna"}))
        assert (answer(ORDERS, anna), answer(GATEWAY, anna)) == ("allowed", "no_policy")
    assert process.stop() == 0
    callers = [json.loads(line)["caller"] for line in (tmp_path / "decisions").read_text().splitlines()]
    assert [(each["identity"], each["presented_by"]) for each in callers[:3]] == [
        (ORDERS, ORDERS),
        (ORDERS, GATEWAY),
        (GATEWAY, ORDERS),
    ]
    assert {(each["identity"], each["service"]) for each in callers[3:-2]} == {(None, None)}
    assert {each["presented_by"] for each in callers[3:-2]} == {ORDERS, GATEWAY}
    assert token()[:20].decode() not in (tmp_path / "decisions").read_text(), "no token is ever written down"
    assert "Traceback" not in process.errors.read_text()


def test_keys_that_are_rotated_and_authorities_that_are_withdrawn_count_from_the_next_call(
    sidecar: Callable[..., SidecarProcess], authority: Authority, tmp_path: Path
) -> None:
    process = sidecar()
    document_file = tmp_path / "svid/bundle.json"
    later = TokenIssuer(trust_domain=SHOP, key_id="later")
    old, new = (bearer(token(issuer=each)) for each in (ISSUER, later))
    with process.channel() as channel:

        def answers(*headers: tuple[str, bytes]) -> str:
            return reason(ask(channel, asked(authority, ORDERS, *headers)))

        def becomes(expected: str, *headers: tuple[str, bytes]) -> bool:
            return eventually(lambda: answers(*headers) == expected, PATIENCE_S)

        assert (answers(), answers(old)) == ("allowed", "unidentified"), "authorities in PEM prove no token"
        put(document_file, ISSUER.bundle(authority.certificate_pem).to_json())
        assert becomes("allowed", old)
        put(document_file, later.bundle(authority.certificate_pem).to_json())
        assert becomes("allowed", new)
        assert answers(old) == "unidentified", "what was remembered ends with its key"
        put(document_file, later.bundle().to_json())
        assert becomes("unidentified")
        assert answers(new) == "unidentified", "its presenter is not proven any more"


# --- from one app to another, through both Envoys: both sidecars decide


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    folder = tmp_path_factory.mktemp("mesh")
    with LocalMesh(policies=policies_of(folder / "policies"), state=folder / "state").running() as mesh:
        yield mesh


@pytest.fixture(scope="module")
def signer(mesh: LocalMesh) -> TokenIssuer:
    """Give the key by which the mesh's issuer signs: this test is none of its workloads, and wants bad tokens, too."""
    keys = Path(json.loads((mesh.state / "state.json").read_text())["runtime_directory"], "issuer.keys")
    kept = authority_from_json(
        (keys / "shop.example.authority.json").read_bytes(), RotationPlan(lifetime=timedelta(days=7))
    )
    assert kept.current.jwt is not None
    key = load_pem_private_key(kept.current.jwt.key_pem(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return TokenIssuer(trust_domain=SHOP, key=key, key_id=kept.current.jwt.key_id)


def call(mesh: LocalMesh, by: str, headers: tuple[tuple[str, str], ...]) -> tuple[int, str | None]:
    answer = request(mesh.service(by)["outbound"], "GET", "/items/1", "catalog", headers)
    return answer.status, answer.reason


@pytest.mark.envoy
def test_a_forwarder_brings_the_token_of_another_to_the_app_and_everything_else_is_refused(
    mesh: LocalMesh, signer: TokenIssuer
) -> None:
    catalog = mesh.service("catalog")
    valid = token(issuer=signer).decode()
    brought = ("authorization", f"Bearer {valid}")
    for by in ("orders", "gateway"):
        answer = request(mesh.service(by)["outbound"], "GET", "/items/1", "catalog", (brought,))
        assert answer.status == 200
        # The app learns who calls, and gets the token as it came.
        assert answer.echo["headers"]["x-authz-caller"] == ORDERS
        assert answer.echo["headers"]["authorization"] == brought[1]
    assert call(mesh, "gateway", ()) == (403, "no_policy")
    assert call(mesh, "orders", (("authorization", "Bearer opaque"),)) == (200, None)
    refused = {name: (each.decode(),) for name, each in invalid_tokens(signer).items()}
    refused |= {"in a second header": ("opaque", valid)}
    for name, tokens in refused.items():
        headers = tuple(("authorization", f"Bearer {each}") for each in tokens)
        for by in ("orders", "gateway"):
            assert call(mesh, by, headers) == (401, "unidentified"), (name, by)
            # The callee's sidecar refuses the same by it
            with tls_connection(catalog["inbound"], tls_context(mesh.service(by))) as connection:
                answer = raw_request(connection, "GET", "/items/1", "catalog", headers)
            assert (answer.status, answer.reason) == (401, "unidentified"), (name, by)
            assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    others = (("authorization", f"Bearer {token(GATEWAY, issuer=signer).decode()}"),)
    assert call(mesh, "orders", others) == (401, "unidentified"), "orders is no forwarder"
    records = [json.loads(line) for line in Path(catalog["decision_log"]).read_text().splitlines()]
    assert {(each["caller"]["identity"], each["caller"]["presented_by"]) for each in records} >= {
        (ORDERS, GATEWAY),
        (ORDERS, ORDERS),
        (ORDERS, None),
        (None, GATEWAY),
    }


@pytest.mark.envoy
@pytest.mark.parametrize("of", ["subject", "presenter", "certificate"])
def test_a_revoked_identity_is_refused_at_the_next_call_of_an_open_connection(
    mesh: LocalMesh, signer: TokenIssuer, of: str
) -> None:
    gateway = mesh.service("gateway")
    serial = x509.load_pem_x509_certificate(Path(gateway["certificate"]).read_bytes()).serial_number
    revoked = {"subject": ORDERS, "presenter": GATEWAY, "certificate": f"serial:shop.example/{serial:X}"}[of]
    brought = (("authorization", f"Bearer {token(issuer=signer).decode()}"),)
    with tls_connection(mesh.service("catalog")["inbound"], tls_context(gateway)) as connection:

        def answer() -> tuple[int, str | None]:
            told = raw_request(connection, "GET", "/items/1", "catalog", brought)
            return told.status, told.reason

        assert answer() == (200, None)
        policies_of(mesh.policies, revoked)
        try:
            assert eventually(lambda: answer() != (200, None), PATIENCE_S)
            assert [answer() for _ in range(5)] == [(401, "unidentified")] * 5
        finally:
            policies_of(mesh.policies)
        assert eventually(lambda: answer() == (200, None), PATIENCE_S)
