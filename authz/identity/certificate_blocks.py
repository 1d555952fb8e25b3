"""Certificates one after the other, in PEM or in DER: which bytes are which certificate.

Decides where each begins and ends, by one strict reading; what stands in them is decided elsewhere.

# INVARIANT (one reader): the library gets the DER of one certificate at a time, so two readers can never pick two
different certificates out of one text.

https://www.rfc-editor.org/rfc/rfc7468 3
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from cryptography import x509

from authz.identity.errors import IdentityError

# RFC 7468 3, strict: no text between the lines, none before or after the blocks.
_BLOCK: Final = rb"-----BEGIN CERTIFICATE-----\r?\n((?:[A-Za-z0-9+/=]{1,76}\r?\n)+)-----END CERTIFICATE-----(?:\r?\n)*"
_ONE_BLOCK: Final = re.compile(_BLOCK)
_BLOCKS: Final = re.compile(rb"(?:" + _BLOCK + rb")+")
_PRIVATE_KEY: Final = b"PRIVATE KEY-----"

# X.690: the headers of Certificate and tbsCertificate, a version where there is one, and of the serial number its
# length and first octet. In DER a number is negative by its first bit, and zero is one octet.
_LENGTH: Final = rb"(?:[\x00-\x7f]|\x81.|\x82..|\x83...)"
_NOT_POSITIVE: Final = re.compile(
    rb"\x30" + _LENGTH + rb"\x30" + _LENGTH + rb"(?:\xa0\x03\x02\x01.)?\x02(?:" + _LENGTH + rb"[\x80-\xff]|\x01\x00)",
    re.DOTALL,
)
_SEQUENCE: Final = 0x30
_LONG_FORM: Final = 0x80
#: A length of three octets says 16 MiB: more than any limit here.
_MAX_LENGTH_OCTETS: Final = 3


class CertificateBlockError(IdentityError):
    """Bytes are not certificates in the form that they are said to have."""


def first_from_pem(pem: bytes) -> bytes:
    """Give the DER of the first certificate of a PEM text that holds nothing but certificates."""
    first = _ONE_BLOCK.match(pem)
    if first is None or not _BLOCKS.fullmatch(pem):
        if _PRIVATE_KEY in pem:
            raise CertificateBlockError("a private key stands where only certificates belong")
        raise CertificateBlockError("not a PEM certificate" if pem else "no certificate")
    return _decoded(first[1])


def all_from_pem(pem: bytes, *, at_most: int) -> tuple[bytes, ...]:
    """Give the DER of every certificate of a PEM text that holds nothing else, in order."""
    first_from_pem(pem)
    blocks = _ONE_BLOCK.findall(pem)
    if len(blocks) > at_most:
        raise CertificateBlockError(f"there are {len(blocks)} certificates, and at most {at_most} are read")
    return tuple(map(_decoded, blocks))


def all_from_der(content: bytes, *, at_most: int) -> tuple[bytes, ...]:
    """Cut what is concatenated DER (SPIFFE Workload API 5.2.1), with no padding, into its certificates."""
    found: list[bytes] = []
    at = 0
    while at < len(content):
        if len(found) == at_most:
            raise CertificateBlockError(f"there are more than {at_most} certificates")
        end = _end_of_sequence(content, at)
        found.append(content[at:end])
        at = end
    return tuple(found)


def certificate_of(der: bytes) -> x509.Certificate:
    """Read one certificate; raises CertificateBlockError for what is none.

    Its key and its extensions are read by who asks for them, and may raise then.
    """
    # RFC 5280 4.1.2.2. The library reads such a one with a warning on standard error, which is for us, not for peers.
    if _NOT_POSITIVE.match(der):
        raise CertificateBlockError("the serial number is not positive")
    try:
        certificate = x509.load_der_x509_certificate(der)
        # The library reads these when they are first asked for, which is too late to refuse them.
        _ = (certificate.subject, certificate.issuer, certificate.version)
        _ = (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
    # A foreign parser reads foreign bytes: whatever it raises, the certificate cannot be relied on.
    except Exception as exc:
        raise CertificateBlockError("the certificate cannot be read") from exc
    return certificate


def _decoded(lines: bytes) -> bytes:
    try:
        return base64.b64decode(re.sub(rb"[\r\n]", b"", lines), validate=True)
    except binascii.Error as exc:
        raise CertificateBlockError("the certificate is not encoded in base64") from exc


def _end_of_sequence(content: bytes, at: int) -> int:
    """Give where the SEQUENCE that begins at `at` ends (X.690 8.1.3, 10.1: definite, as short as can be)."""
    header = content[at : at + 2 + _MAX_LENGTH_OCTETS]
    if len(header) < 2 or header[0] != _SEQUENCE:  # noqa: PLR2004 a tag and a length
        raise CertificateBlockError("not a certificate in DER")
    length, begins = header[1], 2
    if length >= _LONG_FORM:
        octets = length - _LONG_FORM
        length, begins = int.from_bytes(header[2 : 2 + octets], "big"), 2 + octets
        shortest = (length.bit_length() + 7) // 8
        if not 1 <= octets <= _MAX_LENGTH_OCTETS or length < _LONG_FORM or shortest != octets:
            raise CertificateBlockError("not a certificate in DER")
    end = at + begins + length
    if end > len(content):
        raise CertificateBlockError("a certificate in DER is cut short")
    return end
