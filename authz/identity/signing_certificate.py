"""Which certificates may sign X.509-SVIDs: the rules for signing certificates, and for every signature on a path.

Decides by one certificate and the trust domain that it signs for. Whether it has signed something, and how deep below
it a path may go, `x509_chain` decides.

Beyond the standards: signatures are RSA or ECDSA with SHA-256, SHA-384 or SHA-512; name constraints make a signer
unusable, since a constraint that is overlooked is none; an extended key usage of a signer must allow both ends of a
connection, as the verifiers of Go and BoringSSL ask, too; and the SPIFFE ID of a signer, where it has one, is that of
the trust domain it signs for, so that a partner's authority that ours has certified does not speak for us.

https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md
"""

from __future__ import annotations

from typing import Final, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, SignatureAlgorithmOID

from authz.identity.errors import IdentityError, quoted
from authz.identity.public_key import PublicKeyError, usable_key
from authz.identity.spiffe_id import SpiffeId, SpiffeIdError, TrustDomain

_Kind = TypeVar("_Kind", bound=x509.ExtensionType)

# RFC 8017, RFC 5758 3.2; SHA-1 and MD5 are broken.
_ALGORITHMS: Final = frozenset(
    {
        SignatureAlgorithmOID.RSA_WITH_SHA256,
        SignatureAlgorithmOID.RSA_WITH_SHA384,
        SignatureAlgorithmOID.RSA_WITH_SHA512,
        SignatureAlgorithmOID.RSASSA_PSS,
        SignatureAlgorithmOID.ECDSA_WITH_SHA256,
        SignatureAlgorithmOID.ECDSA_WITH_SHA384,
        SignatureAlgorithmOID.ECDSA_WITH_SHA512,
    }
)
_HASHES: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
#: The extensions whose meaning for a signer is applied here; policies have none where no policy is asked for.
_UNDERSTOOD: Final = (
    x509.BasicConstraints,
    x509.KeyUsage,
    x509.ExtendedKeyUsage,
    x509.SubjectAlternativeName,
    x509.CertificatePolicies,
)
_BOTH_ENDS: Final = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
_SPIFFE: Final = "spiffe:"


class SigningCertificateError(IdentityError):
    """A certificate cannot sign for a trust domain, or is signed in a way that proves nothing."""


def require_sound_signature(certificate: x509.Certificate) -> None:
    """Raise SigningCertificateError unless key and signature algorithm of a certificate prove something."""
    try:
        sound = (
            certificate.signature_algorithm_oid in _ALGORITHMS
            and isinstance(certificate.signature_hash_algorithm, _HASHES)  # RSASSA-PSS says it in its parameters
        )
        key = certificate.public_key()
    # A foreign parser reads foreign bytes: whatever it raises, the certificate cannot be relied on.
    except Exception as exc:
        raise SigningCertificateError("the certificate's key or signature algorithm cannot be read") from exc
    if not sound:
        raise SigningCertificateError(
            "the signature algorithm is neither RSA nor ECDSA with SHA-256, SHA-384 or SHA-512"
        )
    try:
        usable_key(key)
    except PublicKeyError as exc:
        raise SigningCertificateError(str(exc)) from exc


def require_signing_certificate(certificate: x509.Certificate, trust_domain: TrustDomain) -> int | None:
    """Give the path length constraint of a signer for this trust domain; raises SigningCertificateError."""
    require_sound_signature(certificate)
    try:
        return _path_length_of(certificate.extensions, trust_domain)
    except SigningCertificateError:
        raise
    # The library reads extensions late: whatever it raises, the certificate cannot be relied on.
    except Exception as exc:
        raise SigningCertificateError("the extensions of the signing certificate cannot be read") from exc


def _path_length_of(extensions: x509.Extensions, trust_domain: TrustDomain) -> int | None:
    if _extension(x509.NameConstraints, extensions) is not None:
        raise SigningCertificateError("the signing certificate has name constraints, which are not read here")
    # RFC 5280 4.2: what is critical and not understood makes the certificate unusable.
    for extension in extensions:
        if extension.critical and not isinstance(extension.value, _UNDERSTOOD):
            oid = extension.oid.dotted_string
            raise SigningCertificateError(f"the critical extension `{oid}` of the signing certificate is not known")
    # X509-SVID 4.1, RFC 5280 6.1.4 (k): cA is true.
    constraints = _extension(x509.BasicConstraints, extensions)
    if constraints is None or not constraints.value.ca:
        raise SigningCertificateError("the signing certificate is no CA's (cA is false)")
    # X509-SVID 3.2, 4.3: keyCertSign.
    usage = _extension(x509.KeyUsage, extensions)
    if usage is None or not usage.value.key_cert_sign:
        raise SigningCertificateError("the key usage of the signing certificate has no keyCertSign")
    extended = _extension(x509.ExtendedKeyUsage, extensions)
    if extended is not None:
        usages = set(extended.value)
        if not usages >= _BOTH_ENDS and ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE not in usages:
            raise SigningCertificateError(
                "the extended key usage of the signing certificate lacks serverAuth or clientAuth"
            )
    if _has_spiffe_id(extensions, trust_domain) and not usage.critical:
        # X509-SVID 4.3: critical on all SVIDs; a signer without a SPIFFE ID is none.
        raise SigningCertificateError("the key usage of the signing certificate is not critical")
    return constraints.value.path_length


def _has_spiffe_id(extensions: x509.Extensions, trust_domain: TrustDomain) -> bool:
    """Whether a signer is an SVID itself (it SHOULD be); raises SigningCertificateError if it is one it must not be."""
    names = _extension(x509.SubjectAlternativeName, extensions)
    if names is None:
        return False
    uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    if not any(uri[: len(_SPIFFE)].lower() == _SPIFFE for uri in uris):
        return False
    # X509-SVID 2: exactly one URI SAN.
    if len(uris) != 1:
        raise SigningCertificateError(f"the signing certificate has {len(uris)} URI SANs, and one of them a SPIFFE ID")
    try:
        # Trust Domain and Bundle, appendix A, writes the ID of an authority with the slash of the root path.
        spiffe_id = SpiffeId.parse(uris[0].removesuffix("/"))
    except SpiffeIdError as exc:
        raise SigningCertificateError(f"the URI SAN of the signing certificate is no SPIFFE ID: {exc}") from exc
    # X509-SVID 3.2: the SPIFFE ID of a signing certificate MUST NOT have a path.
    if spiffe_id.path:
        raise SigningCertificateError(f"the SPIFFE ID {quoted(uris[0])} of the signing certificate has a path")
    if spiffe_id.trust_domain != trust_domain:
        raise SigningCertificateError(
            f"the signing certificate is one of `{spiffe_id.trust_domain}`, and does not speak for `{trust_domain}`"
        )
    return True


def _extension(kind: type[_Kind], extensions: x509.Extensions) -> x509.Extension[_Kind] | None:
    try:
        return extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None
