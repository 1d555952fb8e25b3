"""Whom a certificate without SPIFFE ID proves: a ThirdParty of the set in force, by a name in it and its authority.

# INVARIANT (nothing expires in the memo): what is remembered is what the bytes, the set and the authorities say; all
that depends on the clock is compared with it on every call.
# INVARIANT (one owner): a certificate whose names are those of several ThirdParties proves none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote_to_bytes

from authz.identity.named_certificate import (
    NamedCertificate,
    NamedCertificateError,
    named_certificate,
    require_vouched_for,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from authz.identity.named_authority import NamedAuthority, Signer
    from authz.policy.index import PolicyIndex

#: Callers that are connected at once; each entry is a certificate of 1 to 2 KiB.
_MOST_REMEMBERED: Final = 1024
_LONGEST_REMEMBERED_BYTES: Final = 8 * 1024


class CertificateCaller(NamedTuple):
    """A ThirdParty, the serial number that proved it, and the last instant at which that does."""

    third_party: str
    serial: str
    proof_ends_ns: int


class _Known(NamedTuple):
    leaf: NamedCertificate
    third_party: str
    #: by each file that vouches for it; any of them is enough
    signers: tuple[Signer, ...]


class CertificateCallers:
    """Finds whom certificates prove; may be called from several threads, as what a race can lose is only a memory."""

    __slots__ = ("_remembered",)

    def __init__(self) -> None:
        #: the set and the authorities that it was found out by, and what each certificate says; replaced as one
        self._remembered: tuple[object, object, dict[bytes, _Known | None]] = None, None, {}

    def caller(
        self, certificate: bytes, index: PolicyIndex, authorities: Mapping[str, NamedAuthority], now_ns: int
    ) -> CertificateCaller | None:
        """Give whom a leaf (PEM in URL encoding) proves now, None for nobody."""
        memo = self._memo(index, authorities)
        try:
            known = memo[certificate]
        except KeyError:
            known = _known(certificate, index, authorities)
            if len(memo) >= _MOST_REMEMBERED:
                memo.clear()
            if len(certificate) <= _LONGEST_REMEMBERED_BYTES:
                memo[certificate] = known
        if known is None:
            return None
        for signer in known.signers:
            try:
                ends_ns = require_vouched_for(known.leaf, signer, now_ns)
            except NamedCertificateError:
                continue
            return CertificateCaller(known.third_party, known.leaf.serial, ends_ns)
        return None

    def _memo(self, index: PolicyIndex, authorities: Mapping[str, NamedAuthority]) -> dict[bytes, _Known | None]:
        by_index, by_authorities, memo = self._remembered
        if index is not by_index or authorities is not by_authorities:
            memo = {}
            self._remembered = index, authorities, memo
        return memo


def _known(certificate: bytes, index: PolicyIndex, authorities: Mapping[str, NamedAuthority]) -> _Known | None:
    try:
        leaf = named_certificate(unquote_to_bytes(certificate))
    except NamedCertificateError:
        return None
    found: dict[str, list[Signer]] = {}
    for file, authority in authorities.items():
        owners = {index.certificate_owner(file, kind, name) for kind, name in leaf.names} - {None}
        # Signatures are looked at where names are known: those who are nobody cost none.
        signer = authority.issuer_of(leaf.certificate) if owners else None
        if signer is not None:
            for owner in owners:
                found.setdefault(str(owner), []).append(signer)
    # INVARIANT (one owner)
    if len(found) != 1:
        return None
    ((third_party, signers),) = found.items()
    return _Known(leaf, third_party, tuple(signers))
