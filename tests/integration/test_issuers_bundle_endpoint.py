"""The issuer's bundle endpoint, as its command starts it, and another issuer that federates with it."""

from __future__ import annotations

import asyncio
import http.client
import re
import ssl
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from authz.federation.bundle_client import BundleClient
from authz.federation.errors import FederationError
from authz.federation.relationship import Endpoint
from authz.identity.bundle import Bundle, bundle_from_json
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.identity.trust import Trust
from tests.support.bundle_site import web_certificate
from tests.support.issuer_process import MESH, PATIENCE_S, Issuer, service
from tests.support.partner import new_authority

if TYPE_CHECKING:
    from pathlib import Path

SHOP = TrustDomain.parse("shop.example")
SERVER = SpiffeId.parse("spiffe://shop.example/authz/bundle-endpoint")
ENDPOINT = ("--bundle-endpoint", "127.0.0.1:0")


def fetched(port: int, server: SpiffeId | None, trust: Trust, *, web_roots: Path | None = None) -> Bundle:
    endpoint = Endpoint(url=f"https://localhost:{port}/", server=server)
    return bundle_from_json(asyncio.run(BundleClient(web_roots=web_roots).fetch(endpoint, trust)), SHOP)


def port_of(issuer: Issuer) -> int:
    return int(re.findall(r"the bundle endpoint listens on port (\d+)", issuer.logged())[-1])


def looked_up(port: int) -> bytes:
    """Get the document as an operator may who compares it on another way: from whoever answers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=PATIENCE_S, context=context)
    connection.request("GET", "/")
    document = connection.getresponse().read()
    connection.close()
    return document


def test_the_issuer_serves_its_bundle_and_proves_itself_by_its_own_svid() -> None:
    with Issuer(MESH, service("orders"), arguments=ENDPOINT) as issuer:
        port = port_of(issuer)
        known = bundle_from_json(looked_up(port), SHOP)
        assert known.sequence is not None
        assert known.refresh_hint is not None
        assert fetched(port, SERVER, Trust.of([known])) == known
        with pytest.raises(FederationError, match="the server is"):
            fetched(port, SpiffeId.parse("spiffe://shop.example/ns/shop/sa/orders"), Trust.of([known]))


def test_the_issuer_serves_its_bundle_by_a_certificate_of_the_web(tmp_path: Path) -> None:
    web = new_authority(TrustDomain.parse("web-pki.example"))
    certificate = web_certificate(web)
    (tmp_path / "roots.pem").write_bytes(web.certificate_pem)
    (tmp_path / "tls.pem").write_bytes(certificate.certificate_pem + certificate.key_pem)
    arguments = (*ENDPOINT, "--bundle-endpoint-profile", "https_web")
    arguments += ("--bundle-endpoint-certificate", str(tmp_path / "tls.pem"))
    with Issuer(MESH, service("orders"), arguments=arguments) as issuer:
        bundle = fetched(port_of(issuer), None, Trust.of(()), web_roots=tmp_path / "roots.pem")
        assert bundle.x509_authorities
        assert "PRIVATE KEY" not in issuer.logged()


def test_an_issuer_follows_the_bundle_of_another_one() -> None:
    with Issuer(MESH, service("orders"), arguments=ENDPOINT) as shop:
        port = port_of(shop)
        federation = f"""\
apiVersion: authz/v1
kind: Mesh
metadata: {{name: mesh}}
spec:
  trustDomains: [acme.example]
  federates:
    - trustDomain: shop.example
      bundle: shop.json
      endpoint: {{url: "https://localhost:{port}/", profile: https_spiffe, spiffeId: "{SERVER}"}}
"""
        acme = Issuer(federation, service("partner", identity="spiffe://acme.example/partner"), keep=True)
        (acme.policies / "shop.json").write_bytes(looked_up(port))
        with acme:
            kept = acme.state / "federation/federated-bundles/shop.example.json"
            end_s = time.monotonic() + PATIENCE_S
            while not kept.exists():
                assert time.monotonic() < end_s, acme.logged()
                time.sleep(0.05)
            assert "the bundle of `shop.example` was fetched from" in acme.logged()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--bundle-endpoint", "here"), "is not HOST:PORT"),
        (("--bundle-endpoint", "127.0.0.1:65536"), "is not HOST:PORT"),
        ((*ENDPOINT, "--bundle-endpoint-profile", "https_web"), "give --bundle-endpoint-certificate"),
        ((*ENDPOINT, "--bundle-endpoint-certificate", "x"), "with a certificate say https_web"),
        (("--bundle-endpoint-key", "x"), "need --bundle-endpoint HOST:PORT"),
    ],
)
def test_arguments_that_do_not_fit_are_an_error_of_use(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    given = ["--policies", str(tmp_path), "--socket", str(tmp_path / "w.sock"), "--in-memory", *arguments]
    done = subprocess.run(
        [sys.executable, "-m", "authz", "identity", "serve", *given], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert words in done.stderr
