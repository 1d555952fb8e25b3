"""A real Envoy, sidecar and app, and certificates that are good in the handshake and no good for a call."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
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
from authz.proxy.spec import SidecarSpec, TrustBundle
from authz.proxy.tls import svid_secret
from authz.svid_files import write_svid
from tests.support.echo_process import EchoProcess
from tests.support.envoy_process import EnvoyProcess
from tests.support.local_mesh import raw_request, tls_connection, tls_context
from tests.support.policy_sets import ORDERS_AND_CATALOG, ORDERS_READ_CATALOG, write
from tests.support.sidecar_process import SidecarProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.envoy


@pytest.fixture
def authority() -> Authority:
    return Authority.generate(TrustDomain.parse("shop.example"), datetime.now(UTC), timedelta(hours=1))


@pytest.fixture
def inbound(tmp_path: Path, authority: Authority) -> Iterator[str]:
    """Give the address of catalog's inbound listener."""
    policies = Path(write(tmp_path / "policies", *ORDERS_AND_CATALOG, ORDERS_READ_CATALOG))
    catalog = SpiffeId.parse("spiffe://shop.example/catalog")
    svids = tmp_path / "svids"
    write_svid(
        svids,
        authority.issue_x509_svid(catalog, datetime.now(UTC), timedelta(hours=1)),
        authority.certificate_pem,
    )
    (tmp_path / "svid.json").write_text(svid_secret(str(svids)))
    with contextlib.ExitStack() as stack:
        reserved = stack.enter_context(socket.socket())
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        app = stack.enter_context(EchoProcess(service="catalog", folder=tmp_path))
        sidecar = stack.enter_context(
            SidecarProcess(
                "--decision-log", str(tmp_path / "decisions"), service="catalog", policies=policies, folder=tmp_path
            )
        )
        sidecar.wait_for("READY=1")
        spec = SidecarSpec(
            service="catalog",
            identity=str(catalog),
            svid_directory=str(svids),
            svid_secret_file=str(tmp_path / "svid.json"),
            trust_domains=(TrustBundle(trust_domain="shop.example", file=str(svids / "bundle.pem")),),
            inbound=TcpAddress(host="127.0.0.1", port=reserved.getsockname()[1]),
            outbound=UnixAddress(path=str(tmp_path / "outbound")),
            app=TcpAddress(host="127.0.0.1", port=app.address[1]),
            admin=UnixAddress(path=str(tmp_path / "admin")),
            authz_sockets=(str(sidecar.socket),),
        )
        configuration = tmp_path / "envoy.json"
        configuration.write_text(sidecar_bootstrap(spec))
        stack.enter_context(EnvoyProcess(configuration, str(tmp_path / "admin")))
        yield str(spec.inbound)


def test_an_svid_that_runs_out_on_a_kept_alive_connection_is_refused_at_the_next_call(
    inbound: str, authority: Authority, tmp_path: Path
) -> None:
    svid = authority.issue_x509_svid(
        SpiffeId.parse("spiffe://shop.example/orders"), datetime.now(UTC), timedelta(seconds=4)
    )
    write_svid(tmp_path / "orders", svid, authority.certificate_pem)
    context = tls_context(certificate=str(tmp_path / "orders/svid.pem"), key=str(tmp_path / "orders/key.pem"))
    with tls_connection(inbound, context) as connection:
        first = raw_request(connection, "GET", "/items/1", "catalog")
        assert first.status == 200
        left_s = (svid.not_after - datetime.now(UTC)).total_seconds()
        time.sleep(left_s + 0.2)  # the clock is what is tested
        second = raw_request(connection, "GET", "/items/1", "catalog")
    assert (second.status, second.reason) == (401, "unidentified")
    assert second.headers["www-authenticate"]
    allowed, denied = [json.loads(line) for line in (tmp_path / "decisions").read_text().splitlines()]
    assert (allowed["reason"], denied["reason"]) == ("allowed", "unidentified")
    assert denied["caller"]["identity"] is None
    assert denied["caller"]["address"] == allowed["caller"]["address"]


