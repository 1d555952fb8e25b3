"""A company's own root, below which a trust domain's authorities may be: a right one, or one that breaks a rule."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.support.certificates import URI, key_usage

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

NOW = datetime(2026, 6, 1, 12, 0, 0, 123456, tzinfo=UTC)
BEGINS, ENDS = NOW - timedelta(days=1), NOW.replace(microsecond=0) + timedelta(days=10)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def root_pem(
    *,
    key: CertificateIssuerPrivateKeyTypes = EC_KEY,
    names: tuple[str, ...] = (),
    path_length: int | None = None,
    usage: x509.KeyUsage | None = None,
    ca: bool = True,
    key_identifier: bool = True,
    not_before: datetime = BEGINS,
    not_after: datetime = ENDS,
    signed_by: CertificateIssuerPrivateKeyTypes | None = None,
) -> bytes:
    """Write a self-signed root and its key as PEM."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "the company")])
    builder = (
        x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=key.public_key())
        .serial_number(7)
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
        .add_extension(usage or key_usage("key_cert_sign"), critical=True)
    )
    if key_identifier:
        builder = builder.add_extension(x509.SubjectKeyIdentifier(b"of its own kind"), critical=False)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([URI(each) for each in names]), critical=False)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    certificate = builder.sign(signed_by or key, algorithm)
    return certificate.public_bytes(Encoding.PEM) + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
