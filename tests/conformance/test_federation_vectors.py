"""Federation, Workload API and Workload Endpoint, requirement by requirement, as far as values decide them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from authz.errors import AuthzError
from authz.federation.endpoint_tls import require_server
from authz.federation.endpoint_url import endpoint_url, redirected_url
from authz.federation.freshness import require_successor
from authz.identity.bundle import Bundle
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.identity.trust import Trust
from authz.workload_api.endpoint import grpc_target
from authz.workload_api.errors import WorkloadApiError
from authz.workload_api.messages import X509SVID, X509SVIDResponse
from authz.workload_api.received import InvalidMessageError, received_x509
from tests.support.identity_descriptions import NOW, Certificates, key

FOLDER = Path(__file__).with_name("identity")
FEDERATION = yaml.safe_load((FOLDER / "federation.yaml").read_text())
ENDPOINT = yaml.safe_load((FOLDER / "workload_endpoint.yaml").read_text())
WORKLOAD_API = yaml.safe_load((FOLDER / "workload_api.yaml").read_text())
SHOP = TrustDomain(name="shop.example")
SERVER = SpiffeId.parse("spiffe://shop.example/bundle-server")


def named(cases: list[dict[str, Any]]) -> list[Any]:
    words = [str(each.get("name", each.get("redirect", each.get("url", each.get("address"))))) for each in cases]
    return [
        pytest.param(case, id=f"{case['for']} {number} {word}".encode("unicode_escape").decode())
        for number, (case, word) in enumerate(zip(cases, words, strict=True))
    ]


def _judge(case: dict[str, Any]) -> None:
    match case:
        case {"redirect": location, "url": url}:
            assert redirected_url(endpoint_url(url), location).scheme == "https"
        case {"url": url}:
            assert endpoint_url(url).scheme == "https"
        case {"server": server}:
            certificates = Certificates(FEDERATION["certificates"])
            trust = Trust.of([Bundle(trust_domain=SHOP, x509_authorities=(certificates["root"],))])
            require_server(
                [certificates.der(server)], SpiffeId.parse("spiffe://shop.example/bundle-server"), trust, NOW
            )
        case {"known": known, "fetched": fetched}:
            require_successor(_bundle(known), _bundle(fetched))
        case {"bundles": bundles}:
            Trust({TrustDomain(name=name): Bundle(trust_domain=TrustDomain(name=of)) for name, of in bundles.items()})


def _bundle(described: dict[str, Any]) -> Bundle:
    keys = {name: key(f"p256-{name}").public_key() for name in described["keys"]}
    return Bundle(trust_domain=SHOP, jwt_authorities=keys, sequence=described.get("sequence"))


@pytest.mark.parametrize("case", named(FEDERATION["cases"]))
def test_federation(case: dict[str, Any]) -> None:
    if case["expect"] == "accepted":
        _judge(case)
        return
    with pytest.raises(AuthzError) as refused:
        _judge(case)
    assert case["rule"] in str(refused.value)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("case", named(ENDPOINT["cases"]))
def test_workload_endpoint(case: dict[str, Any]) -> None:
    if case["expect"] != "refused":
        assert grpc_target(case["address"]) == case["expect"]
        return
    with pytest.raises(WorkloadApiError) as refused:
        grpc_target(case["address"])
    assert str(refused.value).isprintable()


def _message(case: dict[str, Any], certificates: Certificates) -> X509SVIDResponse:
    def der(names: list[str]) -> bytes:
        return b"".join(map(certificates.der, names))

    svids = [
        X509SVID(
            spiffe_id=one["id"],
            x509_svid=der(one["chain"]),
            x509_svid_key=key(one["key"]).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
            bundle=der(one["bundle"]),
            hint=one.get("hint", ""),
        )
        for one in case["svids"]
    ]
    return X509SVIDResponse(
        svids=svids, federated_bundles={name: der(names) for name, names in case.get("federated", {}).items()}
    )


@pytest.mark.parametrize("case", named([each for each in WORKLOAD_API["cases"] if "svids" in each]))
def test_workload_api(case: dict[str, Any]) -> None:
    message = _message(case, Certificates(WORKLOAD_API["certificates"]))
    if "refused" in case:
        with pytest.raises(InvalidMessageError) as refused:
            received_x509(message, NOW)
        assert case["refused"] in str(refused.value)
        assert str(refused.value).isprintable()
        return
    received = received_x509(message, NOW)
    assert [str(each.spiffe_id) for each in received.svids] == case["gives"]
    assert sorted(map(str, received.trust.bundles)) == sorted(case.get("trusts", ["shop.example"]))
