"""What the certificate of a caller without SPIFFE ID says, and whether an authority vouches for it now.

Judged on every call from the leaf alone, as with X.509-SVIDs (`verification`): the handshake has proven that the caller
holds its key, and a connection may outlive the certificate, its revocation or its authority.

# INVARIANT (no SPIFFE ID): a certificate with a SPIFFE ID is never one of these. It is proven by the bundle of its
trust domain or not at all, whatever an authority beside it has signed.

https://www.rfc-editor.org/rfc/rfc5280 (4.1.2.5, 4.2.1, 6.1.3)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from authz.identity.certificate_blocks import CertificateBlockError, certificate_of, first_from_pem
from authz.identity.errors import IdentityError
from authz.identity.named_authority import (
    NamedAuthorityError,
    extension_of,
    nanoseconds,
    require_known_extensions,
)
from authz.identity.signing_certificate import SigningCertificateError, require_sound_signature
from authz.identity.x509_svid import MAX_CERTIFICATE_BYTES
from authz.instant import rfc3339_from_ns

if TYPE_CHECKING:
    from authz.identity.named_authority import Signer

#: A certificate with the longest names there are (RFC 1035: 255 octets) and so many of them has 16 KiB.
MAX_NAMES: Final = 64

_UNDERSTOOD: Final = (
    x509.BasicConstraints,
    x509.KeyUsage,
    x509.ExtendedKeyUsage,
    x509.SubjectAlternativeName,
    x509.CertificatePolicies,
)
_CALLERS: Final = {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
_SPIFFE: Final = "spiffe:"
_SERIAL_END: Final = 1 << 160


class NamedCertificateError(IdentityError):
    """A certificate proves nobody; the text names the rule that it breaks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedCertificate:
    """The leaf of a caller: its names and its validity, both ends included, in nanoseconds since the epoch.

    `names` are (kind, name): kind `dns`, in lower case, or `uri`, as it stands there. `serial` is lower-case
    hexadecimal without leading zeros.
    """

    certificate: x509.Certificate = field(repr=False)
    names: frozenset[tuple[str, str]]
    serial: str
    not_before_ns: int
    not_after_ns: int


def named_certificate(pem: bytes) -> NamedCertificate:
    """Read the leaf of a PEM chain, which stands first; raises NamedCertificateError."""
    if len(pem) > MAX_CERTIFICATE_BYTES:
        raise NamedCertificateError(f"a certificate has at most {MAX_CERTIFICATE_BYTES} bytes, not {len(pem)}")
    try:
        return _of(certificate_of(first_from_pem(pem)))
    except NamedCertificateError:
        raise
    except (CertificateBlockError, NamedAuthorityError, SigningCertificateError) as exc:
        raise NamedCertificateError(str(exc)) from exc
    # A foreign parser reads a peer's bytes: whatever it raises, the certificate cannot be relied on.
    except Exception as exc:
        raise NamedCertificateError("the certificate cannot be read") from exc


def require_vouched_for(leaf: NamedCertificate, signer: Signer, now_ns: int) -> int:
    """Give the last instant at which a leaf is proven by who has signed it; raises NamedCertificateError."""
    if not leaf.not_before_ns <= now_ns <= leaf.not_after_ns:
        begin, end = rfc3339_from_ns(leaf.not_before_ns), rfc3339_from_ns(leaf.not_after_ns)
        raise NamedCertificateError(f"the certificate is valid from {begin} to {end}")
    if not signer.not_before_ns <= now_ns <= signer.not_after_ns:
        raise NamedCertificateError("the certificate of its authority is not valid now")
    if leaf.certificate.serial_number in signer.revoked:
        raise NamedCertificateError(f"its authority has revoked the certificate with the serial number {leaf.serial}")
    ends_ns = min(leaf.not_after_ns, signer.not_after_ns)
    if signer.revoked_until_ns is not None:
        # RFC 5280 6.3.3: a list that is over says nothing of what has been revoked since.
        if now_ns > signer.revoked_until_ns:
            raise NamedCertificateError("the authority's list of revoked certificates is over")
        ends_ns = min(ends_ns, signer.revoked_until_ns)
    return ends_ns


def _of(certificate: x509.Certificate) -> NamedCertificate:
    extensions = certificate.extensions
    if not 0 < certificate.serial_number < _SERIAL_END:
        raise NamedCertificateError("the serial number has more than 20 octets")
    require_known_extensions(extensions, _UNDERSTOOD)
    require_sound_signature(certificate)
    constraints = extension_of(x509.BasicConstraints, extensions)
    if constraints is not None and constraints.ca:
        raise NamedCertificateError("the certificate is a CA's, and no caller presents one (cA is true)")
    usage = extension_of(x509.KeyUsage, extensions)
    if usage is not None and (not usage.digital_signature or usage.key_cert_sign or usage.crl_sign):
        raise NamedCertificateError("the key usage is not that of a caller: digitalSignature, and signing nothing else")
    extended = extension_of(x509.ExtendedKeyUsage, extensions)
    if extended is not None and not _CALLERS & set(extended):
        raise NamedCertificateError("the extended key usage lacks clientAuth")
    return NamedCertificate(
        certificate=certificate,
        names=_names(extensions),
        serial=format(certificate.serial_number, "x"),
        not_before_ns=nanoseconds(certificate.not_valid_before_utc),
        not_after_ns=nanoseconds(certificate.not_valid_after_utc),
    )


def _names(extensions: x509.Extensions) -> frozenset[tuple[str, str]]:
    names = extension_of(x509.SubjectAlternativeName, extensions)
    if names is None:
        raise NamedCertificateError("no subject alternative name")
    if len(names) > MAX_NAMES:
        raise NamedCertificateError(f"a certificate has at most {MAX_NAMES} names, not {len(names)}")
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    # INVARIANT (no SPIFFE ID)
    if any(uri[: len(_SPIFFE)].lower() == _SPIFFE for uri in uris):
        raise NamedCertificateError("the certificate has a SPIFFE ID, which only its trust domain's bundle proves")
    dns = names.get_values_for_type(x509.DNSName)
    return frozenset([("dns", name.lower()) for name in dns] + [("uri", uri) for uri in uris])
