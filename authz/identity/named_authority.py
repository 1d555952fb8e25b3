"""An authority that vouches for callers without SPIFFE IDs: the file that a ThirdParty's `certificates` names.

The file is PEM (RFC 7468): the certificates that sign callers' certificates themselves, and at most one list of revoked
ones (CRL) of each. A check is told of the leaf alone, so what stands between it and a root has to be in the file.
Decided here: what such a file says, and which of its certificates has signed a leaf. Which names a leaf has is decided
in `named_certificate`, whose they are by the policy.

# INVARIANT (whole or not): a file with anything that cannot be used is no authority; nothing is overlooked in it.

https://www.rfc-editor.org/rfc/rfc5280 (4.2, 5, 6.3)
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from authz.identity.certificate_blocks import CertificateBlockError, all_from_pem, certificate_of
from authz.identity.errors import IdentityError
from authz.identity.signing_certificate import SigningCertificateError, require_sound_signature
from authz.instant import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Iterable

#: A list of 10,000 revoked certificates has 500 KiB in PEM; all authorities of a sidecar share 2 MiB.
MAX_AUTHORITY_BYTES: Final = 1024 * 1024
#: An authority in the midst of a rotation has two or three, each perhaps with an intermediate.
MAX_SIGNERS: Final = 16

# RFC 7468 6, as strict as `certificate_blocks` is.
_CRL: Final = re.compile(
    rb"-----BEGIN X509 CRL-----\r?\n((?:[A-Za-z0-9+/=]{1,76}\r?\n)+)-----END X509 CRL-----(?:\r?\n)*"
)
_HASHES: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
#: The extensions of a signer whose meaning is applied here; names of its own, and policies, decide nothing.
_UNDERSTOOD: Final = (
    x509.BasicConstraints,
    x509.KeyUsage,
    x509.ExtendedKeyUsage,
    x509.SubjectAlternativeName,
    x509.CertificatePolicies,
)
_CALLERS: Final = {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND: Final = timedelta(seconds=1)
_Kind = TypeVar("_Kind", bound=x509.ExtensionType)


class NamedAuthorityError(IdentityError):
    """A file is no authority; the text says what of it cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """A certificate that signs callers' certificates, and which of them it has taken back.

    Times are nanoseconds since the epoch, both ends of the validity included. `revoked_until_ns` is the end of what its
    list says (nextUpdate), None where it has none: from then on nobody knows what is revoked.
    """

    certificate: x509.Certificate = field(repr=False)
    not_before_ns: int
    not_after_ns: int
    revoked: frozenset[int] = field(default=frozenset(), repr=False)
    revoked_until_ns: int | None = None

    def has_signed(self, leaf: x509.Certificate) -> bool:
        """Whether a leaf is issued by this very certificate: by its name, and by its key."""
        try:
            leaf.verify_directly_issued_by(self.certificate)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            return False
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedAuthority:
    """What a file says: the certificates that vouch for callers."""

    signers: tuple[Signer, ...]

    @property
    def certificates_pem(self) -> bytes:
        """The certificates alone, as a handshake needs them."""
        return b"".join(each.certificate.public_bytes(Encoding.PEM) for each in self.signers)

    def issuer_of(self, leaf: x509.Certificate) -> Signer | None:
        """Give the certificate that has signed a leaf, None where none has; costs a signature check for each."""
        return next((each for each in self.signers if each.has_signed(leaf)), None)


def named_authority(pem: bytes) -> NamedAuthority:
    """Read the file of an authority; raises NamedAuthorityError."""
    if len(pem) > MAX_AUTHORITY_BYTES:
        raise NamedAuthorityError(f"an authority has at most {MAX_AUTHORITY_BYTES} bytes, not {len(pem)}")
    try:
        certificates = [certificate_of(der) for der in all_from_pem(_CRL.sub(b"", pem), at_most=MAX_SIGNERS)]
    except CertificateBlockError as exc:
        raise NamedAuthorityError(str(exc)) from exc
    lists = [_list(lines) for lines in _CRL.findall(pem)]
    if len(lists) > len(certificates):
        raise NamedAuthorityError("there is more than one list of revoked certificates for a certificate")
    signers = tuple(_signer(certificate, lists) for certificate in certificates)
    if sum(each.revoked_until_ns is not None for each in signers) != len(lists):
        raise NamedAuthorityError("a list of revoked certificates is signed by none of the certificates beside it")
    return NamedAuthority(signers=signers)


