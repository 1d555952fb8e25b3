"""Whether the certificate that a peer presented identifies it now, and as whom.

The proxy has verified the chain and the possession of the key when the connection began; this judges what the leaf
says, on every call, since a connection may outlive the certificate that opened it. Which trust domains are ours, and
what an identity may do, is the policy's business.

# INVARIANT (nothing expires in the memo): what is remembered is what the bytes say; the validity is compared with
# the clock on every call.

https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from authz.identity.errors import IdentityError
from authz.identity.x509_svid import X509SvidError, x509_svid_from_pem
from authz.instant import rfc3339_from_ns

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz.identity.spiffe_id import SpiffeId

#: SVIDs have 1 to 2 KiB; a longer leaf is judged each time, so that what is remembered stays within 16 MiB.
LONGEST_REMEMBERED_BYTES = 8 * 1024


class Unidentified(IdentityError):  # noqa: N818 the name of the contract's reason `unidentified`
    """The peer has no identity: it presented no certificate, no X.509-SVID, or one that is not valid now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedIdentity:
    """Who the peer is, proven by an X.509-SVID; the times are the ends of its validity, both included.

    Times are nanoseconds since the epoch. `serial` is lower-case hexadecimal without leading zeros. `text` is the
    SPIFFE ID as text, which every call needs.
    """

    spiffe_id: SpiffeId
    serial: str
    not_before_ns: int
    not_after_ns: int
    text: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", str(self.spiffe_id))


class PeerVerification:
    """Turns the certificate of a peer into its identity, and reads each certificate once.

    Certificates are remembered by the bytes that they came as, the good and the broken, up to about `max_entries` of
    them; those not seen for long are forgotten first. May be called from several threads at once without a lock: every
    step is one atomic operation on a dict or a reference, and what a race can lose is only a memory, never an answer.
    `decode` makes PEM of what came, where that is something else.
    """

    __slots__ = ("_decode", "_generation_size", "_older", "_younger")

    def __init__(self, max_entries: int = 2048, decode: Callable[[bytes], bytes] = bytes) -> None:
        if max_entries < 2:  # noqa: PLR2004 two generations
            raise ValueError("the memo holds two entries at least")
        self._decode = decode
        self._generation_size = max_entries // 2
        self._younger: dict[bytes, VerifiedIdentity | str] = {}
        self._older: dict[bytes, VerifiedIdentity | str] = {}

    def verify(self, certificate: bytes, now_ns: int) -> VerifiedIdentity:
        """Give the identity of the peer that presented this leaf; raises Unidentified.

        Costs a look-up or two where the certificate was seen before.
        """
        # 1. What the certificate says, once for the same bytes.
        found = self._younger.get(certificate)
        if found is None:
            found = self._older.get(certificate) or _judgement(self._decode(certificate))
            if len(certificate) <= LONGEST_REMEMBERED_BYTES:
                self._remember(certificate, found)
        if isinstance(found, str):
            raise Unidentified(found)
        # 2. INVARIANT (nothing expires in the memo). RFC 5280 4.1.2.5: both ends belong to the validity.
        if now_ns < found.not_before_ns:
            raise Unidentified(f"the certificate is not valid before {rfc3339_from_ns(found.not_before_ns)}")
        if now_ns > found.not_after_ns:
            raise Unidentified(f"the certificate has expired at {rfc3339_from_ns(found.not_after_ns)}")
        return found

    def _remember(self, certificate: bytes, found: VerifiedIdentity | str) -> None:
        younger = self._younger
        if len(younger) >= self._generation_size:
            self._older, self._younger = younger, {certificate: found}
        else:
            younger[certificate] = found


def _judgement(certificate_pem: bytes) -> VerifiedIdentity | str:
    """Give who the certificate stands for, or the rule it breaks: a text, for an exception would keep its frames."""
    try:
        svid = x509_svid_from_pem(certificate_pem)
    except X509SvidError as exc:
        return str(exc)
    return VerifiedIdentity(
        spiffe_id=svid.spiffe_id,
        serial=svid.serial,
        not_before_ns=svid.not_before_ns,
        not_after_ns=svid.not_after_ns,
    )
