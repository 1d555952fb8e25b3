"""An SVID with its key: fit to be presented, and silent about the key."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from authz.identity.bundle import bundle_from_pem
from authz.identity.held_svid import HeldSvid, HeldSvidError
from authz.identity.spiffe_id import TrustDomain
from authz.identity.trust import Trust
from authz.identity.x509_svid import X509SvidError
from tests.support.workload_api_messages import ORDERS, authority, der, issued, key_der, texts_of_key

SHOP = authority()
MADE = issued(SHOP)
CHAIN = (der(MADE.certificate_pem),)
KEY = key_der(MADE.key_pem)
TRUST = Trust.of([bundle_from_pem(SHOP.certificate_pem, TrustDomain.parse("shop.example"))])


def held(key: bytes = KEY) -> HeldSvid:
    return HeldSvid.of(CHAIN, key, TRUST, datetime.now(UTC))


@pytest.mark.parametrize("key", [KEY, MADE.key_pem])
def test_a_chain_and_its_key_are_held_and_written_as_pem(key: bytes) -> None:
    svid = held(key)
    assert str(svid.spiffe_id) == ORDERS
    assert x509.load_pem_x509_certificate(svid.certificate_pem) == x509.load_pem_x509_certificate(MADE.certificate_pem)
    assert key_der(svid.key_pem) == KEY
    assert svid.key_pem.startswith(b"-----BEGIN PRIVATE KEY-----\n")


def test_the_key_is_in_no_text_of_it() -> None:
    assert not any(text in repr(held()) for text in texts_of_key(KEY))


@pytest.mark.parametrize(
    "key",
    [
        b"",
        KEY[:-1],
        key_der(issued(SHOP).key_pem),
        ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        load_pem_private_key(MADE.key_pem, None)
        .public_key()
        .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    ],
    ids=("none", "cut", "of another", "of another kind", "public"),
)
def test_another_key_is_refused_without_a_word_of_it(key: bytes) -> None:
    with pytest.raises(HeldSvidError) as raised:
        held(key)
    assert raised.value.__cause__ is None
    assert not any(text and text in repr(raised.value) for text in texts_of_key(key) if len(key) > 60)


def test_a_chain_of_another_authority_is_refused() -> None:
    other = Trust.of([bundle_from_pem(authority().certificate_pem, TrustDomain.parse("shop.example"))])
    with pytest.raises(X509SvidError):
        HeldSvid.of(CHAIN, KEY, other, datetime.now(UTC))