def nanoseconds(instant: datetime) -> int:
    """Give an instant of a certificate in nanoseconds since the epoch."""
    return (instant - _EPOCH) // _SECOND * NS_PER_S


def require_known_extensions(extensions: x509.Extensions, understood: Iterable[type[x509.ExtensionType]]) -> None:
    """Raise NamedAuthorityError for what is critical and has no meaning here (RFC 5280 4.2)."""
    known = tuple(understood)
    for extension in extensions:
        if extension.critical and not isinstance(extension.value, known):
            raise NamedAuthorityError(f"the critical extension `{extension.oid.dotted_string}` is not known")


def extension_of(kind: type[_Kind], extensions: x509.Extensions) -> _Kind | None:
    """Give what an extension says, None where it is not there."""
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _signer(certificate: x509.Certificate, lists: list[x509.CertificateRevocationList]) -> Signer:
    try:
        require_sound_signature(certificate)
        _require_may_sign(certificate.extensions)
        own = _lists_of(certificate, lists)
        return Signer(
            certificate=certificate,
            not_before_ns=nanoseconds(certificate.not_valid_before_utc),
            not_after_ns=nanoseconds(certificate.not_valid_after_utc),
            revoked=frozenset(entry.serial_number for each in own for entry in each),
            revoked_until_ns=_end_of(own[0]) if own else None,
        )
    except SigningCertificateError as exc:
        raise NamedAuthorityError(str(exc)) from exc
    except NamedAuthorityError:
        raise
    # The library reads extensions and lists late: whatever it raises, the file cannot be relied on.
    except Exception as exc:
        raise NamedAuthorityError("a certificate or its list of revoked ones cannot be read") from exc


def _require_may_sign(extensions: x509.Extensions) -> None:
    if extension_of(x509.NameConstraints, extensions) is not None:
        raise NamedAuthorityError("a certificate has name constraints, which are not read here")
    require_known_extensions(extensions, _UNDERSTOOD)
    constraints = extension_of(x509.BasicConstraints, extensions)
    if constraints is None or not constraints.ca:
        raise NamedAuthorityError("a certificate is no CA's (cA is false); name the one that signs the callers'")
    usage = extension_of(x509.KeyUsage, extensions)
    if usage is None or not usage.key_cert_sign:
        raise NamedAuthorityError("the key usage of a certificate has no keyCertSign")
    extended = extension_of(x509.ExtendedKeyUsage, extensions)
    if extended is not None and not _CALLERS & set(extended):
        raise NamedAuthorityError("the extended key usage of a certificate lacks clientAuth")


def _list(lines: bytes) -> x509.CertificateRevocationList:
    try:
        revoked = x509.load_der_x509_crl(base64.b64decode(re.sub(rb"[\r\n]", b"", lines), validate=True))
        # RFC 5280 5.2: a list that is only a part of one (delta, one distribution point) says so in a critical one.
        require_known_extensions(revoked.extensions, ())
        _end_of(revoked)
    except NamedAuthorityError:
        raise
    except (ValueError, binascii.Error, x509.DuplicateExtension, UnsupportedAlgorithm) as exc:
        raise NamedAuthorityError("a list of revoked certificates cannot be read") from exc
    return revoked


def _end_of(revoked: x509.CertificateRevocationList) -> int:
    # RFC 5280 5.1.2.5: nextUpdate MUST be there.
    if revoked.next_update_utc is None:
        raise NamedAuthorityError("a list of revoked certificates does not say when the next one comes")
    return nanoseconds(revoked.next_update_utc)


def _lists_of(
    certificate: x509.Certificate, lists: list[x509.CertificateRevocationList]
) -> list[x509.CertificateRevocationList]:
    own = [each for each in lists if _is_list_of(each, certificate)]
    if len(own) > 1:
        raise NamedAuthorityError("a certificate has two lists of revoked certificates; keep the newer one")
    return own


def _is_list_of(revoked: x509.CertificateRevocationList, certificate: x509.Certificate) -> bool:
    if revoked.issuer != certificate.subject or not isinstance(revoked.signature_hash_algorithm, _HASHES):
        return False
    usage = extension_of(x509.KeyUsage, certificate.extensions)
    key = certificate.public_key()
    # RFC 5280 6.3.3 (f): cRLSign. A key that signs is RSA's or one of a curve: `require_sound_signature`.
    return usage is not None and usage.crl_sign and revoked.is_signature_valid(key)  # type: ignore[arg-type]
