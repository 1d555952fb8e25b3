"""Leaf certificates that an honest authority would never sign: each rule broken by name, everything else right."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Sequence

NOW = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
NOW_NS = int(NOW.timestamp()) * 1_000_000_000
SPIFFE_ID = "spiffe://shop.example/ns/shop/sa/orders"
SERIAL = 0x0ABC

_KEY = ec.generate_private_key(ec.SECP256R1())
_BOTH_ENDS = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)

URI = x509.UniformResourceIdentifier
DNS = x509.DNSName


def key_usage(*granted: str) -> x509.KeyUsage:
    """Give a key usage with only these bits, in the library's words (`digital_signature`, `key_cert_sign`, ...)."""
    names = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign "
        "crl_sign encipher_only decipher_only"
    )
    return x509.KeyUsage(**{name: name in granted for name in names.split()})


def leaf(
    names: Sequence[x509.GeneralName] | None = (URI(SPIFFE_ID),),
    *,
    names_critical: bool = True,
    subject: str | None = None,
    issuer: str = "some authority",
    constraints: x509.BasicConstraints | None = x509.BasicConstraints(ca=False, path_length=None),  # noqa: B008
    usage: x509.KeyUsage | None = key_usage("digital_signature"),  # noqa: B008 both are immutable
    usage_critical: bool = True,
    extended: Sequence[x509.ObjectIdentifier] | None = _BOTH_ENDS,
    extra: Sequence[tuple[x509.ExtensionType, bool]] = (),
    serial: int = SERIAL,
    not_before: datetime = NOW - timedelta(minutes=1),
    not_after: datetime = NOW + timedelta(hours=1),
) -> x509.Certificate:
    """Sign a leaf; `None` leaves an extension out."""
    subject_name = [] if subject is None else [x509.NameAttribute(NameOID.COMMON_NAME, subject)]
    builder = (
        x509.CertificateBuilder()
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .subject_name(x509.Name(subject_name))
        .public_key(_KEY.public_key())
        .serial_number(serial)
        .not_valid_before(not_before)
        .not_valid_after(not_after)
    )
    if constraints is not None:
        builder = builder.add_extension(constraints, critical=True)
    if usage is not None:
        builder = builder.add_extension(usage, critical=usage_critical)
    if extended is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False)
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=names_critical)
    for extension, critical in extra:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(_KEY, hashes.SHA256())


def pem(certificate: x509.Certificate) -> bytes:
    """Write a certificate as PEM."""
    return certificate.public_bytes(Encoding.PEM)


def der(certificate: x509.Certificate) -> bytes:
    """Write a certificate as DER."""
    return certificate.public_bytes(Encoding.DER)


def with_key(certificate: x509.Certificate) -> bytes:
    """Write a certificate of this module and its private key as PEM."""
    return pem(certificate) + _KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def with_serial_octet(octet: bytes, **validity: datetime) -> bytes:
    """Write a leaf as PEM whose serial number is this octet: no builder writes one that is not positive.

    Its signature is not right, which only a handshake would notice.
    """
    content = der(leaf(serial=0x4A, **validity))
    assert content.count(b"\x02\x01\x4a") == 1
    text = base64.encodebytes(content.replace(b"\x02\x01\x4a", b"\x02\x01" + octet))
    return b"-----BEGIN CERTIFICATE-----\n" + text + b"-----END CERTIFICATE-----\n"