def test_a_certificate_with_two_spiffe_ids_is_nobodys(inbound: str, authority: Authority, tmp_path: Path) -> None:
    # Envoy's validator takes the first of them; the check does not take it at all.
    twice = tmp_path / "twice.pem"
    twice.write_bytes(signed_by(authority, ("spiffe://shop.example/orders", "spiffe://shop.example/catalog")))
    with tls_connection(inbound, tls_context(certificate=str(twice), key=str(twice))) as connection:
        answer = raw_request(connection, "GET", "/items/1", "catalog")
    assert (answer.status, answer.reason) == (401, "unidentified")


def test_a_certificate_whose_serial_is_not_positive_is_nobodys(
    inbound: str, authority: Authority, tmp_path: Path
) -> None:
    # RFC 5280 4.1.2.2; Envoy takes it in the handshake. The one that differs in its serial alone is let through.
    answers = []
    for octet in (b"\x02", b"\x00", b"\xff"):
        odd = tmp_path / "odd.pem"
        odd.write_bytes(
            with_serial(authority, signed_by(authority, ("spiffe://shop.example/orders",), serial=1), octet)
        )
        with tls_connection(inbound, tls_context(certificate=str(odd), key=str(odd))) as connection:
            answer = raw_request(connection, "GET", "/items/1", "catalog")
        answers.append((answer.status, answer.reason))
    assert answers == [(200, None), (401, "unidentified"), (401, "unidentified")]


def with_serial(authority: Authority, pem: bytes, octet: bytes) -> bytes:
    """Sign a certificate (and key, PEM) again after its serial number was replaced, which no builder would do."""
    certificate = x509.load_pem_x509_certificate(pem)
    signer = load_pem_private_key(authority.to_pem(), password=None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    before = certificate.tbs_certificate_bytes
    head = before.index(b"\xa0\x03\x02\x01\x02\x02\x01\x01")
    content = before[: head + 7] + octet + before[head + 8 :]
    signature = signer.sign(content, ec.ECDSA(hashes.SHA256()))
    # RFC 5280 4.1.1: what is signed, ecdsa-with-SHA256, and the signature as a bit string
    whole = content + bytes.fromhex("300a06082a8648ce3d040302") + _der(0x03, b"\0" + signature)
    text = base64.encodebytes(_der(0x30, whole)).decode()
    key = pem[pem.index(b"-----BEGIN PRIVATE KEY-----") :]
    return f"-----BEGIN CERTIFICATE-----\n{text}-----END CERTIFICATE-----\n".encode() + key


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 128 else b"\x82" + size.to_bytes(2, "big") if size > 255 else bytes([0x81, size])
    return bytes([tag]) + length + content


def signed_by(authority: Authority, identities: tuple[str, ...], *, serial: int | None = None) -> bytes:
    """Sign, with an authority's own key, a leaf that it would never issue; gives certificate and key as PEM."""
    pem = authority.to_pem()
    signer = load_pem_private_key(pem, password=None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    certificate = (
        x509.CertificateBuilder()
        .issuer_name(x509.load_pem_x509_certificate(authority.certificate_pem).subject)
        .subject_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(minutes=30))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, **usage), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(each) for each in identities]), critical=True
        )
        .sign(signer, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM) + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def test_bytes_that_are_no_utf8_are_refused_as_malformed(inbound: str, authority: Authority, tmp_path: Path) -> None:
    svid = authority.issue_x509_svid(
        SpiffeId.parse("spiffe://shop.example/orders"), datetime.now(UTC), timedelta(hours=1)
    )
    write_svid(tmp_path / "orders", svid, authority.certificate_pem)
    context = tls_context(certificate=str(tmp_path / "orders/svid.pem"), key=str(tmp_path / "orders/key.pem"))
    for target in ("/items/\xff", "/items/%ff", "/items/\xc3\xa9"):
        with tls_connection(inbound, context) as connection:
            answer = raw_request(connection, "GET", target, "catalog")
        assert answer.status == 400
        assert answer.reason in {"malformed", None}  # None: Envoy's own parser had refused it already
    for name, value in (("x-a", "\xff\xfe"), ("user-agent", "\xe9"), ("x-request-id", "\xff" * 300)):
        with tls_connection(inbound, context) as connection:
            assert raw_request(connection, "GET", "/items/1", "catalog", ((name, value),)).status == 200
