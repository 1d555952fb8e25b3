from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.verification import PolicyBuilder, Store

from authz.identity.authority import Authority, AuthorityError
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.identity.upstream_authority import MAX_UPSTREAM_BYTES, UpstreamAuthority
from tests.support.certificates import URI, key_usage
from tests.support.upstream_root import EC_KEY, NOW, root_pem

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

SHOP = TrustDomain.parse("shop.example")
ORDERS = SpiffeId.parse("spiffe://shop.example/ns/shop/sa/orders")
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
RSA_KEY = rsa.generate_private_key(65537, 2048)


@pytest.mark.parametrize("key", [EC_KEY, RSA_KEY])
@pytest.mark.parametrize("names", [(), ("spiffe://shop.example",)])
@pytest.mark.parametrize("key_identifier", [True, False])
def test_a_root_signs_an_intermediate_that_signs_leaves_that_are_verified_by_rfc_5280(
    key: CertificateIssuerPrivateKeyTypes,
    names: tuple[str, ...],
    key_identifier: bool,  # noqa: FBT001 a column of the table
) -> None:
    upstream = UpstreamAuthority.from_pem(root_pem(key=key, names=names, key_identifier=key_identifier))
    authority = Authority.generate(SHOP, NOW, DAY, upstream=upstream)
    leaf, intermediate = x509.load_pem_x509_certificates(authority.issue_x509_svid(ORDERS, NOW, HOUR).certificate_pem)
    assert authority.root == upstream.certificate
    (anchor,) = x509.load_pem_x509_certificates(authority.certificate_pem)
    verifier = PolicyBuilder().store(Store([anchor])).time(NOW).build_client_verifier()
    assert verifier.verify(leaf, [intermediate]).subjects == [x509.UniformResourceIdentifier(str(ORDERS))]
    ids = intermediate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(ids) == [URI("spiffe://shop.example")]


def test_an_intermediate_authority_ends_with_its_root_and_is_kept_with_it() -> None:
    upstream = UpstreamAuthority.from_pem(root_pem())
    authority = Authority.generate(SHOP, NOW, 365 * DAY, upstream=upstream)
    assert authority.not_after == upstream.not_after
    again = Authority.from_pem(authority.to_pem())
    assert again.to_pem() == authority.to_pem()
    assert again.root == upstream.certificate
    assert len(x509.load_pem_x509_certificates(again.issue_x509_svid(ORDERS, NOW, HOUR).certificate_pem)) == 2


def test_the_roots_key_is_not_kept_with_the_authority() -> None:
    upstream = UpstreamAuthority.from_pem(root_pem())
    secret = EC_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).splitlines()[1]
    assert secret in root_pem()
    assert secret not in Authority.generate(SHOP, NOW, DAY, upstream=upstream).to_pem()
    assert secret.decode() not in repr(upstream)


def test_a_root_of_another_trust_domain_signs_no_authority_of_ours() -> None:
    upstream = UpstreamAuthority.from_pem(root_pem(names=("spiffe://acme.example",)))
    with pytest.raises(AuthorityError, match=r"that of `acme\.example`, not of `shop\.example`"):
        Authority.generate(SHOP, NOW, DAY, upstream=upstream)


@pytest.mark.parametrize("now", [NOW - 2 * DAY, NOW + 11 * DAY])
def test_a_root_that_is_not_valid_signs_nothing(now: datetime) -> None:
    with pytest.raises(AuthorityError, match="not valid now"):
        Authority.generate(SHOP, now, DAY, upstream=UpstreamAuthority.from_pem(root_pem()))


@pytest.mark.parametrize(
    ("pem", "why"),
    [
        (b"", "not an upstream authority"),
        (b"x" * (MAX_UPSTREAM_BYTES + 1), f"at most {MAX_UPSTREAM_BYTES} bytes"),
        (root_pem().partition(b"-----BEGIN PRIVATE")[0], "not an upstream authority"),
        (root_pem(signed_by=RSA_KEY), "not an upstream authority"),
        (root_pem() + root_pem(), "one certificate, not 2"),
        (root_pem(ca=False, usage=key_usage("digital_signature")), "not a CA's"),
        (root_pem(usage=key_usage("crl_sign")), "not a CA's"),
        (root_pem(path_length=0), "path length is 0"),
        (root_pem(key=ed25519.Ed25519PrivateKey.generate()), "an ECDSA or an RSA key"),
        (root_pem(key=rsa.generate_private_key(65537, 1024)), "2048 bits at least"),  # noqa: S505 that is the point
        (root_pem(names=("spiffe://shop.example/ca",)), "has a path"),
        (root_pem(names=("spiffe://shop.example", "spiffe://acme.example")), "one URI at most, not 2"),
        (root_pem(names=("https://shop.example",)), "does not begin with"),
        (
            root_pem().partition(b"-----BEGIN PRIVATE")[0]
            + b"-----BEGIN PRIVATE"
            + root_pem(key=ec.generate_private_key(ec.SECP256R1())).partition(b"-----BEGIN PRIVATE")[2],
            "does not belong to its certificate",
        ),
    ],
)
def test_what_may_be_no_root_is_not_taken_for_one(pem: bytes, why: str) -> None:
    with pytest.raises(AuthorityError, match=why):
        UpstreamAuthority.from_pem(pem)
