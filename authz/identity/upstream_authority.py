"""A root that somebody else keeps: it signs the certificates of a trust domain's own authorities, which issue SVIDs.

Decides which certificates may be such a root, and what an intermediate CA below it is like. The root signs nothing else
here: no SVID, no token.

# INVARIANT (own trust domain): a root that names a trust domain signs for that one only.
# INVARIANT (nested validity): no intermediate begins before or ends after its root.

https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from authz.identity.authority import BACKDATED, key_usage
from authz.identity.errors import AuthorityError, quoted
from authz.identity.spiffe_id import SpiffeId, SpiffeIdError, TrustDomain

if TYPE_CHECKING:
    from datetime import datetime, timedelta

#: A certificate and an RSA-4096 key take 6 KiB.
MAX_UPSTREAM_BYTES: Final = 64 * 1024
#: NIST SP 800-57: less is not to be signed with
_MIN_RSA_BITS: Final = 2048


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UpstreamAuthority:
    """A self-signed CA certificate below which there may be another CA, and its key."""

    certificate: x509.Certificate = field(repr=False)
    _trust_domain: TrustDomain | None
    _key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = field(repr=False)

    @classmethod
    def generate(cls, now: datetime, lifetime: timedelta) -> UpstreamAuthority:
        """Make a new root, of no trust domain in particular, with room for one CA below it."""
        key = ec.generate_private_key(ec.SECP256R1())
        key_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"picoseg root {key_id.digest.hex()[:16]}")])
        certificate = (
            x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now.replace(microsecond=0) - BACKDATED)
            .not_valid_after(now.replace(microsecond=0) + lifetime)
            .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
            .add_extension(key_usage(signs_certificates=True), critical=True)
            .add_extension(key_id, critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate=certificate, _trust_domain=None, _key=key)

    def to_pem(self) -> bytes:
        """Give certificate and private key, for keeping: a secret."""
        key = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return self.certificate.public_bytes(Encoding.PEM) + key

    @classmethod
    def from_pem(cls, pem: bytes) -> UpstreamAuthority:
        """Read a root certificate and its unencrypted key, in PEM; raises AuthorityError."""
        if len(pem) > MAX_UPSTREAM_BYTES:
            raise AuthorityError(f"an upstream authority has at most {MAX_UPSTREAM_BYTES} bytes, not {len(pem)}")
        try:
            key = load_pem_private_key(pem, password=None)
            certificates = x509.load_pem_x509_certificates(pem)
            for certificate in certificates:
                certificate.verify_directly_issued_by(certificate)
            extensions = certificates[0].extensions
            signed_for = certificates[0].public_key()
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.InvalidVersion) as exc:
            raise AuthorityError(
                "not an upstream authority: a self-signed CA certificate and its unencrypted key, in PEM"
            ) from exc
        if len(certificates) != 1:
            raise AuthorityError(f"an upstream authority has one certificate, not {len(certificates)}")
        if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
            raise AuthorityError("an upstream authority's key is an ECDSA or an RSA key")
        if isinstance(key, rsa.RSAPrivateKey) and key.key_size < _MIN_RSA_BITS:
            raise AuthorityError(f"an upstream authority's RSA key has {_MIN_RSA_BITS} bits at least")
        if key.public_key() != signed_for:
            raise AuthorityError("the upstream authority's key does not belong to its certificate")
        _require_room_below(extensions)
        return cls(certificate=certificates[0], _trust_domain=_trust_domain_of(extensions), _key=key)

    @property
    def not_after(self) -> datetime:
        """The last instant at which anything below this root is valid."""
        return self.certificate.not_valid_after_utc

    def sign_authority(
        self,
        builder: x509.CertificateBuilder,
        trust_domain: TrustDomain,
        *,
        now: datetime,
        not_before: datetime,
        not_after: datetime,
    ) -> x509.Certificate:
        """Sign an intermediate CA's certificate, which lacks issuer and dates; it ends with the root."""
        if self._trust_domain not in {None, trust_domain}:  # INVARIANT (own trust domain)
            raise AuthorityError(f"the upstream authority is that of `{self._trust_domain}`, not of `{trust_domain}`")
        if not self.certificate.not_valid_before_utc <= now < self.not_after:
            raise AuthorityError(f"the upstream authority is not valid now: it ends at {self.not_after.isoformat()}")
        return (
            builder.issuer_name(self.certificate.subject)
            .not_valid_before(max(not_before, self.certificate.not_valid_before_utc))
            .not_valid_after(min(not_after, self.not_after))
            .add_extension(self._key_identifier(), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def _key_identifier(self) -> x509.AuthorityKeyIdentifier:
        try:
            own = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        except x509.ExtensionNotFound:
            return x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own.value)


def _require_room_below(extensions: x509.Extensions) -> None:
    """Raise unless the certificate may sign that of another CA (X509-SVID 4.2, 4.3; RFC 5280 4.2.1.9)."""
    try:
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound as exc:
        raise AuthorityError("the upstream authority's certificate does not say what it may sign") from exc
    if not constraints.ca or not usage.key_cert_sign:
        raise AuthorityError("the upstream authority's certificate is not a CA's")
    if constraints.path_length == 0:
        raise AuthorityError("the upstream authority may have no CA below it: its path length is 0")


def _trust_domain_of(extensions: x509.Extensions) -> TrustDomain | None:
    """Give the trust domain that a root names; None if it names none, which it need not (X509-SVID 3.2)."""
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if not uris:
        return None
    if len(uris) > 1:
        raise AuthorityError(f"the upstream authority's certificate has one URI at most, not {len(uris)}")
    try:
        spiffe_id = SpiffeId.parse(uris[0])
    except SpiffeIdError as exc:
        raise AuthorityError(f"the upstream authority's certificate: {exc}") from exc
    if spiffe_id.path:
        raise AuthorityError(f"the upstream authority's SPIFFE ID {quoted(uris[0])} has a path")
    return spiffe_id.trust_domain
