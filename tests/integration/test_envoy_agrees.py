"""The certificates of the vectors through a real Envoy's SPIFFE validator: its verdict and ours.

One Envoy, one listener: each case has a filter chain of its own, chosen by the name that the client asks for.
"""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import ssl
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from authz.identity.bundle import Bundle, bundle_from_pem
from authz.identity.spiffe_id import TrustDomain
from authz.identity.trust import Trust
from authz.identity.x509_chain import verify_x509_svid
from authz.identity.x509_svid import X509SvidError
from tests.support.envoy_process import PATIENCE_S, EnvoyProcess
from tests.support.identity_descriptions import Certificates

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.envoy

VECTORS = yaml.safe_load((Path(__file__).parents[1] / "conformance/identity/x509_svid.yaml").read_text())
#: what is decided in one second is past before a handshake is
CASES = [each for each in VECTORS["cases"] if "at_once" not in each]
SHOP, ACME = "shop.example", "acme.example"
_TYPE = "type.googleapis.com/envoy."


@cache
def now() -> datetime:
    """Give when the first case was made: in a long run of all tests the modules were read long before."""
    return datetime.now(UTC).replace(microsecond=0)


def certificates_of(case: dict[str, Any]) -> Certificates:
    described = {**VECTORS["certificates"], **case.get("certificates", {})}
    return Certificates({**described, **({"leaf": case["leaf"]} if "leaf" in case else {})}, now())


def bundles_of(case: dict[str, Any], certificates: Certificates) -> dict[str, bytes]:
    """Give the trust bundles in PEM; an empty one is none to Envoy."""
    shop = b"".join(certificates[name].public_bytes(Encoding.PEM) for name in case.get("bundle", ["root"]))
    acme = certificates["other"].public_bytes(Encoding.PEM)
    return {SHOP: shop, ACME: acme} if shop else {ACME: acme}


def _inline(content: bytes) -> dict[str, str]:
    return {"inline_bytes": base64.b64encode(content).decode()}


def _private(certificates: Certificates, name: str) -> bytes:
    return certificates.key_of(name).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _filter_chain(number: int, case: dict[str, Any]) -> dict[str, Any]:
    certificates = certificates_of(case)
    server = Certificates({"root": {"signer": True}, "server": {"uris": ["spiffe://shop.example/server"]}}, now())
    domains = [{"name": name, "trust_bundle": _inline(pem)} for name, pem in bundles_of(case, certificates).items()]
    validator = {
        "name": "envoy.tls.cert_validator.spiffe",
        "typed_config": {
            "@type": f"{_TYPE}extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig",
            "trust_domains": domains,
        },
    }
    context = {
        "@type": f"{_TYPE}extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3"},
            "tls_certificates": [
                {
                    "certificate_chain": _inline(server["server"].public_bytes(Encoding.PEM)),
                    "private_key": _inline(_private(server, "server")),
                }
            ],
            "validation_context": {"custom_validator_config": validator},
        },
    }
    echo = {"@type": f"{_TYPE}extensions.filters.network.echo.v3.Echo"}
    return {
        "filter_chain_match": {"server_names": [f"case-{number}.example"]},
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context},
        "filters": [{"name": "envoy.filters.network.echo", "typed_config": echo}],
    }


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    folder = tmp_path_factory.mktemp("envoy")
    with contextlib.ExitStack() as stack:
        reserved = stack.enter_context(socket.socket())
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        inspector = {"@type": f"{_TYPE}extensions.filters.listener.tls_inspector.v3.TlsInspector"}
        bootstrap = {
            "admin": {"address": {"pipe": {"path": str(folder / "admin")}}},
            "static_resources": {
                "listeners": [
                    {
                        "name": "cases",
                        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                        "listener_filters": [{"name": "tls_inspector", "typed_config": inspector}],
                        "filter_chains": [_filter_chain(number, case) for number, case in enumerate(CASES)],
                    }
                ]
            },
        }
        (folder / "envoy.json").write_text(json.dumps(bootstrap))
        stack.enter_context(EnvoyProcess(folder / "envoy.json", str(folder / "admin")))
        yield "127.0.0.1", port


def envoys_verdict(listener: tuple[str, int], number: int, case: dict[str, Any], folder: Path) -> str:
    certificates = certificates_of(case)
    chain = case.get("chain", ["leaf"])
    presented = folder / "presented.pem"
    presented.write_bytes(
        b"".join(certificates[name].public_bytes(Encoding.PEM) for name in chain) + _private(certificates, chain[0])
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # weak keys are for Envoy to refuse
    context.load_cert_chain(presented)
    try:
        with (
            socket.create_connection(listener, timeout=PATIENCE_S) as plain,
            context.wrap_socket(plain, server_hostname=f"case-{number}.example") as connection,
        ):
            # With TLS 1.3 the client is done before the server has judged: only an answer shows that it let us in.
            connection.sendall(b"accepted")
            return connection.recv(100).decode() or "refused"
    except (ssl.SSLError, ConnectionError):
        return "refused"


def our_verdict(case: dict[str, Any]) -> str:
    certificates = certificates_of(case)
    bundles: list[Bundle] = [
        bundle_from_pem(pem, TrustDomain(name=name)) for name, pem in bundles_of(case, certificates).items()
    ]
    try:
        verify_x509_svid([certificates.der(name) for name in case.get("chain", ["leaf"])], Trust.of(bundles), now())
    except X509SvidError:
        return "refused"
    return "accepted"


@pytest.mark.parametrize(
    ("number", "case"),
    [pytest.param(number, case, id=f"{case['for']} {case['name']}") for number, case in enumerate(CASES)],
)
def test_envoys_verdict_is_ours_or_ours_is_the_stricter_one(
    listener: tuple[str, int], number: int, case: dict[str, Any], tmp_path: Path
) -> None:
    assert our_verdict(case) == case["expect"]
    assert envoys_verdict(listener, number, case, tmp_path) == case.get("envoy", case["expect"])


def test_nothing_that_envoy_refuses_is_accepted_here() -> None:
    assert not [each["name"] for each in CASES if each["expect"] == "accepted" and "envoy" in each]
    assert {each["envoy"] for each in CASES if "envoy" in each} == {"accepted"}
