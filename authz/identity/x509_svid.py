"""What an X.509 certificate says about the workload that presents it: is it an X.509-SVID, and whose.

Decides by the leaf alone, by the rules of X509-SVID for leaves. Not decided here: whether an authority that we trust
has signed it and whether the peer holds its key (the TLS handshake did both), whether it is valid now (verification),
whether its trust domain is ours (the policy). What cannot be read, in whole, is no SVID.

Which bytes of a PEM text are the leaf is decided by `certificate_blocks`.

https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from authz.identity.certificate_blocks import CertificateBlockError, certificate_of, first_from_pem
from authz.identity.errors import IdentityError
from authz.identity.spiffe_id import SpiffeId, SpiffeIdError
from authz.instant import NS_PER_S

#: A chain of an SVID and its intermediates. BoringSSL takes chains of up to 100 KiB in DER; an SVID with the longest
#: SPIFFE ID there is and an RSA-4096 key has less than 7 KiB in PEM.
MAX_CERTIFICATE_BYTES = 64 * 1024

#: The extensions whose meaning for a leaf is applied here; certificate policies have none where no policy is asked for.
_UNDERSTOOD = (
    x509.BasicConstraints,
    x509.KeyUsage,
    x509.ExtendedKeyUsage,
    x509.SubjectAlternativeName,
    x509.CertificatePolicies,
)
_BOTH_ENDS = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}

_SERIAL_END = 1 << 160
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_Kind = TypeVar("_Kind", bound=x509.ExtensionType)


class X509SvidError(IdentityError):
    """A certificate is no X.509-SVID; the text names the rule that it breaks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class X509Svid:
    """What the leaf of an X.509-SVID says: an identity, and the time it is valid, both ends included.

    Times are nanoseconds since the epoch. `serial` is lower-case hexadecimal without leading zeros.
    """

    spiffe_id: SpiffeId
    serial: str
    not_before_ns: int
    not_after_ns: int


def x509_svid_from_pem(pem: bytes) -> X509Svid:
    """Read the leaf of a chain of PEM certificates, which stands first; raises X509SvidError.

    Further certificates may follow (intermediates); what they say decides nothing.
    """
    if len(pem) > MAX_CERTIFICATE_BYTES:
        raise X509SvidError(f"a certificate has at most {MAX_CERTIFICATE_BYTES} bytes, not {len(pem)}")
    try:
        der = first_from_pem(pem)
    except CertificateBlockError as exc:
        raise X509SvidError(str(exc)) from exc
    return x509_svid_from_der(der)


def x509_svid_from_der(der: bytes) -> X509Svid:
    """Read a leaf; raises X509SvidError."""
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise X509SvidError(f"a certificate has at most {MAX_CERTIFICATE_BYTES} bytes, not {len(der)}")
    try:
        return _svid_of(certificate_of(der))
    except X509SvidError:
        raise
    except CertificateBlockError as exc:
        raise X509SvidError(str(exc)) from exc
    # A foreign parser reads a peer's bytes: whatever it raises, the certificate cannot be relied on.
    except Exception as exc:
        raise X509SvidError("the certificate cannot be read") from exc


def _svid_of(certificate: x509.Certificate) -> X509Svid:
    """Apply every rule for leaves; raises X509SvidError at the first that is broken."""
    extensions = certificate.extensions
    # RFC 5280 4.1.2.2: at most 20 octets (no longer one can be written in a revocation), and positive, as seen before.
    if not 0 < certificate.serial_number < _SERIAL_END:
        raise X509SvidError("the serial number has more than 20 octets")
    _require_known_critical_extensions(extensions)
    _require_no_authority(extensions)
    _require_key_usage(extensions)
    _require_extended_key_usage(extensions)
    return X509Svid(
        spiffe_id=_spiffe_id_of(extensions, subject_is_empty=not certificate.subject.rdns),
        serial=format(certificate.serial_number, "x"),
        not_before_ns=_ns(certificate.not_valid_before_utc),
        not_after_ns=_ns(certificate.not_valid_after_utc),
    )


def _require_known_critical_extensions(extensions: x509.Extensions) -> None:
    # RFC 5280 4.2: what is critical and not understood makes the certificate unusable.
    for extension in extensions:
        if extension.critical and not isinstance(extension.value, _UNDERSTOOD):
            oid = extension.oid.dotted_string
            raise X509SvidError(f"the critical extension `{oid}` has no meaning in an X.509-SVID")


def _require_no_authority(extensions: x509.Extensions) -> None:
    # X509-SVID 3.1, 4.1: a leaf has cA false, which is also what an absent extension says.
    constraints = _extension(x509.BasicConstraints, extensions)
    if constraints is not None and constraints.value.ca:
        raise X509SvidError("the certificate is a CA's, and no workload presents one (cA is true)")


def _require_key_usage(extensions: x509.Extensions) -> None:
    # X509-SVID 4.3: set on every SVID and critical; a leaf has digitalSignature and signs nothing else.
    key_usage = _extension(x509.KeyUsage, extensions)
    if key_usage is None:
        raise X509SvidError("the key usage is missing")
    if not key_usage.critical:
        raise X509SvidError("the key usage is not critical")
    if key_usage.value.key_cert_sign or key_usage.value.crl_sign:
        raise X509SvidError("the key usage of a leaf has keyCertSign or cRLSign")
    if not key_usage.value.digital_signature:
        raise X509SvidError("the key usage has no digitalSignature")


def _require_extended_key_usage(extensions: x509.Extensions) -> None:
    # X509-SVID 4.4: optional; if it is there, the leaf serves both ends of a connection.
    usages = _extension(x509.ExtendedKeyUsage, extensions)
    if usages is not None and not set(usages.value) >= _BOTH_ENDS:
        raise X509SvidError("the extended key usage lacks serverAuth or clientAuth")


def _spiffe_id_of(extensions: x509.Extensions, *, subject_is_empty: bool) -> SpiffeId:
    names = _extension(x509.SubjectAlternativeName, extensions)
    if names is None:
        raise X509SvidError("no subject alternative name")
    # RFC 5280 4.2.1.6: it is all the identity there is, so nobody may overlook it.
    if subject_is_empty and not names.critical:
        raise X509SvidError("the subject is empty and the subject alternative name is not critical")
    # X509-SVID 2, 5.2: exactly one URI SAN, whatever its scheme; other types of names may be there.
    uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise X509SvidError(f"an X.509-SVID has exactly one URI SAN, this certificate has {len(uris)}")
    try:
        spiffe_id = SpiffeId.parse(uris[0])
    except SpiffeIdError as exc:
        raise X509SvidError(f"the URI SAN is no SPIFFE ID: {exc}") from exc
    # X509-SVID 3.1, 5.2: the ID without a path is the trust domain's, and belongs to signing certificates.
    if not spiffe_id.path:
        raise X509SvidError(f"the SPIFFE ID `{spiffe_id}` has no path")
    return spiffe_id


def _extension(kind: type[_Kind], extensions: x509.Extensions) -> x509.Extension[_Kind] | None:
    try:
        return extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None


def _ns(instant: datetime) -> int:
    return (instant - _EPOCH) // _SECOND * NS_PER_S
