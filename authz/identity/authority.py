"""A local authority: issues X.509-SVIDs and JWT-SVIDs for workloads of one trust domain, and certificates for hosts.

Decides what stands in a certificate or token, never who may have it. It is its own root, or an intermediate CA below a
root that somebody else keeps (`upstream_authority`). When it is to be replaced is decided in `authority_rotation`.

# INVARIANT (own trust domain): no SVID of another trust domain is ever issued.
# INVARIANT (nested validity): no certificate begins before or ends after its authority's own.

https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from authz.identity.errors import AuthorityError, quoted
from authz.identity.jwt_authority import JwtAuthority
from authz.identity.spiffe_id import SpiffeId, SpiffeIdError, TrustDomain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from authz.identity.jwt_authority import IssuedJwtSvid
    from authz.identity.upstream_authority import UpstreamAuthority

__all__ = ["Authority", "AuthorityError", "IssuedSvid"]

#: Two certificates and two P-256 keys take 2.5 KiB; a root may have an RSA-4096 key.
MAX_AUTHORITY_BYTES = 64 * 1024
#: An authority that outlives its operators is one that nobody remembers to replace.
MAX_AUTHORITY_LIFETIME = timedelta(days=3650)
#: X.509 counts in seconds: anything shorter may be over before it begins.
MIN_LIFETIME = timedelta(seconds=1)
#: Peers' clocks lag; a certificate is already valid for those that are this much behind.
BACKDATED = timedelta(minutes=1)
#: As many names as one TLS host of a mesh ever has, and more.
MAX_DNS_NAMES = 256

# RFC 1035 2.3.4: a name has at most 253 characters; RFC 6125 6.4.3: the wildcard is the whole first label.
_MAX_DNS_NAME_CHARACTERS = 253
_DNS_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_DNS_NAME = re.compile(rf"(\*\.)?{_DNS_LABEL}(\.{_DNS_LABEL})*")

_END_OF_KEY = b"-----END PRIVATE KEY-----"

# Everything that `cryptography` raises for a key or a certificate that it cannot read.
_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    InvalidSignature,
    x509.InvalidVersion,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    SpiffeIdError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedSvid:
    """A fresh certificate with its private key, both PEM (the key PKCS#8); `not_after` is the certificate's own end.

    Behind the certificate, which stands first, follows that of its authority where that is no root (X509-SVID 5.1).
    """

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)
    not_after: datetime


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Authority:
    """A certificate that stands for a trust domain and the key that signs with it, and another key that signs tokens.

    `jwt` is None for an authority that was kept before there were JWT-SVIDs: it issues none.
    """

    trust_domain: TrustDomain
    jwt: JwtAuthority | None
    _certificate: x509.Certificate = field(repr=False)
    _root: x509.Certificate = field(repr=False)
    _key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def generate(
        cls, trust_domain: TrustDomain, now: datetime, lifetime: timedelta, *, upstream: UpstreamAuthority | None = None
    ) -> Authority:
        """Make a new authority with new keys, valid from one minute before `now`.

        Below an `upstream` it is an intermediate CA, and ends with its root if that is sooner than `lifetime`.
        """
        if not MIN_LIFETIME <= lifetime <= MAX_AUTHORITY_LIFETIME:
            raise AuthorityError("an authority lives for one second at least and ten years at most")
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _signing_certificate(trust_domain, key, now, lifetime, upstream)
        return cls(
            trust_domain=trust_domain,
            jwt=JwtAuthority.generate(trust_domain, certificate.not_valid_after_utc),
            _certificate=certificate,
            _root=certificate if upstream is None else upstream.certificate,
            _key=key,
        )

    @classmethod
    def from_pem(cls, pem: bytes) -> Authority:
        """Read what :meth:`to_pem` wrote; raises AuthorityError for anything else."""
        if len(pem) > MAX_AUTHORITY_BYTES:
            raise AuthorityError(f"an authority has at most {MAX_AUTHORITY_BYTES} bytes, not {len(pem)}")
        try:
            key = load_pem_private_key(pem, password=None)
            _, _, behind = pem.partition(_END_OF_KEY)
            jwt_key = load_pem_private_key(behind, password=None) if behind.strip() else None
            first, *more = x509.load_pem_x509_certificates(pem)
            trust_domain = _trust_domain_of(first)
            signed_for = first.public_key()
            root = more[0] if more and first.issuer != first.subject else first
            root.verify_directly_issued_by(root)
            first.verify_directly_issued_by(root)
        except _UNREADABLE as exc:
            raise AuthorityError("not an authority: a CA certificate, its root and an unencrypted key, in PEM") from exc
        if more[1:] or (more and root is first):
            raise AuthorityError(f"an authority has one certificate, not {1 + len(more)}; an intermediate one has two")
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise AuthorityError("an authority's key is an ECDSA key on P-256")
        if key.public_key() != signed_for:
            raise AuthorityError("the authority's key does not belong to its certificate")
        return cls(
            trust_domain=trust_domain,
            jwt=None if jwt_key is None else JwtAuthority.from_key(trust_domain, first.not_valid_after_utc, jwt_key),
            _certificate=first,
            _root=root,
            _key=key,
        )

    @property
    def certificate_pem(self) -> bytes:
        """The root, in the trust domain's bundle: what a peer needs to verify the certificates that are issued here."""
        return self._root.public_bytes(Encoding.PEM)

    @property
    def root(self) -> x509.Certificate:
        """The root as a certificate: its own, or that of the authority above it."""
        return self._root

    @property
    def is_its_own_root(self) -> bool:
        """Whether no other authority is above it."""
        return self._certificate is self._root

    @property
    def not_before(self) -> datetime:
        """The first instant at which anything issued here is valid."""
        return self._certificate.not_valid_before_utc

    @property
    def not_after(self) -> datetime:
        """The last instant at which anything issued here is valid."""
        return self._certificate.not_valid_after_utc

    def to_pem(self) -> bytes:
        """Give certificates and private keys, for keeping: a secret, to be written where nobody else can read."""
        own = b"" if self._certificate is self._root else self._certificate.public_bytes(Encoding.PEM)
        return own + self.certificate_pem + _key_pem(self._key) + (b"" if self.jwt is None else self.jwt.key_pem())

    def issue_jwt_svid(
        self, spiffe_id: SpiffeId, audience: Sequence[str], now: datetime, lifetime: timedelta
    ) -> IssuedJwtSvid:
        """Issue a JWT-SVID (ES256); it ends with the authority if that is sooner than `lifetime`."""
        if self.jwt is None:
            raise AuthorityError(f"the authority of `{self.trust_domain}` was kept without a key for JWT-SVIDs")
        return self.jwt.issue_jwt_svid(spiffe_id, audience, now, lifetime)

    def issue_x509_svid(self, spiffe_id: SpiffeId, now: datetime, lifetime: timedelta) -> IssuedSvid:
        """Issue an X.509-SVID with a new key; it ends with the authority if that is sooner than `lifetime`."""
        # INVARIANT (own trust domain)
        if spiffe_id.trust_domain != self.trust_domain:
            raise AuthorityError(f"the authority of `{self.trust_domain}` does not issue {quoted(str(spiffe_id))}")
        if not spiffe_id.path:  # X509-SVID 5.2: a leaf's ID has a path
            raise AuthorityError(f"{quoted(str(spiffe_id))} has no path, so no workload can have it")
        both_sides = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        return self._issue(_spiffe_name(spiffe_id), both_sides, now=now, lifetime=lifetime)

    def issue_server_certificate(self, dns_names: Sequence[str], now: datetime, lifetime: timedelta) -> IssuedSvid:
        """Issue a TLS server's certificate for lower-case DNS names (`*.` first stands for one label): no SVID."""
        if not 1 <= len(dns_names) <= MAX_DNS_NAMES:
            raise AuthorityError(f"a server certificate has 1 to {MAX_DNS_NAMES} names, not {len(dns_names)}")
        for name in dns_names:
            if len(name) > _MAX_DNS_NAME_CHARACTERS or not _DNS_NAME.fullmatch(name):
                raise AuthorityError(f"{quoted(name)} is no lower-case DNS name")
        names = x509.SubjectAlternativeName([x509.DNSName(name) for name in dns_names])
        server_only = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        return self._issue(names, server_only, now=now, lifetime=lifetime)

    def issue_client_certificate(
        self, name: x509.DNSName | x509.UniformResourceIdentifier, now: datetime, lifetime: timedelta
    ) -> IssuedSvid:
        """Issue a TLS client's certificate for one name: no SVID."""
        client_only = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        return self._issue(x509.SubjectAlternativeName([name]), client_only, now=now, lifetime=lifetime)

    def _issue(
        self,
        names: x509.SubjectAlternativeName,
        extended_key_usage: x509.ExtendedKeyUsage,
        *,
        now: datetime,
        lifetime: timedelta,
    ) -> IssuedSvid:
        if lifetime < MIN_LIFETIME:
            raise AuthorityError("a certificate lives for one second at least")
        # INVARIANT (nested validity); the difference is taken first, so that no sum runs past the last year.
        remaining = self.not_after - now
        if remaining < MIN_LIFETIME:
            raise AuthorityError(
                f"the authority of `{self.trust_domain}` is over: it was valid until {self.not_after.isoformat()}"
            )
        not_before = max(_whole_second(now - BACKDATED), self._certificate.not_valid_before_utc)
        not_after = _whole_second(now + min(lifetime, remaining))
        if not_after <= not_before:
            raise AuthorityError(f"the authority of `{self.trust_domain}` is not valid yet: look at the clock")
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            x509.CertificateBuilder(
                issuer_name=self._certificate.subject,
                # No subject: the SAN alone names the holder, and is critical therefore (RFC 5280 4.2.1.6).
                subject_name=x509.Name([]),
                public_key=key.public_key(),
            )
            .serial_number(x509.random_serial_number())
            .not_valid_before(not_before)
            .not_valid_after(not_after)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(signs_certificates=False), critical=True)
            .add_extension(extended_key_usage, critical=False)
            .add_extension(names, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(self._key_identifier(), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        above = b"" if self._certificate is self._root else self._certificate.public_bytes(Encoding.PEM)
        return IssuedSvid(
            certificate_pem=certificate.public_bytes(Encoding.PEM) + above, key_pem=_key_pem(key), not_after=not_after
        )

    def _key_identifier(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())


def _signing_certificate(
    trust_domain: TrustDomain,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
    lifetime: timedelta,
    upstream: UpstreamAuthority | None,
) -> x509.Certificate:
    key_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    # Two authorities never share a subject, so no path builder has to guess which one signed.
    name = _name(f"picoseg authority {key_id.digest.hex()[:16]}")
    builder = (
        x509.CertificateBuilder(subject_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
        # X509-SVID 3.2: the ID of a signing certificate is the trust domain's own, without a path.
        .add_extension(_spiffe_name(SpiffeId(trust_domain=trust_domain, path="")), critical=False)
        .add_extension(key_id, critical=False)
    )
    not_before, not_after = _whole_second(now - BACKDATED), _whole_second(now + lifetime)
    if upstream is not None:
        return upstream.sign_authority(builder, trust_domain, now=now, not_before=not_before, not_after=not_after)
    builder = builder.issuer_name(name).not_valid_before(not_before).not_valid_after(not_after)
    return builder.sign(key, hashes.SHA256())


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _spiffe_name(spiffe_id: SpiffeId) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(spiffe_id))])


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """Give the key usage of a signing certificate (X509-SVID 4.3), or that of a leaf."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _whole_second(instant: datetime) -> datetime:
    """Drop the fraction of a second, which X.509 cannot say."""
    return instant.replace(microsecond=0)


def _trust_domain_of(certificate: x509.Certificate) -> TrustDomain:
    """Give the trust domain that a signing certificate stands for; raises AuthorityError if it is none."""
    extensions = certificate.extensions
    constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    if not constraints.ca or not usage.key_cert_sign:
        raise AuthorityError("the authority's certificate is not a CA's")
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise AuthorityError(f"the authority's certificate has one SPIFFE ID, not {len(uris)}")
    spiffe_id = SpiffeId.parse(uris[0])
    if spiffe_id.path:
        raise AuthorityError(f"the authority's SPIFFE ID {quoted(uris[0])} has a path")
    return spiffe_id.trust_domain
