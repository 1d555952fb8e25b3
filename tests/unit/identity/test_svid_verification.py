from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from authz.identity.authority import Authority
from authz.identity.bundle import Bundle, BundleError, bundle_from_json, bundle_from_pem, jwt_bundle_from_json
from authz.identity.jwt_svid import JwtSvidError, verify_jwt_svid
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.identity.trust import Trust
from authz.identity.x509_chain import chain_from_pem, verify_x509_svid
from authz.identity.x509_svid import X509SvidError

if TYPE_CHECKING:
    from authz.identity.public_key import PublicKey

SHOP, ACME = TrustDomain(name="shop.example"), TrustDomain(name="acme.example")
ORDERS = SpiffeId.parse("spiffe://shop.example/orders")
NOW = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
NOW_S = int(NOW.timestamp())
NOW_NS = NOW_S * 1_000_000_000

EC_KEYS = {
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
}
RSA_KEY = rsa.generate_private_key(65537, 2048)
ALGORITHMS = [*EC_KEYS, "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]


def _key(algorithm: str) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    return EC_KEYS.get(algorithm, RSA_KEY)


def _keys() -> dict[str, PublicKey]:
    return {name: _key(name).public_key() for name in ALGORITHMS}


def _authority(trust_domain: TrustDomain) -> tuple[Authority, Bundle]:
    authority = Authority.generate(trust_domain, NOW, timedelta(days=1))
    return authority, bundle_from_pem(authority.certificate_pem, trust_domain)


def test_a_chain_proves_what_its_own_trust_domains_authority_has_issued() -> None:
    authority, bundle = _authority(SHOP)
    issued = authority.issue_x509_svid(ORDERS, NOW, timedelta(hours=1))
    svid = verify_x509_svid(chain_from_pem(issued.certificate_pem), Trust.of([bundle]), NOW)
    assert svid.spiffe_id == ORDERS


def test_no_bundle_of_another_trust_domain_proves_anything() -> None:
    authority, bundle = _authority(SHOP)
    chain = chain_from_pem(authority.issue_x509_svid(ORDERS, NOW, timedelta(hours=1)).certificate_pem)
    misplaced = Bundle(trust_domain=ACME, x509_authorities=bundle.x509_authorities)
    for trust in (Trust.of([]), Trust.of([misplaced]), Trust.of([bundle]).without(SHOP)):
        with pytest.raises(X509SvidError, match="no bundle of the trust domain `shop\\.example`"):
            verify_x509_svid(chain, trust, NOW)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_token_proves_what_it_says_under_each_algorithm_with_and_without_a_key_id(algorithm: str) -> None:
    keys = _keys() if algorithm in EC_KEYS else {"RS256": RSA_KEY.public_key()}
    trust = Trust.of([Bundle(trust_domain=SHOP, jwt_authorities=keys)])
    claims = {"sub": str(ORDERS), "aud": ["stock", "catalog"], "exp": NOW_S + 60, "iat": NOW_S}
    for headers in ({"kid": algorithm if algorithm in keys else "RS256"}, {}):
        token = jwt.encode(claims, _key(algorithm), algorithm=algorithm, headers=headers)
        svid = verify_jwt_svid(token, trust, "catalog", NOW_NS)
        assert (svid.spiffe_id, svid.audience) == (ORDERS, ("stock", "catalog"))
        assert svid.expires_ns == NOW_NS + 60_000_000_000
        assert svid.key_id in keys
        with pytest.raises(JwtSvidError, match="audience"):
            verify_jwt_svid(token, trust, "shop", NOW_NS)
        with pytest.raises(JwtSvidError, match="no bundle"):
            verify_jwt_svid(token, trust.without(SHOP), "catalog", NOW_NS)


def test_a_bundle_is_the_same_after_it_was_written_and_read() -> None:
    _, bundle = _authority(SHOP)
    whole = Bundle(
        trust_domain=SHOP,
        x509_authorities=bundle.x509_authorities,
        jwt_authorities=_keys(),
        sequence=2**64 - 1,
        refresh_hint=timedelta(minutes=5),
    )
    assert bundle_from_json(whole.to_json(), SHOP) == whole
    assert bundle_from_pem(whole.x509_pem, SHOP) == bundle
    assert jwt_bundle_from_json(whole.to_jwks(), SHOP) == Bundle(trust_domain=SHOP, jwt_authorities=_keys())


def test_a_trust_domain_never_has_two_bundles() -> None:
    (_, one), (_, other) = _authority(SHOP), _authority(SHOP)
    with pytest.raises(BundleError, match="never merged"):
        Trust.of([one, other])
    assert Trust.of([one]).replace(other).bundle(SHOP) == other
