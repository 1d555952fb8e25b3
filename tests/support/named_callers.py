"""Callers without SPIFFE IDs: an authority of nobody's trust domain, what it issues, and what it takes back."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

HOUR = timedelta(hours=1)


def dns(*names: str) -> list[x509.GeneralName]:
    return [x509.DNSName(name) for name in names]


def uri(*names: str) -> list[x509.GeneralName]:
    return [x509.UniformResourceIdentifier(name) for name in names]


def usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def write(self, path: Path) -> str:
        """Give a file with both, for a client."""
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.write_bytes(self.pem + key)
        return str(path)


class CallersAuthority:
    """A root, or with `above` an intermediate, that signs callers' certificates."""

    def __init__(
        self,
        name: str = "partner authority",
        *,
        above: CallersAuthority | None = None,
        key: ec.EllipticCurvePrivateKey | None = None,
        lifetime: timedelta = timedelta(days=1),
        ca: bool = True,
        extensions: Sequence[x509.ExtensionType] = (),
    ) -> None:
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        self.subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder(
                subject_name=self.subject,
                issuer_name=self.subject if above is None else above.subject,
                public_key=self.key.public_key(),
            )
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - HOUR)
            .not_valid_after(now + lifetime)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(usage(ca=ca), critical=True)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=True)
        self.certificate = builder.sign(self.key if above is None else above.key, hashes.SHA256())

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def issue(
        self,
        names: Sequence[x509.GeneralName],
        *,
        begins: datetime | None = None,
        lifetime: timedelta = HOUR,
        purpose: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH,
        ca: bool = False,
        serial: int | None = None,
        extensions: Sequence[x509.ExtensionType] = (),
    ) -> Caller:
        key = ec.generate_private_key(ec.SECP256R1())
        begins = begins or datetime.now(UTC) - timedelta(minutes=1)
        builder = (
            x509.CertificateBuilder(
                subject_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "caller")]),
                issuer_name=self.subject,
                public_key=key.public_key(),
            )
            .serial_number(serial or x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(begins + lifetime)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(usage(ca=ca), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=True)
        return Caller(certificate=builder.sign(self.key, hashes.SHA256()), key=key)

    def revoke(self, *callers: Caller, lifetime: timedelta = HOUR) -> bytes:
        """Give the list of these, in PEM."""
        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.subject)
            .last_update(now - timedelta(minutes=1))
            .next_update(now + lifetime)
        )
        for caller in callers:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(caller.certificate.serial_number)
                .revocation_date(now - timedelta(minutes=1))
                .build()
            )
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)
