"""Messages of a Workload API with real SVIDs of a real authority."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from authz.identity.authority import Authority
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.workload_api.messages import X509SVID, X509SVIDResponse

if TYPE_CHECKING:
    from authz.identity.authority import IssuedSvid

ORDERS = "spiffe://shop.example/ns/shop/sa/orders"


def authority(trust_domain: str = "shop.example") -> Authority:
    return Authority.generate(TrustDomain.parse(trust_domain), datetime.now(UTC), timedelta(days=1))


def issued(by: Authority, spiffe_id: str = ORDERS, lifetime: timedelta = timedelta(hours=1)) -> IssuedSvid:
    return by.issue_x509_svid(SpiffeId.parse(spiffe_id), datetime.now(UTC), lifetime)


def der(pem: bytes) -> bytes:
    """Give the certificates of a PEM text one after the other."""
    certificates = x509.load_pem_x509_certificates(pem)
    return b"".join(each.public_bytes(Encoding.DER) for each in certificates)


def key_der(pem: bytes) -> bytes:
    key = load_pem_private_key(pem, password=None)
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def svid(
    by: Authority,
    whose: str = ORDERS,
    /,
    *,
    hint: str = "",
    lifetime: timedelta = timedelta(hours=1),
    **altered: str | bytes,
) -> X509SVID:
    """Give an SVID as it is sent; `altered` fields stand in the place of the right ones."""
    made = issued(by, whose, lifetime)
    fields: dict[str, str | bytes] = {
        "spiffe_id": whose,
        "x509_svid": der(made.certificate_pem),
        "x509_svid_key": key_der(made.key_pem),
        "bundle": der(by.certificate_pem),
        "hint": hint,
        **altered,
    }
    return X509SVID(**fields)


def response(*svids: X509SVID, federated: dict[str, bytes] | None = None) -> X509SVIDResponse:
    return X509SVIDResponse(svids=svids, federated_bundles=federated or {})


def texts_of_key(key: bytes) -> tuple[str, ...]:
    """Give how a key would look in a text that it must not be in."""
    encoded = base64.b64encode(key).decode()
    return encoded[40:80], repr(key)[20:60], key.hex()[40:80]
