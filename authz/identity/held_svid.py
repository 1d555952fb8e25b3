"""An X.509-SVID that a workload holds: its chain, the private key that belongs to it, and the trust it was judged by.

Decides whether chain and key are fit to be presented: the chain leads to the bundle that came with it, the key is the
leaf's. Whether the workload should have this identity is decided elsewhere.

# INVARIANT (silent): the private key is in no text that is made here: not in a repr, not in an error.

https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
)

from authz.identity.certificate_blocks import certificate_of
from authz.identity.errors import IdentityError
from authz.identity.x509_chain import verify_x509_svid

if TYPE_CHECKING:
    from datetime import datetime
    from typing import Self

    from authz.identity.spiffe_id import SpiffeId
    from authz.identity.trust import Trust
    from authz.identity.x509_svid import X509Svid

#: A key of RSA-8192 has 5 KiB in PEM.
MAX_KEY_BYTES: Final = 16 * 1024
_PEM_LINE: Final = 64


class HeldSvidError(IdentityError):
    """A private key cannot be read, or is not the certificate's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldSvid:
    """A verified chain (DER, leaf first) and its private key (PKCS#8 DER); made by :meth:`of` only."""

    svid: X509Svid
    chain: tuple[bytes, ...]
    key: bytes = field(repr=False)
    hint: str = ""

    @classmethod
    def of(cls, chain: tuple[bytes, ...], key: bytes, trust: Trust, now: datetime, *, hint: str = "") -> Self:
        """Verify a chain by the bundle of its trust domain, and its key (PKCS#8 in DER, or PEM).

        Raises X509SvidError for a chain that proves nothing at `now`, HeldSvidError for the key.
        """
        svid = verify_x509_svid(chain, trust, now)
        return cls(svid=svid, chain=chain, key=_key_of(chain[0], key), hint=hint)

    @property
    def spiffe_id(self) -> SpiffeId:
        """Whose it is."""
        return self.svid.spiffe_id

    @property
    def certificate_pem(self) -> bytes:
        """The chain in PEM, the leaf first."""
        return b"".join(_pem(b"CERTIFICATE", der) for der in self.chain)

    @property
    def key_pem(self) -> bytes:
        """The private key in PEM, PKCS#8: a secret."""
        return _pem(b"PRIVATE KEY", self.key)


def _key_of(leaf: bytes, encoded: bytes) -> bytes:
    """Give the leaf's private key as PKCS#8; what is wrong with another one is said without a byte of it."""
    if len(encoded) > MAX_KEY_BYTES:
        raise HeldSvidError(f"a private key has at most {MAX_KEY_BYTES} bytes, not {len(encoded)}")
    load = load_pem_private_key if encoded.startswith(b"-----BEGIN ") else load_der_private_key
    try:
        key = load(encoded, password=None)
    # A foreign parser reads foreign bytes, and its error might quote them: neither its text nor its cause is shown.
    except Exception:  # noqa: BLE001
        key = None
    if not isinstance(key, (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey)):
        raise HeldSvidError("the private key is no unencrypted RSA or EC key in PKCS#8")
    public = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if key.public_key().public_bytes(*public) != certificate_of(leaf).public_key().public_bytes(*public):
        raise HeldSvidError("the private key is not that of the certificate")
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def _pem(label: bytes, der: bytes) -> bytes:
    # RFC 7468 2: base64 in lines of 64 characters.
    text = base64.b64encode(der)
    lines = [text[at : at + _PEM_LINE] for at in range(0, len(text), _PEM_LINE)]
    return b"\n".join([b"-----BEGIN " + label + b"-----", *lines, b"-----END " + label + b"-----", b""])
